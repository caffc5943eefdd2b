//! An event as its handler sees it.

use crate::record::{Header, Record};

/// One record, its value read as a `T` by serde from JSON.
///
/// A record whose value is not a `T` never reaches its handler: it is rejected with the code
/// `bad-payload`. A tombstone (a record without a value) is one of them, unless the handler takes
/// an `Event<Option<T>>`, which gets `None` for it, as for the JSON `null`. A payload may borrow from the record: `Event<'_, OrderConfirmed<'_>>`.
/// A topic that carries several shapes is taken as an `Event<Unread>`.
#[derive(Debug)]
pub struct Event<'e, T> {
    pub payload: T,
    /// The record's key, as it was produced.
    pub key: Option<&'e [u8]>,
    pub headers: Headers<'e>,
    /// The record's own timestamp, in milliseconds since 1970, when it has one. It was given by
    /// the producer or by the broker, as the topic is configured.
    pub timestamp_ms: Option<i64>,
    pub position: Position,
    /// The physical topic's name: what it is called in the log. The platform may have one for each tenant,
    /// region or version, all of which are one logical topic.
    pub topic_name: &'e str,
}

/// Where a record stands: unique in the cluster, and rising within its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The topic's logical name, as it is declared.
    pub topic: &'static str,
    pub partition: i32,
    pub offset: i64,
}

/// The headers of a record. Names may repeat.
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

    /// The key as text; `None` when there is none or it is not UTF-8.
    pub fn key_str(&self) -> Option<&'e str> {
        std::str::from_utf8(self.key?).ok()
    }
}

impl<'e> Headers<'e> {
    /// The value of the last header of this name, as Kafka's own `lastHeader`.
    pub fn get(self, name: &str) -> Option<&'e [u8]> {
        self.iter().filter(|(given, _)| *given == name).last()?.1
    }

    /// The same as text; `None` when there is none or it is not UTF-8.
    pub fn get_str(self, name: &str) -> Option<&'e str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every header in the record's order, with the value where it has one.
    pub fn iter(self) -> impl Iterator<Item = (&'e str, Option<&'e [u8]>)> {
        self.0.iter().map(|header| (header.name.as_str(), header.value.as_deref()))
    }
}
