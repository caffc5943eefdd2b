//! The consuming thread: polls, decodes, folds, and hands over a batch when one is asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use projector_workload::{CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, ORDER_CONFIRMED};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use crate::Arguments;
use crate::batch::{Advance, Batch};
use crate::event::{Event, Kind};
use crate::store::Store;

/// How long a poll waits for the first event of a batch; a stop is noticed after as long.
const POLL: Duration = Duration::from_millis(20);
/// How long it waits for more events, while the batches before are still written.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// The same as the host's, so that neither keeps more events at hand than the other, but for one.
const PROPERTIES: [(&str, &str); 10] = [
    ("session.timeout.ms", "30000"),
    ("heartbeat.interval.ms", "3000"),
    ("fetch.wait.max.ms", "500"),
    ("queued.max.messages.kbytes", "16384"),
    // A full queue is looked at again soon: after a second, the default, it would be empty.
    ("fetch.queue.backoff.ms", "20"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
];

pub(crate) struct Consumer {
    consumer: BaseConsumer<Group>,
    topics: [(String, Kind); 3],
}

impl Consumer {
    /// Partitions are read from the offsets in `store`, whatever Kafka believes.
    pub(crate) fn join(arguments: &Arguments, store: &Store, runtime: Handle) -> Result<Consumer> {
        let topics = [
            (ORDER_CONFIRMED, Kind::OrderConfirmed),
            (CUSTOMER_COUNTRY_CHANGED, Kind::CountryChanged),
            (CUSTOMER_PROFILE_UPDATED, Kind::ProfileUpdated),
        ]
        .map(|(name, kind)| (format!("{}{name}", arguments.topic_prefix), kind));
        let mut properties = ClientConfig::new();
        properties.set("bootstrap.servers", &arguments.brokers).set("group.id", &arguments.group);
        for (name, value) in PROPERTIES {
            properties.set(name, value);
        }
        let group = Group { store: store.clone(), runtime, state: Mutex::default() };
        let consumer: BaseConsumer<Group> =
            properties.create_with_context(group).context("no consumer with these properties")?;
        let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
        consumer.subscribe(&names).context("cannot subscribe")?;
        Ok(Consumer { consumer, topics })
    }

    /// Until it is told to stop, or nobody takes batches any more.
    pub(crate) fn run(self, batch_events: usize, stop: &AtomicBool, batches: &Sender<Batch>) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let batch = self.next_batch(batch_events, stop, batches)?;
            if batch.events > 0 && batches.blocking_send(batch).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// What is there already, and what comes while no batch is wanted, as far as it has room. Empty
    /// if nothing came.
    fn next_batch(&self, batch_events: usize, stop: &AtomicBool, batches: &Sender<Batch>) -> Result<Batch> {
        let mut batch = Batch::default();
        while batch.events < batch_events as u64 {
            let wanted = batches.capacity() > 0 || batches.is_closed() || stop.load(Ordering::Relaxed);
            let wait = match (batch.events, wanted) {
                (0, _) => POLL,
                (_, true) => Duration::ZERO,
                (_, false) => BUSY_POLL,
            };
            let polled = self.consumer.poll(wait);
            if self.consumer.context().take_rebalanced()? {
                // What this batch holds will be read again, here or elsewhere.
                batch = Batch::default();
            }
            match polled {
                Some(message) => self.push(&mut batch, &message.context("cannot consume")?)?,
                None if wanted || batch.events == 0 => break,
                None => {}
            }
        }
        self.consumer.context().will_be_stored(
            batch.offsets.iter().map(|((topic, partition), advance)| {
                (self.topics[*topic].0.as_str(), *partition, advance.next)
            }),
        );
        Ok(batch)
    }

    fn push(&self, batch: &mut Batch, message: &BorrowedMessage<'_>) -> Result<()> {
        let (name, partition, offset) = (message.topic(), message.partition(), message.offset());
        let at = || format!("{name}/{partition} at {offset}");
        let Some(topic) = self.topics.iter().position(|(topic, _)| topic == name) else {
            bail!("{}: nobody subscribed to this", at());
        };
        let payload = message.payload().with_context(|| format!("{}: no payload", at()))?;
        batch.push(Event::decode(self.topics[topic].1, payload).with_context(at)?);
        match batch.offsets.entry((topic, partition)) {
            Entry::Occupied(mut advance) => advance.get_mut().next = offset + 1,
            Entry::Vacant(none) => {
                let expected = self.consumer.context().stored(name, partition).with_context(at)?;
                none.insert(Advance { topic: name.to_owned(), expected, next: offset + 1 });
            }
        }
        Ok(())
    }
}

/// The rebalance callbacks run inside of `poll`, on the consuming thread.
struct Group {
    store: Store,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The offset of each partition that is read, once all batches so far are written.
    stored: HashMap<(String, i32), i64>,
    /// There was a rebalance, and whether it could be followed.
    rebalanced: Option<Result<()>>,
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_rebalanced(&self) -> Result<bool> {
        match self.state().rebalanced.take() {
            Some(followed) => followed.map(|()| true),
            None => Ok(false),
        }
    }

    fn stored(&self, topic: &str, partition: i32) -> Result<i64> {
        let stored = self.state().stored.get(&(topic.to_owned(), partition)).copied();
        stored.context("this partition was not granted")
    }

    fn will_be_stored<'a>(&self, offsets: impl Iterator<Item = (&'a str, i32, i64)>) {
        let mut state = self.state();
        state.stored.extend(offsets.map(|(topic, partition, next)| ((topic.to_owned(), partition), next)));
    }

    /// Reads on from the stored offsets.
    fn assign(&self, consumer: &BaseConsumer<Self>, granted: &TopicPartitionList) -> Result<()> {
        let partitions: Vec<(String, i32)> = granted
            .elements()
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        let offsets = self.runtime.block_on(self.store.offsets(&partitions))?;
        let mut assignment = TopicPartitionList::new();
        for ((topic, partition), offset) in &offsets {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        self.state().stored = offsets.into_iter().collect();
        Ok(consumer.assign(&assignment)?)
    }
}

impl ClientContext for Group {}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let followed = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => consumer.unassign().map_err(Into::into),
        };
        self.state().rebalanced = Some(followed.context("cannot follow a rebalance"));
    }
}
