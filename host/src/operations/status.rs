//! The status of every projection, from the stores and from Kafka.
//!
//! No running host is needed: the projections of a dead host are shown as well. What cannot be found out is named
//! with its reason, and the rest is shown without it.

mod brokers;
mod projection;

use std::collections::BTreeMap;

use projector_config::{self as config, Config};
use projector_core::counters::Counters;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::generation::Role;
use projector_core::topics::TopicMapping;
use projector_kafka::KafkaAdmin;
use projector_store::hosts::LiveHost;
use projector_store::source_topics::RecordedTopic;
use projector_store::{self as store, Projection, StatementCount, Store, WaitingEvent, identity};
use serde::Serialize;

use super::OperationError;
use super::trial::{self, Reverted};
use crate::freshness::Visibility;
use brokers::Brokers;
use projection::of_projection;

/// How many deployments are searched for the origin of the active version.
const RECENT_DEPLOYMENTS: i64 = 100;

/// The status of all projections. What is unknown is named, with its reason.
#[derive(Debug, Serialize)]
pub struct Status {
    pub projections: Vec<ProjectionStatus>,
    /// Why no broker responded. Then no projection is known to be fresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers: Option<Blocker>,
    /// Databases that are copies of the ones that their stores were created in: no host uses them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopiedStore>,
    /// Databases that did not respond: their projections are not in the list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreachable_stores: Vec<String>,
    /// Advice for databases on which no host has ever run, or on which hosts of another version run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// A database that is a copy, so that no host uses it.
#[derive(Debug, Serialize)]
pub struct CopiedStore {
    /// Its address, without role and password.
    pub store: String,
    pub why: Blocker,
}

/// A topic that does not exist, or that this host may not see.
#[derive(Debug, Serialize)]
pub struct UnknownTopic {
    pub topic: String,
    /// The plugin's name for it.
    pub logical: String,
    pub why: Blocker,
}

/// The status of one generation. The JSON is flat.
#[derive(Debug, Serialize)]
pub struct ProjectionStatus {
    pub name: String,
    pub generation: i32,
    pub role: Role,
    #[serde(flatten)]
    pub active: ActiveVersion,
    /// The views that show the generation to readers. A generation that is being built has none.
    pub views: Vec<ShownViews>,
    #[serde(flatten)]
    pub rows: RowsStatus,
    /// Of a generation that is being built: events per second since its start, and seconds until it has read what is
    /// in the log now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub building: Option<Progress>,
    #[serde(flatten)]
    pub faults: Faults,
    #[serde(flatten)]
    pub counts: Counts,
    pub partitions: Vec<PartitionStatus>,
    #[serde(flatten)]
    pub topics: Topics,
    /// Generations beside the live one: being built, or warm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<ProjectionStatus>,
}

/// The active version of a generation.
#[derive(Debug, Serialize)]
pub struct ActiveVersion {
    pub version: String,
    pub digest: String,
    /// Whether the active version is on trial: the version before is activated again if this one fails.
    pub on_trial: bool,
    /// The version that hosts have reverted. Absent as soon as another version is deployed.
    pub reverted: Option<Reverted>,
}

/// How current and how complete the rows are.
#[derive(Debug, Serialize)]
pub struct RowsStatus {
    /// Everything that is committed in the log has been read, and no partition is paused. False if this is unknown.
    /// `complete` tells whether all of these events are in the rows.
    pub fresh: bool,
    /// Every event that was read is in the read model, except for events that the plugin ignored or an operator
    /// skipped.
    pub complete: bool,
    /// Events that were read and are not in the read model: dead letters, waiting events, and parked events.
    pub missing_events: i64,
    /// The waiting events that expire first; not all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<WaitingEvent>,
    /// Age in milliseconds of the oldest missing event. Absent if there is none, or none has a timestamp.
    pub oldest_missing_ms: Option<i64>,
    /// Age in milliseconds of the oldest event that was not read. Absent if it has no timestamp, or is unknown.
    pub freshness_ms: Option<i64>,
    /// How many events were not read, in all partitions whose end is known.
    pub lag: i64,
}

/// What went wrong with the generation.
#[derive(Debug, Serialize)]
pub struct Faults {
    /// Why the projection is blocked, if it is.
    pub halted: Option<Blocker>,
    /// The last time that the plugin gave two different answers to the same event.
    pub impure: Option<String>,
    /// Transactions that the database ended because of a deadlock. Each was retried.
    pub deadlocks: i64,
}

/// Counts of events since the generation was created.
#[derive(Debug, Serialize)]
pub struct Counts {
    pub counters: Counters,
    /// Offsets before the configured start: they are not read, and not counted in `read`.
    pub before_start: i64,
    pub ignored_by_code: BTreeMap<String, i64>,
    pub dead_by_code: BTreeMap<String, i64>,
    pub skipped_by_code: BTreeMap<String, i64>,
    pub dead_letters: i64,
    /// Events without an id, of topics that declare an event id. They were projected, and their duplicates cannot be
    /// detected.
    pub without_id: i64,
    /// By statement: the changes that the plugin asked for, and the rows that they changed.
    pub statements: BTreeMap<String, StatementCount>,
}

/// The topics of a generation.
#[derive(Debug, Serialize)]
pub struct Topics {
    /// The physical topics that the projection reads, and those that matched before.
    pub topics: Vec<TopicStatus>,
    /// Topics that do not exist.
    pub missing_topics: Vec<String>,
    /// Topics that are unknown, and why. Those that do not exist are among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_topics: Vec<UnknownTopic>,
}

/// Views of one schema (Postgres), or of one prefix (SQLite).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownViews {
    pub schema: String,
    /// False for views that keep the columns which readers knew before others were added.
    pub all_columns: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    pub events_per_second: f64,
    /// Absent as long as nothing was read, and while the generation is stuck.
    pub remaining_seconds: Option<f64>,
    /// Why the generation is stuck, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stands_still: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    /// The next offset to read. Absent until a host has read the partition for the first time.
    pub checkpoint: Option<i64>,
    /// The first offset that was read.
    pub start: Option<i64>,
    /// How many offsets the log had before that one then.
    pub before_start: i64,
    /// Absent for the file of a backfill.
    #[serde(flatten)]
    pub visibility: Option<Visibility>,
    pub counters: Counters,
    pub paused: Option<Blocker>,
    /// Why the end of the log, or the next event in it, is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Blocker>,
}

/// A physical topic that a generation reads, or read before.
#[derive(Debug, Serialize)]
pub struct TopicStatus {
    pub topic: String,
    /// The plugin's names for it.
    pub logical: Vec<String>,
    /// Of a topic that matches a pattern: when it was found, and when it was found to be gone. In milliseconds since
    /// 1970.
    pub since_ms: Option<i64>,
    pub left_ms: Option<i64>,
}

/// Reads every configured store, and asks the brokers for the ends of the partitions. An error only if no store can
/// be read, or no store has the projection `only`.
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
            "these hosts on {} are of an older version than its tables, and continue to work until they are upgraded: {}",
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
        let generations = store.generations(&projection.name).await?;
        let own = generations.iter().find(|status| status.generation.number == projection.generation);
        // If it is missing, the generation was removed since the overview was read.
        let Some(own) = own else { continue };
        let mapping =
            config.topics_of_generation(own).map_err(|error| OperationError::Failed(error.to_string()))?;
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
    /// How many hosts are live on its store.
    live_hosts: usize,
}

/// The trial of the active version, and the version that was reverted.
struct ActiveVersions {
    on_trial: bool,
    reverted: Option<Reverted>,
}
