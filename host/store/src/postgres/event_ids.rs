//! Ids of handled events, and the record of those that were ignored as duplicates.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::duplicate::{Duplicate, EventId, Known, RECORDED, Remembered};
use projector_core::event::{Partition, Position};
use projector_core::generation::Generation;
use sqlx::FromRow as _;

use super::Postgres;
use super::errors::classify;
use super::transaction::PostgresTransaction;
use super::values::Timestamp;
use crate::error::StoreError;
use crate::event_ids::{EventIdStore, Horizon, RecordTime};
use crate::fault::Outage;

impl PostgresTransaction {
    /// Which of these ids were handled before. Each is looked up by the whole primary key: `limit 1` keeps the planner from
    /// reading the whole table instead, and no other index has the generation in the form that is used here.
    pub(super) async fn find_known(&mut self, ids: &[EventId]) -> Result<Known, StoreError> {
        let rows = sqlx::query(
            "select u.ordinal, coalesce(e.source, e.topic), e.partition, e.\"offset\"
             from unnest($2::text[], $3::bytea[]) with ordinality as u(topic, id, ordinal)
             cross join lateral (
               select * from projector.event_id e
               where e.generation_id = $1 and e.topic = u.topic and e.id = u.id limit 1) as e",
        )
        .bind(self.generation())
        .bind(ids.iter().map(|id| &*id.topic).collect::<Vec<&str>>())
        .bind(ids.iter().map(|id| &id.hash[..]).collect::<Vec<&[u8]>>())
        .fetch_all(&mut *self.tx)
        .await
        .map_err(classify)?;
        let mut known = Known::default();
        for row in rows {
            let decoded = <(i64, String, Option<i32>, Option<i64>)>::from_row(&row).map_err(classify)?;
            let (ordinal, topic, partition, offset) = decoded;
            let first = partition
                .zip(offset)
                .map(|(number, offset)| Position { partition: Partition::new(topic, number), offset });
            known.insert(ids[(ordinal - 1) as usize].clone(), first);
        }
        Ok(known)
    }

    /// Stores ids, in one order for all writers, to avoid deadlocks. A time in the future is stored as now: otherwise the id
    /// would not be forgotten when its window has passed.
    pub(super) async fn remember(&mut self, ids: &[Remembered]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut ids: Vec<&Remembered> = ids.iter().collect();
        ids.sort_by(|a, b| a.id.cmp(&b.id));
        let source = |one: &&Remembered| {
            let topic = &one.first.partition.topic;
            (*topic != one.id.topic).then(|| topic.to_string())
        };
        let inserted = sqlx::query(
            "insert into projector.event_id (generation_id, topic, id, recorded_at, source, partition, \"offset\")
             select $1, u.topic, u.id, least(u.recorded_at, now()), u.source, u.partition, u.\"offset\"
             from unnest($2::text[], $3::bytea[], $4::timestamptz[], $5::text[], $6::int4[], $7::int8[])
               as u(topic, id, recorded_at, source, partition, \"offset\")
             on conflict do nothing",
        )
        .bind(self.generation())
        .bind(ids.iter().map(|one| &*one.id.topic).collect::<Vec<&str>>())
        .bind(ids.iter().map(|one| &one.id.hash[..]).collect::<Vec<&[u8]>>())
        .bind(ids.iter().map(|one| one.recorded_at.map(Timestamp)).collect::<Vec<_>>())
        .bind(ids.iter().map(source).collect::<Vec<_>>())
        .bind(ids.iter().map(|one| one.first.partition.number).collect::<Vec<i32>>())
        .bind(ids.iter().map(|one| one.first.offset).collect::<Vec<i64>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        if inserted.rows_affected() != ids.len() as u64 {
            // A retry of the batch finds the id, and ignores the event.
            let meanwhile = "another writer handled an event with the same id meanwhile";
            return Err(StoreError::Unavailable(Outage::new(meanwhile)));
        }
        Ok(())
    }

    /// Records duplicates, and removes the oldest records beyond the number that is kept.
    pub(super) async fn record_duplicates(&mut self, ignored: &[Duplicate<'_>]) -> Result<(), StoreError> {
        if ignored.is_empty() {
            return Ok(());
        }
        let first = |of: fn(&Position) -> i64| {
            ignored.iter().map(|one| one.first.as_ref().map(of)).collect::<Vec<Option<i64>>>()
        };
        let first_topic =
            |one: &Duplicate<'_>| one.first.as_ref().map(|first| first.partition.topic.to_string());
        sqlx::query(
            "insert into projector.duplicate (generation_id, topic, partition, \"offset\", first_topic, first_partition, first_offset)
             select $1, u.* from unnest($2::text[], $3::int4[], $4::int8[], $5::text[], $6::int8[], $7::int8[]) as u",
        )
        .bind(self.generation())
        .bind(ignored.iter().map(|one| &*one.position.partition.topic).collect::<Vec<&str>>())
        .bind(ignored.iter().map(|one| one.position.partition.number).collect::<Vec<i32>>())
        .bind(ignored.iter().map(|one| one.position.offset).collect::<Vec<i64>>())
        .bind(ignored.iter().map(first_topic).collect::<Vec<_>>())
        .bind(first(|first| i64::from(first.partition.number)))
        .bind(first(|first| first.offset))
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        // Records that another writer is removing are left to it.
        sqlx::query(
            "delete from projector.duplicate where ctid in (
               select ctid from projector.duplicate where generation_id = $1 and id <= (
                 select id from projector.duplicate where generation_id = $1 order by id desc offset $2 limit 1)
               for update skip locked)",
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
        if without.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into projector.without_id as w (generation_id, topic, partition, events)
             select $1, u.* from unnest($2::text[], $3::int4[], $4::int8[]) as u
             on conflict (generation_id, topic, partition) do update set events = w.events + excluded.events",
        )
        .bind(self.generation())
        .bind(without.keys().map(|partition| &*partition.topic).collect::<Vec<&str>>())
        .bind(without.keys().map(|partition| partition.number).collect::<Vec<i32>>())
        .bind(without.values().copied().collect::<Vec<i64>>())
        .execute(&mut *self.tx)
        .await
        .map_err(classify)?;
        Ok(())
    }
}

#[async_trait]
impl EventIdStore for Postgres {
    async fn record_times(
        &self,
        generation: &Generation,
        topic: &str,
    ) -> Result<Vec<RecordTime>, StoreError> {
        sqlx::query_as(
            "select partition, next_offset, (extract(epoch from recorded_at) * 1000000)::int8 as recorded_at,
               extract(epoch from now() - updated_at)::int8 as idle_seconds
             from projector.checkpoint where generation_id = $1 and topic = $2",
        )
        .bind(generation.id)
        .bind(topic)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)
    }

    /// Ids that another session is removing are left to it. The index by age is over the sum `generation_id + 0`.
    async fn forget_ids(
        &self,
        generation: &Generation,
        topic: &str,
        horizon: Horizon,
        most: i64,
    ) -> Result<u64, StoreError> {
        let forgotten = sqlx::query(
            "delete from projector.event_id where ctid in (
               select ctid from projector.event_id
               where (generation_id + 0) = $1 and topic = $2
                 and recorded_at < least($3::timestamptz, now()) - $4 * interval '1 second'
               order by recorded_at limit $5 for update skip locked)",
        )
        .bind(generation.id)
        .bind(topic)
        .bind(horizon.time.map(Timestamp))
        .bind(i64::from(horizon.window_seconds))
        .bind(most)
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(forgotten.rows_affected())
    }
}
