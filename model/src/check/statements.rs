//! Statements and lookups: that each can run, on an index, with columns and operations of the right types.

use super::names::{label, place, unique};
use super::tables::{column, columns, comparable, table};
use crate::contract::{Guard, Lookup, Table, Write};
use crate::descriptor::{self, Assignment, IndexKind, OnMiss, Operation, Statement, StatementKind};
use crate::problem::Report;
use crate::value::Type;

const MAX_LOOKUP_ROWS: u32 = 10_000;

pub(super) fn resolve(report: &mut Report, declared: &[Statement], tables: &[Table]) -> Vec<Write> {
    unique(report, "statements", declared.iter().map(|statement| statement.name.as_str()));
    declared
        .iter()
        .enumerate()
        .filter_map(|(at, statement)| {
            write(report, &place("statements", at, &statement.name), statement, tables)
        })
        .collect()
}

pub(super) fn resolve_lookups(
    report: &mut Report,
    declared: &[descriptor::Lookup],
    tables: &[Table],
) -> Vec<Lookup> {
    unique(report, "lookups", declared.iter().map(|lookup| lookup.name.as_str()));
    declared
        .iter()
        .enumerate()
        .filter_map(|(at, declared)| lookup(report, &place("lookups", at, &declared.name), declared, tables))
        .collect()
}

fn write(report: &mut Report, place: &str, statement: &Statement, tables: &[Table]) -> Option<Write> {
    label(report, place, &statement.name);
    let table_index = table(report, place, &statement.table, tables)?;
    let table = &tables[table_index];
    fits_its_kind(report, place, statement);
    let mut write = Write {
        name: statement.name.clone(),
        table: table_index,
        kind: statement.kind,
        by: columns(report, &format!("{place}: by"), &statement.by, table),
        set: assignments(report, place, &statement.set, table),
        guard: None,
        on_miss: statement.on_miss,
    };
    if inserts(statement.kind) {
        lists_not_null(report, place, &write.set, table);
        write.by.clone_from(&table.key);
    } else {
        selects_by_index(report, place, &write.by, table);
    }
    if let Some(version) = &statement.guard {
        write.guard = guard(report, &format!("{place}: guard"), version, &write, table);
    }
    Some(write)
}

fn inserts(kind: StatementKind) -> bool {
    matches!(kind, StatementKind::Upsert | StatementKind::InsertOnce)
}

/// Reports what a statement of its kind cannot have, or needs.
fn fits_its_kind(report: &mut Report, place: &str, statement: &Statement) {
    let inserts = inserts(statement.kind);
    if inserts && !statement.by.is_empty() {
        report.add(
            &format!("{place}: by"),
            "an upsert or insert-once always writes the row of its key",
            "leave `by` out: the values of the key are the first arguments",
        );
    }
    if inserts && statement.on_miss == OnMiss::Reject {
        report.add(
            &format!("{place}: on-miss"),
            "an upsert or insert-once never misses a row",
            "leave `on-miss` out",
        );
    }
    let place = &format!("{place}: set");
    match statement.kind {
        StatementKind::Delete if !statement.set.is_empty() => {
            report.add(place, "a delete sets no columns", "leave `set` out");
        }
        StatementKind::Update if statement.set.is_empty() => {
            report.add(place, "this update sets no column", "list the columns that the update writes");
        }
        StatementKind::InsertOnce => {
            let odd = statement.set.iter().find(|assignment| assignment.operation != Operation::Set);
            if let Some(Assignment { column, .. }) = odd {
                report.add(
                    place,
                    format!("column `{column}`: an insert-once has only the operation `set`"),
                    "declare the statement as an upsert",
                );
            }
        }
        _ => {}
    }
}

fn assignments(
    report: &mut Report,
    place: &str,
    declared: &[Assignment],
    table: &Table,
) -> Vec<(usize, Operation)> {
    let names = declared.iter().map(|assignment| assignment.column.as_str());
    unique(report, &format!("{place}: set"), names);
    let mut set = Vec::with_capacity(declared.len());
    for (at, assignment) in declared.iter().enumerate() {
        let place = format!("{place}: set[{at}]");
        if let Some(index) = column(report, &place, &assignment.column, table) {
            can_be_set(report, &place, index, assignment.operation, table);
            set.push((index, assignment.operation));
        }
    }
    set
}

fn can_be_set(report: &mut Report, place: &str, index: usize, operation: Operation, table: &Table) {
    let column = &table.columns[index];
    if table.is_key_column(index) {
        report.add(
            place,
            format!("`{}` belongs to the key, and the key of a row never changes", column.name),
            "leave the column out of `set`",
        );
    }
    let (defined, types) = match operation {
        Operation::Add => (column.ty.is_addable(), "int64 and decimal"),
        Operation::Min | Operation::Max => (column.ty.is_ordered(), "numbers, text, timestamps and dates"),
        Operation::Set | Operation::SetIfNull | Operation::Keep => (true, "all types"),
    };
    if !defined {
        let operation = serde_json::to_string(&operation).unwrap_or_default();
        report.add(
            place,
            format!("{operation} is not defined for `{}`, because its type is {}", column.name, column.ty),
            format!("use the operation for {types} only"),
        );
    }
    if operation == Operation::SetIfNull && !column.nullable {
        report.add(
            place,
            format!("`{}` is never null", column.name),
            "write `keep`, or make the column nullable",
        );
    }
}

/// Postgres checks NOT NULL before it looks for the conflict. So an upsert must be able to insert.
fn lists_not_null(report: &mut Report, place: &str, set: &[(usize, Operation)], table: &Table) {
    for (index, column) in table.columns.iter().enumerate() {
        let listed = set.iter().any(|(listed, _)| *listed == index);
        if !column.nullable && !listed && !table.is_key_column(index) {
            report.add(
                &format!("{place}: set"),
                format!(
                    "column `{}` is not nullable and not listed, so no row could be inserted",
                    column.name
                ),
                "list the column (with `keep`, if a stored value must stay), or make the column nullable",
            );
        }
    }
}

/// Columns that select rows must be comparable, and be the key or the first columns of an index.
fn selects_by_index(report: &mut Report, place: &str, by: &[usize], table: &Table) {
    let place = &format!("{place}: by");
    if by.is_empty() {
        report.add(
            place,
            "no columns select the rows",
            "list the columns of the key, or the first columns of an index",
        );
        return;
    }
    for column in by {
        comparable(report, place, &table.columns[*column]);
    }
    let leads = |columns: &[usize]| {
        columns.len() >= by.len() && columns[..by.len()].iter().all(|column| by.contains(column))
    };
    let supported = leads(&table.key)
        || table.indexes.iter().any(|index| index.kind == IndexKind::Ordered && leads(&index.columns));
    if !supported {
        let names = table.column_names(by).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        report.add(
            place,
            format!(
                "table `{}` has no index for these columns, so every event would scan the table",
                table.name
            ),
            format!("declare the index {{\"columns\": [{names}]}} on the table"),
        );
    }
}

/// Resolves the version column of a guarded statement.
fn guard(report: &mut Report, place: &str, version: &str, write: &Write, table: &Table) -> Option<Guard> {
    let index = column(report, place, version, table)?;
    let column = &table.columns[index];
    if table.is_key_column(index) {
        report.add(
            place,
            format!("`{version}` belongs to the key, and the key of a row never changes"),
            "use a column of its own for the version",
        );
    }
    if !matches!(column.ty, Type::Int64 | Type::Timestamp | Type::Decimal { .. } | Type::Text) {
        report.add(
            place,
            format!("`{version}` cannot be a version, because its type is {}", column.ty),
            "use an int64, a timestamp, a decimal or a text",
        );
    }
    match write.kind {
        StatementKind::InsertOnce => {
            report.add(
                place,
                "an insert-once never changes a stored row, so it needs no guard",
                "leave `guard` out",
            );
            None
        }
        StatementKind::Delete => {
            if !table.is_key(&write.by) {
                report.add(
                    place,
                    "a guarded delete selects by the key, because it leaves a tombstone for that key",
                    "list the columns of the key in `by`",
                );
            }
            Some(Guard { column: index, argument: write.by.len() })
        }
        StatementKind::Upsert | StatementKind::Update => {
            let position = write.set.iter().position(|assignment| *assignment == (index, Operation::Set));
            if position.is_none() {
                report.add(
                    place,
                    format!("the statement does not `set` its version `{version}`"),
                    format!("add {{\"column\": \"{version}\"}} to `set`"),
                );
            }
            Some(Guard { column: index, argument: write.by.len() + position? })
        }
    }
}

fn lookup(
    report: &mut Report,
    place: &str,
    declared: &descriptor::Lookup,
    tables: &[Table],
) -> Option<Lookup> {
    label(report, place, &declared.name);
    let table_index = table(report, place, &declared.table, tables)?;
    let table = &tables[table_index];
    let by = columns(report, &format!("{place}: by"), &declared.by, table);
    selects_by_index(report, place, &by, table);
    let returned = columns(report, &format!("{place}: columns"), &declared.columns, table);
    if returned.is_empty() {
        report.add(
            &format!("{place}: columns"),
            "the lookup returns no columns",
            "list the columns to return",
        );
    }
    if declared.limit == 0 || declared.limit > MAX_LOOKUP_ROWS {
        report.add(
            &format!("{place}: limit"),
            format!("a limit of {} rows is out of range", declared.limit),
            format!("write 1 to {MAX_LOOKUP_ROWS}"),
        );
    }
    let limit = if table.is_key(&by) { 1 } else { declared.limit };
    Some(Lookup { name: declared.name.clone(), table: table_index, by, columns: returned, limit })
}
