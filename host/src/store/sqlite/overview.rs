//! The rows of the overview. What is made of them is the same in either store.

use sqlx::sqlite::SqliteConnection;

use super::errors::classify;
use crate::store::overview::{self, CheckpointRow, EffectRow, GenerationRow, OutcomeRow, SHOWN_WAITS};
use crate::store::{Projection, StoreError, WaitingEvent};

/// Every projection, as the connection's transaction sees it.
pub(super) async fn overview(snapshot: &mut SqliteConnection) -> Result<Vec<Projection>, StoreError> {
    let generations: Vec<GenerationRow> = sqlx::query_as(
        "select g.id, g.projection, g.number, g.role, g.created_at, p.stopped, g.backfilling, g.active_digest, g.halted, g.halted_kind, g.paused, g.impure, g.deadlocks, g.began_with, c.version, c.descriptor,
           (?1 - coalesce((select max(c.updated_at) from projector_checkpoint c where c.generation_id = g.id),
             g.created_at)) / 1000000 as idle_seconds,
           (select count(*) from projector_dead_letter d where d.generation_id = g.id) as dead_letters,
           (select min(m.timestamp_ms) from (
              select d.timestamp_ms, d.generation_id from projector_dead_letter d
              union all select w.timestamp_ms, w.generation_id from projector_parked w) m
            where m.generation_id = g.id) as oldest_missing,
           (select coalesce(sum(w.events), 0) from projector_without_id w where w.generation_id = g.id) as without_id
         from projector_generation g join projector_component c on c.digest = g.active_digest
         join projector_projection p on p.name = g.projection
         order by g.projection, g.number",
    )
    .bind(super::now_micros())
    .fetch_all(&mut *snapshot)
    .await
    .map_err(classify)?;
    let mut projections = Vec::with_capacity(generations.len());
    for generation in generations {
        let checkpoints: Vec<CheckpointRow> = sqlx::query_as(
            "select topic, partition, next_offset, first_offset, before_start, read, applied, ignored, parked, waiting, dead, skipped, paused, paused_kind
             from projector_checkpoint where generation_id = ? order by topic, partition",
        )
        .bind(generation.id)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(classify)?;
        let outcomes: Vec<OutcomeRow> = sqlx::query_as(
            "select topic, partition, outcome, code, events from projector_outcome
             where generation_id = ? and events <> 0",
        )
        .bind(generation.id)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(classify)?;
        let effects: Vec<EffectRow> = sqlx::query_as(
            "select statement, sum(changes), sum(rows) from projector_effect where generation_id = ? group by statement",
        )
        .bind(generation.id)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(classify)?;
        let waits: Vec<WaitingEvent> = sqlx::query_as(
            "select topic, partition, \"offset\", awaited, wait_until_ms * 1000 as until_micros from projector_parked
             where generation_id = ?1 and waits_for is not null order by wait_until_ms, id limit ?2",
        )
        .bind(generation.id)
        .bind(SHOWN_WAITS)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(classify)?;
        projections.push(overview::projection(generation, checkpoints, outcomes, effects, waits)?);
    }
    Ok(projections)
}
