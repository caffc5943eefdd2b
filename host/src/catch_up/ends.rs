//! Detects that a generation is caught up: every partition of its topics has reached the end of its log once.
//!
//! The decision uses the checkpoints in the store and the ends of the logs, not what one lane reads: lanes and hosts
//! share the partitions, and a lane may have none. Every host checks. The first host that finds the generation caught
//! up stores this, and the others read it in the store.
//!
//! Invariants: a generation is not caught up while one of its partitions has no checkpoint, cannot be read or is
//! paused, or while one of its topics does not exist. Only committed checkpoints count, so all events before the ends
//! are in the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use projector_core::checkpoint::{Start, start};
use projector_core::event::Partition;
use projector_core::failure::FailureKind;
use projector_core::generation::Generation;
use projector_kafka::{KafkaAdmin, LogError, NEAR_THE_END};
use projector_store::{CatchUp, Store, StoreError, WriteTarget};

use super::CatchUpState;
use crate::retry::{Backoff, Retries};

/// How often the checkpoints are read.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The interval while some topics are unknown: each check then costs a request for each topic.
const CHECK_INTERVAL_UNKNOWN: Duration = Duration::from_secs(2);
/// When a checkpoint has not moved for this many checks, the brokers are asked whether an event follows it; then again
/// after twice as many checks, and so on. The checkpoint may never reach the end of the log: the last offsets may
/// belong to commit markers or to removed records.
const UNCHANGED_CHECKS: u32 = 4;

/// A partition also counts as being at its end if, within this time, the checkpoint reaches the end that the log had
/// before. On a busy topic, producers write more than [`NEAR_THE_END`] records in this time. It is longer than a build
/// waits for late records.
const NEAR_IN_TIME: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl CheckError {
    fn kind(&self) -> FailureKind {
        match self {
            CheckError::Store(error) => error.kind(),
            CheckError::Log(error) => error.kind(),
        }
    }
}

/// Checks a generation until it is caught up, and then notifies its lanes. A failed check is repeated after a backoff,
/// and is shown as a retry. Never returns, like the other tasks beside the lanes.
pub async fn watch(
    deployment: &WriteTarget,
    store: &dyn Store,
    log: &KafkaAdmin,
    retries: &Retries,
    state: Option<Arc<CatchUpState>>,
) {
    let Some(state) = state else { return std::future::pending().await };
    let projection = &*deployment.generation.projection;
    let ends = Ends::default();
    let mut checker = Checker { deployment, store, log, retries, ends, unknown: Vec::new() };
    let mut backoff = Backoff::new(projection, retries);
    loop {
        let pause = match checker.check().await {
            Ok(Found::CaughtUp) => break,
            Ok(Found::Behind) => CHECK_INTERVAL,
            Ok(Found::UnknownTopics) => CHECK_INTERVAL_UNKNOWN,
            Err(error) => {
                backoff.failed(error.kind(), &error);
                tokio::time::sleep(backoff.delay()).await;
                continue;
            }
        };
        backoff.succeeded();
        tokio::time::sleep(pause).await;
    }
    backoff.succeeded();
    tracing::info!(projection, generation = deployment.generation.number, "caught up");
    state.caught_up.cancel();
    // The lanes share this state: when they have dropped it too, the catch-up lock is released.
    drop(state);
    std::future::pending().await
}

/// What a check found.
enum Found {
    CaughtUp,
    Behind,
    /// All known partitions have reached their ends, but some topics are unknown.
    UnknownTopics,
}

struct Checker<'a> {
    deployment: &'a WriteTarget,
    store: &'a dyn Store,
    log: &'a KafkaAdmin,
    retries: &'a Retries,
    ends: Ends,
    /// The unknown topics with the reasons, as they were last logged.
    unknown: Vec<String>,
}

impl Checker<'_> {
    async fn check(&mut self) -> Result<Found, CheckError> {
        let generation = &self.deployment.generation;
        if let CatchUp::Done = self.store.catch_up(generation, false).await? {
            return Ok(Found::CaughtUp);
        }
        if !self.ends.open.is_empty() {
            self.check_open().await?;
        }
        if !self.ends.open.is_empty() {
            return Ok(Found::Behind);
        }
        // Partitions may have been added since the last check.
        let all_known = self.find_partitions().await?;
        if !self.ends.open.is_empty() {
            return Ok(Found::Behind);
        }
        // No partition is known, since no topic matches the pattern yet: without an end, nothing is caught up.
        if !all_known || self.ends.reached.is_empty() {
            return Ok(Found::UnknownTopics);
        }
        self.store.set_caught_up(generation).await?;
        // The database has no statistics for the new tables yet, and readers' queries need them. If this fails, the
        // database collects them later by itself.
        if let Err(error) = self.store.analyze(generation).await {
            let what = "the new tables could not be analyzed";
            self.retries.warn(&generation.projection, what, &error);
        }
        Ok(Found::CaughtUp)
    }

    /// Finds partitions that were added. Returns whether the partitions of all topics are known.
    async fn find_partitions(&mut self) -> Result<bool, CheckError> {
        let topics = self.log.topics(&self.deployment.topics).await?.into_iter().collect();
        let mut unknown = Vec::new();
        for (topic, partitions) in self.log.partitions(topics).await? {
            match partitions {
                Ok(partitions) => self.ends.add(partitions),
                Err(fault) => unknown.push(format!("{topic}: {}", fault.reason())),
            }
        }
        let all_known = unknown.is_empty();
        if self.unknown != unknown {
            let Generation { projection, number, .. } = &self.deployment.generation;
            if !all_known {
                let topics = unknown.join("; ");
                tracing::warn!(
                    projection,
                    generation = number,
                    topics,
                    "the generation does not count as caught up while the partitions of these topics are unknown"
                );
            }
            self.unknown = unknown;
        }
        Ok(all_known)
    }

    /// Compares the checkpoints of the open partitions with the ends of their logs. Asks the brokers only where the
    /// checkpoint alone does not decide.
    async fn check_open(&mut self) -> Result<(), CheckError> {
        let open: Vec<Partition> = self.ends.open.keys().cloned().collect();
        let checkpoints = self.store.checkpoints(&self.deployment.generation, &open).await?;
        let begun = open.into_iter().zip(checkpoints).filter_map(|(at, found)| Some((at, found?)));
        let asked: Vec<_> =
            begun.filter(|(partition, found)| self.ends.must_ask(partition, found.next_offset)).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let logs = self.log.inspect_each(asked.iter().map(|(at, _)| at.clone()).collect()).await?;
        for ((partition, checkpoint), log) in asked.into_iter().zip(logs) {
            let Ok((marks, identity)) = log else { continue };
            let Start::Resume(next) = start(Some(&checkpoint), marks, &identity) else { continue };
            let next = match self.ends.end_of(&partition) {
                Some(end) if next < end => {
                    // An error is ignored, so that one partition does not delay the check of the others. The consumer
                    // reports the same error.
                    match self.log.first_visible(partition.clone(), next).await {
                        Ok(Some((offset, _))) => offset,
                        Ok(None) => marks.high,
                        Err(_) => continue,
                    }
                }
                _ => next,
            };
            self.ends.record(&partition, next, marks.high, Instant::now());
        }
        Ok(())
    }
}

/// Which partitions have reached the ends of their logs. Pure.
#[derive(Debug, Default)]
struct Ends {
    /// Partitions that have not reached their end yet.
    open: BTreeMap<Partition, Target>,
    reached: BTreeSet<Partition>,
}

#[derive(Debug, Default)]
struct Target {
    /// The end of the log and when it was read. `None` if it was not read yet.
    end: Option<(i64, Instant)>,
    checkpoint: Option<i64>,
    /// How many checks have found the checkpoint unchanged.
    unchanged: u32,
}

impl Ends {
    fn add(&mut self, partitions: Vec<Partition>) {
        for partition in partitions {
            if !self.reached.contains(&partition) {
                self.open.entry(partition).or_default();
            }
        }
    }

    fn end_of(&self, partition: &Partition) -> Option<i64> {
        self.open.get(partition).and_then(|target| target.end).map(|(end, _)| end)
    }

    /// Records a partition's checkpoint. Returns whether the brokers must be asked about the partition: its end is not
    /// known yet, the checkpoint has reached the known end, or the checkpoint has not moved for a while.
    fn must_ask(&mut self, partition: &Partition, checkpoint: i64) -> bool {
        let Some(target) = self.open.get_mut(partition) else { return false };
        target.unchanged = match target.checkpoint.replace(checkpoint) {
            Some(before) if before == checkpoint => target.unchanged.saturating_add(1),
            _ => 0,
        };
        let is_unchanged = target.unchanged >= UNCHANGED_CHECKS && target.unchanged.is_power_of_two();
        is_unchanged || target.end.is_none_or(|(end, _)| checkpoint >= end)
    }

    /// Records that the first event that is not in the rows yet is at offset `next` or later, and that the log ends at
    /// `high`.
    fn record(&mut self, partition: &Partition, next: i64, high: i64, now: Instant) {
        let Some(target) = self.open.get_mut(partition) else { return };
        let is_soon = |asked| now.saturating_duration_since(asked) <= NEAR_IN_TIME;
        let is_near = match target.end {
            // The end was not known before this check: even a short log must be read completely.
            None => next >= high,
            Some((end, asked)) => next >= end && (is_soon(asked) || high - next <= NEAR_THE_END),
        };
        if is_near {
            self.open.remove(partition);
            self.reached.insert(partition.clone());
        } else if target.end.is_none_or(|(end, _)| next >= end) {
            target.end = Some((high, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(partitions: i32) -> (Ends, Vec<Partition>) {
        let partitions: Vec<Partition> = (0..partitions).map(|number| Partition::new("t", number)).collect();
        let mut ends = Ends::default();
        ends.add(partitions.clone());
        (ends, partitions)
    }

    fn open(ends: &Ends) -> Vec<i32> {
        ends.open.keys().map(|partition| partition.number).collect()
    }

    #[test]
    fn each_partition_has_to_reach_its_end() {
        let (mut ends, all) = ends(3);
        let now = Instant::now();
        // An empty log, a short one, and a long one.
        ends.record(&all[0], 0, 0, now);
        ends.record(&all[1], 0, 10, now);
        ends.record(&all[2], 5_000, 90_000, now);
        assert_eq!(open(&ends), [1, 2]);
        assert!(!ends.must_ask(&all[1], 9) && ends.must_ask(&all[1], 10));
        ends.record(&all[1], 10, 10, now);
        assert_eq!(open(&ends), [2]);
        // The log grew meanwhile: on a busy topic, the very end is never reached.
        let later = now + Duration::from_secs(60);
        ends.record(&all[2], 90_000, 95_000, later);
        assert_eq!((open(&ends), ends.end_of(&all[2])), (vec![2], Some(95_000)));
        let much_later = later + Duration::from_secs(60);
        ends.record(&all[2], 95_000, 95_000 + NEAR_THE_END, much_later);
        assert!(ends.open.is_empty());
        // Partitions that have reached their end are not checked again. A new partition is.
        ends.add([all, vec![Partition::new("t", 3)]].concat());
        assert_eq!(open(&ends), [3]);
    }

    #[test]
    fn the_brokers_are_asked_about_a_checkpoint_that_does_not_move() {
        let (mut ends, all) = ends(1);
        let now = Instant::now();
        assert!(ends.must_ask(&all[0], 7));
        ends.record(&all[0], 7, 10, now);
        let asked: Vec<bool> = (0..9).map(|_| ends.must_ask(&all[0], 7)).collect();
        assert_eq!(asked, [false, false, false, true, false, false, false, true, false]);
        assert!(!ends.must_ask(&all[0], 8), "it moved");
        // An event follows, before the end.
        ends.record(&all[0], 9, 10, now);
        assert_eq!(open(&ends), [0]);
        // No event follows before the end.
        ends.record(&all[0], 10, 10, now);
        assert!(ends.open.is_empty());
    }

    #[test]
    fn on_a_busy_topic_it_is_near_enough_to_be_a_moment_behind() {
        let (mut ends, all) = ends(1);
        let now = Instant::now();
        ends.record(&all[0], 0, 10_000, now);
        ends.record(&all[0], 10_000, 50_000, now + NEAR_IN_TIME + Duration::from_millis(1));
        assert_eq!(open(&ends), [0], "it took longer");
        ends.record(&all[0], 50_000, 90_000, now + 2 * NEAR_IN_TIME);
        assert!(ends.open.is_empty());
    }
}
