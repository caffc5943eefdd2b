//! Builds a new generation from a file with events that Kafka no longer has, and then from Kafka.
//!
//! The generation's checkpoints record the file as a partition whose offsets are the numbers of the lines. Each batch
//! of lines is committed like a batch from Kafka: rows and checkpoint in one transaction. So after a crash, the same
//! command continues at the checkpoint, and applies no line twice.

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

/// The file of a backfill, and which of its faults the operator accepts.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    /// Numbers, from 0, of lines that are not projected.
    pub skipped: BTreeSet<i64>,
    /// Continue even if there are offsets that neither the file nor Kafka has.
    pub allow_gap: bool,
}

/// The result of a backfill.
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
    /// Projects a file into a new generation, or continues with a generation whose file is not finished. Hosts then
    /// read on from Kafka.
    pub async fn backfill(&self, name: &str, file: &File) -> Result<Backfilled, OperationError> {
        with_store(
            self.config,
            name,
            |store, live| async move { self.backfill_in(&store, &live, file).await },
        )
        .await
    }

    async fn backfill_in(
        &self,
        store: &Arc<dyn Store>,
        live: &GenerationStatus,
        file: &File,
    ) -> Result<Backfilled, OperationError> {
        let name = &*live.generation.projection;
        let config = self.config;
        let building = building_generation(&**store, name).await?;
        // A generation that is being built has the component for which the operator wants the history.
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
        let mut pace = Pace::new(self.progress, bytes);
        let sha256 = tokio::task::block_in_place(|| {
            digest(&file.path, |read| pace.at(read, || "computing the SHA-256 of the file".to_owned()))
        });
        let identity = Identity::of_file(&sha256.map_err(|error| file.unreadable(&error))?);
        let mut unfinished = building.filter(|building| building.backfilling);
        if let Some(status) = &unfinished {
            check_file(&**store, status, file, &identity).await?;
        }
        let most = config.kafka.value_bytes.saturating_mul(2);
        let mut pace = Pace::new(self.progress, bytes);
        let scanned = tokio::task::block_in_place(|| {
            let mut lines = Lines::open(&file.path, most)?;
            Scanned::of(&mut lines, &topics, &file.skipped, |lines| {
                pace.at(lines.file_bytes_read(), || {
                    format!("scanning the file: {} lines", lines.next_number())
                });
            })
        });
        let scanned = scanned.map_err(|error| file.unreadable(&error))?;
        // Check now whether Kafka continues where the file ends: it may take hours until the file is projected.
        let log = KafkaAdmin::open(&config.kafka)?;
        file.check_twice(&scanned)?;
        take_over(&log, &mapping, &scanned, file.allow_gap).await?;

        if unfinished.is_none() {
            self.propose(&**store, &candidate, DeploymentAction::Backfill).await?;
            unfinished = building_generation(&**store, name).await?.filter(|building| building.backfilling);
        }
        let generation = unfinished.map(|unfinished| unfinished.generation).ok_or_else(|| {
            OperationError::Failed(format!(
                "{name}: another deployment has replaced the generation of this backfill (`projector history {name}`)"
            ))
        })?;
        // Topics of which the file has no events are read from their first offset.
        store.begin_generation(&generation, &BTreeSet::new(), "a file, then earliest").await?;
        let beginning = Beginning { identity, ..Beginning::at(0) };
        store.begin_partition(&generation, &partition(), &beginning).await?;
        let checkpoints = store.checkpoints(&generation, &[partition()]).await?;
        let checkpoint =
            checkpoints.into_iter().flatten().next().map_or(0, |checkpoint| checkpoint.next_offset);
        (self.progress)(&match checkpoint {
            0 => format!("generation {} is built from {}", generation.number, file.path.display()),
            next => format!("generation {} continues at line {}", generation.number, next + 1),
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
            (self.progress)(&format!("{partition} is read from Kafka at offset {next}"));
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
    Ok(store.generations(name).await?.into_iter().find(|status| status.role == Role::Building))
}

/// Refuses to continue a generation with another file than the one with which it was started.
async fn check_file(
    store: &dyn Store,
    status: &GenerationStatus,
    file: &File,
    identity: &Identity,
) -> Result<(), OperationError> {
    let begun = store.checkpoints(&status.generation, &[partition()]).await?.into_iter().flatten().next();
    if begun.is_none_or(|begun| begun.identity == *identity) {
        return Ok(());
    }
    let (name, number) = (&status.generation.projection, status.generation.number);
    Err(OperationError::Failed(format!(
        "generation {number} of {name} was started with another file than {}, or the file was changed since. Name the file as it was to continue, or start again after `projector retire {name} --generation {number}`",
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
            help: "name a file of JSON lines; if its name ends in .gz or .zst, it must be compressed in this format"
                .into(),
        }
    }

    /// Refuses a file in which two lines have the same offset: each line is projected, so the event would count
    /// twice.
    fn check_twice(&self, scanned: &Scanned) -> Result<(), OperationError> {
        let twice = scanned.offsets.iter().find_map(|(partition, of)| Some((partition, of.twice()?)));
        let Some((partition, (offset, line))) = twice else { return Ok(()) };
        Err(OperationError::Failed(format!(
            "{}, line {line}: offset {offset} of {partition} is in an earlier line too, so its event would be projected twice. Remove one of the two lines, or skip this one: --skip-line {line} --reason \"…\"",
            self.path.display()
        )))
    }

    /// Why the command ends at a line. The lines before it are committed.
    fn ends_at(&self, offset: i64, wrong: &dyn Display) -> OperationError {
        let line = offset + 1;
        OperationError::Failed(format!(
            "{}, line {line}: {wrong}. The lines before it are committed. To continue without it, add --skip-line {line} --reason \"…\". If you correct the plugin or the file, start again: `projector rebuild` or `retire`, then `backfill`",
            self.path.display()
        ))
    }
}
