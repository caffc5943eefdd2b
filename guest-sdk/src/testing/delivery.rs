//! An event that a test builds and sends.

use serde::Serialize;

use super::{Handled, Harness};
use crate::Projection;
use crate::record::{Header, Record};

/// An event that a test builds. [`send`](Self::send) delivers it.
///
/// By default the event is on partition 0, after all events that were sent before, and has no key, value, headers or
/// timestamp.
#[derive(Debug)]
#[must_use = "the event is delivered only by `.send()`"]
pub struct Delivery<'h, P> {
    harness: &'h mut Harness<P>,
    record: Record,
}

impl<P: Projection> Harness<P> {
    /// Begins an event of this topic, by its logical name.
    ///
    /// # Panics
    ///
    /// If the projection does not read the topic.
    #[track_caller]
    pub fn event(&mut self, topic: &str) -> Delivery<'_, P> {
        let Some(index) = self.contract().topics.iter().position(|declared| declared.name == topic) else {
            panic!("the projection has no handler for {topic:?}");
        };
        let record = Record {
            topic: index as u16,
            topic_name: topic.to_owned(),
            offset: self.next_offset(),
            ..Record::default()
        };
        Delivery { harness: self, record }
    }
}

impl<P: Projection> Delivery<'_, P> {
    /// Sets the record's key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.record.key = Some(key.as_ref().to_vec());
        self
    }

    /// Sets the record's value to a payload as JSON.
    ///
    /// # Panics
    ///
    /// If the payload cannot be written as JSON.
    #[track_caller]
    pub fn json(self, payload: impl Serialize) -> Self {
        let json = serde_json::to_vec(&payload).expect("a payload that can be written as JSON");
        self.value(json)
    }

    /// Sets the record's value to these bytes.
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.record.value = Some(value.as_ref().to_vec());
        self
    }

    /// Adds a header to the record.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.record.headers.push(Header { name: name.into(), value: Some(value.as_ref().to_vec()) });
        self
    }

    /// Sets the record's timestamp, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.record.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Sets the name of the topic in Kafka. By default this is the logical name.
    pub fn topic_name(mut self, name: &str) -> Self {
        self.record.topic_name = name.to_owned();
        self
    }

    /// Sets the record's partition.
    pub fn partition(mut self, partition: i32) -> Self {
        self.record.partition = partition;
        self
    }

    /// Calls the handler with the event, and applies its changes to the rows.
    ///
    /// # Panics
    ///
    /// If the handler makes a mistake that is a bug of the plugin, whatever the event: it writes or reads what its topic
    /// does not declare, uses a code that is not declared, still reads rows after three rounds, or answers differently
    /// when it is called a second time.
    #[track_caller]
    pub fn send(self) -> Handled {
        self.harness.deliver(self.record)
    }
}
