//! Waiting events: each waits for a row that is not there yet.

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;

use crate::error::StoreError;
use crate::release::StoredEvent;

/// When waits end. What else happens to waiting events is a part of a batch: see [`Transaction`](crate::Transaction).
#[async_trait]
pub trait WaitingEventStore: Send + Sync {
    /// When the first wait of a generation ends, in event time: milliseconds since 1970. Events that are ready do not
    /// count. `None`: no event waits.
    async fn first_end(&self, generation: &Generation) -> Result<Option<i64>, StoreError>;

    /// Ends the waits that are over at this event time, as many as one statement may end: their events are ready. Returns
    /// how many those were.
    async fn end_waits(&self, generation: &Generation, time_ms: i64) -> Result<u64, StoreError>;
}

/// A stored event that is ready to be tried, or that is parked behind such an event.
#[derive(Debug, Clone)]
pub struct ReadyEvent {
    pub stored: StoredEvent,
    pub partition: Partition,
    /// The key under which it is parked.
    pub key: KeyId,
    /// `None`: it waited behind another event.
    pub wait: Option<Wait>,
}

/// What an event waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The row, as text.
    pub row: String,
    /// When the wait ends, and since when the event is ready. Both in event time: milliseconds since 1970.
    pub until_ms: i64,
    pub ready_ms: i64,
}

impl Wait {
    /// Whether the row was written too late, or not at all.
    pub fn is_over(&self) -> bool {
        self.ready_ms > self.until_ms
    }
}

/// How many waits one statement ends at most. The next statement ends the others.
pub(crate) const ENDED_AT_ONCE: i64 = 10_000;

/// Ready at any time: what was parked behind an event that is done, and what waits when another component becomes active.
pub(crate) const IN_TIME: i64 = i64::MIN;
