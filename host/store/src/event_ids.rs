//! Ids of handled events, by which duplicates are detected, and when they are forgotten.

use async_trait::async_trait;
use projector_core::generation::Generation;
use serde::Serialize;

use crate::error::StoreError;

/// The ids of handled events. How they are read and stored is a part of a batch: see
/// [`Transaction`](crate::Transaction).
#[async_trait]
pub trait EventIdStore: Send + Sync {
    /// How far a generation has come in each partition of a topic that has a checkpoint.
    async fn record_times(&self, generation: &Generation, topic: &str)
    -> Result<Vec<RecordTime>, StoreError>;

    /// Removes ids of a topic that are older than their window, at most `most` of them. Returns how many.
    async fn forget_ids(
        &self,
        generation: &Generation,
        topic: &str,
        horizon: Horizon,
        most: i64,
    ) -> Result<u64, StoreError>;
}

/// How far one partition has come, by the time of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordTime {
    pub partition: i32,
    pub next_offset: i64,
    /// The record time of the last committed event, in microseconds since 1970. `None`: unknown.
    pub recorded_at: Option<i64>,
    /// Since the checkpoint was written, by the database's clock.
    pub idle_seconds: i64,
}

from_row! { RecordTime { partition, next_offset, recorded_at, idle_seconds } }

/// Which ids are removed: those older than `time` by more than the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// No event that is still to be read is older than this, in microseconds since 1970. `None`: no event is older than
    /// now. A time ahead of the database's clock counts as now.
    pub time: Option<i64>,
    pub window_seconds: u32,
}

/// An event that was ignored as a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedDuplicate {
    pub generation: i32,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// The position of the first event with this id. Absent if a host of an older version stored the id.
    pub first_topic: Option<String>,
    pub first_partition: Option<i32>,
    pub first_offset: Option<i64>,
    /// Microseconds since 1970; in JSON as RFC 3339.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub ignored_at: i64,
}

from_row! {
    RecordedDuplicate {
        generation, topic, partition, offset, first_topic, first_partition, first_offset, ignored_at
    }
}
