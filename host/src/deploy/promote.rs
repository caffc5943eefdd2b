//! Promotion: readers' views are switched to another generation.
//!
//! The checks that need no lock come first: the new generation has come to the end of its topics, it lacks no events,
//! and, as far as asked for, it is fresh and has the same rows as the live generation. Then the live generation is
//! stopped by a write barrier until the new one has reached its offsets, and one transaction switches the views.
//!
//! Invariants: readers never see a step back in time. The live generation is stopped for at most `MOST_BARRIER_TIME`
//! an attempt, and continues between attempts.

use std::collections::BTreeMap;
use std::time::Duration;

use projector_config::Config;
use projector_core::checkpoint::Offsets;
use projector_core::deployment::Origin;
use projector_core::event::Partition;
use projector_core::failure::FailureKind;
use projector_core::generation::GenerationStatus;
use projector_core::topics::TopicMapping;
use projector_kafka::{KafkaAdmin, LogError};
use projector_model::order;
use projector_store::diff::{Diff, Expected};
use projector_store::generations::Promoted;
use projector_store::{Requester, Store, StoreError};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::backfill;
use super::compare::{CompareError, MOST_BARRIER_TIME, compare, raise_barrier, why_stuck};
use super::reach::{Begin, BeyondReach, Gaps};
use super::readers::{self, Move};
use crate::freshness::{Seen, Visibility, visibility};

/// A generation is fresh if its oldest missing event is at most this old.
const FRESH: Duration = Duration::from_secs(10);
/// How often the new generation's offsets are read while the live generation is stopped.
const OFFSETS_INTERVAL: Duration = Duration::from_millis(20);
/// How long the switch is tried again while readers hold locks, or the new generation is behind. The first pause
/// between two attempts is `SWITCH_PAUSE`, and each further pause is twice as long.
const SWITCH_TIME: Duration = Duration::from_secs(10);
const SWITCH_PAUSE: Duration = Duration::from_millis(500);
/// A host notices within this time that a generation has come to the end of its topics.
const CAUGHT_UP_TIME: Duration = Duration::from_secs(3);
/// How often the generation's status is read meanwhile.
const CAUGHT_UP_INTERVAL: Duration = Duration::from_millis(100);
/// How many of the rows that differ are shown.
pub const SAMPLES: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Refused(String),
    /// The new generation did not reach the offsets of the live one while that was stopped.
    #[error("{0}")]
    Behind(String),
    /// The new generation has other rows than the live one.
    #[error("{0}")]
    Differs(String, Box<Diff>),
}

impl PromoteError {
    /// Whether another attempt may succeed: another session holds a lock, or the new generation is a little behind.
    fn may_pass(&self) -> bool {
        match self {
            Self::Compare(CompareError::Store(error)) => error.kind() == FailureKind::Locked,
            Self::Behind(_) => true,
            _ => false,
        }
    }
}

impl From<projector_store::StoreError> for PromoteError {
    fn from(error: projector_store::StoreError) -> Self {
        Self::Compare(error.into())
    }
}

/// The condition that a generation must meet to be promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// It is fresh.
    Fresh,
    /// It is fresh, and its rows differ from those of the live generation only where the configuration expects it.
    Equal,
    /// None: an operator decides. A generation that is behind the live one is refused all the same, because readers
    /// would see a step back in time.
    Nothing,
}

/// What to do about transactions of readers whose snapshot is older than the new generation's rows. After the switch,
/// they would see fewer rows in the views, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldSnapshots {
    /// Wait for these transactions to end. If they do not, refuse the promotion and name them.
    Refuse,
    /// Promote beside them: an operator accepts it.
    Ignore,
}

/// On which terms a generation is promoted, and who asks for it.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    pub ask: Ask,
    pub snapshots: OldSnapshots,
    /// Whether the new generation may lack events that the live one has read.
    pub gaps: Gaps,
    pub origin: Origin,
    pub requester: &'a Requester,
}

#[derive(Debug, Serialize)]
pub struct Promotion {
    pub generation: i32,
    /// The generation that readers saw before. It is kept current.
    pub before: i32,
    #[serde(flatten)]
    pub promoted: Promoted,
    /// What changes for readers of the generation before; absent if nothing does.
    pub move_readers: Option<Move>,
    /// How long the generation before was stopped, in milliseconds.
    pub held_ms: u64,
    /// The events that the generation before has read, and this one could not read.
    #[serde(skip_serializing_if = "BeyondReach::is_empty")]
    pub beyond_reach: BeyondReach,
}

/// Switches readers from the live generation to the new one. An error leaves the live generation as it is.
pub async fn promote(
    config: &Config,
    store: &dyn Store,
    log: &KafkaAdmin,
    (live, new): (&GenerationStatus, &GenerationStatus),
    Terms { ask, snapshots, gaps, origin, requester }: Terms<'_>,
) -> Result<Promotion, PromoteError> {
    let (name, number) = (&*new.generation.projection, new.generation.number);
    new.is_fed().map_err(StoreError::from)?;
    let new = &await_caught_up(store, new).await?;
    if !new.caught_up {
        let unknown = unknown_topics(config, log, new).await?;
        if !unknown.is_empty() {
            return Err(PromoteError::Refused(format!(
                "generation {number} of {name} has not come to the end of its topics, and some of the topics are unknown: {}",
                unknown.join("; ")
            )));
        }
    }
    let mut beyond_reach = beyond_reach(config, store, live, new).await?;
    if !beyond_reach.is_empty() && origin == Origin::Command {
        // The counts help a person to decide. If the database ends the count, for example at its statement timeout,
        // the refusal names the missing events only.
        beyond_reach.rows = rows(store, live, new).await.unwrap_or_default();
    }
    if !beyond_reach.is_empty() && gaps == Gaps::Refuse {
        return Err(PromoteError::Refused(format!(
            "generation {number} of {name} lacks history: {}",
            beyond_reach.refusal(name)
        )));
    }
    if ask != Ask::Nothing {
        check_fresh(config, store, log, new).await?;
    }
    if ask == Ask::Equal {
        let expected =
            Expected::parse(&config.deploy_of(name).expected_differences).map_err(PromoteError::Refused)?;
        let diff = compare(store, live, new, &expected, SAMPLES).await?;
        if !diff.is_equal() {
            return Err(PromoteError::Differs(
                format!(
                    "generation {number} of {name} differs from the live one beyond what the configuration expects (`projector diff {name}`)"
                ),
                Box::new(diff),
            ));
        }
    }
    // Without fresh statistics, the database would plan the readers' first queries for empty tables. The promotion
    // does not depend on it.
    if let Err(error) = store.analyze(&new.generation).await {
        tracing::warn!(projection = name, generation = number, %error, "ANALYZE failed; the generation is promoted without it, and the first queries of readers may be slow");
    }
    let topics = log.topics(&mapping(config, new)?).await?;
    let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
    let (promoted, held_ms) =
        switch_beside_readers(store, (live, new), &topics, snapshots, (origin, requester)).await?;
    // The promotion is done: an error must not hide it.
    let move_readers = readers::from(store, live, &new.layout).await.ok().flatten();
    let (generation, before) = (number, live.generation.number);
    Ok(Promotion { generation, before, promoted, move_readers, held_ms, beyond_reach })
}

/// The events that the live generation has read, and the new one could not read. Empty for a generation that was
/// built by a backfill: `projector backfill` has checked it.
async fn beyond_reach(
    config: &Config,
    store: &dyn Store,
    live: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<BeyondReach, PromoteError> {
    let all = store.overview().await?;
    let of = |status: &GenerationStatus| {
        let state = all.iter().find(|state| state.is(&status.generation));
        state.map(|state| &*state.partitions).unwrap_or_default()
    };
    let (old_state, new_state) = (of(live), of(new));
    if new_state.iter().any(|state| state.topic == backfill::TOPIC) {
        return Ok(BeyondReach::default());
    }
    let partitions: Vec<Partition> =
        new_state.iter().map(|state| Partition::new(state.topic.as_str(), state.partition)).collect();
    let old_checkpoints = store.checkpoints(&live.generation, &partitions).await?;
    let new_checkpoints = store.checkpoints(&new.generation, &partitions).await?;
    let is_another_log = |at: usize| match (&old_checkpoints[at], &new_checkpoints[at]) {
        (Some(old), Some(new)) => old.identity.differs_from(&new.identity),
        _ => false,
    };
    let topics = mapping(config, new)?;
    Ok(BeyondReach::of(old_state, |topic, number| {
        if !topics.reads(topic) {
            return None;
        }
        match new_state.iter().position(|state| state.topic == topic && state.partition == number) {
            Some(at) if is_another_log(at) => Some(Begin::Nowhere),
            Some(at) => Some(Begin::At(new_state[at].start)),
            None if new.caught_up => Some(Begin::Nowhere),
            // The new generation has not begun this partition yet, so it is behind. The switch checks that.
            None => None,
        }
    }))
}

/// By table: how many rows readers see now, and how many they would see.
async fn rows(
    store: &dyn Store,
    live: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<BTreeMap<String, [i64; 2]>, StoreError> {
    let mut snapshot = store.snapshot().await?;
    let mut counts = Vec::new();
    for status in [live, new] {
        let Ok(contract) = status.descriptor.clone().check() else { return Ok(BTreeMap::new()) };
        counts.push(snapshot.row_counts(&status.generation, &contract).await?);
    }
    let then = |table: &str| counts[1].get(table).copied().unwrap_or_default();
    Ok(counts[0].iter().map(|(table, now)| (table.clone(), [*now, then(table)])).collect())
}

/// The latest status of a generation: as soon as it is caught up, or after [`CAUGHT_UP_TIME`]. The generation may
/// have read its last event a moment ago, and a host notes this with a delay.
async fn await_caught_up(
    store: &dyn Store,
    status: &GenerationStatus,
) -> Result<GenerationStatus, PromoteError> {
    let deadline = Instant::now() + CAUGHT_UP_TIME;
    let mut latest = status.clone();
    while !latest.caught_up && Instant::now() < deadline {
        tokio::time::sleep(CAUGHT_UP_INTERVAL).await;
        let generations = store.generations(&latest.generation.projection).await?;
        match generations.into_iter().find(|status| status.generation.id == latest.generation.id) {
            Some(status) => latest = status,
            None => break,
        }
    }
    Ok(latest)
}

/// Whether two generations that were built from the same events have the same rows. They may not if rows depend on
/// the order between partitions.
pub fn is_comparable(status: &GenerationStatus) -> bool {
    let contract = status.descriptor.clone().check();
    contract.is_ok_and(|contract| order::unsettled(&contract).is_empty())
}

/// Switches the views when no reader has a lock on them. Also returns how long the live generation was stopped, in
/// milliseconds.
///
/// A switch that waits for a lock makes all later readers wait behind it. So each attempt first checks without a lock
/// whether a reader is in the way, there are few attempts, and between them readers and the live generation continue.
async fn switch_beside_readers(
    store: &dyn Store,
    (live, new): (&GenerationStatus, &GenerationStatus),
    topics: &[String],
    snapshots: OldSnapshots,
    whose: (Origin, &Requester),
) -> Result<(Promoted, u64), PromoteError> {
    let replaced: Vec<&str> =
        live.views.iter().filter(|set| set.fits(&new.layout)).map(|set| &*set.schema).collect();
    let deadline = Instant::now() + SWITCH_TIME;
    let (mut pause, by) = (SWITCH_PAUSE, Uuid::new_v4());
    loop {
        let mut began = None;
        let switched = async {
            if !replaced.is_empty() {
                store.views_are_free(&replaced).await?;
                // Snapshots that are opened after this check are young enough, so it is not repeated under the
                // barrier.
                if snapshots == OldSnapshots::Refuse {
                    store.snapshots_are_recent(&new.generation).await?;
                }
            }
            began = Some(Instant::now());
            switch(store, (live, new), topics, by, whose).await
        };
        let switched = switched.await;
        if switched.is_err() && began.is_some() {
            store.release_barrier(&[live.generation.id], by).await?;
        }
        match switched {
            Err(error) if error.may_pass() && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => return Err(error),
            Ok(promoted) => {
                return Ok((promoted, began.map_or(0, |began| began.elapsed().as_millis() as u64)));
            }
        }
    }
}

/// One attempt: stops the live generation until the new one has reached its offsets, then switches the views in one
/// transaction, in which neither generation moves. The caller releases the barrier if this fails.
async fn switch(
    store: &dyn Store,
    (live, new): (&GenerationStatus, &GenerationStatus),
    topics: &[String],
    by: Uuid,
    (origin, requester): (Origin, &Requester),
) -> Result<Promoted, PromoteError> {
    let refused = |behind: &[Partition], why: &str| {
        PromoteError::Behind(format!(
            "generation {} of {} is behind the live one in {}, and {why}: readers would see a step back",
            new.generation.number,
            new.generation.projection,
            behind.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ))
    };
    let behind = store.behind(new.generation.id, live.generation.id, topics).await?;
    if !behind.is_empty()
        && let Some(reason) = why_stuck(store, new).await?
    {
        return Err(refused(&behind, &format!("does not progress: {reason}")));
    }
    let began = Instant::now();
    raise_barrier(store, &[live.generation.id], by, None, MOST_BARRIER_TIME).await?;
    loop {
        let behind = store.behind(new.generation.id, live.generation.id, topics).await?;
        if behind.is_empty() {
            return Ok(store.promote(&new.generation, topics, origin, requester).await?);
        }
        if began.elapsed() > MOST_BARRIER_TIME {
            let why = format!("did not catch up while the live one was stopped for {MOST_BARRIER_TIME:?}");
            return Err(refused(&behind, &why));
        }
        tokio::time::sleep(OFFSETS_INTERVAL).await;
    }
}

/// Refuses a generation that lacks an event which is older than [`FRESH`].
async fn check_fresh(
    config: &Config,
    store: &dyn Store,
    log: &KafkaAdmin,
    status: &GenerationStatus,
) -> Result<(), PromoteError> {
    let (name, number) = (&status.generation.projection, status.generation.number);
    if !status.caught_up {
        return Err(PromoteError::Refused(format!(
            "generation {number} of {name} has not come to the end of its topics yet (`projector status`)"
        )));
    }
    let seen = lags(config, store, log, status).await?;
    // An event without a timestamp may be of any age.
    let old =
        seen.values().filter(|seen| seen.lag > 0).map(|seen| seen.freshness_ms.unwrap_or(i64::MAX)).max();
    match old {
        Some(age) if age > FRESH.as_millis() as i64 => Err(PromoteError::Refused(format!(
            "generation {number} of {name} is not fresh: its oldest missing event is older than {} s, or has no timestamp",
            FRESH.as_secs()
        ))),
        _ => Ok(()),
    }
}

/// The topics of a generation that the brokers do not describe, and why. While there is one, the generation does not
/// catch up.
async fn unknown_topics(
    config: &Config,
    log: &KafkaAdmin,
    status: &GenerationStatus,
) -> Result<Vec<String>, PromoteError> {
    let topics = log.topics(&mapping(config, status)?).await?.into_iter().collect();
    let found = log.partitions(topics).await?.into_iter();
    Ok(found
        .filter_map(|(topic, partitions)| Some(format!("{topic}: {}", partitions.err()?.reason())))
        .collect())
}

/// The physical topics of a generation.
fn mapping(config: &Config, status: &GenerationStatus) -> Result<TopicMapping, PromoteError> {
    config.topics_of_generation(status).map_err(|error| PromoteError::Refused(error.to_string()))
}

/// For each partition of a generation's topics: which events the generation lacks. An error if this is unknown for
/// one of them.
async fn lags(
    config: &Config,
    store: &dyn Store,
    log: &KafkaAdmin,
    status: &GenerationStatus,
) -> Result<BTreeMap<Partition, Visibility>, PromoteError> {
    let at: Offsets = store.offsets(status.generation.id).await?;
    let mut asked = Vec::new();
    for physical in log.topics(&mapping(config, status)?).await? {
        let Some(partitions) = log.topic(physical.clone()).await? else {
            return Err(PromoteError::Refused(format!(
                "it is unknown whether the generation is fresh: the topic {physical} does not exist"
            )));
        };
        for (partition, marks) in partitions {
            let next = at.get(&partition).copied().unwrap_or(marks.low);
            asked.push((partition, next, marks));
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let partitions: Vec<_> = asked.iter().map(|(partition, ..)| partition.clone()).collect();
    let seen = visibility(log, asked, now.map_or(0, |now| now.as_millis() as i64)).await;
    let known = partitions.into_iter().zip(seen).map(|(partition, seen)| match seen {
        Seen { visibility: Some(visibility), unknown: None } => Ok((partition, visibility)),
        Seen { unknown, .. } => {
            let why = unknown.map_or_else(|| format!("{partition} is unknown"), |why| why.reason);
            Err(PromoteError::Refused(format!("it is unknown whether the generation is fresh: {why}")))
        }
    });
    known.collect()
}
