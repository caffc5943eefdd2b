//! Projector at work, from made-up events to a question answered.
//!
//! A history of orders and customers is published to an embedded broker; the real host runs until
//! its read models are fresh, and is stopped; then the read model is asked.

mod broker;
mod host;
mod progress;
mod question;
mod report;
mod status;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use clap::Parser;
use projector_workload::{Publisher, Workload, write_json_lines};

use crate::broker::EmbeddedBroker;
use crate::host::Host;
use crate::progress::Progress;

const PARTITIONS: i32 = 4;
const PLUGINS: [&str; 2] = ["order-search", "sales-by-country"];

/// Publishes a made-up history, projects it, and asks the read model a question.
#[derive(Parser)]
#[command(name = "projector-demo")]
struct Arguments {
    /// The host's program.
    #[arg(long)]
    projector: PathBuf,

    /// Where the plugins' components are.
    #[arg(long)]
    guests: PathBuf,

    /// Where events, configuration and read model go. Emptied first.
    #[arg(long)]
    directory: PathBuf,

    /// How many events to publish.
    #[arg(long, default_value_t = 20_000)]
    events: usize,

    /// Where the history is made up from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match demonstrate(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate(arguments: &Arguments) -> Result<()> {
    let directory = &arguments.directory;
    let workload = Workload::new(arguments.seed, arguments.events, SystemTime::now());
    let plugins = directory.join("plugins");
    prepare(&plugins, directory, &arguments.guests)?;

    let broker = EmbeddedBroker::start(&workload.topics(PARTITIONS))?;
    println!("embedded broker at {}: 3 topics of {PARTITIONS} partitions", broker.bootstrap());
    publish(&workload, &broker, &directory.join("events.jsonl"))?;

    let config = directory.join("projector.toml");
    fs::write(&config, configuration(broker.bootstrap())).context("cannot write the configuration")?;
    println!("projector run --config {}", config.display());
    let mut host = Host::start(&arguments.projector, &config, &directory.join("host.log"))?;
    let projected = host.run_until_fresh(&PLUGINS, arguments.events)?;
    host.stop()?;
    report::print(&projected);
    report::check(&projected)?;

    let read_model = directory.join("readmodel.db");
    let question = question::yoga_mats_in_germany(workload.now);
    question::ask(&read_model, &question).await?;

    println!("kept: {}, {}", directory.join("events.jsonl").display(), read_model.display());
    Ok(())
}

/// An empty directory, but for the plugins.
fn prepare(plugins: &Path, directory: &Path, guests: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    fs::create_dir_all(plugins).with_context(|| format!("cannot create {}", plugins.display()))?;
    for plugin in PLUGINS {
        let component = guests.join(plugin).with_extension("wasm");
        fs::copy(&component, plugins.join(plugin).with_extension("wasm")).with_context(|| {
            format!("no component {}; `cargo xtask guests` builds it", component.display())
        })?;
    }
    Ok(())
}

fn publish(workload: &Workload, broker: &EmbeddedBroker, export: &Path) -> Result<()> {
    let records: Vec<_> = workload.records().collect();
    let progress = Progress::new("published", records.len());
    let started = Instant::now();
    let positions =
        Publisher::new(broker.bootstrap()).progress(|count| progress.reach(count)).publish(&records)?;
    progress.finish();
    broker.assert_complete(&records, &positions)?;
    println!(
        "{} events of seed {} in {:.1} s, by an idempotent producer with gzip and acks=all",
        records.len(),
        workload.seed,
        started.elapsed().as_secs_f64()
    );
    let out = File::create(export).with_context(|| format!("cannot write {}", export.display()))?;
    write_json_lines(BufWriter::new(out), records.iter().zip(&positions))
}

/// All that the host needs to be told.
fn configuration(brokers: &str) -> String {
    format!(
        r#"[kafka]
brokers = "{brokers}"

[plugins]
directory = "plugins"

[store]
url = "sqlite://readmodel.db"
"#
    )
}
