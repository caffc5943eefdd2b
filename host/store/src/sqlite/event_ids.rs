//! Ids of handled events, and the record of those that were ignored as duplicates.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::duplicate::{Duplicate, EventId, Known, RECORDED, Remembered};
use projector_core::event::{Partition, Position};
use projector_core::generation::Generation;

use super::errors::classify;
use super::transaction::SqliteTransaction;
use super::{Sqlite, now_micros};
use crate::error::StoreError;
use crate::event_ids::{EventIdStore, Horizon, RecordTime};

impl SqliteTransaction {
    /// Which of these ids were handled before.
    pub(super) async fn find_known(&mut self, ids: &[EventId]) -> Result<Known, StoreError> {
        let mut known = Known::default();
        for id in ids {
            let found: Option<(String, Option<i32>, Option<i64>)> = sqlx::query_as(
                "select coalesce(source, topic), partition, \"offset\" from projector_event_id
                 where generation_id = ? and topic = ? and id = ?",
            )
            .bind(self.generation())
            .bind(&*id.topic)
            .bind(&id.hash[..])
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(classify)?;
            if let Some((topic, partition, offset)) = found {
                let first = partition
                    .zip(offset)
                    .map(|(number, offset)| Position { partition: Partition::new(topic, number), offset });
                known.insert(id.clone(), first);
            }
        }
        Ok(known)
    }

    /// Stores ids. A time in the future is stored as now: otherwise the id would not be forgotten when its window has passed.
    pub(super) async fn remember(&mut self, ids: &[Remembered]) -> Result<(), StoreError> {
        let now = now_micros();
        for one in ids {
            let recorded_at = one.recorded_at.map_or(now, |at| at.min(now));
            let topic = &one.first.partition.topic;
            sqlx::query(
                "insert into projector_event_id (generation_id, topic, id, recorded_at, source, partition, \"offset\")
                 values (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(self.generation())
            .bind(&*one.id.topic)
            .bind(&one.id.hash[..])
            .bind(recorded_at)
            .bind((*topic != one.id.topic).then_some(&**topic))
            .bind(one.first.partition.number)
            .bind(one.first.offset)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }

    /// Records duplicates, and removes the oldest records beyond the number that is kept.
    pub(super) async fn record_duplicates(&mut self, ignored: &[Duplicate<'_>]) -> Result<(), StoreError> {
        if ignored.is_empty() {
            return Ok(());
        }
        for one in ignored {
            let first = one.first.as_ref();
            sqlx::query(
                "insert into projector_duplicate
                   (generation_id, topic, partition, \"offset\", first_topic, first_partition, first_offset, ignored_at)
                 values (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(self.generation())
            .bind(&*one.position.partition.topic)
            .bind(one.position.partition.number)
            .bind(one.position.offset)
            .bind(first.map(|first| &*first.partition.topic))
            .bind(first.map(|first| first.partition.number))
            .bind(first.map(|first| first.offset))
            .bind(now_micros())
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        sqlx::query(
            "delete from projector_duplicate where generation_id = ?1 and id <= (
               select id from projector_duplicate where generation_id = ?1 order by id desc limit 1 offset ?2)",
        )
        .bind(self.generation())
        .bind(RECORDED)
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(())
    }

    pub(super) async fn count_without_id(
        &mut self,
        without: &BTreeMap<Partition, i64>,
    ) -> Result<(), StoreError> {
        for (partition, events) in without {
            sqlx::query(
                "insert into projector_without_id as w (generation_id, topic, partition, events) values (?, ?, ?, ?)
                 on conflict (generation_id, topic, partition) do update set events = w.events + excluded.events",
            )
            .bind(self.generation())
            .bind(&*partition.topic)
            .bind(partition.number)
            .bind(events)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }
}

#[async_trait]
impl EventIdStore for Sqlite {
    async fn record_times(
        &self,
        generation: &Generation,
        topic: &str,
    ) -> Result<Vec<RecordTime>, StoreError> {
        sqlx::query_as(
            "select partition, next_offset, recorded_at, (?3 - updated_at) / 1000000 as idle_seconds
             from projector_checkpoint where generation_id = ?1 and topic = ?2",
        )
        .bind(generation.id)
        .bind(topic)
        .bind(now_micros())
        .fetch_all(&self.pool)
        .await
        .map_err(classify)
    }

    async fn forget_ids(
        &self,
        generation: &Generation,
        topic: &str,
        horizon: Horizon,
        most: i64,
    ) -> Result<u64, StoreError> {
        let now = now_micros();
        let time = horizon.time.unwrap_or(now).min(now);
        let forgotten = sqlx::query(
            "delete from projector_event_id where generation_id = ?1 and topic = ?2 and id in (
               select id from projector_event_id
               where generation_id = ?1 and topic = ?2 and recorded_at < ?3 order by recorded_at limit ?4)",
        )
        .bind(generation.id)
        .bind(topic)
        .bind(time - i64::from(horizon.window_seconds) * 1_000_000)
        .bind(most)
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(forgotten.rows_affected())
    }
}
