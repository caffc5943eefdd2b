//! Which physical topics a generation reads: the mapping that it is built from, which decides, and a record of the
//! topics that match or matched, for people.

use std::sync::Arc;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::layout::Layout;

use super::StoreError;

#[async_trait]
pub trait SourceTopics: Send + Sync {
    /// Stores what a generation's topics are in the log, if a host of an older version made it and did not say so:
    /// the first host that runs it decides for all. `mapped`: its layout, with the mapping.
    async fn record_mapping(&self, generation: &Generation, mapped: &Layout) -> Result<(), StoreError>;

    /// Records that a generation reads these topics, and does not read those others any more. What is
    /// recorded so already stays as it is: every lane of every host tells the same.
    async fn record_topics(
        &self,
        generation: &Generation,
        read: &[Arc<str>],
        left: &[Arc<str>],
    ) -> Result<(), StoreError>;

    /// All topics that were ever recorded of a generation, by name.
    async fn recorded_topics(&self, generation: i64) -> Result<Vec<RecordedTopic>, StoreError>;
}

/// Times are in microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedTopic {
    pub topic: String,
    /// When it was first read.
    pub joined_at: i64,
    /// When it was found not to be there any more.
    pub left_at: Option<i64>,
}

from_row! { RecordedTopic { topic, joined_at, left_at } }

pub(super) fn layout_json(layout: &Layout) -> String {
    serde_json::to_string(layout).expect("a layout is plain data")
}
