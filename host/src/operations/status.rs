//! How every projection stands, from the store and the log: it needs no running host, and shows
//! the projections of a dead one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use projector_model::Descriptor;
use serde::Serialize;

use super::OperationError;
use crate::checkpoint::Marks;
use crate::config::Config;
use crate::event::Partition;
use crate::failure::Trouble;
use crate::freshness::{Visibility, visibility};
use crate::source::Log;
use crate::store::deployments::Role;
use crate::store::{self, Counters, PartitionState, Projection, StatementCount};

#[derive(Debug, Serialize)]
pub struct Status {
    pub projections: Vec<ProjectionStatus>,
}

#[derive(Debug, Serialize)]
pub struct ProjectionStatus {
    pub name: String,
    pub generation: i32,
    pub role: Role,
    pub version: String,
    pub digest: String,
    /// Everything that is committed in the log is in the read model, and it will stay so: no
    /// partition is paused.
    pub fresh: bool,
    /// Age in milliseconds of the oldest event that is not; absent when it has no timestamp.
    pub freshness_ms: Option<i64>,
    pub lag: i64,
    /// Of a generation that is built: events per second since it was begun, and seconds until it is through
    /// with what is in the log now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub building: Option<Progress>,
    /// Why it stands still, if it does.
    pub halted: Option<Trouble>,
    /// The last time that the plugin answered otherwise to the same event than it had.
    pub impure: Option<String>,
    pub counters: Counters,
    pub ignored_by_code: BTreeMap<String, i64>,
    pub dead_by_code: BTreeMap<String, i64>,
    pub skipped_by_code: BTreeMap<String, i64>,
    pub dead_letters: i64,
    /// Events without an id, of topics that declare where their events carry one: they were projected, and
    /// their duplicates cannot be told.
    pub without_id: i64,
    /// By statement: the changes that the plugin asked for, and the rows that they touched.
    pub statements: BTreeMap<String, StatementCount>,
    pub partitions: Vec<PartitionStatus>,
    /// Topics that do not exist.
    pub missing_topics: Vec<String>,
    /// Generations beside the live one: one that is built, and those that readers saw before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<ProjectionStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    pub events_per_second: f64,
    /// Absent as long as nothing was read.
    pub remaining_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    /// The next offset to read; absent before the partition was first granted to a host.
    pub checkpoint: Option<i64>,
    /// Absent for what is no log: a file that it was fed from.
    #[serde(flatten)]
    pub visibility: Option<Visibility>,
    pub counters: Counters,
    pub paused: Option<Trouble>,
}

/// Reads every configured store, and asks the brokers how far the log goes.
pub async fn status(config: &Config, only: Option<&str>) -> Result<Status, OperationError> {
    let log = Log::open(&config.kafka)?;
    let mut projections = Vec::new();
    for settings in config.all_stores() {
        let store = store::open_to_read(settings).await?;
        let overview = store.overview().await?;
        store.close().await;
        for projection in overview {
            if only.is_none_or(|only| only == projection.name) {
                projections.push(of_projection(config, &log, projection).await?);
            }
        }
    }
    // Those beside it go with the live one.
    let (mut projections, beside): (Vec<_>, Vec<_>) =
        projections.into_iter().partition(|status| status.role == Role::Live);
    for status in beside {
        let live = projections.iter_mut().find(|live: &&mut ProjectionStatus| live.name == status.name);
        match live {
            Some(live) => live.beside.push(status),
            None => projections.push(status),
        }
    }
    match only {
        Some(name) if projections.is_empty() => Err(super::unknown(name)),
        _ => Ok(Status { projections }),
    }
}

async fn of_projection(
    config: &Config,
    log: &Log,
    projection: Projection,
) -> Result<ProjectionStatus, OperationError> {
    let descriptor = Descriptor::from_json(&projection.descriptor).map_err(|problems| {
        OperationError::Failed(format!("the descriptor of {}: {problems}", projection.name))
    })?;
    let mut stored: HashMap<(String, i32), PartitionState> = projection
        .partitions
        .into_iter()
        .map(|state| ((state.topic.clone(), state.partition), state))
        .collect();
    let mut asked: Vec<(Partition, i64, Marks)> = Vec::new();
    let mut missing_topics = Vec::new();
    for topic in &descriptor.topics {
        let physical: Arc<str> = config.physical_topic(&topic.name).into();
        match log.topic(physical.clone()).await? {
            None => missing_topics.push(physical.to_string()),
            Some(partitions) => asked.extend(partitions.into_iter().map(|(partition, marks)| {
                let checkpoint = stored.get(&(partition.topic.to_string(), partition.number));
                (partition, checkpoint.map_or(marks.low, |state| state.checkpoint), marks)
            })),
        }
    }
    let created_ms = projection.created_at / 1_000;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let partitions: Vec<Partition> = asked.iter().map(|(partition, ..)| partition.clone()).collect();
    let mut visible: Vec<Option<Visibility>> =
        visibility(log, asked, now_ms).await?.into_iter().map(Some).collect();
    // What was read from elsewhere is in the books as well.
    let of_log: HashSet<&Partition> = partitions.iter().collect();
    let elsewhere = stored.values().map(|state| Partition::new(state.topic.as_str(), state.partition));
    let elsewhere: Vec<Partition> = elsewhere.filter(|partition| !of_log.contains(partition)).collect();
    let partitions: Vec<Partition> = partitions.iter().cloned().chain(elsewhere).collect();
    visible.resize(partitions.len(), None);
    let mut counters = Counters::default();
    let [mut ignored_by_code, mut dead_by_code, mut skipped_by_code] = [const { BTreeMap::new() }; 3];
    let mut statuses: Vec<PartitionStatus> = Vec::new();
    for (partition, visibility) in partitions.into_iter().zip(visible) {
        let state = stored.remove(&(partition.topic.to_string(), partition.number));
        let own = state.as_ref().map(|state| state.counters).unwrap_or_default();
        counters += own;
        if let Some(state) = &state {
            add(&mut ignored_by_code, &state.ignored_by_code);
            add(&mut dead_by_code, &state.dead_by_code);
            add(&mut skipped_by_code, &state.skipped_by_code);
        }
        statuses.push(PartitionStatus {
            topic: partition.topic.to_string(),
            partition: partition.number,
            checkpoint: state.as_ref().map(|state| state.checkpoint),
            visibility,
            counters: own,
            paused: state.and_then(|state| state.paused),
        });
    }
    let visible = || statuses.iter().filter_map(|status| status.visibility);
    let lag: i64 = visible().map(|visible| visible.lag).sum();
    let seconds = (now_ms - created_ms).max(1) as f64 / 1_000.0;
    let building = (projection.role == Role::Building).then(|| {
        let rate = counters.read as f64 / seconds;
        Progress { events_per_second: rate, remaining_seconds: (rate > 0.0).then(|| lag as f64 / rate) }
    });
    let behind = || visible().filter(|visible| visible.lag > 0);
    let freshness_ms = match behind().count() {
        0 => Some(0),
        _ => behind().filter_map(|visible| visible.freshness_ms).max(),
    };
    Ok(ProjectionStatus {
        name: projection.name,
        generation: projection.generation,
        role: projection.role,
        version: projection.version,
        digest: projection.digest,
        fresh: lag == 0 && missing_topics.is_empty() && statuses.iter().all(|status| status.paused.is_none()),
        freshness_ms,
        lag,
        building,
        halted: projection.halted,
        impure: projection.impure,
        counters,
        ignored_by_code,
        dead_by_code,
        skipped_by_code,
        dead_letters: projection.dead_letters,
        without_id: projection.without_id,
        statements: projection.statements,
        partitions: statuses,
        missing_topics,
        beside: Vec::new(),
    })
}

fn add(all: &mut BTreeMap<String, i64>, some: &BTreeMap<String, i64>) {
    for (code, events) in some {
        *all.entry(code.clone()).or_default() += events;
    }
}
