//! Showing another generation to readers: when it is current, holds what it should, and is nowhere behind.

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
use projector_store::deployments::Promoted;
use projector_store::diff::{Diff, Expected};
use projector_store::operator::Requester;
use projector_store::{Store, StoreError};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::backfill;
use super::compare::{CompareError, MOST_HELD, compare, raise_barrier, why_still};
use super::reach::{Begin, BeyondReach, Gaps};
use super::readers::{self, Move};
use crate::freshness::{Seen, Visibility, visibility};

/// How old the oldest event may be that is not in a generation that is to be shown.
const FRESH: Duration = Duration::from_secs(10);
/// How often it is looked whether the new generation is where the live one is held.
const LOOK: Duration = Duration::from_millis(20);
/// For so long a switch is tried beside readers that are in the way, and a new generation that comes late: at first
/// after this pause, then after twice that.
const READERS: Duration = Duration::from_secs(10);
const READERS_PAUSE: Duration = Duration::from_millis(500);
/// Within this time a host sees that a generation has come to the end of its topics.
const END_IS_SEEN: Duration = Duration::from_secs(3);
/// How often it is looked whether a host has.
const END_LOOK: Duration = Duration::from_millis(100);
/// Rows that are shown of those that differ.
pub const SAMPLES: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Refused(String),
    /// It did not come to where the live one was held, within that time.
    #[error("{0}")]
    Behind(String),
    /// It holds other rows than the live one.
    #[error("{0}")]
    Differs(String, Box<Diff>),
}

impl PromoteError {
    /// Another session has a lock that is needed, or the new generation needs a moment more.
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

/// What a promotion asks for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// That it is fresh.
    Fresh,
    /// That it is fresh, and differs in nothing but what is expected.
    Equal,
    /// Nothing but that readers see no step back: an operator knows better.
    Nothing,
}

/// What becomes of readers whose snapshot is from before the new generation was complete: in views that are theirs
/// already they would see fewer rows, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldSnapshots {
    /// They are waited for, and named if they stay.
    Refuse,
    /// An operator knows of them.
    Ignore,
}

/// On which terms a generation is promoted, and who asks.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    pub ask: Ask,
    pub snapshots: OldSnapshots,
    /// Whether it may lack events that the live generation has read.
    pub gaps: Gaps,
    pub origin: Origin,
    pub requester: &'a Requester,
}

#[derive(Debug, Serialize)]
pub struct Promotion {
    pub generation: i32,
    /// The one that readers saw before: it is kept current.
    pub before: i32,
    #[serde(flatten)]
    pub promoted: Promoted,
    /// What changes for readers of the generation before; absent if nothing does.
    pub move_readers: Option<Move>,
    /// For so long the live generation was held.
    pub held_ms: u64,
    /// What the generation before has read, and this one could not.
    #[serde(skip_serializing_if = "BeyondReach::is_empty")]
    pub beyond_reach: BeyondReach,
}

/// Shows a generation to readers instead of the live one.
pub async fn promote(
    config: &Config,
    store: &dyn Store,
    log: &KafkaAdmin,
    (live, new): (&GenerationStatus, &GenerationStatus),
    Terms { ask, snapshots, gaps, origin, requester: asked }: Terms<'_>,
) -> Result<Promotion, PromoteError> {
    let (name, number) = (&*new.generation.projection, new.generation.number);
    new.is_fed().map_err(StoreError::from)?;
    let new = &until_caught_up(store, new).await?;
    if !new.caught_up {
        let unknown = unknown_topics(config, log, new).await?;
        if !unknown.is_empty() {
            return Err(PromoteError::Refused(format!(
                "generation {number} of {name} has not come to the end of its topics, of which some are not known: {}",
                unknown.join("; ")
            )));
        }
    }
    let mut beyond_reach = beyond_reach(config, store, live, new).await?;
    if !beyond_reach.is_empty() && origin == Origin::Command {
        // Rows are counted for a person. Where that takes too long, the events tell.
        beyond_reach.rows = rows(store, live, new).await.unwrap_or_default();
    }
    if !beyond_reach.is_empty() && gaps == Gaps::Refuse {
        return Err(PromoteError::Refused(format!(
            "generation {number} of {name} is without history: {}",
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
                    "generation {number} of {name} differs from the live one in what is not expected to (`projector diff {name}`)"
                ),
                Box::new(diff),
            ));
        }
    }
    // Readers' first queries are planned for what is in the tables.
    if let Err(error) = store.analyze(&new.generation).await {
        tracing::warn!(projection = name, generation = number, %error, "the tables could not be analyzed; promoting all the same");
    }
    let topics = log.topics(&mapping(config, new)?).await?;
    let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
    let (promoted, held_ms) =
        switch_beside_readers(store, (live, new), &topics, snapshots, (origin, asked)).await?;
    // The promotion is done, whatever is found out here.
    let move_readers = readers::from(store, live, &new.layout).await.ok().flatten();
    let (generation, before) = (number, live.generation.number);
    Ok(Promotion { generation, before, promoted, move_readers, held_ms, beyond_reach })
}

/// What the live generation has read, and a new one could not. One that was fed from a file was asked about then.
async fn beyond_reach(
    config: &Config,
    store: &dyn Store,
    live: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<BeyondReach, PromoteError> {
    let all = store.overview().await?;
    let of = |standing: &GenerationStatus| {
        let state = all.iter().find(|state| state.is(&standing.generation));
        state.map(|state| &*state.partitions).unwrap_or_default()
    };
    let (old_state, new_state) = (of(live), of(new));
    if new_state.iter().any(|state| state.topic == backfill::TOPIC) {
        return Ok(BeyondReach::default());
    }
    let partitions: Vec<Partition> =
        new_state.iter().map(|state| Partition::new(state.topic.as_str(), state.partition)).collect();
    let logs = [
        store.checkpoints(&live.generation, &partitions).await?,
        store.checkpoints(&new.generation, &partitions).await?,
    ];
    let [old_logs, new_logs] = logs;
    let is_another_log = |at: usize| match (&old_logs[at], &new_logs[at]) {
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
            // It is behind, which is told otherwise.
            None => None,
        }
    }))
}

/// By table: how many rows readers see now, and would see.
async fn rows(
    store: &dyn Store,
    live: &GenerationStatus,
    new: &GenerationStatus,
) -> Result<BTreeMap<String, [i64; 2]>, StoreError> {
    let mut snapshot = store.snapshot().await?;
    let mut counts = Vec::new();
    for standing in [live, new] {
        let Ok(contract) = standing.descriptor.clone().check() else { return Ok(BTreeMap::new()) };
        counts.push(snapshot.row_counts(&standing.generation, &contract).await?);
    }
    let then = |table: &str| counts[1].get(table).copied().unwrap_or_default();
    Ok(counts[0].iter().map(|(table, now)| (table.clone(), [*now, then(table)])).collect())
}

/// A generation as it stands when it is caught up, or when it is not within a moment: its last event may have been
/// written just now.
async fn until_caught_up(
    store: &dyn Store,
    standing: &GenerationStatus,
) -> Result<GenerationStatus, PromoteError> {
    let deadline = Instant::now() + END_IS_SEEN;
    let mut seen = standing.clone();
    while !seen.caught_up && Instant::now() < deadline {
        tokio::time::sleep(END_LOOK).await;
        let standings = store.standings(&seen.generation.projection).await?;
        match standings.into_iter().find(|standing| standing.generation.id == seen.generation.id) {
            Some(standing) => seen = standing,
            None => break,
        }
    }
    Ok(seen)
}

/// Whether two builds of a generation hold the same rows: not where those depend on the order between
/// partitions.
pub fn is_comparable(standing: &GenerationStatus) -> bool {
    let contract = standing.descriptor.clone().check();
    contract.is_ok_and(|contract| order::unsettled(&contract).is_empty())
}

/// Switches when no reader is in the way. Every try would keep those waiting that come after it: so whether one is
/// in the way is asked first, there are few tries, and between them everybody goes on. Returns for how long the live
/// generation was held as well, in milliseconds.
async fn switch_beside_readers(
    store: &dyn Store,
    (live, new): (&GenerationStatus, &GenerationStatus),
    topics: &[String],
    snapshots: OldSnapshots,
    whose: (Origin, &Requester),
) -> Result<(Promoted, u64), PromoteError> {
    let replaced: Vec<&str> =
        live.views.iter().filter(|set| set.fits(&new.layout)).map(|set| &*set.schema).collect();
    let deadline = Instant::now() + READERS;
    let (mut pause, by) = (READERS_PAUSE, Uuid::new_v4());
    loop {
        let mut began = None;
        let switched = async {
            if !replaced.is_empty() {
                store.views_are_free(&replaced).await?;
                // A snapshot that comes later is younger: none of them needs to be looked for again.
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

/// The live generation is held where it is until the new one has come there: then the switch is one
/// transaction, in which neither moves.
async fn switch(
    store: &dyn Store,
    (live, new): (&GenerationStatus, &GenerationStatus),
    topics: &[String],
    by: Uuid,
    (origin, asked): (Origin, &Requester),
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
        && let Some(reason) = why_still(store, new).await?
    {
        return Err(refused(&behind, &format!("stands still: {reason}")));
    }
    let began = Instant::now();
    raise_barrier(store, &[live.generation.id], by, None, MOST_HELD).await?;
    loop {
        let behind = store.behind(new.generation.id, live.generation.id, topics).await?;
        if behind.is_empty() {
            return Ok(store.promote(&new.generation, topics, origin, asked).await?);
        }
        if began.elapsed() > MOST_HELD {
            let why = format!("did not come to where that one is while it was held for {MOST_HELD:?}");
            return Err(refused(&behind, &why));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether everything in the log is in a generation, or was written a moment ago.
async fn check_fresh(
    config: &Config,
    store: &dyn Store,
    log: &KafkaAdmin,
    standing: &GenerationStatus,
) -> Result<(), PromoteError> {
    let (name, number) = (&standing.generation.projection, standing.generation.number);
    if !standing.caught_up {
        return Err(PromoteError::Refused(format!(
            "generation {number} of {name} has not come to the end of its topics yet (`projector status`)"
        )));
    }
    let seen = lags(config, store, log, standing).await?;
    // An event without a time may be of any age.
    let old =
        seen.values().filter(|seen| seen.lag > 0).map(|seen| seen.freshness_ms.unwrap_or(i64::MAX)).max();
    match old {
        Some(age) if age > FRESH.as_millis() as i64 => Err(PromoteError::Refused(format!(
            "generation {number} of {name} is not fresh: its oldest event that is missing is older than {} s",
            FRESH.as_secs()
        ))),
        _ => Ok(()),
    }
}

/// The topics of a generation that are not known, and why: without them it does not come to the end of its topics.
async fn unknown_topics(
    config: &Config,
    log: &KafkaAdmin,
    standing: &GenerationStatus,
) -> Result<Vec<String>, PromoteError> {
    let topics = log.topics(&mapping(config, standing)?).await?.into_iter().collect();
    let found = log.partitions(topics).await?.into_iter();
    Ok(found
        .filter_map(|(topic, partitions)| Some(format!("{topic}: {}", partitions.err()?.reason())))
        .collect())
}

/// What a generation's topics are in the log.
fn mapping(config: &Config, standing: &GenerationStatus) -> Result<TopicMapping, PromoteError> {
    config.topics_of_generation(standing).map_err(|error| PromoteError::Refused(error.to_string()))
}

/// What of each partition of a generation's topics is not in it.
async fn lags(
    config: &Config,
    store: &dyn Store,
    log: &KafkaAdmin,
    standing: &GenerationStatus,
) -> Result<BTreeMap<projector_core::event::Partition, Visibility>, PromoteError> {
    let at: Offsets = store.vector(standing.generation.id).await?;
    let mut asked = Vec::new();
    for physical in log.topics(&mapping(config, standing)?).await? {
        let Some(partitions) = log.topic(physical.clone()).await? else {
            return Err(PromoteError::Refused(format!(
                "whether it is fresh cannot be told: the topic {physical} does not exist"
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
        // What is not known is not fresh.
        Seen { unknown, .. } => {
            let why = unknown.map_or_else(|| format!("{partition} is not known"), |why| why.reason);
            Err(PromoteError::Refused(format!("whether it is fresh cannot be told: {why}")))
        }
    });
    known.collect()
}
