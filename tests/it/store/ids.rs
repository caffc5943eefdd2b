//! Ids of events: known from the transaction that handled them, for as long as their window.

use std::collections::BTreeMap;

use anyhow::Result;
use projector::duplicate::{Duplicate, EventId, Known, RECORDED, Remembered};
use projector::event::{Partition, Position};
use projector::store::{StoreError, Writes};

use super::home::Home;
use super::on_both_stores;
use super::projection::{Projection, advance, contract, numbers};

on_both_stores!(
    an_id_is_known_once_its_event_is_committed,
    an_id_is_forgotten_after_its_window,
    the_last_duplicates_are_recorded,
);

const DAY: i64 = 86_400_000_000;

fn id(topic: &str, number: u8) -> EventId {
    EventId { topic: topic.into(), hash: [number; 16] }
}

/// Of a topic whose window is two days.
fn on_day(number: u8, day: i64) -> Remembered {
    let first = Position { partition: Partition::new("t", 3), offset: 100 + i64::from(number) };
    Remembered { id: id("t", number), first, recorded_at: Some(day * DAY), window_seconds: 2 * 86_400 }
}

/// Commits a batch of one event, whose id this is.
async fn handle(projection: &Projection, remembered: Remembered) -> Result<()> {
    let at = projection.offset().await?;
    let writes = Writes { advances: vec![advance(at, 1)], ids: vec![remembered], ..Writes::default() };
    projection.commit(&writes).await?;
    Ok(())
}

/// As they are remembered.
fn of(numbers: &[u8]) -> Known {
    numbers.iter().map(|number| (id("t", *number), Some(on_day(*number, 0).first))).collect()
}

async fn known(projection: &Projection, ids: &[EventId]) -> Result<Known, StoreError> {
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
    assert_eq!(known(&projection, &asked).await?, of(&[1]));
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
    assert_eq!(known(&projection, &asked).await?, of(&[2, 3]));
    // A producer's clock that is ahead makes nobody forget what is not old yet; these are.
    handle(&projection, on_day(4, 300_000)).await?;
    assert_eq!(known(&projection, &[id("t", 4)]).await?.len(), 1);
    assert!(known(&projection, &asked).await?.is_empty());
    Ok(())
}

/// A thousand of them, however many there are, with the first of their id where that is known.
async fn the_last_duplicates_are_recorded(home: Home) -> Result<()> {
    let store = home.open().await?;
    let projection = Projection::install(store.clone(), contract(&numbers())).await?;
    let name = projection.deployment.generation.projection.clone();
    let at = |offset| Position { partition: Partition::new("t", 0), offset };
    let places: Vec<Position> = (0..RECORDED + 50).map(at).collect();
    for chunk in places.chunks(100) {
        let duplicates = chunk
            .iter()
            .map(|position| Duplicate {
                position,
                first: (position.offset % 2 == 0)
                    .then(|| Position { partition: Partition::new("first", 7), offset: position.offset / 2 }),
            })
            .collect();
        let offset = projection.offset().await?;
        let without_id = BTreeMap::from([(Partition::new("t", 0), 2)]);
        let writes =
            Writes { advances: vec![advance(offset, 1)], duplicates, without_id, ..Writes::default() };
        projection.commit(&writes).await?;
    }
    let recorded = store.duplicates(&name, i64::MAX).await?;
    let offsets: Vec<i64> = recorded.iter().map(|one| one.offset).collect();
    assert_eq!(offsets, (50..RECORDED + 50).rev().collect::<Vec<_>>());
    let [odd, even, ..] = &recorded[..] else { panic!("{recorded:?}") };
    assert_eq!((&odd.first_topic, odd.first_partition, odd.first_offset), (&None, None, None));
    assert_eq!(even.first_topic.as_deref(), Some("first"));
    assert_eq!((even.first_partition, even.first_offset), (Some(7), Some(even.offset / 2)));
    assert_eq!(store.duplicates(&name, 3).await?, recorded[..3]);
    let overview = store.overview().await?;
    assert_eq!(overview[0].without_id, 2 * places.chunks(100).count() as i64);
    Ok(())
}
