//! Where generations began to read.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::errors::classify;
use super::{BEGIN, Postgres};
use crate::checkpoint::{Beginning, FILE};
use crate::event::Partition;
use crate::store::beginnings::{
    Beginnings, EarlierStarts, StartRow, earlier_starts, partitions_from, partitions_json,
};
use crate::store::{Generation, StoreError};

#[async_trait]
impl Beginnings for Postgres {
    async fn began_with(&self, generation: &Generation) -> Result<Option<BTreeSet<Partition>>, StoreError> {
        let stored: Option<Option<String>> =
            sqlx::query_scalar("select began_with::text from projector.generation where id = $1")
                .bind(generation.id)
                .fetch_optional(&mut *self.connection().await?)
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
        let mut tx = self.begin(BEGIN).await?;
        let begun = sqlx::query(
            "update projector.generation set began_with = $2::text::jsonb where id = $1 and began_with is null",
        )
        .bind(generation.id)
        .bind(partitions_json(partitions))
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        if begun.rows_affected() > 0 {
            sqlx::query(
                "update projector.deployment set start = $3 where id = (
                   select id from projector.deployment where projection = $1 and generation = $2
                     and state = 'done' and action in ('deploy', 'rebuild', 'backfill') order by id limit 1)",
            )
            .bind(&generation.projection)
            .bind(generation.number)
            .bind(start)
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        }
        tx.commit().await?;
        Ok(self.began_with(generation).await?.unwrap_or_default())
    }

    async fn begin_partition(
        &self,
        generation: &Generation,
        partition: &Partition,
        beginning: &Beginning,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "insert into projector.checkpoint
               (generation_id, topic, partition, next_offset, first_offset, before_start, topic_id, cluster_id)
             select $1::int8, $2::text, $3::int4, $4::int8, $4::int8, $5::int8,
               coalesce(known.topic_id, $6::text), coalesce(known.cluster_id, $7::text)
             from (values (1)) as one left join lateral (
               select c.topic_id, c.cluster_id from projector.checkpoint c where c.generation_id = $1 and c.topic = $2
               order by c.topic_id is null, c.cluster_id is null, c.partition limit 1) as known on true
             on conflict do nothing",
        )
        .bind(generation.id)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(beginning.offset)
        .bind(beginning.before_start)
        .bind(&beginning.identity.topic_id)
        .bind(&beginning.identity.cluster_id)
        .execute(&mut *self.connection().await?)
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
             from projector.checkpoint c join projector.generation g on g.id = c.generation_id
             where g.projection = $1 and g.id is distinct from $2 and c.cluster_id is distinct from $3
             order by (g.role = 'live') desc, g.id",
        )
        .bind(projection)
        .bind(besides)
        .bind(FILE)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(earlier_starts(rows))
    }
}
