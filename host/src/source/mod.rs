//! Kafka: one consumer group for each projection and generation.
//!
//! This wing is the only one that sees rdkafka. A consumer is polled by a thread of its own
//! (`poll`), which hands events over a bounded channel, the partitions merged by time (`merge`). What
//! the group grants and takes away is kept in `rebalance`; what the log holds is asked in `log`. How
//! all of them connect, with secrets that change, is the matter of `connection`, and what is wrong with a
//! connection that of `fault`.

mod certificate;
mod client;
mod connection;
mod errors;
mod fault;
mod headers;
mod log;
mod log_ends;
mod matches;
mod membership;
mod merge;
mod oauth;
mod poll;
mod rebalance;
mod topic_watch;
mod verify;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use client::RESERVED_PROPERTIES;
pub use errors::{Asker, KafkaFault, Subject};
pub use fault::{Fault, FaultKind};
pub use log::{GroupMember, Inspected, KafkaAdmin, LogError, Recalled};
pub use merge::{MergeOrder, Merging};
pub use rebalance::RevokeGuard;
pub use verify::verify;

use crate::batch::Delivery;
use crate::event::Partition;
use crate::failure::panic_text;
use crate::topics::TopicMapping;
use matches::Matches;
use poll::{Command, Poller};
use rebalance::Ownership;
use topic_watch::TopicWatch;

/// Chunks of events between the poll thread and the pipeline. With [`poll::CHUNK_BYTES`] this
/// bounds what waits between them.
const CHANNEL: usize = 4;

/// Offsets from its end at which a partition counts as being there: on a busy topic, the last one is
/// never reached.
pub const NEAR_THE_END: i64 = 1_000;

/// What a source tells the pipeline, in the order in which it happened.
#[derive(Debug)]
pub enum Incoming {
    /// The group granted these partitions. They stay unread until [`Source::read`].
    Granted(Vec<Partition>),
    /// The group took these partitions away. Their events are void already.
    Revoked(Vec<Partition>),
    Events(Vec<Delivery>),
    /// The log no longer holds an offset that was to be read, or a topic is not the one that it was.
    /// Everything is to be held against the log again.
    Recheck,
    /// The brokers refuse something, or do not have it: what, and why. `None`: it is over.
    Fault {
        subject: Subject,
        fault: Option<KafkaFault>,
    },
    /// A pattern matches other topics than before.
    Topics(TopicsChange),
    /// The consumer cannot go on; a new one may.
    Failed(String),
    /// The poll thread panicked, and has ended: what it said.
    Panicked(String),
}

/// The topics that are read now, and those that are not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicsChange {
    pub read: Vec<Arc<str>>,
    pub left: Vec<Arc<str>>,
}

/// What is to be read of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub partition: Partition,
    /// The first offset.
    pub from: i64,
    /// Where the log ends now: until it has come there, the partition is behind.
    pub end: i64,
}

/// A projection's consumer.
pub struct Source {
    incoming: mpsc::Receiver<Incoming>,
    commands: std::sync::mpsc::Sender<Command>,
    /// Sleeps while it has nothing to do, or nowhere to put it.
    poll_thread: Thread,
    ownership: Arc<Ownership>,
    stopped: tokio::sync::oneshot::Receiver<()>,
    /// They look at the topics (see [`topic_watch`]), and for topics that match.
    lookers: Lookers,
}

/// Tasks that end with their source, whether it is closed or dropped.
struct Lookers([tokio::task::JoinHandle<()>; 2]);

impl Lookers {
    fn end(&self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Drop for Lookers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Source {
    /// Joins the group and begins to poll.
    pub fn open(
        group: &str,
        topics: TopicMapping,
        merging: Merging,
        log: KafkaAdmin,
    ) -> Result<Self, LogError> {
        let ownership = Arc::new(Ownership::default());
        let (events, incoming) = mpsc::channel(CHANNEL);
        let (commands, received) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let connection = log.connection().clone();
        let (subscribed, subscription) = watch::channel(matches::at_once(&topics));
        let (every, group_id) = (connection.kafka().metadata_refresh(), group.to_owned());
        let matches = tokio::spawn(
            Matches {
                log: log.clone(),
                mapping: topics.clone(),
                group: group_id,
                subscribed,
                events: events.downgrade(),
            }
            .follow(every),
        );
        let topics_of_now = tokio::spawn(TopicWatch::new(log, subscription.clone()).run(events.downgrade()));
        // From here on: what fails below ends them as well.
        let lookers = Lookers([matches, topics_of_now]);
        let last_words = events.clone();
        let topics = (topics, subscription);
        let poller = Poller::open(&connection, group, topics, merging, ownership.clone(), events, received)?;
        let polling = std::thread::Builder::new()
            .name("kafka-poll".into())
            .spawn(move || {
                // Whatever librdkafka hands over, the pipeline hears of the thread's end.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| poller.run())) {
                    let _ = last_words.blocking_send(Incoming::Panicked(panic_text(&*panic)));
                }
                // The pipeline may be gone already.
                let _ = stop.send(());
            })
            .map_err(LogError::Thread)?;
        let poll_thread = polling.thread().clone();
        Ok(Self { incoming, commands, poll_thread, ownership, stopped, lookers })
    }

    /// The next thing that happened. `None` when the poll thread has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        let next = self.incoming.recv().await;
        self.poll_thread.unpark();
        next
    }

    /// What has happened already, without waiting.
    pub fn try_next(&mut self) -> Option<Incoming> {
        let next = self.incoming.try_recv().ok()?;
        self.poll_thread.unpark();
        Some(next)
    }

    /// Reads granted partitions, each in a new epoch: events of an older one are void. Nothing is read
    /// of those that were taken away meanwhile. What is begun together is merged from the beginning.
    pub fn read(&self, spans: Vec<Span>) {
        let begun = spans.into_iter().filter_map(|span| {
            let epoch = self.ownership.begin_epoch(&span.partition)?;
            Some((epoch, span))
        });
        self.command(Command::Read(begun.collect()));
    }

    /// Stops reading a partition that the group still grants; its events are void.
    pub fn stop_reading(&self, partition: &Partition) {
        self.ownership.end_epoch(partition);
        self.command(Command::Leave(partition.clone()));
    }

    /// Drops from a batch what is void, and makes a revoke wait until the hold is dropped: the
    /// commit in flight is to be seen by whoever gets the partition next.
    pub fn guard_revokes(&self, batch: &mut Vec<Delivery>) -> RevokeGuard {
        self.ownership.guard_revokes(batch)
    }

    /// Every partition that the group grants now.
    pub fn granted(&self) -> Vec<Partition> {
        self.ownership.granted()
    }

    /// Tells Kafka how far the read model is, for its own tools: nothing is ever read from there.
    pub fn advise(&self, positions: Vec<(Partition, i64)>) {
        self.command(Command::Advise(positions));
    }

    /// The generation is caught up, and this host builds it alone until readers see it.
    pub fn near_the_end(&self) {
        self.command(Command::NearTheEnd);
    }

    /// All hosts share the generation: from now on partitions are merged as [`Merging::then`] says.
    pub fn caught_up(&self) {
        self.command(Command::CaughtUp);
    }

    /// Leaves the group. Waits at most `deadline`: librdkafka can take without end.
    pub async fn close(self, deadline: Duration) {
        self.lookers.end();
        self.command(Command::Stop);
        drop(self.incoming);
        if tokio::time::timeout(deadline, self.stopped).await.is_err() {
            tracing::warn!(
                ?deadline,
                "the Kafka consumer did not close in time: its partitions are given to others when its session expires"
            );
        }
    }

    fn command(&self, command: Command) {
        // Fails only when the thread has ended, which `next` tells.
        let _ = self.commands.send(command);
        self.poll_thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Nobody answers these clients; their tasks are there all the same.
    #[tokio::test]
    async fn a_source_that_is_dropped_leaves_no_task_behind() {
        let config = Config::parse(
            "projector.toml",
            "[kafka]\nbrokers = \"127.0.0.1:1\"\n[plugins]\ndirectory = \"p\"\n[store]\nurl = \"sqlite://a.db\"\n",
        )
        .expect("sound");
        let log = KafkaAdmin::open(&config.kafka).expect("a client needs no broker");
        let topics = TopicMapping::same_names(["t"]);
        let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = alive();
        let (order, then) = (MergeOrder::Arrival, MergeOrder::Arrival);
        let merging = Merging { order, then, skew: Duration::ZERO };
        let sources: Vec<Source> = (0..8)
            .map(|_| Source::open("a-group", topics.clone(), merging, log.clone()).expect("it opens"))
            .collect();
        assert!(alive() >= before + 16, "they have tasks");
        drop(sources);
        tokio::time::timeout(Duration::from_secs(10), async {
            while alive() > before {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{} tasks are left", alive() - before));
    }
}
