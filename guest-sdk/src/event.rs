//! An event, as its handler sees it.

use crate::record::{Header, Record};

/// One record. Its value is JSON, which serde has read as a `T`.
///
/// If the value cannot be read as a `T`, the event is rejected with the code `bad-payload`, and the handler is not called.
/// This includes a tombstone (a record without a value), unless the handler takes an `Event<Option<T>>`: a tombstone and
/// the JSON `null` are then `None`. A payload may borrow from the record: `Event<'_, OrderConfirmed<'_>>`. For a topic
/// with several kinds of payloads the handler takes an `Event<Unread>`.
#[derive(Debug)]
pub struct Event<'e, T> {
    /// The record's value, read as a `T`.
    pub payload: T,
    /// The record's key. `None` if the record has no key.
    pub key: Option<&'e [u8]>,
    pub headers: Headers<'e>,
    /// The record's timestamp, in milliseconds since 1970-01-01T00:00:00Z. `None` if the record has none. The producer or
    /// the broker has set it, depending on the topic's `message.timestamp.type`.
    pub timestamp_ms: Option<i64>,
    pub position: Position,
    /// The name of the topic in Kafka. One logical topic may be several topics in Kafka, for example one for each tenant,
    /// region or version.
    pub topic_name: &'e str,
}

/// The position of a record. Offsets rise within a partition of a Kafka topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The topic's logical name, as the handler declares it.
    pub topic: &'static str,
    pub partition: i32,
    pub offset: i64,
}

/// The headers of a record. Several headers may have the same name.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'e>(&'e [Header]);

impl<'e, T> Event<'e, T> {
    pub(crate) fn new(record: &'e Record, topic: &'static str, payload: T) -> Self {
        Self {
            payload,
            key: record.key.as_deref(),
            headers: Headers(&record.headers),
            timestamp_ms: record.timestamp_ms,
            position: Position { topic, partition: record.partition, offset: record.offset },
            topic_name: &record.topic_name,
        }
    }

    /// The key as text. `None` if the record has no key, or if the key is not UTF-8.
    pub fn key_str(&self) -> Option<&'e str> {
        std::str::from_utf8(self.key?).ok()
    }
}

impl<'e> Headers<'e> {
    /// The value of the last header with this name, as Kafka's `lastHeader` gives it.
    pub fn get(self, name: &str) -> Option<&'e [u8]> {
        self.iter().filter(|(given, _)| *given == name).last()?.1
    }

    /// The value of the last header with this name, as text. `None` if there is none, or if it is not UTF-8.
    pub fn get_str(self, name: &str) -> Option<&'e str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every header in the record's order, with its value if it has one.
    pub fn iter(self) -> impl Iterator<Item = (&'e str, Option<&'e [u8]>)> {
        self.0.iter().map(|header| (header.name.as_str(), header.value.as_deref()))
    }
}
