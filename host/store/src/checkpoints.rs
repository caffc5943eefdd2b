//! Checkpoints: where a generation began to read each partition, and where it reads on.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use projector_core::checkpoint::{Beginning, Checkpoint, Identity, Offsets};
use projector_core::event::Partition;
use projector_core::generation::Generation;

use crate::error::StoreError;

/// The checkpoints of generations.
#[async_trait]
pub trait CheckpointStore: Send + Sync {
    /// The checkpoints of these partitions, in the order asked. `None`: the partition has none yet.
    async fn checkpoints(
        &self,
        generation: &Generation,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Checkpoint>>, StoreError>;

    /// The next offset of every partition of a generation. The file of a backfill is left out.
    async fn offsets(&self, generation: i64) -> Result<Offsets, StoreError>;

    /// Partitions of these topics in which a generation is behind another one. Offsets of a topic that was recreated
    /// cannot be compared, so such a topic is left out.
    async fn behind(
        &self,
        generation: i64,
        other: i64,
        topics: &[String],
    ) -> Result<Vec<Partition>, StoreError>;

    /// The partitions that existed when a generation began to read. `None`: it has not begun.
    async fn began_with(&self, generation: &Generation) -> Result<Option<BTreeSet<Partition>>, StoreError>;

    /// Begins a generation, unless another host has done so: stores the partitions that exist now, and the configured
    /// start, which the history shows. Returns the partitions that are stored.
    async fn begin_generation(
        &self,
        generation: &Generation,
        partitions: &BTreeSet<Partition>,
        start: &str,
    ) -> Result<BTreeSet<Partition>, StoreError>;

    /// Creates the first checkpoint of a partition. A checkpoint that exists stays as it is. The new checkpoint belongs to
    /// the same log as the other checkpoints of its topic, whatever `beginning` says: a topic that was recreated with
    /// more partitions than before is another log in all of them.
    async fn begin_partition(
        &self,
        generation: &Generation,
        partition: &Partition,
        beginning: &Beginning,
    ) -> Result<(), StoreError>;

    /// Where the other generations of a projection began to read, and in which log. Of each partition, the live generation
    /// counts, or else the oldest one that has it. `besides`: a generation that is left out.
    async fn earlier_starts(
        &self,
        projection: &str,
        besides: Option<i64>,
    ) -> Result<EarlierStarts, StoreError>;
}

/// The first offset of each partition, and the log that the offset belongs to.
pub type EarlierStarts = BTreeMap<Partition, (i64, Identity)>;
