//! Checkpoints that are moved to another log.

use async_trait::async_trait;
use projector_core::failpoint;
use projector_core::failure::FailureKind;
use projector_core::generation::Generation;
use projector_core::refusal::Refusal;
use serde_json::Value as Json;

use super::operations::{DoneOperation, record};
use super::{Database, Session};
use crate::error::StoreError;
use crate::moves::{Move, MoveStore, StoredEvents};
use crate::requester::Requester;

#[async_trait]
impl<D: Database> MoveStore for D {
    async fn move_checkpoints(
        &self,
        generation: &Generation,
        moves: &[Move],
        requester: &Requester,
        report: &Json,
    ) -> Result<i64, StoreError> {
        let mut tx = self.transaction().await?;
        D::fence(&mut tx, &[generation.id]).await?;
        let paused: Option<(bool,)> = tx
            .row(
                "select g.paused is not null or p.stopped is not null
                 from projector.generation g join projector.projection p on p.name = g.projection where g.id = $1",
                &[generation.id.into()],
            )
            .await?;
        let paused = paused.is_some_and(|(paused,)| paused);
        let done = DoneOperation { action: "move", partition: None, result: Some(report.clone()) };
        let operation = record(&mut *tx, generation, done, requester).await?;
        for one in moves {
            move_checkpoint(&mut *tx, generation, one, paused).await?;
            name_operation(&mut *tx, generation, one, operation).await?;
        }
        // The change of this number makes hosts check their partitions again.
        tx.execute(
            "update projector.generation set resumes = resumes + 1 where id = $1",
            &[generation.id.into()],
        )
        .await?;
        failpoint::reached(failpoint::BEFORE_MOVE, &generation.projection);
        D::commit(tx).await?;
        failpoint::reached(failpoint::AFTER_MOVE, &generation.projection);
        Ok(operation)
    }

    async fn stored_events(&self, generation: &Generation) -> Result<Vec<StoredEvents>, StoreError> {
        self.acquire()
            .await?
            .rows(
                "select topic, partition, count(*) as events, count(oversize_bytes) as left_in_log from (
                   select topic, partition, oversize_bytes from projector.dead_letter
                   where generation_id = $1 and moved_by = 0
                   union all
                   select topic, partition, oversize_bytes from projector.parked
                   where generation_id = $1 and moved_by = 0) as stored
                 group by topic, partition order by topic, partition",
                &[generation.id.into()],
            )
            .await
    }
}

/// Moves one checkpoint. Refused if it is not the expected one, or if its partition may still be read.
async fn move_checkpoint<S: Session>(
    session: &mut S,
    generation: &Generation,
    one: &Move,
    paused: bool,
) -> Result<(), StoreError> {
    let Move { partition, from, to, low } = one;
    let moved = session
        .execute(
            "update projector.checkpoint set next_offset = $5, first_offset = $6, topic_id = $7, cluster_id = $8,
               paused = null, paused_kind = null, recorded_at = null, updated_at = now()
             where generation_id = $1 and topic = $2 and partition = $3 and next_offset = $4
               and topic_id is not distinct from $9 and cluster_id is not distinct from $10
               and ($11 or paused_kind = $12)",
            &[
                generation.id.into(),
                (&*partition.topic).into(),
                partition.number.into(),
                from.next_offset.into(),
                to.next_offset.into(),
                (*low).into(),
                to.identity.topic_id.as_deref().into(),
                to.identity.cluster_id.as_deref().into(),
                from.identity.topic_id.as_deref().into(),
                from.identity.cluster_id.as_deref().into(),
                paused.into(),
                FailureKind::Log.as_str().into(),
            ],
        )
        .await?;
    if moved == 0 { Err(Refusal::StillRead(partition.clone()).into()) } else { Ok(()) }
}

/// Stores the number of the operation in the dead letters and parked events of a partition that it moved.
async fn name_operation<S: Session>(
    session: &mut S,
    generation: &Generation,
    one: &Move,
    operation: i64,
) -> Result<(), StoreError> {
    let partition = &one.partition;
    for statement in [
        "update projector.dead_letter set moved_by = $4
         where generation_id = $1 and topic = $2 and partition = $3 and moved_by = 0",
        "update projector.parked set moved_by = $4
         where generation_id = $1 and topic = $2 and partition = $3 and moved_by = 0",
    ] {
        let arguments =
            [generation.id.into(), (&*partition.topic).into(), partition.number.into(), operation.into()];
        session.execute(statement, &arguments).await?;
    }
    Ok(())
}
