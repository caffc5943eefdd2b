//! The rows of the overview, and what hosts say of their projections for it.

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::failure::Blocker;
use projector_core::generation::Generation;

use super::{Database, Session};
use crate::event_ids::RecordedDuplicate;
use crate::overview::{self, CheckpointRow, EffectRow, GenerationRow, OutcomeRow, SHOWN_WAITS, StatusStore};
use crate::{Projection, StoreError, WaitingEvent};

#[async_trait]
impl<D: Database> StatusStore for D {
    async fn set_paused(
        &self,
        generation: &Generation,
        partition: &Partition,
        trouble: Option<&Blocker>,
    ) -> Result<(), StoreError> {
        self.held()
            .await?
            .execute(
                "update projector.checkpoint set paused = $4, paused_kind = $5
                 where generation_id = $1 and topic = $2 and partition = $3 and paused is distinct from $4",
                &[
                    generation.id.into(),
                    (&*partition.topic).into(),
                    partition.number.into(),
                    trouble.map(|trouble| &*trouble.reason).into(),
                    trouble.map(|trouble| trouble.kind.as_str()).into(),
                ],
            )
            .await
            .map(drop)
    }

    async fn set_blocked(
        &self,
        generation: &Generation,
        trouble: Option<&Blocker>,
    ) -> Result<(), StoreError> {
        self.held()
            .await?
            .execute(
                "update projector.generation set halted = $2, halted_kind = $3
                 where id = $1 and halted is distinct from $2",
                &[
                    generation.id.into(),
                    trouble.map(|trouble| &*trouble.reason).into(),
                    trouble.map(|trouble| trouble.kind.as_str()).into(),
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
        projections.push(overview::projection(generation, checkpoints, outcomes, effects, waits)?);
    }
    Ok(projections)
}
