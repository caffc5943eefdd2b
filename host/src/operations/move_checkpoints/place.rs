//! A partition in the old cluster and in the new one, and the offset at which to continue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use projector_config::rfc3339;
use projector_core::checkpoint::{Checkpoint, Identity, Watermarks};
use projector_core::event::Partition;
use projector_kafka::KafkaAdmin;
use projector_store::moves::Move;

use super::super::OperationError;
use super::{NewCheckpoint, OldCheckpoint, Overlap, PartitionMove, Target};

/// A partition of the generation, in the old cluster and in the new one.
pub(super) struct Place {
    pub(super) partition: Partition,
    /// The checkpoint in the old cluster.
    pub(super) from: Checkpoint,
    /// The first and the last offset in the new cluster.
    pub(super) marks: Watermarks,
    /// The ids of the new cluster and its topic.
    pub(super) identity: Identity,
    /// The time of the last event that was read, in milliseconds since 1970.
    pub(super) last: Option<i64>,
}

/// Compares the checkpoints with the cluster of the configuration. Returns the partitions to be moved, the partitions
/// whose checkpoint belongs to this cluster already, and problems: partitions that this cluster does not have.
pub(super) async fn places(
    log: &KafkaAdmin,
    checkpoints: Vec<(Partition, Checkpoint)>,
) -> Result<(Vec<Place>, Vec<String>, Vec<String>), OperationError> {
    let topics: BTreeSet<Arc<str>> =
        checkpoints.iter().map(|(partition, _)| partition.topic.clone()).collect();
    let (mut marks, mut identities) = (BTreeMap::new(), BTreeMap::new());
    for topic in topics {
        if let Some(found) = log.topic(topic.clone()).await? {
            marks.extend(found);
            identities.extend(log.identities(vec![topic]).await?);
        }
    }
    let (mut places, mut stay, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, from) in checkpoints {
        let identity = identities.get(&*partition.topic).cloned().unwrap_or_default();
        match marks.get(&partition) {
            None => problems.push(format!(
                "the new cluster has no partition {partition}: mirror it there under the same name, with at least as many partitions"
            )),
            Some(_) if !from.identity.differs_from(&identity) => stay.push(partition.to_string()),
            Some(marks) => places.push(Place { partition, from, marks: *marks, identity, last: None }),
        }
    }
    Ok((places, stay, problems))
}

/// Asks the old cluster for the time of the last event that was read of each partition.
pub(super) async fn last_read(old: &KafkaAdmin, places: &mut [Place]) -> Result<(), OperationError> {
    let topics: BTreeSet<Arc<str>> = places.iter().map(|place| place.partition.topic.clone()).collect();
    let identities = old.identities(topics.into_iter().collect()).await?;
    for place in &*places {
        let found = identities.get(&*place.partition.topic).cloned().unwrap_or_default();
        if place.from.identity.differs_from(&found) {
            return Err(OperationError::Failed(format!(
                "the named old cluster is not the one of the checkpoints: {} was read in cluster {} with topic id {}, but the named cluster is {} and its topic id is {}",
                place.partition,
                shown(&place.from.identity.cluster_id),
                shown(&place.from.identity.topic_id),
                shown(&found.cluster_id),
                shown(&found.topic_id)
            )));
        }
    }
    let asked = places.iter().map(|place| (place.partition.clone(), place.from.next_offset)).collect();
    for (place, last) in places.iter_mut().zip(old.times_before(asked).await?) {
        place.last = last;
    }
    Ok(())
}

fn shown(id: &Option<String>) -> &str {
    id.as_deref().unwrap_or("(unknown)")
}

/// The next offset to read in the new cluster, with a remark. The inner error says why there is none.
pub(super) async fn find(
    log: &KafkaAdmin,
    place: &Place,
    target: &Target,
) -> Result<Result<(i64, Option<String>), String>, OperationError> {
    let Place { partition, marks: Watermarks { low, high }, .. } = place;
    let (last, overlap) = match target {
        Target::Map(map) => {
            let mapped = map.iter().find(|mapped| mapped.partition == *partition);
            return Ok(match mapped.map(|mapped| mapped.offset) {
                None => Err(format!("the map has no offset for {partition}")),
                Some(offset) if !(*low..=*high).contains(&offset) => Err(format!(
                    "the map says {offset} for {partition}, but in the new cluster its offsets go from {low} to {high}"
                )),
                Some(offset) => Ok((offset, None)),
            });
        }
        Target::Time { last, overlap } => (*last, *overlap),
    };
    let Some(last) = last.or(place.last) else {
        // No event was read, or the old cluster has deleted all that were read.
        let remark = format!(
            "the old cluster has no event before the checkpoint: the new one is read from its first offset, {low}"
        );
        return Ok(Ok((*low, Some(remark))));
    };
    let from = last.saturating_sub(i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX)).max(0);
    Ok(Ok(match log.offset_at(partition.clone(), from).await? {
        None => {
            let remark = format!("the new cluster has no record after {}: it may be behind", rfc3339(from));
            (*high, Some(remark))
        }
        Some(offset) if offset <= *low && *low > 0 => {
            let remark = format!("the new cluster may lack records from {} on", rfc3339(from));
            (*low, Some(remark))
        }
        Some(offset) => (offset.clamp(*low, (*high).max(*low)), None),
    }))
}

impl Place {
    /// The move of the checkpoint to this offset of the new cluster.
    pub(super) fn move_to(&self, offset: i64) -> Move {
        Move {
            partition: self.partition.clone(),
            from: self.from.clone(),
            to: Checkpoint { next_offset: offset, identity: self.identity.clone() },
            low: self.marks.low,
        }
    }

    /// `ahead`: the new checkpoint minus the offset after the last event that was read. Negative if events are read
    /// again.
    pub(super) fn to_partition_move(
        &self,
        offset: Option<i64>,
        ahead: Option<i64>,
        remark: Option<String>,
    ) -> PartitionMove {
        PartitionMove {
            topic: self.partition.topic.to_string(),
            partition: self.partition.number,
            old: OldCheckpoint {
                offset: self.from.next_offset,
                cluster: self.from.identity.cluster_id.clone(),
                topic_id: self.from.identity.topic_id.clone(),
            },
            new: NewCheckpoint {
                offset,
                cluster: self.identity.cluster_id.clone(),
                topic_id: self.identity.topic_id.clone(),
                log_begin: self.marks.low,
                log_end: self.marks.high,
            },
            last_read: self.last.map(rfc3339),
            overlap: Overlap {
                read_again: ahead.map(|ahead| (-ahead).max(0)),
                never_read: ahead.map(|ahead| ahead.max(0)),
            },
            remark,
        }
    }
}
