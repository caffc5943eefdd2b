//! Events that wait for rows.

use std::collections::HashMap;

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;
use projector_core::topics::TopicMapping;

use super::StoreError;
use super::operator::{StoredEvent, StoredEventRow};

#[async_trait]
pub trait Waits: Send + Sync {
    /// When the first wait of a generation is over that is not known to be, in event time: milliseconds since 1970.
    /// `None`: nothing waits.
    async fn first_end(&self, generation: &Generation) -> Result<Option<i64>, StoreError>;

    /// Ends waits that are over at this event time, as many as one statement takes: the events are ready. Returns how
    /// many those were.
    async fn end_waits(&self, generation: &Generation, time_ms: i64) -> Result<u64, StoreError>;
}

/// An event that had waited and is to be tried, or one that is parked behind it.
#[derive(Debug, Clone)]
pub struct ReadyEvent {
    pub kept: StoredEvent,
    pub partition: Partition,
    /// What it is parked under.
    pub key: KeyId,
    /// `None`: it waited behind another one.
    pub wait: Option<Wait>,
}

/// What an event waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The row, in words.
    pub row: String,
    /// Both in event time: until when it may wait, and since when it is ready.
    pub until_ms: i64,
    pub ready_ms: i64,
}

impl Wait {
    /// Whether the row came too late, or not at all.
    pub fn is_over(&self) -> bool {
        self.ready_ms > self.until_ms
    }
}

/// So many waits end with one statement: those that are left do with the next one.
pub(super) const ENDED_AT_ONCE: i64 = 10_000;

/// Ready whatever the time: what was parked behind an event that is done, or waits under a version that was replaced.
pub(super) const IN_TIME: i64 = i64::MIN;

/// What a stored row says of a ready event.
pub(super) struct ReadyRow {
    pub(super) kept: StoredEventRow,
    pub(super) key_id: Vec<u8>,
    pub(super) awaited: Option<String>,
    pub(super) wait_until_ms: Option<i64>,
    pub(super) ready_ms: Option<i64>,
}

from_row! { ReadyRow { ..kept, key_id, awaited, wait_until_ms, ready_ms } }

/// The events that are ready, in order, of rows in order. Of a key whose first row is not, somebody else was here.
pub(super) fn ready(rows: Vec<ReadyRow>, topics: &TopicMapping) -> Vec<ReadyEvent> {
    let mut keys: HashMap<KeyId, bool> = HashMap::new();
    let mut events = Vec::new();
    for row in rows {
        let Ok(key) = <[u8; 16]>::try_from(&row.key_id[..]).map(KeyId) else { continue };
        if !*keys.entry(key).or_insert(row.ready_ms.is_some()) {
            continue;
        }
        let wait = row.awaited.zip(row.wait_until_ms).map(|(awaited, until_ms)| Wait {
            row: awaited,
            until_ms,
            ready_ms: row.ready_ms.unwrap_or(IN_TIME),
        });
        let (kept, partition) = row.kept.kept(topics);
        events.push(ReadyEvent { kept, partition, key, wait });
    }
    events
}
