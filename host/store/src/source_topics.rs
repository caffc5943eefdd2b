//! Which physical topics a generation reads.
//!
//! The mapping that a generation is built from decides this. Beside it, the topics that match a pattern, or matched it
//! before, are recorded for operators.

use std::sync::Arc;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::layout::Layout;

use crate::error::StoreError;

/// The physical topics of generations.
#[async_trait]
pub trait SourceTopicStore: Send + Sync {
    /// Stores the physical topics of a generation, if a host of an older version created it without them. The first host
    /// that runs the generation decides for all. `mapped`: its layout, with the mapping.
    async fn record_mapping(&self, generation: &Generation, mapped: &Layout) -> Result<(), StoreError>;

    /// Records that a generation reads these topics, and does not read those others any more. Records that say the same
    /// already stay as they are, since every lane of every host reports its topics.
    async fn record_topics(
        &self,
        generation: &Generation,
        read: &[Arc<str>],
        left: &[Arc<str>],
    ) -> Result<(), StoreError>;

    /// All topics that were ever recorded for a generation, by name.
    async fn recorded_topics(&self, generation: i64) -> Result<Vec<RecordedTopic>, StoreError>;
}

/// Times are in microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedTopic {
    pub topic: String,
    /// When it was first read.
    pub joined_at: i64,
    /// When it was found to be gone.
    pub left_at: Option<i64>,
}

from_row! { RecordedTopic { topic, joined_at, left_at } }

pub(crate) fn layout_json(layout: &Layout) -> String {
    serde_json::to_string(layout).expect("a layout is plain data")
}
