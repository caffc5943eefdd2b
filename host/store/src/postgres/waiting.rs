//! Dead letters, and the events that wait behind them.

use projector_core::batch::BatchLimits;
use projector_core::event::Event;
use projector_core::event_failure::DatabaseRefusal;
use projector_core::ordering::{Blocked, KeyId};

use super::errors::classify;
use super::transaction::PostgresTransaction;
use super::values::Timestamp;
use crate::operator::{
    ClaimedOperation, DeadLetterAction, DeadLetterRow, OperationResult, OperationRow, Release, RetryResult,
    StoredEventRow,
};
use crate::{DeadLetter, Outage, Parked, StoreError};

impl PostgresTransaction {
    /// Which keys are blocked: each looked up by itself, in their order, since the planner may read all keys of the
    /// generation for a list of them. Whoever is about to free one waits for this transaction, and this one for
    /// whoever is.
    pub(super) async fn lock_blocked(&mut self, mut keys: Vec<KeyId>) -> Result<Blocked, StoreError> {
        keys.sort_unstable();
        keys.dedup();
        let blocked: Vec<Vec<u8>> = sqlx::query_scalar(
            "select b.key_id from unnest($2::bytea[]) as k(key_id) cross join lateral (
               select b.key_id from projector.blocked_key b
               where b.generation_id = $1 and b.key_id = k.key_id limit 1 for share) as b",
        )
        .bind(self.generation())
        .bind(keys.iter().map(|key| &key.0[..]).collect::<Vec<&[u8]>>())
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(blocked.iter().filter_map(|id| key_id(id)).collect())
    }

    /// Keeps what failed, and blocks the keys of those behind which others are to wait. In a release, a key may
    /// be blocked by nobody at the moment, because the event that blocked it was let go.
    pub(super) async fn insert_dead_letters(
        &mut self,
        dead: &[DeadLetter<'_>],
        release: Option<&Release<'_>>,
    ) -> Result<(), StoreError> {
        if dead.is_empty() {
            return Ok(());
        }
        let events = || dead.iter().map(|letter| letter.event);
        let failures = || dead.iter().map(|letter| letter.failure);
        let said = |of: fn(&DatabaseRefusal) -> Option<&str>| {
            failures().map(|failure| failure.refusal.as_deref().and_then(of)).collect::<Vec<Option<&str>>>()
        };
        let blocking = sqlx::query(
            "with given as (
               select * from unnest($3::text[], $4::int4[], $5::int8[], $6::timestamptz[], $7::int8[], $8::bytea[],
                 $9::bytea[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
                 $16::text[], $17::text[], $18::bytea[], $20::int8[], $21::int8[], $22::text[])
               as u(topic, partition, \"offset\", recorded_at, timestamp_ms, key, payload, headers, kind, code, detail,
                 backtrace, db_table, db_column, db_constraint, key_id, oversize_bytes, moved_by, topic_name)
             ), buried as (
               insert into projector.dead_letter
                 (generation_id, digest, topic, partition, \"offset\", recorded_at, timestamp_ms, key, payload, headers,
                  kind, code, detail, backtrace, db_table, db_column, db_constraint, oversize_bytes, moved_by,
                  topic_name)
               select $1, $2, topic, partition, \"offset\", recorded_at, timestamp_ms, key, payload, headers::jsonb,
                 kind, code, detail, backtrace, db_table, db_column, db_constraint, oversize_bytes, moved_by,
                 topic_name
               from given
               returning id, topic, partition, \"offset\"
             )
             insert into projector.blocked_key as b (generation_id, key_id, dead_letter_id)
             select $1, given.key_id, buried.id from given join buried using (topic, partition, \"offset\")
             where given.key_id is not null order by given.key_id
             on conflict (generation_id, key_id) do update set dead_letter_id = excluded.dead_letter_id
             where $19 and b.dead_letter_id is null",
        )
        .bind(self.generation())
        .bind(&*self.deployment.digest)
        .bind(events().map(|event| &*event.position.partition.topic).collect::<Vec<&str>>())
        .bind(events().map(|event| event.position.partition.number).collect::<Vec<i32>>())
        .bind(events().map(|event| event.position.offset).collect::<Vec<i64>>())
        .bind(events().map(|event| event.recorded_at_micros().map(Timestamp)).collect::<Vec<_>>())
        .bind(events().map(|event| event.timestamp_ms).collect::<Vec<_>>())
        .bind(events().map(|event| event.key.as_deref()).collect::<Vec<_>>())
        .bind(events().map(|event| event.value.as_deref()).collect::<Vec<_>>())
        .bind(events().map(|event| event.headers_json().to_string()).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.kind.as_str()).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.code.as_str()).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.detail.as_str()).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.backtrace.as_deref()).collect::<Vec<_>>())
        .bind(said(|refusal| refusal.table.as_deref()))
        .bind(said(|refusal| refusal.column.as_deref()))
        .bind(said(|refusal| refusal.constraint.as_deref()))
        .bind(dead.iter().map(|letter| letter.blocks.as_ref().map(|key| &key.0[..])).collect::<Vec<_>>())
        .bind(release.is_some())
        .bind(events().map(weight).collect::<Vec<_>>())
        .bind(dead.iter().map(|letter| letter.moved_by.unwrap_or_default()).collect::<Vec<i64>>())
        .bind(events().map(Event::other_topic_name).collect::<Vec<Option<&str>>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        let expected = dead.iter().filter(|letter| letter.blocks.is_some()).count() as u64;
        if blocking.rows_affected() != expected {
            return Err(meanwhile("another lane blocked the key of an event meanwhile"));
        }
        Ok(())
    }

    /// Keeps events that wait, in order.
    pub(super) async fn park(&mut self, parked: &[Parked<'_>]) -> Result<(), StoreError> {
        if parked.is_empty() {
            return Ok(());
        }
        let events = || parked.iter().map(|parked| parked.event);
        let rows = || parked.iter().map(|parked| parked.row);
        sqlx::query(
            "insert into projector.parked
               (generation_id, key_id, topic, partition, \"offset\", timestamp_ms, key, payload, headers, oversize_bytes,
                waits_for, awaited, wait_until_ms, topic_name)
             select $1, u.key_id, u.topic, u.partition, u.\"offset\", u.timestamp_ms, u.key, u.payload,
               u.headers::jsonb, u.oversize_bytes, u.waits_for, u.awaited, u.wait_until_ms, u.topic_name
             from unnest($2::bytea[], $3::text[], $4::int4[], $5::int8[], $6::int8[], $7::bytea[], $8::bytea[],
               $9::text[], $10::int8[], $11::bytea[], $12::text[], $13::int8[], $14::text[]) with ordinality
               as u(key_id, topic, partition, \"offset\", timestamp_ms, key, payload, headers, oversize_bytes, waits_for,
                 awaited, wait_until_ms, topic_name, ord)
             order by u.ord",
        )
        .bind(self.generation())
        .bind(parked.iter().map(|parked| &parked.key.0[..]).collect::<Vec<&[u8]>>())
        .bind(events().map(|event| &*event.position.partition.topic).collect::<Vec<&str>>())
        .bind(events().map(|event| event.position.partition.number).collect::<Vec<i32>>())
        .bind(events().map(|event| event.position.offset).collect::<Vec<i64>>())
        .bind(events().map(|event| event.timestamp_ms).collect::<Vec<_>>())
        .bind(events().map(|event| event.key.as_deref()).collect::<Vec<_>>())
        .bind(events().map(|event| event.value.as_deref()).collect::<Vec<_>>())
        .bind(events().map(|event| event.headers_json().to_string()).collect::<Vec<_>>())
        .bind(events().map(weight).collect::<Vec<_>>())
        .bind(rows().map(|row| row.map(|row| &row.id.0[..])).collect::<Vec<Option<&[u8]>>>())
        .bind(rows().map(|row| row.map(|row| row.name.as_str())).collect::<Vec<Option<&str>>>())
        .bind(rows().map(|row| row.map(|row| row.until_ms)).collect::<Vec<Option<i64>>>())
        .bind(events().map(Event::other_topic_name).collect::<Vec<Option<&str>>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        let lines = parked.iter().filter(|parked| parked.row.is_some()).map(|parked| parked.key);
        self.block_lines(lines.collect()).await
    }

    pub(super) async fn take_waiting(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError> {
        let open: Option<OperationRow> = sqlx::query_as(
            "select action, dry_run, dead_letter_id, key_id, verdict::text from projector.operation
             where id = $1 and generation_id = $2 and done_at is null for update",
        )
        .bind(operation)
        .bind(self.generation())
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(classify)?;
        let Some((action, dry_run, letter_id, key, so_far)) = open else { return Ok(None) };
        let Some(action) = DeadLetterAction::from_word(&action) else { return Ok(None) };
        // First the key, as those do who park: who waits for whom is the same everywhere.
        let key = match self.blocked_by(letter_id).await? {
            None => self.nobodys(key).await?,
            blocked => blocked,
        };
        let letter: Option<DeadLetterRow> = sqlx::query_as(
            "select id, topic, partition, \"offset\",
               coalesce(timestamp_ms, (extract(epoch from recorded_at) * 1000)::int8) as timestamp_ms, key, payload,
               headers::text as headers, oversize_bytes, moved_by, topic_name, code
             from projector.dead_letter where generation_id = $1 and id = $2 for update",
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
            parked = rows.into_iter().map(|row| row.kept(&topics)).collect();
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
            letter,
            key: key.as_deref().and_then(key_id),
            parked,
            parked_count,
            so_far,
        }))
    }

    /// The key that a dead letter blocks.
    async fn blocked_by(&mut self, letter: Option<i64>) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("select key_id from projector.blocked_key where dead_letter_id = $1 for update")
            .bind(letter)
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(classify)
    }

    /// A key, if it is blocked by nobody at the moment, because the event that blocked it was let go.
    async fn nobodys(&mut self, key: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, StoreError> {
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

    /// What became of events that had waited.
    pub(super) async fn release(&mut self, release: &Release<'_>) -> Result<(), StoreError> {
        match &release.letter {
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
        let Some(progress) = &release.operation else { return Ok(()) };
        sqlx::query(
            "update projector.operation set verdict = $2::jsonb, key_id = $3,
               done_at = case when $4 then now() end where id = $1",
        )
        .bind(progress.operation)
        .bind(serde_json::to_string(progress.verdict).expect("a verdict is plain data"))
        .bind(progress.key.as_ref().map(|key| &key.0[..]))
        .bind(progress.done)
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(())
    }
}

/// Something that a new attempt will see.
pub(super) fn meanwhile(what: &str) -> StoreError {
    StoreError::Unavailable(Outage::new(what))
}

pub(super) fn key_id(bytes: &[u8]) -> Option<KeyId> {
    bytes.try_into().ok().map(KeyId)
}

/// What the value weighs that was left in the log.
fn weight(event: &Event) -> Option<i64> {
    event.oversize_bytes.map(|bytes| bytes as i64)
}
