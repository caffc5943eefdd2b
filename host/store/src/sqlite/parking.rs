//! Dead letters and parked events: how a batch stores them.

use projector_core::ordering::{Blocked, KeyId};

use super::errors::classify;
use super::now_micros;
use super::transaction::SqliteTransaction;
use crate::error::StoreError;
use crate::release::Release;
use crate::writes::{DeadLetter, Parked};

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

    /// Stores dead letters, and blocks the keys behind which later events wait. In a release, a key may be blocked without
    /// a dead letter at the moment, because the event that blocked it is released.
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
            .bind(&*self.target.digest)
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

    /// Stores events that wait, in order.
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
}
