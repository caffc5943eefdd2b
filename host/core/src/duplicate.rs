//! Duplicates that a producer wrote, detected by the event id that the topic declares.
//!
//! An event is a duplicate if an event of the same topic with the same id was handled before, in this batch
//! or earlier within the topic's window. An event without an id, or with an empty one, is never a
//! duplicate, and is counted. The last duplicates are recorded, each with the position of the first event
//! of the same id.
//!
//! Ids belong to a physical topic: the producers of two topics may use the same ids. If several logical
//! topics share a physical topic, each declares its own ids, and an event may be a duplicate for some of
//! them only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use projector_model::Contract;
use projector_model::descriptor::IdPart;
use sha2::{Digest, Sha256};

use crate::batch::Delivery;
use crate::event::{Event, Partition, Position};

/// How many duplicates of a generation are recorded: the last ones.
pub const RECORDED: i64 = 1_000;

/// How many duplicates of one batch are recorded, so that recording does not cost more than projecting.
const RECORDED_OF_A_BATCH: usize = 100;

/// An event's id, hashed to a fixed size.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The physical topic.
    pub topic: Arc<str>,
    /// The first half of the SHA-256 of the id that the producer wrote.
    pub hash: [u8; 16],
}

/// An id that a batch adds to the remembered ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    pub id: EventId,
    /// The position of the first event with this id.
    pub first: Position,
    /// The record's timestamp, in microseconds since 1970.
    pub recorded_at: Option<i64>,
}

/// Ids that were handled before, with the position of the first event, if it is recorded.
pub type Known = HashMap<EventId, Option<Position>>;

/// For each of an event's logical topics, whether the event is a duplicate. Empty if the event is a duplicate
/// for none of them.
pub type Again = Vec<bool>;

/// An event that is ignored because an event with the same id was handled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate<'b> {
    pub position: &'b Position,
    pub first: Option<Position>,
}

/// The ids of a batch's events.
#[derive(Debug, Default)]
pub struct Ids {
    /// All ids, in the order of the events.
    given: Vec<EventId>,
    /// For each event and each of its logical topics, the index in `given`, if there is an id.
    places: Vec<Vec<Option<usize>>>,
}

impl Ids {
    /// Empty if no topic declares an id.
    pub fn of(contract: &Contract, batch: &[Delivery]) -> Self {
        if contract.topics.iter().all(|topic| topic.event_id.is_none()) {
            return Self::default();
        }
        let of_event = |event: &Event| (0..event.topic_count()).map(|nth| id(contract, event, nth)).collect();
        batch.iter().map(|delivery| of_event(&delivery.event)).collect()
    }

    /// All ids, in the order of the events.
    pub fn given(&self) -> &[EventId] {
        &self.given
    }

    /// Which events are duplicates, if these ids are known before the batch.
    pub fn duplicates(&self, known: &Known) -> Vec<Again> {
        let mut seen = HashSet::new();
        let mut again = |id: &EventId| known.contains_key(id) || !seen.insert(id.clone());
        let mut of_event = |places: &Vec<Option<usize>>| -> Again {
            let of_topics: Vec<bool> =
                places.iter().map(|place| place.is_some_and(|at| again(&self.given[at]))).collect();
            if of_topics.contains(&true) { of_topics } else { Vec::new() }
        };
        self.places.iter().map(&mut of_event).collect()
    }

    /// The duplicates to record among the settled events. The settled events are the first ones of the batch.
    pub fn ignored<'b>(
        &self,
        settled: &'b [Delivery],
        duplicates: &[Again],
        known: &Known,
    ) -> Vec<Duplicate<'b>> {
        let mut firsts: HashMap<&EventId, &Position> = HashMap::new();
        let mut ignored = Vec::new();
        for ((delivery, places), again) in settled.iter().zip(&self.places).zip(duplicates) {
            let position = &delivery.event.position;
            let mut first_of_event = None;
            for (nth, place) in places.iter().enumerate() {
                let Some(place) = place else { continue };
                let id = &self.given[*place];
                match (is_again(again, nth), known.get(id)) {
                    (false, _) => drop(firsts.insert(id, position)),
                    (true, Some(first)) => first_of_event = first_of_event.or(first.clone()),
                    (true, None) => {
                        first_of_event = first_of_event.or(firsts.get(id).map(|first| (*first).clone()));
                    }
                }
            }
            // An event that is a duplicate for some of its topics only is not ignored.
            if !again.is_empty() && again.iter().all(|again| *again) {
                ignored.push(Duplicate { position, first: first_of_event });
            }
        }
        ignored.split_off(ignored.len().saturating_sub(RECORDED_OF_A_BATCH))
    }

    /// The number of settled events without an id, although their topic declares one; by partition.
    pub fn without(&self, contract: &Contract, settled: &[Delivery]) -> BTreeMap<Partition, i64> {
        let mut counted = BTreeMap::new();
        for (Delivery { event, .. }, places) in settled.iter().zip(&self.places) {
            let declares = |nth: usize| contract.topics[usize::from(event.nth_topic(nth))].event_id.is_some();
            if places.iter().enumerate().any(|(nth, place)| place.is_none() && declares(nth)) {
                *counted.entry(event.position.partition.clone()).or_default() += 1;
            }
        }
        counted
    }

    /// The ids to remember, from the settled events. The settled events are the first ones of the batch.
    pub fn remembered(&self, settled: &[Delivery], duplicates: &[Again]) -> Vec<Remembered> {
        let mut all = Vec::new();
        for ((Delivery { event, .. }, places), again) in settled.iter().zip(&self.places).zip(duplicates) {
            for (nth, place) in places.iter().enumerate() {
                if let Some(place) = place.filter(|_| !is_again(again, nth)) {
                    all.push(Remembered {
                        id: self.given[place].clone(),
                        first: event.position.clone(),
                        recorded_at: event.recorded_at_micros(),
                    });
                }
            }
        }
        all
    }
}

/// By partition: the record time of the last settled event that has one, in microseconds since 1970. Empty
/// if no topic declares an id or waits for rows.
pub fn record_times(contract: &Contract, settled: &[Delivery]) -> BTreeMap<Partition, i64> {
    if !contract.waits() && contract.topics.iter().all(|topic| topic.event_id.is_none()) {
        return BTreeMap::new();
    }
    let time = |Delivery { event, .. }: &Delivery| {
        Some((event.position.partition.clone(), event.recorded_at_micros()?))
    };
    settled.iter().filter_map(time).collect()
}

fn is_again(again: &Again, nth: usize) -> bool {
    again.get(nth) == Some(&true)
}

/// From the ids of each event, by its logical topics.
impl FromIterator<Vec<Option<EventId>>> for Ids {
    fn from_iter<I: IntoIterator<Item = Vec<Option<EventId>>>>(events: I) -> Self {
        let mut all = Self::default();
        for ids in events {
            let mut places = Vec::with_capacity(ids.len());
            for id in ids {
                places.push(id.is_some().then_some(all.given.len()));
                all.given.extend(id);
            }
            all.places.push(places);
        }
        all
    }
}

/// The id of an event for the `nth` of its logical topics.
fn id(contract: &Contract, event: &Event, nth: usize) -> Option<EventId> {
    let topic = &contract.topics[usize::from(event.nth_topic(nth))];
    let declared = topic.event_id.as_ref()?;
    let mut digest = Sha256::new();
    if nth > 0 {
        // The same id in another logical topic must hash differently: else the event would be its own
        // duplicate.
        digest.update((topic.name.len() as u64).to_be_bytes());
        digest.update(&topic.name);
    }
    match &declared.parts[..] {
        [part] => digest.update(written(part, event)?),
        parts => {
            for part in parts {
                let written = written(part, event)?;
                // The length separates the parts.
                digest.update((written.len() as u64).to_be_bytes());
                digest.update(written);
            }
        }
    }
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest.finalize()[..16]);
    Some(EventId { topic: event.topic_name.clone(), hash })
}

/// A part of an event's id, as the producer wrote it.
fn written<'e>(part: &IdPart, event: &'e Event) -> Option<&'e [u8]> {
    let of_header = |name: &str| {
        // As Kafka's `lastHeader`, and as the SDK's `headers.get`.
        event.headers.iter().rev().find(|header| header.name == name.as_bytes())?.value.as_deref()
    };
    part.written(of_header, event.value.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_ids_is_no_duplicate_unless_it_was_known() {
        let id = |number| EventId { topic: "t".into(), hash: [number; 16] };
        let other = EventId { topic: "u".into(), hash: [1; 16] };
        let ids = [Some(id(1)), None, Some(id(1)), Some(other), None, Some(id(2))];
        let ids: Ids = ids.into_iter().map(|id| vec![id]).collect();
        let known = Known::from([(id(2), None)]);
        assert_eq!(ids.duplicates(&known), [vec![], vec![], vec![true], vec![], vec![], vec![true]]);
    }

    #[test]
    fn an_event_of_two_logical_topics_is_a_duplicate_for_each_of_its_own() {
        let topic = |name: &str, header: &str| {
            serde_json::json!({"name": name, "statements": ["put"],
            "event-id": {"header": header, "window-seconds": 60}})
        };
        let descriptor = serde_json::json!({
            "name": "t", "version": "1", "topics": [topic("a", "x"), topic("b", "x"), topic("c", "y")],
            "tables": [{"name": "t", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]}],
            "statements": [{"name": "put", "table": "t", "kind": "upsert"}],
        });
        let contract = projector_model::Descriptor::from_json(&descriptor.to_string())
            .and_then(projector_model::Descriptor::check)
            .expect("it is sound");
        let of = |also: &[u16], x: &str, y: &str, offset: i64| {
            let mut delivery = event(&[("x", Some(x)), ("y", Some(y))], "", offset);
            delivery.event.also = also.into();
            delivery
        };
        let batch =
            [of(&[1, 2], "1", "1", 0), of(&[1, 2], "1", "2", 1), of(&[], "2", "3", 2), of(&[], "2", "3", 3)];
        let ids = Ids::of(&contract, &batch);
        let duplicates = ids.duplicates(&Known::default());
        assert_eq!(
            duplicates,
            [vec![], vec![true, true, false], vec![], vec![true]],
            "no event is its own duplicate"
        );
        assert_eq!(ids.remembered(&batch, &duplicates).len(), 3 + 1 + 1);
        let ignored = ids.ignored(&batch, &duplicates, &Known::default());
        assert_eq!(ignored.len(), 1, "the other one is applied for one of its topics: {ignored:?}");
        assert_eq!(
            (ignored[0].position.offset, ignored[0].first.as_ref().map(|first| first.offset)),
            (3, Some(2))
        );
    }

    fn contract(event_id: serde_json::Value) -> Contract {
        let descriptor = serde_json::json!({
            "name": "t", "version": "1",
            "topics": [{"name": "t", "statements": ["put"], "event-id": event_id}],
            "tables": [{"name": "t", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]}],
            "statements": [{"name": "put", "table": "t", "kind": "upsert"}],
        });
        projector_model::Descriptor::from_json(&descriptor.to_string())
            .and_then(projector_model::Descriptor::check)
            .expect("it is sound")
    }

    fn event(headers: &[(&str, Option<&str>)], value: &str, offset: i64) -> Delivery {
        let header = |(name, value): &(&str, Option<&str>)| crate::event::Header {
            name: (*name).into(),
            value: value.map(|value| value.as_bytes().to_vec()),
        };
        let event = Event {
            position: Position { partition: Partition::new("t", 0), offset },
            topic: 0,
            also: Vec::new(),
            topic_name: "t".into(),
            timestamp_ms: None,
            key: None,
            value: Some(value.into()),
            oversize_bytes: None,
            headers: headers.iter().map(header).collect(),
        };
        Delivery { event, epoch: 0 }
    }

    fn hashes(event_id: serde_json::Value, batch: &[Delivery]) -> Vec<Option<[u8; 16]>> {
        let ids = Ids::of(&contract(event_id), batch);
        ids.places.iter().map(|places| places[0].map(|at| ids.given[at].hash)).collect()
    }

    #[test]
    fn an_id_of_one_part_has_the_hash_that_older_hosts_remember() {
        let sha = |text: &str| <[u8; 16]>::try_from(&Sha256::digest(text)[..16]).ok();
        let batch = [event(&[("h", Some("e-1"))], r#"{"f": "e-1"}"#, 0)];
        for (declared, text) in [("header", "e-1"), ("field", "\"e-1\"")] {
            let name = &declared[..1];
            let single = serde_json::json!({declared: name, "window-seconds": 1});
            let listed = serde_json::json!({"parts": [{declared: name}], "window-seconds": 1});
            assert_eq!(hashes(single, &batch), [sha(text)]);
            assert_eq!(hashes(listed, &batch), [sha(text)]);
        }
    }

    #[test]
    fn the_last_header_counts_and_an_empty_one_is_none() {
        let declared = serde_json::json!({"header": "h", "window-seconds": 1});
        let batch = [
            event(&[("h", Some("a"))], "", 0),
            event(&[("h", Some("b")), ("H", Some("c")), ("h", Some("a")), ("i", None)], "", 1),
            event(&[("h", Some("a")), ("h", None)], "", 2),
            event(&[("h", Some("a")), ("h", Some(""))], "", 3),
            event(&[], "", 4),
        ];
        let found = hashes(declared, &batch);
        assert_eq!(found[0], found[1]);
        assert_eq!(found[2..], [None, None, None]);
    }

    #[test]
    fn an_id_in_parts_has_all_of_them() {
        let declared =
            serde_json::json!({"parts": [{"header": "source"}, {"field": "id"}], "window-seconds": 1});
        let of = |source: &str, id: &str| event(&[("source", Some(source))], &format!("{{\"id\": {id}}}"), 0);
        let batch = [
            of("a", "1"),
            of("a", "1"),
            of("b", "1"),
            of("a1", "1"),
            of("a", "11"),
            of("", "1"),
            of("a", "null"),
            of("a", "\"\""),
        ];
        let found = hashes(declared, &batch);
        assert_eq!(found[0], found[1]);
        let different: HashSet<_> = found[1..5].iter().collect();
        assert_eq!(different.len(), 4);
        assert_eq!(found[5..], [None, None, None]);
    }

    #[test]
    fn duplicates_are_recorded_with_the_first_of_their_id() {
        let contract = contract(serde_json::json!({"header": "h", "window-seconds": 1}));
        let batch: Vec<_> = [Some("a"), None, Some("b"), Some("a"), Some("c"), Some("d")]
            .into_iter()
            .enumerate()
            .map(|(at, id)| event(&[("h", id)], "", at as i64))
            .collect();
        let ids = Ids::of(&contract, &batch);
        let [_, b, _, c, _] = ids.given() else { panic!("{ids:?}") };
        let elsewhere = Position { partition: Partition::new("t", 7), offset: 70 };
        let known = Known::from([(b.clone(), Some(elsewhere.clone())), (c.clone(), None)]);
        let duplicates = ids.duplicates(&known);
        assert_eq!(duplicates, [vec![], vec![], vec![true], vec![true], vec![true], vec![]]);
        let ignored = ids.ignored(&batch, &duplicates, &known);
        let found: Vec<_> =
            ignored.iter().map(|duplicate| (duplicate.position.offset, duplicate.first.clone())).collect();
        let first = batch[0].event.position.clone();
        assert_eq!(found, [(2, Some(elsewhere)), (3, Some(first)), (4, None)]);
        assert_eq!(ids.without(&contract, &batch), BTreeMap::from([(Partition::new("t", 0), 1)]));
        assert_eq!(ids.without(&contract, &batch[..1]), BTreeMap::new());
    }
}
