//! Checkpoints that are set on another log: another cluster that holds the same events.

use async_trait::async_trait;
use projector_core::checkpoint::Checkpoint;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use serde_json::Value as Json;

use super::StoreError;
use super::requester::Requester;

#[async_trait]
pub trait Moves: Send + Sync {
    /// Sets checkpoints on another log, all of them or none, and records it with `report`. Refused where a
    /// partition does not stand still, or where its checkpoint is not as it is expected. When this returns, no
    /// batch is in flight that does not know of it. Returns the operation's number; dead letters and parked
    /// events of these partitions carry it from then on.
    async fn move_checkpoints(
        &self,
        generation: &Generation,
        moves: &[Move],
        asked: &Requester,
        report: &Json,
    ) -> Result<i64, StoreError>;

    /// Dead letters and parked events of the log that is read now, by partition.
    async fn kept_events(&self, generation: &Generation) -> Result<Vec<KeptEvents>, StoreError>;
}

/// One partition's way to another log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub partition: Partition,
    /// As it is expected.
    pub from: Checkpoint,
    pub to: Checkpoint,
    /// The first offset that the other log holds.
    pub low: i64,
}

/// What is kept of a partition's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvents {
    pub topic: String,
    pub partition: i32,
    pub events: i64,
    /// Those of them whose value was left in the log.
    pub left_in_log: i64,
}

from_row! { KeptEvents { topic, partition, events, left_in_log } }
