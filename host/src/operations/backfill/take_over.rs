//! Where the log takes over from a backfill's file.

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

/// The offset at which the log takes over, by partition: after the last offset that the file has of it, or else the
/// beginning of the log. A partition that the brokers do not describe now is left to the hosts, unless the file has
/// offsets of its topic.
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
            "the file has offsets of {missing}, which does not exist: they are of another log; leave `partition` and `offset` out, and the log is read from its beginning"
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
                "the file has offset {} of {partition}, and the log ends at {}: it is another log; leave `partition` and `offset` out, and it is read from its beginning",
                next - 1,
                marks.high
            )));
        }
        if let Some(offsets) = of_file {
            missing.in_file(&partition, offsets);
        }
        // Of a file without offsets, it is unknown which events it has.
        if next < marks.low && has_offsets(&partition.topic) {
            missing.add(&partition, &(next..marks.low));
        }
        taken.push((partition, next.max(marks.low), identity));
    }
    match missing.is_empty() || allow_gap {
        true => Ok(taken),
        false => Err(OperationError::Failed(format!(
            "the file, and the log after it, do not have {}: add them to the file, or go on without them with --allow-gap. An offset without an event (a transaction's marker, a record that was compacted) is missing as well",
            missing.to_text()
        ))),
    }
}

/// Offsets that are in neither the file nor what is read of the log.
#[derive(Default)]
struct Missing {
    /// The first ranges.
    named: Vec<String>,
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
