//! An event on its way into the harness.

use serde::Serialize;

use super::{Handled, Harness};
use crate::Projection;
use crate::record::{Header, Record};

/// An event that a test builds. It is on partition 0, behind all that were sent before, without
/// key, value, headers and timestamp, until they are given; [`send`](Self::send) delivers it.
#[derive(Debug)]
#[must_use = "an event is delivered by `.send()`"]
pub struct Delivery<'h, P> {
    pub(super) harness: &'h mut Harness<P>,
    pub(super) record: Record,
}

impl<P: Projection> Delivery<'_, P> {
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.record.key = Some(key.as_ref().to_vec());
        self
    }

    /// # Panics
    ///
    /// If the payload cannot be written as JSON.
    #[track_caller]
    pub fn json(self, payload: impl Serialize) -> Self {
        let json = serde_json::to_vec(&payload).expect("a payload that can be written as JSON");
        self.value(json)
    }

    /// The record's value as it is, JSON or not.
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.record.value = Some(value.as_ref().to_vec());
        self
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.record.headers.push(Header { name: name.into(), value: Some(value.as_ref().to_vec()) });
        self
    }

    /// In milliseconds since 1970.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.record.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// The name of the physical topic; the logical one's, if nothing else is said.
    pub fn topic_name(mut self, name: &str) -> Self {
        self.record.topic_name = name.to_owned();
        self
    }

    pub fn partition(mut self, partition: i32) -> Self {
        self.record.partition = partition;
        self
    }

    /// Gives the event to its handler, and its changes to the rows.
    ///
    /// # Panics
    ///
    /// If the handler does what the host would hold against the plugin rather than against the
    /// event: a write that is not declared for its topic, a code that is not declared, a fourth
    /// round of reads, or another answer when it is asked the same again.
    #[track_caller]
    pub fn send(self) -> Handled {
        self.harness.deliver(self.record)
    }
}
