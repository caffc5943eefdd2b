//! What the brokers refuse a projection, or do not have, while it runs: told as blockers, each with its
//! object.
//!
//! A fault of one topic or partition stops nothing else. It is logged once, listed in `/v1/retrying`, and,
//! where only this host can know it, kept in the store for `projector status`: that a partition cannot be
//! fetched, or that the group cannot be joined. The Kafka client tries on by itself, and when the cause is
//! gone the blocker goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failure::{Blocker, FailureKind};
use crate::retry::{Backoff, Retries};
use crate::source::{KafkaFault, Subject};
use crate::store::{Generation, Store, StoreError};
use crate::topics::TopicMapping;

pub(super) struct Faults {
    generation: Generation,
    store: Arc<dyn Store>,
    retries: Retries,
    topics: TopicMapping,
    open: BTreeMap<Subject, Backoff>,
    /// Topics that do not exist, until the store tells whether they were read before.
    missing: BTreeMap<Subject, KafkaFault>,
    /// What the store does not know yet.
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

    /// A fault began, or is over.
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

    /// A partition is not this host's any more: nothing of it is known here.
    pub(super) fn forget(&mut self, subject: &Subject) {
        self.open.remove(subject);
        self.unstored.remove(subject);
    }

    /// Keeps for `status` what this host alone knows. What cannot be stored now is stored later.
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

    /// A topic that has a checkpoint was deleted; another one was never there.
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

    /// The fault, with the logical name of its topic where that is another one.
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
