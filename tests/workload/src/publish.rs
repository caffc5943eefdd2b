//! A real producer: idempotent, compressed, and loud about what it could not deliver.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use crate::Record;

/// As the article's services are set: no duplicates from retries, compressed batches.
const PROPERTIES: [(&str, &str); 5] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("compression.codec", "gzip"),
    ("linger.ms", "20"),
    ("delivery.timeout.ms", "60000"),
];

const POLL: Duration = Duration::from_millis(50);
/// How long a record that may not go yet waits until it is asked for again.
const PACE: Duration = Duration::from_millis(2);

/// Where a record came to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, as acknowledged. librdkafka's mock cluster keeps what the
    /// producer set, but acknowledges a time of its own making.
    pub timestamp_ms: i64,
}

/// Whether it is a record's turn to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Now,
    Later,
    /// Nor that of any behind it.
    Never,
}

impl From<bool> for Turn {
    fn from(now: bool) -> Turn {
        if now { Turn::Now } else { Turn::Later }
    }
}

/// Publishes records and says where each of them came to lie.
pub struct Publisher<'a> {
    properties: ClientConfig,
    progress: Box<dyn FnMut(usize) + 'a>,
    pace: Box<dyn FnMut(usize) -> Result<Turn> + 'a>,
}

impl<'a> Publisher<'a> {
    pub fn new(brokers: &str) -> Publisher<'a> {
        let mut properties = ClientConfig::new();
        properties.set("bootstrap.servers", brokers);
        for (name, value) in PROPERTIES {
            properties.set(name, value);
        }
        Publisher { properties, progress: Box::new(|_| ()), pace: Box::new(|_| Ok(Turn::Now)) }
    }

    /// A librdkafka property beside or instead of those that this crate chose.
    pub fn property(mut self, name: &str, value: &str) -> Publisher<'a> {
        self.properties.set(name, value);
        self
    }

    /// `progress` is called now and then with the number of records delivered so far.
    pub fn progress(mut self, progress: impl FnMut(usize) + 'a) -> Publisher<'a> {
        self.progress = Box::new(progress);
        self
    }

    /// `pace` is asked, with a record's index, before that record is handed over: again and again
    /// until it is its turn, while those before it go on their way. Its error ends the publishing.
    pub fn pace<T: Into<Turn>>(mut self, mut pace: impl FnMut(usize) -> Result<T> + 'a) -> Publisher<'a> {
        self.pace = Box::new(move |record| pace(record).map(Into::into));
        self
    }

    /// Publishes all of `records` whose turn comes, in order for each partition; returns when every one of
    /// them is acknowledged, with their positions in the same order. One that cannot be delivered is an
    /// error; others may have been delivered then.
    pub fn publish(mut self, records: &[Record]) -> Result<Vec<Position>> {
        let deliveries = Deliveries::expecting(records.len());
        let producer: BaseProducer<Deliveries> =
            self.properties.create_with_context(deliveries).context("no producer with these properties")?;
        'all: for (index, record) in records.iter().enumerate() {
            loop {
                match (self.pace)(index)? {
                    Turn::Now => break,
                    Turn::Later => {
                        // `poll` counts in whole milliseconds, and spins for what remains of the last one.
                        thread::sleep(PACE);
                        producer.poll(Duration::ZERO);
                        (self.progress)(producer.context().delivered()?);
                    }
                    Turn::Never => {
                        producer.context().expect_no_more_than(index);
                        break 'all;
                    }
                }
            }
            send(&producer, record, index)?;
            if index % 500 == 0 {
                producer.poll(Duration::ZERO);
                (self.progress)(producer.context().delivered()?);
            }
        }
        while producer.in_flight_count() > 0 {
            producer.poll(POLL);
            (self.progress)(producer.context().delivered()?);
        }
        let positions = producer.context().positions()?;
        (self.progress)(positions.len());
        Ok(positions)
    }
}

/// Hands over one record, and waits while the producer's queue is full.
fn send(producer: &BaseProducer<Deliveries>, record: &Record, index: usize) -> Result<()> {
    let mut outgoing = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&record.topic, index);
    outgoing.key = record.key.as_deref();
    outgoing.payload = record.payload.as_deref();
    outgoing.partition = record.partition;
    outgoing.timestamp = record.timestamp_ms;
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        outgoing.headers =
            Some(record.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            }));
    }
    loop {
        match producer.send(outgoing) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                producer.poll(POLL);
                outgoing = refused;
            }
            Err((error, _)) => {
                return Err(error).with_context(|| format!("record {index} for {}", record.topic));
            }
        }
    }
}

/// What the broker said of each record, by its index.
struct Deliveries {
    state: Mutex<DeliveryState>,
}

struct DeliveryState {
    positions: Vec<Option<Position>>,
    delivered: usize,
    first_failure: Option<String>,
}

impl Deliveries {
    fn expecting(records: usize) -> Deliveries {
        let state = DeliveryState { positions: vec![None; records], delivered: 0, first_failure: None };
        Deliveries { state: Mutex::new(state) }
    }

    fn expect_no_more_than(&self, records: usize) {
        self.state().positions.truncate(records);
    }

    fn state(&self) -> MutexGuard<'_, DeliveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self) -> Result<usize> {
        let state = self.state();
        if let Some(failure) = &state.first_failure {
            bail!("{failure}; {} of {} records were delivered", state.delivered, state.positions.len());
        }
        Ok(state.delivered)
    }

    fn positions(&self) -> Result<Vec<Position>> {
        self.delivered()?;
        let state = self.state();
        let position = |(index, position): (usize, &Option<Position>)| {
            position.ok_or_else(|| anyhow!("record {index} was neither delivered nor refused"))
        };
        state.positions.iter().enumerate().map(position).collect()
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let mut state = self.state();
        match result {
            Ok(message) => {
                state.positions[index] = Some(Position {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                });
                state.delivered += 1;
            }
            Err((error, message)) => {
                let failure = format!("record {index} for {} was not delivered: {error}", message.topic());
                state.first_failure.get_or_insert(failure);
            }
        }
    }
}
