//! The physical topics of generations.

use std::sync::Arc;

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::layout::Layout;

use super::Postgres;
use super::errors::classify;
use crate::error::StoreError;
use crate::source_topics::{RecordedTopic, SourceTopicStore, layout_json};

#[async_trait]
impl SourceTopicStore for Postgres {
    async fn record_mapping(&self, generation: &Generation, mapped: &Layout) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.generation set layout = case when layout is null then $2::text::jsonb
               else jsonb_set(layout, '{physical}', $2::text::jsonb -> 'physical') end
             where id = $1 and coalesce(layout -> 'physical', '{}') = '{}'",
        )
        .bind(generation.id)
        .bind(layout_json(mapped))
        .execute(&mut *self.connection().await?)
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
        let names = |topics: &[Arc<str>]| topics.iter().map(ToString::to_string).collect::<Vec<_>>();
        // If the generation was removed meanwhile, this records nothing.
        sqlx::query(
            "with gone as (update projector.source_topic set left_at = now()
               where generation_id = $1 and topic = any($3) and left_at is null)
             insert into projector.source_topic (generation_id, topic)
             select g.id, read.topic from projector.generation g, unnest($2::text[]) as read(topic) where g.id = $1
             on conflict (generation_id, topic) do update set left_at = null
               where source_topic.left_at is not null",
        )
        .bind(generation.id)
        .bind(names(read))
        .bind(names(left))
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn recorded_topics(&self, generation: i64) -> Result<Vec<RecordedTopic>, StoreError> {
        sqlx::query_as(
            "select topic, (extract(epoch from joined_at) * 1000000)::int8 as joined_at,
               (extract(epoch from left_at) * 1000000)::int8 as left_at
             from projector.source_topic where generation_id = $1 order by topic",
        )
        .bind(generation)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)
    }
}
