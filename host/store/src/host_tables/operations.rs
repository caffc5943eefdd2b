//! Operations in the host's own tables: who made each request, when and why, and the result.

use projector_core::event::Partition;
use projector_core::generation::Generation;
use serde_json::Value as Json;

use super::Session;
use crate::error::StoreError;
use crate::operations::{Operation, OperationResult};
use crate::requester::Requester;

/// An operation that was done at once.
pub(crate) struct DoneOperation<'a> {
    pub(crate) action: &'a str,
    pub(crate) partition: Option<&'a Partition>,
    pub(crate) result: Option<Json>,
}

/// Stores an operation that is done. Returns its number.
pub(crate) async fn record<S: Session>(
    session: &mut S,
    generation: &Generation,
    done: DoneOperation<'_>,
    requester: &Requester,
) -> Result<i64, StoreError> {
    let DoneOperation { action, partition, result } = done;
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
        requester.reason.as_deref().into(),
        requester.by.as_str().into(),
        result.map(|result| result.to_string()).as_deref().into(),
    ];
    let number: Option<(i64,)> = session.row(&sql, &arguments).await?;
    number.map(|(number,)| number).ok_or_else(|| StoreError::Unusable("an operation got no number".into()))
}

/// Keeps the operations of a generation that is about to be removed. Open operations end with the result `gone`.
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
    let gone = serde_json::to_string(&OperationResult::of("gone")).expect("a result is plain data");
    let arguments =
        [generation.id.into(), generation.projection.as_str().into(), generation.number.into(), gone.into()];
    session.execute(&sql, &arguments).await.map(drop)
}

/// Records who removed a generation, or all of a projection.
pub(crate) async fn record_removal<S: Session>(
    session: &mut S,
    (projection, number): (&str, Option<i32>),
    action: &str,
    requester: &Requester,
    result: Json,
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
        requester.reason.as_deref().into(),
        requester.by.as_str().into(),
        result.to_string().into(),
    ];
    session.execute(&sql, &arguments).await.map(drop)
}

/// The operations of a projection, or of all projections, newest first.
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
