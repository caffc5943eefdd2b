//! Reads Kafka: one consumer group for each projection and generation.
//!
//! Only this crate uses rdkafka. Each consumer has a poll thread of its own (`poll`). It reads the assigned partitions
//! (`readings`), merges them by time (`merge`), and sends the events over a bounded channel (`outbox`). `rebalance`
//! tracks which partitions the group has assigned and revoked. `admin` asks the brokers about topics, offsets and group
//! members. `connection` keeps the secrets of all clients up to date. `kafka_fault` explains Kafka's error codes, and
//! `connection_fault` explains why a connection fails.
//!
//! Invariants:
//!
//! - Each time the host starts to read a partition, the partition gets a new *epoch*. Events of an older epoch are never
//!   projected.
//! - A revoke waits for the transaction in flight, for a bounded time. A transaction that commits after that fails,
//!   because the next owner of the partition has moved the checkpoint.
//! - The checkpoint in the store decides where to read. Offsets are committed to Kafka only for Kafka's own tools.

mod admin;
mod c_text;
mod certificate;
mod client;
mod client_errors;
mod connection;
mod connection_fault;
mod headers;
mod kafka_fault;
mod log_ends;
mod log_error;
mod membership;
mod merge;
mod oauth;
mod outbox;
mod pattern_watch;
mod poll;
mod readings;
mod rebalance;
mod topic_watch;
mod verify;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use admin::{GroupMember, Inspected, KafkaAdmin, Recalled};
pub use connection_fault::{ConnectionFault, ConnectionFaultKind};
pub use kafka_fault::{ClientIdentity, KafkaFault, Subject};
pub use log_error::LogError;
pub use merge::{MergeOrder, Merging};
pub use rebalance::RevokeGuard;
pub use verify::verify;

use pattern_watch::PatternWatch;
use poll::{Command, PipelineLink, Poller, Reads};
use projector_core::batch::Delivery;
use projector_core::event::Partition;
use projector_core::failure::panic_text;
use projector_core::topics::TopicMapping;
use rebalance::Ownership;
use topic_watch::TopicWatch;

/// The channel between the poll thread and the pipeline holds at most this many messages. With
/// [`readings::CHUNK_BYTES`], it bounds the memory of events that the pipeline has not taken yet.
const CHANNEL: usize = 4;

/// A partition counts as being at the end of its log if it is at most this many offsets before the end: on a busy
/// topic, the very last offset is never reached.
pub const NEAR_THE_END: i64 = 1_000;

/// What a source sends to the pipeline, in the order of events.
#[derive(Debug)]
pub enum Incoming {
    /// The group assigned these partitions. They are not read before [`Source::read`] is called for them.
    Granted(Vec<Partition>),
    /// The group revoked these partitions. Their events are no longer valid.
    Revoked(Vec<Partition>),
    Events(Vec<Delivery>),
    /// The log of a partition does not hold the next offset any more, or a topic was recreated. The pipeline must
    /// compare all checkpoints with the logs again.
    Recheck,
    /// The brokers refuse a request for `subject`, or it does not exist. `None`: the fault is over.
    Fault {
        subject: Subject,
        fault: Option<KafkaFault>,
    },
    /// The set of topics that match a pattern has changed.
    Topics(TopicsChange),
    /// The consumer cannot continue. A new consumer may succeed.
    Failed(String),
    /// The poll thread has ended with a panic, with this message.
    Panicked(String),
}

/// The topics that are read now, and the topics that are not read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicsChange {
    pub read: Vec<Arc<str>>,
    pub left: Vec<Arc<str>>,
}

/// A partition to read, and from which offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub partition: Partition,
    /// The first offset.
    pub from: i64,
    /// The end of the log now. The partition counts as behind until it was read up to this offset.
    pub end: i64,
}

/// A projection's consumer.
pub struct Source {
    incoming: mpsc::Receiver<Incoming>,
    commands: std::sync::mpsc::Sender<Command>,
    /// The poll thread. It sleeps while it has nothing to do or the channel is full, so each call that changes this
    /// wakes it.
    poll_thread: Thread,
    ownership: Arc<Ownership>,
    stopped: tokio::sync::oneshot::Receiver<()>,
    topic_tasks: TopicTasks,
}

/// The tasks that check the topics ([`topic_watch`]) and look for topics that match a pattern
/// ([`pattern_watch`]). They end with their source, when the source is closed or dropped.
struct TopicTasks([tokio::task::JoinHandle<()>; 2]);

impl TopicTasks {
    fn end(&self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Drop for TopicTasks {
    fn drop(&mut self) {
        self.end();
    }
}

impl Source {
    /// Joins the group and starts to poll.
    pub fn open(
        group: &str,
        topics: TopicMapping,
        merging: Merging,
        admin: KafkaAdmin,
    ) -> Result<Self, LogError> {
        let ownership = Arc::new(Ownership::default());
        let (events, incoming) = mpsc::channel(CHANNEL);
        let (commands, received) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let connection = admin.connection().clone();
        let (subscribed, subscription) = watch::channel(pattern_watch::known_at_once(&topics));
        let pattern_watch = PatternWatch {
            admin: admin.clone(),
            mapping: topics.clone(),
            group: group.to_owned(),
            subscribed,
            events: events.downgrade(),
        };
        let topic_watch = TopicWatch::new(admin, subscription.clone());
        // From here on, an error below also ends these tasks.
        let topic_tasks = TopicTasks([
            tokio::spawn(pattern_watch.run(connection.kafka().metadata_refresh())),
            tokio::spawn(topic_watch.run(events.downgrade())),
        ]);
        let panicked = events.clone();
        let reads = Reads { group: group.to_owned(), topics, subscription, merging };
        let pipeline = PipelineLink { ownership: ownership.clone(), events, commands: received };
        let poller = Poller::open(&connection, reads, pipeline)?;
        let polling = std::thread::Builder::new()
            .name("kafka-poll".into())
            .spawn(move || {
                // A panic in this thread is reported to the pipeline.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| poller.run())) {
                    let _ = panicked.blocking_send(Incoming::Panicked(panic_text(&*panic)));
                }
                // The pipeline may have ended already.
                let _ = stop.send(());
            })
            .map_err(LogError::Thread)?;
        let poll_thread = polling.thread().clone();
        Ok(Self { incoming, commands, poll_thread, ownership, stopped, topic_tasks })
    }

    /// Waits for the next message of the poll thread. `None` when the thread has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        let next = self.incoming.recv().await;
        self.poll_thread.unpark();
        next
    }

    /// The next message of the poll thread, if there is one already.
    pub fn try_next(&mut self) -> Option<Incoming> {
        let next = self.incoming.try_recv().ok()?;
        self.poll_thread.unpark();
        Some(next)
    }

    /// Starts to read assigned partitions, each in a new epoch: events of older epochs are no longer valid. Partitions
    /// that were revoked in the meantime are left out. Partitions that start in one call are merged from their first
    /// event on.
    pub fn read(&self, spans: Vec<Span>) {
        let begun = spans.into_iter().filter_map(|span| {
            let epoch = self.ownership.begin_epoch(&span.partition)?;
            Some((epoch, span))
        });
        self.command(Command::Read(begun.collect()));
    }

    /// Stops reading a partition that is still assigned. Its events are no longer valid.
    pub fn stop_reading(&self, partition: &Partition) {
        self.ownership.end_epoch(partition);
        self.command(Command::StopReading(partition.clone()));
    }

    /// Removes events that are no longer valid from the batch. Revokes then wait until the returned guard is dropped,
    /// for a bounded time: the host that gets a revoked partition next must read its checkpoint after the commit in
    /// flight.
    pub fn guard_revokes(&self, batch: &mut Vec<Delivery>) -> RevokeGuard {
        self.ownership.guard_revokes(batch)
    }

    /// All partitions that are assigned now.
    pub fn granted(&self) -> Vec<Partition> {
        self.ownership.granted()
    }

    /// Commits these offsets to Kafka, for Kafka's own tools. The host never reads them.
    pub fn publish_offsets(&self, positions: Vec<(Partition, i64)>) {
        self.command(Command::PublishOffsets(positions));
    }

    /// Call when the generation is caught up, and this host still builds it alone until readers see it.
    pub fn near_the_end(&self) {
        self.command(Command::NearTheEnd);
    }

    /// Call when all hosts share the generation: from now on, partitions are merged as [`Merging::then`]
    /// says.
    pub fn caught_up(&self) {
        self.command(Command::CaughtUp);
    }

    /// Leaves the group. Gives up after `deadline`, since librdkafka may never return.
    pub async fn close(self, deadline: Duration) {
        self.topic_tasks.end();
        self.command(Command::Stop);
        drop(self.incoming);
        if tokio::time::timeout(deadline, self.stopped).await.is_err() {
            tracing::warn!(
                ?deadline,
                "the Kafka consumer did not close in time: its partitions go to other hosts when its session expires"
            );
        }
    }

    fn command(&self, command: Command) {
        // Fails only when the thread has ended, which `next` reports.
        let _ = self.commands.send(command);
        self.poll_thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_config::Config;

    /// No broker answers these clients, but their tasks run.
    #[tokio::test]
    async fn a_source_that_is_dropped_leaves_no_task_behind() {
        let config = Config::parse(
            "projector.toml",
            "[kafka]\nbrokers = \"127.0.0.1:1\"\n[plugins]\ndirectory = \"p\"\n[store]\nurl = \"sqlite://a.db\"\n",
        )
        .expect("a valid configuration");
        let admin = KafkaAdmin::open(&config.kafka).expect("a client needs no broker");
        let topics = TopicMapping::same_names(["t"]);
        let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = alive();
        let (order, then) = (MergeOrder::Arrival, MergeOrder::Arrival);
        let merging = Merging { order, then, skew: Duration::ZERO };
        let sources: Vec<Source> = (0..8)
            .map(|_| {
                Source::open("a-group", topics.clone(), merging, admin.clone())
                    .expect("a source opens without a broker")
            })
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
