//! Removes generations, views and projections. What became of them stays in the history.

use projector_core::deployment::Origin;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::refusal::Refusal;

use super::Session;
use super::generation_rows::generations;
use super::generation_tables::{GenerationTables, Removal};
use super::history::HistoryEntry;
use super::operations::{keep_operations, record_removal};
use super::view_sets::{retirable_views, set_views};
use crate::error::StoreError;
use crate::requester::Requester;

pub(super) async fn retire<D: GenerationTables>(
    database: &D,
    generation: &Generation,
    origin: Origin,
    requester: &Requester,
) -> Result<(), StoreError> {
    let name = &generation.projection;
    let mut tx = database.decide(name).await?;
    let generations = generations(&mut *tx, name).await?;
    match generations.iter().find(|status| status.generation.id == generation.id) {
        Some(status) if status.role != Role::Live => remove::<D>(&mut tx, status).await?,
        found => {
            let (projection, number) = (name.clone(), generation.number);
            return Err(StoreError::Refused(match found {
                Some(_) => Refusal::Live { projection, number },
                None => Refusal::Gone { projection, number },
            }));
        }
    }
    let entry = HistoryEntry { action: "retire", origin, generation: Some(generation.number) };
    entry.record(&mut *tx, name, None, None, requester).await?;
    let result = serde_json::json!({ "retired": generation.number });
    record_removal(&mut *tx, (name, Some(generation.number)), "retire", requester, result).await?;
    D::commit(tx).await
}

pub(super) async fn retire_views<D: GenerationTables>(
    database: &D,
    projection: &str,
    schema: &str,
    requester: &Requester,
) -> Result<(), StoreError> {
    let mut tx = database.decide(projection).await?;
    let generations = generations(&mut *tx, projection).await?;
    let (status, retired, left) = retirable_views(&generations, schema)?;
    let checked = D::check_removal(&mut tx, Removal::Views(&retired)).await?;
    D::remove(&mut tx, checked).await?;
    set_views(&mut *tx, status.generation.id, &left, &status.layout).await?;
    let number = Some(status.generation.number);
    let entry = HistoryEntry { action: "retire", origin: Origin::Command, generation: number };
    let reason = requester.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let by_views = Requester::new(requester.by.clone(), Some(format!("the views in {schema}{reason}")));
    entry.record(&mut *tx, projection, None, None, &by_views).await?;
    let result = serde_json::json!({ "views": schema });
    record_removal(&mut *tx, (projection, number), "retire", requester, result).await?;
    D::commit(tx).await
}

pub(super) async fn drop_projection<D: GenerationTables>(
    database: &D,
    projection: &str,
    requester: &Requester,
) -> Result<(), StoreError> {
    let mut tx = database.decide(projection).await?;
    let generations = generations(&mut *tx, projection).await?;
    for status in &generations {
        remove::<D>(&mut tx, status).await?;
    }
    for statement in [
        "update projector.projection set stopped = null where name = $1",
        "update projector.deployment set state = 'withdrawn', verdict = 'the projection was dropped',
           decided_at = now() where projection = $1 and state = 'open'",
    ] {
        tx.execute(statement, &[projection.into()]).await?;
    }
    let entry = HistoryEntry { action: "drop", origin: Origin::Command, generation: None };
    entry.record(&mut *tx, projection, None, None, requester).await?;
    let dropped: Vec<i32> = generations.iter().map(|status| status.generation.number).collect();
    let result = serde_json::json!({ "dropped": dropped });
    record_removal(&mut *tx, (projection, None), "drop", requester, result).await?;
    D::commit(tx).await
}

/// Removes a generation, its rows and its views.
pub(super) async fn remove<D: GenerationTables>(
    tx: &mut D::Connection,
    status: &GenerationStatus,
) -> Result<(), StoreError> {
    // A batch that begins after the removal finds no generation.
    D::fence(tx, &[status.generation.id]).await?;
    let checked = D::check_removal(tx, Removal::Generation(status)).await?;
    keep_operations(tx, &status.generation).await?;
    tx.execute("delete from projector.generation where id = $1", &[status.generation.id.into()]).await?;
    D::remove(tx, checked).await
}
