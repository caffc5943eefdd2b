//! Shows faults of Kafka while a projection runs, each with its topic, partition or group.
//!
//! A fault of one topic or partition stops nothing else. It is logged once and listed in `/v1/retrying`. `projector
//! status` asks the brokers about topics itself. But a fault that only this host can observe (a partition cannot be
//! fetched, the group cannot be joined) is stored for it. The Kafka client retries by itself. When the fault is over,
//! the stored blocker is removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use projector_core::failure::{Blocker, FailureKind};
use projector_core::generation::Generation;
use projector_core::topics::TopicMapping;
use projector_kafka::{KafkaFault, Subject};
use projector_store::{Store, StoreError};

use crate::retry::{Backoff, Retries};

pub(super) struct Faults {
    generation: Generation,
    store: Arc<dyn Store>,
    retries: Retries,
    topics: TopicMapping,
    open: BTreeMap<Subject, Backoff>,
    /// Topics that do not exist. They are shown after the store was asked whether they were read before.
    missing: BTreeMap<Subject, KafkaFault>,
    /// Changes that are not stored yet.
    unstored: BTreeMap<Subject, Option<Blocker>>,
}

impl Faults {
    pub(super) fn new(
        generation: Generation,
        store: Arc<dyn Store>,
        retries: &Retries,
        topics: TopicMapping,
    ) -> Self {
        Self {
            generation,
            store,
            retries: retries.clone(),
            topics,
            open: BTreeMap::new(),
            missing: BTreeMap::new(),
            unstored: BTreeMap::new(),
        }
    }

    /// Records that a fault began or changed, or is over (`None`).
    pub(super) fn record(&mut self, subject: Subject, fault: Option<KafkaFault>) {
        self.missing.remove(&subject);
        match fault {
            Some(fault) if fault.kind() == FailureKind::NoTopic => drop(self.missing.insert(subject, fault)),
            fault => self.show(subject, fault),
        }
    }

    fn show(&mut self, subject: Subject, fault: Option<KafkaFault>) {
        let blocker = fault.map(|fault| Blocker::new(fault.kind(), self.with_logical_topic(&fault)));
        match &blocker {
            Some(Blocker { kind, reason }) => {
                let new = || Backoff::new(&self.generation.projection, &self.retries);
                self.open.entry(subject.clone()).or_insert_with(new).failed(*kind, reason);
            }
            None => {
                if let Some(mut backoff) = self.open.remove(&subject) {
                    backoff.succeeded();
                }
            }
        }
        if matches!(subject, Subject::Group(_) | Subject::Partition(_)) {
            self.unstored.insert(subject, blocker);
        }
    }

    /// Forgets the faults of a partition that was revoked: this host cannot observe them any more.
    pub(super) fn forget(&mut self, subject: &Subject) {
        self.open.remove(subject);
        self.unstored.remove(subject);
    }

    /// Stores the faults that only this host can observe, for `projector status`. If this fails, it is tried again
    /// before the next batch.
    pub(super) async fn store(&mut self) {
        self.show_missing().await;
        while let Some((subject, blocker)) = self.unstored.pop_first() {
            if let Err(error) = self.store_one(&subject, blocker.as_ref()).await {
                let what = format!("`projector status` does not show the present state of {subject}");
                self.retries.warn(&self.generation.projection, &what, &error);
                self.unstored.insert(subject, blocker);
                return;
            }
        }
    }

    /// Shows the topics that do not exist. One that has a checkpoint was read before, so it was deleted; the others
    /// have never existed, or have another name.
    async fn show_missing(&mut self) {
        if self.missing.is_empty() {
            return;
        }
        match self.store.offsets(self.generation.id).await {
            Ok(read) => {
                for (subject, fault) in std::mem::take(&mut self.missing) {
                    let was_read =
                        matches!(&subject, Subject::Topic(topic) if read.keys().any(|of| of.topic == *topic));
                    let fault = if was_read { fault.of_topic_read_before() } else { fault };
                    self.show(subject, Some(fault));
                }
            }
            Err(error) => {
                let what = "could not find out whether a missing topic was read before";
                self.retries.warn(&self.generation.projection, what, &error);
            }
        }
    }

    async fn store_one(&self, subject: &Subject, blocker: Option<&Blocker>) -> Result<(), StoreError> {
        match subject {
            Subject::Partition(partition) => {
                self.store.set_paused(&self.generation, partition, blocker).await
            }
            Subject::Group(_) => self.store.set_blocked(&self.generation, blocker).await,
            Subject::Brokers | Subject::Topic(_) => Ok(()),
        }
    }

    /// The fault as text. If the topic has another logical name, it is added.
    fn with_logical_topic(&self, fault: &KafkaFault) -> String {
        if let Subject::Topic(topic) = &fault.subject
            && let logical = self.topics.logical(topic).collect::<Vec<_>>().join(", ")
            && *logical != **topic
        {
            return format!("topic {topic} (which the plugin calls {logical}): {}", fault.reason());
        }
        fault.to_string()
    }
}
