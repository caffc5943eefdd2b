//! What comes from Kafka, as plain data.

use std::fmt;
use std::sync::Arc;

/// One Kafka record, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub position: Position,
    /// Index of the topic in the projection's descriptor.
    pub topic: u16,
    /// The record's own timestamp in milliseconds since 1970, when it has one.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// Absent for a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: Option<Vec<u8>>,
}

impl Event {
    /// The record's timestamp in microseconds since 1970, unless a producer's clock puts it where no
    /// database can.
    pub fn recorded_at_micros(&self) -> Option<i64> {
        let micros = self.timestamp_ms?.checked_mul(1_000)?;
        projector_model::value::TIMESTAMP_RANGE.contains(&micros).then_some(micros)
    }

    /// What the event's own bytes weigh in memory, for the bounds of batches and buffers.
    pub fn size_bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize =
            self.headers.iter().map(|header| header.name.len() + length(&header.value)).sum();
        std::mem::size_of::<Self>() + length(&self.key) + length(&self.value) + headers
    }
}

/// A partition of a physical topic. Cheap to clone: every event carries one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    pub topic: Arc<str>,
    pub number: i32,
}

impl Partition {
    pub fn new(topic: impl Into<Arc<str>>, number: i32) -> Self {
        Self { topic: topic.into(), number }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

/// Where a record stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub partition: Partition,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}
