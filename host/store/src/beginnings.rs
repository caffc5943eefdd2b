//! Where generations began to read.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use projector_core::checkpoint::{Beginning, Identity};
use projector_core::event::Partition;
use projector_core::generation::Generation;

use super::StoreError;

#[async_trait]
pub trait Beginnings: Send + Sync {
    /// The partitions that existed when a generation began to read. `None`: it has not begun.
    async fn began_with(&self, generation: &Generation) -> Result<Option<BTreeSet<Partition>>, StoreError>;

    /// Begins a generation, unless another host has done so: its partitions now, and the start that is
    /// configured, for people. Returns the partitions that it began with.
    async fn begin_generation(
        &self,
        generation: &Generation,
        partitions: &BTreeSet<Partition>,
        start: &str,
    ) -> Result<BTreeSet<Partition>, StoreError>;

    /// Creates the first checkpoint of a partition. A checkpoint that exists stays. It is about the log that the
    /// other checkpoints of its topic are about, whatever `beginning` says: a topic that was created anew with
    /// more partitions than before is another log in those as well.
    async fn begin_partition(
        &self,
        generation: &Generation,
        partition: &Partition,
        beginning: &Beginning,
    ) -> Result<(), StoreError>;

    /// Where the other generations of a projection began to read, and in which log: the live one, or the
    /// oldest that has the partition. `besides`: the generation that is left out.
    async fn earlier_starts(
        &self,
        projection: &str,
        besides: Option<i64>,
    ) -> Result<EarlierStarts, StoreError>;
}

/// First offsets, and the log that each is of.
pub type EarlierStarts = BTreeMap<Partition, (i64, Identity)>;

/// Topic, partition, first offset, topic id and cluster id of a checkpoint.
pub(super) type StartRow = (String, i32, i64, Option<String>, Option<String>);

/// The first row of a partition counts.
pub(super) fn earlier_starts(rows: Vec<StartRow>) -> EarlierStarts {
    let mut starts = EarlierStarts::new();
    for (topic, number, offset, topic_id, cluster_id) in rows {
        let identity = Identity { topic_id, cluster_id };
        starts.entry(Partition::new(topic.as_str(), number)).or_insert((offset, identity));
    }
    starts
}

/// As it is stored.
pub(super) fn partitions_json(partitions: &BTreeSet<Partition>) -> String {
    let list: Vec<(&str, i32)> =
        partitions.iter().map(|partition| (&*partition.topic, partition.number)).collect();
    serde_json::to_string(&list).expect("texts and numbers")
}

pub(super) fn partitions_from(json: &str) -> Result<BTreeSet<Partition>, StoreError> {
    let list: Vec<(String, i32)> = serde_json::from_str(json).map_err(|error| {
        StoreError::Unusable(format!("the stored partitions that a generation began with: {error}"))
    })?;
    Ok(list.into_iter().map(|(topic, number)| Partition::new(topic.as_str(), number)).collect())
}
