//! Checkpoints, and where generations began to read.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use projector_core::checkpoint::{Beginning, Checkpoint, FILE, Identity, Offsets};
use projector_core::event::Partition;
use projector_core::generation::Generation;

use super::{Database, Session};
use crate::checkpoints::{CheckpointStore, EarlierStarts};
use crate::error::StoreError;

#[async_trait]
impl<D: Database> CheckpointStore for D {
    async fn checkpoints(
        &self,
        generation: &Generation,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Checkpoint>>, StoreError> {
        let topics: BTreeSet<&str> = partitions.iter().map(|partition| &*partition.topic).collect();
        let topics: Vec<String> = topics.into_iter().map(str::to_owned).collect();
        let numbers: BTreeSet<i64> = partitions.iter().map(|partition| partition.number.into()).collect();
        let numbers: Vec<i64> = numbers.into_iter().collect();
        // May read a partition that is not asked for, of several topics: it is ignored.
        let sql = format!(
            "select topic, partition, next_offset, topic_id, cluster_id from projector.checkpoint
             where generation_id = $1 and {} and {}",
            D::Connection::is_one_of("topic", "$2"),
            D::Connection::is_one_of("partition", "$3")
        );
        let arguments = [generation.id.into(), topics.as_slice().into(), numbers.as_slice().into()];
        let rows: Vec<CheckpointRow> = self.acquire().await?.rows(&sql, &arguments).await?;
        let known: BTreeMap<Partition, Checkpoint> = rows.into_iter().map(checkpoint).collect();
        Ok(partitions.iter().map(|partition| known.get(partition).cloned()).collect())
    }

    async fn offsets(&self, generation: i64) -> Result<Offsets, StoreError> {
        let rows: Vec<(String, i32, i64)> = self
            .acquire()
            .await?
            .rows(
                "select topic, partition, next_offset from projector.checkpoint
                 where generation_id = $1 and cluster_id is distinct from $2",
                &[generation.into(), FILE.into()],
            )
            .await?;
        let next = |(topic, number, next): (String, i32, i64)| (Partition::new(topic.as_str(), number), next);
        Ok(rows.into_iter().map(next).collect())
    }

    async fn behind(
        &self,
        generation: i64,
        other: i64,
        topics: &[String],
    ) -> Result<Vec<Partition>, StoreError> {
        behind(&mut *self.acquire().await?, generation, other, topics).await
    }

    async fn began_with(&self, generation: &Generation) -> Result<Option<BTreeSet<Partition>>, StoreError> {
        let stored: Option<(Option<String>,)> = self
            .acquire()
            .await?
            .row(
                "select cast(began_with as text) from projector.generation where id = $1",
                &[generation.id.into()],
            )
            .await?;
        stored.and_then(|(stored,)| stored).as_deref().map(partitions_from_json).transpose()
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
        self.acquire()
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
            .acquire()
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

/// Topic, partition, next offset, topic id and cluster id.
type CheckpointRow = (String, i32, i64, Option<String>, Option<String>);

fn checkpoint(row: CheckpointRow) -> (Partition, Checkpoint) {
    let (topic, number, next_offset, topic_id, cluster_id) = row;
    let identity = Identity { topic_id, cluster_id };
    (Partition::new(topic.as_str(), number), Checkpoint { next_offset, identity })
}

/// Partitions of these topics in which a generation is behind another one.
pub(super) async fn behind<S: Session>(
    session: &mut S,
    generation: i64,
    other: i64,
    topics: &[String],
) -> Result<Vec<Partition>, StoreError> {
    let sql = format!(
        "select o.topic, o.partition from projector.checkpoint o
         left join projector.checkpoint n
           on n.generation_id = $1 and n.topic = o.topic and n.partition = o.partition
         where o.generation_id = $2 and {}
           and (n.next_offset is null or n.next_offset < o.next_offset
                and (n.topic_id is null or o.topic_id is null or n.topic_id = o.topic_id))
         order by o.topic, o.partition",
        S::is_one_of("o.topic", "$3")
    );
    let rows: Vec<(String, i32)> =
        session.rows(&sql, &[generation.into(), other.into(), topics.into()]).await?;
    Ok(rows.into_iter().map(|(topic, number)| Partition::new(topic.as_str(), number)).collect())
}

/// Topic, partition, first offset, topic id and cluster id of a checkpoint.
type StartRow = (String, i32, i64, Option<String>, Option<String>);

/// The first row of a partition counts.
fn earlier_starts(rows: Vec<StartRow>) -> EarlierStarts {
    let mut starts = EarlierStarts::new();
    for (topic, number, offset, topic_id, cluster_id) in rows {
        let identity = Identity { topic_id, cluster_id };
        starts.entry(Partition::new(topic.as_str(), number)).or_insert((offset, identity));
    }
    starts
}

fn partitions_json(partitions: &BTreeSet<Partition>) -> String {
    let list: Vec<(&str, i32)> =
        partitions.iter().map(|partition| (&*partition.topic, partition.number)).collect();
    serde_json::to_string(&list).expect("texts and numbers")
}

pub(super) fn partitions_from_json(json: &str) -> Result<BTreeSet<Partition>, StoreError> {
    let list: Vec<(String, i32)> = serde_json::from_str(json).map_err(|error| {
        StoreError::Unusable(format!("the stored partitions that a generation began with: {error}"))
    })?;
    Ok(list.into_iter().map(|(topic, number)| Partition::new(topic.as_str(), number)).collect())
}
