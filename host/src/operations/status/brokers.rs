//! Asks the brokers about a generation's topics.

use std::sync::Arc;

use projector_core::checkpoint::{Identity, Watermarks};
use projector_core::event::Partition;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::topics::TopicMapping;
use projector_kafka::{KafkaAdmin, KafkaFault, LogError};
use projector_store::checkpoints::EarlierStarts;
use projector_store::source_topics::RecordedTopic;

use crate::start_offsets::Starts;

/// The brokers. Once none of them responds, they are not asked again: each further question would wait for its
/// timeout.
pub(super) struct Brokers {
    pub(super) log: KafkaAdmin,
    /// Why no broker responds.
    pub(super) gone: Option<Blocker>,
}

impl Brokers {
    pub(super) fn new(log: KafkaAdmin) -> Self {
        Self { log, gone: None }
    }

    /// The topics of a generation. If the brokers do not respond: the topics that the store has recorded for it.
    pub(super) async fn topics(
        &mut self,
        mapping: &TopicMapping,
        recorded: &[RecordedTopic],
    ) -> Vec<Arc<str>> {
        if self.gone.is_none() {
            match self.log.topics(mapping).await {
                Ok(topics) => return topics,
                Err(error) => self.gone = Some(Blocker::new(error.kind(), &error)),
            }
        }
        let last = recorded.iter().filter(|recorded| recorded.left_at.is_none());
        mapping.topics(last.map(|recorded| &*recorded.topic))
    }

    /// The partitions of a topic, each with its first and last offset, or the reason why they are unknown.
    /// `was_read`: events of the topic are in the read model.
    pub(super) async fn topic(
        &mut self,
        topic: Arc<str>,
        was_read: bool,
    ) -> Result<Vec<(Partition, Result<Watermarks, Blocker>)>, Blocker> {
        if let Some(gone) = &self.gone {
            return Err(gone.clone());
        }
        match self.log.topic_each(topic).await {
            Ok(partitions) => {
                let blocker = |fault: KafkaFault| Blocker::new(fault.kind(), fault);
                Ok(partitions.into_iter().map(|(at, marks)| (at, marks.map_err(blocker))).collect())
            }
            Err(error) => {
                let error = match error {
                    LogError::Fault(fault) if was_read => LogError::Fault(fault.of_topic_read_before()),
                    error => error,
                };
                let blocker = Blocker::new(error.kind(), &error);
                if matches!(&error, LogError::Fault(fault) if fault.is_everywhere()) {
                    self.gone = Some(blocker.clone());
                }
                Err(blocker)
            }
        }
    }

    /// Where a partition without a checkpoint would start, or why it cannot.
    pub(super) async fn first_offset(
        &self,
        starts: &Starts,
        partition: &Partition,
        marks: Watermarks,
    ) -> Result<i64, Blocker> {
        let log_is = (marks, &Identity::default());
        match starts.find(&self.log, partition, log_is, &EarlierStarts::new()).await {
            Ok(found) => found.map_err(|problem| Blocker::new(FailureKind::Start, problem)),
            Err(error) => Err(Blocker::new(error.kind(), &error)),
        }
    }
}
