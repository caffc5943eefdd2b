//! Builds a new generation from a file with history that the log no longer has, and then from the log.
//!
//! The file is a partition of the generation's checkpoints, and its lines are the offsets. Each batch of lines is
//! committed as a batch of the log is: rows and checkpoint in one transaction. So the command continues after a kill
//! where it was, and writes nothing twice.

mod feeder;
mod pace;
mod take_over;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use projector_core::batch::Buffer;
use projector_core::checkpoint::{Beginning, Identity};
use projector_core::counters::Counters;
use projector_core::deployment::DeploymentAction;
use projector_core::failure_policy::{Failures, Policy};
use projector_core::generation::{GenerationStatus, Role};
use projector_kafka::KafkaAdmin;
use projector_store::{Store, StoreError, WriteTarget};
use serde::Serialize;

use super::{OperationError, Operations, with_store};
use crate::dead_letter_log::DeadLetterLog;
use crate::deploy::backfill::{Lines, Scanned, TOPIC, Topics, digest, partition};
use crate::settle::Settler;
use feeder::Feeder;
use pace::Pace;
use take_over::take_over;

/// The file, and what is known to be wrong with it.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    /// Lines, by their offsets, that are not to be projected.
    pub skipped: BTreeSet<i64>,
    /// Continue even if there are offsets that neither the file nor the log has.
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

impl Operations<'_> {
    /// Feeds a file to a new generation, or continues with a generation that is being fed, and lets the log take over.
    pub async fn backfill(&self, name: &str, file: &File) -> Result<Backfilled, OperationError> {
        with_store(self.config, name, |store, live| async move { self.feed(&store, &live, file).await }).await
    }

    async fn feed(
        &self,
        store: &Arc<dyn Store>,
        live: &GenerationStatus,
        file: &File,
    ) -> Result<Backfilled, OperationError> {
        let name = &*live.generation.projection;
        let config = self.config;
        let building = building_generation(&**store, name).await?;
        // If a generation is being built already, its rows lack the history, so its component is the one to use.
        let active = &building.as_ref().unwrap_or(live).active;
        let candidate = self.stored(&**store, name, active).await?;
        let mapping = match &building {
            // A generation that has begun keeps the topics that it began with.
            Some(building) => config
                .topics_of_generation(building)
                .map_err(|error| OperationError::Failed(error.to_string()))?,
            None => candidate.topics.clone(),
        };
        let topics = Topics::new(mapping.clone());
        let bytes = std::fs::metadata(&file.path).map_err(|error| file.unreadable(&error))?.len();
        let mut told = Pace::new(self.progress, bytes);
        let sha256 = tokio::task::block_in_place(|| {
            digest(&file.path, |read| told.at(read, || "reading what the file is".to_owned()))
        });
        let identity = Identity::of_file(&sha256.map_err(|error| file.unreadable(&error))?);
        let mut fed = building.filter(|building| building.backfilling);
        if let Some(standing) = &fed {
            check_file(&**store, standing, file, &identity).await?;
        }
        let most = config.kafka.value_bytes.saturating_mul(2);
        let mut told = Pace::new(self.progress, bytes);
        let scanned = tokio::task::block_in_place(|| {
            let mut lines = Lines::open(&file.path, most)?;
            Scanned::of(&mut lines, &topics, &file.skipped, |lines| {
                told.at(lines.file_bytes_read(), || {
                    format!("looking through it: {} lines", lines.next_number())
                });
            })
        });
        let scanned = scanned.map_err(|error| file.unreadable(&error))?;
        // Report problems now: it may take hours until the log takes over.
        let log = KafkaAdmin::open(&config.kafka)?;
        file.check_twice(&scanned)?;
        take_over(&log, &mapping, &scanned, file.allow_gap).await?;

        if fed.is_none() {
            self.propose(&**store, &candidate, DeploymentAction::Backfill).await?;
            fed = building_generation(&**store, name).await?.filter(|building| building.backfilling);
        }
        let generation = fed.map(|fed| fed.generation).ok_or_else(|| {
            OperationError::Failed(format!(
                "{name}: another generation is built meanwhile (`projector history`)"
            ))
        })?;
        // Topics that the file does not have are read from the log's beginning.
        store.begin_generation(&generation, &BTreeSet::new(), "a file, then earliest").await?;
        let beginning = Beginning { identity, ..Beginning::at(0) };
        store.begin_partition(&generation, &partition(), &beginning).await?;
        let checkpoints = store.checkpoints(&generation, &[partition()]).await?;
        let checkpoint =
            checkpoints.into_iter().flatten().next().map_or(0, |checkpoint| checkpoint.next_offset);
        (self.progress)(&match checkpoint {
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
        // The first event that fails ends the command.
        let failures = Failures { policy: Policy::Halt, ..Failures::default() };
        let dead_letters = DeadLetterLog::default();
        let settler =
            Settler { deployment, plugin, store: store.clone(), failures, on_trial: None, dead_letters };
        let feeder = Feeder {
            settler,
            file,
            requester: self.requester,
            limits: config.batch_of(name).limits(),
            value_bytes: config.kafka.value_bytes,
            topics,
            lines: Lines::open(&file.path, most).map_err(|error| file.unreadable(&error))?,
            buffer: Buffer::default(),
            checkpoint,
            pace: Pace::new(self.progress, bytes),
        };
        feeder.run().await?;

        for (partition, next, identity) in take_over(&log, &mapping, &scanned, file.allow_gap).await? {
            (self.progress)(&format!("the log of {partition} takes over at {next}"));
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
}

/// The generation that is being built, if there is one.
async fn building_generation(store: &dyn Store, name: &str) -> Result<Option<GenerationStatus>, StoreError> {
    Ok(store.standings(name).await?.into_iter().find(|standing| standing.role == Role::Building))
}

/// Refuses to continue a generation with another file than it began with.
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

/// The outcomes of the file's events.
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

    /// Why the command ends at a line. The lines before it are committed.
    fn ends_at(&self, offset: i64, wrong: &dyn Display) -> OperationError {
        let line = offset + 1;
        OperationError::Failed(format!(
            "{}, line {line}: {wrong}. The lines before it are done; to go on without it, say --skip-line {line} --reason \"…\"; with the plugin or the file mended, begin anew (`projector rebuild` or `retire`, and `backfill` again)",
            self.path.display()
        ))
    }
}
