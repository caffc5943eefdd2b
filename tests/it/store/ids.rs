//! Ids of events: known from the transaction that handled them, for as long as their window.

use std::collections::BTreeMap;

use anyhow::Result;
use projector_core::duplicate::{Duplicate, EventId, Known, RECORDED, Remembered};
use projector_core::event::{Partition, Position};
use projector_store::event_ids::Horizon;
use projector_store::{StoreError, Writes};

use super::home::Home;
use super::on_both_stores;
use super::projection::{Projection, advance, contract, numbers, partition};

on_both_stores!(
    an_id_is_known_once_its_event_is_committed,
    an_id_is_forgotten_before_the_horizon,
    the_time_of_the_last_event_is_kept,
    the_last_duplicates_are_recorded,
);

const DAY: i64 = 86_400_000_000;

fn id(topic: &str, number: u8) -> EventId {
    EventId { topic: topic.into(), hash: [number; 16] }
}

fn on_day(number: u8, day: i64) -> Remembered {
    let first = Position { partition: Partition::new("t", 3), offset: 100 + i64::from(number) };
    Remembered { id: id("t", number), first, recorded_at: Some(day * DAY) }
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

/// A batch forgets nothing, however far it is ahead of others.
async fn an_id_is_forgotten_before_the_horizon(home: Home) -> Result<()> {
    let store = home.open().await?;
    let projection = Projection::install(store.clone(), contract(&numbers())).await?;
    let generation = &projection.deployment.generation;
    let asked = [1, 2, 3].map(|number| id("t", number));
    for (number, day) in [(1, 10), (2, 11), (3, 13)] {
        handle(&projection, on_day(number, day)).await?;
    }
    assert_eq!(known(&projection, &asked).await?, of(&[1, 2, 3]));
    let on = |day: i64| Horizon { time: Some(day * DAY), window_seconds: 2 * 86_400 };
    assert_eq!(store.forget_ids(generation, "t", on(12), 10).await?, 0);
    assert_eq!(store.forget_ids(generation, "other", on(16), 10).await?, 0);
    assert_eq!(store.forget_ids(generation, "t", on(13), 10).await?, 1);
    assert_eq!(known(&projection, &asked).await?, of(&[2, 3]));
    // No more at once than are asked for, the oldest first.
    assert_eq!(store.forget_ids(generation, "t", on(16), 1).await?, 1);
    assert_eq!(known(&projection, &asked).await?, of(&[3]));
    // A producer's clock that is ahead makes nobody forget what is not old yet, and what it wrote is not kept for
    // ever.
    handle(&projection, on_day(4, 300_000)).await?;
    assert_eq!(store.forget_ids(generation, "t", on(300_000), 10).await?, 1);
    assert_eq!(known(&projection, &[id("t", 3), id("t", 4)]).await?, of(&[4]));
    let now = Horizon { time: None, window_seconds: 0 };
    assert_eq!(store.forget_ids(generation, "t", now, 10).await?, 1);
    Ok(())
}

/// By the record's own time, unless that is still to come; by another batch's if that has none.
async fn the_time_of_the_last_event_is_kept(home: Home) -> Result<()> {
    let store = home.open().await?;
    let projection = Projection::install(store.clone(), contract(&numbers())).await?;
    let generation = projection.deployment.generation.clone();
    let topic = partition().topic;
    let times = async || -> Result<Vec<(i32, i64, Option<i64>)>> {
        let times = store.record_times(&generation, &topic).await?;
        assert!(times.iter().all(|time| time.idle_seconds < 60), "{times:?}");
        let mut times: Vec<_> =
            times.into_iter().map(|time| (time.partition, time.next_offset, time.recorded_at)).collect();
        times.sort();
        Ok(times)
    };
    let at = async |day: Option<i64>| -> Result<()> {
        let record_times = day.map(|day| (partition(), day * DAY)).into_iter().collect();
        let advances = vec![advance(projection.offset().await?, 1)];
        projection.commit(&Writes { advances, record_times, ..Writes::default() }).await?;
        Ok(())
    };
    at(None).await?;
    assert_eq!(times().await?[0], (0, 1, None));
    at(Some(10)).await?;
    at(None).await?;
    assert_eq!(times().await?[0], (0, 3, Some(10 * DAY)));
    at(Some(300_000)).await?;
    let (_, _, capped) = times().await?[0];
    assert!(capped.is_some_and(|at| at > 10 * DAY && at < 300_000 * DAY), "{capped:?}");
    at(Some(9)).await?;
    assert_eq!(times().await?[0], (0, 5, Some(9 * DAY)));
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
    assert_eq!(overview[0].faults.without_id, 2 * places.chunks(100).count() as i64);
    Ok(())
}
