//! `projector status --output json`, as far as proofs need it, and the books that must close.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fold::Books;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) projections: Vec<Projection>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Projection {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) generation: i32,
    pub(crate) role: String,
    /// Generations beside the live one.
    #[serde(default)]
    pub(crate) beside: Vec<Projection>,
    pub(crate) digest: String,
    pub(crate) fresh: bool,
    pub(crate) freshness_ms: Option<i64>,
    pub(crate) lag: i64,
    pub(crate) halted: Option<Blocker>,
    pub(crate) counters: Counters,
    /// Offsets that were in the log before the configured start.
    pub(crate) before_start: i64,
    pub(crate) ignored_by_code: BTreeMap<String, u64>,
    pub(crate) skipped_by_code: BTreeMap<String, u64>,
    pub(crate) dead_letters: u64,
    pub(crate) deadlocks: u64,
    pub(crate) topics: Vec<SourceTopic>,
    pub(crate) partitions: Vec<Partition>,
}

/// A physical topic that is read, or was.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SourceTopic {
    pub(crate) topic: String,
    pub(crate) logical: Vec<String>,
    pub(crate) since_ms: Option<i64>,
    pub(crate) left_ms: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The next offset to read.
    pub(crate) checkpoint: Option<i64>,
    /// The first offset that was read.
    pub(crate) start: Option<i64>,
    pub(crate) before_start: i64,
    /// Where a reader of committed events ends. None of a file has these.
    #[serde(default)]
    pub(crate) log_end: i64,
    #[serde(default)]
    pub(crate) lag: i64,
    pub(crate) freshness_ms: Option<i64>,
    pub(crate) open_transaction_ms: Option<i64>,
    pub(crate) counters: Counters,
    /// Why it is not read.
    pub(crate) paused: Option<Blocker>,
}

/// Why something stands still.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Blocker {
    pub(crate) kind: String,
    pub(crate) reason: String,
    pub(crate) advice: String,
}

impl Blocker {
    /// Whether reason or advice say all of these.
    pub(crate) fn says(&self, words: &[&str]) -> bool {
        words.iter().all(|word| self.reason.contains(word) || self.advice.contains(word))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Counters {
    pub(crate) read: u64,
    pub(crate) applied: u64,
    pub(crate) ignored: u64,
    pub(crate) parked: u64,
    pub(crate) waiting: u64,
    pub(crate) dead: u64,
    pub(crate) skipped: u64,
}

impl Counters {
    fn accounted_for(&self) -> u64 {
        self.applied + self.ignored + self.parked + self.waiting + self.dead + self.skipped
    }
}

/// Whether every event in the log was read once, and what became of it was counted. An error says
/// what is wrong.
pub(crate) fn check_books(projection: &Projection, expected: &Books) -> Result<(), String> {
    let Projection { name, counters, .. } = projection;
    let open: Vec<&Partition> = projection
        .partitions
        .iter()
        .filter(|partition| partition.counters.read != partition.counters.accounted_for())
        .collect();
    if !open.is_empty() {
        return Err(format!("{name}: the books of these partitions are open: {open:#?}"));
    }
    for partition in &projection.partitions {
        let key = (partition.topic.clone(), partition.partition);
        let events = expected.read.get(&key).copied().unwrap_or_default();
        if partition.counters.read != events {
            return Err(format!(
                "{name}: {} [{}] has {events} events, and {} were read",
                partition.topic, partition.partition, partition.counters.read
            ));
        }
    }
    let events: u64 = expected.read.values().sum();
    let ignored: u64 = expected.ignored.values().sum();
    let closed = Counters {
        read: events,
        applied: events - ignored,
        ignored,
        parked: 0,
        waiting: 0,
        dead: 0,
        skipped: 0,
    };
    if *counters != closed {
        return Err(format!("{name}: the counters are {counters:?}, expected {closed:?}"));
    }
    if projection.ignored_by_code != expected.ignored || projection.dead_letters != 0 {
        return Err(format!(
            "{name}: ignored {:?}, expected {:?}; {} dead letters",
            projection.ignored_by_code, expected.ignored, projection.dead_letters
        ));
    }
    Ok(())
}
