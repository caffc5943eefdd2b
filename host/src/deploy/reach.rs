//! The events that the live generation has read and a new one cannot read: retention deleted them, the topic was
//! created again, or the configured start is after them. Pure.
//!
//! Not every offset has an event: a transaction's marker and a record that was compacted away have one too. So all
//! numbers of events here are upper bounds.

use std::collections::BTreeMap;

use projector_store::PartitionState;
use serde::Serialize;

use super::backfill::TOPIC;

/// How many ranges a text names. The others are only counted.
const NAMED: usize = 8;

/// What to do if a new generation cannot read events that the live one has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// Refuse the generation, and name the events.
    Refuse,
    /// Continue without them: an operator accepts it.
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
    /// The partition does not exist any more, or its topic was created again: none of the old events can be read.
    Nowhere,
    /// Unknown at the moment, for this reason.
    Unknown(String),
}

/// What a new generation cannot read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BeyondReach {
    /// Of the partitions and of the file together, at most.
    pub events: i64,
    pub partitions: Vec<MissingRange>,
    /// The events of the live generation's backfill file. Kafka does not have them.
    pub from_file: i64,
    /// Partitions for which it is unknown, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// By table: how many rows readers see now, and how many they would see. Empty if they were not counted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, [i64; 2]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingRange {
    pub topic: String,
    pub partition: i32,
    /// The first and the last offset of the range.
    pub first: i64,
    pub last: i64,
    /// How many events the range has, at most.
    pub events: i64,
}

impl BeyondReach {
    /// `live`: what the live generation has read. `begin`: where a new generation begins to read a partition. `None`:
    /// it does not read the topic, so nothing of it is missing.
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

    /// Why a generation is not built or promoted under [`Gaps::Refuse`], and what the operator can do.
    pub fn refusal(&self, projection: &str) -> String {
        format!(
            "{}. To read them from a file: `projector backfill {projection}`; to continue without them: --allow-gap with a --reason",
            self.to_text()
        )
    }

    pub fn to_text(&self) -> String {
        let mut words = Vec::new();
        if self.events > 0 {
            words.push(format!(
                "at most {} events that the live generation has read cannot be read again: {}",
                self.events,
                self.ranges()
            ));
        }
        if !self.unknown.is_empty() {
            words.push(format!(
                "it is unknown whether these can be read again: {}",
                first_of(&self.unknown, "; ")
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
            ranges.insert(0, format!("{} events of the file of its backfill", self.from_file));
        }
        first_of(&ranges, ", ")
    }
}

/// Joins the first of these texts, and counts the others.
fn first_of(all: &[String], separator: &str) -> String {
    let named = all[..all.len().min(NAMED)].join(separator);
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
    fn missing_events_are_counted_up_to_the_live_checkpoint() {
        let found = beyond(state("t", 10, 100, 90), Some(Begin::At(40)));
        assert_eq!((found.events, found.partitions[0].first, found.partitions[0].last), (30, 10, 39));
        assert_eq!(beyond(state("t", 10, 100, 90), Some(Begin::At(500))).events, 90);
        assert_eq!(beyond(state("t", 10, 100, 90), Some(Begin::Nowhere)).events, 90);
        assert!(found.to_text().contains("30 events"), "{}", found.to_text());
    }

    #[test]
    fn nothing_is_missing_if_nothing_was_read_or_the_topic_is_not_read() {
        for begin in [None, Some(Begin::At(0)), Some(Begin::At(10))] {
            assert!(beyond(state("t", 10, 100, 90), begin).is_empty());
        }
        assert!(beyond(state("t", 10, 10, 0), Some(Begin::At(40))).is_empty());
    }

    #[test]
    fn no_more_events_are_missing_than_were_read() {
        assert_eq!(beyond(state("t", 0, 100, 20), Some(Begin::At(90))).events, 20);
    }

    #[test]
    fn the_events_of_a_file_and_unknown_partitions_are_named() {
        assert_eq!(beyond(state(TOPIC, 0, 7, 7), None).from_file, 7);
        let unknown = beyond(state("t", 0, 7, 7), Some(Begin::Unknown("no leader".into())));
        assert!(!unknown.is_empty() && unknown.to_text().contains("t/0: no leader"));
    }
}
