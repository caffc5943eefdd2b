//! Who waits for whom: a batch that depends on stored rows is the only one of its projection.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::home::{Home, wait_until};
use super::on_both_stores;
use super::projection::{PUT, Projection, contract, descriptor, numbers, numeric};

on_both_stores!(a_dropped_transaction_lets_the_next_one_begin);

fn reading() -> Json {
    descriptor(
        numbers()["tables"].clone(),
        numbers()["statements"].clone(),
        json!([{"name": "one", "table": "number", "by": ["id"], "columns": ["n"]}]),
    )
}

async fn a_dropped_transaction_lets_the_next_one_begin(home: Home) -> Result<()> {
    let projection = Projection::install(home.open().await?, contract(&reading())).await?;
    for _ in 0..3 {
        drop(projection.begin().await?);
    }
    projection.write(&[vec![numeric(PUT, &[1, 2])]]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_projection_that_reads_has_one_writer_over_all_hosts() -> Result<()> {
    let home = Home::postgres()?;
    let hosts = [home.open().await?, home.open().await?];
    let first = Projection::install(hosts[0].clone(), contract(&reading())).await?;
    let second = Projection::install(hosts[1].clone(), contract(&reading())).await?;
    let mut other = reading();
    other["name"] = "other-orders".into();
    let other = Projection::install(hosts[1].clone(), contract(&other)).await?;

    let transaction = first.begin().await?;
    let waiting = tokio::spawn(async move { second.begin().await.map(drop) });
    let session = tokio::sync::Mutex::new(home.session().await?);
    let waits = async || Ok(session.lock().await.waiting_for("advisory").await? == 1);
    wait_until("the second writer waits for the first", waits).await?;
    assert!(!waiting.is_finished());
    drop(other.begin().await?);
    drop(transaction);
    waiting.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_writers_by_key_do_not_wait_for_each_other() -> Result<()> {
    let home = Home::postgres()?;
    let projection = Projection::install(home.open().await?, contract(&numbers())).await?;
    let both = async { (projection.begin().await, projection.begin().await) };
    let (a, b) = tokio::time::timeout(Duration::from_secs(20), both).await?;
    assert!(a.is_ok() && b.is_ok());
    Ok(())
}
