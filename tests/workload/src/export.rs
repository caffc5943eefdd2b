//! Events as JSON Lines, for people and scripts.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::{Position, Record};

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    headers: Map<String, Value>,
    value: Option<Box<RawValue>>,
}

/// Writes one object a line: topic, partition, offset, timestamp (milliseconds since the epoch; the
/// producer's, or the broker's when the producer set none), key, headers, and the payload as the
/// JSON that it is, or as a string when it is none. Bytes that are no UTF-8 are replaced by U+FFFD.
pub fn write_json_lines<'a>(
    mut out: impl Write,
    published: impl IntoIterator<Item = (&'a Record, &'a Position)>,
) -> Result<()> {
    for (record, position) in published {
        let line = Line {
            topic: &record.topic,
            partition: position.partition,
            offset: position.offset,
            timestamp: record.timestamp_ms.unwrap_or(position.timestamp_ms),
            key: record.key.as_deref().map(text),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.as_deref().map(text).into()))
                .collect(),
            value: record.payload.as_deref().map(json).transpose()?,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(payload: &[u8]) -> Result<Box<RawValue>> {
    let payload = text(payload);
    // A line break between tokens is legal JSON, but would break the line in two.
    let on_one_line = !payload.contains(['\n', '\r']);
    match serde_json::from_str::<&RawValue>(&payload) {
        Ok(value) if on_one_line => Ok(value.to_owned()),
        Ok(value) => Ok(serde_json::value::to_raw_value(&serde_json::from_str::<Value>(value.get())?)?),
        Err(_) => Ok(serde_json::value::to_raw_value(&payload)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(record: &Record) -> String {
        let mut out = Vec::new();
        let position = Position { partition: 3, offset: 17, timestamp_ms: 5 };
        write_json_lines(&mut out, [(record, &position)]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_payload_stays_the_json_it_is() {
        let mut record = Record::new("t", "k", r#"{"b":1.50,"a":"ü"}"#);
        record.headers = vec![("h".to_owned(), Some(b"v".to_vec())), ("none".to_owned(), None)];
        assert_eq!(
            exported(&record),
            r#"{"topic":"t","partition":3,"offset":17,"timestamp":5,"key":"k","headers":{"h":"v","none":null},"value":{"b":1.50,"a":"ü"}}"#
                .to_owned()
                + "\n"
        );
    }

    #[test]
    fn whatever_the_payload_is_its_line_is_one_line_of_json() {
        for payload in ["{\n \"a\":\r\n 1}", "no json", "line\nbreak", ""] {
            let line = exported(&Record::new("t", "k", payload));
            assert_eq!(line.matches(['\n', '\r']).count(), 1, "{line}");
            serde_json::from_str::<Value>(&line).unwrap();
        }
        let tombstone = Record { payload: None, key: None, ..Record::new("t", "", "") };
        let line: Value = serde_json::from_str(&exported(&tombstone)).unwrap();
        assert_eq!((&line["key"], &line["value"]), (&Value::Null, &Value::Null));
    }
}
