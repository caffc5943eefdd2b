//! What the live generation has read and a new one cannot: retention removed it from the log, the log is another
//! one, or the configured start lies behind it. Pure.
//!
//! An event has one offset, and not every offset has an event (a transaction's marker, a record that was
//! compacted): so events are counted as at most so many.

use std::collections::BTreeMap;

use projector_store::PartitionState;
use serde::Serialize;

use super::backfill::TOPIC;

/// Ranges that are named. Of more, the number is told.
const NAMED: usize = 8;

/// What is done about events that a new generation cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// They are told, and nothing is done.
    Refuse,
    /// An operator knows of them.
    Allow,
}

impl Gaps {
    pub fn of(allow: bool) -> Self {
        if allow { Self::Allow } else { Self::Refuse }
    }
}

/// Where a new generation begins to read a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    At(i64),
    /// There is no such partition any more, or its log is another one.
    Nowhere,
    /// It cannot be told now, for this reason.
    Unknown(String),
}

/// What a new generation cannot read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BeyondReach {
    /// All of them together, at most.
    pub events: i64,
    pub partitions: Vec<MissingRange>,
    /// Those of them that came from a file.
    pub from_file: i64,
    /// Why it is not known of other partitions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// By table: rows that readers see now, and those that they would see. Empty where nobody counted them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, [i64; 2]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingRange {
    pub topic: String,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    /// At most.
    pub events: i64,
}

impl BeyondReach {
    /// `live`: what the live generation has read. `begin`: where a new one begins in a partition; `None`: it is not
    /// meant to read that topic.
    pub fn of(live: &[PartitionState], begin: impl Fn(&str, i32) -> Option<Begin>) -> Self {
        let mut found = Self::default();
        for state in live {
            let read = state.counters.read;
            if state.topic == TOPIC {
                found.from_file += read;
                continue;
            }
            let end = match begin(&state.topic, state.partition) {
                None => continue,
                Some(Begin::At(offset)) => offset.min(state.checkpoint),
                Some(Begin::Nowhere) => state.checkpoint,
                Some(Begin::Unknown(why)) => {
                    found.unknown.push(format!("{}/{}: {why}", state.topic, state.partition));
                    continue;
                }
            };
            let events = read.min(end - state.start);
            if events > 0 {
                found.partitions.push(MissingRange {
                    topic: state.topic.clone(),
                    partition: state.partition,
                    first: state.start,
                    last: end - 1,
                    events,
                });
            }
        }
        found.events = found.from_file + found.partitions.iter().map(|range| range.events).sum::<i64>();
        found
    }

    pub fn is_empty(&self) -> bool {
        self.events == 0 && self.unknown.is_empty()
    }

    /// Why a generation is not begun or shown, unless it is allowed.
    pub fn refusal(&self, projection: &str) -> String {
        format!(
            "{}. To feed them from a file: `projector backfill {projection}`; to go on without them: --allow-gap with a --reason",
            self.to_text()
        )
    }

    pub fn to_text(&self) -> String {
        let mut words = Vec::new();
        if self.events > 0 {
            words.push(format!(
                "{} events at most, which the live generation has read, cannot be read again: {}",
                self.events,
                self.ranges()
            ));
        }
        if !self.unknown.is_empty() {
            words.push(format!(
                "whether all that the live generation has read can be read again is not known: {}",
                some(&self.unknown, "; ")
            ));
        }
        if !self.rows.is_empty() {
            let rows =
                self.rows.iter().map(|(table, [now, then])| format!("{table} {now} before, {then} after"));
            words.push(format!("rows: {}", rows.collect::<Vec<_>>().join("; ")));
        }
        words.join("; ")
    }

    fn ranges(&self) -> String {
        let range = |MissingRange { topic, partition, first, last, .. }: &MissingRange| {
            format!("offsets {first} to {last} of {topic}/{partition}")
        };
        let mut ranges: Vec<String> = self.partitions.iter().map(range).collect();
        if self.from_file > 0 {
            ranges.insert(0, format!("{} events of the file that it was fed from", self.from_file));
        }
        some(&ranges, ", ")
    }
}

/// The first of them, and how many there are more.
fn some(all: &[String], between: &str) -> String {
    let named = all[..all.len().min(NAMED)].join(between);
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_core::counters::Counters;

    fn state(topic: &str, start: i64, checkpoint: i64, read: i64) -> PartitionState {
        PartitionState {
            topic: topic.into(),
            partition: 0,
            checkpoint,
            start,
            before_start: 0,
            counters: Counters { read, ..Counters::default() },
            ignored_by_code: BTreeMap::new(),
            dead_by_code: BTreeMap::new(),
            skipped_by_code: BTreeMap::new(),
            paused: None,
        }
    }

    fn beyond(live: PartitionState, begin: Option<Begin>) -> BeyondReach {
        BeyondReach::of(&[live], |_, _| begin.clone())
    }

    #[test]
    fn what_the_log_lost_is_counted_up_to_where_the_live_one_is() {
        let found = beyond(state("t", 10, 100, 90), Some(Begin::At(40)));
        assert_eq!((found.events, found.partitions[0].first, found.partitions[0].last), (30, 10, 39));
        assert_eq!(beyond(state("t", 10, 100, 90), Some(Begin::At(500))).events, 90);
        assert_eq!(beyond(state("t", 10, 100, 90), Some(Begin::Nowhere)).events, 90);
        assert!(found.to_text().contains("30 events"), "{}", found.to_text());
    }

    #[test]
    fn nothing_is_missing_where_nothing_was_read_or_is_to_be_read() {
        for begin in [None, Some(Begin::At(0)), Some(Begin::At(10))] {
            assert!(beyond(state("t", 10, 100, 90), begin).is_empty());
        }
        assert!(beyond(state("t", 10, 10, 0), Some(Begin::At(40))).is_empty());
    }

    #[test]
    fn a_log_with_holes_has_fewer_events_than_offsets() {
        assert_eq!(beyond(state("t", 0, 100, 20), Some(Begin::At(90))).events, 20);
    }

    #[test]
    fn a_file_and_what_is_not_known_are_told() {
        assert_eq!(beyond(state(TOPIC, 0, 7, 7), None).from_file, 7);
        let unknown = beyond(state("t", 0, 7, 7), Some(Begin::Unknown("no leader".into())));
        assert!(!unknown.is_empty() && unknown.to_text().contains("t/0: no leader"));
    }
}
