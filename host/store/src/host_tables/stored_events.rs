//! Rows of dead letters and of parked events.

use std::collections::{BTreeMap, HashMap};

use projector_core::counters::{OutcomeCounts, add};
use projector_core::event::{Event, Header, Partition, Position};
use projector_core::ordering::KeyId;
use projector_core::topics::TopicMapping;

use crate::release::StoredEvent;
use crate::waiting_events::{IN_TIME, ReadyEvent, Wait};

/// The columns that dead letters and parked events have in common.
pub(crate) struct StoredEventRow {
    pub(crate) id: i64,
    topic: String,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    oversize_bytes: Option<i64>,
    moved_by: i64,
    topic_name: Option<String>,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: String,
}

from_row! {
    StoredEventRow {
        id, topic, partition, offset, timestamp_ms, oversize_bytes, moved_by, topic_name, key, payload, headers
    }
}

impl StoredEventRow {
    /// The event as it was read from the log, and its partition. `topics`: those that the component reads.
    pub(crate) fn stored(self, topics: &TopicMapping) -> (StoredEvent, Partition) {
        let partition = Partition::new(self.topic.as_str(), self.partition);
        let headers: Vec<Header> =
            serde_json::from_str(&self.headers).map(|json| Event::headers_from(&json)).unwrap_or_default();
        let topic_name = self.topic_name.map_or_else(|| partition.topic.clone(), Into::into);
        let mut places = topics.places(&topic_name).into_iter();
        let event = places.next().map(|first| Event {
            position: Position { partition: partition.clone(), offset: self.offset },
            topic: first,
            also: places.collect(),
            topic_name,
            timestamp_ms: self.timestamp_ms,
            key: self.key,
            value: self.payload,
            oversize_bytes: self.oversize_bytes.and_then(|bytes| bytes.try_into().ok()),
            headers,
        });
        let moved_by = Some(self.moved_by).filter(|operation| *operation > 0);
        (StoredEvent { id: self.id, event, moved_by }, partition)
    }
}

/// A dead letter, and the code by which it is counted.
pub(crate) struct DeadLetterRow {
    pub(crate) event: StoredEventRow,
    pub(crate) code: String,
}

from_row! { DeadLetterRow { ..event, code } }

/// Action, dry run, dead letter, key and result so far of an open operation.
pub(crate) type OpenOperationRow = (String, bool, Option<i64>, Option<Vec<u8>>, Option<String>);

/// A parked event of a key whose first event is ready.
pub(crate) struct ReadyRow {
    event: StoredEventRow,
    key_id: Vec<u8>,
    awaited: Option<String>,
    wait_until_ms: Option<i64>,
    ready_ms: Option<i64>,
}

from_row! { ReadyRow { ..event, key_id, awaited, wait_until_ms, ready_ms } }

/// The ready events among these rows, each with those that are parked behind it, in the order of the rows. A key whose
/// first row is not ready is left out: another transaction tried its events meanwhile.
pub(crate) fn ready_events(rows: Vec<ReadyRow>, topics: &TopicMapping) -> Vec<ReadyEvent> {
    let mut keys: HashMap<KeyId, bool> = HashMap::new();
    let mut events = Vec::new();
    for row in rows {
        let Some(key) = key_id(&row.key_id) else { continue };
        if !*keys.entry(key).or_insert(row.ready_ms.is_some()) {
            continue;
        }
        let wait = row.awaited.zip(row.wait_until_ms).map(|(awaited, until_ms)| Wait {
            row: awaited,
            until_ms,
            ready_ms: row.ready_ms.unwrap_or(IN_TIME),
        });
        let (stored, partition) = row.event.stored(topics);
        events.push(ReadyEvent { stored, partition, key, wait });
    }
    events
}

/// A key's id, from its stored bytes.
pub(crate) fn key_id(bytes: &[u8]) -> Option<KeyId> {
    bytes.try_into().ok().map(KeyId)
}

/// Topic and partition of a removed event, the outcome by which it was counted, and the code.
pub(crate) type RemovedRow = (String, i32, String, String);

/// How the counters change when stored events are removed: they are counted as skipped, by this code.
pub(crate) fn skipped(removed: &[RemovedRow], code: &str) -> Vec<(Partition, OutcomeCounts)> {
    let mut shifts: BTreeMap<Partition, OutcomeCounts> = BTreeMap::new();
    for (topic, number, was, of) in removed {
        let counts = shifts.entry(Partition::new(topic.as_str(), *number)).or_default();
        match was.as_str() {
            "parked" => counts.parked -= 1,
            "waiting" => counts.waiting -= 1,
            _ => add(&mut counts.dead, of, -1),
        }
        add(&mut counts.skipped, code, 1);
    }
    shifts.into_iter().collect()
}
