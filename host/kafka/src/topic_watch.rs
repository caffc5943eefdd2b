//! Checks a consumer's topics while they are read: for topics that were recreated, that do not exist, or
//! that the host may not see.
//!
//! librdkafka reports only once that a subscribed topic is not available, and does not report which one. So each topic
//! is checked at intervals.
//!
//! Invariant: only changes are reported: the beginning of a fault, a change of its cause, and its end.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc::WeakSender;
use tokio::sync::watch;

use super::Incoming;
use super::admin::KafkaAdmin;
use super::kafka_fault::{KafkaFault, Subject};
use super::log_error::LogError;
use super::pattern_watch::Subscribed;
use projector_core::checkpoint::Identity;
use projector_core::recent_causes::RecentCauses;

/// How often the topics are checked while there is no fault.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How often they are checked while a topic has a fault, so that the end of the fault is noticed soon.
const CHECK_INTERVAL_WITH_FAULT: Duration = Duration::from_secs(2);

pub(super) struct TopicWatch {
    admin: KafkaAdmin,
    /// The topics that are read.
    subscription: watch::Receiver<Subscribed>,
    /// The identity of each topic when it was checked last.
    identities: HashMap<String, Identity>,
    /// The faults that were reported, and have not ended.
    faults: HashMap<Subject, KafkaFault>,
    /// Other errors that were logged, so that each is logged once.
    logged: RecentCauses,
}

impl TopicWatch {
    pub(super) fn new(admin: KafkaAdmin, subscription: watch::Receiver<Subscribed>) -> Self {
        let (identities, faults) = (HashMap::new(), HashMap::new());
        Self { admin, subscription, identities, faults, logged: RecentCauses::default() }
    }

    /// Reports changes until the pipeline has ended.
    pub(super) async fn run(mut self, events: WeakSender<Incoming>) {
        loop {
            let changes = self.check().await;
            let Some(events) = events.upgrade() else { return };
            for incoming in changes {
                if events.send(incoming).await.is_err() {
                    return;
                }
            }
            drop(events);
            tokio::time::sleep(if self.faults.is_empty() {
                CHECK_INTERVAL
            } else {
                CHECK_INTERVAL_WITH_FAULT
            })
            .await;
        }
    }

    /// Asks for the topics' ids once, and returns what has changed.
    async fn check(&mut self) -> Vec<Incoming> {
        let mut changes = Vec::new();
        let topics = self.subscription.borrow().clone().unwrap_or_default();
        // End the faults of topics that are not read any more.
        let is_left =
            |subject: &&Subject| matches!(subject, Subject::Topic(topic) if !topics.contains(topic));
        let left: Vec<Subject> = self.faults.keys().filter(is_left).cloned().collect();
        left.into_iter().for_each(|subject| self.set_fault(subject, None, &mut changes));
        if topics.is_empty() {
            return changes;
        }
        let found = match self.admin.identities_each(topics).await {
            Ok(found) => found,
            // No broker answers, so nothing new is known about the topics.
            Err(LogError::Fault(fault)) => {
                self.set_fault(Subject::Brokers, Some(fault), &mut changes);
                return changes;
            }
            Err(error) => {
                if self.logged.is_new(&error.to_string()) {
                    tracing::warn!(%error, "cannot check the topics; retrying");
                }
                return changes;
            }
        };
        self.set_fault(Subject::Brokers, None, &mut changes);
        let mut recreated = false;
        for (topic, identity) in found {
            let subject = Subject::Topic(topic.as_str().into());
            match identity {
                Err(fault) => self.set_fault(subject, Some(fault), &mut changes),
                Ok(identity) => {
                    self.set_fault(subject, None, &mut changes);
                    let before = self.identities.insert(topic, identity.clone());
                    recreated |= before.is_some_and(|before| before != identity);
                }
            }
        }
        if recreated {
            changes.push(Incoming::Recheck);
        }
        changes
    }

    /// Reports a fault that is new or has changed, and the end of a reported fault.
    fn set_fault(&mut self, subject: Subject, fault: Option<KafkaFault>, changes: &mut Vec<Incoming>) {
        let before = match &fault {
            Some(fault) => self.faults.insert(subject.clone(), fault.clone()),
            None => self.faults.remove(&subject),
        };
        if before != fault {
            changes.push(Incoming::Fault { subject, fault });
        }
    }
}
