//! The physical topics of generations.

use std::sync::Arc;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::layout::Layout;

use super::errors::classify;
use super::{Sqlite, now_micros};
use crate::error::StoreError;
use crate::source_topics::{RecordedTopic, SourceTopicStore, layout_json};

#[async_trait]
impl SourceTopicStore for Sqlite {
    async fn record_mapping(&self, generation: &Generation, mapped: &Layout) -> Result<(), StoreError> {
        sqlx::query(
            "update projector_generation set layout = case when layout is null then ?2
               else json_set(layout, '$.physical', json_extract(?2, '$.physical')) end
             where id = ?1 and coalesce(json_extract(layout, '$.physical'), '{}') = '{}'",
        )
        .bind(generation.id)
        .bind(layout_json(mapped))
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn record_topics(
        &self,
        generation: &Generation,
        read: &[Arc<str>],
        left: &[Arc<str>],
    ) -> Result<(), StoreError> {
        let names = |topics: &[Arc<str>]| {
            serde_json::to_string(&topics.iter().map(|topic| &**topic).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let mut tx = self.immediate().await?;
        for (statement, topics) in [
            (
                "update projector_source_topic set left_at = ?3
                 where generation_id = ?1 and left_at is null and topic in (select value from json_each(?2))",
                names(left),
            ),
            // If the generation was removed meanwhile, this records nothing.
            (
                "insert into projector_source_topic (generation_id, topic, joined_at)
                 select g.id, read.value, ?3 from projector_generation g, json_each(?2) as read where g.id = ?1
                 on conflict (generation_id, topic) do update set left_at = null where left_at is not null",
                names(read),
            ),
        ] {
            sqlx::query(statement)
                .bind(generation.id)
                .bind(topics)
                .bind(now_micros())
                .execute(&mut *tx)
                .await
                .map_err(classify)?;
        }
        tx.commit().await.map_err(classify)
    }

    async fn recorded_topics(&self, generation: i64) -> Result<Vec<RecordedTopic>, StoreError> {
        sqlx::query_as(
            "select topic, joined_at, left_at from projector_source_topic where generation_id = ? order by topic",
        )
        .bind(generation)
        .fetch_all(&self.pool)
        .await
        .map_err(classify)
    }
}
