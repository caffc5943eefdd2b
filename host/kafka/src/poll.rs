//! The poll thread: polls one consumer, and reads each partition through a queue of its own.
//!
//! The thread never blocks, so that the group never considers it dead. Events for which the pipeline has no
//! room stay in librdkafka's queues, and librdkafka fetches nothing for a full queue.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;

use super::client::consumer_config;
use super::connection::{Connection, Registered};
use super::errors::{Asker, KafkaFault, Subject};
use super::headers::headers;
use super::log_ends::{Ends, LogEnds};
use super::log_error::LogError;
use super::matches::Subscribed;
use super::membership::Membership;
use super::merge::{Merge, Merging};
use super::rebalance::{GroupContext, Ownership, Rebalance};
use super::{Incoming, NEAR_THE_END, Span};
use projector_core::batch::Delivery;
use projector_core::event::{Event, Partition, Position};
use projector_core::failpoint;
use projector_core::failure::FailureKind;
use projector_core::instant::now_ms;
use projector_core::topics::TopicMapping;

/// One message to the pipeline has at most this many events and, beside the last event, bytes.
const CHUNK_EVENTS: usize = 500;
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;
/// How long the thread sleeps at most if it is not woken. Calls of the group wait as long.
const NAP: Duration = Duration::from_millis(20);
/// A problem with the brokers is logged at most once in this time.
const COMPLAINT: Duration = Duration::from_secs(30);

pub(super) enum Command {
    /// With the epochs of the partitions.
    Read(Vec<(u64, Span)>),
    Leave(Partition),
    Advise(Vec<(Partition, i64)>),
    NearTheEnd,
    CaughtUp,
    Stop,
}

pub(super) struct Poller {
    /// The partitions that are read now, by epoch.
    readings: HashMap<u64, Reading>,
    merge: Merge<Event>,
    ends: LogEnds,
    /// Declared before the consumer, so that it is dropped first.
    _registered: Registered,
    consumer: Arc<BaseConsumer<GroupContext>>,
    connection: Connection,
    /// The connection's edition when the consumer was created.
    edition: u64,
    ownership: Arc<Ownership>,
    topics: TopicMapping,
    /// The topics to subscribe to.
    subscription: watch::Receiver<Subscribed>,
    /// The largest value that is read.
    value_bytes: usize,
    events: Sender<Incoming>,
    commands: Receiver<Command>,
    /// Messages for which the channel has no room yet.
    outbox: VecDeque<Incoming>,
    complained: Option<Instant>,
    /// The principal, for messages about missing rights.
    asker: Asker,
    /// Why the group cannot be joined. librdkafka reports the cause once, and retries.
    group_fault: Option<RDKafkaErrorCode>,
    membership: Membership,
}

/// A partition that is read.
struct Reading {
    partition: Partition,
    /// The indices of its logical topics in the descriptor.
    topic: u16,
    also: Vec<u16>,
    /// The offset up to which the log was read: after the last record that was taken from the queue, or the
    /// end of the log. Offsets before the end may hold nothing for consumers, such as transaction markers.
    next: i64,
    /// The end of the log when reading started.
    known_end: i64,
    /// The offset at which the partition is not behind any more. `None`: it is not behind.
    end: Option<i64>,
    queue: PartitionQueue<GroupContext>,
    /// Why nothing can be fetched. librdkafka reports the cause once, and retries.
    fault: Option<RDKafkaErrorCode>,
}

impl Poller {
    pub(super) fn open(
        connection: &Connection,
        group: &str,
        (topics, mut subscription): (TopicMapping, watch::Receiver<Subscribed>),
        merging: Merging,
        ownership: Arc<Ownership>,
        events: Sender<Incoming>,
        commands: Receiver<Command>,
    ) -> Result<Self, LogError> {
        let kafka = connection.kafka();
        let edition = connection.edition();
        let context = GroupContext {
            ownership: ownership.clone(),
            rebalances: Default::default(),
            assigned: Default::default(),
            group: group.to_owned(),
            topics: topics.clone(),
        };
        let consumer: BaseConsumer<GroupContext> = consumer_config(kafka, group)
            .map_err(LogError::Secret)?
            .create_with_context(context)
            .map_err(LogError::Client)?;
        let registered = connection.register(consumer.client());
        subscribe(&consumer, &subscription.borrow_and_update()).map_err(LogError::Client)?;
        Ok(Self {
            readings: HashMap::new(),
            merge: Merge::new(merging),
            ends: LogEnds::new(&consumer),
            _registered: registered,
            consumer: Arc::new(consumer),
            connection: connection.clone(),
            edition,
            ownership,
            topics,
            subscription,
            value_bytes: kafka.value_bytes,
            events,
            commands,
            outbox: VecDeque::new(),
            complained: None,
            asker: Asker::of(kafka),
            group_fault: None,
            membership: Membership::new(connection.member_ids().clone()),
        })
    }

    /// Polls until the stop command, or until the pipeline has ended.
    pub(super) fn run(mut self) {
        while self.obey() {
            self.follow_the_group();
            self.follow_the_files();
            self.follow_the_membership();
            if !(self.flush() && self.collect()) {
                thread::park_timeout(NAP);
            }
        }
        // For Kafka's own tools. A failure does not matter to the host.
        if let Err(error) = self.consumer.commit_consumer_state(CommitMode::Sync)
            // Nothing was read since the last commit.
            && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
        {
            let group = &self.consumer.context().group;
            tracing::warn!(
                group,
                %error,
                "cannot commit the last offsets to Kafka: Kafka's own tools show older ones. The host does not use these offsets"
            );
        }
    }

    /// Carries out the pipeline's commands. `false`: stop.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Read(spans)) => {
                    for (epoch, span) in &spans {
                        if let Err(problem) = self.read(*epoch, span) {
                            let failed = format!("{} cannot be read: {problem}", span.partition);
                            self.outbox.push_back(Incoming::Failed(failed));
                        }
                    }
                }
                Ok(Command::Leave(partition)) => self.leave(&partition),
                Ok(Command::Advise(positions)) => {
                    for (partition, offset) in positions {
                        // Fails for a partition that is not assigned any more, which is right.
                        let _ = self.consumer.store_offset(&partition.topic, partition.number, offset - 1);
                    }
                }
                Ok(Command::NearTheEnd) => self.merge.near_the_end(),
                Ok(Command::CaughtUp) => self.merge.caught_up(),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return !self.events.is_closed(),
            }
        }
    }

    fn read(&mut self, epoch: u64, Span { partition, from, end }: &Span) -> Result<(), String> {
        self.leave(partition);
        if !self.ownership.is_current(partition, epoch) {
            return Ok(());
        }
        let mut places = self.topics.places(&partition.topic).into_iter();
        let topic = places.next().ok_or("the partition belongs to no topic of the projection")?;
        let also = places.collect();
        // Before the partition is assigned: otherwise its first events could go to the consumer's common
        // queue.
        let mut queue = self
            .consumer
            .split_partition_queue(&partition.topic, partition.number)
            .ok_or("the partition has no queue of its own")?;
        let this = thread::current();
        queue.set_nonempty_callback(move || this.unpark());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(*from))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .map_err(|error| error.to_string())?;
        self.consumer.context().assigned().insert(partition.clone());
        let (next, known_end) = (*from, *end);
        let end = Some(known_end).filter(|end| next < *end);
        self.merge.add(epoch, end.is_some(), Instant::now());
        let partition = partition.clone();
        let reading = Reading { partition, topic, also, next, known_end, end, queue, fault: None };
        self.readings.insert(epoch, reading);
        Ok(())
    }

    fn leave(&mut self, partition: &Partition) {
        self.forget(partition);
        if !self.consumer.context().assigned().remove(partition) {
            return;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&partition.topic, partition.number);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            self.outbox.push_back(Incoming::Failed(format!("cannot stop reading {partition}: {error}")));
        }
    }

    fn forget(&mut self, partition: &Partition) {
        let read = self.readings.iter().find(|(_, reading)| reading.partition == *partition);
        if let Some(epoch) = read.map(|(epoch, _)| *epoch) {
            self.readings.remove(&epoch);
            self.merge.remove(epoch);
        }
    }

    /// Updates the subscription, and processes rebalances of the group.
    fn follow_the_group(&mut self) {
        if self.subscription.has_changed().unwrap_or(false)
            && let Err(error) = subscribe(&self.consumer, &self.subscription.borrow_and_update())
        {
            self.outbox.push_back(Incoming::Failed(format!("cannot subscribe to the topics: {error}")));
        }
        match self.consumer.clone().poll(Duration::ZERO) {
            None => {}
            Some(Err(error)) => self.trouble(error),
            Some(Ok(message)) => {
                let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                let failed =
                    format!("{topic}/{partition}@{offset} came through the queue of another partition");
                self.outbox.push_back(Incoming::Failed(failed));
            }
        }
        for rebalance in self.consumer.context().take_rebalances() {
            // A rebalance shows that the group accepts this host.
            self.tell_group(None);
            let told = match rebalance {
                Rebalance::Granted(partitions) => Incoming::Granted(partitions),
                Rebalance::Revoked(partitions) => {
                    partitions.iter().for_each(|partition| self.forget(partition));
                    Incoming::Revoked(partitions)
                }
            };
            self.outbox.push_back(told);
        }
    }

    /// A consumer that does not join its group again reads nothing and reports nothing. So it is replaced.
    /// If the cause is known, [`tell_group`](Self::tell_group) reports it instead.
    fn follow_the_membership(&mut self) {
        self.membership.look(&self.consumer);
        let wants_topics = self.subscription.borrow().as_ref().is_some_and(|topics| !topics.is_empty());
        if wants_topics && self.group_fault.is_none() && self.membership.is_lost(Instant::now()) {
            let reason = "the Kafka consumer was removed from its group and did not join it again: the host creates a new consumer";
            self.outbox.push_back(Incoming::Failed(reason.to_owned()));
        }
    }

    /// If files of the connection have changed, a new consumer is needed.
    fn follow_the_files(&mut self) {
        let edition = self.connection.edition();
        if edition != self.edition {
            self.edition = edition;
            let reason = "files for the Kafka connection changed: the host creates a new consumer with them";
            self.outbox.push_back(Incoming::Failed(reason.to_owned()));
        }
    }

    /// Sends waiting messages to the pipeline. Returns whether all were sent.
    fn flush(&mut self) -> bool {
        while let Some(next) = self.outbox.pop_front() {
            match self.events.try_send(next) {
                Ok(()) => {}
                Err(TrySendError::Full(next)) => {
                    self.outbox.push_front(next);
                    return false;
                }
                Err(TrySendError::Closed(_)) => self.outbox.clear(),
            }
        }
        true
    }

    /// Takes the next chunk of events, merged by time. `false`: there are none yet.
    fn collect(&mut self) -> bool {
        let now = Instant::now();
        let now_ms = now_ms();
        // Before the queues are read: records that were in the logs when the ends were asked for are in the
        // queues now.
        let ends = self.ends.answer();
        for epoch in self.merge.silent() {
            self.refill(epoch, now_ms);
        }
        if let Some(ends) = ends {
            self.note_ends(&ends);
        }
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < CHUNK_EVENTS
            && bytes < CHUNK_BYTES
            && let Some((epoch, event)) = self.merge.take(now, now_ms)
        {
            bytes += event.size_bytes();
            chunk.push(Delivery { event, epoch });
            self.refill(epoch, now_ms);
        }
        if !chunk.is_empty() {
            self.outbox.push_back(Incoming::Events(chunk));
        }
        if self.ends.is_free(now) {
            let doubted = self.merge.doubted().filter_map(|epoch| self.readings.get(&epoch));
            let mut doubted = doubted.map(|reading| reading.partition.clone()).peekable();
            if doubted.peek().is_some() {
                self.ends.ask(&self.consumer, doubted, now, now_ms);
            }
        }
        for epoch in self.merge.let_go() {
            self.warn_of_lost_order(epoch);
        }
        !self.outbox.is_empty()
    }

    /// Marks partitions that were read to the end of their logs as complete.
    fn note_ends(&mut self, Ends { asked_ms, ends }: &Ends) {
        for (epoch, reading) in &self.readings {
            if ends.get(&reading.partition).is_some_and(|end| reading.next >= *end) {
                self.merge.complete(*epoch, *asked_ms);
            }
        }
    }

    fn warn_of_lost_order(&self, epoch: u64) {
        let Some(reading) = self.readings.get(&epoch) else { return };
        let (group, partition) = (&self.consumer.context().group, &reading.partition);
        tracing::warn!(
            group,
            %partition,
            "the partition returns no events, and is not known to be at its end: the host reads the other partitions without waiting for it, so its events may be applied in another order than they were written"
        );
    }

    /// Offers the next event of a partition to the merge, if there is one.
    fn refill(&mut self, epoch: u64, now_ms: i64) {
        let Some(reading) = self.readings.get_mut(&epoch) else { return };
        let trouble = loop {
            match reading.queue.poll(Duration::ZERO) {
                None => {
                    // librdkafka reports the end of a log only if no record is written for a while.
                    if self.merge.is_by_time()
                        && self.merge.is_awaited(epoch)
                        && high_mark(&self.consumer, &reading.partition)
                            .is_some_and(|high| reading.next >= high.max(reading.known_end))
                    {
                        self.merge.at_end(epoch);
                    }
                    return;
                }
                Some(Ok(message)) => {
                    failpoint::reached(failpoint::POLL, projection_of(&self.consumer.context().group));
                    over(&mut reading.fault, &reading.partition, &mut self.outbox);
                    let event = event(reading, &message, self.value_bytes);
                    let (offset, time) = (event.position.offset, event.timestamp_ms);
                    self.merge.offer(epoch, time, now_ms, event);
                    reading.next = offset + 1;
                    if !self.merge.is_by_time() && reading.end.is_some_and(|end| offset + 1 >= end) {
                        let high = high_mark(&self.consumer, &reading.partition);
                        reading.end = high.filter(|high| high - offset > NEAR_THE_END);
                        if reading.end.is_none() {
                            self.merge.at_end(epoch);
                        }
                    }
                    return;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    over(&mut reading.fault, &reading.partition, &mut self.outbox);
                    reading.end = None;
                    if let Some(high) = high_mark(&self.consumer, &reading.partition) {
                        reading.next = reading.next.max(high);
                    }
                    self.merge.at_end(epoch);
                }
                Some(Err(error)) => break error,
            }
        };
        match &trouble {
            KafkaError::MessageConsumption(code) if !is_out_of_range(*code) => {
                if reading.fault.replace(*code) != Some(*code) {
                    let subject = Subject::Partition(reading.partition.clone());
                    let fault = KafkaFault::of_code(subject.clone(), *code, &self.asker).while_reading();
                    self.outbox.push_back(Incoming::Fault { subject, fault: Some(fault) });
                }
            }
            _ => self.trouble(trouble),
        }
    }

    /// Reports why the group does not accept this host, when that changes.
    fn tell_group(&mut self, code: Option<RDKafkaErrorCode>) {
        if std::mem::replace(&mut self.group_fault, code) == code {
            return;
        }
        let subject = Subject::Group(self.consumer.context().group.as_str().into());
        let fault = code.map(|code| KafkaFault::of_code(subject.clone(), code, &self.asker));
        self.outbox.push_back(Incoming::Fault { subject, fault });
    }

    fn trouble(&mut self, error: KafkaError) {
        match &error {
            KafkaError::MessageConsumptionFatal(_) => {
                self.outbox.push_back(Incoming::Failed(error.to_string()))
            }
            KafkaError::MessageConsumption(code) if is_out_of_range(*code) => {
                self.outbox.push_back(Incoming::Recheck);
            }
            // librdkafka does not say which topic. The topics are checked elsewhere (see
            // [`topic_watch`](super::topic_watch)).
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::TopicAuthorizationFailed,
            ) => tracing::debug!(%error, "a topic is not available"),
            KafkaError::MessageConsumption(code) if is_of_the_group(*code) => self.tell_group(Some(*code)),
            _ if self.complained.is_none_or(|last| last.elapsed() > COMPLAINT) => {
                self.complained = Some(Instant::now());
                let group = &self.consumer.context().group;
                tracing::warn!(group, %error, "Kafka error; retrying");
            }
            _ => {}
        }
    }
}

/// `PREFIX.PROJECTION.gNUMBER.STORE`.
fn projection_of(group: &str) -> &str {
    group.rsplit('.').nth(2).unwrap_or_default()
}

/// A partition is fetched again: reports the end of its fault, if there was one.
fn over(fault: &mut Option<RDKafkaErrorCode>, partition: &Partition, outbox: &mut VecDeque<Incoming>) {
    if fault.take().is_some() {
        let subject = Subject::Partition(partition.clone());
        outbox.push_back(Incoming::Fault { subject, fault: None });
    }
}

/// The checkpoint does not fit the log any more: both must be compared again.
fn is_out_of_range(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
}

/// The group does not accept this host until a person corrects something.
fn is_of_the_group(code: RDKafkaErrorCode) -> bool {
    let subject = Subject::Group(Default::default());
    KafkaFault::of_code(subject, code, &Asker::default()).kind() != FailureKind::Brokers
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

/// Copies a record. A value of more than `value_bytes` is left out.
fn event(reading: &Reading, message: &BorrowedMessage<'_>, value_bytes: usize) -> Event {
    let oversize_bytes = message.payload().map(<[u8]>::len).filter(|bytes| *bytes > value_bytes);
    Event {
        position: Position { partition: reading.partition.clone(), offset: message.offset() },
        topic: reading.topic,
        also: reading.also.clone(),
        topic_name: reading.partition.topic.clone(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().filter(|_| oversize_bytes.is_none()).map(<[u8]>::to_vec),
        oversize_bytes,
        headers: headers(message),
    }
}

/// The end of a partition's log, as of the last fetch. rdkafka's own function would ask the broker.
fn high_mark(consumer: &BaseConsumer<GroupContext>, partition: &Partition) -> Option<i64> {
    let topic = CString::new(&*partition.topic).ok()?;
    let (mut low, mut high) = (0, 0);
    // SAFETY: all pointers outlive the call, which keeps none of them.
    let error = unsafe {
        native::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition.number,
            &mut low,
            &mut high,
        )
    };
    (error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(high)
}
