//! The data that the host and a projection exchange, as plain types.
//!
//! Handlers use the typed [`Event`](crate::Event) and [`Context`](crate::Context) instead. Only a projection without the
//! macros, which implements [`Projection`](crate::Projection) by hand, uses these types.

use projector_model::{Change, LookupCall, Value};

/// One Kafka record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Index into the descriptor's topics.
    pub topic: u16,
    /// The name of the topic in Kafka.
    pub topic_name: String,
    pub partition: i32,
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970-01-01T00:00:00Z. `None` if the record has none.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

/// A header of a record. Several headers may have the same name, and a header may have no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: Option<Vec<u8>>,
}

/// The rows that one lookup call found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub call: LookupCall,
    /// Each row has the lookup's columns, in declared order.
    pub rows: Vec<Vec<Value>>,
}

/// The outcome of an event that was not rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The host applies these changes, in this order.
    Changes(Vec<Change>),
    /// Nothing is wrong, and nothing changes. The code must be declared.
    Ignored { code: String, detail: String },
    /// The host reads these rows and calls the projection again, with these rows and all rows that were found before. If
    /// all of them were found before, the event waits for the first of these rows.
    Needs(Vec<LookupCall>),
}
