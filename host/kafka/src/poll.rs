//! The poll thread: polls one consumer, and carries out the pipeline's commands.
//!
//! Each turn of the loop carries out commands, handles rebalances and errors of the group, and sends the next chunk of
//! events (`readings`) through the outbox. When there is nothing to do, the thread sleeps for [`IDLE_SLEEP`] at most, or
//! until it is woken.
//!
//! Invariant: while the thread runs, it polls the group often, so the group never removes this member for a poll that is
//! too late (`max.poll.interval.ms`). So the thread never waits for the pipeline or for a broker: events that do not fit
//! into the channel stay in librdkafka's queues. There are two bounded exceptions: a revoke waits for the transaction in
//! flight ([`rebalance`](super::rebalance)), and before the consumer closes, it commits its last offsets to Kafka.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use projector_core::event::Partition;
use projector_core::topics::TopicMapping;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, TopicPartitionList};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use super::client::consumer_config;
use super::client_errors::ClientErrors;
use super::connection::{Connection, Registered};
use super::kafka_fault::ClientIdentity;
use super::log_error::LogError;
use super::membership::Membership;
use super::merge::Merging;
use super::outbox::Outbox;
use super::pattern_watch::Subscribed;
use super::readings::Readings;
use super::rebalance::{GroupContext, Ownership, Rebalance};
use super::{Incoming, Span};

/// How long the thread sleeps if nothing wakes it. A rebalance or an error of the group may wait this long.
const IDLE_SLEEP: Duration = Duration::from_millis(20);

/// A command of the pipeline.
pub(super) enum Command {
    /// Start to read these partitions, each under its epoch.
    Read(Vec<(u64, Span)>),
    StopReading(Partition),
    /// Commit these offsets to Kafka, for Kafka's own tools.
    PublishOffsets(Vec<(Partition, i64)>),
    NearTheEnd,
    CaughtUp,
    Stop,
}

/// What a consumer reads.
pub(super) struct Reads {
    pub(super) group: String,
    pub(super) topics: TopicMapping,
    /// The topics to subscribe to.
    pub(super) subscription: watch::Receiver<Subscribed>,
    pub(super) merging: Merging,
}

/// The poll thread's ends of the channels to the pipeline, and what it shares with the pipeline.
pub(super) struct PipelineLink {
    pub(super) ownership: Arc<Ownership>,
    pub(super) events: Sender<Incoming>,
    pub(super) commands: Receiver<Command>,
}

pub(super) struct Poller {
    /// Declared before the consumer, so that its queues are dropped first.
    readings: Readings,
    /// Declared before the consumer, so that it is dropped first.
    _registered: Registered,
    consumer: Arc<BaseConsumer<GroupContext>>,
    connection: Connection,
    /// The connection's edition when the consumer was created.
    edition: u64,
    ownership: Arc<Ownership>,
    subscription: watch::Receiver<Subscribed>,
    commands: Receiver<Command>,
    outbox: Outbox,
    errors: ClientErrors,
    membership: Membership,
}

impl Poller {
    /// Creates the consumer and subscribes to the topics that are known already.
    pub(super) fn open(
        connection: &Connection,
        reads: Reads,
        pipeline: PipelineLink,
    ) -> Result<Self, LogError> {
        let Reads { group, topics, mut subscription, merging } = reads;
        let PipelineLink { ownership, events, commands } = pipeline;
        let kafka = connection.kafka();
        let edition = connection.edition();
        let context = GroupContext {
            ownership: ownership.clone(),
            rebalances: Default::default(),
            assigned: Default::default(),
            group: group.clone(),
            topics: topics.clone(),
        };
        let consumer: BaseConsumer<GroupContext> = consumer_config(kafka, &group)
            .map_err(LogError::Secret)?
            .create_with_context(context)
            .map_err(LogError::Client)?;
        let registered = connection.register(consumer.client());
        subscribe(&consumer, &subscription.borrow_and_update()).map_err(LogError::Client)?;
        let consumer = Arc::new(consumer);
        Ok(Self {
            readings: Readings::new(consumer.clone(), topics, merging, kafka.value_bytes),
            _registered: registered,
            consumer,
            connection: connection.clone(),
            edition,
            ownership,
            subscription,
            commands,
            outbox: Outbox::new(events),
            errors: ClientErrors::new(&group, ClientIdentity::of(kafka)),
            membership: Membership::new(connection.member_ids().clone()),
        })
    }

    /// Polls until the stop command, or until the pipeline has ended.
    pub(super) fn run(mut self) {
        while self.carry_out_commands() {
            self.poll_group();
            self.check_edition();
            self.check_membership();
            // No events are read while a message waits for room in the channel. This bounds the memory of the host.
            if !(self.outbox.flush() && self.collect()) {
                thread::park_timeout(IDLE_SLEEP);
            }
        }
        self.commit_published_offsets();
    }

    /// Carries out the pipeline's commands. `false`: stop.
    fn carry_out_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Read(spans)) => {
                    for (epoch, span) in &spans {
                        if let Err(problem) = self.read(*epoch, span) {
                            let reason = format!("{} cannot be read: {problem}", span.partition);
                            self.outbox.push_failed(reason);
                        }
                    }
                }
                Ok(Command::StopReading(partition)) => self.stop_reading(&partition),
                Ok(Command::PublishOffsets(positions)) => {
                    for (partition, offset) in positions {
                        // Fails for a partition that is not assigned any more: its next owner publishes its offsets.
                        let _ = self.consumer.store_offset(&partition.topic, partition.number, offset - 1);
                    }
                }
                Ok(Command::NearTheEnd) => self.readings.near_the_end(),
                Ok(Command::CaughtUp) => self.readings.caught_up(),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return !self.outbox.is_closed(),
            }
        }
    }

    fn read(&mut self, epoch: u64, span: &Span) -> Result<(), String> {
        self.stop_reading(&span.partition);
        // The partition may have been revoked since the command was sent.
        if !self.ownership.is_current(&span.partition, epoch) {
            return Ok(());
        }
        self.readings.start(epoch, span)
    }

    fn stop_reading(&mut self, partition: &Partition) {
        self.readings.remove(partition);
        if !self.consumer.context().assigned().remove(partition) {
            return;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&partition.topic, partition.number);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            self.outbox.push_failed(format!("cannot stop reading {partition}: {error}"));
        }
    }

    /// Updates the subscription, and handles rebalances and errors of the group.
    fn poll_group(&mut self) {
        if self.subscription.has_changed().unwrap_or(false)
            && let Err(error) = subscribe(&self.consumer, &self.subscription.borrow_and_update())
        {
            self.outbox.push_failed(format!("cannot subscribe to the topics: {error}"));
        }
        match self.consumer.poll(Duration::ZERO) {
            None => {}
            Some(Err(error)) => self.errors.report(&error, &mut self.outbox),
            // Each partition that is read has a queue of its own. An event in the consumer's common queue would be
            // outside of the merge and of the epochs, so the consumer is replaced.
            Some(Ok(message)) => {
                let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                let reason =
                    format!("the event {topic}/{partition}@{offset} was not in the queue of its partition");
                self.outbox.push_failed(reason);
            }
        }
        for rebalance in self.consumer.context().take_rebalances() {
            // A rebalance shows that the group accepts this host: an earlier fault of the group is over.
            self.errors.set_group_fault(None, &mut self.outbox);
            self.outbox.push(match rebalance {
                Rebalance::Granted(partitions) => Incoming::Granted(partitions),
                Rebalance::Revoked(partitions) => {
                    partitions.iter().for_each(|partition| self.readings.remove(partition));
                    Incoming::Revoked(partitions)
                }
            });
        }
    }

    /// Asks for a new consumer if files of the connection have changed: this consumer keeps using the old ones.
    fn check_edition(&mut self) {
        let edition = self.connection.edition();
        if edition != self.edition {
            self.edition = edition;
            self.outbox.push_failed(
                "files for the Kafka connection changed: the host creates a new consumer with them",
            );
        }
    }

    /// Asks for a new consumer if this one was removed from its group and does not join it again: it would read nothing
    /// and report nothing. If the group does not accept this host, the cause was reported already, and a new consumer
    /// would not help.
    fn check_membership(&mut self) {
        self.membership.update(&self.consumer);
        let wants_topics = self.subscription.borrow().as_ref().is_some_and(|topics| !topics.is_empty());
        if wants_topics && !self.errors.has_group_fault() && self.membership.is_lost(Instant::now()) {
            self.outbox.push_failed(
                "the Kafka consumer was removed from its group and did not join it again: the host creates a new consumer",
            );
        }
    }

    /// Puts the next chunk of events into the outbox. Returns whether there is a message to send.
    fn collect(&mut self) -> bool {
        self.readings.collect(&mut self.errors, &mut self.outbox);
        !self.outbox.is_empty()
    }

    /// Commits the last published offsets before the consumer closes. They are for Kafka's own tools, so a failure is
    /// only logged.
    fn commit_published_offsets(&self) {
        let Err(error) = self.consumer.commit_consumer_state(CommitMode::Sync) else { return };
        // Nothing was published since the last commit.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset) {
            return;
        }
        let group = &self.consumer.context().group;
        tracing::warn!(
            group,
            %error,
            "cannot commit the last offsets to Kafka: Kafka's own tools show older ones. The host does not use these offsets"
        );
    }
}

/// Subscribes to exactly these topics. `None`: unknown yet, so nothing changes.
fn subscribe(consumer: &BaseConsumer<GroupContext>, topics: &Subscribed) -> Result<(), KafkaError> {
    let Some(topics) = topics else { return Ok(()) };
    match &topics.iter().map(|topic| &**topic).collect::<Vec<_>>()[..] {
        // librdkafka accepts no empty subscription.
        [] => consumer.unsubscribe(),
        names => return consumer.subscribe(names),
    }
    Ok(())
}
