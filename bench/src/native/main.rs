//! What a good engineer writes where there is no Projector: one program for one read model, with
//! rdkafka and sqlx, and with Kafka's offsets in the transaction that holds the rows.
//!
//! It does what the plugin `order-search-plain` does. Two threads: one consumes, decodes and folds
//! the events of a batch; the other writes it, while the next one is consumed. A batch takes at
//! most three statements, see [`batch`]. Several instances may share a group: whoever lost a
//! partition finds its offset moved, ends, and is meant to be started again.
//!
//! SIGTERM ends it after the transaction in flight; it then prints one line of JSON: the batches,
//! events and writing statements of its life.

mod batch;
mod consume;
mod event;
mod store;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::consume::Consumer;
use crate::store::Store;

/// Keeps the table `order_search` from the shop's three topics.
#[derive(Parser)]
#[command(name = "projector-bench-native")]
struct Arguments {
    /// Kafka's bootstrap servers.
    #[arg(long)]
    brokers: String,

    /// Where Postgres is, and which database.
    #[arg(long)]
    database: String,

    /// The consumer group.
    #[arg(long)]
    group: String,

    /// Put before the name of every topic.
    #[arg(long, default_value = "")]
    topic_prefix: String,

    /// How many events one transaction takes at most; it never waits to be full.
    #[arg(long, default_value_t = 1_000)]
    batch_events: usize,
}

/// What was committed.
#[derive(Default, Serialize)]
struct Tally {
    batches: u64,
    events: u64,
    /// Statements that wrote rows of the read model.
    statements: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut terminate = signal(SignalKind::terminate())?;
    let on_signal = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        on_signal.store(true, Ordering::Relaxed);
    });

    let store = Store::open(&arguments.database).await?;
    let consumer = Consumer::join(arguments, &store, tokio::runtime::Handle::current())?;
    let batch_events = arguments.batch_events;
    // One batch waits while another is written.
    let (batches, mut filled) = mpsc::channel(1);
    let consuming = thread::spawn(move || consumer.run(batch_events, &stop, &batches));

    let mut tally = Tally::default();
    let written: Result<()> = async {
        while let Some(batch) = filled.recv().await {
            tally.statements += store.write(&batch).await?;
            tally.batches += 1;
            tally.events += batch.events;
        }
        Ok(())
    }
    .await;
    // Whoever consumes for nobody ends.
    drop(filled);
    let consumed = consuming.join().map_err(|_| anyhow!("the consuming thread panicked"))?;
    written.and(consumed)?;
    println!("{}", serde_json::to_string(&tally).context("the counts are no JSON")?);
    Ok(())
}
