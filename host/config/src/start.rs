//! Where a new generation starts to read: `[projections.NAME] start`.
//!
//! One start for all topics, or one for each logical topic. It applies when a generation reads a partition
//! for the first time, and never again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime_serde::re::humantime;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Where to start in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartAt {
    /// At the first offset that the log holds.
    Earliest,
    /// At the end of the committed records (the last stable offset).
    Latest,
    /// At the first record with this timestamp or a later one, in milliseconds since 1970.
    Time(i64),
    /// At these offsets, by partition.
    Offsets(BTreeMap<i32, i64>),
}

/// Where to start in every topic of a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    Everywhere(StartAt),
    /// By logical name. A topic that is not listed is read from its beginning.
    ByTopic(BTreeMap<String, StartAt>),
}

impl Start {
    pub fn of(&self, topic: &str) -> StartAt {
        match self {
            Start::Everywhere(at) => at.clone(),
            Start::ByTopic(topics) => topics.get(topic).cloned().unwrap_or(StartAt::Earliest),
        }
    }

    /// The logical topics with a start of their own.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        let named = match self {
            Start::Everywhere(_) => None,
            Start::ByTopic(topics) => Some(topics.keys().map(String::as_str)),
        };
        named.into_iter().flatten()
    }
}

impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartAt::Earliest => f.write_str("earliest"),
            StartAt::Latest => f.write_str("latest"),
            StartAt::Time(ms) => f.write_str(&rfc3339(*ms)),
            StartAt::Offsets(offsets) => {
                let each: Vec<String> =
                    offsets.iter().map(|(partition, offset)| format!("{partition} = {offset}")).collect();
                write!(f, "offsets {}", each.join(", "))
            }
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Start::Everywhere(at) => at.fmt(f),
            Start::ByTopic(topics) => {
                let each: Vec<String> = topics.iter().map(|(topic, at)| format!("{topic}: {at}")).collect();
                f.write_str(&each.join("; "))
            }
        }
    }
}

/// A time as text, in UTC.
pub fn rfc3339(ms: i64) -> String {
    let since = Duration::from_millis(ms.max(0).unsigned_abs());
    humantime::format_rfc3339(UNIX_EPOCH + since).to_string()
}

/// Parses a time in the format of [`rfc3339`], to milliseconds since 1970.
pub fn time(written: &str) -> Result<i64, String> {
    let wrong = || format!("\"{written}\" is not a time: write it in UTC, as in \"2026-11-01T00:00:00Z\"");
    let time: SystemTime = humantime::parse_rfc3339(written).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    i64::try_from(since.as_millis()).map_err(|_| wrong())
}

const PLACES: &str = "\"earliest\", \"latest\" or { time = \"2026-11-01T00:00:00Z\" }";

impl<'de> Deserialize<'de> for StartAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfTopic)
    }
}

struct OfTopic;

impl<'de> Visitor<'de> for OfTopic {
    type Value = StartAt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PLACES}, or {{ offsets = {{ 0 = 1200 }} }}")
    }

    fn visit_str<E: Error>(self, written: &str) -> Result<StartAt, E> {
        match written {
            "earliest" => Ok(StartAt::Earliest),
            "latest" => Ok(StartAt::Latest),
            other => Err(E::unknown_variant(other, &["earliest", "latest"])),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StartAt, A::Error> {
        let mut at = None;
        while let Some(key) = map.next_key::<String>()? {
            let next = match key.as_str() {
                "time" => StartAt::Time(time(&map.next_value::<String>()?).map_err(A::Error::custom)?),
                "offsets" => StartAt::Offsets(offsets(map.next_value()?).map_err(A::Error::custom)?),
                other => return Err(A::Error::unknown_field(other, &["time", "offsets"])),
            };
            if at.replace(next).is_some() {
                return Err(A::Error::custom("write a time or offsets, not both"));
            }
        }
        at.ok_or_else(|| A::Error::custom(format!("write {PLACES}, or {{ offsets = {{ 0 = 1200 }} }}")))
    }
}

fn offsets(written: BTreeMap<String, i64>) -> Result<BTreeMap<i32, i64>, String> {
    let offset = |(partition, offset): (String, i64)| match (partition.parse::<i32>(), offset) {
        (Ok(number), 0..) if number >= 0 => Ok((number, offset)),
        (Ok(number), _) if number >= 0 => Err(format!("{offset} is not an offset: the first one is 0")),
        _ => Err(format!("`{partition}` is not a partition: write its number, as in {{ 0 = 1200 }}")),
    };
    written.into_iter().map(offset).collect()
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfProjection)
    }
}

struct OfProjection;

impl<'de> Visitor<'de> for OfProjection {
    type Value = Start;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PLACES}, or a table with one of these for each topic")
    }

    fn visit_str<E: Error>(self, written: &str) -> Result<Start, E> {
        OfTopic.visit_str(written).map(Start::Everywhere)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Start, A::Error> {
        let (mut everywhere, mut topics) = (None, BTreeMap::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "time" => match map.next_value::<toml::Value>()? {
                    toml::Value::String(written) if !matches!(&*written, "earliest" | "latest") => {
                        everywhere = Some(time(&written).map_err(A::Error::custom)?);
                    }
                    // A topic with the name `time`.
                    at => drop(topics.insert(key, StartAt::deserialize(at).map_err(A::Error::custom)?)),
                },
                "offsets" => {
                    return Err(A::Error::custom(
                        "offsets belong to one topic: write them under its name, as in \"order.confirmed.v2\" = { offsets = { 0 = 1200 } }",
                    ));
                }
                _ => drop(topics.insert(key, map.next_value()?)),
            }
        }
        match (everywhere, topics.keys().next()) {
            (Some(time), None) => Ok(Start::Everywhere(StartAt::Time(time))),
            (Some(_), Some(topic)) => Err(A::Error::unknown_field(topic, &["time"])),
            (None, _) => Ok(Start::ByTopic(topics)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        start: Start,
    }

    fn parse(text: &str) -> Result<Start, String> {
        toml::from_str::<Holder>(text).map(|holder| holder.start).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn one_place_serves_every_topic() {
        for (written, at) in [
            (r#"start = "latest""#, StartAt::Latest),
            (r#"start = "earliest""#, StartAt::Earliest),
            (r#"start = { time = "2026-11-01T00:00:00Z" }"#, StartAt::Time(1_793_491_200_000)),
        ] {
            let start = parse(written).expect(written);
            assert_eq!(start.of("orders"), at);
            assert_eq!(start.topics().count(), 0);
        }
    }

    #[test]
    fn each_topic_may_have_a_place_of_its_own() {
        let start = parse(
            "[start]\n\"order.confirmed.v2\" = { offsets = { 0 = 1200, 1 = 900 } }\n\"orders\" = \"latest\"\n\"other\" = { time = \"1970-01-01T00:00:01Z\" }",
        )
        .expect("sound");
        let offsets = BTreeMap::from([(0, 1200), (1, 900)]);
        assert_eq!(start.of("order.confirmed.v2"), StartAt::Offsets(offsets));
        assert_eq!(start.of("other"), StartAt::Time(1_000));
        assert_eq!(start.of("not named"), StartAt::Earliest);
        let shown = start.to_string();
        assert_eq!(
            shown,
            "order.confirmed.v2: offsets 0 = 1200, 1 = 900; orders: latest; other: 1970-01-01T00:00:01Z"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (written, part) in [
            (r#"start = "newest""#, "unknown variant `newest`, expected `earliest` or `latest`"),
            ("start = 7", "\"earliest\", \"latest\" or { time ="),
            (r#"start = { time = "yesterday" }"#, "\"yesterday\" is not a time: write it in UTC"),
            (r#"start = { time = "2026-11-01T00:00:00Z", orders = "latest" }"#, "unknown field `orders`"),
            ("start = { offsets = { 0 = 1 } }", "offsets belong to one topic"),
            ("start = { orders = { offsets = { 0 = -1 } } }", "-1 is not an offset"),
            ("start = { orders = { offsets = { first = 1 } } }", "`first` is not a partition"),
            (
                "start = { orders = { offset = { 0 = 1 } } }",
                "unknown field `offset`, expected `time` or `offsets`",
            ),
            ("start = { orders = {} }", "write \"earliest\", \"latest\""),
            (r#"start = { orders = { time = "1970-01-01T00:00:01Z", offsets = { 0 = 1 } } }"#, "not both"),
        ] {
            let message = parse(written).expect_err(written);
            assert!(message.contains(part), "{written}: {message}");
        }
    }
}
