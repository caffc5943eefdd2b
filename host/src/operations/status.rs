//! How every projection stands, from the store and the log: it needs no running host, and shows
//! the projections of a dead one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::OperationError;
use super::trial::{self, Reverted};
use crate::beginning::Starts;
use crate::checkpoint::{Identity, Watermarks};
use crate::config::{self, Config};
use crate::event::Partition;
use crate::failure::{Blocker, FailureKind};
use crate::freshness::{Seen, Visibility, visibility};
use crate::instant::now_ms;
use crate::source::{KafkaAdmin, KafkaFault, LogError};
use crate::store::beginnings::EarlierStarts;
use crate::store::deployments::{LiveHost, Role};
use crate::store::identity;
use crate::store::source_topics::RecordedTopic;
use crate::store::{self, Counters, PartitionState, Projection, StatementCount, Store, WaitingEvent};
use crate::topics::TopicMapping;

/// So far back it is looked for how the active version came about.
const RECENT_DEPLOYMENTS: i64 = 100;

/// What is known, by projection and by partition; what is not known is named, with its reason.
#[derive(Debug, Serialize)]
pub struct Status {
    pub projections: Vec<ProjectionStatus>,
    /// Why no broker answered: then no projection is known to be fresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers: Option<Blocker>,
    /// Databases that are copies of the ones that their stores were made in: no host runs them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopiedStore>,
    /// Databases that did not answer: their projections are not in the list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreachable_stores: Vec<String>,
    /// Databases on which no host has ever run, or hosts of another version run: what to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// A database that no host runs.
#[derive(Debug, Serialize)]
pub struct CopiedStore {
    /// Its address, without role and password.
    pub store: String,
    pub why: Blocker,
}

/// A topic that the brokers do not have, or do not show to this host.
#[derive(Debug, Serialize)]
pub struct UnknownTopic {
    pub topic: String,
    /// What the plugin calls it.
    pub logical: String,
    pub why: Blocker,
}

#[derive(Debug, Serialize)]
pub struct ProjectionStatus {
    pub name: String,
    pub generation: i32,
    pub role: Role,
    pub version: String,
    pub digest: String,
    /// The active version took another one's place, which comes back if this one fails in its first batches.
    pub on_trial: bool,
    /// A version that hosts reverted, while no other one has come after it.
    pub reverted: Option<Reverted>,
    /// The views that show it to readers: none of a generation that is being built.
    pub views: Vec<ShownViews>,
    /// Everything that is committed in the log has been read, and it will stay so: no partition is paused. False
    /// where it is not known. Whether the rows of all these events are there is another matter: `complete`.
    pub fresh: bool,
    /// Every event that was read is in the read model, except for those that the plugin ignored and those that an
    /// operator skipped.
    pub complete: bool,
    /// Events that were read and are not in it: they are dead letters, wait for rows, or wait behind such events.
    pub missing_events: i64,
    /// Some of those that wait for rows: those whose time is over first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<WaitingEvent>,
    /// Age in milliseconds of the oldest of these; absent if there are none, or none has a timestamp.
    pub oldest_missing_ms: Option<i64>,
    /// Age in milliseconds of the oldest event that is not; absent when it has no timestamp, or when it is
    /// not known.
    pub freshness_ms: Option<i64>,
    pub lag: i64,
    /// Of a generation that is built: events per second since it was begun, and seconds until it is through
    /// with what is in the log now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub building: Option<Progress>,
    /// Why it stands still, if it does.
    pub halted: Option<Blocker>,
    /// The last time that the plugin answered otherwise to the same event than it had.
    pub impure: Option<String>,
    /// Transactions that the database ended because of a deadlock, each of which was done again.
    pub deadlocks: i64,
    pub counters: Counters,
    /// Offsets that the log held before the configured start: they are not read, and are none of `read`.
    pub before_start: i64,
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
    /// The physical topics that it reads, and those that matched before.
    pub topics: Vec<TopicStatus>,
    /// Topics that do not exist.
    pub missing_topics: Vec<String>,
    /// Topics of which nothing is known, those that do not exist among them, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_topics: Vec<UnknownTopic>,
    /// Generations beside the live one: one that is built, and those that readers saw before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<ProjectionStatus>,
}

/// Views of one schema (Postgres), or of one prefix (SQLite).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownViews {
    pub schema: String,
    /// False of views that keep the columns which readers knew before others were added.
    pub all_columns: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    pub events_per_second: f64,
    /// Absent as long as nothing was read, and of a generation that stands still.
    pub remaining_seconds: Option<f64>,
    /// Why it does not get on, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stands_still: Option<String>,
}

/// After so many seconds in which no checkpoint moved, a generation that is behind stands still.
const STANDS_STILL: i64 = 30;

#[derive(Debug, Serialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    /// The next offset to read; absent before the partition was first granted to a host.
    pub checkpoint: Option<i64>,
    /// The first offset that was read.
    pub start: Option<i64>,
    /// How many offsets the log held before it then.
    pub before_start: i64,
    /// Absent for what is no log: a file that it was fed from.
    #[serde(flatten)]
    pub visibility: Option<Visibility>,
    pub counters: Counters,
    pub paused: Option<Blocker>,
    /// Why the brokers do not tell how far its log goes, or what is next in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Blocker>,
}

/// The brokers, as long as one answers: once none does, they are not asked again.
struct Brokers {
    log: KafkaAdmin,
    gone: Option<Blocker>,
}

impl Brokers {
    /// The topics of a generation. Where the brokers do not tell which match: those that matched last.
    async fn topics(&mut self, mapping: &TopicMapping, recorded: &[RecordedTopic]) -> Vec<Arc<str>> {
        if self.gone.is_none() {
            match self.log.topics(mapping).await {
                Ok(topics) => return topics,
                Err(error) => self.gone = Some(Blocker::new(error.kind(), &error)),
            }
        }
        let last = recorded.iter().filter(|recorded| recorded.left_at.is_none());
        mapping.topics(last.map(|recorded| &*recorded.topic))
    }

    /// The partitions of a topic, with the marks of each, or why they are not known. `was_read`: events of it are
    /// in the read model.
    async fn topic(
        &mut self,
        topic: Arc<str>,
        was_read: bool,
    ) -> Result<Vec<(Partition, Result<Watermarks, Blocker>)>, Blocker> {
        if let Some(gone) = &self.gone {
            return Err(gone.clone());
        }
        match self.log.topic_each(topic).await {
            Ok(partitions) => {
                let told = |fault: KafkaFault| Blocker::new(fault.kind(), fault);
                Ok(partitions.into_iter().map(|(at, marks)| (at, marks.map_err(told))).collect())
            }
            Err(error) => {
                let error = match error {
                    LogError::Fault(fault) if was_read => LogError::Fault(fault.of_topic_read_before()),
                    error => error,
                };
                let trouble = Blocker::new(error.kind(), &error);
                if matches!(&error, LogError::Fault(fault) if fault.is_everywhere()) {
                    self.gone = Some(trouble.clone());
                }
                Err(trouble)
            }
        }
    }
}

impl Brokers {
    /// Where a partition would begin that has no checkpoint, or why it does not.
    async fn first_offset(
        &self,
        starts: &Starts,
        partition: &Partition,
        marks: Watermarks,
    ) -> Result<i64, Blocker> {
        let log_is = (marks, &Identity::default());
        match starts.find(&self.log, partition, log_is, &EarlierStarts::new()).await {
            Ok(found) => found.map_err(|problem| Blocker::new(FailureKind::Start, problem)),
            Err(error) => Err(Blocker::new(error.kind(), &error)),
        }
    }
}

/// Reads every configured store, and asks the brokers how far the log goes. An error only if no store could
/// be read, or none has the projection that is asked for.
pub async fn status(config: &Config, only: Option<&str>) -> Result<Status, OperationError> {
    let mut brokers = Brokers { log: KafkaAdmin::open(&config.kafka)?, gone: None };
    let (mut projections, mut copies, mut notices, mut read) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut failed: Vec<OperationError> = Vec::new();
    for settings in config.all_stores() {
        match overview(config, settings, &mut notices).await {
            Err(error) => failed.push(error),
            Ok((overview, copied)) => {
                read += 1;
                copies.extend(copied.map(|why| CopiedStore { store: settings.shown(), why }));
                for (topics, projection) in overview {
                    if only.is_none_or(|only| only == projection.name) {
                        projections.push(of_projection(config, &mut brokers, topics, projection).await?);
                    }
                }
            }
        }
    }
    if (read == 0 || (only.is_some() && projections.is_empty()))
        && let Some(error) = failed.pop()
    {
        return Err(error);
    }
    // Without a projection no topic was asked about: whether the brokers can be reached is told all the same.
    if only.is_none()
        && projections.is_empty()
        && let Err(error) = brokers.log.cluster_id().await
    {
        brokers.gone = Some(Blocker::new(error.kind(), &error));
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
        Some(name) if projections.is_empty() => Err(match &notices[..] {
            [] => super::unknown(name),
            notices => OperationError::Usage {
                message: format!("no projection is called {name:?}"),
                help: notices.join("; "),
            },
        }),
        _ => Ok(Status {
            projections,
            brokers: brokers.gone,
            copies,
            unreachable_stores: failed.iter().map(ToString::to_string).collect(),
            notices,
        }),
    }
}

/// The projections of a store, and whether its database is a copy.
async fn overview(
    config: &Config,
    settings: &config::Store,
    notices: &mut Vec<String>,
) -> Result<(Vec<(Shown, Projection)>, Option<Blocker>), OperationError> {
    let (schema, store) = store::open_if_used(settings).await?;
    let Some(store) = store else {
        notices.push(schema.unused().to_string());
        return Ok((Vec::new(), None));
    };
    let read = async {
        notices.extend(schema.notice());
        let hosts = store.live_hosts().await?;
        notices.extend(hosts_of_older_versions(&*store, &hosts));
        let shown = shown(config, &*store, hosts.len()).await?;
        let copied = match shown.is_empty() {
            true => None,
            false => identity::copied(&*store).await?,
        };
        Ok((shown, copied.map(|reason| Blocker::new(FailureKind::Copied, reason))))
    };
    let read = read.await;
    store.close().await;
    read
}

/// While an upgrade is under way: which hosts are still to be upgraded.
fn hosts_of_older_versions(store: &dyn Store, hosts: &[LiveHost]) -> Option<String> {
    let newest = store.schema().version.unwrap_or_default();
    let older: Vec<&str> = hosts.iter().filter(|host| host.knows < newest).map(|host| &*host.name).collect();
    (!older.is_empty()).then(|| {
        format!(
            "these hosts on {} are of an older version than its tables, and go on until they are upgraded: {}",
            store.schema().database,
            older.join(", ")
        )
    })
}

async fn shown(
    config: &Config,
    store: &dyn Store,
    live_hosts: usize,
) -> Result<Vec<(Shown, Projection)>, OperationError> {
    let mut shown = Vec::new();
    for projection in store.overview().await? {
        let standings = store.standings(&projection.name).await?;
        let own = standings.iter().find(|it| it.generation.number == projection.generation);
        // Or it was removed a moment ago.
        let Some(own) = own else { continue };
        let mapping = own.topics(config).map_err(|error| OperationError::Failed(error.to_string()))?;
        let recorded = store.recorded_topics(own.generation.id).await?;
        let views = own
            .views
            .iter()
            .map(|set| ShownViews { schema: set.schema.clone(), all_columns: set.shows_all(&own.layout) });
        let history = store.history(&projection.name, RECENT_DEPLOYMENTS).await?;
        let batches = config.deploy_of(&projection.name).trial_batches;
        let versions = ActiveVersions {
            on_trial: trial::is_running(&history, projection.generation, batches),
            reverted: trial::reverted(&history, projection.generation),
        };
        shown.push((Shown { mapping, recorded, views: views.collect(), versions, live_hosts }, projection));
    }
    Ok(shown)
}

/// What a generation's topics are in the log, what was recorded of them, and where readers see it.
struct Shown {
    mapping: TopicMapping,
    recorded: Vec<RecordedTopic>,
    views: Vec<ShownViews>,
    versions: ActiveVersions,
    /// Of its store.
    live_hosts: usize,
}

/// How the active version came about.
struct ActiveVersions {
    on_trial: bool,
    reverted: Option<Reverted>,
}

/// A physical topic that a generation reads, or read before.
#[derive(Debug, Serialize)]
pub struct TopicStatus {
    pub topic: String,
    /// The logical topics that it is.
    pub logical: Vec<String>,
    /// Of one that matches a pattern: when it was found, and when it was found to be there no more. In
    /// milliseconds since 1970.
    pub since_ms: Option<i64>,
    pub left_ms: Option<i64>,
}

/// All topics that are read, and those that left.
fn topic_statuses(mapping: &TopicMapping, read: &[Arc<str>], recorded: &[RecordedTopic]) -> Vec<TopicStatus> {
    let names = read.iter().map(|topic| &**topic).chain(recorded.iter().map(|recorded| &*recorded.topic));
    let names: BTreeSet<&str> = names.collect();
    let status = |topic: &str| {
        let recorded = recorded.iter().find(|recorded| recorded.topic == topic);
        TopicStatus {
            topic: topic.to_owned(),
            logical: mapping.logical(topic).map(str::to_owned).collect(),
            since_ms: recorded.map(|recorded| recorded.joined_at / 1_000),
            left_ms: recorded.and_then(|recorded| recorded.left_at).map(|at| at / 1_000),
        }
    };
    names.into_iter().map(status).collect()
}

async fn of_projection(
    config: &Config,
    brokers: &mut Brokers,
    Shown { mapping, recorded, views, versions, live_hosts }: Shown,
    projection: Projection,
) -> Result<ProjectionStatus, OperationError> {
    let mut stored: HashMap<(String, i32), PartitionState> = projection
        .partitions
        .into_iter()
        .map(|state| ((state.topic.clone(), state.partition), state))
        .collect();
    let mut asked: Vec<(Partition, i64, Watermarks)> = Vec::new();
    let mut unknown_topics = Vec::new();
    let mut of_log: Vec<Partition> = Vec::new();
    let mut seen: HashMap<Partition, Seen> = HashMap::new();
    let starts = Starts::of(config, &projection.name, &mapping);
    // Why partitions that have no checkpoint are not begun.
    let mut not_begun: HashMap<Partition, Blocker> = HashMap::new();
    let read = brokers.topics(&mapping, &recorded).await;
    let topics = topic_statuses(&mapping, &read, &recorded);
    for physical in read {
        let was_read = stored.keys().any(|(topic, _)| **topic == *physical);
        match brokers.topic(physical.clone(), was_read).await {
            Err(why) => {
                let logical = mapping.logical(&physical).collect::<Vec<_>>().join(", ");
                let topic = physical.to_string();
                unknown_topics.push(UnknownTopic { topic, logical, why });
            }
            Ok(partitions) => {
                for (partition, marks) in partitions {
                    of_log.push(partition.clone());
                    let checkpoint = stored.get(&(partition.topic.to_string(), partition.number));
                    match marks {
                        Ok(marks) => {
                            let existed = projection.began_with.as_ref();
                            let existed = existed.is_none_or(|existed| existed.contains(&partition));
                            let from = match checkpoint {
                                Some(state) => Ok(state.checkpoint),
                                None if !existed => Ok(marks.low),
                                None => brokers.first_offset(&starts, &partition, marks).await,
                            };
                            let from = from.unwrap_or_else(|trouble| {
                                not_begun.insert(partition.clone(), trouble);
                                marks.low
                            });
                            asked.push((partition, from, marks));
                        }
                        Err(why) => drop(seen.insert(partition, Seen::unknown(why))),
                    }
                }
            }
        }
    }
    let of_missing =
        |topic: &&UnknownTopic| matches!(topic.why.kind, FailureKind::NoTopic | FailureKind::TopicDeleted);
    let missing_topics = unknown_topics.iter().filter(of_missing).map(|topic| topic.topic.clone()).collect();
    let created_ms = projection.created_at / 1_000;
    let now_ms = now_ms();
    let partitions: Vec<Partition> = asked.iter().map(|(partition, ..)| partition.clone()).collect();
    seen.extend(partitions.into_iter().zip(visibility(&brokers.log, asked, now_ms).await));
    // What was read from elsewhere is in the books as well, and what is in the books of a topic that is not
    // known.
    let elsewhere = stored.values().map(|state| Partition::new(state.topic.as_str(), state.partition));
    let mut elsewhere: Vec<Partition> = elsewhere.filter(|partition| !seen.contains_key(partition)).collect();
    elsewhere.sort();
    for partition in &elsewhere {
        let of_topic = unknown_topics.iter().find(|unknown| *unknown.topic == *partition.topic);
        let unknown = of_topic.map(|unknown| unknown.why.clone());
        seen.insert(partition.clone(), Seen { visibility: None, unknown });
    }
    let mut counters = Counters::default();
    let [mut ignored_by_code, mut dead_by_code, mut skipped_by_code] = [const { BTreeMap::new() }; 3];
    let mut statuses: Vec<PartitionStatus> = Vec::new();
    for partition in of_log.into_iter().chain(elsewhere) {
        let Some(Seen { visibility, unknown }) = seen.remove(&partition) else { continue };
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
            start: state.as_ref().map(|state| state.start),
            before_start: state.as_ref().map_or(0, |state| state.before_start),
            visibility,
            counters: own,
            paused: match state {
                Some(state) => state.paused,
                None => not_begun.remove(&partition),
            },
            unknown,
        });
    }
    let visible = || statuses.iter().filter_map(|status| status.visibility);
    let lag: i64 = visible().map(|visible| visible.lag).sum();
    let seconds = (now_ms - created_ms).max(1) as f64 / 1_000.0;
    let building = (projection.role == Role::Building).then(|| {
        let rate = counters.read as f64 / seconds;
        let stands_still = match &projection.halted {
            Some(trouble) => Some(trouble.reason.clone()),
            None => stands_still(&statuses, &unknown_topics, projection.idle_seconds, live_hosts),
        };
        let remaining_seconds = (rate > 0.0 && stands_still.is_none()).then(|| lag as f64 / rate);
        Progress { events_per_second: rate, remaining_seconds, stands_still }
    });
    let behind = || visible().filter(|visible| visible.lag > 0);
    let all_known = unknown_topics.is_empty() && statuses.iter().all(|status| status.unknown.is_none());
    let freshness_ms = match behind().count() {
        _ if !all_known => None,
        0 => Some(0),
        _ => behind().filter_map(|visible| visible.freshness_ms).max(),
    };
    let missing_events = counters.parked + counters.waiting + counters.dead;
    Ok(ProjectionStatus {
        views,
        complete: missing_events == 0,
        missing_events,
        waits: projection.waits,
        oldest_missing_ms: projection.oldest_missing.map(|recorded_ms| (now_ms - recorded_ms).max(0)),
        name: projection.name,
        generation: projection.generation,
        role: projection.role,
        version: projection.version,
        digest: projection.digest,
        on_trial: versions.on_trial,
        reverted: versions.reverted,
        fresh: lag == 0 && all_known && statuses.iter().all(|status| status.paused.is_none()),
        freshness_ms,
        lag,
        building,
        halted: projection.halted,
        impure: projection.impure,
        deadlocks: projection.deadlocks,
        counters,
        before_start: statuses.iter().map(|status| status.before_start).sum(),
        ignored_by_code,
        dead_by_code,
        skipped_by_code,
        dead_letters: projection.dead_letters,
        without_id: projection.without_id,
        statements: projection.statements,
        topics,
        partitions: statuses,
        missing_topics,
        unknown_topics,
        beside: Vec::new(),
    })
}

/// Why a generation does not get on with what is in the log: because of a topic that is not known, or since a while.
fn stands_still(
    partitions: &[PartitionStatus],
    unknown_topics: &[UnknownTopic],
    idle_seconds: i64,
    live_hosts: usize,
) -> Option<String> {
    let is_behind =
        partitions.iter().any(|of| of.visibility.map_or(of.unknown.is_some(), |visible| visible.lag > 0));
    let mut unknown =
        unknown_topics.iter().map(|unknown| format!("{}: {}", unknown.topic, unknown.why.reason));
    if !is_behind {
        return unknown
            .next()
            .map(|why| format!("it is not caught up without a topic that is not known: {why}"));
    }
    if idle_seconds < STANDS_STILL {
        return None;
    }
    let of_partition = |of: &PartitionStatus| {
        let why = of.paused.as_ref().or(of.unknown.as_ref())?;
        Some(format!("{}/{}: {}", of.topic, of.partition, why.reason))
    };
    let why = match partitions.iter().find_map(of_partition).or_else(|| unknown.next()) {
        Some(why) => why,
        None if live_hosts == 0 => "no host is live".into(),
        None => "the logs of the hosts may tell why".into(),
    };
    Some(format!("no event was applied for {idle_seconds} s: {why}"))
}

fn add(all: &mut BTreeMap<String, i64>, some: &BTreeMap<String, i64>) {
    for (code, events) in some {
        *all.entry(code.clone()).or_default() += events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(lag: i64, paused: Option<&str>) -> PartitionStatus {
        PartitionStatus {
            topic: "t".into(),
            partition: 0,
            checkpoint: Some(7),
            start: Some(0),
            before_start: 0,
            visibility: Some(Visibility {
                log_end: 7 + lag,
                lag,
                freshness_ms: None,
                open_transaction_ms: None,
            }),
            counters: Counters::default(),
            paused: paused.map(|reason| Blocker::new(FailureKind::Log, reason)),
            unknown: None,
        }
    }

    #[test]
    fn a_generation_stands_still_for_a_reason() {
        let missing = || {
            let why = Blocker::new(FailureKind::NoTopic, "it does not exist");
            [UnknownTopic { topic: "u".into(), logical: "u".into(), why }]
        };
        let (on, still) = (STANDS_STILL - 1, STANDS_STILL);
        // It gets on, or has nothing to do.
        assert_eq!(stands_still(&[partition(3, None)], &[], on, 1), None);
        assert_eq!(stands_still(&[partition(0, None)], &[], still, 1), None);
        let why = |partitions: &[PartitionStatus], unknown: &[UnknownTopic], idle, hosts| {
            stands_still(partitions, unknown, idle, hosts).expect("it stands still")
        };
        assert!(why(&[partition(3, None)], &[], still, 1).contains("for 30 s"));
        assert!(why(&[partition(3, None)], &[], still, 0).contains("no host is live"));
        let paused = [partition(3, None), partition(3, Some("another log"))];
        assert!(why(&paused, &[], still, 1).contains("t/0: another log"));
        assert!(why(&[partition(3, None)], &missing(), still, 1).contains("u: it does not exist"));
        // All that is known is through.
        assert!(why(&[partition(0, None)], &missing(), on, 1).contains("u: it does not exist"));
    }
}
