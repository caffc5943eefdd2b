//! What comes from Kafka, as plain data.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

/// One Kafka record, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub position: Position,
    /// Index of the logical topic in the projection's descriptor; of the first, if it belongs to several.
    pub topic: u16,
    /// The others, in declared order: each has a handler, and the event fails if one of them does.
    pub also: Vec<u16>,
    /// The physical topic that it was published to. Not that of its position, if it came from a file.
    pub topic_name: Arc<str>,
    /// The record's own timestamp in milliseconds since 1970, when it has one.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// Absent for a tombstone, and for one that was left in the log.
    pub value: Option<Vec<u8>>,
    /// What the value weighs that was left in the log, since it is larger than any may be.
    pub oversize_bytes: Option<usize>,
    pub headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by Kafka's convention, which no broker enforces.
    pub name: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// `None` for a name that is not UTF-8: no plugin can be given it.
    pub fn text_name(&self) -> Option<&str> {
        std::str::from_utf8(&self.name).ok()
    }
}

impl Event {
    /// The topic that it was published to, if its position is of another one: it came from a file.
    pub fn other_topic_name(&self) -> Option<&str> {
        Some(&*self.topic_name).filter(|name| *name != &*self.position.partition.topic)
    }

    /// How many logical topics it belongs to.
    pub fn topic_count(&self) -> usize {
        1 + self.also.len()
    }

    /// The index of the `nth` of its logical topics.
    pub fn nth_topic(&self, nth: usize) -> u16 {
        nth.checked_sub(1).map_or(self.topic, |at| self.also[at])
    }

    /// The event as one of the `nth` of its logical topics.
    pub fn as_of(&self, nth: usize) -> Cow<'_, Event> {
        match nth.checked_sub(1) {
            None => Cow::Borrowed(self),
            Some(at) => Cow::Owned(Event { topic: self.also[at], ..self.clone() }),
        }
    }

    /// The record's timestamp in microseconds since 1970, unless a producer's clock puts it where no
    /// database can.
    pub fn recorded_at_micros(&self) -> Option<i64> {
        let micros = self.timestamp_ms?.checked_mul(1_000)?;
        projector_model::value::TIMESTAMP_RANGE.contains(&micros).then_some(micros)
    }

    /// The headers as JSON: an array, since names may repeat. What is no UTF-8 stands as `{"hex": …}`.
    pub fn headers_json(&self) -> Json {
        let header = |header: &Header| serde_json::json!({"name": as_json(&header.name), "value": header.value.as_deref().map(as_json)});
        self.headers.iter().map(header).collect()
    }

    /// The headers that [`headers_json`](Event::headers_json) wrote; what is none of its kind is left out.
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

    /// What the event's own bytes weigh in memory, for the bounds of batches and buffers.
    pub fn size_bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize =
            self.headers.iter().map(|header| header.name.len() + length(&header.value)).sum();
        std::mem::size_of::<Self>() + length(&self.key) + length(&self.value) + headers
    }
}

/// Bytes in a document: their text, or, where they are none that Postgres can hold in one, `{"hex": …}`.
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
