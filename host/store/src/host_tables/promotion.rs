//! Shows another generation to readers.
//!
//! Why in one transaction: a reader sees all views of the one generation or all views of the other.

use projector_core::deployment::Origin;
use projector_core::event::Partition;
use projector_core::failpoint;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::refusal::Refusal;
use projector_core::views::ViewSet;

use super::Session;
use super::checkpoints::behind;
use super::generation_rows::generations;
use super::generation_tables::{GenerationTables, LaidTables};
use super::history::HistoryEntry;
use super::view_sets::{complete_views, next_views, set_views};
use crate::error::StoreError;
use crate::generations::Promoted;
use crate::requester::Requester;

pub(super) async fn promote<D: GenerationTables>(
    database: &D,
    (generation, topics): (&Generation, &[String]),
    origin: Origin,
    requester: &Requester,
) -> Result<Promoted, StoreError> {
    let name = &generation.projection;
    let mut tx = database.decide(name).await?;
    let generations = generations(&mut *tx, name).await?;
    // From here to the end of the transaction, no batch of the projection is in flight.
    let ids: Vec<i64> = generations.iter().map(|status| status.generation.id).collect();
    D::fence(&mut tx, &ids).await?;
    let (new, old) = promotable(&generations, generation)?;
    let behind = behind(&mut *tx, new.generation.id, old.generation.id, topics).await?;
    no_step_back(generation, behind)?;
    let promoted = show::<D>(&mut tx, &generations, new, old).await?;
    for (status, role) in [(old, Role::Warm), (new, Role::Live)] {
        tx.execute(
            "update projector.generation set role = $2, hold_until = null, hold_at = null, hold_by = null
             where id = $1",
            &[status.generation.id.into(), role.as_str().into()],
        )
        .await?;
    }
    let entry = HistoryEntry { action: "promote", origin, generation: Some(generation.number) };
    entry.record(&mut *tx, name, Some(&new.active), Some(&old.active), requester).await?;
    failpoint::reached(failpoint::BEFORE_PROMOTE, name);
    D::commit(tx).await?;
    Ok(promoted)
}

/// Shows a generation instead of another one in all views whose columns it has: a reader sees the one or the other. If
/// none of these views shows all of it, new views are created beside them.
async fn show<D: GenerationTables>(
    tx: &mut D::Connection,
    generations: &[GenerationStatus],
    new: &GenerationStatus,
    old: &GenerationStatus,
) -> Result<Promoted, StoreError> {
    let (moved, left): (Vec<ViewSet>, Vec<ViewSet>) =
        old.views.iter().cloned().partition(|set| set.fits(&new.layout));
    let tables = LaidTables::of(new);
    D::replace_views(tx, &moved, tables).await?;
    let mut views = [&*new.views, &moved].concat();
    views.sort_by_key(|set| set.version);
    let next = next_views(generations, &new.generation.projection, &new.layout);
    complete_views::<D>(tx, tables, &mut views, next, old.newest_views()).await?;
    set_views(tx, old.generation.id, &left, &old.layout).await?;
    set_views(tx, new.generation.id, &views, &new.layout).await?;
    Ok(Promoted::new(new, &moved, &views))
}

/// The generation that is to be shown, and the live one.
fn promotable<'g>(
    generations: &'g [GenerationStatus],
    generation: &Generation,
) -> Result<(&'g GenerationStatus, &'g GenerationStatus), Refusal> {
    let Generation { projection, number, .. } = generation;
    let (projection, number) = (projection.clone(), *number);
    let new = generations.iter().find(|status| status.generation.id == generation.id);
    let live = generations.iter().find(|status| status.role == Role::Live);
    let (Some(new), Some(live)) = (new, live) else { return Err(Refusal::Gone { projection, number }) };
    if new.role == Role::Live {
        return Err(Refusal::Live { projection, number });
    }
    new.is_fed()?;
    match new.caught_up {
        true => Ok((new, live)),
        false => Err(Refusal::NotCaughtUp { projection, number }),
    }
}

/// Refuses a generation that is behind the live one in these partitions: readers would see older rows.
fn no_step_back(generation: &Generation, behind: Vec<Partition>) -> Result<(), Refusal> {
    let Generation { projection, number, .. } = generation;
    match behind.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Behind { projection: projection.clone(), number: *number, partitions: behind }),
    }
}
