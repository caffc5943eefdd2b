//! What goes on beside batches, and what batches do beside each other: nobody starves, and nobody ends up in a
//! deadlock.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use projector_core::checkpoint::Beginning;
use projector_core::counters::OutcomeCounts;
use projector_core::event::{Partition, Position};
use projector_core::failure::{Blocker, FailureKind};
use projector_model::Change;
use projector_store::migrations::POSTGRES;
use projector_store::{Advance, StoreError, Writes};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use super::home::{Home, wait_until};
use super::projection::{Projection, call, contract, descriptor, numbers, numeric, text};
use crate::harness::seed;

/// Two statements write columns of the same rows, and one removes them.
fn people() -> serde_json::Value {
    descriptor(
        json!([{"name": "person", "key": ["id"], "columns": [
            {"name": "id", "type": "text"}, {"name": "name", "type": "text", "nullable": true},
            {"name": "place", "type": "text", "nullable": true}]}]),
        json!([
            {"name": "named", "table": "person", "kind": "upsert", "set": [{"column": "name"}]},
            {"name": "placed", "table": "person", "kind": "upsert", "set": [{"column": "place"}]},
            {"name": "gone", "table": "person", "kind": "delete", "by": ["id"]},
        ]),
        json!([]),
    )
}

/// Four lanes on two hosts write the same rows, each in statements whose keys go up, and not together.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lanes_that_write_the_same_rows_never_end_in_a_deadlock() -> Result<()> {
    let home = Home::postgres()?;
    let mut lanes = tokio::task::JoinSet::new();
    let stores = [home.open().await?, home.open().await?];
    let seed = seed(15);
    for lane in 0..4 {
        let projection = Projection::install(stores[lane % 2].clone(), contract(&people())).await?;
        let own = Partition::new("t", 10 + lane as i32);
        projection.store.begin_partition(&projection.deployment.generation, &own, &Beginning::at(0)).await?;
        lanes.spawn(write_people(projection, own, StdRng::seed_from_u64(seed + lane as u64)));
    }
    while let Some(ended) = lanes.join_next().await {
        ended??;
    }
    Ok(())
}

async fn write_people(projection: Projection, own: Partition, mut rng: StdRng) -> Result<()> {
    const EVENTS: i64 = 100;
    for batch in 0..40 {
        let changes: Vec<Vec<Change>> = (0..EVENTS)
            .map(|_| {
                let id = text(&format!("p{}", rng.random_range(0..150)));
                match rng.random_range(0..9) {
                    0..4 => vec![call(0, [id, text("n")])],
                    4..8 => vec![call(1, [id, text("p")])],
                    _ => vec![call(2, [id])],
                }
            })
            .collect();
        let first = batch * EVENTS;
        let positions: Vec<Position> =
            (0..EVENTS).map(|at| Position { partition: own.clone(), offset: first + at }).collect();
        let counts = OutcomeCounts { applied: EVENTS, ..OutcomeCounts::default() };
        let writes = Writes {
            advances: vec![Advance { partition: own.clone(), expected: first, next: first + EVENTS, counts }],
            positions: positions.iter().collect(),
            changes: changes.iter().map(Vec::as_slice).enumerate().collect(),
            ..Writes::default()
        };
        loop {
            match projection.commit(&writes).await {
                Ok(()) => break,
                // A busy machine may keep one waiting for its turn for longer than a lock may take.
                Err(error) if error.kind() == FailureKind::Locked => {}
                Err(error) => anyhow::bail!("batch {batch} of {own}: {error}"),
            }
        }
    }
    Ok(())
}

/// Lanes whose statements lock rows in one order do not wait for each other's turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_with_one_statement_a_table_write_side_by_side() -> Result<()> {
    let home = Home::postgres()?;
    let first = Projection::install(home.open().await?, contract(&numbers())).await?;
    let second = Projection::install(home.open().await?, contract(&numbers())).await?;
    let changes = |id: i64| [numeric(1, &[id, 1]), numeric(1, &[id + 1, 1])];
    let (ones, others) = (changes(1), changes(11));
    let writes = |changes| Writes { changes: vec![(0, changes)], ..Writes::default() };
    let mut open = first.begin().await?;
    open.write(&writes(&ones)).await?;
    // The first is not committed yet.
    let others = writes(&others);
    let beside = tokio::time::timeout(Duration::from_secs(5), second.commit(&others));
    beside.await.context("it waits for a lane that writes other rows")??;
    open.commit().await?;
    Ok(())
}

/// Why a generation stands still, that it is caught up, and the like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_is_written_about_beside_batches_that_never_end() -> Result<()> {
    let home = Home::postgres()?;
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let other = home.open().await?;
    let generation = &projection.deployment.generation;
    let open = projection.begin().await?;
    let trouble = Blocker::new(FailureKind::Locked, "a test says so");
    let written = async {
        other.set_blocked(generation, Some(&trouble)).await?;
        other.set_caught_up(generation).await?;
        other.set_impure(generation, "it is a test's").await?;
        other.count_deadlock(generation).await
    };
    tokio::time::timeout(Duration::from_secs(5), written).await.context("it waits for the batch")??;
    drop(open);
    let overview = projection.overview().await?;
    assert_eq!((overview.blocker, overview.faults.deadlocks), (Some(trouble), 1));
    Ok(())
}

/// Who decides about a generation under its fence is heeded by a batch that waited for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_waited_for_a_decision_heeds_it() -> Result<()> {
    let home = Home::postgres()?;
    let projection = Arc::new(Projection::install(home.open().await?, contract(&numbers())).await?);
    let id = projection.deployment.generation.id;
    let mut decides = PgConnection::connect(&home.url()).await?;
    let fence = sqlx::query("select pg_advisory_xact_lock($1, $2)");
    decides.execute("begin").await?;
    // The class of the fence, as `store::postgres` has it.
    fence.bind(0x0050_524a_i32 + 3).bind(id as i32).execute(&mut decides).await?;
    let pause = "update projector.generation set paused = 'a person decides' where id = $1";
    sqlx::query(pause).bind(id).execute(&mut decides).await?;
    let begins = projection.clone();
    let begun = tokio::spawn(async move { begins.begin().await.map(drop) });
    let session = tokio::sync::Mutex::new(home.session().await?);
    let waits = async || Ok(session.lock().await.waiting_for("advisory").await? == 1);
    wait_until("the batch waits for the fence", waits).await?;
    decides.execute("commit").await?;
    let begun = begun.await?;
    assert!(matches!(&begun, Err(StoreError::Paused(reason)) if reason == "a person decides"), "{begun:?}");
    Ok(())
}

/// A reader has one of the host's tables while a host migrates them, and then wants another one: the host is what
/// gives way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_hosts_tables_is_no_victim_of_a_migration() -> Result<()> {
    let home = Home::postgres()?;
    let mut old = PgConnection::connect(&home.url()).await?;
    old.execute("create schema projector; set search_path to projector").await?;
    let known: Vec<_> = POSTGRES.iter().filter(|migration| migration.version <= 5).cloned().collect();
    Migrator { migrations: Cow::Owned(known), ..Migrator::DEFAULT }.run_direct(None, &mut old, false).await?;
    old.close().await?;

    let mut reader = PgConnection::connect(&home.url()).await?;
    reader.execute("begin").await?;
    reader.execute("select count(*) from projector.checkpoint").await?;
    let url = home.url();
    let opening = tokio::spawn(async move { Home::Postgres { url }.open().await.map(drop) });
    let session = tokio::sync::Mutex::new(home.session().await?);
    let waits = async || Ok(session.lock().await.waiting_for("relation").await? >= 1);
    wait_until("the migration waits for the reader", waits).await?;
    reader.execute("select count(*) from projector.generation").await.context("the reader is the victim")?;
    reader.execute("select count(*) from projector.dead_letter").await.context("the reader is the victim")?;
    reader.execute("commit").await?;
    opening.await?.context("the migration is done once the reader is")?;
    Ok(())
}
