//! Looks for the topics that match a pattern, as often as metadata is refreshed.
//!
//! The host resolves patterns itself, and subscribes to names: see [`projector_core::topics`]. Every host of a group
//! does this: Kafka's assignor assigns no partition of a topic to a host that has not subscribed to the topic.
//!
//! Invariant: a topic counts as deleted only after it was missing twice in a row. For a moment, one broker may know
//! fewer topics than another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Incoming, KafkaAdmin, TopicsChange};
use projector_core::recent_causes::RecentCauses;
use projector_core::topics::TopicMapping;

/// The topics that are read, by name. `None`: unknown yet.
pub(super) type Subscribed = Option<Vec<Arc<str>>>;

/// The topics that are known without asking a broker.
pub(super) fn known_at_once(mapping: &TopicMapping) -> Subscribed {
    // With a pattern, the subscription waits for the first answer of a broker. Otherwise a generation could count as
    // caught up without the matching topics.
    (!mapping.has_patterns()).then(|| mapping.topics::<&str>([]))
}

/// Keeps the subscription of one consumer up to date.
pub(super) struct PatternWatch {
    pub(super) admin: KafkaAdmin,
    pub(super) mapping: TopicMapping,
    pub(super) group: String,
    pub(super) subscribed: watch::Sender<Subscribed>,
    pub(super) events: mpsc::WeakSender<Incoming>,
}

impl PatternWatch {
    /// Looks for topics once per `interval`, and updates the subscription. Ends with the pipeline.
    pub(super) async fn run(self, interval: Duration) {
        if !self.mapping.has_patterns() {
            return std::future::pending().await;
        }
        let mut missing: Vec<Arc<str>> = Vec::new();
        let mut logged = RecentCauses::default();
        loop {
            match self.admin.topics(&self.mapping).await {
                Ok(found) => {
                    let before = self.subscribed.borrow().clone();
                    let known = before.as_deref().unwrap_or_default();
                    let (now, newly_missing) = merged(known, found, &missing);
                    missing = newly_missing;
                    if before.as_ref() != Some(&now) {
                        log_change(&self.mapping, &self.group, before.as_deref(), &now);
                        let left = known.iter().filter(|topic| !now.contains(topic)).cloned().collect();
                        let Some(events) = self.events.upgrade() else { return };
                        let change = TopicsChange { read: now.clone(), left };
                        if events.send(Incoming::Topics(change)).await.is_err() {
                            return;
                        }
                        self.subscribed.send_replace(Some(now));
                    }
                }
                // The subscription stays as it is until a broker answers.
                Err(error) if logged.is_new(&error.to_string()) => {
                    tracing::warn!(group = self.group, %error, "cannot look for topics that match the pattern; retrying");
                }
                Err(_) => {}
            }
            tokio::time::sleep(interval).await;
        }
    }
}

/// The topics to read now, and those of them that were not found this time. These are still read, until they are
/// missing a second time.
fn merged(before: &[Arc<str>], found: Vec<Arc<str>>, missing: &[Arc<str>]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let newly_missing: Vec<Arc<str>> =
        before.iter().filter(|topic| !found.contains(topic) && !missing.contains(topic)).cloned().collect();
    let mut now = found;
    now.extend(newly_missing.iter().cloned());
    now.sort();
    (now, newly_missing)
}

fn log_change(mapping: &TopicMapping, group: &str, before: Option<&[Arc<str>]>, now: &[Arc<str>]) {
    let known = before.unwrap_or_default();
    for topic in now.iter().filter(|topic| !known.contains(topic)) {
        let logical = mapping.logical(topic).collect::<Vec<_>>().join(", ");
        match before {
            None => {
                tracing::info!(group, topic = &**topic, logical, "topic matches the pattern, and is read")
            }
            Some(_) => tracing::info!(
                group,
                topic = &**topic,
                logical,
                "new topic matches the pattern, and is read from its beginning"
            ),
        }
    }
    for topic in known.iter().filter(|topic| !now.contains(topic)) {
        tracing::warn!(
            group,
            topic = &**topic,
            advice = "the topic's checkpoint and rows stay; a topic that is recreated under this name is not read until an operator runs `projector rebuild`",
            "topic was deleted, and is not read any more"
        );
    }
    if now.is_empty() {
        tracing::warn!(
            group,
            advice = "create a topic that matches, or correct the pattern in `kafka.topics`",
            "no topic matches the pattern, so nothing is read"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_topic_is_left_when_it_is_missing_for_the_second_time() {
        let read = topics(&["a", "b"]);
        let (now, missing) = merged(&read, topics(&["a", "c"]), &[]);
        assert_eq!((&now, &missing), (&topics(&["a", "b", "c"]), &topics(&["b"])));
        let (back, none) = merged(&now, topics(&["a", "b", "c"]), &missing);
        assert_eq!((back, none), (topics(&["a", "b", "c"]), topics(&[])));
        let (left, none) = merged(&now, topics(&["a", "c"]), &missing);
        assert_eq!((left, none), (topics(&["a", "c"]), topics(&[])));
    }
}
