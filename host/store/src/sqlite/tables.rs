//! A projection's tables, indexes and readers' views. SQLite has no schemas, so their names have a prefix instead.
//!
//! How types are stored: boolean, int64, timestamp (µs) and date (days) as INTEGER; float64 as
//! REAL; text, decimal, json and uuid as TEXT; bytes as BLOB.

use projector_core::layout::{LaidTable, Step};
use projector_core::views::View;
use projector_model::contract::Table;
use projector_model::descriptor::{Index, IndexKind};
use projector_model::{Contract, Type, names};

use crate::names::{DELETED, LINEAGE, quote};

/// The statements that create a generation's tables, in order.
pub(super) fn create(contract: &Contract, schema: &str) -> Vec<String> {
    let tables = contract.tables.iter().map(|table| &table.name);
    tables.flat_map(|table| add(&Step::CreateTable { table: table.clone() }, contract, schema)).collect()
}

/// The statements that add something to tables in use.
pub(super) fn add(step: &Step, contract: &Contract, schema: &str) -> Vec<String> {
    let declared = |name: &str| {
        contract.tables.iter().zip(&contract.descriptor.tables).find(|(table, _)| table.name == name)
    };
    match step {
        Step::CreateTable { table } => declared(table)
            .into_iter()
            .flat_map(|(table, declared)| {
                let name = qualified(schema, &table.name);
                let indexes =
                    declared.indexes.iter().filter_map(|index| create_index(&table.name, index, schema));
                [create_table(table, &name)].into_iter().chain(indexes)
            })
            .collect(),
        Step::AddColumn { table, column } => {
            let columns = declared(table).into_iter().flat_map(|(table, _)| &table.columns);
            let added = columns.filter(|declared| declared.name == *column);
            let on = qualified(schema, table);
            added
                .map(|column| {
                    format!("alter table {on} add column {} {}", quote(&column.name), sql_type(column.ty))
                })
                .collect()
        }
        Step::CreateIndex { table, index } => create_index(table, index, schema).into_iter().collect(),
    }
}

/// SQLite has no index for `contains`: readers scan the table.
fn create_index(table: &str, index: &Index, schema: &str) -> Option<String> {
    if index.kind != IndexKind::Ordered {
        return None;
    }
    let columns: Vec<_> = index.columns.iter().map(|column| quote(column)).collect();
    // No table has such a name, since names of tables have no double underscore.
    let name = qualified(schema, &format!("{table}{}", names::index_suffix(&index.columns)));
    Some(format!("create index {name} on {} ({})", qualified(schema, table), columns.join(", ")))
}

/// The statement that creates the readers' view of a table with the prefix `schema`.
pub(super) fn view(view: &View, (table, schema): (&LaidTable, &str), readers: &str) -> String {
    let columns: Vec<_> = view.columns.iter().map(|column| quote(&column.name)).collect();
    let visible = if table.tombstones { format!(" where not {DELETED}") } else { String::new() };
    let (name, of) = (qualified(readers, &view.table), qualified(schema, &view.table));
    format!("create view {name} as select {} from {of}{visible}", columns.join(", "))
}

fn create_table(table: &Table, name: &str) -> String {
    let mut parts: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            // A tombstone has only its key and version.
            let may_be_null = column.nullable || (table.has_tombstones && !table.is_key_column(at));
            let not_null = if may_be_null { "" } else { " not null" };
            format!("{} {}{not_null}", quote(&column.name), sql_type(column.ty))
        })
        .collect();
    if table.has_tombstones {
        parts.push(format!("{DELETED} integer not null default 0"));
    }
    if table.has_lineage {
        let typed = LINEAGE.iter().zip(["text", "integer", "integer", "text"]);
        parts.extend(typed.map(|(column, ty)| format!("{column} {ty} not null")));
    }
    let key: Vec<_> = table.column_names(&table.key).map(quote).collect();
    parts.push(format!("primary key ({})", key.join(", ")));
    format!("create table {name} (\n  {}\n) strict, without rowid", parts.join(",\n  "))
}

fn sql_type(ty: Type) -> &'static str {
    match ty {
        Type::Boolean | Type::Int64 | Type::Timestamp | Type::Date => "integer",
        Type::Float64 => "real",
        Type::Decimal { .. } | Type::Text | Type::Json | Type::Uuid => "text",
        Type::Bytes => "blob",
    }
}

pub(super) fn qualified(schema: &str, table: &str) -> String {
    quote(&names::prefixed(schema, table))
}
