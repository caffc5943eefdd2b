//! What became of stored events: they are done, or wait for something else, and the counters follow.

use std::collections::BTreeMap;

use projector_core::counters::OutcomeCounts;
use projector_core::event::Partition;
use projector_core::outcome::Outcome;
use projector_store::operator::WaitsOn;

/// The outcomes of stored events, as the store needs them.
#[derive(Default)]
pub(super) struct KeptEvents<'o> {
    pub(super) settled: Vec<i64>,
    pub(super) waits_on: Vec<WaitsOn<'o>>,
    pub(super) shifts: BTreeMap<Partition, OutcomeCounts>,
}

impl<'o> KeptEvents<'o> {
    /// Records an outcome. `waited`: the event waited for a row, and not behind another event.
    pub(super) fn became(&mut self, id: i64, partition: &Partition, waited: bool, outcome: &'o Outcome<'o>) {
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
