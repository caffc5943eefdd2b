//! Compares the rows of two generations at the same offsets.
//!
//! A write barrier stops both generations at the same offsets until one database snapshot of both is open. Then the
//! barrier is released, and both generations continue while the snapshot is compared.
//!
//! Invariants:
//!
//! - A barrier stands for at most `MOST_BARRIER_TIME`, measured from before it is requested. It expires by itself, so
//!   that a process which dies here stops no generation for longer.
//! - If the generations do not reach the same offsets in this time, the barrier is released and raised again after a
//!   pause, a few times. Between two barriers both generations continue.
//! - No barrier is raised while one generation is behind the other and does not progress: waiting would not help.

use std::time::Duration;

use projector_core::checkpoint::Offsets;
use projector_core::failpoint;
use projector_core::failure::{FailureKind, Response};
use projector_core::generation::{Generation, GenerationStatus};
use projector_store::diff::{Diff, DiffRequest, Expected, Snapshot};
use projector_store::{Store, StoreError};
use tokio::time::Instant;
use uuid::Uuid;

/// How long a write barrier may keep batches from being committed.
pub(super) const MOST_BARRIER_TIME: Duration = Duration::from_secs(1);
/// The part of this time that is kept for opening the snapshot and releasing the barrier.
const RESERVE: Duration = Duration::from_millis(200);
/// How many barriers are tried, and the pause between them.
const BARRIERS: u32 = 5;
const BETWEEN_BARRIERS: Duration = Duration::from_secs(1);
/// A generation that is behind is stuck if its checkpoints do not move for this time. No barrier stands meanwhile.
const STUCK_AFTER: Duration = Duration::from_secs(10);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How many offsets the generations may be apart, in all partitions together. Under a barrier, the generation that is
/// behind has less than a second to read them.
pub const MOST_APART: i64 = 50_000;
/// How often the generations' offsets are read while a barrier stands.
const OFFSETS_INTERVAL: Duration = Duration::from_millis(20);

/// Why two generations cannot be compared, or why one cannot be promoted.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not possible now. A later attempt may succeed.
    #[error("{0}")]
    NotYet(String),
}

/// Compares the rows of two generations. `samples`: how many different rows are shown.
pub async fn compare(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
    expected: &Expected,
    samples: usize,
) -> Result<Diff, CompareError> {
    let contract = |status: &GenerationStatus| {
        let checked = status.descriptor.clone().check();
        checked.map_err(|problems| StoreError::Unusable(format!("a stored descriptor: {problems}")))
    };
    new.is_fed().map_err(StoreError::from)?;
    let contracts = (contract(old)?, contract(new)?);
    let mut snapshot = snapshot_at_same_offsets(store, old, new).await?;
    let request = DiffRequest {
        old: (&old.generation, &contracts.0),
        new: (&new.generation, &contracts.1),
        expected,
        samples,
    };
    Ok(snapshot.diff(&request).await?)
}

/// Opens a snapshot in which both generations are at the same offsets. Tries several barriers.
async fn snapshot_at_same_offsets(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<Box<dyn Snapshot>, CompareError> {
    let both = [old.generation.id, new.generation.id];
    let by = Uuid::new_v4();
    for barrier in 0..BARRIERS {
        if barrier > 0 {
            tokio::time::sleep(BETWEEN_BARRIERS).await;
        }
        await_progress(store, old, new).await?;
        let snapshot = snapshot_in_one_barrier(store, old, new, by).await;
        // Before the result is looked at: a barrier that stays after an error stops both generations until it
        // expires.
        store.release_barrier(&both, by).await?;
        if let Some(snapshot) = snapshot? {
            return Ok(snapshot);
        }
    }
    Err(CompareError::NotYet(format!(
        "generations {} and {} did not reach the same offsets. They were stopped for it {BARRIERS} times, for at most {MOST_BARRIER_TIME:?} each; compare them again when fewer events arrive",
        old.generation.number, new.generation.number
    )))
}

/// Stops both generations with a barrier, lets each one continue up to where the other one is ahead, and opens a
/// snapshot at these offsets. `None`: they did not get there in time. The caller releases the barrier.
async fn snapshot_in_one_barrier(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
    by: Uuid,
) -> Result<Option<Box<dyn Snapshot>>, CompareError> {
    let both = [old.generation.id, new.generation.id];
    let began = Instant::now();
    match raise_barrier(store, &both, by, None, MOST_BARRIER_TIME).await {
        // The barrier waits for the batches in flight, and these took too long. The next barrier may succeed.
        Err(CompareError::Store(error)) if error.kind() == FailureKind::Locked => return Ok(None),
        raised => raised?,
    }
    failpoint::reached(failpoint::HELD, &old.generation.projection);
    let (at_old, at_new) = (store.offsets(both[0]).await?, store.offsets(both[1]).await?);
    let target = meeting(&at_old, &at_new);
    let is_at_target = |vector: &Offsets| distance(vector, &target) == 0;
    if !(is_at_target(&at_old) && is_at_target(&at_new)) {
        let left = MOST_BARRIER_TIME.saturating_sub(began.elapsed());
        raise_barrier(store, &both, by, Some(&target), left).await?;
        while !(is_at_target(&store.offsets(both[0]).await?) && is_at_target(&store.offsets(both[1]).await?))
        {
            if began.elapsed() + RESERVE > MOST_BARRIER_TIME {
                return Ok(None);
            }
            tokio::time::sleep(OFFSETS_INTERVAL).await;
        }
    }
    let mut snapshot = store.snapshot().await?;
    let seen = (snapshot.checkpoints(&old.generation).await?, snapshot.checkpoints(&new.generation).await?);
    // The barrier may have expired before the snapshot was opened, so check the offsets in the snapshot itself.
    let both_at_target = [seen.0, seen.1].into_iter().all(|seen| is_at_target(&seen.into_iter().collect()));
    Ok(both_at_target.then_some(snapshot))
}

/// Waits until each generation that is behind the other one has moved a checkpoint. No barrier stands meanwhile. An
/// error if the generations are too far apart, or one of them is stuck.
async fn await_progress(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<(), CompareError> {
    let began = Instant::now();
    let mut before: Option<[i64; 2]> = None;
    loop {
        let vectors = [store.offsets(old.generation.id).await?, store.offsets(new.generation.id).await?];
        let target = meeting(&vectors[0], &vectors[1]);
        let apart = [&vectors[0], &vectors[1]].map(|vector| distance(vector, &target));
        let sum: i64 = apart.iter().sum();
        if sum > MOST_APART {
            return Err(CompareError::NotYet(format!(
                "generations {} and {} are {sum} offsets apart, and a comparison allows at most {MOST_APART}: wait until the new generation has caught up (`projector status`)",
                old.generation.number, new.generation.number
            )));
        }
        let at = [&vectors[0], &vectors[1]].map(|vector| vector.values().sum::<i64>());
        let first = before.get_or_insert(at);
        let unmoved = [old, new]
            .into_iter()
            .enumerate()
            .find(|(which, _)| apart[*which] > 0 && at[*which] == first[*which]);
        let Some((_, unmoved)) = unmoved else { return Ok(()) };
        let known = why_stuck(store, unmoved).await?;
        if known.is_some() || began.elapsed() > STUCK_AFTER {
            let Generation { projection, number, .. } = &unmoved.generation;
            let reason = known.unwrap_or_else(|| {
                format!(
                    "its checkpoints did not move for {STUCK_AFTER:?}, and the reason is unknown (`projector status`)"
                )
            });
            return Err(CompareError::NotYet(format!(
                "generation {number} of {projection} is behind the other generation and does not progress: {reason}. No generation was stopped for the comparison; compare them again when this one progresses"
            )));
        }
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
}

/// Why a generation does not progress, as far as the store knows. A blocker that hosts retry is no reason: it may end
/// by itself.
pub(super) async fn why_stuck(
    store: &dyn Store,
    status: &GenerationStatus,
) -> Result<Option<String>, StoreError> {
    let Generation { id, projection, .. } = &status.generation;
    if store.live_hosts().await?.is_empty() {
        return Ok(Some("no host is live".into()));
    }
    let Some(control) = store.control_state().await?.into_iter().find(|control| control.generation.id == *id)
    else {
        return Ok(Some("the generation was removed".into()));
    };
    if control.stopped {
        return Ok(Some(format!("the projection is stopped (`projector start {projection}`)")));
    }
    if let Some(paused) = control.paused {
        return Ok(Some(format!("the projection is paused (`projector resume {projection}`): {paused}")));
    }
    let shown = store.overview().await?;
    let Some(shown) = shown.into_iter().find(|shown| shown.is(&status.generation)) else {
        return Ok(None);
    };
    let partitions = shown.partitions.into_iter().filter_map(|partition| {
        let blocker = partition.paused?;
        Some((format!("{}/{}: ", partition.topic, partition.partition), blocker))
    });
    let mut blockers = shown.blocker.into_iter().map(|blocker| (String::new(), blocker)).chain(partitions);
    let lasting = blockers.find(|(_, blocker)| blocker.kind.response() != Response::Retry);
    Ok(lasting.map(|(place, blocker)| format!("{place}{}", blocker.reason)))
}

/// Keeps batches of these generations from being committed, or from going beyond `at`. An error if another command or
/// host has a barrier on one of them.
pub(super) async fn raise_barrier(
    store: &dyn Store,
    generations: &[i64],
    by: Uuid,
    at: Option<&Offsets>,
    time: Duration,
) -> Result<(), CompareError> {
    match store.raise_barrier(generations, by, at, time).await? {
        true => Ok(()),
        false => Err(CompareError::NotYet(
            "another comparison or promotion of this projection is under way: try again in a moment".into(),
        )),
    }
}

/// The offsets at which two generations are compared: in each partition, those of the generation that is ahead. Only
/// topics that both generations read.
fn meeting(one: &Offsets, other: &Offsets) -> Offsets {
    let reads = |vector: &Offsets, topic: &str| vector.keys().any(|partition| &*partition.topic == topic);
    let mut meeting = Offsets::new();
    for (partition, next) in one.iter().chain(other) {
        if reads(one, &partition.topic) && reads(other, &partition.topic) {
            let at = meeting.entry(partition.clone()).or_insert(*next);
            *at = (*at).max(*next);
        }
    }
    meeting
}

/// How many offsets a generation is away from where they meet, in all partitions together. In a partition without a
/// checkpoint it is behind by all offsets, and by one more.
fn distance(vector: &Offsets, meeting: &Offsets) -> i64 {
    let behind = |(partition, at): (_, &i64)| (at - vector.get(partition).copied().unwrap_or(-1)).abs();
    meeting.iter().map(behind).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_core::event::Partition;

    fn vector(of: &[(&str, i32, i64)]) -> Offsets {
        of.iter().map(|(topic, number, next)| (Partition::new(*topic, *number), *next)).collect()
    }

    #[test]
    fn generations_meet_where_the_one_ahead_is_in_topics_that_both_read() {
        let old = vector(&[("a", 0, 7), ("a", 1, 2), ("gone", 0, 9)]);
        let new = vector(&[("a", 0, 5), ("a", 1, 4), ("a", 2, 0), ("added", 0, 1)]);
        let meeting = meeting(&old, &new);
        assert_eq!(meeting, vector(&[("a", 0, 7), ("a", 1, 4), ("a", 2, 0)]));
        assert_eq!((distance(&old, &meeting), distance(&new, &meeting)), (3, 2));
    }
}
