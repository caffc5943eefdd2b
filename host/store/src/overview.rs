//! What `status` shows, put together from the rows that either store reads in one transaction.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::counters::Counters;
use projector_core::event::Partition;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::generation::Generation;

use super::beginnings::partitions_from;
use super::deployments::role;
use super::event_ids::RecordedDuplicate;
use super::{PartitionState, Projection, StatementCount, StoreError, WaitingEvent};

/// What is shown of projections, and what hosts say of them for that.
#[async_trait]
pub trait StatusStore: Send + Sync {
    /// Says, for whoever asks, that a partition is not read, and why; `None`: that it is.
    async fn set_paused(
        &self,
        generation: &Generation,
        partition: &Partition,
        trouble: Option<&Blocker>,
    ) -> Result<(), StoreError>;

    /// Says, for whoever asks, that a projection stands still, and why; `None`: that it runs.
    async fn set_blocked(&self, generation: &Generation, trouble: Option<&Blocker>)
    -> Result<(), StoreError>;

    /// Every projection in this store, as it is committed: all of it of one moment.
    async fn overview(&self) -> Result<Vec<Projection>, StoreError>;

    /// The last events of a projection that were ignored as duplicates, newest first: so many at most.
    async fn duplicates(&self, projection: &str, most: i64) -> Result<Vec<RecordedDuplicate>, StoreError>;
}

/// A generation, its active component, and how many dead letters it has.
pub(super) struct GenerationRow {
    pub(super) id: i64,
    projection: String,
    number: i32,
    role: String,
    created_at: i64,
    idle_seconds: i64,
    stopped: Option<String>,
    backfilling: bool,
    active_digest: String,
    halted: Option<String>,
    halted_kind: Option<String>,
    paused: Option<String>,
    impure: Option<String>,
    deadlocks: i64,
    began_with: Option<String>,
    version: String,
    descriptor: String,
    dead_letters: i64,
    oldest_missing: Option<i64>,
    without_id: i64,
}

from_row! {
    GenerationRow {
        id, projection, number, role, created_at, idle_seconds, stopped, backfilling, active_digest, halted,
        halted_kind, paused, impure, deadlocks, began_with, version, descriptor, dead_letters, oldest_missing,
        without_id
    }
}

pub(super) struct CheckpointRow {
    topic: String,
    partition: i32,
    next_offset: i64,
    first_offset: i64,
    before_start: i64,
    read: i64,
    applied: i64,
    ignored: i64,
    parked: i64,
    waiting: i64,
    dead: i64,
    skipped: i64,
    paused: Option<String>,
    paused_kind: Option<String>,
}

from_row! {
    CheckpointRow {
        topic, partition, next_offset, first_offset, before_start, read, applied, ignored, parked, waiting,
        dead, skipped, paused, paused_kind
    }
}

/// Why no host runs a generation yet.
const FED: &str =
    "it is fed from a file, and runs when that is through: `projector backfill` goes on with it";

/// So many of the events that wait for rows are shown: those whose time is over first.
pub(super) const SHOWN_WAITS: i64 = 5;

/// Topic, partition, outcome, code, events.
pub(super) type OutcomeRow = (String, i32, String, String, i64);

/// Statement, changes, rows.
pub(super) type EffectRow = (String, i64, i64);

/// A projection from its rows; partitions stay in the order of their checkpoints.
pub(super) fn projection(
    generation: GenerationRow,
    checkpoints: Vec<CheckpointRow>,
    outcomes: Vec<OutcomeRow>,
    effects: Vec<EffectRow>,
    waits: Vec<WaitingEvent>,
) -> Result<Projection, StoreError> {
    let mut codes: BTreeMap<(String, i32, String), BTreeMap<String, i64>> = BTreeMap::new();
    for (topic, partition, outcome, code, events) in outcomes {
        codes.entry((topic, partition, outcome)).or_default().insert(code, events);
    }
    let state = |row: CheckpointRow| {
        let mut by_code = |outcome: &str| {
            codes.remove(&(row.topic.clone(), row.partition, outcome.to_owned())).unwrap_or_default()
        };
        PartitionState {
            ignored_by_code: by_code("ignored"),
            dead_by_code: by_code("dead"),
            skipped_by_code: by_code("skipped"),
            topic: row.topic,
            partition: row.partition,
            checkpoint: row.next_offset,
            start: row.first_offset,
            before_start: row.before_start,
            counters: Counters {
                read: row.read,
                applied: row.applied,
                ignored: row.ignored,
                parked: row.parked,
                waiting: row.waiting,
                dead: row.dead,
                skipped: row.skipped,
            },
            paused: Blocker::stored(row.paused_kind, row.paused),
        }
    };
    let count = |(statement, changes, rows)| (statement, StatementCount { changes, rows });
    Ok(Projection {
        name: generation.projection,
        generation: generation.number,
        role: role(&generation.role)?,
        created_at: generation.created_at,
        idle_seconds: generation.idle_seconds,
        digest: generation.active_digest,
        // What an operator said is the nearer reason.
        halted: (generation
            .stopped
            .map(|reason| format!("stopped: {reason}"))
            .or(generation.paused)
            .or(generation.backfilling.then(|| FED.to_owned()))
            .map(|reason| Blocker::new(FailureKind::Operator, reason)))
        .or(Blocker::stored(generation.halted_kind, generation.halted)),
        impure: generation.impure,
        deadlocks: generation.deadlocks,
        began_with: generation.began_with.as_deref().map(partitions_from).transpose()?,
        version: generation.version,
        descriptor: generation.descriptor,
        dead_letters: generation.dead_letters,
        oldest_missing: generation.oldest_missing,
        without_id: generation.without_id,
        waits,
        partitions: checkpoints.into_iter().map(state).collect(),
        statements: effects.into_iter().map(count).collect(),
    })
}
