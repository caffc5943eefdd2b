//! Decides where to start reading a partition, by comparing the checkpoint with the log. Pure.
//!
//! Offsets mean nothing in another log, and a topic's name or a broker's address may stand for another log
//! after a topic was recreated or a cluster replaced. So a checkpoint stores the topic's id and the
//! cluster's id. Invariant: if the ids differ, or if the log does not hold the checkpoint's offset, reading
//! does not start, and an operator must decide.

use std::collections::BTreeMap;
use std::fmt;

use crate::event::Partition;

/// The next offset of each partition.
pub type Offsets = BTreeMap<Partition, i64>;

/// Partitions as people read them: `orders/0, orders/1`.
pub fn partitions_text(partitions: &[Partition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How far a projection has come in one partition, as stored with its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The next offset to read. Every event before it is in the read model or counted (as ignored, dead and
    /// so on).
    pub next_offset: i64,
    pub identity: Identity,
}

/// Which log a checkpoint belongs to. Names and addresses are not enough: a topic can be recreated, and an
/// address can point to another cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Kafka's topic id. Brokers before 2.8 have none.
    pub topic_id: Option<String>,
    pub cluster_id: Option<String>,
}

/// The cluster id of a file. No Kafka cluster has this id.
pub const FILE: &str = "file";

impl Identity {
    /// The identity of a file, by the SHA-256 of its content.
    pub fn of_file(sha256: &str) -> Self {
        Self { topic_id: Some(sha256.to_owned()), cluster_id: Some(FILE.to_owned()) }
    }

    /// Whether these are different logs. An unknown id on either side proves nothing.
    pub fn differs_from(&self, other: &Identity) -> bool {
        let differ = |one: &Option<String>, other: &Option<String>| matches!((one, other), (Some(one), Some(other)) if one != other);
        differ(&self.topic_id, &other.topic_id) || differ(&self.cluster_id, &other.cluster_id)
    }
}

/// The first offset that the log still holds, and the offset after its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    pub low: i64,
    pub high: i64,
}

/// Where to start reading, or why not to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// There is no checkpoint: start at the first offset of the log.
    Beginning(i64),
    /// Start at the checkpoint.
    Resume(i64),
    /// The log is not the log that the checkpoint belongs to. An operator must decide what to do.
    Mismatch(Mismatch),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Retention removed events that were not read.
    Lost {
        from: i64,
        to: i64,
    },
    /// The log ends before the checkpoint.
    Ahead {
        checkpoint: i64,
        end: i64,
    },
    OtherTopic {
        stored: String,
        found: String,
    },
    OtherCluster {
        stored: String,
        found: String,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Lost { from, to } => write!(
                f,
                "offsets {from} to {} were removed from the log before they were read: those events are lost to this projection",
                to - 1
            ),
            Mismatch::Ahead { checkpoint, end } => write!(
                f,
                "the checkpoint is {checkpoint}, and the log ends at {end}: the log was truncated, or is another log"
            ),
            Mismatch::OtherTopic { stored, found } => write!(
                f,
                "the topic was recreated: its id was {stored} and is {found}, so the same offsets are other events"
            ),
            Mismatch::OtherCluster { stored, found } => {
                write!(f, "the brokers belong to another cluster: its id was {stored} and is {found}")
            }
        }
    }
}

/// The first checkpoint of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The first offset that is read.
    pub offset: i64,
    /// Offsets in the log before it. They are not read, and are counted as before the start.
    pub before_start: i64,
    pub identity: Identity,
}

impl Beginning {
    /// The beginning of a log whose identity is unknown.
    pub fn at(offset: i64) -> Self {
        Self { offset, before_start: 0, identity: Identity::default() }
    }
}

/// Decides where to start reading a partition, from its checkpoint, the watermarks of its log, and the log's
/// identity. An unknown id on either side proves nothing.
pub fn start(checkpoint: Option<&Checkpoint>, log: Watermarks, found: &Identity) -> Start {
    let Some(checkpoint) = checkpoint else { return Start::Beginning(log.low) };
    let stored = &checkpoint.identity;
    let differ = |stored: &Option<String>, found: &Option<String>| match (stored, found) {
        (Some(stored), Some(found)) if stored != found => Some((stored.clone(), found.clone())),
        _ => None,
    };
    if let Some((stored, found)) = differ(&stored.cluster_id, &found.cluster_id) {
        return Start::Mismatch(Mismatch::OtherCluster { stored, found });
    }
    if let Some((stored, found)) = differ(&stored.topic_id, &found.topic_id) {
        return Start::Mismatch(Mismatch::OtherTopic { stored, found });
    }
    let next = checkpoint.next_offset;
    if next < log.low {
        return Start::Mismatch(Mismatch::Lost { from: next, to: log.low });
    }
    if next > log.high {
        return Start::Mismatch(Mismatch::Ahead { checkpoint: next, end: log.high });
    }
    Start::Resume(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(topic: &str, cluster: &str) -> Identity {
        Identity { topic_id: Some(topic.into()), cluster_id: Some(cluster.into()) }
    }

    fn at(next_offset: i64) -> Checkpoint {
        Checkpoint { next_offset, identity: identity("t", "c") }
    }

    const LOG: Watermarks = Watermarks { low: 10, high: 20 };

    #[test]
    fn without_a_checkpoint_reading_begins_at_the_beginning() {
        assert_eq!(start(None, LOG, &identity("t", "c")), Start::Beginning(10));
    }

    #[test]
    fn a_checkpoint_inside_the_log_is_resumed() {
        for next in [10, 15, 20] {
            assert_eq!(start(Some(&at(next)), LOG, &identity("t", "c")), Start::Resume(next));
        }
    }

    #[test]
    fn a_checkpoint_that_does_not_fit_the_log_is_refused_with_the_reason() {
        let refused = |next, found: Identity| match start(Some(&at(next)), LOG, &found) {
            Start::Mismatch(mismatch) => mismatch.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(refused(4, identity("t", "c")).starts_with("offsets 4 to 9 were removed"));
        assert!(refused(21, identity("t", "c")).contains("ends at 20"));
        assert!(refused(15, identity("u", "c")).contains("its id was t and is u"));
        assert!(refused(15, identity("t", "d")).contains("another cluster: its id was c and is d"));
    }

    #[test]
    fn an_unknown_id_proves_nothing() {
        assert_eq!(start(Some(&at(15)), LOG, &Identity::default()), Start::Resume(15));
        assert!(!identity("t", "c").differs_from(&Identity::default()));
        assert!(identity("t", "c").differs_from(&identity("u", "c")));
        assert!(identity("t", "c").differs_from(&identity("t", "d")));
    }
}
