//! Stores the first checkpoint of a partition.
//!
//! Partitions that existed when the generation started begin at the configured start. Partitions that were added later
//! begin at offset 0. All hosts agree on which partitions existed, because the first host stores the list, and the
//! others read it.

use std::collections::BTreeSet;
use std::sync::Arc;

use projector_config::StartAt;
use projector_core::checkpoint::{Beginning, Identity, Watermarks};
use projector_core::event::Partition;
use projector_core::failure::FailureKind;
use projector_core::generation::Generation;
use projector_kafka::{KafkaAdmin, LogError};
use projector_store::Store;

use super::Unknown;
use crate::start_offsets::Starts;

/// A partition number that stands for all partitions of a topic: when the generation started, the partitions of this
/// topic were unknown.
const ALL_PARTITIONS: i32 = -1;

pub(super) struct FirstCheckpoints {
    generation: Generation,
    store: Arc<dyn Store>,
    log: KafkaAdmin,
    starts: Starts,
    /// The partitions that existed when the generation started. `None`: not read from the store yet.
    began_with: Option<BTreeSet<Partition>>,
}

impl FirstCheckpoints {
    pub(super) fn new(
        generation: Generation,
        store: Arc<dyn Store>,
        log: KafkaAdmin,
        starts: Starts,
    ) -> Self {
        Self { generation, store, log, starts, began_with: None }
    }

    /// Stores the first checkpoint of a partition. If another host has stored one before, that one stays.
    pub(super) async fn store(
        &mut self,
        partition: &Partition,
        marks: Watermarks,
        identity: &Identity,
    ) -> Result<(), Unknown> {
        let offset = match self.existed(partition).await? {
            // The partition was added later, so it is read from offset 0. If its log begins after offset 0, events are
            // lost: the next comparison of checkpoint and log reports this.
            false => 0,
            true => {
                let (projection, besides) = (&self.generation.projection, Some(self.generation.id));
                let earlier = self.store.earlier_starts(projection, besides).await?;
                self.starts.find(&self.log, partition, (marks, identity), &earlier).await??
            }
        };
        let before_start = (offset - marks.low).max(0);
        let beginning = Beginning { offset, before_start, identity: identity.clone() };
        self.store.begin_partition(&self.generation, partition, &beginning).await?;
        if before_start > 0 {
            let projection = &self.generation.projection;
            tracing::info!(projection, %partition, offset, before_start, "reading starts after the beginning of the log, as configured");
        }
        Ok(())
    }

    /// Whether a partition existed when the generation started.
    async fn existed(&mut self, partition: &Partition) -> Result<bool, Unknown> {
        if self.began_with.is_none() {
            self.began_with = self.store.began_with(&self.generation).await?;
        }
        let began_with = match self.began_with.take() {
            Some(began_with) => began_with,
            None => {
                let now = self.existing().await?;
                let start = self.starts.to_string();
                self.store.begin_generation(&self.generation, &now, &start).await?
            }
        };
        let began_with = self.began_with.insert(began_with);
        let unknown = Partition::new(partition.topic.clone(), ALL_PARTITIONS);
        Ok(began_with.contains(partition) || began_with.contains(&unknown))
    }

    /// The partitions of all topics that exist now. A topic that does not exist has none. If the partitions of a topic
    /// are unknown, and it is read from its beginning anyway, it counts as if all of its partitions existed. Otherwise
    /// an unknown topic is an error, and this is tried again later.
    async fn existing(&self) -> Result<BTreeSet<Partition>, Unknown> {
        let mut existing = BTreeSet::new();
        let topics = self.log.topics(self.starts.topics()).await?.into_iter().collect();
        for (topic, partitions) in self.log.partitions(topics).await? {
            match partitions {
                Ok(partitions) => existing.extend(partitions),
                Err(fault) if fault.kind() == FailureKind::NoTopic => {}
                Err(fault) if self.starts.of_topic(&topic) == StartAt::Earliest && !fault.is_everywhere() => {
                    existing.insert(Partition::new(topic, ALL_PARTITIONS));
                }
                Err(fault) => return Err(LogError::Fault(fault).into()),
            }
        }
        Ok(existing)
    }
}
