//! A generation is caught up when every partition of its topics was at the end of its log once.
//!
//! The decision uses the checkpoints in the store and the watermarks of the log, not what one lane reads:
//! lanes and hosts share the partitions, and a lane may have none. Every host checks by itself. The first
//! host that detects the end stores it, and the others read it there.
//!
//! Invariants: a partition without a checkpoint, that cannot be read or that is paused keeps the generation
//! behind, and so does a topic that does not exist. Only committed checkpoints count, so all events before
//! the end are in the rows.

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
const LOOK: Duration = Duration::from_millis(250);
/// And while some topics are unknown: then each look costs a request for each topic.
const UNKNOWN: Duration = Duration::from_secs(2);
/// After this many looks at an unchanged checkpoint, the log is asked whether an event follows; then after
/// twice as many, and so on. There may be none, since commit markers and removed events have offsets as
/// well.
const STILL: u32 = 4;

/// A partition also counts as being at its end if the checkpoint reaches, within this time, the end that
/// the log had before. On a busy topic, producers write more in that time than [`NEAR_THE_END`] offsets.
/// The time is longer than a build waits for late records.
const NEAR_IN_TIME: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl LookError {
    fn kind(&self) -> FailureKind {
        match self {
            LookError::Store(error) => error.kind(),
            LookError::Log(error) => error.kind(),
        }
    }
}

/// Checks a generation until it is caught up, and then notifies its lanes. Never returns, like the other
/// tasks beside the lanes. Failures are retried and shown as retries.
pub async fn follow(
    deployment: &WriteTarget,
    store: &dyn Store,
    log: &KafkaAdmin,
    retries: &Retries,
    state: Option<Arc<CatchUpState>>,
) {
    let Some(state) = state else { return std::future::pending().await };
    let projection = &*deployment.generation.projection;
    let mut follower = Follower { deployment, store, log, retries, way: Way::default(), unknown: Vec::new() };
    let mut backoff = Backoff::new(projection, retries);
    loop {
        let pause = match follower.look().await {
            Ok(Look::Over) => break,
            Ok(Look::Behind) => LOOK,
            Ok(Look::Unknown) => UNKNOWN,
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
    // The catch-up lock is released when the lanes drop their references too.
    drop(state);
    std::future::pending().await
}

/// What a look found.
enum Look {
    Over,
    Behind,
    /// All known partitions were at their ends, but some topics are unknown.
    Unknown,
}

struct Follower<'a> {
    deployment: &'a WriteTarget,
    store: &'a dyn Store,
    log: &'a KafkaAdmin,
    retries: &'a Retries,
    way: Way,
    /// Unknown topics and the reasons, as last logged.
    unknown: Vec<String>,
}

impl Follower<'_> {
    async fn look(&mut self) -> Result<Look, LookError> {
        let generation = &self.deployment.generation;
        if let CatchUp::Done = self.store.catch_up(generation, false).await? {
            return Ok(Look::Over);
        }
        if !self.way.open.is_empty() {
            self.look_at_open().await?;
        }
        if !self.way.open.is_empty() {
            return Ok(Look::Behind);
        }
        // Partitions may have been added since the last look.
        let all_known = self.find_partitions().await?;
        if !self.way.open.is_empty() {
            return Ok(Look::Behind);
        }
        // If no topic matches the pattern, there is no end to reach.
        if !all_known || self.way.reached.is_empty() {
            return Ok(Look::Unknown);
        }
        self.store.set_caught_up(generation).await?;
        // The database has no statistics for the new tables yet.
        if let Err(error) = self.store.analyze(generation).await {
            let what = "the new tables could not be analyzed";
            self.retries.missed(&generation.projection, what, &error);
        }
        Ok(Look::Over)
    }

    /// Adds new partitions. Returns whether all partitions of all topics are known.
    async fn find_partitions(&mut self) -> Result<bool, LookError> {
        let topics = self.log.topics(&self.deployment.topics).await?.into_iter().collect();
        let mut unknown = Vec::new();
        for (topic, partitions) in self.log.partitions(topics).await? {
            match partitions {
                Ok(partitions) => self.way.add(partitions),
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
                    "the generation is not caught up while these topics are unknown"
                );
            }
            self.unknown = unknown;
        }
        Ok(all_known)
    }

    async fn look_at_open(&mut self) -> Result<(), LookError> {
        let open: Vec<Partition> = self.way.open.keys().cloned().collect();
        let checkpoints = self.store.checkpoints(&self.deployment.generation, &open).await?;
        let begun = open.into_iter().zip(checkpoints).filter_map(|(at, found)| Some((at, found?)));
        let asked: Vec<_> =
            begun.filter(|(partition, found)| self.way.is_to_ask(partition, found.next_offset)).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let logs = self.log.inspect_each(asked.iter().map(|(at, _)| at.clone()).collect()).await?;
        for ((partition, checkpoint), log) in asked.into_iter().zip(logs) {
            let Ok((marks, identity)) = log else { continue };
            let Start::Resume(next) = start(Some(&checkpoint), marks, &identity) else { continue };
            let next = match self.way.end_of(&partition) {
                Some(end) if next < end => {
                    // The consumer reports the error for this partition; here it must not delay the others.
                    match self.log.first_visible(partition.clone(), next).await {
                        Ok(Some((offset, _))) => offset,
                        Ok(None) => marks.high,
                        Err(_) => continue,
                    }
                }
                _ => next,
            };
            self.way.came_to(&partition, next, marks.high, Instant::now());
        }
        Ok(())
    }
}

/// Partitions on their way to the ends of their logs. Pure.
#[derive(Debug, Default)]
struct Way {
    open: BTreeMap<Partition, Target>,
    reached: BTreeSet<Partition>,
}

#[derive(Debug, Default)]
struct Target {
    /// The end of the log and when it was read. `None` if it was not read yet.
    end: Option<(i64, Instant)>,
    checkpoint: Option<i64>,
    /// Looks at the checkpoint since it last moved.
    still: u32,
}

impl Way {
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

    /// Records a partition's checkpoint. Returns whether to ask the log about the partition.
    fn is_to_ask(&mut self, partition: &Partition, checkpoint: i64) -> bool {
        let Some(target) = self.open.get_mut(partition) else { return false };
        target.still = match target.checkpoint.replace(checkpoint) {
            Some(before) if before == checkpoint => target.still.saturating_add(1),
            _ => 0,
        };
        let is_still = target.still >= STILL && target.still.is_power_of_two();
        is_still || target.end.is_none_or(|(end, _)| checkpoint >= end)
    }

    /// Records that the first event that is not in the rows is at offset `next` or later, and that the log
    /// ends at `high`.
    fn came_to(&mut self, partition: &Partition, next: i64, high: i64, now: Instant) {
        let Some(target) = self.open.get_mut(partition) else { return };
        let is_soon = |asked| now.saturating_duration_since(asked) <= NEAR_IN_TIME;
        let is_near = match target.end {
            // First look: even a short log must be complete.
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

    fn way(partitions: i32) -> (Way, Vec<Partition>) {
        let partitions: Vec<Partition> = (0..partitions).map(|number| Partition::new("t", number)).collect();
        let mut way = Way::default();
        way.add(partitions.clone());
        (way, partitions)
    }

    fn open(way: &Way) -> Vec<i32> {
        way.open.keys().map(|partition| partition.number).collect()
    }

    #[test]
    fn each_partition_has_to_come_to_its_end() {
        let (mut way, all) = way(3);
        let now = Instant::now();
        // One that is empty, a short one, and a long one.
        way.came_to(&all[0], 0, 0, now);
        way.came_to(&all[1], 0, 10, now);
        way.came_to(&all[2], 5_000, 90_000, now);
        assert_eq!(open(&way), [1, 2]);
        assert!(!way.is_to_ask(&all[1], 9) && way.is_to_ask(&all[1], 10));
        way.came_to(&all[1], 10, 10, now);
        assert_eq!(open(&way), [2]);
        // It grew meanwhile; on a busy topic the very end is never reached.
        let later = now + Duration::from_secs(60);
        way.came_to(&all[2], 90_000, 95_000, later);
        assert_eq!((open(&way), way.end_of(&all[2])), (vec![2], Some(95_000)));
        let much_later = later + Duration::from_secs(60);
        way.came_to(&all[2], 95_000, 95_000 + NEAR_THE_END, much_later);
        assert!(way.open.is_empty());
        // Those are not looked at again; one that is new is.
        way.add([all, vec![Partition::new("t", 3)]].concat());
        assert_eq!(open(&way), [3]);
    }

    #[test]
    fn an_end_without_events_is_asked_about_when_a_checkpoint_stands_still() {
        let (mut way, all) = way(1);
        let now = Instant::now();
        assert!(way.is_to_ask(&all[0], 7));
        way.came_to(&all[0], 7, 10, now);
        let asked: Vec<bool> = (0..9).map(|_| way.is_to_ask(&all[0], 7)).collect();
        assert_eq!(asked, [false, false, false, true, false, false, false, true, false]);
        assert!(!way.is_to_ask(&all[0], 8), "it moved");
        // An event follows, before the end.
        way.came_to(&all[0], 9, 10, now);
        assert_eq!(open(&way), [0]);
        // None does.
        way.came_to(&all[0], 10, 10, now);
        assert!(way.open.is_empty());
    }

    #[test]
    fn on_a_busy_topic_it_is_near_enough_to_be_a_moment_behind() {
        let (mut way, all) = way(1);
        let now = Instant::now();
        way.came_to(&all[0], 0, 10_000, now);
        way.came_to(&all[0], 10_000, 50_000, now + NEAR_IN_TIME + Duration::from_millis(1));
        assert_eq!(open(&way), [0], "it took longer");
        way.came_to(&all[0], 50_000, 90_000, now + 2 * NEAR_IN_TIME);
        assert!(way.open.is_empty());
    }
}
