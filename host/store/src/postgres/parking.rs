//! Dead letters and parked events: how a batch stores them, and how the keys of its events are locked.
//!
//! Invariant: a key is blocked while events are parked under it. A transaction that parks an event locks its key in shared
//! mode, and a transaction that frees a key locks it alone. So no event is parked under a key that is just freed.

use projector_core::event::Event;
use projector_core::event_failure::DatabaseRefusal;
use projector_core::ordering::{Blocked, KeyId};

use super::errors::classify;
use super::transaction::PostgresTransaction;
use super::values::Timestamp;
use crate::error::StoreError;
use crate::fault::Outage;
use crate::host_tables::stored_events::key_id;
use crate::release::Release;
use crate::writes::{DeadLetter, Parked};

impl PostgresTransaction {
    /// Which of these keys are blocked. The blocked ones are locked, so that none is freed before the end of the
    /// transaction; a key that is just being freed is waited for. Each key is looked up by itself, in the order of the
    /// keys: for a list of them, the planner may read all keys of the generation.
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

    /// Stores dead letters, and blocks the keys behind which later events wait. In a release, a key may be blocked without
    /// a dead letter at the moment, because the event that blocked it is released.
    pub(super) async fn insert_dead_letters(
        &mut self,
        dead: &[DeadLetter<'_>],
        release: Option<&Release<'_>>,
    ) -> Result<(), StoreError> {
        if dead.is_empty() {
            return Ok(());
        }
        let events = || dead.iter().map(|dead_letter| dead_letter.event);
        let failures = || dead.iter().map(|dead_letter| dead_letter.failure);
        let refusals = |of: fn(&DatabaseRefusal) -> Option<&str>| {
            failures().map(|failure| failure.refusal.as_deref().and_then(of)).collect::<Vec<Option<&str>>>()
        };
        let blocking = sqlx::query(
            "with given as (
               select * from unnest($3::text[], $4::int4[], $5::int8[], $6::timestamptz[], $7::int8[], $8::bytea[],
                 $9::bytea[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
                 $16::text[], $17::text[], $18::bytea[], $20::int8[], $21::int8[], $22::text[])
               as u(topic, partition, \"offset\", recorded_at, timestamp_ms, key, payload, headers, kind, code, detail,
                 backtrace, db_table, db_column, db_constraint, key_id, oversize_bytes, moved_by, topic_name)
             ), stored as (
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
             select $1, given.key_id, stored.id from given join stored using (topic, partition, \"offset\")
             where given.key_id is not null order by given.key_id
             on conflict (generation_id, key_id) do update set dead_letter_id = excluded.dead_letter_id
             where $19 and b.dead_letter_id is null",
        )
        .bind(self.generation())
        .bind(&*self.target.digest)
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
        .bind(refusals(|refusal| refusal.table.as_deref()))
        .bind(refusals(|refusal| refusal.column.as_deref()))
        .bind(refusals(|refusal| refusal.constraint.as_deref()))
        .bind(dead.iter().map(|dead_letter| dead_letter.blocks.as_ref().map(|key| &key.0[..])).collect::<Vec<_>>())
        .bind(release.is_some())
        .bind(events().map(oversize_bytes).collect::<Vec<_>>())
        .bind(dead.iter().map(|dead_letter| dead_letter.moved_by.unwrap_or_default()).collect::<Vec<i64>>())
        .bind(events().map(Event::other_topic_name).collect::<Vec<Option<&str>>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        let expected = dead.iter().filter(|dead_letter| dead_letter.blocks.is_some()).count() as u64;
        if blocking.rows_affected() != expected {
            // A retry of the batch finds the key blocked, and parks the event.
            return Err(StoreError::Unavailable(Outage::new(
                "another lane blocked the key of an event meanwhile",
            )));
        }
        Ok(())
    }

    /// Stores events that wait, in order.
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
        .bind(events().map(oversize_bytes).collect::<Vec<_>>())
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
}

/// The size of a value that only the log has.
fn oversize_bytes(event: &Event) -> Option<i64> {
    event.oversize_bytes.map(|bytes| bytes as i64)
}
