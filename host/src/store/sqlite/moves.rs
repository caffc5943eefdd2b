//! Checkpoints that are set on another log.

use async_trait::async_trait;
use serde_json::Value as Json;

use super::errors::classify;
use super::{Sqlite, now_micros};
use crate::failpoint;
use crate::failure::FailureKind;
use crate::store::host_tables::operations::{DoneOperation, record};
use crate::store::moves::{KeptEvents, Move, Moves, not_as_expected};
use crate::store::requester::Requester;
use crate::store::{Generation, StoreError};

#[async_trait]
impl Moves for Sqlite {
    async fn move_checkpoints(
        &self,
        generation: &Generation,
        moves: &[Move],
        asked: &Requester,
        report: &Json,
    ) -> Result<i64, StoreError> {
        // No batch is in flight then, and none begins before the end.
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(classify)?;
        let paused: Option<bool> = sqlx::query_scalar(
            "select g.paused is not null or p.stopped is not null
             from projector_generation g join projector_projection p on p.name = g.projection where g.id = ?1",
        )
        .bind(generation.id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(classify)?;
        let done = DoneOperation { action: "move", partition: None, verdict: Some(report.clone()) };
        let operation = record(&mut *tx, generation, done, asked).await?;
        for Move { partition, from, to, low } in moves {
            let moved = sqlx::query(
                "update projector_checkpoint set next_offset = ?5, first_offset = ?6, topic_id = ?7, cluster_id = ?8,
                   paused = null, paused_kind = null, recorded_at = null, updated_at = ?13
                 where generation_id = ?1 and topic = ?2 and partition = ?3 and next_offset = ?4
                   and topic_id is ?9 and cluster_id is ?10
                   and (?11 or paused_kind = ?12)",
            )
            .bind(generation.id)
            .bind(&*partition.topic)
            .bind(partition.number)
            .bind(from.next_offset)
            .bind(to.next_offset)
            .bind(low)
            .bind(&to.identity.topic_id)
            .bind(&to.identity.cluster_id)
            .bind(&from.identity.topic_id)
            .bind(&from.identity.cluster_id)
            .bind(paused.unwrap_or_default())
            .bind(FailureKind::Log.as_str())
            .bind(now_micros())
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
            if moved.rows_affected() == 0 {
                return Err(not_as_expected(partition));
            }
            for statement in [
                "update projector_dead_letter set moved_by = ?4
                 where generation_id = ?1 and topic = ?2 and partition = ?3 and moved_by = 0",
                "update projector_parked set moved_by = ?4
                 where generation_id = ?1 and topic = ?2 and partition = ?3 and moved_by = 0",
            ] {
                sqlx::query(statement)
                    .bind(generation.id)
                    .bind(&*partition.topic)
                    .bind(partition.number)
                    .bind(operation)
                    .execute(&mut *tx)
                    .await
                    .map_err(classify)?;
            }
        }
        // Hosts look at their partitions again.
        sqlx::query("update projector_generation set resumes = resumes + 1 where id = ?1")
            .bind(generation.id)
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        failpoint::reached(failpoint::BEFORE_MOVE, &generation.projection);
        tx.commit().await.map_err(classify)?;
        failpoint::reached(failpoint::AFTER_MOVE, &generation.projection);
        Ok(operation)
    }

    async fn kept_events(&self, generation: &Generation) -> Result<Vec<KeptEvents>, StoreError> {
        sqlx::query_as(
            "select topic, partition, count(*) as events, count(oversize_bytes) as left_in_log from (
               select topic, partition, oversize_bytes from projector_dead_letter
               where generation_id = ?1 and moved_by = 0
               union all
               select topic, partition, oversize_bytes from projector_parked
               where generation_id = ?1 and moved_by = 0) as kept
             group by topic, partition order by topic, partition",
        )
        .bind(generation.id)
        .fetch_all(&self.pool)
        .await
        .map_err(classify)
    }
}
