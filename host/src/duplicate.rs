//! A producer's own duplicates, told by the id that their topic declares.
//!
//! An event is a duplicate if one of its topic with the same id was handled before, in this batch or
//! in any that is remembered. An event that carries no id is no duplicate.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use projector_model::Contract;
use projector_model::contract::IdSource;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::batch::Delivery;
use crate::event::Event;

/// An event's id, of a fixed size, whatever the producer wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The physical topic.
    pub topic: Arc<str>,
    /// The first half of the SHA-256 of what the producer wrote.
    pub hash: [u8; 16],
}

/// An id that a batch makes known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    pub id: EventId,
    /// The record's own time, in microseconds since 1970.
    pub recorded_at: Option<i64>,
    /// For how long it is remembered at least.
    pub window_seconds: u32,
}

/// The ids of a batch's events.
#[derive(Debug, Default)]
pub struct Ids {
    given: Vec<EventId>,
    /// By event: its place among those given, if it has one.
    places: Vec<Option<usize>>,
}

impl Ids {
    /// Empty where no topic declares an id. `topics`: the physical ones, in the order of the contract's.
    pub fn of(contract: &Contract, topics: &[Arc<str>], batch: &[Delivery]) -> Self {
        if contract.topics.iter().all(|topic| topic.event_id.is_none()) {
            return Self::default();
        }
        batch.iter().map(|delivery| id(contract, topics, &delivery.event)).collect()
    }

    /// In the order of the events.
    pub fn given(&self) -> &[EventId] {
        &self.given
    }

    /// Which events are duplicates, given the ids that are known before the batch.
    pub fn duplicates(&self, known: &HashSet<EventId>) -> Vec<bool> {
        let mut seen = HashSet::new();
        let mut again = |id: &EventId| known.contains(id) || !seen.insert(id.clone());
        self.places.iter().map(|place| place.is_some_and(|at| again(&self.given[at]))).collect()
    }

    /// What is to be remembered of those of the batch's events that are settled, which are its first.
    pub fn remembered(
        &self,
        contract: &Contract,
        settled: &[Delivery],
        duplicates: &[bool],
    ) -> Vec<Remembered> {
        let new = settled.iter().zip(&self.places).zip(duplicates).filter(|(_, duplicate)| !**duplicate);
        let remembered = |((Delivery { event, .. }, place), _): ((&Delivery, &Option<usize>), _)| {
            let declared = contract.topics[usize::from(event.topic)].event_id.as_ref()?;
            Some(Remembered {
                id: self.given[(*place)?].clone(),
                recorded_at: event.recorded_at_micros(),
                window_seconds: declared.window_seconds,
            })
        };
        new.filter_map(remembered).collect()
    }
}

impl FromIterator<Option<EventId>> for Ids {
    fn from_iter<I: IntoIterator<Item = Option<EventId>>>(ids: I) -> Self {
        let mut all = Self::default();
        for id in ids {
            all.places.push(id.is_some().then_some(all.given.len()));
            all.given.extend(id);
        }
        all
    }
}

fn id(contract: &Contract, topics: &[Arc<str>], event: &Event) -> Option<EventId> {
    let declared = contract.topics[usize::from(event.topic)].event_id.as_ref()?;
    let written = match &declared.source {
        IdSource::Header(name) => {
            event.headers.iter().find(|header| header.name == *name)?.value.as_deref().map(<[u8]>::to_vec)?
        }
        IdSource::Field(name) => field(event.value.as_deref()?, name)?,
    };
    let digest = Sha256::digest(&written);
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    Some(EventId { topic: topics[usize::from(event.topic)].clone(), hash })
}

/// A text or number at the top level of a JSON object, as it is written there.
fn field(payload: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let raw = Field(name).deserialize(&mut json).ok()??;
    let written = raw.get().as_bytes();
    matches!(written.first(), Some(b'"' | b'-' | b'0'..=b'9')).then(|| written.to_vec())
}

/// Finds one field, and reads nothing else into memory.
struct Field<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match key == self.0 {
                true => found = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_as_it_is_written() {
        let found =
            |payload: &str| field(payload.as_bytes(), "eventId").map(|id| String::from_utf8(id).unwrap());
        assert_eq!(found(r#"{"a": {"eventId": 1}, "eventId": "e-1", "b": []}"#).as_deref(), Some("\"e-1\""));
        assert_eq!(found(r#"{"event\u0049d": 17}"#).as_deref(), Some("17"));
        for none in [r#"{"eventId": null}"#, r#"{"eventId": {}}"#, "{}", "[]", "{\"eventId\": 1", "", "\u{0}"]
        {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn the_first_of_equal_ids_is_no_duplicate_unless_it_was_known() {
        let id = |number| EventId { topic: "t".into(), hash: [number; 16] };
        let other = EventId { topic: "u".into(), hash: [1; 16] };
        let ids: Ids = [Some(id(1)), None, Some(id(1)), Some(other), None, Some(id(2))].into_iter().collect();
        let known = HashSet::from([id(2)]);
        assert_eq!(ids.duplicates(&known), [false, false, true, false, false, true]);
    }
}
