//! Ids of handled events, and the record of those that were ignored as duplicates.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::errors::classify;
use super::now_micros;
use super::transaction::Batch;
use crate::duplicate::{Duplicate, EventId, Known, RECORDED, Recorded, Remembered};
use crate::event::{Partition, Position};
use crate::store::StoreError;

impl Batch {
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

    /// Makes ids known, and forgets those that are out of their window.
    pub(super) async fn remember(&mut self, ids: &[Remembered]) -> Result<(), StoreError> {
        let now = now_micros();
        let mut horizons: BTreeMap<&str, i64> = BTreeMap::new();
        for one in ids {
            // No producer's clock may put the horizon ahead.
            let recorded_at = one.recorded_at.unwrap_or(now);
            let horizon = recorded_at.min(now) - i64::from(one.window_seconds) * 1_000_000;
            let latest = horizons.entry(&*one.id.topic).or_insert(horizon);
            *latest = horizon.max(*latest);
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
        for (topic, horizon) in horizons {
            sqlx::query(
                "delete from projector_event_id where generation_id = ? and topic = ? and recorded_at < ?",
            )
            .bind(self.generation())
            .bind(topic)
            .bind(horizon)
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }

    /// Records duplicates, and drops those that are too many.
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

/// The last duplicates of a projection, newest first.
pub(super) async fn duplicates(
    connection: &mut SqliteConnection,
    projection: &str,
    most: i64,
) -> Result<Vec<Recorded>, StoreError> {
    sqlx::query_as(
        "select g.number as generation, d.topic, d.partition, d.\"offset\", d.first_topic, d.first_partition, d.first_offset,
           d.ignored_at
         from projector_duplicate d join projector_generation g on g.id = d.generation_id
         where g.projection = ? order by d.id desc limit ?",
    )
    .bind(projection)
    .bind(most)
    .fetch_all(connection)
    .await
    .map_err(classify)
}
