//! Moving a projection that stands still to another cluster that holds the same events.
//!
//! What it would do is found out first, and is all that happens unless it is confirmed. Checkpoints, topic ids
//! and the cluster's id are written in one transaction, in which no host writes.

mod map;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use humantime_serde::re::humantime;
use projector_model::{Contract, repeat};
use serde::Serialize;

pub use map::{Mapped, parse};

use super::{OperationError, projection};
use crate::checkpoint::{Checkpoint, FILE, Identity, Watermarks};
use crate::config::{self, Config, rfc3339};
use crate::event::Partition;
use crate::source::KafkaAdmin;
use crate::store::Store;
use crate::store::deployments::GenerationStatus;
use crate::store::moves::Move;
use crate::store::operator::Requester;
use crate::topics::TopicMapping;

/// What no look at the two clusters can tell.
const CANNOT_KNOW: [&str; 3] = [
    "that both logs hold the same events, in the same order and in the same partitions: mirrors copy late, and may begin later or leave records out",
    "which offset of the new log is the same event: a mirror's offsets are not its source's",
    "that no producer still writes to the old cluster alone",
];

#[derive(Debug)]
pub struct Request {
    /// By its number; otherwise the live one.
    pub generation: Option<i32>,
    pub to: Target,
    /// The old cluster, if it still answers: then the time of the last event that was read is known.
    pub from: Option<config::Kafka>,
    /// Although events may be applied twice.
    pub accept_duplicates: bool,
}

/// Where to read on.
#[derive(Debug)]
pub enum Target {
    /// At these offsets.
    Map(Vec<Mapped>),
    /// So long before the last event that was read, in the events' own time.
    Time {
        /// The time of that event in all partitions, in milliseconds since 1970; `None`: as the old cluster says.
        last: Option<i64>,
        overlap: Duration,
    },
}

/// What a move does.
#[derive(Debug, Serialize)]
pub struct MovePlan {
    pub projection: String,
    pub generation: i32,
    /// Why nothing keeps hosts from writing; absent if the projection stands still.
    pub runs: Option<String>,
    pub partitions: Vec<PartitionMove>,
    /// Partitions whose checkpoint is of the new cluster already.
    pub stay: Vec<String>,
    /// Topics whose events could be applied twice, and why.
    pub duplicates: BTreeMap<String, String>,
    /// Dead letters and parked events. They keep their old positions; a retry works, except of values that were
    /// left in the log.
    pub kept: KeptCount,
    pub cannot_know: [&'static str; 3],
    /// Why it is refused.
    pub problems: Vec<String>,
    /// The number of the operation, once it is done.
    pub operation: Option<i64>,
}

#[derive(Debug, Default, Serialize)]
pub struct KeptCount {
    pub events: i64,
    pub left_in_old_log: i64,
}

#[derive(Debug, Serialize)]
pub struct PartitionMove {
    pub topic: String,
    pub partition: i32,
    pub old_offset: i64,
    pub old_cluster: Option<String>,
    pub old_topic_id: Option<String>,
    /// Absent if none can be told.
    pub new_offset: Option<i64>,
    pub new_cluster: Option<String>,
    pub new_topic_id: Option<String>,
    /// What the new log holds: from its first offset to the one after its last.
    pub log_begin: i64,
    pub log_end: i64,
    /// The time of the last event that was read, as far as it is known.
    pub last_read: Option<String>,
    /// By the events' own time: how many offsets are read again, or never. Absent where no time is known.
    pub read_again: Option<i64>,
    pub never_read: Option<i64>,
    pub remark: Option<String>,
}

/// A partition of the generation, in the old log and in the new one.
struct Place {
    partition: Partition,
    from: Checkpoint,
    marks: Watermarks,
    identity: Identity,
    /// The time of the last event that was read.
    last: Option<i64>,
}

/// A plan, and what carries it out.
pub struct Planned {
    pub plan: MovePlan,
    standing: GenerationStatus,
    moves: Vec<Move>,
    store: Arc<dyn Store>,
}

/// Finds out what a move would do.
pub async fn plan(config: &Config, name: &str, request: &Request) -> Result<Planned, OperationError> {
    let (store, live) = projection(config, name).await?;
    let planned = plan_in(config, &store, live, request).await;
    if planned.is_err() {
        store.close().await;
    }
    planned
}

impl Planned {
    /// Does what was planned, unless something is in the way.
    pub async fn carry_out(mut self, asked: &Requester) -> Result<MovePlan, OperationError> {
        let done = async {
            if let Some(problem) = self.plan.problems.first() {
                return Err(OperationError::Failed(problem.clone()));
            }
            let report = serde_json::json!({ "partitions": &self.plan.partitions });
            let generation = &self.standing.generation;
            Ok(self.store.move_checkpoints(generation, &self.moves, asked, &report).await?)
        };
        let done = done.await;
        self.store.close().await;
        self.plan.operation = Some(done?);
        Ok(self.plan)
    }

    /// Leaves everything as it is.
    pub async fn leave(self) -> MovePlan {
        self.store.close().await;
        self.plan
    }
}

async fn plan_in(
    config: &Config,
    store: &Arc<dyn Store>,
    live: GenerationStatus,
    request: &Request,
) -> Result<Planned, OperationError> {
    let name = live.generation.projection.clone();
    let standing = match request.generation {
        None => live,
        Some(number) => {
            let standings = store.standings(&name).await?.into_iter();
            let meant = standings.into_iter().find(|standing| standing.generation.number == number);
            meant.ok_or_else(|| OperationError::Usage {
                message: format!("{name} has no generation {number}"),
                help: format!("`projector status {name}` shows those that exist"),
            })?
        }
    };
    let contract = standing
        .descriptor
        .clone()
        .check()
        .map_err(|problems| OperationError::Failed(format!("the descriptor of {name}: {problems}")))?;
    let log = KafkaAdmin::open(&config.kafka)?;
    let checkpoints = checkpoints(&**store, &standing).await?;
    let (mut places, stay, mut problems) = places(&log, checkpoints).await?;
    if places.is_empty() && problems.is_empty() {
        return Err(OperationError::Failed(format!(
            "nothing is to be moved: every checkpoint of {name} is of the cluster that `kafka.brokers` names; name the new cluster there"
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
        partitions.push(place.shown(found, ahead, remark));
        moves.extend(found.map(|offset| place.to(offset)));
    }
    if let Target::Map(map) = &request.to {
        let known: BTreeSet<&Partition> = places.iter().map(|place| &place.partition).collect();
        problems.extend(map.iter().filter(|mapped| !known.contains(&mapped.partition)).map(|mapped| {
            format!("{} is in the map, and is not a partition that is to be moved", mapped.partition)
        }));
    }
    let topics = standing.topics(config).map_err(|error| OperationError::Failed(error.to_string()))?;
    let duplicates = duplicates(&topics, &contract, &places, &partitions, &request.to);
    if let (false, Some((topic, why))) = (request.accept_duplicates, duplicates.first_key_value()) {
        problems.push(format!(
            "events of {topic} could be applied twice: {why}; go on with --accept-duplicates, or move by a map"
        ));
    }
    let runs = runs(&**store, &standing, &places).await?;
    problems.extend(runs.clone());
    let moved: BTreeSet<(&str, i32)> =
        places.iter().map(|place| (&*place.partition.topic, place.partition.number)).collect();
    let mut kept = KeptCount::default();
    for of in store.kept_events(&standing.generation).await? {
        if moved.contains(&(of.topic.as_str(), of.partition)) {
            kept.events += of.events;
            kept.left_in_old_log += of.left_in_log;
        }
    }
    let plan = MovePlan {
        projection: name,
        generation: standing.generation.number,
        runs,
        partitions,
        stay,
        duplicates,
        kept,
        cannot_know: CANNOT_KNOW,
        problems,
        operation: None,
    };
    Ok(Planned { plan, standing, moves, store: store.clone() })
}

/// Every checkpoint of a generation that is of a log.
async fn checkpoints(
    store: &dyn Store,
    standing: &GenerationStatus,
) -> Result<Vec<(Partition, Checkpoint)>, OperationError> {
    let partitions: Vec<Partition> = store.vector(standing.generation.id).await?.into_keys().collect();
    let checkpoints = store.checkpoints(&standing.generation, &partitions).await?;
    let found = partitions.into_iter().zip(checkpoints);
    let of_log = |checkpoint: &Checkpoint| checkpoint.identity.cluster_id.as_deref() != Some(FILE);
    Ok(found
        .filter_map(|(partition, found)| Some((partition, found?)))
        .filter(|(_, found)| of_log(found))
        .collect())
}

/// The partitions that are of another log than the one that the configuration names; those that are not; and
/// what the new cluster lacks.
async fn places(
    log: &KafkaAdmin,
    checkpoints: Vec<(Partition, Checkpoint)>,
) -> Result<(Vec<Place>, Vec<String>, Vec<String>), OperationError> {
    let topics: BTreeSet<Arc<str>> =
        checkpoints.iter().map(|(partition, _)| partition.topic.clone()).collect();
    let (mut marks, mut identities) = (BTreeMap::new(), BTreeMap::new());
    for topic in topics {
        if let Some(found) = log.topic(topic.clone()).await? {
            marks.extend(found);
            identities.extend(log.identities(vec![topic]).await?);
        }
    }
    let (mut places, mut stay, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, from) in checkpoints {
        let identity = identities.get(&*partition.topic).cloned().unwrap_or_default();
        match marks.get(&partition) {
            None => problems.push(format!(
                "the new cluster has no partition {partition}: mirror it there under the same name, with at least as many partitions"
            )),
            Some(_) if !from.identity.differs_from(&identity) => stay.push(partition.to_string()),
            Some(marks) => places.push(Place { partition, from, marks: *marks, identity, last: None }),
        }
    }
    Ok((places, stay, problems))
}

/// Asks the old cluster for the time of the last event that was read of each partition.
async fn last_read(old: &KafkaAdmin, places: &mut [Place]) -> Result<(), OperationError> {
    let topics: BTreeSet<Arc<str>> = places.iter().map(|place| place.partition.topic.clone()).collect();
    let identities = old.identities(topics.into_iter().collect()).await?;
    for place in &*places {
        let found = identities.get(&*place.partition.topic).cloned().unwrap_or_default();
        if place.from.identity.differs_from(&found) {
            return Err(OperationError::Failed(format!(
                "the old cluster that was named is not the one of the checkpoints: {} was read in cluster {} with topic id {}, and there it is cluster {} and topic id {}",
                place.partition,
                shown(&place.from.identity.cluster_id),
                shown(&place.from.identity.topic_id),
                shown(&found.cluster_id),
                shown(&found.topic_id)
            )));
        }
    }
    let asked = places.iter().map(|place| (place.partition.clone(), place.from.next_offset)).collect();
    for (place, last) in places.iter_mut().zip(old.times_before(asked).await?) {
        place.last = last;
    }
    Ok(())
}

fn shown(id: &Option<String>) -> &str {
    id.as_deref().unwrap_or("(unknown)")
}

/// The next offset to read in the new log, and what is to be said of it; or why there is none.
async fn find(
    log: &KafkaAdmin,
    place: &Place,
    target: &Target,
) -> Result<Result<(i64, Option<String>), String>, OperationError> {
    let Place { partition, marks: Watermarks { low, high }, .. } = place;
    let (last, overlap) = match target {
        Target::Map(map) => {
            let mapped = map.iter().find(|mapped| mapped.partition == *partition);
            return Ok(match mapped.map(|mapped| mapped.offset) {
                None => Err(format!("the map has no offset for {partition}")),
                Some(offset) if !(*low..=*high).contains(&offset) => Err(format!(
                    "the map says {offset} for {partition}, and the new log goes from {low} to {high}"
                )),
                Some(offset) => Ok((offset, None)),
            });
        }
        Target::Time { last, overlap } => (*last, *overlap),
    };
    let Some(last) = last.or(place.last) else {
        // Nothing was read, or nothing that the old log still holds.
        let remark = format!(
            "the old log holds no event before the checkpoint: the new one is read from its beginning, {low}"
        );
        return Ok(Ok((*low, Some(remark))));
    };
    let from = last.saturating_sub(i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX)).max(0);
    Ok(Ok(match log.offset_at(partition.clone(), from).await? {
        None => {
            (*high, Some(format!("no record of the new log is as young as {}: is it behind?", rfc3339(from))))
        }
        Some(offset) if offset <= *low && *low > 0 => {
            let remark = format!("the new log may not reach back to {}", rfc3339(from));
            (*low, Some(remark))
        }
        Some(offset) => (offset.clamp(*low, (*high).max(*low)), None),
    }))
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
            // As far as it is known, nothing comes again.
            Target::Map(_) if own().all(|(_, moved)| moved.read_again.unwrap_or(0) == 0) => continue,
            Target::Map(_) => Duration::MAX,
        };
        if own().next().is_none() {
            continue;
        }
        let Err(repeats) = repeat::is_repeatable(contract, at) else { continue };
        // Ids are forgotten by the youngest event of the topic.
        let times = || own().filter_map(|(place, _)| place.last);
        let apart = times().max().zip(times().min()).map_or(0, |(youngest, oldest)| youngest - oldest);
        let needed = overlap.saturating_add(Duration::from_millis(apart.unsigned_abs()));
        let why = match &topic.event_id {
            Some(id) if Duration::from_secs(id.window_seconds.into()) >= needed => continue,
            Some(id) => format!(
                "{repeats}, and its events' ids are remembered for {}, which is less than what is read again",
                humantime::format_duration(Duration::from_secs(id.window_seconds.into()))
            ),
            None => format!("{repeats}, and it declares no event id"),
        };
        found.extend(own().map(|(place, _)| (place.partition.topic.to_string(), why.clone())));
    }
    found
}

/// Why nothing keeps hosts from writing.
async fn runs(
    store: &dyn Store,
    standing: &GenerationStatus,
    places: &[Place],
) -> Result<Option<String>, OperationError> {
    let name = &standing.generation.projection;
    let control = store.control_state().await?;
    let own = control.iter().find(|control| control.generation.id == standing.generation.id);
    if own.is_some_and(|own| own.stopped || own.paused.is_some()) {
        return Ok(None);
    }
    let overview = store.overview().await?;
    let refused: BTreeSet<Partition> = overview
        .into_iter()
        .filter(|found| found.is(&standing.generation))
        .flat_map(|found| found.partitions)
        .filter(|state| {
            state.paused.as_ref().is_some_and(|trouble| trouble.kind == crate::failure::FailureKind::Log)
        })
        .map(|state| Partition::new(state.topic.as_str(), state.partition))
        .collect();
    match places.iter().all(|place| refused.contains(&place.partition)) {
        true => Ok(None),
        false => Ok(Some(format!(
            "{name} does not stand still: `projector pause {name} --reason …` first, so that no host writes meanwhile"
        ))),
    }
}

impl Place {
    fn to(&self, offset: i64) -> Move {
        Move {
            partition: self.partition.clone(),
            from: self.from.clone(),
            to: Checkpoint { next_offset: offset, identity: self.identity.clone() },
            low: self.marks.low,
        }
    }

    /// `ahead`: how many offsets behind the last event that was read the new checkpoint is.
    fn shown(&self, offset: Option<i64>, ahead: Option<i64>, remark: Option<String>) -> PartitionMove {
        PartitionMove {
            topic: self.partition.topic.to_string(),
            partition: self.partition.number,
            old_offset: self.from.next_offset,
            old_cluster: self.from.identity.cluster_id.clone(),
            old_topic_id: self.from.identity.topic_id.clone(),
            new_offset: offset,
            new_cluster: self.identity.cluster_id.clone(),
            new_topic_id: self.identity.topic_id.clone(),
            log_begin: self.marks.low,
            log_end: self.marks.high,
            last_read: self.last.map(rfc3339),
            read_again: ahead.map(|ahead| (-ahead).max(0)),
            never_read: ahead.map(|ahead| ahead.max(0)),
            remark,
        }
    }
}
