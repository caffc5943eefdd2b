//! Dead letters, and what is asked for about them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;

use super::errors::classify;
use super::{BEGIN, Postgres};
use crate::StoreError;
use crate::host_tables::operations::{DoneOperation, record};
use crate::host_tables::{Database as _, dead_letters, recount};
use crate::operator::{
    DeadLetterRecord, DeadLetterStore, EXPIRED_AT_ONCE, Filter, GoneRow, NewOperations, OperationResult,
    Requester, skipped,
};

#[async_trait]
impl DeadLetterStore for Postgres {
    async fn dead_letters(&self, filter: &Filter) -> Result<Vec<DeadLetterRecord>, StoreError> {
        dead_letters::dead_letters(&mut *self.held().await?, filter).await
    }

    async fn ask(&self, asked: &NewOperations) -> Result<BTreeMap<i64, i64>, StoreError> {
        let operations: Vec<(i64, i64)> = sqlx::query_as(
            "insert into projector.operation
               (generation_id, action, dead_letter_id, topic, partition, dry_run, reason, asked_by)
             select d.generation_id, $2, d.id, d.topic, d.partition, $3, $4, $5
             from unnest($1::int8[]) as asked(id) cross join lateral (
               select * from projector.dead_letter d where d.id = asked.id limit 1) as d
             order by d.id returning dead_letter_id, id",
        )
        .bind(&asked.dead_letters)
        .bind(asked.action.as_str())
        .bind(asked.dry_run)
        .bind(&asked.asked.reason)
        .bind(&asked.asked.by)
        .fetch_all(&mut *self.connection().await?)
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
        let mut tx = self.begin(BEGIN).await?;
        let ids: Vec<&[u8]> = ids.iter().map(|id| &id.0[..]).collect();
        for statement in [
            // Operations before keys, as those do who let go. What was said of the events is theirs as well.
            "update projector.operation set verdict = null where generation_id = $1
               and (key_id = any($2) or dead_letter_id in
                 (select id from projector.dead_letter where generation_id = $1 and key = $3))",
            // Whoever parks waits, and finds the key free then.
            "delete from projector.blocked_key where generation_id = $1 and (key_id = any($2) or dead_letter_id in
               (select id from projector.dead_letter where generation_id = $1 and key = $3))",
        ] {
            let forget = sqlx::query(statement).bind(generation.id).bind(&ids).bind(key);
            forget.execute(&mut *tx).await.map_err(classify)?;
        }
        let dead: Vec<GoneRow> = sqlx::query_as(
            "delete from projector.dead_letter where generation_id = $1 and key = $2
             returning topic, partition, 'dead', code",
        )
        .bind(generation.id)
        .bind(key)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        let parked: Vec<GoneRow> = sqlx::query_as(
            "delete from projector.parked where generation_id = $1 and key_id = any($2)
             returning topic, partition, case when waits_for is null then 'parked' else 'waiting' end, ''",
        )
        .bind(generation.id)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        let gone = [dead, parked].concat();
        recount(&mut *tx, generation.id, &skipped(&gone, "erased")).await?;
        let verdict = serde_json::json!({ "erased": gone.len() });
        let done = DoneOperation { action: "erase", partition: None, verdict: Some(verdict) };
        record(&mut *tx, generation, done, asked).await?;
        tx.commit().await?;
        Ok(gone.len() as u64)
    }

    async fn expire(
        &self,
        generation: &Generation,
        seconds: i64,
        asked: &Requester,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin(BEGIN).await?;
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
        // The keys first, as those do who park. A key that somebody is at is left to the next time.
        let held: Vec<i64> = sqlx::query_scalar(
            "select dead_letter_id from projector.blocked_key where dead_letter_id = any($1)
             order by key_id for update skip locked",
        )
        .bind(&old)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        // Asked again under the lock: an event may have been parked behind one of them meanwhile.
        sqlx::query(
            "delete from projector.blocked_key b where b.dead_letter_id = any($1)
               and not exists (select from projector.parked p
                               where p.generation_id = b.generation_id and p.key_id = b.key_id)",
        )
        .bind(&held)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        let gone: Vec<GoneRow> = sqlx::query_as(
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
        if gone.is_empty() {
            return Ok(0);
        }
        recount(&mut *tx, generation.id, &skipped(&gone, "expired")).await?;
        let verdict = serde_json::json!({ "expired": gone.len() });
        let done = DoneOperation { action: "expire", partition: None, verdict: Some(verdict) };
        record(&mut *tx, generation, done, asked).await?;
        tx.commit().await?;
        Ok(gone.len() as u64)
    }
}
