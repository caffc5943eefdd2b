//! The release of stored events: an operation on a dead letter is claimed, and its result is written.

use projector_core::batch::BatchLimits;
use projector_core::event_failure::Failure;

use super::errors::classify;
use super::now_micros;
use super::transaction::SqliteTransaction;
use crate::error::StoreError;
use crate::host_tables::stored_events::{DeadLetterRow, OpenOperationRow, StoredEventRow, key_id};
use crate::operations::{DeadLetterAction, OperationResult};
use crate::release::{ClaimedOperation, Release, RetryResult};

impl SqliteTransaction {
    pub(super) async fn claim_operation(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError> {
        let open: Option<OpenOperationRow> = sqlx::query_as(
            "select action, dry_run, dead_letter_id, key_id, verdict from projector_operation
             where id = ? and generation_id = ? and done_at is null",
        )
        .bind(operation)
        .bind(self.generation())
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)?;
        let Some((action, dry_run, dead_letter_id, key, so_far)) = open else { return Ok(None) };
        let Some(action) = DeadLetterAction::from_word(&action) else { return Ok(None) };
        let key = match self.key_of(dead_letter_id).await? {
            None => self.released_key(key).await?,
            blocked => blocked,
        };
        let dead_letter: Option<DeadLetterRow> = sqlx::query_as(
            "select id, topic, partition, \"offset\", coalesce(timestamp_ms, recorded_at / 1000) as timestamp_ms, key, payload, headers,
               oversize_bytes, moved_by, topic_name, code from projector_dead_letter where generation_id = ? and id = ?",
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
                "select id, topic, partition, \"offset\", timestamp_ms, key, payload, headers, oversize_bytes, moved_by,
                   topic_name
                 from (select *, coalesce(sum(coalesce(length(payload), 0)) over (
                         order by id rows between unbounded preceding and 1 preceding), 0) as before
                       from (select * from projector_parked where generation_id = ? and key_id = ?
                             order by id limit ?) as first) as p
                 where before < ? order by id",
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
                "select count(*) from projector_parked where generation_id = ? and key_id = ?",
            )
            .bind(self.generation())
            .bind(key)
            .fetch_one(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        let so_far =
            so_far.and_then(|json| serde_json::from_str::<OperationResult>(&json).ok()).unwrap_or_default();
        let key = key.as_deref().and_then(key_id);
        Ok(Some(ClaimedOperation { action, dry_run, dead_letter, key, parked, parked_count, so_far }))
    }

    /// The key that a dead letter blocks.
    async fn key_of(&mut self, dead_letter: Option<i64>) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("select key_id from projector_blocked_key where dead_letter_id = ?1")
            .bind(dead_letter)
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(classify)
    }

    /// A key, if it is blocked without a dead letter at the moment, because the event that blocked it was released.
    async fn released_key(&mut self, key: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar(
            "select key_id from projector_blocked_key
             where generation_id = ?1 and key_id = ?2 and dead_letter_id is null",
        )
        .bind(self.generation())
        .bind(key)
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)
    }

    /// Stores the failure of a dead letter that was tried again.
    pub(super) async fn failed_again(
        &mut self,
        dead_letter: i64,
        failure: &Failure,
    ) -> Result<(), StoreError> {
        let refusal = failure.refusal.clone().unwrap_or_default();
        sqlx::query(
            "update projector_dead_letter set digest = ?2, kind = ?3, code = ?4, detail = ?5, backtrace = ?6,
               db_table = ?7, db_column = ?8, db_constraint = ?9, attempts = attempts + 1 where id = ?1",
        )
        .bind(dead_letter)
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
        Ok(())
    }

    /// Writes what a batch of stored events did to them.
    pub(super) async fn release(&mut self, release: &Release<'_>) -> Result<(), StoreError> {
        match &release.dead_letter {
            Some((id, RetryResult::Gone)) => {
                for statement in [
                    "update projector_blocked_key set dead_letter_id = null where dead_letter_id = ?",
                    "delete from projector_dead_letter where id = ?",
                ] {
                    sqlx::query(statement).bind(id).execute(&mut *self.tx).await.map_err(classify)?;
                }
            }
            Some((id, RetryResult::Failed(failure))) => self.failed_again(*id, failure).await?,
            None => {}
        }
        for id in &release.settled {
            sqlx::query("delete from projector_parked where id = ?")
                .bind(id)
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
        }
        self.wait_on(&release.waits_on).await?;
        self.free(&release.frees).await?;
        let Some(progress) = &release.operation else { return Ok(()) };
        sqlx::query("update projector_operation set verdict = ?2, key_id = ?3, done_at = ?4 where id = ?1")
            .bind(progress.operation)
            .bind(serde_json::to_string(progress.result).expect("a result is plain data"))
            .bind(progress.key.as_ref().map(|key| &key.0[..]))
            .bind(progress.done.then(now_micros))
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        Ok(())
    }
}
