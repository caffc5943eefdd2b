//! Which physical topics a generation reads, and which it read before: a record for people, which nothing
//! depends on.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Generation, StoreError};

#[async_trait]
pub trait SourceTopics: Send + Sync {
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
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RecordedTopic {
    pub topic: String,
    /// When it was first read.
    pub joined_at: i64,
    /// When it was found not to be there any more.
    pub left_at: Option<i64>,
}
