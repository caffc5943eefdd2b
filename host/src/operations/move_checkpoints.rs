//! Moves the checkpoints of a stopped projection to another Kafka cluster that holds the same events.
//!
//! The operation plans first, and changes something only if the plan has no problems and is confirmed. Checkpoints,
//! topic ids and the cluster's id are written in one transaction, while no host writes.

mod map;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use humantime_serde::re::humantime;
use projector_model::{Contract, repeat};
use serde::Serialize;

pub use map::{Mapped, parse};
use projector_config::{self as config, Config};
use projector_core::checkpoint::{Checkpoint, FILE};
use projector_core::event::Partition;
use projector_core::generation::GenerationStatus;
use projector_core::topics::TopicMapping;
use projector_kafka::KafkaAdmin;
use projector_store::moves::Move;
use projector_store::{Requester, Store};

use super::{OperationError, with_store};
use place::{Place, find, last_read, places};

/// What the operation cannot find out from the two clusters.
const CANNOT_KNOW: [&str; 3] = [
    "that both clusters have the same events, in the same order and in the same partitions: mirrors copy late, and may begin later or leave records out",
    "which offset in the new cluster belongs to the same event: the offsets of a mirror differ from those of its source",
    "that no producer still writes only to the old cluster",
];

#[derive(Debug)]
pub struct Request {
    /// The generation's number. `None`: the live one.
    pub generation: Option<i32>,
    pub to: Target,
    /// The old cluster, if it still responds. It has the time of the last event that was read.
    pub from: Option<config::Kafka>,
    /// Move even if events may be applied twice.
    pub accept_duplicates: bool,
}

/// At which offsets of the new cluster to continue.
#[derive(Debug)]
pub enum Target {
    /// At these offsets.
    Map(Vec<Mapped>),
    /// At the time of the last event that was read, minus an overlap. Times are the records' timestamps.
    Time {
        /// The time of the last event, for all partitions, in milliseconds since 1970. `None`: the old cluster is
        /// asked.
        last: Option<i64>,
        overlap: Duration,
    },
}

/// What a move does.
#[derive(Debug, Serialize)]
pub struct MovePlan {
    pub projection: String,
    pub generation: i32,
    /// Why hosts may still write. Absent if the projection is paused, stopped or blocked.
    pub runs: Option<String>,
    pub partitions: Vec<PartitionMove>,
    /// Partitions whose checkpoint belongs to the new cluster already.
    pub stay: Vec<String>,
    /// Topics whose events could be applied twice, and why.
    pub duplicates: BTreeMap<String, String>,
    /// Dead letters and parked events. They keep their old positions. A retry works, except if the value was too
    /// large to be stored and only the old cluster has it.
    pub kept: KeptCount,
    pub cannot_know: [&'static str; 3],
    /// Why the move is refused.
    pub problems: Vec<String>,
    /// The number of the operation, once the move is done.
    pub operation: Option<i64>,
}

#[derive(Debug, Default, Serialize)]
pub struct KeptCount {
    pub events: i64,
    pub left_in_old_log: i64,
}

/// What a move does to one partition. The JSON is flat.
#[derive(Debug, Serialize)]
pub struct PartitionMove {
    pub topic: String,
    pub partition: i32,
    #[serde(flatten)]
    pub old: OldCheckpoint,
    #[serde(flatten)]
    pub new: NewCheckpoint,
    /// The time of the last event that was read. Absent if it is unknown.
    pub last_read: Option<String>,
    #[serde(flatten)]
    pub overlap: Overlap,
    pub remark: Option<String>,
}

/// The checkpoint in the old cluster.
#[derive(Debug, Serialize)]
pub struct OldCheckpoint {
    #[serde(rename = "old_offset")]
    pub offset: i64,
    #[serde(rename = "old_cluster")]
    pub cluster: Option<String>,
    #[serde(rename = "old_topic_id")]
    pub topic_id: Option<String>,
}

/// The checkpoint in the new cluster, and the offsets that the partition has there.
#[derive(Debug, Serialize)]
pub struct NewCheckpoint {
    /// Absent if no offset was found.
    #[serde(rename = "new_offset")]
    pub offset: Option<i64>,
    #[serde(rename = "new_cluster")]
    pub cluster: Option<String>,
    #[serde(rename = "new_topic_id")]
    pub topic_id: Option<String>,
    /// The first offset.
    pub log_begin: i64,
    /// The offset after the last one.
    pub log_end: i64,
}

/// The distance between the last event that was read and the new checkpoint, by the records' timestamps. Absent if no
/// timestamp is known.
#[derive(Debug, Serialize)]
pub struct Overlap {
    /// How many offsets are read again.
    pub read_again: Option<i64>,
    /// How many offsets are never read.
    pub never_read: Option<i64>,
}

/// A plan, and what is needed to carry it out.
struct Planned {
    plan: MovePlan,
    status: GenerationStatus,
    moves: Vec<Move>,
}

/// Plans a move, and carries it out if `confirm` accepts the plan. An error if an accepted plan has problems. A plan
/// that is not accepted changes nothing.
pub async fn move_checkpoints(
    config: &Config,
    name: &str,
    request: &Request,
    requester: &Requester,
    confirm: impl FnOnce(&MovePlan) -> bool,
) -> Result<MovePlan, OperationError> {
    with_store(config, name, |store, live| async move {
        let mut planned = plan_in(config, &*store, live, request).await?;
        if confirm(&planned.plan) {
            planned.plan.operation = Some(planned.carry_out(&*store, requester).await?);
        }
        Ok(planned.plan)
    })
    .await
}

impl Planned {
    /// Carries the plan out, unless it has problems. Returns the number of the operation.
    async fn carry_out(&self, store: &dyn Store, requester: &Requester) -> Result<i64, OperationError> {
        if let Some(problem) = self.plan.problems.first() {
            return Err(OperationError::Failed(problem.clone()));
        }
        let report = serde_json::json!({ "partitions": &self.plan.partitions });
        Ok(store.move_checkpoints(&self.status.generation, &self.moves, requester, &report).await?)
    }
}

async fn plan_in(
    config: &Config,
    store: &dyn Store,
    live: GenerationStatus,
    request: &Request,
) -> Result<Planned, OperationError> {
    let name = live.generation.projection.clone();
    let status = match request.generation {
        None => live,
        Some(number) => {
            let mut statuses = store.generations(&name).await?.into_iter();
            statuses.find(|status| status.generation.number == number).ok_or_else(|| {
                OperationError::Usage {
                    message: format!("{name} has no generation {number}"),
                    help: format!("`projector status {name}` shows its generations"),
                }
            })?
        }
    };
    let contract = status
        .descriptor
        .clone()
        .check()
        .map_err(|problems| OperationError::Failed(format!("the descriptor of {name}: {problems}")))?;
    let log = KafkaAdmin::open(&config.kafka)?;
    let checkpoints = checkpoints(store, &status).await?;
    let (mut places, stay, mut problems) = places(&log, checkpoints).await?;
    if places.is_empty() && problems.is_empty() {
        return Err(OperationError::Failed(format!(
            "nothing is to be moved: every checkpoint of {name} belongs to the cluster of `kafka.brokers` already. Set `kafka.brokers` to the new cluster"
        )));
    }
    if let Some(from) = &request.from {
        last_read(&KafkaAdmin::open(from)?, &mut places).await?;
    }
    let (mut partitions, mut moves) = (Vec::new(), Vec::new());
    for place in &places {
        let (found, remark) = match find(&log, place, &request.to).await? {
            Ok((offset, remark)) => (Some(offset), remark),
            Err(problem) => {
                problems.push(problem.clone());
                (None, Some(problem))
            }
        };
        let after = match place.last {
            Some(last) => {
                Some(log.offset_at(place.partition.clone(), last + 1).await?.unwrap_or(place.marks.high))
            }
            None => None,
        };
        let ahead = found.zip(after).map(|(offset, after)| offset - after);
        partitions.push(place.to_partition_move(found, ahead, remark));
        moves.extend(found.map(|offset| place.move_to(offset)));
    }
    if let Target::Map(map) = &request.to {
        let known: BTreeSet<&Partition> = places.iter().map(|place| &place.partition).collect();
        problems.extend(map.iter().filter(|mapped| !known.contains(&mapped.partition)).map(|mapped| {
            format!("the map has an offset for {}, which is not a partition to be moved", mapped.partition)
        }));
    }
    let topics =
        config.topics_of_generation(&status).map_err(|error| OperationError::Failed(error.to_string()))?;
    let duplicates = duplicates(&topics, &contract, &places, &partitions, &request.to);
    if let (false, Some((topic, why))) = (request.accept_duplicates, duplicates.first_key_value()) {
        problems.push(format!(
            "events of {topic} could be applied twice: {why}; accept this with --accept-duplicates, or give the exact offsets with --map"
        ));
    }
    let runs = runs(store, &status, &places).await?;
    problems.extend(runs.clone());
    let moved: BTreeSet<(&str, i32)> =
        places.iter().map(|place| (&*place.partition.topic, place.partition.number)).collect();
    let mut kept = KeptCount::default();
    for of in store.stored_events(&status.generation).await? {
        if moved.contains(&(of.topic.as_str(), of.partition)) {
            kept.events += of.events;
            kept.left_in_old_log += of.left_in_log;
        }
    }
    let plan = MovePlan {
        projection: name,
        generation: status.generation.number,
        runs,
        partitions,
        stay,
        duplicates,
        kept,
        cannot_know: CANNOT_KNOW,
        problems,
        operation: None,
    };
    Ok(Planned { plan, status, moves })
}

/// The checkpoints of a generation, without the checkpoint of a backfill's file.
async fn checkpoints(
    store: &dyn Store,
    status: &GenerationStatus,
) -> Result<Vec<(Partition, Checkpoint)>, OperationError> {
    let partitions: Vec<Partition> = store.offsets(status.generation.id).await?.into_keys().collect();
    let checkpoints = store.checkpoints(&status.generation, &partitions).await?;
    let found = partitions.into_iter().zip(checkpoints);
    let of_log = |checkpoint: &Checkpoint| checkpoint.identity.cluster_id.as_deref() != Some(FILE);
    Ok(found
        .filter_map(|(partition, found)| Some((partition, found?)))
        .filter(|(_, found)| of_log(found))
        .collect())
}

/// Topics whose events could be applied twice, and why.
fn duplicates(
    topics: &TopicMapping,
    contract: &Contract,
    places: &[Place],
    partitions: &[PartitionMove],
    target: &Target,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (at, topic) in contract.topics.iter().enumerate() {
        let is_own = |physical: &str| topics.places(physical).contains(&(at as u16));
        let own = || places.iter().zip(partitions).filter(|(place, _)| is_own(&place.partition.topic));
        let overlap = match target {
            Target::Time { overlap, .. } => *overlap,
            // As far as the timestamps are known, no event is read again.
            Target::Map(_) if own().all(|(_, moved)| moved.overlap.read_again.unwrap_or(0) == 0) => continue,
            Target::Map(_) => Duration::MAX,
        };
        if own().next().is_none() {
            continue;
        }
        let Err(repeats) = repeat::is_repeatable(contract, at) else { continue };
        // An event id is forgotten when it is older than the topic's youngest event by the declared time. So the
        // partitions' distance in time counts as well.
        let times = || own().filter_map(|(place, _)| place.last);
        let apart = times().max().zip(times().min()).map_or(0, |(youngest, oldest)| youngest - oldest);
        let needed = overlap.saturating_add(Duration::from_millis(apart.unsigned_abs()));
        let why = match &topic.event_id {
            Some(id) if Duration::from_secs(id.window_seconds.into()) >= needed => continue,
            Some(id) => format!(
                "{repeats}, and its event ids are remembered for {}, which is less than the time that is read again",
                humantime::format_duration(Duration::from_secs(id.window_seconds.into()))
            ),
            None => format!("{repeats}, and it declares no event id"),
        };
        found.extend(own().map(|(place, _)| (place.partition.topic.to_string(), why.clone())));
    }
    found
}

/// Why hosts may still write. `None`: the projection is stopped or paused, or hosts refuse all of these partitions
/// because their log is another one.
async fn runs(
    store: &dyn Store,
    status: &GenerationStatus,
    places: &[Place],
) -> Result<Option<String>, OperationError> {
    let name = &status.generation.projection;
    let control = store.control_state().await?;
    let own = control.iter().find(|control| control.generation.id == status.generation.id);
    if own.is_some_and(|own| own.stopped || own.paused.is_some()) {
        return Ok(None);
    }
    let overview = store.overview().await?;
    let refused: BTreeSet<Partition> = overview
        .into_iter()
        .filter(|found| found.is(&status.generation))
        .flat_map(|found| found.partitions)
        .filter(|state| {
            state
                .paused
                .as_ref()
                .is_some_and(|blocker| blocker.kind == projector_core::failure::FailureKind::Log)
        })
        .map(|state| Partition::new(state.topic.as_str(), state.partition))
        .collect();
    match places.iter().all(|place| refused.contains(&place.partition)) {
        true => Ok(None),
        false => Ok(Some(format!(
            "{name} still runs: run `projector pause {name} --reason …` first, so that no host writes during the move"
        ))),
    }
}
