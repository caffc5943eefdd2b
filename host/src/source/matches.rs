//! Which topics are read, where a pattern tells: those that exist and match, looked at again and again.
//!
//! The host resolves patterns itself, and subscribes to names: see [`crate::topics`]. A topic that does not
//! exist any more is left after it was missing twice in a row: one broker may know less than another for a
//! moment. All hosts of a group look for themselves; Kafka's assignor gives none of them what it did not
//! subscribe to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Incoming, KafkaAdmin, TopicsChange};
use crate::retry::News;
use crate::topics::TopicMapping;

/// The topics that are read, by name. `None`: not known yet.
pub(super) type Subscribed = Option<Vec<Arc<str>>>;

/// What is read before any broker was asked.
pub(super) fn at_once(mapping: &TopicMapping) -> Subscribed {
    // What matches has to be there from the beginning: else a generation would count as caught up without.
    (!mapping.has_patterns()).then(|| mapping.topics::<&str>([]))
}

/// Follows the topics that match, for one consumer.
pub(super) struct Matches {
    pub(super) log: KafkaAdmin,
    pub(super) mapping: TopicMapping,
    pub(super) group: String,
    pub(super) subscribed: watch::Sender<Subscribed>,
    pub(super) events: mpsc::WeakSender<Incoming>,
}

impl Matches {
    /// Looks again and again, and has what matches subscribed to. Ends with the pipeline.
    pub(super) async fn follow(self, every: Duration) {
        if !self.mapping.has_patterns() {
            return std::future::pending().await;
        }
        let mut missing: Vec<Arc<str>> = Vec::new();
        let mut said = News::default();
        loop {
            match self.log.topics(&self.mapping).await {
                Ok(found) => {
                    let before = self.subscribed.borrow().clone();
                    let known = before.as_deref().unwrap_or_default();
                    let (now, gone) = next(known, found, &missing);
                    missing = gone;
                    if before.as_ref() != Some(&now) {
                        report(&self.mapping, &self.group, before.as_deref(), &now);
                        let left = known.iter().filter(|topic| !now.contains(topic)).cloned().collect();
                        let Some(events) = self.events.upgrade() else { return };
                        let change = TopicsChange { read: now.clone(), left };
                        if events.send(Incoming::Topics(change)).await.is_err() {
                            return;
                        }
                        self.subscribed.send_replace(Some(now));
                    }
                }
                Err(error) if said.is_news(&error.to_string()) => {
                    tracing::warn!(group = self.group, %error, "topics that match could not be looked for; trying on");
                }
                Err(_) => {}
            }
            tokio::time::sleep(every).await;
        }
    }
}

/// What is read now, and what of it was not found and is read until it is not found again.
fn next(before: &[Arc<str>], found: Vec<Arc<str>>, missing: &[Arc<str>]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let gone: Vec<Arc<str>> =
        before.iter().filter(|topic| !found.contains(topic) && !missing.contains(topic)).cloned().collect();
    let mut next = found;
    next.extend(gone.iter().cloned());
    next.sort();
    (next, gone)
}

fn report(mapping: &TopicMapping, group: &str, before: Option<&[Arc<str>]>, now: &[Arc<str>]) {
    let known = before.unwrap_or_default();
    for topic in now.iter().filter(|topic| !known.contains(topic)) {
        let logical = mapping.logical(topic).collect::<Vec<_>>().join(", ");
        match before {
            None => tracing::info!(group, topic = &**topic, logical, "topic matches, and is read"),
            Some(_) => tracing::info!(
                group,
                topic = &**topic,
                logical,
                "new topic matches, and is read from its beginning"
            ),
        }
    }
    for topic in known.iter().filter(|topic| !now.contains(topic)) {
        tracing::warn!(
            group,
            topic = &**topic,
            advice = "its checkpoint and its rows stay; a topic that is created anew under this name is not read before an operator says so",
            "topic does not exist any more, and is not read any more"
        );
    }
    if now.is_empty() {
        tracing::warn!(
            group,
            advice = "create a topic that matches, or mend the pattern in `kafka.topics`",
            "no topic matches, so nothing is read"
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
        let (now, missing) = next(&read, topics(&["a", "c"]), &[]);
        assert_eq!((&now, &missing), (&topics(&["a", "b", "c"]), &topics(&["b"])));
        let (back, none) = next(&now, topics(&["a", "b", "c"]), &missing);
        assert_eq!((back, none), (topics(&["a", "b", "c"]), topics(&[])));
        let (left, none) = next(&now, topics(&["a", "c"]), &missing);
        assert_eq!((left, none), (topics(&["a", "c"]), topics(&[])));
    }
}
