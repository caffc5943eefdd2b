//! Shows faults of Kafka while a projection runs, each with its topic, partition or group.
//!
//! A fault of one topic or partition stops nothing else. It is logged once and listed in `/v1/retrying`. A fault that only
//! this host can know (a partition cannot be fetched, the group cannot be joined) is also stored for `projector status`.
//! The Kafka client retries by itself. When the fault is over, the blocker is removed.

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
    /// Topics that do not exist. The store tells whether they were read before.
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

    /// A fault began, or is over (`None`).
    pub(super) fn told(&mut self, subject: Subject, fault: Option<KafkaFault>) {
        self.missing.remove(&subject);
        match fault {
            Some(fault) if fault.kind() == FailureKind::NoTopic => drop(self.missing.insert(subject, fault)),
            fault => self.show(subject, fault),
        }
    }

    fn show(&mut self, subject: Subject, fault: Option<KafkaFault>) {
        let trouble = fault.map(|fault| Blocker::new(fault.kind(), self.named(&fault)));
        match &trouble {
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
            self.unstored.insert(subject, trouble);
        }
    }

    /// The partition was revoked, so this host does not know its faults any more.
    pub(super) fn forget(&mut self, subject: &Subject) {
        self.open.remove(subject);
        self.unstored.remove(subject);
    }

    /// Stores for `status` what only this host knows. If that fails, it is tried again before the next batch.
    pub(super) async fn store(&mut self) {
        self.show_missing().await;
        while let Some((subject, trouble)) = self.unstored.pop_first() {
            if let Err(error) = self.keep(&subject, trouble.as_ref()).await {
                let what = format!("`status` does not show what is wrong with {subject}");
                self.retries.missed(&self.generation.projection, &what, &error);
                self.unstored.insert(subject, trouble);
                return;
            }
        }
    }

    /// Tells a topic that was deleted (it has a checkpoint) from one that has never existed.
    async fn show_missing(&mut self) {
        if self.missing.is_empty() {
            return;
        }
        match self.store.vector(self.generation.id).await {
            Ok(read) => {
                for (subject, fault) in std::mem::take(&mut self.missing) {
                    let was_read =
                        matches!(&subject, Subject::Topic(topic) if read.keys().any(|of| of.topic == *topic));
                    let fault = if was_read { fault.of_topic_read_before() } else { fault };
                    self.show(subject, Some(fault));
                }
            }
            Err(error) => {
                let what = "whether a missing topic was read before could not be found out";
                self.retries.missed(&self.generation.projection, what, &error);
            }
        }
    }

    async fn keep(&self, subject: &Subject, trouble: Option<&Blocker>) -> Result<(), StoreError> {
        match subject {
            Subject::Partition(partition) => {
                self.store.set_paused(&self.generation, partition, trouble).await
            }
            Subject::Group(_) => self.store.set_blocked(&self.generation, trouble).await,
            Subject::Brokers | Subject::Topic(_) => Ok(()),
        }
    }

    /// The fault, with the logical name of its topic if that is a different one.
    fn named(&self, fault: &KafkaFault) -> String {
        if let Subject::Topic(topic) = &fault.subject
            && let logical = self.topics.logical(topic).collect::<Vec<_>>().join(", ")
            && *logical != **topic
        {
            return format!("topic {topic} (which the plugin calls {logical}): {}", fault.reason());
        }
        fault.to_string()
    }
}
