//! How generations are to run: what hosts read twice a second, and what operators set.

use async_trait::async_trait;
use projector_core::counters::{OutcomeCounts, add};
use projector_core::event::Partition;
use projector_core::generation::Generation;

use super::operations::{self, DoneOperation, record};
use super::{Database, Session, recount};
use crate::StoreError;
use crate::operator::{
    ControlRow, ControlStore, GenerationControl, HEARD_AT_ONCE, Operation, Requester, Skipped,
    generation_controls,
};

#[async_trait]
impl<D: Database> ControlStore for D {
    async fn control_state(&self) -> Result<Vec<GenerationControl>, StoreError> {
        let sql = format!(
            "select g.id, g.projection, g.number, g.table_schema, g.role, g.active_digest,
               (select case when d.action = 'deploy' and d.proven_at is null and d.digest = g.active_digest
                  then d.replaced end
                from projector.deployment d where d.projection = g.projection and d.generation = g.number
                  and d.state = 'done' and d.digest is not null order by d.id desc limit 1) as on_trial_against,
               (p.stopped is not null or g.backfilling) as is_stopped, g.paused, g.resumes,
               coalesce(g.hold_until > now(), false) as is_held, cast(g.hold_at as text) as hold_at,
               {} as any_ready,
               o.id as operation, o.action, o.topic, o.partition
             from projector.generation g join projector.projection p on p.name = g.projection
             left join (
               select *, row_number() over (partition by generation_id, topic, partition order by id) as place
               from projector.operation where done_at is null
             ) as o on o.generation_id = g.id and o.place <= $1
             order by g.id, o.id",
            D::Connection::any_ready("g.id")
        );
        let rows: Vec<ControlRow> = self.held().await?.rows(&sql, &[HEARD_AT_ONCE.into()]).await?;
        generation_controls(rows)
    }

    async fn set_running(
        &self,
        generation: &Generation,
        go_on: bool,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let mut tx = self.transaction().await?;
        D::fence(&mut tx, &[generation.id]).await?;
        let paused = if go_on { None } else { asked.reason.as_deref().or(Some("no reason was given")) };
        tx.execute(
            "update projector.generation set paused = $2, resumes = resumes + $3,
               halted = case when $2 is null then null else halted end,
               halted_kind = case when $2 is null then null else halted_kind end where id = $1",
            &[generation.id.into(), paused.into(), i64::from(go_on).into()],
        )
        .await?;
        let action = if go_on { "resume" } else { "pause" };
        let done = DoneOperation { action, partition: None, verdict: None };
        record(&mut *tx, generation, done, asked).await?;
        D::commit(tx).await
    }

    async fn skip(
        &self,
        generation: &Generation,
        partition: &Partition,
        to: i64,
        asked: &Requester,
    ) -> Result<Skipped, StoreError> {
        let mut tx = self.transaction().await?;
        let sql = format!(
            "select next_offset from projector.checkpoint
             where generation_id = $1 and topic = $2 and partition = $3 {}",
            D::Connection::FOR_UPDATE
        );
        let of = [generation.id.into(), (&*partition.topic).into(), partition.number.into()];
        let from: Option<(i64,)> = tx.row(&sql, &of).await?;
        let moved = Skipped::over(partition, from.map(|(from,)| from), to)?;
        let [id, topic, number] = of;
        tx.execute(
            "update projector.checkpoint set next_offset = $4, updated_at = now()
             where generation_id = $1 and topic = $2 and partition = $3",
            &[id, topic, number, to.into()],
        )
        .await?;
        let mut counts = OutcomeCounts::default();
        add(&mut counts.skipped, "operator", to - moved.from);
        recount(&mut *tx, generation.id, &[(partition.clone(), counts)]).await?;
        let verdict = Some(serde_json::to_value(&moved).unwrap_or_default());
        let done = DoneOperation { action: "skip", partition: Some(partition), verdict };
        record(&mut *tx, generation, done, asked).await?;
        D::commit(tx).await?;
        Ok(moved)
    }

    async fn set_impure(&self, generation: &Generation, report: &str) -> Result<(), StoreError> {
        self.held()
            .await?
            .execute(
                "update projector.generation set impure = $2 where id = $1",
                &[generation.id.into(), report.into()],
            )
            .await
            .map(drop)
    }

    async fn operations(&self, projection: Option<&str>, most: i64) -> Result<Vec<Operation>, StoreError> {
        operations::operations(&mut *self.held().await?, projection, most).await
    }
}
