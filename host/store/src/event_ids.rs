//! For how long ids of handled events are remembered.

use async_trait::async_trait;
use projector_core::generation::Generation;
use serde::Serialize;

use super::StoreError;

#[async_trait]
pub trait EventIds: Send + Sync {
    /// How far a generation has come in each partition of a topic that has a checkpoint.
    async fn record_times(&self, generation: &Generation, topic: &str)
    -> Result<Vec<RecordTime>, StoreError>;

    /// Forgets ids of a topic that are out of their window: `most` of them at most. Returns how many.
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
    /// The time of the last settled event, in microseconds since 1970. `None`: unknown.
    pub recorded_at: Option<i64>,
    /// Since the checkpoint was written, by the database's clock.
    pub idle_seconds: i64,
}

from_row! { RecordTime { partition, next_offset, recorded_at, idle_seconds } }

/// What is older than this is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// No event is to come that is older, in microseconds since 1970. `None`: none that is older than now. A time
    /// ahead of the database's clock counts as now.
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
    /// The position of the first event of its id. Absent where an older host remembered the id.
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
