//! Between whoever parks an event and whoever frees its key nothing slips through.

use anyhow::{Context, Result};
use projector_core::batch::BatchLimits;
use projector_core::counters::OutcomeCounts;
use projector_core::event::{Event, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_store::operations::{DeadLetterAction, NewOperations, OperationResult};
use projector_store::release::{OperationProgress, Release, RetryResult};
use projector_store::{Advance, DeadLetter, Parked, Requester, StoreError, Transaction, Writes};
use serde_json::json;

use super::home::{Home, wait_until};
use super::projection::{Projection, contract, descriptor, numbers, partition};

fn event(offset: i64) -> Event {
    Event {
        position: Position { partition: partition(), offset },
        topic: 0,
        timestamp_ms: None,
        key: Some(b"k".to_vec()),
        value: Some(b"v".to_vec()),
        also: Vec::new(),
        topic_name: "t".into(),
        oversize_bytes: None,
        headers: Vec::new(),
    }
}

const ALL: BatchLimits = BatchLimits { events: 100, bytes: 1_000_000 };

const fn key() -> KeyId {
    KeyId([7; 16])
}

fn advance(offset: i64, outcome: impl FnOnce(&mut OutcomeCounts)) -> Advance {
    let mut counts = OutcomeCounts::default();
    outcome(&mut counts);
    Advance { partition: partition(), expected: offset, next: offset + 1, counts }
}

/// Two hosts on one database; an event of the key is dead, and another one waits. Returns the retry's
/// number.
async fn blocked(home: &Home) -> Result<([Projection; 2], i64)> {
    let first = Projection::install(home.open().await?, contract(&numbers())).await?;
    let second = Projection::install(home.open().await?, contract(&numbers())).await?;
    let failure = Failure::new(FailureKind::Rejected, "no", "no");
    let (dead, parked) = (event(0), event(1));
    let died = advance(0, |counts| projector_core::counters::add(&mut counts.dead, "no", 1));
    first
        .commit(&Writes {
            advances: vec![died],
            dead: vec![DeadLetter { event: &dead, failure: &failure, blocks: Some(key()), moved_by: None }],
            ..Writes::default()
        })
        .await?;
    first.commit(&parking(&parked)).await?;
    let letters = first
        .store
        .dead_letters(&projector_store::dead_letters::DeadLetterFilter { most: 9, ..Default::default() })
        .await?;
    let operation = NewOperations {
        action: DeadLetterAction::Retry,
        dead_letters: vec![letters.first().context("it is dead")?.id],
        dry_run: false,
        requester: Requester::default(),
    };
    let operation = *first.store.request(&operation).await?.values().next().context("it is there")?;
    Ok(([first, second], operation))
}

fn parking(event: &Event) -> Writes<'_> {
    Writes {
        advances: vec![advance(event.position.offset, |counts| counts.parked = 1)],
        parked: vec![Parked { event, key: key(), row: None }],
        ..Writes::default()
    }
}

/// Releases all events that wait behind the dead letter.
async fn release_all(mut tx: Box<dyn Transaction>, operation: i64) -> Result<usize> {
    let claimed = tx.claim(operation, ALL).await?.context("it is open")?;
    let result = OperationResult::of("applied");
    let (dead_letter, ..) = claimed.dead_letter.context("it is dead")?;
    let progress = OperationProgress { operation, key: claimed.key, result: &result, done: true };
    let release = Release {
        operation: Some(progress),
        dead_letter: Some((dead_letter.id, RetryResult::Gone)),
        settled: claimed.parked.iter().map(|(stored, _)| stored.id).collect(),
        frees: claimed.key.into_iter().collect(),
        ..Release::default()
    };
    tx.write(&Writes { release: Some(release), ..Writes::default() }).await?;
    tx.commit().await?;
    Ok(claimed.parked.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_parked_meanwhile_is_released_as_well() -> Result<()> {
    let home = Home::postgres()?;
    let ([parks, frees], operation) = blocked(&home).await?;
    let mut parking_one = parks.begin().await?;
    assert!(parking_one.blocks_any() && parking_one.blocked(vec![key()]).await?.contains(&key()));
    let freeing = frees.begin().await?;
    let freed = tokio::spawn(release_all(freeing, operation));
    let session = tokio::sync::Mutex::new(home.session().await?);
    let waits = async || Ok(session.lock().await.waiting_for("transactionid").await? == 1);
    wait_until("the release waits for the transaction that parks", waits).await?;
    let late = event(2);
    parking_one.write(&parking(&late)).await?;
    parking_one.commit().await?;
    assert_eq!(freed.await??, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_freed_meanwhile_is_found_free_after_a_wait() -> Result<()> {
    let home = Home::postgres()?;
    let ([asks, frees], operation) = blocked(&home).await?;
    let mut freeing = frees.begin().await?;
    // It has locked the key now.
    freeing.claim(operation, ALL).await?;
    let mut asking = asks.begin().await?;
    assert!(asking.blocks_any());
    let asked = tokio::spawn(async move { asking.blocked(vec![key()]).await });
    let session = tokio::sync::Mutex::new(home.session().await?);
    let waits = async || Ok(session.lock().await.waiting_for("transactionid").await? == 1);
    wait_until("the read of the key waits for the release", waits).await?;
    assert_eq!(release_all(freeing, operation).await?, 1);
    assert!(asked.await??.is_empty());
    Ok(())
}

/// Two lanes whose topics are of one group: each has an event of the key that fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_block_a_key_at_once_one_begins_anew() -> Result<()> {
    let home = Home::postgres()?;
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let failure = Failure::new(FailureKind::Rejected, "no", "no");
    let dead = [event(0), event(1)];
    let letter = |at: usize| Writes {
        dead: vec![DeadLetter { event: &dead[at], failure: &failure, blocks: Some(key()), moved_by: None }],
        ..Writes::default()
    };
    let mut first = projection.begin().await?;
    let mut second = projection.begin().await?;
    assert!(!second.blocks_any(), "when it looked, nothing was blocked");
    first.write(&letter(0)).await?;
    let commit = async { second.write(&letter(1)).await };
    let ((), refused) = tokio::join!(async { first.commit().await.expect("it commits") }, commit);
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    drop(second);
    let mut again = projection.begin().await?;
    assert!(again.blocked(vec![key()]).await?.contains(&key()), "now it sees it, and parks");
    Ok(())
}

/// A projection that reads has one writer at a time: what the one before it did is known to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_waits_its_turn_knows_what_was_blocked_meanwhile() -> Result<()> {
    let home = Home::postgres()?;
    let reading = descriptor(
        numbers()["tables"].clone(),
        numbers()["statements"].clone(),
        json!([{"name": "one", "table": "number", "by": ["id"], "columns": ["n"]}]),
    );
    let first = Projection::install(home.open().await?, contract(&reading)).await?;
    let second = Projection::install(home.open().await?, contract(&reading)).await?;
    let mut blocking = first.begin().await?;
    let begun = tokio::spawn(async move { second.begin().await });
    let session = tokio::sync::Mutex::new(home.session().await?);
    let waits = async || Ok(session.lock().await.waiting_for("advisory").await? == 1);
    wait_until("the second writer waits for the first", waits).await?;
    let (dead, failure) = (event(0), Failure::new(FailureKind::Rejected, "no", "no"));
    let letter = DeadLetter { event: &dead, failure: &failure, blocks: Some(key()), moved_by: None };
    blocking.write(&Writes { dead: vec![letter], ..Writes::default() }).await?;
    blocking.commit().await?;
    assert!(begun.await??.blocks_any());
    Ok(())
}

/// An event that is parked behind a dead letter that expires meanwhile keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_does_not_expire_while_an_event_is_parked_behind_it() -> Result<()> {
    let home = Home::postgres()?;
    let ([parks, expires], operation) = blocked(&home).await?;
    // What waited is gone: the key alone is left.
    home.by_hand("delete from projector.parked", "").await?;
    expires.store.withdraw(&[operation]).await?;
    home.by_hand("update projector.dead_letter set died_at = now() - interval '1 hour'", "").await?;
    let mut parking_one = parks.begin().await?;
    assert!(parking_one.blocked(vec![key()]).await?.contains(&key()));
    let late = event(2);
    parking_one.write(&parking(&late)).await?;
    let expire =
        async || expires.store.expire(&expires.deployment.generation, 60, &Requester::default()).await;
    assert_eq!(expire().await?, 0, "whoever parks holds the key");
    parking_one.commit().await?;
    assert_eq!(expire().await?, 0, "an event waits behind it");
    home.by_hand("delete from projector.parked", "").await?;
    assert_eq!(expire().await?, 1);
    Ok(())
}
