//! Dead letters, and the events that wait behind them.

use projector_core::batch::BatchLimits;
use projector_core::event_failure::Failure;
use projector_core::ordering::{Blocked, KeyId};

use super::errors::classify;
use super::now_micros;
use super::transaction::SqliteTransaction;
use crate::operator::{
    ClaimedOperation, DeadLetterAction, DeadLetterRow, OperationResult, OperationRow, Release, RetryResult,
    StoredEventRow,
};
use crate::{DeadLetter, Parked, StoreError};

impl SqliteTransaction {
    pub(super) async fn find_blocked(&mut self, mut keys: Vec<KeyId>) -> Result<Blocked, StoreError> {
        keys.sort_unstable();
        keys.dedup();
        let mut blocked = Blocked::default();
        for key in keys {
            let found: i64 = sqlx::query_scalar(
                "select count(*) from projector_blocked_key where generation_id = ? and key_id = ?",
            )
            .bind(self.generation())
            .bind(&key.0[..])
            .fetch_one(&mut *self.tx)
            .await
            .map_err(classify)?;
            if found > 0 {
                blocked.insert(key);
            }
        }
        Ok(blocked)
    }

    /// Keeps what failed, and blocks the keys of those behind which others are to wait. In a release, a key may
    /// be blocked by nobody at the moment, because the event that blocked it was let go.
    pub(super) async fn insert_dead_letters(
        &mut self,
        dead: &[DeadLetter<'_>],
        release: Option<&Release<'_>>,
    ) -> Result<(), StoreError> {
        for DeadLetter { event, failure, blocks, moved_by } in dead {
            let refusal = failure.refusal.clone().unwrap_or_default();
            let id: i64 = sqlx::query_scalar(
                "insert into projector_dead_letter
                   (generation_id, digest, topic, partition, \"offset\", recorded_at, timestamp_ms, key, payload, headers,
                    kind, code, detail, backtrace, db_table, db_column, db_constraint, died_at, oversize_bytes,
                    moved_by, topic_name)
                 values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) returning id",
            )
            .bind(self.generation())
            .bind(&*self.deployment.digest)
            .bind(&*event.position.partition.topic)
            .bind(event.position.partition.number)
            .bind(event.position.offset)
            .bind(event.recorded_at_micros())
            .bind(event.timestamp_ms)
            .bind(event.key.as_deref())
            .bind(event.value.as_deref())
            .bind(event.headers_json().to_string())
            .bind(failure.kind.as_str())
            .bind(&failure.code)
            .bind(&failure.detail)
            .bind(&failure.backtrace)
            .bind(refusal.table)
            .bind(refusal.column)
            .bind(refusal.constraint)
            .bind(now_micros())
            .bind(event.oversize_bytes.map(|bytes| bytes as i64))
            .bind(moved_by.unwrap_or_default())
            .bind(event.other_topic_name())
            .fetch_one(&mut *self.tx)
            .await
            .map_err(classify)?;
            if let Some(key) = blocks {
                sqlx::query(
                    "insert into projector_blocked_key as b (generation_id, key_id, dead_letter_id, blocked_at)
                     values (?1, ?2, ?3, ?4) on conflict (generation_id, key_id)
                     do update set dead_letter_id = excluded.dead_letter_id where ?5 and b.dead_letter_id is null",
                )
                .bind(self.generation())
                .bind(&key.0[..])
                .bind(id)
                .bind(now_micros())
                .bind(release.is_some())
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
            }
        }
        Ok(())
    }

    /// Keeps events that wait, in order.
    pub(super) async fn park(&mut self, parked: &[Parked<'_>]) -> Result<(), StoreError> {
        for Parked { event, key, row } in parked {
            sqlx::query(
                "insert into projector_parked
                   (generation_id, key_id, topic, partition, \"offset\", timestamp_ms, key, payload, headers, parked_at,
                    oversize_bytes, waits_for, awaited, wait_until_ms, topic_name)
                 values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(self.generation())
            .bind(&key.0[..])
            .bind(&*event.position.partition.topic)
            .bind(event.position.partition.number)
            .bind(event.position.offset)
            .bind(event.timestamp_ms)
            .bind(event.key.as_deref())
            .bind(event.value.as_deref())
            .bind(event.headers_json().to_string())
            .bind(now_micros())
            .bind(event.oversize_bytes.map(|bytes| bytes as i64))
            .bind(row.map(|row| &row.id.0[..]))
            .bind(row.map(|row| row.name.as_str()))
            .bind(row.map(|row| row.until_ms))
            .bind(event.other_topic_name())
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
            if row.is_some() {
                self.block_line(*key).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn take_waiting(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError> {
        let open: Option<OperationRow> = sqlx::query_as(
            "select action, dry_run, dead_letter_id, key_id, verdict from projector_operation
             where id = ? and generation_id = ? and done_at is null",
        )
        .bind(operation)
        .bind(self.generation())
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)?;
        let Some((action, dry_run, letter_id, key, so_far)) = open else { return Ok(None) };
        let Some(action) = DeadLetterAction::from_word(&action) else { return Ok(None) };
        let key = match self.blocked_by(letter_id).await? {
            None => self.nobodys(key).await?,
            blocked => blocked,
        };
        let letter: Option<DeadLetterRow> = sqlx::query_as(
            "select id, topic, partition, \"offset\", coalesce(timestamp_ms, recorded_at / 1000) as timestamp_ms, key, payload, headers,
               oversize_bytes, moved_by, topic_name, code from projector_dead_letter where generation_id = ? and id = ?",
        )
        .bind(self.generation())
        .bind(letter_id)
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)?;
        let topics = self.deployment.topics.clone();
        let letter = letter.map(|DeadLetterRow { kept, code }| {
            let (kept, partition) = kept.kept(&topics);
            (kept, partition, code)
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
            parked = rows.into_iter().map(|row| row.kept(&topics)).collect();
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
        let key = key.and_then(|bytes| bytes.try_into().ok()).map(KeyId);
        Ok(Some(ClaimedOperation { action, dry_run, letter, key, parked, parked_count, so_far }))
    }

    /// The key that a dead letter blocks.
    async fn blocked_by(&mut self, letter: Option<i64>) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("select key_id from projector_blocked_key where dead_letter_id = ?1")
            .bind(letter)
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(classify)
    }

    /// A key, if it is blocked by nobody at the moment, because the event that blocked it was let go.
    async fn nobodys(&mut self, key: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, StoreError> {
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

    /// A dead letter was tried again, and this came of it.
    pub(super) async fn failed_again(&mut self, letter: i64, failure: &Failure) -> Result<(), StoreError> {
        let refusal = failure.refusal.clone().unwrap_or_default();
        sqlx::query(
            "update projector_dead_letter set digest = ?2, kind = ?3, code = ?4, detail = ?5, backtrace = ?6,
               db_table = ?7, db_column = ?8, db_constraint = ?9, attempts = attempts + 1 where id = ?1",
        )
        .bind(letter)
        .bind(&*self.deployment.digest)
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

    /// What became of events that had waited.
    pub(super) async fn release(&mut self, release: &Release<'_>) -> Result<(), StoreError> {
        match &release.letter {
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
            .bind(serde_json::to_string(progress.verdict).expect("a verdict is plain data"))
            .bind(progress.key.as_ref().map(|key| &key.0[..]))
            .bind(progress.done.then(now_micros))
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        Ok(())
    }
}
