//! What `projector status --output json` says, as far as the demo looks at it.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Status {
    pub(crate) projections: Vec<Projection>,
}

#[derive(Deserialize)]
pub(crate) struct Projection {
    pub(crate) name: String,
    /// Nothing that a reader could ask for is missing.
    pub(crate) fresh: bool,
    pub(crate) freshness_ms: Option<u64>,
    /// Why it stands still, if it does.
    pub(crate) halted: Option<String>,
    pub(crate) counters: Counters,
    pub(crate) ignored_by_code: BTreeMap<String, u64>,
    pub(crate) partitions: Vec<Partition>,
}

/// What became of the events before the checkpoints.
#[derive(Deserialize)]
pub(crate) struct Counters {
    pub(crate) read: u64,
    pub(crate) applied: u64,
    pub(crate) ignored: u64,
    pub(crate) parked: u64,
    pub(crate) waiting: u64,
    pub(crate) dead: u64,
    pub(crate) skipped: u64,
}

#[derive(Deserialize)]
pub(crate) struct Partition {
    pub(crate) log_end: Option<u64>,
}

impl Projection {
    /// The events in its topics; here no offset is without one.
    pub(crate) fn published(&self) -> u64 {
        self.partitions.iter().filter_map(|partition| partition.log_end).sum()
    }
}

impl Counters {
    /// Every event that was read has one fate.
    pub(crate) fn are_closed(&self) -> bool {
        self.read == self.applied + self.ignored + self.parked + self.waiting + self.dead + self.skipped
    }
}
