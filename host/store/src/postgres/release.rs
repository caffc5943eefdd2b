//! The release of stored events: an operation on a dead letter is claimed, and its result is written.
//!
//! Invariant: locks are taken in one order: the operation, the key, the dead letter. A transaction that parks an event
//! locks its key first as well, so no two transactions wait for each other.

use projector_core::batch::BatchLimits;

use super::errors::classify;
use super::transaction::PostgresTransaction;
use crate::error::StoreError;
use crate::host_tables::stored_events::{DeadLetterRow, OpenOperationRow, StoredEventRow, key_id};
use crate::operations::{DeadLetterAction, OperationResult};
use crate::release::{ClaimedOperation, OperationProgress, Release, RetryResult};

impl PostgresTransaction {
    pub(super) async fn claim_operation(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError> {
        let open: Option<OpenOperationRow> = sqlx::query_as(
            "select action, dry_run, dead_letter_id, key_id, verdict::text from projector.operation
             where id = $1 and generation_id = $2 and done_at is null for update",
        )
        .bind(operation)
        .bind(self.generation())
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)?;
        let Some((action, dry_run, dead_letter_id, key, so_far)) = open else { return Ok(None) };
        let Some(action) = DeadLetterAction::from_word(&action) else { return Ok(None) };
        let key = match self.lock_key_of(dead_letter_id).await? {
            None => self.lock_released_key(key).await?,
            blocked => blocked,
        };
        let dead_letter: Option<DeadLetterRow> = sqlx::query_as(
            "select id, topic, partition, \"offset\",
               coalesce(timestamp_ms, (extract(epoch from recorded_at) * 1000)::int8) as timestamp_ms, key, payload,
               headers::text as headers, oversize_bytes, moved_by, topic_name, code
             from projector.dead_letter where generation_id = $1 and id = $2 for update",
        )
        .bind(self.generation())
        .bind(dead_letter_id)
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)?;
        let topics = self.target.topics.clone();
        let dead_letter = dead_letter.map(|DeadLetterRow { event, code }| {
            let (stored, partition) = event.stored(&topics);
            (stored, partition, code)
        });
        let (mut parked, mut parked_count) = (Vec::new(), 0);
        if let Some(key) = &key {
            let rows: Vec<StoredEventRow> = sqlx::query_as(
                "select id, topic, partition, \"offset\", timestamp_ms, key, payload, headers::text as headers,
                   oversize_bytes, moved_by, topic_name
                 from (select *, coalesce(sum(coalesce(octet_length(payload), 0)) over (
                         order by id rows between unbounded preceding and 1 preceding), 0) as before
                       from (select * from projector.parked where generation_id = $1 and key_id = $2
                             order by id limit $3) as first) as p
                 where before < $4 order by id",
            )
            .bind(self.generation())
            .bind(key)
            .bind(limits.events.max(1) as i64)
            .bind(limits.bytes.max(1) as i64)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(classify)?;
            parked = rows.into_iter().map(|row| row.stored(&topics)).collect();
            parked_count = sqlx::query_scalar(
                "select count(*) from projector.parked where generation_id = $1 and key_id = $2",
            )
            .bind(self.generation())
            .bind(key)
            .fetch_one(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        let so_far =
            so_far.and_then(|json| serde_json::from_str::<OperationResult>(&json).ok()).unwrap_or_default();
        Ok(Some(ClaimedOperation {
            action,
            dry_run,
            dead_letter,
            key: key.as_deref().and_then(key_id),
            parked,
            parked_count,
            so_far,
        }))
    }

    /// Locks the key that a dead letter blocks.
    async fn lock_key_of(&mut self, dead_letter: Option<i64>) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("select key_id from projector.blocked_key where dead_letter_id = $1 for update")
            .bind(dead_letter)
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(classify)
    }

    /// Locks a key that is blocked without a dead letter at the moment, because the event that blocked it was released.
    async fn lock_released_key(&mut self, key: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar(
            "select key_id from projector.blocked_key
             where generation_id = $1 and key_id = $2 and dead_letter_id is null for update",
        )
        .bind(self.generation())
        .bind(key)
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)
    }

    /// Writes what a batch of stored events did to them.
    pub(super) async fn release(&mut self, release: &Release<'_>) -> Result<(), StoreError> {
        match &release.dead_letter {
            Some((id, RetryResult::Gone)) => {
                sqlx::query(
                    "update projector.blocked_key set dead_letter_id = null where dead_letter_id = $1",
                )
                .bind(id)
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
                sqlx::query("delete from projector.dead_letter where id = $1")
                    .bind(id)
                    .execute(&mut *self.tx)
                    .await
                    .map_err(classify)?;
            }
            Some((id, RetryResult::Failed(failure))) => {
                let refusal = failure.refusal.clone().unwrap_or_default();
                sqlx::query(
                    "update projector.dead_letter set digest = $2, kind = $3, code = $4, detail = $5, backtrace = $6,
                       db_table = $7, db_column = $8, db_constraint = $9, attempts = attempts + 1 where id = $1",
                )
                .bind(id)
                .bind(&*self.target.digest)
                .bind(failure.kind.as_str())
                .bind(&failure.code)
                .bind(&failure.detail)
                .bind(&failure.backtrace)
                .bind(refusal.table)
                .bind(refusal.column)
                .bind(refusal.constraint)
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
            }
            None => {}
        }
        if !release.settled.is_empty() {
            sqlx::query("delete from projector.parked where id = any($1)")
                .bind(&release.settled)
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
        }
        self.wait_on(&release.waits_on).await?;
        self.free(&release.frees).await?;
        match &release.operation {
            Some(progress) => self.write_progress(progress).await,
            None => Ok(()),
        }
    }

    async fn write_progress(&mut self, progress: &OperationProgress<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.operation set verdict = $2::jsonb, key_id = $3,
               done_at = case when $4 then now() end where id = $1",
        )
        .bind(progress.operation)
        .bind(serde_json::to_string(progress.result).expect("a result is plain data"))
        .bind(progress.key.as_ref().map(|key| &key.0[..]))
        .bind(progress.done)
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(())
    }
}
