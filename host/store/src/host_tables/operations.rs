//! What was asked for, when, by whom and why, and what came of it.

use projector_core::event::Partition;
use projector_core::generation::Generation;
use serde_json::Value as Json;

use super::Session;
use crate::StoreError;
use crate::operator::{Operation, Requester, gone};

/// Something that was asked for, and is done.
pub(crate) struct DoneOperation<'a> {
    pub(crate) action: &'a str,
    pub(crate) partition: Option<&'a Partition>,
    pub(crate) verdict: Option<Json>,
}

/// Keeps what was asked for and is done. Returns its number.
pub(crate) async fn record<S: Session>(
    session: &mut S,
    generation: &Generation,
    done: DoneOperation<'_>,
    asked: &Requester,
) -> Result<i64, StoreError> {
    let DoneOperation { action, partition, verdict } = done;
    let sql = format!(
        "insert into projector.operation
           (generation_id, action, topic, partition, reason, asked_by, asked_at, done_at, verdict)
         values ($1, $2, $3, $4, $5, $6, now(), now(), {}) returning id",
        S::document("$7")
    );
    let arguments = [
        generation.id.into(),
        action.into(),
        partition.map(|partition| &*partition.topic).into(),
        partition.map(|partition| partition.number).into(),
        asked.reason.as_deref().into(),
        asked.by.as_str().into(),
        verdict.map(|verdict| verdict.to_string()).as_deref().into(),
    ];
    let number: Option<(i64,)> = session.row(&sql, &arguments).await?;
    number.map(|(number,)| number).ok_or_else(|| StoreError::Unusable("an operation got no number".into()))
}

/// Keeps what was asked for about a generation that is removed next. What is open cannot be done any more.
pub(crate) async fn keep_operations<S: Session>(
    session: &mut S,
    generation: &Generation,
) -> Result<(), StoreError> {
    let sql = format!(
        "update projector.operation set generation_id = null, projection = $2, generation = $3,
           done_at = coalesce(done_at, now()), verdict = case when done_at is null then {} else verdict end
         where generation_id = $1",
        S::document("$4")
    );
    let arguments = [
        generation.id.into(),
        generation.projection.as_str().into(),
        generation.number.into(),
        gone().into(),
    ];
    session.execute(&sql, &arguments).await.map(drop)
}

/// Records who removed a generation, or all of a projection.
pub(crate) async fn record_removal<S: Session>(
    session: &mut S,
    (projection, number): (&str, Option<i32>),
    action: &str,
    asked: &Requester,
    verdict: Json,
) -> Result<(), StoreError> {
    let sql = format!(
        "insert into projector.operation
           (projection, generation, action, reason, asked_by, asked_at, done_at, verdict)
         values ($1, $2, $3, $4, $5, now(), now(), {})",
        S::document("$6")
    );
    let arguments = [
        projection.into(),
        number.into(),
        action.into(),
        asked.reason.as_deref().into(),
        asked.by.as_str().into(),
        verdict.to_string().into(),
    ];
    session.execute(&sql, &arguments).await.map(drop)
}

/// What was asked for, newest first.
pub(crate) async fn operations<S: Session>(
    session: &mut S,
    projection: Option<&str>,
    most: i64,
) -> Result<Vec<Operation>, StoreError> {
    let sql = format!(
        "select o.id, coalesce(o.projection, g.projection) as projection,
           coalesce(o.generation, g.number) as generation, o.action, o.dead_letter_id, o.topic, o.partition,
           o.dry_run, o.reason, o.asked_by, {} as asked_at, {} as done_at, o.verdict
         from projector.operation o left join projector.generation g on g.id = o.generation_id
         where cast($1 as text) is null or coalesce(o.projection, g.projection) = $1 order by o.id desc limit $2",
        S::micros("o.asked_at"),
        S::micros("o.done_at")
    );
    session.rows(&sql, &[projection.into(), most.into()]).await
}
