//! How large a descriptor may be.
//!
//! Why: the host checks a descriptor, creates tables and indexes for it and prepares its statements. The limits bound
//! the time and memory that one plugin can take from the host and from the database.

use super::names::place;
use crate::descriptor::{Descriptor, Table};
use crate::problem::Report;

/// The index of a statement, lookup or topic travels as a `u16`.
const MAX_STATEMENTS: usize = 1_000;
const MAX_TABLES: usize = 100;
const MAX_COLUMNS: usize = 500;
/// Of one table. Each index makes every write to the table slower.
const MAX_INDEXES: usize = 50;
/// Of all tables together. The database creates and locks each column and index when it creates the tables.
const MAX_ALL_COLUMNS: usize = 20_000;
/// Of all tables together.
const MAX_ALL_INDEXES: usize = 500;
/// Columns of a key, of an index, or of what selects rows: Postgres allows no more in an index.
const MAX_KEY_COLUMNS: usize = 32;

pub(super) fn check(report: &mut Report, descriptor: &Descriptor) {
    for (list, count, most) in [
        ("statements", descriptor.statements.len(), MAX_STATEMENTS),
        ("lookups", descriptor.lookups.len(), MAX_STATEMENTS),
        ("topics", descriptor.topics.len(), MAX_STATEMENTS),
        ("tables", descriptor.tables.len(), MAX_TABLES),
    ] {
        at_most(report, list, list, count, most);
    }
    for (at, table) in descriptor.tables.iter().enumerate() {
        check_table(report, &place("tables", at, &table.name), table);
    }
    let sum = |count: fn(&Table) -> usize| descriptor.tables.iter().map(count).sum::<usize>();
    for (what, count, most) in [
        ("columns", sum(|table| table.columns.len()), MAX_ALL_COLUMNS),
        ("indexes", sum(|table| table.indexes.len()), MAX_ALL_INDEXES),
    ] {
        if count > most {
            let message = format!("all tables together have {count} {what}, and the limit is {most}");
            report.add("tables", message, "split the projection into several");
        }
    }
}

fn check_table(report: &mut Report, place: &str, table: &Table) {
    at_most(report, place, "columns", table.columns.len(), MAX_COLUMNS);
    at_most(report, place, "indexes", table.indexes.len(), MAX_INDEXES);
    at_most(report, &format!("{place}: key"), "columns", table.key.len(), MAX_KEY_COLUMNS);
    for (at, index) in table.indexes.iter().enumerate() {
        let place = format!("{place}: indexes[{at}]");
        at_most(report, &place, "columns", index.columns.len(), MAX_KEY_COLUMNS);
    }
}

fn at_most(report: &mut Report, place: &str, what: &str, count: usize, most: usize) {
    if count > most {
        report.add_without_remedy(place, format!("{count} {what}, and the limit is {most}"));
    }
}
