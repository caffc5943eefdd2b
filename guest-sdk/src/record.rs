//! What crosses the boundary between the host and a projection, as plain data.
//!
//! Authors see it typed, as [`Event`](crate::Event) and [`Context`](crate::Context). A projection
//! without the macros implements [`Projection`](crate::Projection) on these types.

use projector_model::{Change, LookupCall, Value};

/// One Kafka record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Index into the descriptor's topics.
    pub topic: u16,
    /// The physical topic: what it is called in the log.
    pub topic_name: String,
    pub partition: i32,
    pub offset: i64,
    /// The record's own timestamp, in milliseconds since 1970, when it has one.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

/// A header of a record; names may repeat, values may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: Option<Vec<u8>>,
}

/// The answer to one lookup call: its rows, each with the lookup's columns in declared order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub call: LookupCall,
    pub rows: Vec<Vec<Value>>,
}

/// What became of an event that was not rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Apply these, in this order.
    Changes(Vec<Change>),
    /// Nothing is wrong and nothing changes; the code is declared.
    Ignored { code: String, detail: String },
    /// Call again with these rows in `found`, beside all that was found before.
    Needs(Vec<LookupCall>),
}
