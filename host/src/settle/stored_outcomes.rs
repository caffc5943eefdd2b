//! The outcomes of stored events that were tried again: each is done, or is parked or waits once more. The counters of
//! its partition follow.

use std::collections::BTreeMap;

use projector_core::counters::OutcomeCounts;
use projector_core::event::Partition;
use projector_core::outcome::Outcome;
use projector_store::release::WaitsOn;

/// The outcomes of stored events, in the form in which the store writes them.
#[derive(Default)]
pub(super) struct StoredOutcomes<'o> {
    /// Events that are done, by their number in the store. The store deletes them.
    pub(super) settled: Vec<i64>,
    /// Events that stay stored: parked, or waiting for a row.
    pub(super) waits_on: Vec<WaitsOn<'o>>,
    /// What to add to the counters of each partition.
    pub(super) shifts: BTreeMap<Partition, OutcomeCounts>,
}

impl<'o> StoredOutcomes<'o> {
    /// Records an outcome. `waited`: the event waited for a row. Otherwise it was parked behind another event.
    pub(super) fn record(&mut self, id: i64, partition: &Partition, waited: bool, outcome: &'o Outcome<'o>) {
        let books = self.shifts.entry(partition.clone()).or_default();
        match waited {
            true => books.waiting -= 1,
            false => books.parked -= 1,
        }
        books.count(outcome);
        match outcome {
            Outcome::Park(key) => self.waits_on.push(WaitsOn { id, key: *key, row: None }),
            Outcome::Wait { row, line } => self.waits_on.push(WaitsOn { id, key: *line, row: Some(row) }),
            Outcome::Apply(_) | Outcome::Ignore { .. } | Outcome::Dead { .. } => self.settled.push(id),
        }
    }
}
