//! Dead letters, and the operations on them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;

use super::errors::classify;
use super::{BEGIN, Postgres};
use crate::dead_letters::{DeadLetterFilter, DeadLetterRecord, DeadLetterStore, EXPIRED_AT_ONCE};
use crate::error::StoreError;
use crate::host_tables::operations::{DoneOperation, record};
use crate::host_tables::stored_events::{RemovedRow, skipped};
use crate::host_tables::{Database as _, dead_letters, recount};
use crate::operations::{NewOperations, OperationResult};
use crate::requester::Requester;

#[async_trait]
impl DeadLetterStore for Postgres {
    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRecord>, StoreError> {
        dead_letters::dead_letters(&mut *self.acquire().await?, filter).await
    }

    async fn request(&self, operations: &NewOperations) -> Result<BTreeMap<i64, i64>, StoreError> {
        let stored: Vec<(i64, i64)> = sqlx::query_as(
            "insert into projector.operation
               (generation_id, action, dead_letter_id, topic, partition, dry_run, reason, asked_by)
             select d.generation_id, $2, d.id, d.topic, d.partition, $3, $4, $5
             from unnest($1::int8[]) as asked(id) cross join lateral (
               select * from projector.dead_letter d where d.id = asked.id limit 1) as d
             order by d.id returning dead_letter_id, id",
        )
        .bind(&operations.dead_letters)
        .bind(operations.action.as_str())
        .bind(operations.dry_run)
        .bind(&operations.requester.reason)
        .bind(&operations.requester.by)
        .fetch_all(&mut *self.connection().await?)
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
        let mut tx = self.begin_session(BEGIN).await?;
        let ids: Vec<&[u8]> = ids.iter().map(|id| &id.0[..]).collect();
        for statement in [
            // Operations before keys, in the order of a release. Results may contain data of the events.
            "update projector.operation set verdict = null where generation_id = $1
               and (key_id = any($2) or dead_letter_id in
                 (select id from projector.dead_letter where generation_id = $1 and key = $3))",
            // A transaction that parks an event waits for this lock, and then finds the key free.
            "delete from projector.blocked_key where generation_id = $1 and (key_id = any($2) or dead_letter_id in
               (select id from projector.dead_letter where generation_id = $1 and key = $3))",
        ] {
            let forget = sqlx::query(statement).bind(generation.id).bind(&ids).bind(key);
            forget.execute(&mut *tx).await.map_err(classify)?;
        }
        let dead: Vec<RemovedRow> = sqlx::query_as(
            "delete from projector.dead_letter where generation_id = $1 and key = $2
             returning topic, partition, 'dead', code",
        )
        .bind(generation.id)
        .bind(key)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        let parked: Vec<RemovedRow> = sqlx::query_as(
            "delete from projector.parked where generation_id = $1 and key_id = any($2)
             returning topic, partition, case when waits_for is null then 'parked' else 'waiting' end, ''",
        )
        .bind(generation.id)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        let removed = [dead, parked].concat();
        recount(&mut *tx, generation.id, &skipped(&removed, "erased")).await?;
        let result = serde_json::json!({ "erased": removed.len() });
        let done = DoneOperation { action: "erase", partition: None, result: Some(result) };
        record(&mut *tx, generation, done, requester).await?;
        tx.commit().await?;
        Ok(removed.len() as u64)
    }

    async fn expire(
        &self,
        generation: &Generation,
        seconds: i64,
        requester: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin_session(BEGIN).await?;
        let old: Vec<i64> = sqlx::query_scalar(
            "select d.id from projector.dead_letter d
             left join projector.blocked_key b on b.dead_letter_id = d.id
             where d.generation_id = $1 and d.died_at < now() - $2 * interval '1 second'
               and not exists (select from projector.parked p
                               where p.generation_id = b.generation_id and p.key_id = b.key_id)
             order by d.died_at limit $3",
        )
        .bind(generation.id)
        .bind(seconds)
        .bind(EXPIRED_AT_ONCE)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if old.is_empty() {
            return Ok(0);
        }
        // The keys first, in the order of a transaction that parks an event. A key that is locked is left to the next call.
        let locked: Vec<i64> = sqlx::query_scalar(
            "select dead_letter_id from projector.blocked_key where dead_letter_id = any($1)
             order by key_id for update skip locked",
        )
        .bind(&old)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        // Checked again now that the keys are locked: an event may have been parked behind a dead letter meanwhile.
        sqlx::query(
            "delete from projector.blocked_key b where b.dead_letter_id = any($1)
               and not exists (select from projector.parked p
                               where p.generation_id = b.generation_id and p.key_id = b.key_id)",
        )
        .bind(&locked)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        let removed: Vec<RemovedRow> = sqlx::query_as(
            "delete from projector.dead_letter where id in (
               select d.id from projector.dead_letter d where d.id = any($1)
                 and not exists (select from projector.blocked_key b where b.dead_letter_id = d.id)
               order by d.id for update skip locked)
             returning topic, partition, 'dead', code",
        )
        .bind(&old)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if removed.is_empty() {
            return Ok(0);
        }
        recount(&mut *tx, generation.id, &skipped(&removed, "expired")).await?;
        let result = serde_json::json!({ "expired": removed.len() });
        let done = DoneOperation { action: "expire", partition: None, result: Some(result) };
        record(&mut *tx, generation, done, requester).await?;
        tx.commit().await?;
        Ok(removed.len() as u64)
    }
}
