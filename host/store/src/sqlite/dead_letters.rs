//! Dead letters, and the operations on them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;

use super::errors::classify;
use super::{Sqlite, now_micros};
use crate::dead_letters::{DeadLetterFilter, DeadLetterRecord, DeadLetterStore, EXPIRED_AT_ONCE};
use crate::error::StoreError;
use crate::host_tables::operations::{DoneOperation, record};
use crate::host_tables::stored_events::{RemovedRow, skipped};
use crate::host_tables::{Database as _, dead_letters, recount};
use crate::operations::{NewOperations, OperationResult};
use crate::requester::Requester;

#[async_trait]
impl DeadLetterStore for Sqlite {
    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRecord>, StoreError> {
        dead_letters::dead_letters(&mut *self.acquire().await?, filter).await
    }

    async fn request(&self, operations: &NewOperations) -> Result<BTreeMap<i64, i64>, StoreError> {
        let stored: Vec<(i64, i64)> = sqlx::query_as(
            "insert into projector_operation
               (generation_id, action, dead_letter_id, topic, partition, dry_run, reason, asked_by, asked_at)
             select d.generation_id, ?2, d.id, d.topic, d.partition, ?3, ?4, ?5, ?6
             from projector_dead_letter d where d.id in (select value from json_each(?1)) order by d.id
             returning dead_letter_id, id",
        )
        .bind(serde_json::json!(operations.dead_letters).to_string())
        .bind(operations.action.as_str())
        .bind(operations.dry_run)
        .bind(&operations.requester.reason)
        .bind(&operations.requester.by)
        .bind(now_micros())
        .fetch_all(&self.pool)
        .await
        .map_err(classify)?;
        Ok(stored.into_iter().collect())
    }

    async fn results(&self, operations: &[i64]) -> Result<BTreeMap<i64, OperationResult>, StoreError> {
        dead_letters::results(&mut *self.acquire().await?, operations).await
    }

    async fn set_result(&self, operation: i64, result: &OperationResult) -> Result<(), StoreError> {
        dead_letters::set_result(&mut *self.acquire().await?, operation, result).await
    }

    async fn withdraw(&self, operations: &[i64]) -> Result<Vec<i64>, StoreError> {
        dead_letters::withdraw(&mut *self.acquire().await?, operations).await
    }

    async fn erase(
        &self,
        generation: &Generation,
        key: &[u8],
        ids: &[KeyId],
        requester: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.immediate().await?;
        for statement in [
            "delete from projector_blocked_key where dead_letter_id in
               (select id from projector_dead_letter where generation_id = ?1 and key = ?2)",
            // Results may contain data of the events.
            "update projector_operation set verdict = null where generation_id = ?1 and dead_letter_id in
               (select id from projector_dead_letter where generation_id = ?1 and key = ?2)",
        ] {
            sqlx::query(statement).bind(generation.id).bind(key).execute(&mut *tx).await.map_err(classify)?;
        }
        let mut removed: Vec<RemovedRow> = Vec::new();
        for id in ids {
            sqlx::query("delete from projector_blocked_key where generation_id = ? and key_id = ?")
                .bind(generation.id)
                .bind(&id.0[..])
                .execute(&mut *tx)
                .await
                .map_err(classify)?;
            let parked: Vec<RemovedRow> = sqlx::query_as(
                "delete from projector_parked where generation_id = ? and key_id = ?
                 returning topic, partition, case when waits_for is null then 'parked' else 'waiting' end, ''",
            )
            .bind(generation.id)
            .bind(&id.0[..])
            .fetch_all(&mut *tx)
            .await
            .map_err(classify)?;
            removed.extend(parked);
        }
        let dead: Vec<RemovedRow> = sqlx::query_as(
            "delete from projector_dead_letter where generation_id = ? and key = ?
             returning topic, partition, 'dead', code",
        )
        .bind(generation.id)
        .bind(key)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        removed.extend(dead);
        recount(&mut *tx, generation.id, &skipped(&removed, "erased")).await?;
        let result = serde_json::json!({ "erased": removed.len() });
        let done = DoneOperation { action: "erase", partition: None, result: Some(result) };
        record(&mut *tx, generation, done, requester).await?;
        tx.commit().await.map_err(classify)?;
        Ok(removed.len() as u64)
    }

    async fn expire(
        &self,
        generation: &Generation,
        seconds: i64,
        requester: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.immediate().await?;
        let old: Vec<i64> = sqlx::query_scalar(
            "select d.id from projector_dead_letter d
             left join projector_blocked_key b on b.dead_letter_id = d.id
             where d.generation_id = ?1 and d.died_at < ?2
               and not exists (select 1 from projector_parked p
                               where p.generation_id = b.generation_id and p.key_id = b.key_id)
             order by d.died_at limit ?3",
        )
        .bind(generation.id)
        .bind(now_micros() - seconds * 1_000_000)
        .bind(EXPIRED_AT_ONCE)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if old.is_empty() {
            return Ok(0);
        }
        let old = serde_json::json!(old).to_string();
        // No event waits behind them, so their keys become free.
        sqlx::query(
            "delete from projector_blocked_key where dead_letter_id in (select value from json_each(?1))",
        )
        .bind(&old)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        let removed: Vec<RemovedRow> = sqlx::query_as(
            "delete from projector_dead_letter where id in (select value from json_each(?1))
             returning topic, partition, 'dead', code",
        )
        .bind(&old)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        recount(&mut *tx, generation.id, &skipped(&removed, "expired")).await?;
        let result = serde_json::json!({ "expired": removed.len() });
        let done = DoneOperation { action: "expire", partition: None, result: Some(result) };
        record(&mut *tx, generation, done, requester).await?;
        tx.commit().await.map_err(classify)?;
        Ok(removed.len() as u64)
    }
}
