//! The control state: what hosts read twice a second, and what operators set.

use async_trait::async_trait;
use projector_core::counters::{OutcomeCounts, add};
use projector_core::event::Partition;
use projector_core::generation::{Generation, Role};

use super::operations::{self, DoneOperation, record};
use super::write_barrier::BarrierRow;
use super::{Database, Session, recount};
use crate::control::{ControlStore, GenerationControl, OPEN_OPERATIONS, Skipped};
use crate::error::StoreError;
use crate::operations::{DeadLetterAction, OpenOperation, Operation};
use crate::requester::Requester;

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
               coalesce(g.hold_until > now(), false) as is_raised, cast(g.hold_at as text) as up_to,
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
        let rows: Vec<ControlRow> = self.acquire().await?.rows(&sql, &[OPEN_OPERATIONS.into()]).await?;
        generation_controls(rows)
    }

    async fn set_running(
        &self,
        generation: &Generation,
        resume: bool,
        requester: &Requester,
    ) -> Result<(), StoreError> {
        let mut tx = self.transaction().await?;
        D::fence(&mut tx, &[generation.id]).await?;
        let paused = if resume { None } else { requester.reason.as_deref().or(Some("no reason was given")) };
        tx.execute(
            "update projector.generation set paused = $2, resumes = resumes + $3,
               halted = case when $2 is null then null else halted end,
               halted_kind = case when $2 is null then null else halted_kind end where id = $1",
            &[generation.id.into(), paused.into(), i64::from(resume).into()],
        )
        .await?;
        let action = if resume { "resume" } else { "pause" };
        let done = DoneOperation { action, partition: None, result: None };
        record(&mut *tx, generation, done, requester).await?;
        D::commit(tx).await
    }

    async fn skip(
        &self,
        generation: &Generation,
        partition: &Partition,
        to: i64,
        requester: &Requester,
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
        let result = Some(serde_json::to_value(&moved).unwrap_or_default());
        let done = DoneOperation { action: "skip", partition: Some(partition), result };
        record(&mut *tx, generation, done, requester).await?;
        D::commit(tx).await?;
        Ok(moved)
    }

    async fn set_impure(&self, generation: &Generation, report: &str) -> Result<(), StoreError> {
        self.acquire()
            .await?
            .execute(
                "update projector.generation set impure = $2 where id = $1",
                &[generation.id.into(), report.into()],
            )
            .await
            .map(drop)
    }

    async fn operations(&self, projection: Option<&str>, most: i64) -> Result<Vec<Operation>, StoreError> {
        operations::operations(&mut *self.acquire().await?, projection, most).await
    }
}

/// A generation, and one of its open operations, if there is one.
struct ControlRow {
    generation: GenerationRow,
    barrier: BarrierRow,
    operation: OperationRow,
    role: String,
    active_digest: String,
    on_trial_against: Option<String>,
    is_stopped: bool,
    paused: Option<String>,
    resumes: i64,
    any_ready: bool,
}

from_row! {
    ControlRow {
        ..generation, ..barrier, ..operation, role, active_digest, on_trial_against, is_stopped, paused, resumes,
        any_ready
    }
}

/// Which generation.
struct GenerationRow {
    id: i64,
    projection: String,
    number: i32,
    table_schema: String,
}

from_row! { GenerationRow { id, projection, number, table_schema } }

/// An open operation. Nothing, in the row of a generation that has none.
struct OperationRow {
    operation: Option<i64>,
    action: Option<String>,
    topic: Option<String>,
    partition: Option<i32>,
}

from_row! { OperationRow { operation, action, topic, partition } }

impl OperationRow {
    /// `None` as well for an action that only a newer host knows: such a host does it.
    fn open(self) -> Option<OpenOperation> {
        let action = DeadLetterAction::from_word(self.action.as_deref()?)?;
        let partition = Partition::new(self.topic?, self.partition?);
        Some(OpenOperation { id: self.operation?, action, partition })
    }
}

/// The control state of each generation, in the order of the rows, with its operations in their order.
fn generation_controls(rows: Vec<ControlRow>) -> Result<Vec<GenerationControl>, StoreError> {
    let mut controls: Vec<GenerationControl> = Vec::new();
    for row in rows {
        // A role that only a newer host knows: such a host runs the generation.
        let Some(role) = Role::from_word(&row.role) else { continue };
        let GenerationRow { id, projection, number, table_schema } = row.generation;
        if controls.last().is_none_or(|last| last.generation.id != id) {
            controls.push(GenerationControl {
                generation: Generation { id, projection, number, schema: table_schema },
                role,
                active: row.active_digest,
                on_trial_against: row.on_trial_against,
                stopped: row.is_stopped,
                paused: row.paused,
                resumes: row.resumes,
                barrier: row.barrier.barrier()?,
                any_ready: row.any_ready,
                open: Vec::new(),
            });
        }
        if let (Some(last), Some(operation)) = (controls.last_mut(), row.operation.open()) {
            last.open.push(operation);
        }
    }
    Ok(controls)
}
