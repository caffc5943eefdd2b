//! Parses a file with offsets of the new cluster: JSON, or lines of `topic,partition,offset`.

use std::collections::HashMap;

use projector_core::event::Partition;
use serde::Deserialize;

/// The next offset to read of a partition, in the new cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    pub partition: Partition,
    pub offset: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    topic: String,
    partition: i32,
    offset: i64,
}

/// Parses a map. The error names the line.
pub fn parse(text: &str) -> Result<Vec<Mapped>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let entries = match text.trim_start().starts_with('[') {
        true => serde_json::from_str::<Vec<Entry>>(text).map_err(|error| {
            format!("{error}: write [{{\"topic\": \"orders\", \"partition\": 0, \"offset\": 1200}}, …]")
        })?,
        false => lines(text)?,
    };
    let mut seen: HashMap<Partition, i64> = HashMap::new();
    let mut map = Vec::new();
    for Entry { topic, partition, offset } in entries {
        let partition = Partition::new(topic, partition);
        if offset < 0 {
            return Err(format!("{offset} is not an offset of {partition}: the first one is 0"));
        }
        if let Some(other) = seen.insert(partition.clone(), offset) {
            return Err(format!("{partition} is listed twice: with {other} and with {offset}"));
        }
        map.push(Mapped { partition, offset });
    }
    match map.is_empty() {
        true => Err("the map has no offset".to_owned()),
        false => Ok(map),
    }
}

fn lines(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_header = at == 0 && line.eq_ignore_ascii_case("topic,partition,offset");
        if line.is_empty() || line.starts_with('#') || is_header {
            continue;
        }
        let mut cells = line.split(',').map(|cell| cell.trim().trim_matches('"'));
        let entry = (|| {
            let topic = cells.next().filter(|topic| !topic.is_empty())?.to_owned();
            let (partition, offset) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
            cells.next().is_none().then_some(Entry { topic, partition, offset })
        })();
        entries.push(entry.ok_or_else(|| {
            format!("line {}: {line:?} is not topic,partition,offset, as in orders,0,1200", at + 1)
        })?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_give_the_same_map() {
        let expected = Ok(vec![
            Mapped { partition: Partition::new("orders", 0), offset: 1200 },
            Mapped { partition: Partition::new("orders", 1), offset: 0 },
        ]);
        assert_eq!(parse("topic,partition,offset\r\norders,0,1200\r\n\r\n\"orders\", 1, 0\n"), expected);
        let json = r#"[{"topic": "orders", "partition": 0, "offset": 1200},
                       {"topic": "orders", "partition": 1, "offset": 0}]"#;
        assert_eq!(parse(json), expected);
    }

    #[test]
    fn an_invalid_map_is_an_error_that_names_the_fault() {
        for (text, part) in [
            ("orders,0,1200\norders,1", "line 2: \"orders,1\""),
            ("orders,0,1200,7", "line 1"),
            ("orders,0,-1", "-1 is not an offset of orders/0"),
            ("orders,0,1\norders,0,2", "orders/0 is listed twice: with 1 and with 2"),
            ("[{\"topic\": \"orders\", \"partition\": 0}]", "missing field `offset`"),
            ("", "the map has no offset"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
