//! Ids of events: known from the transaction that handled them, for as long as their window.

use std::collections::HashSet;

use anyhow::Result;
use projector::duplicate::{EventId, Remembered};
use projector::store::{StoreError, Writes};

use super::home::Home;
use super::on_both_stores;
use super::projection::{Projection, advance, contract, numbers};

on_both_stores!(an_id_is_known_once_its_event_is_committed, an_id_is_forgotten_after_its_window);

const DAY: i64 = 86_400_000_000;

fn id(topic: &str, number: u8) -> EventId {
    EventId { topic: topic.into(), hash: [number; 16] }
}

/// Of a topic whose window is two days.
fn on_day(number: u8, day: i64) -> Remembered {
    Remembered { id: id("t", number), recorded_at: Some(day * DAY), window_seconds: 2 * 86_400 }
}

/// Commits a batch of one event, whose id this is.
async fn handle(projection: &Projection, remembered: Remembered) -> Result<()> {
    let at = projection.offset().await?;
    let writes = Writes { advances: vec![advance(at, 1)], ids: vec![remembered], ..Writes::default() };
    projection.commit(&writes).await?;
    Ok(())
}

async fn known(projection: &Projection, ids: &[EventId]) -> Result<HashSet<EventId>, StoreError> {
    projection.begin().await?.known(ids).await
}

async fn an_id_is_known_once_its_event_is_committed(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let asked = [id("t", 1), id("t", 2), id("other", 1)];
    assert!(known(&projection, &asked).await?.is_empty());
    // Rolled back, with everything else.
    let elsewhere = Writes { advances: vec![advance(77, 1)], ids: vec![on_day(1, 10)], ..Writes::default() };
    let moved = projection.commit(&elsewhere).await;
    assert!(matches!(moved, Err(StoreError::CheckpointMoved(_))), "{moved:?}");
    assert!(known(&projection, &asked).await?.is_empty());

    handle(&projection, on_day(1, 10)).await?;
    assert_eq!(known(&projection, &asked).await?, HashSet::from([id("t", 1)]));
    assert!(known(&projection, &[]).await?.is_empty());
    Ok(())
}

async fn an_id_is_forgotten_after_its_window(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let asked = [1, 2, 3].map(|number| id("t", number));
    handle(&projection, on_day(1, 10)).await?;
    handle(&projection, on_day(2, 11)).await?;
    assert_eq!(known(&projection, &asked).await?.len(), 2);
    handle(&projection, on_day(3, 13)).await?;
    assert_eq!(known(&projection, &asked).await?, HashSet::from([id("t", 2), id("t", 3)]));
    // A producer's clock that is ahead makes nobody forget what is not old yet; these are.
    handle(&projection, on_day(4, 300_000)).await?;
    assert_eq!(known(&projection, &[id("t", 4)]).await?.len(), 1);
    assert!(known(&projection, &asked).await?.is_empty());
    Ok(())
}
