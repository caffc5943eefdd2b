//! Waiting events: which of them are ready to be tried.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::awaited::RowId;
use projector_core::batch::BatchLimits;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;

use super::errors::classify;
use super::transaction::SqliteTransaction;
use super::{Sqlite, now_micros};
use crate::error::StoreError;
use crate::host_tables::stored_events::{ReadyRow, ready_events};
use crate::release::WaitsOn;
use crate::waiting_events::{ENDED_AT_ONCE, IN_TIME, ReadyEvent, WaitingEventStore};

impl SqliteTransaction {
    pub(super) async fn find_ready(&mut self, limits: BatchLimits) -> Result<Vec<ReadyEvent>, StoreError> {
        let rows: Vec<ReadyRow> = sqlx::query_as(
            "select id, topic, partition, \"offset\", timestamp_ms, key, payload, headers, oversize_bytes, moved_by,
               topic_name, key_id, awaited, wait_until_ms, ready_ms
             from (select *, coalesce(sum(coalesce(length(payload), 0)) over (
                     order by id rows between unbounded preceding and 1 preceding), 0) as before
                   from (select * from projector_parked where generation_id = ?1 and key_id in (
                           select key_id from projector_parked
                           where generation_id = ?1 and ready_ms is not null order by id limit ?2)
                         order by id limit ?2) as first) as p
             where before < ?3 order by id",
        )
        .bind(self.generation())
        .bind(limits.events.max(1) as i64)
        .bind(limits.bytes.max(1) as i64)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(ready_events(rows, &self.target.topics))
    }

    /// Blocks the line of an event that waits for a row.
    pub(super) async fn block_line(&mut self, line: KeyId) -> Result<(), StoreError> {
        sqlx::query(
            "insert into projector_blocked_key (generation_id, key_id, blocked_at) values (?, ?, ?)
             on conflict (generation_id, key_id) do nothing",
        )
        .bind(self.generation())
        .bind(&line.0[..])
        .bind(now_micros())
        .execute(&mut *self.tx)
        .await
        .map(drop)
        .map_err(classify)
    }

    /// Events that were tried continue to wait.
    pub(super) async fn wait_on(&mut self, events: &[WaitsOn<'_>]) -> Result<(), StoreError> {
        for event in events {
            sqlx::query(
                "update projector_parked set key_id = ?2, waits_for = ?3, awaited = ?4, wait_until_ms = ?5,
                   ready_ms = null where id = ?1",
            )
            .bind(event.id)
            .bind(&event.key.0[..])
            .bind(event.row.map(|row| &row.id.0[..]))
            .bind(event.row.map(|row| row.name.as_str()))
            .bind(event.row.map(|row| row.until_ms))
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
            if event.row.is_some() {
                self.block_line(event.key).await?;
            }
        }
        Ok(())
    }

    /// Frees keys. Where events are still parked under a key, the first of them becomes ready, and the key stays blocked.
    pub(super) async fn free(&mut self, keys: &[KeyId]) -> Result<(), StoreError> {
        for key in keys {
            let next = sqlx::query(
                "update projector_parked set ready_ms = ?3 where id = (
                   select min(id) from projector_parked where generation_id = ?1 and key_id = ?2)",
            )
            .bind(self.generation())
            .bind(&key.0[..])
            .bind(IN_TIME)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
            if next.rows_affected() > 0 {
                self.made_ready = true;
                continue;
            }
            sqlx::query("delete from projector_blocked_key where generation_id = ? and key_id = ?")
                .bind(self.generation())
                .bind(&key.0[..])
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
        }
        Ok(())
    }

    /// Rows were written: the events that wait for them become ready.
    pub(super) async fn end_waits_for(&mut self, rows: &BTreeMap<RowId, i64>) -> Result<(), StoreError> {
        for (row, at_ms) in rows {
            let made_ready = sqlx::query(
                "update projector_parked set ready_ms = ?3
                 where generation_id = ?1 and waits_for = ?2 and ready_ms is null",
            )
            .bind(self.generation())
            .bind(&row.0[..])
            .bind(at_ms)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
            self.made_ready |= made_ready.rows_affected() > 0;
        }
        Ok(())
    }
}

#[async_trait]
impl WaitingEventStore for Sqlite {
    async fn first_end(&self, generation: &Generation) -> Result<Option<i64>, StoreError> {
        sqlx::query_scalar(
            "select min(wait_until_ms) from projector_parked
             where generation_id = ?1 and waits_for is not null and ready_ms is null",
        )
        .bind(generation.id)
        .fetch_one(&self.pool)
        .await
        .map_err(classify)
    }

    async fn end_waits(&self, generation: &Generation, time_ms: i64) -> Result<u64, StoreError> {
        let ended = sqlx::query(
            "update projector_parked set ready_ms = ?2 where id in (
               select id from projector_parked
               where generation_id = ?1 and waits_for is not null and ready_ms is null and wait_until_ms < ?2
               order by wait_until_ms limit ?3)",
        )
        .bind(generation.id)
        .bind(time_ms)
        .bind(ENDED_AT_ONCE)
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(ended.rows_affected())
    }
}
