//! The status of every projection, from the stores and from Kafka.
//!
//! No running host is needed: the projections of a dead host are shown as well. What cannot be found out is named with
//! its reason, and the rest is shown without it.

mod brokers;
mod projection;

use std::collections::BTreeMap;

use serde::Serialize;

use super::OperationError;
use super::trial::{self, Reverted};
use crate::config::{self, Config};
use crate::failure::{Blocker, FailureKind};
use crate::freshness::Visibility;
use crate::source::KafkaAdmin;
use crate::store::deployments::{LiveHost, Role};
use crate::store::identity;
use crate::store::source_topics::RecordedTopic;
use crate::store::{self, Counters, Projection, StatementCount, Store, WaitingEvent};
use crate::topics::TopicMapping;
use brokers::Brokers;
use projection::of_projection;

/// How many deployments are searched for the origin of the active version.
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

/// Reads every configured store, and asks the brokers for the ends of the partitions. An error only if no store can be
/// read, or no store has the projection `only`.
pub async fn status(config: &Config, only: Option<&str>) -> Result<Status, OperationError> {
    let mut brokers = Brokers::new(KafkaAdmin::open(&config.kafka)?);
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
    // Without a projection, no broker was asked yet: report whether one responds.
    if only.is_none()
        && projections.is_empty()
        && let Err(error) = brokers.log.cluster_id().await
    {
        brokers.gone = Some(Blocker::new(error.kind(), &error));
    }
    // Generations beside the live one are listed below it.
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
        // Without one, the generation was removed a moment ago.
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

/// A generation's topics, what was recorded of them, and the views that show it.
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
