//! Waiting events: which of them are ready to be tried.
//!
//! Locks are taken in the order that holds for parked events as well: keys first, then the events under them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::awaited::RowId;
use projector_core::batch::BatchLimits;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;

use super::Postgres;
use super::errors::classify;
use super::transaction::PostgresTransaction;
use crate::error::StoreError;
use crate::host_tables::stored_events::{ReadyRow, ready_events};
use crate::release::WaitsOn;
use crate::waiting_events::{ENDED_AT_ONCE, IN_TIME, ReadyEvent, WaitingEventStore};

impl PostgresTransaction {
    pub(super) async fn find_ready(&mut self, limits: BatchLimits) -> Result<Vec<ReadyEvent>, StoreError> {
        let keys: Vec<Vec<u8>> = sqlx::query_scalar(
            "select distinct key_id from (
               select key_id from projector.parked where (generation_id - 0) = $1 and ready_ms is not null
               order by id limit $2) as r order by key_id",
        )
        .bind(self.generation())
        .bind(limits.events.max(1) as i64)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // The keys first: a transaction that parks an event locks its key first as well.
        sqlx::query(
            "select b.key_id from unnest($2::bytea[]) as k(key_id) cross join lateral (
               select b.key_id from projector.blocked_key b
               where b.generation_id = $1 and b.key_id = k.key_id limit 1 for update) as b",
        )
        .bind(self.generation())
        .bind(&keys)
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        let rows: Vec<ReadyRow> = sqlx::query_as(
            "select id, topic, partition, \"offset\", timestamp_ms, key, payload, headers::text as headers,
               oversize_bytes, moved_by, topic_name, key_id, awaited, wait_until_ms, ready_ms
             from (select *, coalesce(sum(coalesce(octet_length(payload), 0)) over (
                     order by id rows between unbounded preceding and 1 preceding), 0) as before
                   from (select p.* from unnest($2::bytea[]) as k(key_id) cross join lateral (
                           select * from projector.parked p where p.generation_id = $1 and p.key_id = k.key_id
                           order by p.id limit $3) as p
                         order by p.id limit $3) as first) as p
             where before < $4 order by id",
        )
        .bind(self.generation())
        .bind(&keys)
        .bind(limits.events.max(1) as i64)
        .bind(limits.bytes.max(1) as i64)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(ready_events(rows, &self.target.topics))
    }

    /// Blocks the lines of events that wait for rows.
    pub(super) async fn block_lines(&mut self, mut lines: Vec<KeyId>) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        lines.sort_unstable();
        lines.dedup();
        sqlx::query(
            "insert into projector.blocked_key (generation_id, key_id)
             select $1, u.key_id from unnest($2::bytea[]) as u(key_id) order by u.key_id on conflict do nothing",
        )
        .bind(self.generation())
        .bind(lines.iter().map(|line| &line.0[..]).collect::<Vec<&[u8]>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(())
    }

    /// Events that were tried continue to wait.
    pub(super) async fn wait_on(&mut self, events: &[WaitsOn<'_>]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let rows = || events.iter().map(|event| event.row);
        sqlx::query(
            "update projector.parked p set ready_ms = null, (key_id, waits_for, awaited, wait_until_ms) =
               (select u.key_id, u.waits_for, u.awaited, u.wait_until_ms
                from unnest($1::int8[], $2::bytea[], $3::bytea[], $4::text[], $5::int8[])
                  as u(id, key_id, waits_for, awaited, wait_until_ms)
                where u.id = p.id)
             where p.id = any($1)",
        )
        .bind(events.iter().map(|event| event.id).collect::<Vec<i64>>())
        .bind(events.iter().map(|event| &event.key.0[..]).collect::<Vec<&[u8]>>())
        .bind(rows().map(|row| row.map(|row| &row.id.0[..])).collect::<Vec<Option<&[u8]>>>())
        .bind(rows().map(|row| row.map(|row| row.name.as_str())).collect::<Vec<Option<&str>>>())
        .bind(rows().map(|row| row.map(|row| row.until_ms)).collect::<Vec<Option<i64>>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        let lines = events.iter().filter(|event| event.row.is_some()).map(|event| event.key);
        self.block_lines(lines.collect()).await
    }

    /// Frees keys. Where events are still parked under a key, the first of them becomes ready, and the key stays blocked.
    pub(super) async fn free(&mut self, keys: &[KeyId]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key.0[..]).collect();
        sqlx::query(
            "delete from projector.blocked_key where ctid = any(array(
               select b.ctid from unnest($2::bytea[]) as k(key_id) cross join lateral (
                 select b.ctid from projector.blocked_key b
                 where b.generation_id = $1 and b.key_id = k.key_id
                   and not exists (select from projector.parked p
                                   where p.generation_id = b.generation_id and p.key_id = b.key_id)
                 limit 1) as b))",
        )
        .bind(self.generation())
        .bind(&keys)
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        let next = sqlx::query(
            "update projector.parked set ready_ms = $3 where id = any(array(
               select p.id from unnest($2::bytea[]) as k(key_id) cross join lateral (
                 select p.id from projector.parked p where p.generation_id = $1 and p.key_id = k.key_id
                 order by p.id limit 1) as p))",
        )
        .bind(self.generation())
        .bind(&keys)
        .bind(IN_TIME)
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        self.made_ready |= next.rows_affected() > 0;
        Ok(())
    }

    /// Rows were written: the events that wait for them become ready.
    pub(super) async fn end_waits_for(&mut self, rows: &BTreeMap<RowId, i64>) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let made_ready = sqlx::query(
            "update projector.parked p set ready_ms =
               (select u.at_ms from unnest($2::bytea[], $3::int8[]) as u(row_id, at_ms) where u.row_id = p.waits_for)
             where p.id = any(array(
               select w.id from unnest($2::bytea[]) as u(row_id) cross join lateral (
                 select w.id from projector.parked w
                 where (w.generation_id * 1) = $1 and w.waits_for = u.row_id and w.ready_ms is null offset 0) as w))",
        )
        .bind(self.generation())
        .bind(rows.keys().map(|row| &row.0[..]).collect::<Vec<&[u8]>>())
        .bind(rows.values().copied().collect::<Vec<i64>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        self.made_ready |= made_ready.rows_affected() > 0;
        Ok(())
    }
}

#[async_trait]
impl WaitingEventStore for Postgres {
    async fn first_end(&self, generation: &Generation) -> Result<Option<i64>, StoreError> {
        sqlx::query_scalar::<_, i64>(
            "select wait_until_ms from projector.parked
             where (generation_id + 0) = $1 and waits_for is not null and ready_ms is null
             order by wait_until_ms limit 1",
        )
        .bind(generation.id)
        .fetch_optional(&mut *self.connection().await?)
        .await
        .map_err(classify)
    }

    async fn end_waits(&self, generation: &Generation, time_ms: i64) -> Result<u64, StoreError> {
        let ended = sqlx::query(
            "update projector.parked set ready_ms = $2 where id = any(array(
               select id from projector.parked
               where (generation_id + 0) = $1 and waits_for is not null and ready_ms is null and wait_until_ms < $2
               order by wait_until_ms limit $3))",
        )
        .bind(generation.id)
        .bind(time_ms)
        .bind(ENDED_AT_ONCE)
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(ended.rows_affected())
    }
}
