//! The status of projections, as it is committed: what `projector status` shows, and what hosts store for that.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use projector_core::counters::Counters;
use projector_core::event::Partition;
use projector_core::failure::Blocker;
use projector_core::generation::{Generation, Role};
use serde::Serialize;

use crate::error::StoreError;
use crate::event_ids::RecordedDuplicate;

/// Reads the status of projections, and stores why they are blocked.
#[async_trait]
pub trait StatusStore: Send + Sync {
    /// Stores why a partition is not read. `None`: it is read.
    async fn set_paused(
        &self,
        generation: &Generation,
        partition: &Partition,
        blocker: Option<&Blocker>,
    ) -> Result<(), StoreError>;

    /// Stores why a projection is blocked. `None`: it runs.
    async fn set_blocked(&self, generation: &Generation, blocker: Option<&Blocker>)
    -> Result<(), StoreError>;

    /// Every projection of this store: all of it as it was committed at one moment.
    async fn overview(&self) -> Result<Vec<Projection>, StoreError>;

    /// The last events of a projection that were ignored as duplicates, newest first, at most `most` of them.
    async fn duplicates(&self, projection: &str, most: i64) -> Result<Vec<RecordedDuplicate>, StoreError>;
}

/// The status of one generation of a projection.
#[derive(Debug, Clone, Serialize)]
pub struct Projection {
    pub name: String,
    pub generation: i32,
    pub role: Role,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub created_at: i64,
    /// Since a checkpoint moved, or since the generation was created.
    #[serde(skip)]
    pub idle_seconds: i64,
    #[serde(flatten)]
    pub active: ActiveComponent,
    /// Why the generation does not run, if it does not.
    pub blocker: Option<Blocker>,
    #[serde(flatten)]
    pub faults: RecoveredFaults,
    /// The partitions that existed when the generation began to read. `None`: it has not begun.
    #[serde(skip)]
    pub began_with: Option<BTreeSet<Partition>>,
    #[serde(flatten)]
    pub missing: MissingEvents,
    pub partitions: Vec<PartitionState>,
    pub statements: BTreeMap<String, StatementCount>,
}

impl Projection {
    /// Whether this is the status of that generation.
    pub fn is(&self, generation: &Generation) -> bool {
        self.name == generation.projection && self.generation == generation.number
    }
}

/// The component that runs in a generation.
#[derive(Debug, Clone, Serialize)]
pub struct ActiveComponent {
    pub version: String,
    pub digest: String,
    #[serde(skip)]
    pub descriptor: String,
}

from_row! { ActiveComponent { version, digest = "active_digest", descriptor } }

/// Faults that did not stop the projection.
#[derive(Debug, Clone, Serialize)]
pub struct RecoveredFaults {
    /// The last time that the plugin gave two different answers to the same event.
    pub impure: Option<String>,
    /// Transactions that the database ended because of a deadlock. Each was retried.
    pub deadlocks: i64,
    /// Events without an id, of topics that declare one.
    pub without_id: i64,
}

from_row! { RecoveredFaults { impure, deadlocks, without_id } }

/// Events that were read, and are not in the rows.
#[derive(Debug, Clone, Serialize)]
pub struct MissingEvents {
    pub dead_letters: i64,
    /// The record time of the oldest event that is a dead letter, or waits behind one: milliseconds since 1970.
    pub oldest_missing: Option<i64>,
    /// Some of the events that wait for rows: those whose wait ends first.
    pub waits: Vec<WaitingEvent>,
}

/// An event that waits for a row.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingEvent {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// The row, as text.
    pub row: String,
    /// When the wait ends, in event time: microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub until: i64,
}

from_row! { WaitingEvent { topic, partition, offset, row = "awaited", until = "until_micros" } }

#[derive(Debug, Clone, Serialize)]
pub struct PartitionState {
    pub topic: String,
    pub partition: i32,
    pub checkpoint: i64,
    /// The first offset that was read, and how many offsets the log had before it at that time.
    pub start: i64,
    pub before_start: i64,
    pub counters: Counters,
    pub ignored_by_code: BTreeMap<String, i64>,
    pub dead_by_code: BTreeMap<String, i64>,
    pub skipped_by_code: BTreeMap<String, i64>,
    /// Why the partition is not read, if it is not.
    pub paused: Option<Blocker>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StatementCount {
    /// Changes that the plugin asked for.
    pub changes: i64,
    /// Rows that the changes touched.
    pub rows: i64,
}
