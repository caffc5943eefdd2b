//! Dead letters, and what is asked for about them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;

use super::errors::classify;
use super::{Sqlite, now_micros};
use crate::StoreError;
use crate::host_tables::operations::{DoneOperation, record};
use crate::host_tables::{Database as _, dead_letters, recount};
use crate::operator::{
    DeadLetterRecord, DeadLetterStore, EXPIRED_AT_ONCE, Filter, GoneRow, NewOperations, OperationResult,
    Requester, skipped,
};

#[async_trait]
impl DeadLetterStore for Sqlite {
    async fn dead_letters(&self, filter: &Filter) -> Result<Vec<DeadLetterRecord>, StoreError> {
        dead_letters::dead_letters(&mut *self.held().await?, filter).await
    }

    async fn ask(&self, asked: &NewOperations) -> Result<BTreeMap<i64, i64>, StoreError> {
        let operations: Vec<(i64, i64)> = sqlx::query_as(
            "insert into projector_operation
               (generation_id, action, dead_letter_id, topic, partition, dry_run, reason, asked_by, asked_at)
             select d.generation_id, ?2, d.id, d.topic, d.partition, ?3, ?4, ?5, ?6
             from projector_dead_letter d where d.id in (select value from json_each(?1)) order by d.id
             returning dead_letter_id, id",
        )
        .bind(serde_json::json!(asked.dead_letters).to_string())
        .bind(asked.action.as_str())
        .bind(asked.dry_run)
        .bind(&asked.asked.reason)
        .bind(&asked.asked.by)
        .bind(now_micros())
        .fetch_all(&self.pool)
        .await
        .map_err(classify)?;
        Ok(operations.into_iter().collect())
    }

    async fn verdicts(&self, operations: &[i64]) -> Result<BTreeMap<i64, OperationResult>, StoreError> {
        dead_letters::verdicts(&mut *self.held().await?, operations).await
    }

    async fn answer(&self, operation: i64, verdict: &OperationResult) -> Result<(), StoreError> {
        dead_letters::answer(&mut *self.held().await?, operation, verdict).await
    }

    async fn withdraw(&self, operations: &[i64]) -> Result<Vec<i64>, StoreError> {
        dead_letters::withdraw(&mut *self.held().await?, operations).await
    }

    async fn erase(
        &self,
        generation: &Generation,
        key: &[u8],
        ids: &[KeyId],
        asked: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(classify)?;
        for statement in [
            "delete from projector_blocked_key where dead_letter_id in
               (select id from projector_dead_letter where generation_id = ?1 and key = ?2)",
            // What was said of the events is theirs as well.
            "update projector_operation set verdict = null where generation_id = ?1 and dead_letter_id in
               (select id from projector_dead_letter where generation_id = ?1 and key = ?2)",
        ] {
            sqlx::query(statement).bind(generation.id).bind(key).execute(&mut *tx).await.map_err(classify)?;
        }
        let mut gone: Vec<GoneRow> = Vec::new();
        for id in ids {
            sqlx::query("delete from projector_blocked_key where generation_id = ? and key_id = ?")
                .bind(generation.id)
                .bind(&id.0[..])
                .execute(&mut *tx)
                .await
                .map_err(classify)?;
            let parked: Vec<GoneRow> = sqlx::query_as(
                "delete from projector_parked where generation_id = ? and key_id = ?
                 returning topic, partition, case when waits_for is null then 'parked' else 'waiting' end, ''",
            )
            .bind(generation.id)
            .bind(&id.0[..])
            .fetch_all(&mut *tx)
            .await
            .map_err(classify)?;
            gone.extend(parked);
        }
        let dead: Vec<GoneRow> = sqlx::query_as(
            "delete from projector_dead_letter where generation_id = ? and key = ?
             returning topic, partition, 'dead', code",
        )
        .bind(generation.id)
        .bind(key)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        gone.extend(dead);
        recount(&mut *tx, generation.id, &skipped(&gone, "erased")).await?;
        let verdict = serde_json::json!({ "erased": gone.len() });
        let done = DoneOperation { action: "erase", partition: None, verdict: Some(verdict) };
        record(&mut *tx, generation, done, asked).await?;
        tx.commit().await.map_err(classify)?;
        Ok(gone.len() as u64)
    }

    async fn expire(
        &self,
        generation: &Generation,
        seconds: i64,
        asked: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(classify)?;
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
        // Nothing waits behind them, so their keys are free.
        sqlx::query(
            "delete from projector_blocked_key where dead_letter_id in (select value from json_each(?1))",
        )
        .bind(&old)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        let gone: Vec<GoneRow> = sqlx::query_as(
            "delete from projector_dead_letter where id in (select value from json_each(?1))
             returning topic, partition, 'dead', code",
        )
        .bind(&old)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        recount(&mut *tx, generation.id, &skipped(&gone, "expired")).await?;
        let verdict = serde_json::json!({ "expired": gone.len() });
        let done = DoneOperation { action: "expire", partition: None, verdict: Some(verdict) };
        record(&mut *tx, generation, done, asked).await?;
        tx.commit().await.map_err(classify)?;
        Ok(gone.len() as u64)
    }
}
