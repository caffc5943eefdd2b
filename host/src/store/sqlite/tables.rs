//! A projection's tables, indexes and readers' views. SQLite has no schemas: their names begin
//! with what would be one.
//!
//! What a type is stored as: boolean, int64, timestamp (µs) and date (days) as INTEGER; float64 as
//! REAL; text, decimal, json and uuid as TEXT; bytes as BLOB.

use projector_model::contract::Table;
use projector_model::descriptor::IndexKind;
use projector_model::{Contract, Type};

use crate::store::names::{DELETED, LINEAGE, quote};

pub(super) fn create(contract: &Contract, schema: &str, readers: &str) -> Vec<String> {
    let mut statements = Vec::new();
    for table in &contract.tables {
        let name = qualified(schema, &table.name);
        statements.push(create_table(table, &name));
        // `contains` has no counterpart: readers scan.
        let ordered = table.indexes.iter().enumerate().filter(|(_, index)| index.kind == IndexKind::Ordered);
        statements.extend(ordered.map(|(at, index)| {
            let columns: Vec<_> = table.column_names(&index.columns).map(quote).collect();
            // No table has such a name: theirs have no double underscore.
            let index = qualified(schema, &format!("{}__{}", table.name, at + 1));
            format!("create index {index} on {name} ({})", columns.join(", "))
        }));
        let columns: Vec<_> = table.columns.iter().map(|column| quote(&column.name)).collect();
        let visible = if table.has_tombstones { format!(" where not {DELETED}") } else { String::new() };
        let view = qualified(readers, &table.name);
        statements.push(format!("create view {view} as select {} from {name}{visible}", columns.join(", ")));
    }
    statements
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
    quote(&format!("{schema}__{table}"))
}
