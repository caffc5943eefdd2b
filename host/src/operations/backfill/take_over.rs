//! From which offsets Kafka is read after a backfill's file.

use std::collections::BTreeSet;
use std::ops::Range;

use projector_core::checkpoint::Identity;
use projector_core::event::Partition;
use projector_core::failure::FailureKind;
use projector_core::topics::TopicMapping;
use projector_kafka::{KafkaAdmin, LogError};

use super::super::OperationError;
use crate::deploy::backfill::{OffsetSet, Scanned};

/// Ranges of missing offsets that an error names. Further ones are only counted.
const NAMED: usize = 8;

/// The first offset to read from Kafka, by partition: the one after the last offset that the file has of the
/// partition, or else the first offset in Kafka. A partition that the brokers do not describe now is left to the
/// hosts, unless the file has offsets of its topic. An error if the offsets in between are missing, and no gap is
/// allowed.
pub(super) async fn take_over(
    log: &KafkaAdmin,
    mapping: &TopicMapping,
    scanned: &Scanned,
    allow_gap: bool,
) -> Result<Vec<(Partition, i64, Identity)>, OperationError> {
    let has_offsets = |topic: &str| scanned.offsets.keys().any(|partition| *partition.topic == *topic);
    let mut existing: BTreeSet<Partition> = BTreeSet::new();
    for (topic, partitions) in log.partitions(log.topics(mapping).await?.into_iter().collect()).await? {
        match partitions {
            Ok(partitions) => existing.extend(partitions),
            Err(fault) if has_offsets(&topic) && fault.kind() != FailureKind::NoTopic => {
                return Err(LogError::Fault(fault).into());
            }
            Err(_) => {}
        }
    }
    if let Some(missing) = scanned.offsets.keys().find(|partition| !existing.contains(*partition)) {
        return Err(OperationError::Failed(format!(
            "the file has offsets of {missing}, which does not exist in Kafka: the offsets are of another topic or cluster. Remove `partition` and `offset` from the lines; then Kafka is read from the first offset"
        )));
    }
    let existing: Vec<Partition> = existing.into_iter().collect();
    let logs = log.inspect_each(existing.clone()).await?;
    let (mut taken, mut missing) = (Vec::new(), Missing::default());
    for (partition, log) in existing.into_iter().zip(logs) {
        let of_file = scanned.offsets.get(&partition);
        let (marks, identity) = match log {
            Ok(log) => log,
            Err(fault) if has_offsets(&partition.topic) => return Err(LogError::Fault(fault).into()),
            Err(_) => continue,
        };
        let next = of_file.map_or(0, OffsetSet::end);
        if next > marks.high {
            return Err(OperationError::Failed(format!(
                "the file has offset {} of {partition}, which ends at {} in Kafka: the offsets are of another topic or cluster. Remove `partition` and `offset` from the lines; then Kafka is read from the first offset",
                next - 1,
                marks.high
            )));
        }
        if let Some(offsets) = of_file {
            missing.in_file(&partition, offsets);
        }
        // If the file has no offsets of the topic, it is unknown which events it has: nothing can be reported as
        // missing.
        if next < marks.low && has_offsets(&partition.topic) {
            missing.add(&partition, &(next..marks.low));
        }
        taken.push((partition, next.max(marks.low), identity));
    }
    match missing.is_empty() || allow_gap {
        true => Ok(taken),
        false => Err(OperationError::Failed(format!(
            "neither the file nor Kafka has {}: add these events to the file, or continue without them by --allow-gap. Offsets that have no event (a transaction's marker, a record that was compacted away) are named as well",
            missing.to_text()
        ))),
    }
}

/// Offsets that neither the file has nor Kafka.
#[derive(Default)]
struct Missing {
    /// The first ranges, as text.
    named: Vec<String>,
    /// The number of further ranges.
    more: u64,
}

impl Missing {
    fn in_file(&mut self, partition: &Partition, offsets: &OffsetSet) {
        let (holes, more) = offsets.holes();
        holes.iter().for_each(|hole| self.add(partition, hole));
        self.more += more;
    }

    fn add(&mut self, partition: &Partition, offsets: &Range<i64>) {
        match self.named.len() < NAMED {
            true => {
                let (first, last) = (offsets.start, offsets.end - 1);
                self.named.push(format!("offsets {first} to {last} of {partition}"));
            }
            false => self.more += 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.more == 0
    }

    fn to_text(&self) -> String {
        let named = self.named.join(", ");
        match self.more {
            0 => named,
            more => format!("{named} and {more} more ranges"),
        }
    }
}
