//! Tables: their columns, keys and indexes, and the lookup of a table or column by its name.

use super::names::{identifier, place, unique};
use crate::contract::{Column, Index, Table};
use crate::descriptor::{self, IndexKind};
use crate::names;
use crate::problem::Report;
use crate::value::Type;

pub(super) fn resolve(report: &mut Report, declared: &[descriptor::Table]) -> Vec<Table> {
    if declared.is_empty() {
        report.add("tables", "a projection needs at least one table", "declare the tables that it writes");
    }
    unique(report, "tables", declared.iter().map(|table| table.name.as_str()));
    declared
        .iter()
        .enumerate()
        .map(|(at, table)| resolve_table(report, &place("tables", at, &table.name), table))
        .collect()
}

fn resolve_table(report: &mut Report, place: &str, declared: &descriptor::Table) -> Table {
    identifier(report, place, &declared.name);
    // In SQLite a double underscore stands between the schema and the table: see `names::prefixed`.
    if declared.name.contains("__") {
        report.add(place, "a table's name may not contain a double underscore", "write a single underscore");
    }
    let mut table = Table {
        name: declared.name.clone(),
        columns: resolve_columns(report, place, &declared.columns),
        key: Vec::new(),
        indexes: Vec::new(),
        has_tombstones: false,
        has_lineage: declared.lineage,
    };
    table.key = resolve_key(report, place, &declared.key, &table);
    table.indexes = declared
        .indexes
        .iter()
        .enumerate()
        .map(|(at, index)| resolve_index(report, &format!("{place}: indexes[{at}]"), index, &table))
        .collect();
    index_names_differ(report, place, &declared.indexes);
    table
}

fn resolve_columns(report: &mut Report, place: &str, declared: &[descriptor::Column]) -> Vec<Column> {
    for (at, column) in declared.iter().enumerate() {
        identifier(report, &format!("{place}: columns[{at}]"), &column.name);
    }
    unique(report, &format!("{place}: columns"), declared.iter().map(|column| column.name.as_str()));
    declared
        .iter()
        .map(|column| Column { name: column.name.clone(), ty: column.ty, nullable: column.nullable })
        .collect()
}

fn resolve_key(report: &mut Report, place: &str, declared: &[String], table: &Table) -> Vec<usize> {
    if declared.is_empty() {
        report.add(place, "the table has no key", "list the columns of its primary key in `key`");
    }
    let place = &format!("{place}: key");
    let key = columns(report, place, declared, table);
    for column in &key {
        let column = &table.columns[*column];
        if column.nullable {
            report.add(
                place,
                format!("key column `{}` is nullable", column.name),
                "declare the column without `nullable`",
            );
        }
        comparable(report, place, column);
    }
    key
}

fn resolve_index(report: &mut Report, place: &str, declared: &descriptor::Index, table: &Table) -> Index {
    let columns = columns(report, place, &declared.columns, table);
    if columns.is_empty() {
        report.add(place, "the index has no columns", "list the columns of the index");
    }
    match declared.kind {
        IndexKind::Ordered => {
            for column in &columns {
                // A float has an order, which is all that an index needs.
                if table.columns[*column].ty == Type::Json {
                    comparable(report, place, &table.columns[*column]);
                }
            }
        }
        IndexKind::Contains => {
            if !matches!(columns[..], [column] if table.columns[column].ty == Type::Json) {
                report.add(
                    place,
                    "an index of kind `contains` covers exactly one json column",
                    "list one json column, or leave `kind` out",
                );
            }
        }
    }
    Index { columns, kind: declared.kind }
}

/// The database's name of an index is made of the names of its columns, so two indexes of a table could collide.
fn index_names_differ(report: &mut Report, place: &str, declared: &[descriptor::Index]) {
    let suffixes: Vec<String> = declared.iter().map(|index| names::index_suffix(&index.columns)).collect();
    for (at, suffix) in suffixes.iter().enumerate() {
        if let Some(first) = suffixes[..at].iter().position(|other| other == suffix) {
            report.add(
                &format!("{place}: indexes[{at}]"),
                format!(
                    "this index would have the same name in the database as indexes[{first}]: their columns are the same, or the columns' names join to the same text"
                ),
                "declare each index once, or rename a column",
            );
        }
    }
}

/// The position of the table with this name.
pub(super) fn table(report: &mut Report, place: &str, name: &str, tables: &[Table]) -> Option<usize> {
    let found = tables.iter().position(|table| table.name == name);
    if found.is_none() {
        let known = tables.iter().map(|table| table.name.as_str());
        report.add_unknown(
            &format!("{place}: table"),
            format!("table {name:?} is not declared"),
            name,
            known,
        );
    }
    found
}

/// The positions of the columns with these names, in the given order. Unknown names are reported and left out.
pub(super) fn columns(report: &mut Report, place: &str, names: &[String], table: &Table) -> Vec<usize> {
    unique(report, place, names.iter().map(String::as_str));
    names.iter().filter_map(|name| column(report, place, name, table)).collect()
}

/// The position of the column with this name.
pub(super) fn column(report: &mut Report, place: &str, name: &str, table: &Table) -> Option<usize> {
    let found = table.columns.iter().position(|column| column.name == name);
    if found.is_none() {
        let known = table.columns.iter().map(|column| column.name.as_str());
        report.add_unknown(place, format!("table `{}` has no column {name:?}", table.name), name, known);
    }
    found
}

/// Reports a column whose type has no equality that Postgres and SQLite share.
pub(super) fn comparable(report: &mut Report, place: &str, column: &Column) {
    if !column.ty.is_comparable() {
        report.add(
            place,
            format!("rows cannot be selected by `{}`, because its type is {}", column.name, column.ty),
            "use a column of another type",
        );
    }
}
