//! Two generations at one vector of offsets: both are held there for a moment, until one snapshot of both
//! is open; they go on while the snapshot is compared.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::failpoint;
use crate::store::deployments::{Standing, Vector};
use crate::store::diff::{Diff, DiffRequest, Expected, Snapshot};
use crate::store::{Store, StoreError};

/// Whoever holds and dies keeps nobody waiting for longer.
const HOLD: Duration = Duration::from_secs(5);
/// How often a hold is renewed that is needed still.
const RENEWAL: Duration = Duration::from_secs(1);
/// How long held generations are waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How far one may be behind the other in all, in offsets: held generations have to get there in seconds.
pub const MOST_APART: i64 = 50_000;
const LOOK: Duration = Duration::from_millis(50);

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
    old: &Standing,
    new: &Standing,
    expected: &Expected,
    samples: usize,
) -> Result<Diff, CompareError> {
    let contract = |standing: &Standing| {
        let checked = standing.descriptor.clone().check();
        checked.map_err(|problems| StoreError::Unusable(format!("a stored descriptor: {problems}")))
    };
    new.is_fed()?;
    let contracts = (contract(old)?, contract(new)?);
    let both = [old.generation.id, new.generation.id];
    let by = Uuid::new_v4();
    let snapshot = at_one_vector(store, old, new, by).await;
    // Whatever came of it.
    store.let_go(&both, by).await?;
    let request = DiffRequest {
        old: (&old.generation, &contracts.0),
        new: (&new.generation, &contracts.1),
        expected,
        samples,
    };
    Ok(snapshot?.diff(&request).await?)
}

/// Holds both where they are, has each go where the other one is ahead, and opens a snapshot of that.
async fn at_one_vector(
    store: &dyn Store,
    old: &Standing,
    new: &Standing,
    by: Uuid,
) -> Result<Box<dyn Snapshot>, CompareError> {
    let both = [old.generation.id, new.generation.id];
    let deadline = Instant::now() + PATIENCE;
    hold(store, &both, by, None, HOLD).await?;
    failpoint::reached(failpoint::HELD, &old.generation.projection);
    let (at_old, at_new) = (store.vector(both[0]).await?, store.vector(both[1]).await?);
    let target = meeting(&at_old, &at_new);
    let apart: i64 = [&at_old, &at_new].into_iter().map(|vector| distance(vector, &target)).sum();
    if apart > MOST_APART {
        return Err(CompareError::NotYet(format!(
            "generations {} and {} are {apart} offsets apart, and {MOST_APART} are the most: wait until the new one has caught up (`projector status`)",
            old.generation.number, new.generation.number
        )));
    }
    hold(store, &both, by, Some(&target), HOLD).await?;
    let mut held = Instant::now();
    let is_there = |vector: &Vector| distance(vector, &target) == 0;
    while !(is_there(&store.vector(both[0]).await?) && is_there(&store.vector(both[1]).await?)) {
        if Instant::now() > deadline {
            return Err(CompareError::NotYet(format!(
                "the generations did not come to the same offsets within {PATIENCE:?}: does a host run both, and does neither stand still?"
            )));
        }
        if held.elapsed() > RENEWAL {
            hold(store, &both, by, Some(&target), HOLD).await?;
            held = Instant::now();
        }
        tokio::time::sleep(LOOK).await;
    }
    let mut snapshot = store.snapshot().await?;
    let seen = (snapshot.checkpoints(&old.generation).await?, snapshot.checkpoints(&new.generation).await?);
    if [seen.0, seen.1].into_iter().any(|seen| !is_there(&seen.into_iter().collect())) {
        return Err(CompareError::NotYet("the generations went on before they could be compared".into()));
    }
    Ok(snapshot)
}

/// Holds generations, unless somebody else does.
pub(super) async fn hold(
    store: &dyn Store,
    generations: &[i64],
    by: Uuid,
    at: Option<&Vector>,
    time: Duration,
) -> Result<(), CompareError> {
    match store.hold(generations, by, at, time).await? {
        true => Ok(()),
        false => Err(CompareError::NotYet("somebody else compares or promotes it at this moment".into())),
    }
}

/// Where two generations meet: in each partition of topics that both read, where the one is that is ahead.
fn meeting(one: &Vector, other: &Vector) -> Vector {
    let reads = |vector: &Vector, topic: &str| vector.keys().any(|partition| &*partition.topic == topic);
    let mut meeting = Vector::new();
    for (partition, next) in one.iter().chain(other) {
        if reads(one, &partition.topic) && reads(other, &partition.topic) {
            let at = meeting.entry(partition.clone()).or_insert(*next);
            *at = (*at).max(*next);
        }
    }
    meeting
}

/// How far one is behind where they meet, in offsets. Of a partition that it did not begin, all are.
fn distance(vector: &Vector, meeting: &Vector) -> i64 {
    let behind = |(partition, at): (_, &i64)| (at - vector.get(partition).copied().unwrap_or(-1)).abs();
    meeting.iter().map(behind).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Partition;

    fn vector(of: &[(&str, i32, i64)]) -> Vector {
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
