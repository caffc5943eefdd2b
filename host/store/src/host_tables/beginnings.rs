//! Where generations began to read.

use std::collections::BTreeSet;

use async_trait::async_trait;
use projector_core::checkpoint::{Beginning, FILE};
use projector_core::event::Partition;
use projector_core::generation::Generation;

use super::{Database, Session};
use crate::StoreError;
use crate::beginnings::{
    Beginnings, EarlierStarts, StartRow, earlier_starts, partitions_from, partitions_json,
};

#[async_trait]
impl<D: Database> Beginnings for D {
    async fn began_with(&self, generation: &Generation) -> Result<Option<BTreeSet<Partition>>, StoreError> {
        let stored: Option<(Option<String>,)> = self
            .held()
            .await?
            .row(
                "select cast(began_with as text) from projector.generation where id = $1",
                &[generation.id.into()],
            )
            .await?;
        stored.and_then(|(stored,)| stored).as_deref().map(partitions_from).transpose()
    }

    async fn begin_generation(
        &self,
        generation: &Generation,
        partitions: &BTreeSet<Partition>,
        start: &str,
    ) -> Result<BTreeSet<Partition>, StoreError> {
        let mut tx = self.transaction().await?;
        let begun = tx
            .execute(
                &format!(
                    "update projector.generation set began_with = {} where id = $1 and began_with is null",
                    D::Connection::document("$2")
                ),
                &[generation.id.into(), partitions_json(partitions).into()],
            )
            .await?;
        if begun > 0 {
            tx.execute(
                "update projector.deployment set start = $3 where id = (
                   select id from projector.deployment where projection = $1 and generation = $2
                     and state = 'done' and action in ('deploy', 'rebuild', 'backfill') order by id limit 1)",
                &[generation.projection.as_str().into(), generation.number.into(), start.into()],
            )
            .await?;
        }
        D::commit(tx).await?;
        Ok(self.began_with(generation).await?.unwrap_or_default())
    }

    async fn begin_partition(
        &self,
        generation: &Generation,
        partition: &Partition,
        beginning: &Beginning,
    ) -> Result<(), StoreError> {
        // `where true`: without it, SQLite takes `on conflict` for the condition of the join.
        self.held()
            .await?
            .execute(
                "insert into projector.checkpoint
                   (generation_id, topic, partition, next_offset, first_offset, before_start, topic_id, cluster_id,
                    updated_at)
                 select cast($1 as bigint), cast($2 as text), cast($3 as integer), cast($4 as bigint),
                   cast($4 as bigint), cast($5 as bigint), coalesce(known.topic_id, cast($6 as text)),
                   coalesce(known.cluster_id, cast($7 as text)), now()
                 from (select 1) as one left join (
                   select c.topic_id, c.cluster_id from projector.checkpoint c
                   where c.generation_id = $1 and c.topic = $2
                   order by c.topic_id is null, c.cluster_id is null, c.partition limit 1) as known on true
                 where true on conflict do nothing",
                &[
                    generation.id.into(),
                    (&*partition.topic).into(),
                    partition.number.into(),
                    beginning.offset.into(),
                    beginning.before_start.into(),
                    beginning.identity.topic_id.as_deref().into(),
                    beginning.identity.cluster_id.as_deref().into(),
                ],
            )
            .await
            .map(drop)
    }

    async fn earlier_starts(
        &self,
        projection: &str,
        besides: Option<i64>,
    ) -> Result<EarlierStarts, StoreError> {
        let rows: Vec<StartRow> = self
            .held()
            .await?
            .rows(
                "select c.topic, c.partition, c.first_offset, c.topic_id, c.cluster_id
                 from projector.checkpoint c join projector.generation g on g.id = c.generation_id
                 where g.projection = $1 and g.id is distinct from $2 and c.cluster_id is distinct from $3
                 order by (g.role = 'live') desc, g.id",
                &[projection.into(), besides.into(), FILE.into()],
            )
            .await?;
        Ok(earlier_starts(rows))
    }
}
