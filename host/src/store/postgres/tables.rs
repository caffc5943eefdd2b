//! A projection's tables, indexes and readers' views, from its contract.

use projector_model::contract::{Column, Table};
use projector_model::descriptor::IndexKind;
use projector_model::{Contract, Type};

use crate::store::names::{DELETED, LINEAGE, quote};

/// The statements that create everything, in order. `schema` is the generation's own, `readers`
/// the one that readers know.
pub(super) fn create(contract: &Contract, schema: &str, readers: &str) -> Vec<String> {
    let mut statements =
        vec![format!("create schema {}", quote(schema)), format!("create schema {}", quote(readers))];
    for (number, table) in contract.tables.iter().enumerate() {
        // No table of the projection's has such a name: theirs have no double underscore.
        let own =
            |what: &str| quote(&format!("{}__{number}_{what}", &table.name[..table.name.len().min(45)]));
        statements.push(create_table(table, schema, &own("key")));
        statements.extend(table.indexes.iter().enumerate().map(|(at, index)| {
            let columns: Vec<_> = table.column_names(&index.columns).map(quote).collect();
            let (method, class) = match index.kind {
                IndexKind::Ordered => ("btree", ""),
                IndexKind::Contains => ("gin", " jsonb_path_ops"),
            };
            let on = qualified(schema, &table.name);
            let name = own(&(at + 1).to_string());
            format!("create index {name} on {on} using {method} ({}{class})", columns.join(", "))
        }));
        statements.push(create_view(table, schema, readers));
    }
    statements
}

fn create_table(table: &Table, schema: &str, primary_key: &str) -> String {
    let mut parts: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            // A tombstone has only its key and version.
            let may_be_null = column.nullable || (table.has_tombstones && !table.is_key_column(at));
            format!(
                "{} {}{}",
                quote(&column.name),
                sql_type(column),
                if may_be_null { "" } else { " not null" }
            )
        })
        .collect();
    if table.has_tombstones {
        parts.push(format!("{DELETED} boolean not null default false"));
        let not_null: Vec<_> = (0..table.columns.len())
            .filter(|at| !table.columns[*at].nullable && !table.is_key_column(*at))
            .map(|at| format!("{} is not null", quote(&table.columns[at].name)))
            .collect();
        if !not_null.is_empty() {
            parts.push(format!("check ({DELETED} or ({}))", not_null.join(" and ")));
        }
    }
    if table.has_lineage {
        let typed = LINEAGE.iter().zip(["text", "integer", "bigint", "text"]);
        parts.extend(typed.map(|(column, ty)| format!("{column} {ty} not null")));
    }
    let key: Vec<_> = table.column_names(&table.key).map(quote).collect();
    parts.push(format!("constraint {primary_key} primary key ({})", key.join(", ")));
    format!("create table {} (\n  {}\n)", qualified(schema, &table.name), parts.join(",\n  "))
}

fn create_view(table: &Table, schema: &str, readers: &str) -> String {
    let columns: Vec<_> = table.columns.iter().map(|column| quote(&column.name)).collect();
    let visible = if table.has_tombstones { format!(" where not {DELETED}") } else { String::new() };
    format!(
        "create view {} as select {} from {}{visible}",
        qualified(readers, &table.name),
        columns.join(", "),
        qualified(schema, &table.name)
    )
}

fn sql_type(column: &Column) -> String {
    match column.ty {
        Type::Boolean => "boolean".into(),
        Type::Int64 => "bigint".into(),
        Type::Float64 => "double precision".into(),
        Type::Decimal { precision, scale } => format!("numeric({precision}, {scale})"),
        Type::Text => "text collate \"C\"".into(),
        Type::Bytes => "bytea".into(),
        Type::Json => "jsonb".into(),
        Type::Timestamp => "timestamptz".into(),
        Type::Date => "date".into(),
        Type::Uuid => "uuid".into(),
    }
}

pub(super) fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quote(schema), quote(table))
}
