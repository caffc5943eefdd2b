//! Rows that events wait for, and rows that batches write: plain data.
//!
//! A row is known by a digest of its table and key, so that waiting and writing meet in an index, whatever the key's
//! columns are. Times are event time: those of the records, in milliseconds since 1970.

use std::collections::BTreeMap;

use projector_model::change::codes;
use projector_model::descriptor::StatementKind;
use projector_model::{Change, Contract, LookupCall, Value};
use sha2::{Digest, Sha256};

use crate::event::Event;
use crate::event_failure::{Failure, printable};
use crate::failure::FailureKind;
use crate::instant::now_ms;

/// A row, by the first half of a SHA-256 over its table and its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub [u8; 16]);

impl RowId {
    pub fn new(table: &str, key: &[Value]) -> Self {
        let mut digest = Sha256::new().chain_update((table.len() as u64).to_be_bytes()).chain_update(table);
        for value in key {
            let value = value.to_string();
            digest.update((value.len() as u64).to_be_bytes());
            digest.update(value);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&digest.finalize()[..16]);
        Self(id)
    }
}

/// What an event waits for, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedRow {
    pub id: RowId,
    /// The row in words, for operators.
    pub name: String,
    /// A row that is written by a later event than this comes too late.
    pub until_ms: i64,
}

impl AwaitedRow {
    /// The row that a lookup asks for, for an event that may wait so long. `None`: it asks for rows by other columns
    /// than the key.
    pub fn of(contract: &Contract, call: &LookupCall, event: &Event, wait_seconds: u32) -> Option<Self> {
        let lookup = contract.lookups.get(usize::from(call.lookup))?;
        let table = &contract.tables[lookup.table];
        let key = table.key_given(&lookup.by, &call.arguments)?;
        // An event without a time of its own is of now.
        let now = now_ms();
        let from = time_ms(event, now).unwrap_or(now);
        Some(Self {
            id: RowId::new(&table.name, &key),
            name: printable(&contract.selected_by(call)),
            until_ms: from.saturating_add(i64::from(wait_seconds).saturating_mul(1_000)),
        })
    }
}

/// Why an event fails that needs a row which is not there yet, and does not wait.
pub fn failure(row: &str) -> Failure {
    let detail = format!("it needs the row of {row}, which is not there yet");
    Failure::new(FailureKind::NotYet, codes::NOT_YET, detail)
}

/// Why an event fails that has waited.
pub fn came_too_late(row: &str) -> Failure {
    let detail =
        format!("it waited for the row of {row}, which no event of the time wrote that its topic waits for");
    Failure::new(FailureKind::NotYet, codes::NOT_YET, detail)
}

/// The rows that events write by their keys, in tables whose rows other events wait for. Each row has the time of the
/// first event that writes it.
pub fn written<'a>(
    contract: &Contract,
    applied: impl Iterator<Item = (&'a Event, &'a [Change])>,
) -> BTreeMap<RowId, i64> {
    let mut written = BTreeMap::new();
    if !contract.waits() {
        return written;
    }
    let (awaited, now) = (contract.awaited_tables(), now_ms());
    for (event, changes) in applied {
        // One without a time of its own is in time.
        let at = time_ms(event, now).unwrap_or(i64::MIN);
        for row in changes.iter().filter_map(|change| row_of(contract, &awaited, change)) {
            written.entry(row).and_modify(|first: &mut i64| *first = at.min(*first)).or_insert(at);
        }
    }
    written
}

fn row_of(contract: &Contract, awaited: &[bool], change: &Change) -> Option<RowId> {
    let write = &contract.writes[usize::from(change.statement)];
    if !awaited[write.table] || write.kind == StatementKind::Delete {
        return None;
    }
    let table = &contract.tables[write.table];
    let key = table.key_given(&write.by, &change.arguments[..write.by.len()])?;
    Some(RowId::new(&table.name, &key))
}

/// An event's time. One in the future counts as now.
fn time_ms(event: &Event, now: i64) -> Option<i64> {
    event.timestamp_ms.map(|at| at.min(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_apart_by_table_and_key() {
        let text = |text: &str| Value::Text(text.into());
        let row = RowId::new("order", &[text("a"), text("b")]);
        assert_eq!(row, RowId::new("order", &[text("a"), text("b")]));
        for other in [
            RowId::new("orders", &[text("a"), text("b")]),
            RowId::new("order", &[text("a"), text("c")]),
            RowId::new("order", &[text("ab"), text("")]),
            RowId::new("order", &[text("a, b")]),
        ] {
            assert_ne!(row, other);
        }
    }
}
