//! Where generations began to read.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::errors::classify;
use super::{Sqlite, now_micros};
use crate::checkpoint::{Beginning, FILE};
use crate::event::Partition;
use crate::store::beginnings::{
    Beginnings, EarlierStarts, StartRow, earlier_starts, partitions_from, partitions_json,
};
use crate::store::{Generation, StoreError};

#[async_trait]
impl Beginnings for Sqlite {
    async fn began_with(&self, generation: &Generation) -> Result<Option<BTreeSet<Partition>>, StoreError> {
        let stored: Option<Option<String>> =
            sqlx::query_scalar("select began_with from projector_generation where id = ?")
                .bind(generation.id)
                .fetch_optional(&self.pool)
                .await
                .map_err(classify)?;
        stored.flatten().as_deref().map(partitions_from).transpose()
    }

    async fn begin_generation(
        &self,
        generation: &Generation,
        partitions: &BTreeSet<Partition>,
        start: &str,
    ) -> Result<BTreeSet<Partition>, StoreError> {
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(classify)?;
        let begun = sqlx::query(
            "update projector_generation set began_with = ?2 where id = ?1 and began_with is null",
        )
        .bind(generation.id)
        .bind(partitions_json(partitions))
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        if begun.rows_affected() > 0 {
            sqlx::query(
                "update projector_deployment set start = ?3 where id = (
                   select id from projector_deployment where projection = ?1 and generation = ?2
                     and state = 'done' and action in ('deploy', 'rebuild', 'backfill') order by id limit 1)",
            )
            .bind(&generation.projection)
            .bind(generation.number)
            .bind(start)
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        }
        tx.commit().await.map_err(classify)?;
        Ok(self.began_with(generation).await?.unwrap_or_default())
    }

    async fn begin_partition(
        &self,
        generation: &Generation,
        partition: &Partition,
        beginning: &Beginning,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "insert into projector_checkpoint
               (generation_id, topic, partition, next_offset, first_offset, before_start, topic_id, cluster_id, updated_at)
             select ?1, ?2, ?3, ?4, ?4, ?5, coalesce(known.topic_id, ?6), coalesce(known.cluster_id, ?7), ?8
             from (select 1) left join (
               select topic_id, cluster_id from projector_checkpoint where generation_id = ?1 and topic = ?2
               order by topic_id is null, cluster_id is null, partition limit 1) as known on true
             where true on conflict do nothing",
        )
        .bind(generation.id)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(beginning.offset)
        .bind(beginning.before_start)
        .bind(&beginning.identity.topic_id)
        .bind(&beginning.identity.cluster_id)
        .bind(now_micros())
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn earlier_starts(
        &self,
        projection: &str,
        besides: Option<i64>,
    ) -> Result<EarlierStarts, StoreError> {
        let rows: Vec<StartRow> = sqlx::query_as(
            "select c.topic, c.partition, c.first_offset, c.topic_id, c.cluster_id
             from projector_checkpoint c join projector_generation g on g.id = c.generation_id
             where g.projection = ?1 and g.id is not ?2 and c.cluster_id is not ?3
             order by (g.role = 'live') desc, g.id",
        )
        .bind(projection)
        .bind(besides)
        .bind(FILE)
        .fetch_all(&self.pool)
        .await
        .map_err(classify)?;
        Ok(earlier_starts(rows))
    }
}
