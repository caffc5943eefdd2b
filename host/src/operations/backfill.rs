//! History from a file, through the plugin, into a new generation; then the log takes over.
//!
//! The file is a partition of the generation's checkpoints, its lines are the offsets, and each batch is
//! settled as one of the log is: so it goes on after a kill where it was, and writes nothing twice.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use humantime_serde::re::humantime;
use serde::Serialize;

use super::OperationError;
use super::deployments::{Progress, propose, stored};
use crate::batch::{BatchLimits, Buffer, Delivery};
use crate::checkpoint::{Beginning, Identity};
use crate::config::Config;
use crate::dead_letter_log::DeadLetterLog;
use crate::deploy::backfill::{
    Line, Lines, OffsetSet, Scanned, TOPIC, Topics, digest, event, is_blank, partition,
};
use crate::event::Partition;
use crate::event_failure::Failure;
use crate::failure::FailureKind;
use crate::failure_policy::{Failures, Flood, Policy};
use crate::project::{self, Caller, ProjectError};
use crate::settle::{Isolate, Settler, isolate};
use crate::source::{KafkaAdmin, LogError};
use crate::store::deployments::{DeploymentAction, GenerationStatus, Role};
use crate::store::operator::Requester;
use crate::store::{Advance, Counters, OutcomeCounts, Store, StoreError, WriteTarget, Writes};
use crate::topics::TopicMapping;

/// Times that an event may run out of wall time.
const TIMEOUTS: u32 = 3;
/// How often it is looked whether a hold is over.
const BARRIER_LOOK: Duration = Duration::from_millis(100);
/// Ranges of missing offsets that are named. Of more, the number is told.
const NAMED: usize = 8;
/// How often is told how far it is.
const TOLD: Duration = Duration::from_secs(1);

/// What is fed.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    /// Lines, by their offsets, that are not to be projected.
    pub skipped: BTreeSet<i64>,
    /// Although there are offsets that neither the file nor the log has.
    pub allow_gap: bool,
}

/// What came of a file.
#[derive(Debug, Serialize)]
pub struct Backfilled {
    pub generation: i32,
    pub lines: i64,
    pub events: i64,
    pub applied: i64,
    pub ignored: i64,
    pub skipped: i64,
}

/// Feeds a file to a new generation, or goes on with one that is being fed, and lets the log take over.
pub async fn backfill(
    config: &Config,
    executable: PathBuf,
    name: &str,
    file: &File,
    asked: &Requester,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Backfilled, OperationError> {
    let (store, live) = super::projection(config, name).await?;
    let fed = feed(config, executable, &store, &live, file, asked, patience, progress).await;
    store.close().await;
    fed
}

#[expect(clippy::too_many_arguments, reason = "all that the command is given, and its store")]
async fn feed(
    config: &Config,
    executable: PathBuf,
    store: &Arc<dyn Store>,
    live: &GenerationStatus,
    file: &File,
    asked: &Requester,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Backfilled, OperationError> {
    let name = &*live.generation.projection;
    let building = building(&**store, name).await?;
    // That of the generation which is built already, if there is one: it is that one's rows that lack history.
    let active = &building.as_ref().unwrap_or(live).active;
    let candidate = stored(config, executable, &**store, name, active).await?;
    let mapping = match &building {
        // One that is fed already is fed as it was begun.
        Some(building) => {
            building.topics(config).map_err(|error| OperationError::Failed(error.to_string()))?
        }
        None => candidate.topics.clone(),
    };
    let topics = Topics::new(mapping.clone());
    let bytes = std::fs::metadata(&file.path).map_err(|error| file.unreadable(&error))?.len();
    let mut told = Pace::new(progress, bytes);
    let sha256 = tokio::task::block_in_place(|| {
        digest(&file.path, |read| told.at(read, || "reading what the file is".to_owned()))
    });
    let identity = Identity::of_file(&sha256.map_err(|error| file.unreadable(&error))?);
    let mut fed = building.filter(|building| building.backfilling);
    if let Some(standing) = &fed {
        check_file(&**store, standing, file, &identity).await?;
    }
    let most = config.kafka.value_bytes.saturating_mul(2);
    let mut told = Pace::new(progress, bytes);
    let scanned = tokio::task::block_in_place(|| {
        let mut lines = Lines::open(&file.path, most)?;
        Scanned::of(&mut lines, &topics, &file.skipped, |lines| {
            told.at(lines.packed_bytes(), || format!("looking through it: {} lines", lines.next_number()));
        })
    });
    let scanned = scanned.map_err(|error| file.unreadable(&error))?;
    // As soon as it can be told: it may take hours until the log takes over.
    let log = KafkaAdmin::open(&config.kafka)?;
    file.check_twice(&scanned)?;
    take_over(&log, &mapping, &scanned, file.allow_gap).await?;

    if fed.is_none() {
        propose(&**store, &candidate, DeploymentAction::Backfill, asked, patience, progress).await?;
        fed = self::building(&**store, name).await?.filter(|building| building.backfilling);
    }
    let generation = fed.map(|fed| fed.generation).ok_or_else(|| {
        OperationError::Failed(format!("{name}: another generation is built meanwhile (`projector history`)"))
    })?;
    // What the file does not have is read from the log's beginning.
    store.begin_generation(&generation, &BTreeSet::new(), "a file, then earliest").await?;
    let beginning = Beginning { identity, ..Beginning::at(0) };
    store.begin_partition(&generation, &partition(), &beginning).await?;
    let checkpoints = store.checkpoints(&generation, &[partition()]).await?;
    let checkpoint = checkpoints.into_iter().flatten().next().map_or(0, |checkpoint| checkpoint.next_offset);
    progress(&match checkpoint {
        0 => format!("generation {} is fed from {}", generation.number, file.path.display()),
        next => format!("generation {} is fed on from line {}", generation.number, next + 1),
    });
    let plugin = candidate.plugin;
    let deployment = WriteTarget {
        generation: generation.clone(),
        digest: plugin.digest.as_str().into(),
        contract: plugin.contract.clone(),
        topics: mapping.clone(),
    };
    // The first event that fails ends it.
    let failures = Failures { policy: Policy::Halt, ..Failures::default() };
    let dead_letters = DeadLetterLog::default();
    let settler =
        Settler { deployment, plugin, store: store.clone(), failures, on_trial: None, dead_letters };
    let feeder = Feeder {
        settler,
        file,
        asked,
        limits: config.batch_of(name).limits(),
        value_bytes: config.kafka.value_bytes,
        topics,
        lines: Lines::open(&file.path, most).map_err(|error| file.unreadable(&error))?,
        buffer: Buffer::default(),
        checkpoint,
        told: Pace::new(progress, bytes),
    };
    feeder.run().await?;

    for (partition, next, identity) in take_over(&log, &mapping, &scanned, file.allow_gap).await? {
        progress(&format!("the log of {partition} takes over at {next}"));
        let beginning = Beginning { identity, ..Beginning::at(next) };
        store.begin_partition(&generation, &partition, &beginning).await?;
    }
    let counters = counters(&**store, name, generation.number).await?;
    let verdict = format!(
        "generation {}: {} events of {} lines from {}",
        generation.number,
        counters.read,
        scanned.lines,
        file.path.display()
    );
    store.end_backfill(&generation, &verdict).await?;
    Ok(Backfilled {
        generation: generation.number,
        lines: scanned.lines,
        events: counters.read,
        applied: counters.applied,
        ignored: counters.ignored,
        skipped: counters.skipped,
    })
}

async fn building(store: &dyn Store, name: &str) -> Result<Option<GenerationStatus>, StoreError> {
    Ok(store.standings(name).await?.into_iter().find(|standing| standing.role == Role::Building))
}

/// Whether a generation that was begun with a file is to go on with this one.
async fn check_file(
    store: &dyn Store,
    standing: &GenerationStatus,
    file: &File,
    identity: &Identity,
) -> Result<(), OperationError> {
    let begun = store.checkpoints(&standing.generation, &[partition()]).await?.into_iter().flatten().next();
    if begun.is_none_or(|begun| begun.identity == *identity) {
        return Ok(());
    }
    let (name, number) = (&standing.generation.projection, standing.generation.number);
    Err(OperationError::Failed(format!(
        "generation {number} of {name} was begun with another file than {}, or with this one before it was changed: name that one to go on; to begin anew, `projector retire {name} --generation {number}` first",
        file.path.display()
    )))
}

/// Where the log takes over: after the last offset that the file has of a partition; in the others at the beginning
/// of the log. A partition that is not known now is left to the hosts, unless the file has offsets of its topic.
async fn take_over(
    log: &KafkaAdmin,
    mapping: &TopicMapping,
    scanned: &Scanned,
    allow_gap: bool,
) -> Result<Vec<(Partition, i64, Identity)>, OperationError> {
    let has_offsets = |topic: &str| scanned.offsets.keys().any(|partition| *partition.topic == *topic);
    let mut existing: BTreeSet<Partition> = BTreeSet::new();
    for (topic, partitions) in log.partitions(log.topics(mapping).await?.into_iter().collect()).await? {
        match partitions {
            Ok(partitions) => existing.extend(partitions),
            Err(fault) if has_offsets(&topic) && fault.kind() != FailureKind::NoTopic => {
                return Err(LogError::Fault(fault).into());
            }
            Err(_) => {}
        }
    }
    if let Some(missing) = scanned.offsets.keys().find(|partition| !existing.contains(*partition)) {
        return Err(OperationError::Failed(format!(
            "the file has offsets of {missing}, which does not exist: they are of another log; leave `partition` and `offset` out, and the log is read from its beginning"
        )));
    }
    let existing: Vec<Partition> = existing.into_iter().collect();
    let logs = log.inspect_each(existing.clone()).await?;
    let (mut taken, mut missing) = (Vec::new(), Missing::default());
    for (partition, log) in existing.into_iter().zip(logs) {
        let of_file = scanned.offsets.get(&partition);
        let (marks, identity) = match log {
            Ok(log) => log,
            Err(fault) if has_offsets(&partition.topic) => return Err(LogError::Fault(fault).into()),
            Err(_) => continue,
        };
        let next = of_file.map_or(0, OffsetSet::end);
        if next > marks.high {
            return Err(OperationError::Failed(format!(
                "the file has offset {} of {partition}, and the log ends at {}: it is another log; leave `partition` and `offset` out, and it is read from its beginning",
                next - 1,
                marks.high
            )));
        }
        if let Some(offsets) = of_file {
            missing.in_file(&partition, offsets);
        }
        // Nothing tells what a file without offsets has of its topics.
        if next < marks.low && has_offsets(&partition.topic) {
            missing.add(&partition, &(next..marks.low));
        }
        taken.push((partition, next.max(marks.low), identity));
    }
    match missing.is_empty() || allow_gap {
        true => Ok(taken),
        false => Err(OperationError::Failed(format!(
            "the file, and the log after it, do not have {}: add them to the file, or go on without them with --allow-gap. An offset without an event (a transaction's marker, a record that was compacted) is missing as well",
            missing.to_text()
        ))),
    }
}

/// Offsets that are in neither the file nor what is read of the log.
#[derive(Default)]
struct Missing {
    /// The first ones.
    named: Vec<String>,
    more: u64,
}

impl Missing {
    fn in_file(&mut self, partition: &Partition, offsets: &OffsetSet) {
        let (holes, more) = offsets.holes();
        holes.iter().for_each(|hole| self.add(partition, hole));
        self.more += more;
    }

    fn add(&mut self, partition: &Partition, offsets: &Range<i64>) {
        match self.named.len() < NAMED {
            true => {
                let (first, last) = (offsets.start, offsets.end - 1);
                self.named.push(format!("offsets {first} to {last} of {partition}"));
            }
            false => self.more += 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.more == 0
    }

    fn to_text(&self) -> String {
        let named = self.named.join(", ");
        match self.more {
            0 => named,
            more => format!("{named} and {more} more ranges"),
        }
    }
}

/// What became of the events of the file.
async fn counters(store: &dyn Store, name: &str, number: i32) -> Result<Counters, StoreError> {
    let overview = store.overview().await?;
    let generation =
        overview.iter().find(|generation| generation.name == name && generation.generation == number);
    let partitions = generation.map(|generation| &*generation.partitions).unwrap_or_default();
    Ok(partitions.iter().find(|state| state.topic == TOPIC).map(|state| state.counters).unwrap_or_default())
}

impl File {
    fn unreadable(&self, error: &io::Error) -> OperationError {
        OperationError::Usage {
            message: format!("{} cannot be read: {error}", self.path.display()),
            help: "name a file of JSON lines, packed as its name says (.gz, .zst), or not at all".into(),
        }
    }

    /// Each line is projected, so an event that has two would count twice.
    fn check_twice(&self, scanned: &Scanned) -> Result<(), OperationError> {
        let twice = scanned.offsets.iter().find_map(|(partition, of)| Some((partition, of.twice()?)));
        let Some((partition, (offset, line))) = twice else { return Ok(()) };
        Err(OperationError::Failed(format!(
            "{}, line {line}: offset {offset} of {partition} stands in an earlier line already, and would be projected twice. Remove one of the two lines, or skip this one: --skip-line {line} --reason \"…\"",
            self.path.display()
        )))
    }

    /// Why it ends at a line. Those before it are done.
    fn ends_at(&self, offset: i64, wrong: &dyn Display) -> OperationError {
        let line = offset + 1;
        OperationError::Failed(format!(
            "{}, line {line}: {wrong}. The lines before it are done; to go on without it, say --skip-line {line} --reason \"…\"; with the plugin or the file mended, begin anew (`projector rebuild` or `retire`, and `backfill` again)",
            self.path.display()
        ))
    }
}

/// Brings a file's lines into the rows.
struct Feeder<'f> {
    settler: Settler,
    file: &'f File,
    asked: &'f Requester,
    limits: BatchLimits,
    value_bytes: usize,
    topics: Topics,
    lines: Lines,
    /// Events of lines that were read, in their order.
    buffer: Buffer,
    /// The next line whose event is not in the rows.
    checkpoint: i64,
    told: Pace<'f>,
}

/// Why no more lines are read for now.
enum Stop {
    End,
    Skip(i64),
    Wrong(i64, String),
}

impl Feeder<'_> {
    async fn run(mut self) -> Result<(), OperationError> {
        tokio::task::block_in_place(|| self.lines.skip_to(self.checkpoint))
            .map_err(|error| self.file.unreadable(&error))?;
        self.told.begin(self.checkpoint, self.lines.packed_bytes());
        loop {
            let stop =
                tokio::task::block_in_place(|| self.fill()).map_err(|error| self.file.unreadable(&error))?;
            // All that comes before it.
            while !self.buffer.is_empty() && (stop.is_some() || self.buffer.is_full(self.limits)) {
                self.settle().await?;
            }
            match stop {
                None => {}
                Some(Stop::End) => return Ok(()),
                Some(Stop::Skip(line)) => self.skip(line).await?,
                Some(Stop::Wrong(line, wrong)) => return Err(self.file.ends_at(line, &wrong)),
            }
        }
    }

    /// Reads as many lines as there is room for.
    fn fill(&mut self) -> io::Result<Option<Stop>> {
        let mut line = Vec::new();
        while !self.buffer.is_full(self.limits) {
            let Some(Line { number, too_long }) = self.lines.read(&mut line)? else {
                return Ok(Some(Stop::End));
            };
            if self.file.skipped.contains(&number) {
                return Ok(Some(Stop::Skip(number)));
            }
            if too_long {
                let wrong = "it is longer than `kafka.value-bytes` lets it be, twice over".to_owned();
                return Ok(Some(Stop::Wrong(number, wrong)));
            }
            if is_blank(&line) {
                continue;
            }
            match event(&line, number, &self.topics, self.value_bytes) {
                Ok(event) => self.buffer.extend(vec![Delivery { event, epoch: 0 }]),
                Err(wrong) => return Ok(Some(Stop::Wrong(number, wrong))),
            }
        }
        Ok(None)
    }

    /// Settles the first events that wait, in one transaction.
    async fn settle(&mut self) -> Result<(), OperationError> {
        let mut batch = self.buffer.take(self.limits);
        let mut timeouts = 0;
        loop {
            let first = batch[0].event.position.offset;
            let error = match self.attempt(&mut batch).await {
                Ok(advances) => {
                    for Advance { next, .. } in advances {
                        self.checkpoint = next;
                    }
                    self.told.line(self.checkpoint, self.lines.packed_bytes());
                    return Ok(());
                }
                Err(error) => error,
            };
            let failed = |failure: Failure| self.file.ends_at(first, &format!("the event failed: {failure}"));
            match error {
                ProjectError::Store(StoreError::Held(_)) => tokio::time::sleep(BARRIER_LOOK).await,
                ProjectError::Store(error @ (StoreError::Rejected { .. } | StoreError::Data(_))) => {
                    match isolate(error, batch.len())? {
                        Isolate::First(failure) => return Err(failed(failure)),
                        Isolate::Cut(events) => self.buffer.put_back(batch.split_off(events)),
                    }
                }
                ProjectError::Store(error) => return Err(self.broken_off(error)),
                ProjectError::OnTrial(failure) => return Err(failed(failure)),
                ProjectError::Blocker(trouble) => return Err(self.file.ends_at(first, &trouble.reason)),
                ProjectError::Timeout(position) => {
                    timeouts += 1;
                    if timeouts == TIMEOUTS {
                        let detail = format!("it ran out of time {TIMEOUTS} times");
                        let failure = Failure::new(FailureKind::Timeout, "time", detail);
                        let wrong = format!("the event failed: {failure}");
                        return Err(self.file.ends_at(position.offset, &wrong));
                    }
                }
            }
        }
    }

    /// One attempt at the first of these events; the others wait again.
    async fn attempt(&mut self, batch: &mut Vec<Delivery>) -> Result<Vec<Advance>, ProjectError> {
        let plugin = &self.settler.plugin;
        let answers = tokio::task::block_in_place(|| project::ask(plugin, batch))?;
        self.buffer.put_back(batch.split_off(answers.len()));
        let mut caller = Caller::new(plugin);
        let (at, flood) = (self.checkpoint, Flood::default());
        let attempt = self.settler.attempt(&mut caller, batch, &answers, &|_| at, &flood).await;
        self.buffer.put_back(batch.split_off(attempt.events));
        attempt.result.map(|(advances, _)| advances)
    }

    /// Counts a line as skipped, because an operator says so. It is kept who did, and why.
    async fn skip(&mut self, line: i64) -> Result<(), OperationError> {
        let Settler { deployment, store, .. } = &self.settler;
        let (generation, file) = (&deployment.generation, partition());
        if self.checkpoint < line {
            // Nothing stands in between.
            let books = OutcomeCounts::default();
            let advance = Advance { partition: file.clone(), expected: self.checkpoint, next: line, books };
            let blank = async {
                let mut tx = store.begin(deployment).await?;
                tx.write(&Writes { advances: vec![advance], ..Writes::default() }).await?;
                tx.commit().await
            };
            blank.await.map_err(|error| self.broken_off(error))?;
        }
        store.skip(generation, &file, line + 1, self.asked).await?;
        self.checkpoint = line + 1;
        Ok(())
    }

    fn broken_off(&self, error: StoreError) -> OperationError {
        let line = self.checkpoint + 1;
        let projection = &self.settler.deployment.generation.projection;
        match error {
            StoreError::CheckpointMoved(_) => OperationError::Failed(format!(
                "another `projector backfill {projection}` is under way: it went on from line {line}"
            )),
            StoreError::Inactive(active) => OperationError::Failed(format!(
                "another component is the active one of the generation now ({active}); the lines before {line} are done, and the same command goes on with that one, if there is one"
            )),
            StoreError::Paused(reason) => OperationError::Failed(format!(
                "the projection is not to write: {reason}; the lines before {line} are done, and the same command goes on after `projector resume`"
            )),
            StoreError::Unavailable(error) => OperationError::unanswered(format!(
                "the read-model database: {error}. The lines before {line} are done, and the same command goes on"
            )),
            error => error.into(),
        }
    }
}

/// Tells how far it is, once a second at most.
struct Pace<'p> {
    progress: Progress<'p>,
    /// Of the file.
    bytes: u64,
    began: Instant,
    /// Where it was then: the line, and the bytes of the file.
    from: (i64, u64),
    told: Instant,
}

impl<'p> Pace<'p> {
    fn new(progress: Progress<'p>, bytes: u64) -> Self {
        let now = Instant::now();
        Self { progress, bytes, began: now, from: (0, 0), told: now }
    }

    fn begin(&mut self, line: i64, bytes: u64) {
        *self = Self { from: (line, bytes), ..Self::new(self.progress, self.bytes) };
    }

    fn at(&mut self, bytes: u64, words: impl FnOnce() -> String) {
        if self.told.elapsed() >= TOLD {
            self.told = Instant::now();
            (self.progress)(&format!("{}, {:.0} %", words(), self.percent(bytes)));
        }
    }

    /// This many lines are done, and this much of the file is read.
    fn line(&mut self, line: i64, bytes: u64) {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let (lines, read) = (line - self.from.0, bytes.saturating_sub(self.from.1));
        let left = self.bytes.saturating_sub(bytes) as f64 * seconds / (read as f64).max(1.0);
        let left = humantime::format_duration(Duration::from_secs(left as u64));
        self.at(bytes, || format!("line {line}: {:.0} lines a second, {left} left", lines as f64 / seconds));
    }

    fn percent(&self, bytes: u64) -> f64 {
        bytes as f64 * 100.0 / self.bytes.max(1) as f64
    }
}
