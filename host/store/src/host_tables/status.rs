//! The rows of the status, and the columns in which hosts store why a projection is blocked.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::counters::Counters;
use projector_core::event::Partition;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::generation::Generation;

use super::checkpoints::partitions_from_json;
use super::generation_rows::role;
use super::{Database, Session};
use crate::error::StoreError;
use crate::event_ids::RecordedDuplicate;
use crate::status::{
    ActiveComponent, MissingEvents, PartitionState, Projection, RecoveredFaults, StatementCount, StatusStore,
    WaitingEvent,
};

/// The reason that is shown while no host runs a generation because it is backfilled.
const BACKFILLING: &str =
    "a backfill is in progress: run `projector backfill` again to finish it; then hosts run the generation";

/// How many of the events that wait for rows are shown: those whose wait ends first.
const SHOWN_WAITS: i64 = 5;

#[async_trait]
impl<D: Database> StatusStore for D {
    async fn set_paused(
        &self,
        generation: &Generation,
        partition: &Partition,
        blocker: Option<&Blocker>,
    ) -> Result<(), StoreError> {
        self.acquire()
            .await?
            .execute(
                "update projector.checkpoint set paused = $4, paused_kind = $5
                 where generation_id = $1 and topic = $2 and partition = $3 and paused is distinct from $4",
                &[
                    generation.id.into(),
                    (&*partition.topic).into(),
                    partition.number.into(),
                    blocker.map(|blocker| &*blocker.reason).into(),
                    blocker.map(|blocker| blocker.kind.as_str()).into(),
                ],
            )
            .await
            .map(drop)
    }

    async fn set_blocked(
        &self,
        generation: &Generation,
        blocker: Option<&Blocker>,
    ) -> Result<(), StoreError> {
        self.acquire()
            .await?
            .execute(
                "update projector.generation set halted = $2, halted_kind = $3
                 where id = $1 and halted is distinct from $2",
                &[
                    generation.id.into(),
                    blocker.map(|blocker| &*blocker.reason).into(),
                    blocker.map(|blocker| blocker.kind.as_str()).into(),
                ],
            )
            .await
            .map(drop)
    }

    async fn overview(&self) -> Result<Vec<Projection>, StoreError> {
        overview(&mut *self.read_only().await?).await
    }

    async fn duplicates(&self, projection: &str, most: i64) -> Result<Vec<RecordedDuplicate>, StoreError> {
        let sql = format!(
            "select g.number as generation, d.topic, d.partition, d.\"offset\", d.first_topic, d.first_partition,
               d.first_offset, {} as ignored_at
             from projector.duplicate d join projector.generation g on g.id = d.generation_id
             where g.projection = $1 order by d.id desc limit $2",
            D::Connection::micros("d.ignored_at")
        );
        self.read_only().await?.rows(&sql, &[projection.into(), most.into()]).await
    }
}

/// Every projection, as the session's transaction sees it.
async fn overview<S: Session>(session: &mut S) -> Result<Vec<Projection>, StoreError> {
    let sql = format!(
        "select g.id, g.projection, g.number, g.role, {} as created_at, p.stopped, g.backfilling, g.active_digest,
           g.halted, g.halted_kind, g.paused, g.impure, g.deadlocks, cast(g.began_with as text) as began_with,
           c.version, cast(c.descriptor as text) as descriptor,
           {} as idle_seconds,
           (select count(*) from projector.dead_letter d where d.generation_id = g.id) as dead_letters,
           (select min(m.timestamp_ms) from (
              select d.timestamp_ms, d.generation_id from projector.dead_letter d
              union all select w.timestamp_ms, w.generation_id from projector.parked w) m
            where m.generation_id = g.id) as oldest_missing,
           (select cast(coalesce(sum(w.events), 0) as bigint) from projector.without_id w
            where w.generation_id = g.id) as without_id
         from projector.generation g join projector.component c on c.digest = g.active_digest
         join projector.projection p on p.name = g.projection
         order by g.projection, g.number",
        S::micros("g.created_at"),
        S::seconds_since(
            "coalesce((select max(c.updated_at) from projector.checkpoint c where c.generation_id = g.id),
               g.created_at)"
        )
    );
    let generations: Vec<GenerationRow> = session.rows(&sql, &[]).await?;
    let mut projections = Vec::with_capacity(generations.len());
    for generation in generations {
        let id = generation.id;
        let checkpoints: Vec<CheckpointRow> = session
            .rows(
                "select topic, partition, next_offset, first_offset, before_start, read, applied, ignored, parked,
                   waiting, dead, skipped, paused, paused_kind
                 from projector.checkpoint where generation_id = $1 order by topic, partition",
                &[id.into()],
            )
            .await?;
        let outcomes: Vec<OutcomeRow> = session
            .rows(
                "select topic, partition, outcome, code, events from projector.outcome
                 where generation_id = $1 and events <> 0",
                &[id.into()],
            )
            .await?;
        let effects: Vec<EffectRow> = session
            .rows(
                "select statement, cast(sum(changes) as bigint), cast(sum(rows) as bigint) from projector.effect
                 where generation_id = $1 group by statement",
                &[id.into()],
            )
            .await?;
        let waits: Vec<WaitingEvent> = session
            .rows(
                "select topic, partition, \"offset\", awaited, wait_until_ms * 1000 as until_micros
                 from projector.parked where generation_id = $1 and waits_for is not null
                 order by wait_until_ms, id limit $2",
                &[id.into(), SHOWN_WAITS.into()],
            )
            .await?;
        projections.push(assemble(generation, Details { checkpoints, outcomes, effects, waits })?);
    }
    Ok(projections)
}

/// A generation with its active component, and how many of its events are missing.
struct GenerationRow {
    active: ActiveComponent,
    faults: RecoveredFaults,
    stops: StopsRow,
    id: i64,
    projection: String,
    number: i32,
    role: String,
    created_at: i64,
    idle_seconds: i64,
    began_with: Option<String>,
    dead_letters: i64,
    oldest_missing: Option<i64>,
}

from_row! {
    GenerationRow {
        ..active, ..faults, ..stops, id, projection, number, role, created_at, idle_seconds, began_with, dead_letters,
        oldest_missing
    }
}

/// The columns that say why a generation does not run.
struct StopsRow {
    /// Why an operator stopped the projection.
    stopped: Option<String>,
    /// Why an operator paused the generation.
    paused: Option<String>,
    backfilling: bool,
    /// Why the hosts blocked it, and the kind of that failure.
    halted: Option<String>,
    halted_kind: Option<String>,
}

from_row! { StopsRow { stopped, paused, backfilling, halted, halted_kind } }

impl StopsRow {
    /// What an operator did comes before what the hosts found: it is the nearer reason.
    fn blocker(self) -> Option<Blocker> {
        let stopped = self.stopped.map(|reason| format!("stopped: {reason}"));
        let by_operator = stopped.or(self.paused).or(self.backfilling.then(|| BACKFILLING.to_owned()));
        by_operator
            .map(|reason| Blocker::new(FailureKind::Operator, reason))
            .or(Blocker::stored(self.halted_kind, self.halted))
    }
}

struct CheckpointRow {
    counters: CountersRow,
    topic: String,
    partition: i32,
    next_offset: i64,
    first_offset: i64,
    before_start: i64,
    paused: Option<String>,
    paused_kind: Option<String>,
}

from_row! {
    CheckpointRow { ..counters, topic, partition, next_offset, first_offset, before_start, paused, paused_kind }
}

struct CountersRow {
    read: i64,
    applied: i64,
    ignored: i64,
    parked: i64,
    waiting: i64,
    dead: i64,
    skipped: i64,
}

from_row! { CountersRow { read, applied, ignored, parked, waiting, dead, skipped } }

impl From<CountersRow> for Counters {
    fn from(row: CountersRow) -> Self {
        let CountersRow { read, applied, ignored, parked, waiting, dead, skipped } = row;
        Counters { read, applied, ignored, parked, waiting, dead, skipped }
    }
}

/// Topic, partition, outcome, code, events.
type OutcomeRow = (String, i32, String, String, i64);

/// Statement, changes, rows.
type EffectRow = (String, i64, i64);

/// The rows of one generation in other tables.
struct Details {
    checkpoints: Vec<CheckpointRow>,
    outcomes: Vec<OutcomeRow>,
    effects: Vec<EffectRow>,
    waits: Vec<WaitingEvent>,
}

/// The status of a generation from its rows. Partitions stay in the order of their checkpoints.
fn assemble(generation: GenerationRow, details: Details) -> Result<Projection, StoreError> {
    let mut codes: BTreeMap<(String, i32, String), BTreeMap<String, i64>> = BTreeMap::new();
    for (topic, partition, outcome, code, events) in details.outcomes {
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
            counters: row.counters.into(),
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
        active: generation.active,
        blocker: generation.stops.blocker(),
        faults: generation.faults,
        began_with: generation.began_with.as_deref().map(partitions_from_json).transpose()?,
        missing: MissingEvents {
            dead_letters: generation.dead_letters,
            oldest_missing: generation.oldest_missing,
            waits: details.waits,
        },
        partitions: details.checkpoints.into_iter().map(state).collect(),
        statements: details.effects.into_iter().map(count).collect(),
    })
}
