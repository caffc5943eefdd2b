//! Two generations at one vector of offsets: both are held there for a moment, until one snapshot of both
//! is open; they go on while the snapshot is compared.
//!
//! Invariants: no hold is longer than `MOST_HELD`, from before it is asked for until it ends, whatever becomes of who
//! asked. What one hold is too short for is tried again, a few times, and both go on between. Where it is known that a
//! generation does not move, nothing is held.

use std::time::Duration;

use projector_core::checkpoint::Offsets;
use projector_core::failpoint;
use projector_core::failure::{FailureKind, Response};
use projector_core::generation::{Generation, GenerationStatus};
use projector_store::diff::{Diff, DiffRequest, Expected, Snapshot};
use projector_store::{Store, StoreError};
use tokio::time::Instant;
use uuid::Uuid;

/// No batch is kept from being written for longer.
pub(super) const MOST_HELD: Duration = Duration::from_secs(1);
/// So much of it is left for what comes after both are there: a snapshot, and the end of the hold.
const RESERVE: Duration = Duration::from_millis(200);
/// Holds in which both may come to the same offsets, and the time between them.
const HOLDS: u32 = 5;
const BETWEEN_HOLDS: Duration = Duration::from_secs(1);
/// A generation that is behind, and whose checkpoints stay where they are for so long, stands still, though no reason
/// is known. Nothing is held meanwhile.
const STILL: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_millis(200);
/// How far one may be behind the other in all, in offsets: held generations have to get there in seconds.
pub const MOST_APART: i64 = 50_000;
const LOOK: Duration = Duration::from_millis(20);

/// Why two generations cannot be compared, or shown.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It may be otherwise later.
    #[error("{0}")]
    NotYet(String),
}

/// What two generations differ in.
pub async fn compare(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
    expected: &Expected,
    samples: usize,
) -> Result<Diff, CompareError> {
    let contract = |standing: &GenerationStatus| {
        let checked = standing.descriptor.clone().check();
        checked.map_err(|problems| StoreError::Unusable(format!("a stored descriptor: {problems}")))
    };
    new.is_fed().map_err(StoreError::from)?;
    let contracts = (contract(old)?, contract(new)?);
    let mut snapshot = at_one_vector(store, old, new).await?;
    let request = DiffRequest {
        old: (&old.generation, &contracts.0),
        new: (&new.generation, &contracts.1),
        expected,
        samples,
    };
    Ok(snapshot.diff(&request).await?)
}

/// A snapshot of both where they are at the same offsets.
async fn at_one_vector(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<Box<dyn Snapshot>, CompareError> {
    let both = [old.generation.id, new.generation.id];
    let by = Uuid::new_v4();
    for pause in (0..HOLDS).map(|hold| if hold == 0 { Duration::ZERO } else { BETWEEN_HOLDS }) {
        tokio::time::sleep(pause).await;
        until_both_move(store, old, new).await?;
        let snapshot = in_one_hold(store, old, new, by).await;
        // Whatever came of it.
        store.release_barrier(&both, by).await?;
        if let Some(snapshot) = snapshot? {
            return Ok(snapshot);
        }
    }
    Err(CompareError::NotYet(format!(
        "generations {} and {} did not come to the same offsets while they were held, {HOLDS} times for {MOST_HELD:?} at most: no hold is longer, so compare them when fewer events arrive",
        old.generation.number, new.generation.number
    )))
}

/// Holds both where they are, has each go where the other one is ahead, and opens a snapshot of that. `None`: the time
/// was too short for it.
async fn in_one_hold(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
    by: Uuid,
) -> Result<Option<Box<dyn Snapshot>>, CompareError> {
    let both = [old.generation.id, new.generation.id];
    let began = Instant::now();
    match raise_barrier(store, &both, by, None, MOST_HELD).await {
        // The batches in flight took too long.
        Err(CompareError::Store(error)) if error.kind() == FailureKind::Locked => return Ok(None),
        held => held?,
    }
    failpoint::reached(failpoint::HELD, &old.generation.projection);
    let (at_old, at_new) = (store.vector(both[0]).await?, store.vector(both[1]).await?);
    let target = meeting(&at_old, &at_new);
    let is_there = |vector: &Offsets| distance(vector, &target) == 0;
    if !(is_there(&at_old) && is_there(&at_new)) {
        let left = MOST_HELD.saturating_sub(began.elapsed());
        raise_barrier(store, &both, by, Some(&target), left).await?;
        while !(is_there(&store.vector(both[0]).await?) && is_there(&store.vector(both[1]).await?)) {
            if began.elapsed() + RESERVE > MOST_HELD {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let mut snapshot = store.snapshot().await?;
    let seen = (snapshot.checkpoints(&old.generation).await?, snapshot.checkpoints(&new.generation).await?);
    // The hold may have ended before.
    let is_of_both = [seen.0, seen.1].into_iter().all(|seen| is_there(&seen.into_iter().collect()));
    Ok(is_of_both.then_some(snapshot))
}

/// Makes sure, without a hold, that each of two generations that is behind the other one can come to where that one
/// is: an error says why not.
async fn until_both_move(
    store: &dyn Store,
    old: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<(), CompareError> {
    let began = Instant::now();
    let mut before: Option<[i64; 2]> = None;
    loop {
        let vectors = [store.vector(old.generation.id).await?, store.vector(new.generation.id).await?];
        let target = meeting(&vectors[0], &vectors[1]);
        let apart = [&vectors[0], &vectors[1]].map(|vector| distance(vector, &target));
        let sum: i64 = apart.iter().sum();
        if sum > MOST_APART {
            return Err(CompareError::NotYet(format!(
                "generations {} and {} are {sum} offsets apart, and {MOST_APART} are the most: wait until the new one has caught up (`projector status`)",
                old.generation.number, new.generation.number
            )));
        }
        let at = [&vectors[0], &vectors[1]].map(|vector| vector.values().sum::<i64>());
        let first = before.get_or_insert(at);
        let still = [old, new]
            .into_iter()
            .enumerate()
            .find(|(which, _)| apart[*which] > 0 && at[*which] == first[*which]);
        let Some((_, still)) = still else { return Ok(()) };
        let known = why_still(store, still).await?;
        if known.is_some() || began.elapsed() > STILL {
            let Generation { projection, number, .. } = &still.generation;
            let reason = known.unwrap_or_else(|| {
                format!(
                    "its checkpoints did not move for {STILL:?}, and no reason is known (`projector status`)"
                )
            });
            return Err(CompareError::NotYet(format!(
                "generation {number} of {projection} stands still, behind the other one: {reason}. Nothing was held; once it goes on, compare them again"
            )));
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Why a generation does not move, as far as the store knows. What passes by itself is no reason.
pub(super) async fn why_still(
    store: &dyn Store,
    standing: &GenerationStatus,
) -> Result<Option<String>, StoreError> {
    let Generation { id, projection, .. } = &standing.generation;
    if store.live_hosts().await?.is_empty() {
        return Ok(Some("no host is live".into()));
    }
    let Some(control) = store.control_state().await?.into_iter().find(|control| control.generation.id == *id)
    else {
        return Ok(Some("it was removed".into()));
    };
    if control.stopped {
        return Ok(Some(format!("the projection is stopped (`projector start {projection}`)")));
    }
    if let Some(paused) = control.paused {
        return Ok(Some(format!("it is paused (`projector resume {projection}`): {paused}")));
    }
    let shown = store.overview().await?;
    let Some(shown) = shown.into_iter().find(|shown| shown.is(&standing.generation)) else {
        return Ok(None);
    };
    let partitions = shown.partitions.into_iter().filter_map(|partition| {
        let trouble = partition.paused?;
        Some((format!("{}/{}: ", partition.topic, partition.partition), trouble))
    });
    let mut troubles = shown.halted.into_iter().map(|trouble| (String::new(), trouble)).chain(partitions);
    let lasting = troubles.find(|(_, trouble)| trouble.kind.response() != Response::Retry);
    Ok(lasting.map(|(place, trouble)| format!("{place}{}", trouble.reason)))
}

/// Holds generations, unless somebody else does.
pub(super) async fn raise_barrier(
    store: &dyn Store,
    generations: &[i64],
    by: Uuid,
    at: Option<&Offsets>,
    time: Duration,
) -> Result<(), CompareError> {
    match store.raise_barrier(generations, by, at, time).await? {
        true => Ok(()),
        false => Err(CompareError::NotYet("somebody else compares or promotes it at this moment".into())),
    }
}

/// Where two generations meet: in each partition of topics that both read, where the one is that is ahead.
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

/// How far one is behind where they meet, in offsets. Of a partition that it did not begin, all are.
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
