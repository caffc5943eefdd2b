//! How fast the host is, and how fast a program is that needs none: events per second from Kafka to
//! committed rows, on a real Kafka and a real Postgres.
//!
//! Machines are noisy, and differ. So the contenders take turns, in an order that rotates from round
//! to round, and what counts are ratios within one run. After every run the rows are compared with
//! the events.

mod contender;
mod feed;
mod measure;
mod process;
mod progress;
mod read_model;
mod report;
mod servers;
mod truth;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use projector_workload::topics::Topic;
use projector_workload::{Publisher, Record, Workload, topics};

use crate::contender::{Contender, HOSTILE_EVENTS, Programs, Surroundings};
use crate::feed::Feed;
use crate::measure::{Measurement, measure};
use crate::process::Process;
use crate::progress::Progress;
use crate::read_model::ReadModel;
use crate::report::{Measurements, Settings};
use crate::servers::Servers;
use crate::truth::Truth;
use crate::workload::{Delivery, Kind};

const PARTITIONS: i32 = 4;
/// A tenth of a second each, at least.
const ENDLESS_LOOPS: u32 = 5_000;

/// Measures events per second from Kafka to committed rows.
#[derive(Parser)]
#[command(name = "projector-bench")]
struct Arguments {
    /// The host's program.
    #[arg(long)]
    projector: PathBuf,

    /// The hand-written program.
    #[arg(long)]
    native: PathBuf,

    /// Where the plugins' components are.
    #[arg(long)]
    guests: PathBuf,

    /// Where the report, logs and configurations go.
    #[arg(long)]
    directory: PathBuf,

    /// 40,000 events a workload and 2 rounds, instead of 200,000 and 5.
    #[arg(long)]
    quick: bool,

    /// Measure only this one; may be given several times.
    #[arg(long, value_enum)]
    workload: Vec<Kind>,

    /// Measure only this one; may be given several times.
    #[arg(long, value_enum)]
    contender: Vec<Contender>,

    /// Where the events are made up from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let (events, rounds) = if arguments.quick { (40_000, 2) } else { (200_000, 5) };
    let chosen_workloads = chosen(&arguments.workload, &Kind::ALL);
    let contenders = chosen(&arguments.contender, &Contender::ALL);
    let programs = Programs {
        projector: arguments.projector.clone(),
        native: arguments.native.clone(),
        guests: arguments.guests.clone(),
    };
    let runs = arguments.directory.join("runs");
    empty(&runs)?;

    let servers = Servers::provide()?;
    let settings = Settings {
        seed: arguments.seed,
        events,
        rounds,
        partitions: PARTITIONS,
        postgres: servers.postgres_settings.clone(),
    };
    let mut measurements = Measurements::default();
    for kind in chosen_workloads {
        let workload = kind.workload(arguments.seed, events);
        let mut bench = Bench::prepare(&servers, &programs, &runs, kind, workload)?;
        for round in 0..rounds {
            for turn in 0..contenders.len() {
                let contender = contenders[(turn + round) % contenders.len()];
                let measurement = bench.run(contender, round).with_context(|| {
                    format!("{} with {} in round {}", contender.name(), kind.name(), round + 1)
                })?;
                eprintln!(
                    "{} {}/{rounds} {}: {:.0} events/s, {:.1} µs CPU an event",
                    kind.name(),
                    round + 1,
                    contender.name(),
                    measurement.events_per_second,
                    measurement.cpu_us_per_event
                );
                measurements.add(kind, contender, measurement);
            }
        }
        bench.end()?;
    }
    print!("{}", measurements.report(&settings, &arguments.directory)?);
    eprintln!("kept: {0}/report.md, {0}/report.json", arguments.directory.display());
    Ok(())
}

/// All, unless some were named.
fn chosen<T: Copy + PartialEq>(named: &[T], all: &[T]) -> Vec<T> {
    all.iter().copied().filter(|one| named.is_empty() || named.contains(one)).collect()
}

fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

/// One workload, and all that its runs share.
struct Bench<'a> {
    servers: &'a Servers,
    programs: &'a Programs,
    runs: &'a Path,
    kind: Kind,
    /// Its topics are those of the runs that find everything published.
    workload: Workload,
    records: Vec<Record>,
    truth: Truth,
    /// What every contender's orders have in common, and who had them first.
    checksum: Option<(Contender, String)>,
}

impl<'a> Bench<'a> {
    fn prepare(
        servers: &'a Servers,
        programs: &'a Programs,
        runs: &'a Path,
        kind: Kind,
        mut workload: Workload,
    ) -> Result<Bench<'a>> {
        workload.topic_prefix = format!("bench-{}-{}.", kind.name(), std::process::id());
        let records: Vec<Record> = workload.records().collect();
        let truth = Truth::of(&records).context("the workload cannot be read")?;
        if kind.delivery() == Delivery::Backlog {
            topics::create(&servers.brokers, &workload.topics(PARTITIONS))?;
            let progress = Progress::new(format!("{} published", kind.name()), records.len());
            Publisher::new(&servers.brokers)
                .progress(|count| progress.reach(count as u64))
                .publish(&records)?;
        }
        Ok(Bench { servers, programs, runs, kind, workload, records, truth, checksum: None })
    }

    /// One run, with a database and a group of its own.
    fn run(&mut self, contender: Contender, round: usize) -> Result<Measurement> {
        let name = format!("{}-{}-{}", self.kind.name(), round + 1, contender.name());
        let directory = self.runs.join(&name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let url = self.servers.database.create_unique_database("bench")?;
        // What earlier runs left to be written is not this one's burden.
        self.servers.database.execute("checkpoint")?;

        let mut workload = self.workload.clone();
        let paced = match self.kind.delivery() {
            Delivery::Backlog => None,
            Delivery::Paced { behind } => {
                workload.topic_prefix = format!("{}{name}.", self.workload.topic_prefix);
                topics::create(&self.servers.brokers, &workload.topics(PARTITIONS))?;
                Some(behind)
            }
        };
        let read = || workload.records().filter(|record| contender.reads(&record.topic));
        let events = self.records.iter().filter(|record| contender.reads(&record.topic)).count();

        let surroundings = Surroundings {
            brokers: &self.servers.brokers,
            database: &url,
            topic_prefix: &workload.topic_prefix,
            directory: &directory,
        };
        if contender.beside().is_some() {
            self.publish_endless_loops(&surroundings)?;
        }
        let mut read_model = ReadModel::connect(contender, &url)?;
        let progress = Progress::new(name, events);
        let feed = paced.map(|behind| Feed::start(&self.servers.brokers, read().collect(), behind));
        let command = contender.command(self.programs, &surroundings)?;
        let process = Process::start(command, &directory.join("log"), contender.plugin())?;
        let measurement = measure(process, &mut read_model, feed, events as u64, &progress)?;

        if contender.beside().is_some() {
            topics::delete(&self.servers.brokers, &[&hostile_topic(&surroundings)])?;
        }
        let checksum = self.truth.check(contender, &mut read_model)?;
        self.compare(contender, checksum)?;
        drop(read_model);
        self.remove(&url, paced.is_some().then_some(&workload))?;
        Ok(measurement)
    }

    /// Events that keep the hostile plugin busy for longer than any run takes.
    fn publish_endless_loops(&self, surroundings: &Surroundings<'_>) -> Result<()> {
        let topic = hostile_topic(surroundings);
        let brokers = &self.servers.brokers;
        topics::create(brokers, &[Topic::new(&topic, PARTITIONS)])?;
        let endless = |number: u32| {
            let payload = format!(r#"{{"do": "loop", "id": "{number}"}}"#);
            Record::new(&*topic, number.to_string(), payload)
        };
        Publisher::new(brokers).publish(&(0..ENDLESS_LOOPS).map(endless).collect::<Vec<_>>())?;
        Ok(())
    }

    /// Contenders that keep the same rows must keep the same rows.
    fn compare(&mut self, contender: Contender, checksum: Option<String>) -> Result<()> {
        match (&self.checksum, checksum) {
            (Some((first, expected)), Some(checksum)) => ensure!(
                *expected == checksum,
                "the orders have the checksum {checksum}, but those of {} had {expected}",
                first.name()
            ),
            (None, Some(checksum)) => self.checksum = Some((contender, checksum)),
            (_, None) => {}
        }
        Ok(())
    }

    /// What a run leaves in the servers would slow down the next one.
    fn remove(&self, url: &str, own_topics: Option<&Workload>) -> Result<()> {
        let database = url.rsplit('/').next().unwrap_or_default();
        let name = database.split('?').next().unwrap_or_default();
        self.servers.database.execute(&format!("drop database \"{name}\" with (force)"))?;
        own_topics.map_or(Ok(()), |workload| delete_topics(&self.servers.brokers, workload))
    }

    fn end(self) -> Result<()> {
        match self.kind.delivery() {
            Delivery::Backlog => delete_topics(&self.servers.brokers, &self.workload),
            Delivery::Paced { .. } => Ok(()),
        }
    }
}

fn hostile_topic(surroundings: &Surroundings<'_>) -> String {
    format!("{}{HOSTILE_EVENTS}", surroundings.topic_prefix)
}

fn delete_topics(brokers: &str, workload: &Workload) -> Result<()> {
    let topics = workload.topics(PARTITIONS);
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    topics::delete(brokers, &names)
}
