//! A partition in the old cluster and in the new one, and where to read on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use projector_config::rfc3339;
use projector_core::checkpoint::{Checkpoint, Identity, Watermarks};
use projector_core::event::Partition;
use projector_kafka::KafkaAdmin;
use projector_store::moves::Move;

use super::super::OperationError;
use super::{PartitionMove, Target};

/// A partition of the generation, in the old log and in the new one.
pub(super) struct Place {
    pub(super) partition: Partition,
    pub(super) from: Checkpoint,
    pub(super) marks: Watermarks,
    pub(super) identity: Identity,
    /// The time of the last event that was read.
    pub(super) last: Option<i64>,
}

/// The partitions that are of another log than the one that the configuration names; those that are not; and
/// what the new cluster lacks.
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
                "the old cluster that was named is not the one of the checkpoints: {} was read in cluster {} with topic id {}, and there it is cluster {} and topic id {}",
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

/// The next offset to read in the new log, and what is to be said of it; or why there is none.
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
                    "the map says {offset} for {partition}, and the new log goes from {low} to {high}"
                )),
                Some(offset) => Ok((offset, None)),
            });
        }
        Target::Time { last, overlap } => (*last, *overlap),
    };
    let Some(last) = last.or(place.last) else {
        // No event was read, or the old log holds none of them any more.
        let remark = format!(
            "the old log holds no event before the checkpoint: the new one is read from its beginning, {low}"
        );
        return Ok(Ok((*low, Some(remark))));
    };
    let from = last.saturating_sub(i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX)).max(0);
    Ok(Ok(match log.offset_at(partition.clone(), from).await? {
        None => {
            (*high, Some(format!("no record of the new log is as young as {}: is it behind?", rfc3339(from))))
        }
        Some(offset) if offset <= *low && *low > 0 => {
            let remark = format!("the new log may not reach back to {}", rfc3339(from));
            (*low, Some(remark))
        }
        Some(offset) => (offset.clamp(*low, (*high).max(*low)), None),
    }))
}

impl Place {
    pub(super) fn to(&self, offset: i64) -> Move {
        Move {
            partition: self.partition.clone(),
            from: self.from.clone(),
            to: Checkpoint { next_offset: offset, identity: self.identity.clone() },
            low: self.marks.low,
        }
    }

    /// `ahead`: how many offsets behind the last event that was read the new checkpoint is.
    pub(super) fn shown(
        &self,
        offset: Option<i64>,
        ahead: Option<i64>,
        remark: Option<String>,
    ) -> PartitionMove {
        PartitionMove {
            topic: self.partition.topic.to_string(),
            partition: self.partition.number,
            old_offset: self.from.next_offset,
            old_cluster: self.from.identity.cluster_id.clone(),
            old_topic_id: self.from.identity.topic_id.clone(),
            new_offset: offset,
            new_cluster: self.identity.cluster_id.clone(),
            new_topic_id: self.identity.topic_id.clone(),
            log_begin: self.marks.low,
            log_end: self.marks.high,
            last_read: self.last.map(rfc3339),
            read_again: ahead.map(|ahead| (-ahead).max(0)),
            never_read: ahead.map(|ahead| ahead.max(0)),
            remark,
        }
    }
}
