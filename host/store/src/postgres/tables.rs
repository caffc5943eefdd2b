//! A projection's tables, indexes and readers' views, from its contract.

use std::collections::BTreeMap;

use projector_core::layout::{LaidTable, Step};
use projector_core::views::View;
use projector_model::contract::{Column, Table};
use projector_model::descriptor::{Index, IndexKind};
use projector_model::{Contract, Problem, Problems, Type};
use sha2::{Digest, Sha256};

use crate::names::{DELETED, LINEAGE, quote};

/// The statements that create a generation's tables in its schema, in order.
pub(super) fn create(contract: &Contract, schema: &str) -> Vec<String> {
    let mut statements = Vec::new();
    for (table, declared) in contract.tables.iter().zip(&contract.descriptor.tables) {
        statements.push(create_table("create table", table, schema));
        statements.extend(
            declared.indexes.iter().map(|index| create_index("create index", &table.name, index, schema)),
        );
    }
    statements
}

/// A statement that can be repeated.
pub(super) struct Addition {
    pub(super) sql: String,
    /// The index that it builds concurrently, while sessions read and write the table.
    pub(super) index: Option<String>,
}

/// The statements that add something to tables in use. What exists under the name already was left by an interrupted
/// deployment, and may have another shape, so it is dropped first. The caller has checked that it is not a foreign object.
pub(super) fn add(step: &Step, contract: &Contract, schema: &str) -> Vec<Addition> {
    let declared = |name: &str| {
        let tables = contract.tables.iter().zip(&contract.descriptor.tables);
        tables.into_iter().find(|(table, _)| table.name == name)
    };
    let at_once = |sql| Addition { sql, index: None };
    match step {
        Step::CreateTable { table } => declared(table)
            .into_iter()
            .flat_map(|(table, declared)| {
                let indexes = declared.indexes.iter().map(|index| {
                    at_once(create_index("create index if not exists", &table.name, index, schema))
                });
                let left = format!("drop table if exists {}", qualified(schema, &table.name));
                [at_once(left), at_once(create_table("create table", table, schema))]
                    .into_iter()
                    .chain(indexes)
            })
            .collect(),
        Step::AddColumn { table, column } => {
            let columns = declared(table).into_iter().flat_map(|(table, _)| &table.columns);
            columns
                .filter(|declared| declared.name == *column)
                .map(|column| {
                    at_once(format!(
                        "alter table {} drop column if exists {name}, add column {name} {}",
                        qualified(schema, table),
                        sql_type(column),
                        name = quote(&column.name)
                    ))
                })
                .collect()
        }
        Step::CreateIndex { table, index } => vec![Addition {
            sql: create_index("create index concurrently if not exists", table, index, schema),
            index: Some(format!("{}.{}", quote(schema), index_name(table, index))),
        }],
    }
}

/// The statement that removes what a step added.
pub(super) fn take_back(step: &Step, schema: &str) -> String {
    match step {
        Step::CreateTable { table } => format!("drop table if exists {}", qualified(schema, table)),
        Step::AddColumn { table, column } => {
            format!("alter table {} drop column if exists {}", qualified(schema, table), quote(column))
        }
        Step::CreateIndex { table, index } => {
            format!("drop index concurrently if exists {}.{}", quote(schema), index_name(table, index))
        }
    }
}

/// The names and columns of the indexes that contain whole values: the primary key, and the ordered indexes.
pub(super) fn indexed(table: &str, key: &[&str], indexes: &[Index]) -> Vec<(String, Vec<String>)> {
    let bare = |name: String| name.trim_matches('"').to_owned();
    let of_key = (bare(own(table, "key")), key.iter().map(|column| (*column).to_owned()).collect());
    let ordered = indexes.iter().filter(|index| index.kind == IndexKind::Ordered);
    std::iter::once(of_key)
        .chain(ordered.map(|index| (bare(index_name(table, index)), index.columns.clone())))
        .collect()
}

/// A name for a key or an index. No table of a projection has it, since names of tables have no double underscore. It depends
/// only on the table and the index.
fn own(table: &str, what: &str) -> String {
    let hash = hex::encode(&Sha256::digest(format!("{table}\0{what}"))[..4]);
    quote(&format!("{}__{hash}", &table[..table.len().min(45)]))
}

/// The name of a table's primary key, by which a table that the host made is recognized.
pub(super) fn key_name(table: &str) -> String {
    own(table, "key").trim_matches('"').to_owned()
}

fn index_name(table: &str, index: &Index) -> String {
    own(table, &format!("{:?} {}", index.kind, index.columns.join(",")))
}

/// The problem of a contract in which two keys or indexes of its tables would have the same name, because their hashes are
/// equal.
pub fn name_collision(contract: &Contract) -> Option<Problems> {
    let mut names = BTreeMap::new();
    for table in &contract.descriptor.tables {
        let of_key = (key_name(&table.name), "the key".to_owned());
        let of_indexes = table.indexes.iter().map(|index| {
            (index_name(&table.name, index), format!("the index over {}", index.columns.join(", ")))
        });
        for (name, what) in std::iter::once(of_key).chain(of_indexes) {
            let what = format!("{what} of table `{}`", table.name);
            if let Some(other) = names.insert(name, what.clone()) {
                let message = format!("{other} and {what} would have the same name in Postgres");
                let remedy = Some("rename a column of one of them".to_owned());
                return Some(Problems(vec![Problem { place: "tables".into(), message, remedy }]));
            }
        }
    }
    None
}

fn create_index(create: &str, table: &str, index: &Index, schema: &str) -> String {
    let columns: Vec<_> = index.columns.iter().map(|column| quote(column)).collect();
    let (method, class) = match index.kind {
        IndexKind::Ordered => ("btree", ""),
        IndexKind::Contains => ("gin", " jsonb_path_ops"),
    };
    let (name, on) = (index_name(table, index), qualified(schema, table));
    format!("{create} {name} on {on} using {method} ({}{class})", columns.join(", "))
}

fn create_table(create: &str, table: &Table, schema: &str) -> String {
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
    parts.push(format!("constraint {} primary key ({})", own(&table.name, "key"), key.join(", ")));
    format!("{create} {} (\n  {}\n)", qualified(schema, &table.name), parts.join(",\n  "))
}

/// The statement that creates or replaces the readers' view of a table in `schema`.
pub(super) fn view(
    create: &str,
    view: &View,
    (table, schema): (&LaidTable, &str),
    readers: &str,
    options: &[String],
) -> String {
    let columns: Vec<_> = view.columns.iter().map(|column| quote(&column.name)).collect();
    let visible = if table.tombstones { format!(" where not {DELETED}") } else { String::new() };
    let option = |option: &String| {
        let (name, value) = option.split_once('=').unwrap_or((option, "true"));
        format!("{} = '{}'", quote(name), value.replace('\'', "''"))
    };
    let options: Vec<String> = options.iter().map(option).collect();
    format!(
        "{create} {}{} as select {} from {}{visible}",
        qualified(readers, &view.table),
        if options.is_empty() { String::new() } else { format!(" with ({})", options.join(", ")) },
        columns.join(", "),
        qualified(schema, &view.table)
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

#[cfg(test)]
mod tests {
    use projector_model::Descriptor;

    #[test]
    fn indexes_whose_hashes_are_the_same_are_found() {
        let collision = |columns: [&str; 2]| {
            let column = |name: &str| serde_json::json!({"name": name, "type": "int64"});
            let all = ["id", columns[0], columns[1]].map(column);
            let descriptor = serde_json::json!({
                "name": "meeting", "version": "1", "topics": [{"name": "t"}], "statements": [],
                "tables": [{"name": "seen", "key": ["id"],
                    "columns": all,
                    "indexes": columns.map(|column| serde_json::json!({"columns": [column]}))}],
            });
            let contract = Descriptor::from_json(&descriptor.to_string()).and_then(Descriptor::check);
            super::name_collision(&contract.expect("a sound descriptor"))
        };
        assert!(collision(["c1", "c2"]).is_none());
        // SHA-256 of both begins with ba50b7d4.
        let found = collision(["c48067", "c60716"]).expect("found").to_string();
        assert!(
            found.contains("the index over c48067") && found.contains("the index over c60716"),
            "{found}"
        );
    }
}
