//! Checks a consumer's topics while they are read: for topics that were recreated, that do not exist, or
//! that the host may not see.
//!
//! librdkafka reports once that some subscribed topic is not available, and not which one. So each topic is
//! checked, and changes are reported: the beginning of a fault, and its end.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc::WeakSender;
use tokio::sync::watch;

use super::Incoming;
use super::errors::{KafkaFault, Subject};
use super::log::KafkaAdmin;
use super::log_error::LogError;
use super::matches::Subscribed;
use projector_core::checkpoint::Identity;
use projector_core::recent_causes::RecentCauses;

/// How often the topics are checked while there is no fault.
const WELL: Duration = Duration::from_secs(10);
/// And while a topic has a fault, so that the end of the fault is noticed soon.
const FAULTY: Duration = Duration::from_secs(2);

pub(super) struct TopicWatch {
    log: KafkaAdmin,
    /// The topics that are read.
    subscription: watch::Receiver<Subscribed>,
    identities: HashMap<String, Identity>,
    faults: HashMap<Subject, KafkaFault>,
    logged: RecentCauses,
}

impl TopicWatch {
    pub(super) fn new(log: KafkaAdmin, subscription: watch::Receiver<Subscribed>) -> Self {
        let (identities, faults) = (HashMap::new(), HashMap::new());
        Self { log, subscription, identities, faults, logged: RecentCauses::default() }
    }

    /// Reports changes until the pipeline has ended.
    pub(super) async fn run(mut self, events: WeakSender<Incoming>) {
        loop {
            let found = self.look().await;
            let Some(events) = events.upgrade() else { return };
            for incoming in found {
                if events.send(incoming).await.is_err() {
                    return;
                }
            }
            drop(events);
            tokio::time::sleep(if self.faults.is_empty() { WELL } else { FAULTY }).await;
        }
    }

    async fn look(&mut self) -> Vec<Incoming> {
        let mut told = Vec::new();
        let topics = self.subscription.borrow().clone().unwrap_or_default();
        // A topic that is not read any more has no fault.
        let is_left =
            |subject: &&Subject| matches!(subject, Subject::Topic(topic) if !topics.contains(topic));
        let left: Vec<Subject> = self.faults.keys().filter(is_left).cloned().collect();
        left.into_iter().for_each(|subject| self.tell(subject, None, &mut told));
        if topics.is_empty() {
            return told;
        }
        let found = match self.log.identities_each(topics).await {
            Ok(found) => found,
            // Nothing new is known about the topics.
            Err(LogError::Fault(fault)) => {
                self.tell(Subject::Brokers, Some(fault), &mut told);
                return told;
            }
            Err(error) => {
                if self.logged.is_new(&error.to_string()) {
                    tracing::warn!(%error, "cannot check the topics; retrying");
                }
                return told;
            }
        };
        self.tell(Subject::Brokers, None, &mut told);
        let mut recreated = false;
        for (topic, identity) in found {
            let subject = Subject::Topic(topic.as_str().into());
            match identity {
                Err(fault) => self.tell(subject, Some(fault), &mut told),
                Ok(identity) => {
                    self.tell(subject, None, &mut told);
                    let before = self.identities.insert(topic, identity.clone());
                    recreated |= before.is_some_and(|before| before != identity);
                }
            }
        }
        if recreated {
            told.push(Incoming::Recheck);
        }
        told
    }

    /// Reports a fault that is new or has changed, and the end of a reported fault.
    fn tell(&mut self, subject: Subject, fault: Option<KafkaFault>, told: &mut Vec<Incoming>) {
        let before = match &fault {
            Some(fault) => self.faults.insert(subject.clone(), fault.clone()),
            None => self.faults.remove(&subject),
        };
        if before != fault {
            told.push(Incoming::Fault { subject, fault });
        }
    }
}
