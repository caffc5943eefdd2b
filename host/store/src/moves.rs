//! Checkpoints that are moved to another log, which holds the same events: that of another cluster.

use async_trait::async_trait;
use projector_core::checkpoint::Checkpoint;
use projector_core::event::Partition;
use projector_core::generation::Generation;
use serde_json::Value as Json;

use crate::error::StoreError;
use crate::requester::Requester;

/// Moves checkpoints to another log.
#[async_trait]
pub trait MoveStore: Send + Sync {
    /// Moves all of these checkpoints or none, and records the operation with `report`. Refused where a partition may
    /// still be read, or where its checkpoint is not the expected one. When this returns, every batch in flight knows of
    /// it. Returns the operation's number, which dead letters and parked events of these partitions have from then on.
    async fn move_checkpoints(
        &self,
        generation: &Generation,
        moves: &[Move],
        requester: &Requester,
        report: &Json,
    ) -> Result<i64, StoreError>;

    /// How many dead letters and parked events of the present log are stored, by partition.
    async fn stored_events(&self, generation: &Generation) -> Result<Vec<StoredEvents>, StoreError>;
}

/// The move of one partition's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub partition: Partition,
    /// The expected checkpoint.
    pub from: Checkpoint,
    pub to: Checkpoint,
    /// The first offset that the other log holds.
    pub low: i64,
}

/// How many events of a partition are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvents {
    pub topic: String,
    pub partition: i32,
    pub events: i64,
    /// How many of them have their value only in the log, because it is too large.
    pub left_in_log: i64,
}

from_row! { StoredEvents { topic, partition, events, left_in_log } }
