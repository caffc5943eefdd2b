//! Rows that events wait for, and rows that batches write: plain data and pure functions.
//!
//! A row is identified by a digest of its table and key. So one index column finds the events that wait for
//! a row, whatever columns its key has. All times here are event time: the timestamps of records, in
//! milliseconds since 1970.

use std::collections::BTreeMap;

use projector_model::change::codes;
use projector_model::descriptor::StatementKind;
use projector_model::{Change, Contract, LookupCall, Value};
use sha2::{Digest, Sha256};

use crate::event::Event;
use crate::event_failure::{Failure, printable};
use crate::failure::FailureKind;
use crate::instant::now_ms;

/// The id of a row: the first half of a SHA-256 over its table and its key.
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

/// The row that an event waits for, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedRow {
    pub id: RowId,
    /// The row's table and key as text, for operators.
    pub name: String,
    /// The wait fails if the row is written by an event that is later than this.
    pub until_ms: i64,
}

impl AwaitedRow {
    /// The row that a lookup selects, for an event that may wait for `wait_seconds`. `None` if the lookup
    /// selects rows by columns other than the key.
    pub fn of(contract: &Contract, call: &LookupCall, event: &Event, wait_seconds: u32) -> Option<Self> {
        let lookup = contract.lookups.get(usize::from(call.lookup))?;
        let table = &contract.tables[lookup.table];
        let key = table.key_given(&lookup.by, &call.arguments)?;
        // An event without a timestamp counts as being of now.
        let now = now_ms();
        let from = time_ms(event, now).unwrap_or(now);
        Some(Self {
            id: RowId::new(&table.name, &key),
            name: printable(&contract.selected_by(call)),
            until_ms: from.saturating_add(i64::from(wait_seconds).saturating_mul(1_000)),
        })
    }
}

/// The failure of an event that needs a row which does not exist, and whose topic does not wait.
pub fn failure(row: &str) -> Failure {
    let detail = format!("the event needs the row of {row}, which does not exist yet");
    Failure::new(FailureKind::NotYet, codes::NOT_YET, detail)
}

/// The failure of an event whose wait is over.
pub fn wait_is_over(row: &str) -> Failure {
    let detail = format!(
        "the event waited for the row of {row}, but no event within the topic's waiting time wrote this row"
    );
    Failure::new(FailureKind::NotYet, codes::NOT_YET, detail)
}

/// The rows that events write by key, in tables that other events may wait for. Each row comes with the time of the
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
        // An event without a timestamp is always in time.
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

/// An event's timestamp. A timestamp in the future counts as now.
fn time_ms(event: &Event, now: i64) -> Option<i64> {
    event.timestamp_ms.map(|at| at.min(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_identified_by_its_table_and_key() {
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
