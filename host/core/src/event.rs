//! A Kafka record, as plain data, with its position in the log.
//!
//! Invariant: an event is not changed after it was read. Its position identifies it, whatever it contains.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

/// One Kafka record, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub position: Position,
    /// Index of the event's logical topic in the projection's descriptor. If the event belongs to several
    /// logical topics, the index of the first.
    pub topic: u16,
    /// The other logical topics, in declared order. Each has a handler, and the event fails if one handler
    /// fails.
    pub also: Vec<u16>,
    /// The physical topic to which the record was published. It differs from the position's topic if the
    /// event came from a file.
    pub topic_name: Arc<str>,
    /// The record's timestamp in milliseconds since 1970, if it has one.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// `None` for a tombstone, and for a value that is too large to be read.
    pub value: Option<Vec<u8>>,
    /// The size of a value that is too large to be read.
    pub oversize_bytes: Option<usize>,
    pub headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by convention; brokers do not enforce it.
    pub name: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// `None` if the name is not UTF-8: such a name cannot be passed to a plugin.
    pub fn text_name(&self) -> Option<&str> {
        std::str::from_utf8(&self.name).ok()
    }
}

impl Event {
    /// The topic to which the event was published, if it differs from the position's topic: the event came
    /// from a file.
    pub fn other_topic_name(&self) -> Option<&str> {
        Some(&*self.topic_name).filter(|name| *name != &*self.position.partition.topic)
    }

    /// The number of logical topics that the event belongs to.
    pub fn topic_count(&self) -> usize {
        1 + self.also.len()
    }

    /// The index of the event's `nth` logical topic.
    pub fn nth_topic(&self, nth: usize) -> u16 {
        nth.checked_sub(1).map_or(self.topic, |at| self.also[at])
    }

    /// The event as the handler of its `nth` logical topic gets it.
    pub fn as_of(&self, nth: usize) -> Cow<'_, Event> {
        match nth.checked_sub(1) {
            None => Cow::Borrowed(self),
            Some(at) => Cow::Owned(Event { topic: self.also[at], ..self.clone() }),
        }
    }

    /// The record's timestamp in microseconds since 1970. `None` if the record has none, or one that
    /// databases cannot store.
    pub fn recorded_at_micros(&self) -> Option<i64> {
        let micros = self.timestamp_ms?.checked_mul(1_000)?;
        projector_model::value::TIMESTAMP_RANGE.contains(&micros).then_some(micros)
    }

    /// The headers as a JSON array, since names may repeat. Bytes that are not UTF-8 become `{"hex": …}`.
    pub fn headers_json(&self) -> Json {
        let header = |header: &Header| serde_json::json!({"name": as_json(&header.name), "value": header.value.as_deref().map(as_json)});
        self.headers.iter().map(header).collect()
    }

    /// Reads the headers that [`headers_json`](Event::headers_json) wrote. Entries of another form are left
    /// out.
    pub fn headers_from(json: &Json) -> Vec<Header> {
        let bytes = |shown: &Json| match shown {
            Json::String(text) => Some(text.clone().into_bytes()),
            Json::Object(object) => {
                object.get("hex").and_then(Json::as_str).and_then(|hex| hex::decode(hex).ok())
            }
            _ => None,
        };
        let header =
            |header: &Json| Some(Header { name: bytes(&header["name"])?, value: bytes(&header["value"]) });
        json.as_array().into_iter().flatten().filter_map(header).collect()
    }

    /// The event's size in memory, for the bounds of batches and buffers.
    pub fn size_bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize =
            self.headers.iter().map(|header| header.name.len() + length(&header.value)).sum();
        std::mem::size_of::<Self>() + length(&self.key) + length(&self.value) + headers
    }
}

/// Bytes as a JSON value: their text, or `{"hex": …}` if Postgres cannot store them as text in a document.
pub fn as_json(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Json::from(text),
        _ => serde_json::json!({ "hex": hex::encode(bytes) }),
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

/// The position of a record in the log.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let header =
            |name: &str, value: Option<&[u8]>| Header { name: name.into(), value: value.map(Into::into) };
        let headers = vec![
            header("a", Some(b"text")),
            header("a", None),
            header("", Some(b"")),
            header("n\0", Some(b"\0\xff")),
            header("hex", Some(b"{\"hex\": \"00\"}")),
            Header { name: vec![b'x', 0xff], value: None },
        ];
        let position = Position { partition: Partition::new("t", 0), offset: 0 };
        let event = Event {
            position,
            topic: 0,
            timestamp_ms: None,
            key: None,
            value: None,
            also: Vec::new(),
            topic_name: "t".into(),
            oversize_bytes: None,
            headers,
        };
        assert_eq!(Event::headers_from(&event.headers_json()), event.headers);
        assert!(!event.headers_json().to_string().contains("\\u0000"));
    }
}
