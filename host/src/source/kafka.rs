//! The poll thread: one consumer, polled without pause, so that the group never thinks it dead.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::log::LogError;
use super::rebalance::{GroupContext, Ownership, Rebalance};
use super::{Incoming, Topics};
use crate::batch::Delivery;
use crate::config::{self, SaslMechanism};
use crate::event::{Event, Header, Partition, Position};

/// One hand-over to the pipeline: at most this many events and, beside the last one, bytes.
const CHUNK_EVENTS: usize = 500;
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;
/// How long a poll waits for an event; commands wait as long.
const POLL: Duration = Duration::from_millis(20);
/// How long the thread waits for a pipeline that has enough, before it pauses the consumer: that
/// throws away what was fetched already. Meanwhile nobody is called back about the group.
const BACK_PRESSURE: Duration = Duration::from_secs(1);
/// One line about trouble with the brokers in this time is enough.
const COMPLAINT: Duration = Duration::from_secs(30);

/// Properties that the host's promises rest on.
pub const RESERVED_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "partition.assignment.strategy",
    "enable.partition.eof",
];

/// What every client of the host has: brokers, TLS, SASL, and what the platform set by hand.
pub(super) fn client_config(kafka: &config::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &*kafka.brokers)
        .set("client.id", "projector")
        .set("log.connection.close", "false")
        .set("socket.keepalive.enable", "true")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_committed")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error");
    let protocol = match (&kafka.tls, &kafka.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(tls) = &kafka.tls {
        for (property, value) in [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.certificate),
            ("ssl.key.location", &tls.key),
            ("ssl.key.password", &tls.key_password),
        ] {
            if let Some(value) = value {
                config.set(property, &**value);
            }
        }
    }
    if let Some(sasl) = &kafka.sasl {
        let mechanism = match sasl.mechanism {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        config
            .set("sasl.mechanisms", mechanism)
            .set("sasl.username", &*sasl.username)
            .set("sasl.password", &*sasl.password);
    }
    for (property, value) in &kafka.properties {
        config.set(property, &**value);
    }
    config
}

/// What a consumer of a group has beside it. The timings are those of the services that a
/// projector replaces: found dead after 30 s, an event seen within half a second.
fn consumer_config(kafka: &config::Kafka, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("session.timeout.ms", "30000")
        .set("heartbeat.interval.ms", "3000")
        .set("fetch.wait.max.ms", "500")
        .set("queued.max.messages.kbytes", "16384")
        // How soon it fetches again after that was full; its own default is a second.
        .set("fetch.queue.backoff.ms", "20")
        .set("topic.metadata.refresh.interval.ms", "30000");
    for (property, value) in client_config(kafka).config_map() {
        config.set(property.to_owned(), value.to_owned());
    }
    config
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Stored offsets are what the pipeline advises; committing them is for Kafka's tools.
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "5000");
    config
}

pub(super) enum Command {
    Read { partition: Partition, offset: i64, epoch: u64 },
    Leave { partition: Partition },
    Advise { positions: Vec<(Partition, i64)> },
    Stop,
}

pub(super) struct Poller {
    consumer: BaseConsumer<GroupContext>,
    ownership: Arc<Ownership>,
    /// Physical topic → its place in the descriptor and the epochs of its partitions.
    topics: HashMap<Arc<str>, Topic>,
    events: Sender<Incoming>,
    commands: Receiver<Command>,
    /// To wait for room in the channel.
    runtime: Handle,
    /// What the channel had no room for. Reading is paused if anything stays here for long.
    outbox: VecDeque<Incoming>,
    paused: bool,
    complained: Option<Instant>,
}

struct Topic {
    name: Arc<str>,
    index: u16,
    epochs: HashMap<i32, u64>,
}

impl Poller {
    pub(super) fn open(
        kafka: &config::Kafka,
        group: &str,
        topics: Topics,
        ownership: Arc<Ownership>,
        events: Sender<Incoming>,
        commands: Receiver<Command>,
    ) -> Result<Self, LogError> {
        let context = GroupContext {
            ownership: ownership.clone(),
            rebalances: Default::default(),
            assigned: Default::default(),
            group: group.to_owned(),
        };
        let consumer: BaseConsumer<GroupContext> =
            consumer_config(kafka, group).create_with_context(context).map_err(LogError::Client)?;
        let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        consumer.subscribe(&names).map_err(LogError::Client)?;
        let topics = topics
            .iter()
            .enumerate()
            .map(|(index, name)| {
                (name.clone(), Topic { name: name.clone(), index: index as u16, epochs: HashMap::new() })
            })
            .collect();
        Ok(Self {
            consumer,
            ownership,
            topics,
            events,
            commands,
            runtime: Handle::current(),
            outbox: VecDeque::new(),
            paused: false,
            complained: None,
        })
    }

    /// Polls until it is told to stop, or nobody listens any more.
    pub(super) fn run(mut self) {
        while self.obey() {
            self.flush();
            self.press_back();
            let mut chunk = Vec::new();
            let mut bytes = 0;
            let mut wait = if self.outbox.is_empty() { POLL } else { POLL / 4 };
            while chunk.len() < CHUNK_EVENTS && bytes < CHUNK_BYTES {
                match self.consumer.poll(wait) {
                    None => break,
                    Some(Ok(message)) => {
                        if let Some(delivery) = delivery(&self.topics, &message) {
                            bytes += delivery.event.size_bytes();
                            chunk.push(delivery);
                        }
                    }
                    Some(Err(error)) => {
                        self.trouble(error);
                        break;
                    }
                }
                wait = Duration::ZERO;
            }
            if !chunk.is_empty() {
                self.outbox.push_back(Incoming::Events(chunk));
            }
            for rebalance in self.consumer.context().take_rebalances() {
                self.outbox.push_back(match rebalance {
                    Rebalance::Granted(partitions) => Incoming::Granted(partitions),
                    Rebalance::Revoked(partitions) => Incoming::Revoked(partitions),
                });
            }
        }
        // So that Kafka's own tools see where the read model stands; closing must not fail for it.
        if let Err(error) = self.consumer.commit_consumer_state(CommitMode::Sync) {
            tracing::debug!(%error, "the last offsets were not told to Kafka");
        }
    }

    /// Does what the pipeline said. `false`: stop.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Read { partition, offset, epoch }) => self.read(&partition, offset, epoch),
                Ok(Command::Leave { partition }) => self.leave(&partition),
                Ok(Command::Advise { positions }) => {
                    for (partition, offset) in positions {
                        // Refused for a partition that is no longer ours, as it should be.
                        let _ = self.consumer.store_offset(&partition.topic, partition.number, offset - 1);
                    }
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return !self.events.is_closed(),
            }
        }
    }

    fn read(&mut self, partition: &Partition, offset: i64, epoch: u64) {
        self.leave(partition);
        if !self.ownership.is_current(partition, epoch) {
            return;
        }
        let mut list = TopicPartitionList::new();
        let assigned = list
            .add_partition_offset(&partition.topic, partition.number, Offset::Offset(offset))
            .and_then(|()| self.consumer.incremental_assign(&list));
        if let Err(error) = assigned {
            self.outbox
                .push_back(Incoming::Failed(format!("{partition} cannot be read from {offset}: {error}")));
            return;
        }
        self.consumer.context().assigned().insert(partition.clone());
        if let Some(topic) = self.topics.get_mut(&partition.topic) {
            topic.epochs.insert(partition.number, epoch);
        }
        // librdkafka keeps a partition paused from one assignment to the next.
        let paused = match self.paused {
            true => self.consumer.pause(&list),
            false => self.consumer.resume(&list),
        };
        if let Err(error) = paused {
            self.outbox
                .push_back(Incoming::Failed(format!("{partition} cannot be paused or resumed: {error}")));
        }
    }

    fn leave(&mut self, partition: &Partition) {
        if !self.consumer.context().assigned().remove(partition) {
            return;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&partition.topic, partition.number);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            self.outbox.push_back(Incoming::Failed(format!("{partition} cannot be left: {error}")));
        }
    }

    fn flush(&mut self) {
        while let Some(next) = self.outbox.pop_front() {
            match self.events.try_send(next) {
                Ok(()) => {}
                Err(TrySendError::Full(next)) if self.paused => return self.outbox.push_front(next),
                Err(TrySendError::Full(next)) => {
                    let room = async { tokio::time::timeout(BACK_PRESSURE, self.events.reserve()).await };
                    match self.runtime.block_on(room) {
                        Ok(Ok(room)) => room.send(next),
                        Ok(Err(_)) => return self.outbox.clear(),
                        Err(_) => return self.outbox.push_front(next),
                    }
                }
                Err(TrySendError::Closed(_)) => return self.outbox.clear(),
            }
        }
    }

    /// Pauses when the pipeline has had more than it can take for long; polling goes on, for the
    /// group's sake.
    fn press_back(&mut self) {
        if !self.outbox.is_empty() && !self.paused {
            self.set_paused(true);
        } else if self.paused
            && self.outbox.is_empty()
            && self.events.capacity() >= self.events.max_capacity() / 2
        {
            self.set_paused(false);
        }
    }

    fn set_paused(&mut self, paused: bool) {
        let changed = self.consumer.assignment().and_then(|partitions| match paused {
            true => self.consumer.pause(&partitions),
            false => self.consumer.resume(&partitions),
        });
        match changed {
            Ok(()) => self.paused = paused,
            Err(error) => self
                .outbox
                .push_back(Incoming::Failed(format!("reading cannot be paused or resumed: {error}"))),
        }
    }

    fn trouble(&mut self, error: KafkaError) {
        match &error {
            KafkaError::MessageConsumptionFatal(_) => {
                self.outbox.push_back(Incoming::Failed(error.to_string()))
            }
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ) => self.outbox.push_back(Incoming::Recheck),
            _ if self.complained.is_none_or(|last| last.elapsed() > COMPLAINT) => {
                self.complained = Some(Instant::now());
                let group = &self.consumer.context().group;
                tracing::warn!(group, %error, "Kafka: trying on");
            }
            _ => {}
        }
    }
}

fn delivery(topics: &HashMap<Arc<str>, Topic>, message: &BorrowedMessage<'_>) -> Option<Delivery> {
    let topic = topics.get(message.topic())?;
    let epoch = *topic.epochs.get(&message.partition())?;
    let headers = message.headers().map(|headers| {
        headers
            .iter()
            .map(|header| Header { name: header.key.to_owned(), value: header.value.map(<[u8]>::to_vec) })
            .collect()
    });
    let event = Event {
        position: Position {
            partition: Partition { topic: topic.name.clone(), number: message.partition() },
            offset: message.offset(),
        },
        topic: topic.index,
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    };
    Some(Delivery { event, epoch })
}
