//! What one batch writes.

use std::collections::BTreeMap;

use projector_core::awaited::{AwaitedRow, RowId};
use projector_core::counters::OutcomeCounts;
use projector_core::duplicate::{Duplicate, Remembered};
use projector_core::event::{Event, Partition, Position};
use projector_core::event_failure::Failure;
use projector_core::ordering::KeyId;
use projector_model::Change;

use crate::error::StoreError;
use crate::release::{LoneResults, Release};
use crate::write_barrier::WriteBarrier;

/// Everything that one batch writes.
#[derive(Default)]
pub struct Writes<'a> {
    pub advances: Vec<Advance>,
    /// The position of each of the batch's events in its log.
    pub positions: Vec<&'a Position>,
    /// The batch's events that led to changes, in order: `(index in the batch, changes)`.
    pub changes: Vec<(usize, &'a [Change])>,
    pub dead: Vec<DeadLetter<'a>>,
    /// In order.
    pub parked: Vec<Parked<'a>>,
    /// Rows of tables whose rows are waited for, where the batch writes them by their keys: each with the time of the
    /// first event that writes it, in milliseconds since 1970. Left out where no event waits.
    pub rows: BTreeMap<RowId, i64>,
    /// Ids of events, none of which was [known](crate::Transaction::known).
    pub ids: Vec<Remembered>,
    /// The record time of each partition's last event, in microseconds since 1970, where ids are remembered.
    pub record_times: BTreeMap<Partition, i64>,
    /// The batch's events that are ignored as duplicates, as far as they are recorded.
    pub duplicates: Vec<Duplicate<'a>>,
    /// How many events have no id, of topics that declare an id.
    pub without_id: BTreeMap<Partition, i64>,
    /// The batch consists of stored events instead of events from the log: no checkpoint moves.
    pub release: Option<Release<'a>>,
    /// The batch consists of dead letters behind which no event waits: no checkpoint moves.
    pub lone: Option<LoneResults<'a>>,
}

impl Writes<'_> {
    /// An error if some of it is beyond the write barrier. Stored events are not released under a barrier: they would
    /// change rows that are compared.
    pub(crate) fn within(&self, barrier: &WriteBarrier) -> Result<(), StoreError> {
        let is_within = match barrier {
            WriteBarrier::Open => true,
            WriteBarrier::Closed => false,
            WriteBarrier::UpTo(offsets) => {
                let beyond = |advance: &Advance| {
                    offsets.get(&advance.partition).is_none_or(|offset| advance.next > *offset)
                };
                self.shifts().is_none() && !self.advances.iter().any(beyond)
            }
        };
        if is_within { Ok(()) } else { Err(StoreError::WriteBarrier(barrier.clone())) }
    }

    /// How the counters change, where the batch consists of stored events.
    pub(crate) fn shifts(&self) -> Option<&[(Partition, OutcomeCounts)]> {
        let release = self.release.as_ref().map(|release| &release.shifts[..]);
        release.or(self.lone.as_ref().map(|lone| &lone.shifts[..]))
    }
}

/// How one partition's checkpoint moves, and the outcomes of the events in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    pub partition: Partition,
    /// Where the checkpoint must be.
    pub expected: i64,
    pub next: i64,
    pub counts: OutcomeCounts,
}

/// An event that failed, and why.
pub struct DeadLetter<'a> {
    pub event: &'a Event,
    pub failure: &'a Failure,
    /// The key whose later events wait behind this event.
    pub blocks: Option<KeyId>,
    /// Of a stored event: the operation that moved its partition to another log meanwhile.
    pub moved_by: Option<i64>,
}

/// An event that waits: behind an earlier event of its key, or for a row.
pub struct Parked<'a> {
    pub event: &'a Event,
    /// The key of the earlier event; or, of an event that waits for a row, its [line](KeyId::line), which it blocks.
    pub key: KeyId,
    pub row: Option<&'a AwaitedRow>,
}
