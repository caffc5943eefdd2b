//! Versions and generations: what a file would change, having it run, going back, building anew, comparing,
//! showing to readers, stopping and dropping.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use projector_model::order;
use serde::Serialize;

use super::OperationError;
use super::trial::{self, Trial};
use super::unused::{self, unused};
use crate::beginning::Starts;
use crate::config::{Config, Known, StartAt};
use crate::deploy::compare::{CompareError, compare};
use crate::deploy::component_cache::{ComponentCache, VersionError};
use crate::deploy::layout::{Layout, Offered, Step};
use crate::deploy::promote::{self, Ask, OldSnapshots, PromoteError, Promotion};
use crate::deploy::reach::{Begin, BeyondReach, Gaps};
use crate::deploy::readers::{self, Move};
use crate::deploy::trust::{Signer, TrustPolicy};
use crate::deploy::{self, Target};
use crate::failure::FailureKind;
use crate::plugin::Plugin;
use crate::source::{KafkaAdmin, LogError};
use crate::store::beginnings::EarlierStarts;
use crate::store::deployments::{
    Deployed, DeploymentAction, GenerationStatus, Origin, Proposal, Proposed, Role,
};
use crate::store::diff::{Diff, Expected};
use crate::store::operator::Requester;
use crate::store::{self, Component, PartitionState, Store};
use crate::topics::TopicMapping;

/// How often it is looked what came of a deployment.
const INTERVAL: Duration = Duration::from_millis(100);
/// So many events a second are taken for an estimate of a replay.
const REPLAY_RATE: f64 = 10_000.0;

/// What a file would change.
#[derive(Debug, Serialize)]
pub struct Plan {
    pub projection: String,
    pub version: String,
    pub digest: String,
    /// Who vouches for it.
    pub signer: Option<String>,
    /// `nothing`, `first`, `in-place` or `anew`.
    pub change: &'static str,
    /// No host has ever run on the store.
    pub store_is_new: bool,
    /// Names in the configuration that nothing has.
    pub warnings: Vec<String>,
    /// Of the generation that it goes to, or that readers see meanwhile.
    pub active: Option<Active>,
    /// The projection had it before: a file in the plugin directory alone does not bring it back.
    pub had_before: bool,
    /// What is added to tables in use, and what that locks.
    pub steps: Vec<PlannedStep>,
    /// Why all rows are built anew.
    pub reasons: Vec<String>,
    /// Tables whose rows stay as earlier versions made them.
    pub rows_stay: Vec<String>,
    /// What changes for readers; absent if nothing does.
    pub move_readers: Option<Move>,
    pub replay: Option<Replay>,
    /// Columns that depend on the order between partitions.
    pub order_dependent: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Active {
    pub generation: i32,
    pub version: String,
    pub digest: String,
}

#[derive(Debug, Serialize)]
pub struct PlannedStep {
    #[serde(flatten)]
    pub step: Step,
    pub words: String,
    pub locks: &'static str,
}

/// What a new generation is built from.
#[derive(Debug, Serialize)]
pub struct Replay {
    pub events: i64,
    /// At 10,000 events per second, times the share that `rebuild-share` leaves it.
    pub estimated_seconds: f64,
    /// The configured start.
    pub start: String,
    /// Where each partition begins.
    pub starts: Vec<PartitionStart>,
    /// What is wrong with the configured start: the generation would not be begun.
    pub start_problem: Option<String>,
    /// What the live generation has read, and this one could not. Absent if there is no live one.
    pub beyond_reach: Option<BeyondReach>,
    /// Partitions whose log does not reach back to its beginning, by their first offset.
    pub log_begins_later: Vec<(String, i64)>,
    pub missing_topics: Vec<String>,
    /// Topics and partitions of which nothing is known, those that do not exist among them, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// Where a new generation would begin to read a partition.
#[derive(Debug, Serialize)]
pub struct PartitionStart {
    pub topic: String,
    pub partition: i32,
    /// What the log holds: from its first offset to the one after its last.
    pub log_begin: i64,
    pub log_end: i64,
    /// Absent if the configured start is not in the log.
    pub start: Option<i64>,
    /// Why the partition would not be read.
    pub problem: Option<String>,
}

/// A file that could be deployed, and who vouches for it.
pub(super) struct Candidate {
    pub(super) plugin: Plugin,
    bytes: Vec<u8>,
    signature: Option<String>,
    signer: Signer,
    /// What its topics are in the log, as the configuration has it.
    pub(super) topics: TopicMapping,
}

/// Where versions are compiled for a command.
fn versions(config: &Config, executable: PathBuf) -> Result<Arc<ComponentCache>, OperationError> {
    let trust = TrustPolicy::load(&config.plugins).map_err(OperationError::Failed)?;
    Ok(Arc::new(ComponentCache::new(Arc::new(config.clone()), trust, executable)))
}

fn candidate(config: &Config, executable: PathBuf, file: &Path) -> Result<Candidate, OperationError> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| OperationError::Usage {
        message: format!("{shown} cannot be read: {error}"),
        help: "name a component".into(),
    })?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".minisig");
    let signature = std::fs::read_to_string(&beside).ok();
    let versions = versions(config, executable)?;
    let refused = |error: &dyn std::fmt::Display| OperationError::Failed(format!("{shown}: {error}"));
    let (plugin, signer) =
        versions.load(file, &bytes, signature.as_deref()).map_err(|error| refused(&error))?;
    let topics = versions.topics(&plugin.contract).map_err(|error| refused(&error))?;
    Ok(Candidate { plugin, bytes, signature, signer, topics })
}

/// What deploying a file would do. Nothing is changed.
pub async fn plan(config: &Config, executable: PathBuf, file: &Path) -> Result<Plan, OperationError> {
    let candidate = tokio::task::block_in_place(|| candidate(config, executable, file))?;
    let (_, store) = store::open_if_used(config.store_of(candidate.plugin.contract.name())).await?;
    let store_is_new = store.is_none();
    let store = match store {
        Some(store) => store,
        None => store::empty().await?,
    };
    let planned = plan_in(config, &*store, &candidate).await;
    store.close().await;
    Ok(Plan { store_is_new, ..planned? })
}

async fn plan_in(config: &Config, store: &dyn Store, candidate: &Candidate) -> Result<Plan, OperationError> {
    let Candidate { plugin, signer, topics, .. } = candidate;
    let contract = &plugin.contract;
    let (name, digest) = (contract.name(), &plugin.digest);
    let standings = store.standings(name).await?;
    let history = store.history(name, i64::MAX).await?;
    let had = |deployed: &&Deployed| deployed.state == "done" && deployed.digest.as_ref() == Some(digest);
    let had_in = |standing: &GenerationStatus| {
        history.iter().filter(had).any(|had| had.generation == Some(standing.generation.number))
    };
    let offered = Offered { contract, topics };
    let target = deploy::target(DeploymentAction::Deploy, &standings, offered, had_in);
    let of_target = |standing: &&GenerationStatus| match &target {
        Target::InPlace { generation, .. } => standing.generation.id == *generation,
        _ => standing.role == Role::Live,
    };
    let standing = standings.iter().find(of_target);
    let is_active = standing.is_some_and(|standing| standing.active == *digest);
    let live = standings.iter().find(|standing| standing.role == Role::Live);
    let move_readers = match (&target, live) {
        (_, None) | (Target::First, _) => None,
        _ if is_active => None,
        (Target::InPlace { generation, .. }, Some(live)) if live.generation.id == *generation => {
            readers::from(store, live, &live.layout.extended(offered)).await?
        }
        (_, Some(live)) => readers::from(store, live, &Layout::of(offered)).await?,
    };
    let (change, steps, reasons) = match target {
        _ if is_active => ("nothing", Vec::new(), Vec::new()),
        Target::First => ("first", Vec::new(), Vec::new()),
        Target::InPlace { steps, .. } => ("in-place", steps, Vec::new()),
        Target::Anew { reasons, .. } => ("anew", Vec::new(), reasons),
    };
    let rows_stay = match change {
        "in-place" => contract.tables.iter().map(|table| table.name.clone()).collect(),
        _ => Vec::new(),
    };
    let replay = match change {
        "first" | "anew" => {
            let earlier = store.earlier_starts(name, None).await?;
            let read = match live.filter(|_| change == "anew") {
                Some(live) => Some(what_was_read(store, live).await?),
                None => None,
            };
            Some(replay(config, plugin, topics, read.as_deref(), &earlier).await?)
        }
        _ => None,
    };
    Ok(Plan {
        projection: name.to_owned(),
        version: contract.descriptor.version.clone(),
        digest: digest.clone(),
        signer: signer.owner(),
        change,
        warnings: warnings(config, plugin).await,
        store_is_new: false,
        active: standing.map(|standing| Active {
            generation: standing.generation.number,
            version: standing.descriptor.version.clone(),
            digest: standing.active.clone(),
        }),
        had_before: history.iter().any(|deployed| had(&deployed)),
        steps: steps
            .into_iter()
            .map(|step| PlannedStep { words: step.to_string(), locks: step.locks(), step })
            .collect(),
        reasons,
        rows_stay,
        move_readers,
        replay,
        order_dependent: order::unsettled(contract)
            .iter()
            .map(|dependence| format!("{}.{}", dependence.table, dependence.column))
            .collect(),
    })
}

/// Names in the configuration that nothing has, this plugin included.
async fn warnings(config: &Config, plugin: &Plugin) -> Vec<String> {
    let mut known = Known::new();
    unused::add(&mut known, &plugin.contract.descriptor);
    unused(config, known).await.unwrap_or_default()
}

/// The partitions of a generation, as far as it has read them.
async fn what_was_read(
    store: &dyn Store,
    standing: &GenerationStatus,
) -> Result<Vec<PartitionState>, OperationError> {
    let mut all = store.overview().await?.into_iter();
    let found = all.find(|state| state.is(&standing.generation));
    Ok(found.map(|state| state.partitions).unwrap_or_default())
}

/// What the log holds of a plugin's topics. `live`: what the live generation has read, if there is one.
async fn replay(
    config: &Config,
    plugin: &Plugin,
    topics: &TopicMapping,
    live: Option<&[PartitionState]>,
    earlier: &EarlierStarts,
) -> Result<Replay, OperationError> {
    let log = KafkaAdmin::open(&config.kafka)?;
    let starts = Starts::of(config, plugin.contract.name(), topics);
    let mut replay = Replay {
        events: 0,
        estimated_seconds: 0.0,
        start: starts.to_string(),
        starts: Vec::new(),
        start_problem: starts.unknown(),
        beyond_reach: None,
        log_begins_later: Vec::new(),
        missing_topics: Vec::new(),
        unknown: Vec::new(),
    };
    let mut unknown_topics: HashMap<String, Begin> = HashMap::new();
    let mut begins: HashMap<(String, i32), Begin> = HashMap::new();
    for physical in log.topics(topics).await? {
        let partitions = match log.topic_each(physical.clone()).await {
            // What is known of the others is planned with.
            Err(LogError::Fault(fault)) if !fault.is_everywhere() => {
                let begin = match fault.kind() {
                    FailureKind::NoTopic => {
                        replay.missing_topics.push(physical.to_string());
                        Begin::Nowhere
                    }
                    _ => Begin::Unknown(fault.reason()),
                };
                unknown_topics.insert(physical.to_string(), begin);
                let logical: Vec<&str> = topics.logical(&physical).collect();
                let called = match &logical[..] {
                    [] => String::new(),
                    [own] if **own == *physical => String::new(),
                    others => format!(" ({})", others.join(", ")),
                };
                replay.unknown.push(format!("topic {physical}{called}: {}", fault.reason()));
                continue;
            }
            partitions => partitions?,
        };
        let mut identities = log.identities_each(vec![physical.clone()]).await?;
        let identity = identities.remove(&*physical).and_then(Result::ok).unwrap_or_default();
        for (partition, marks) in partitions {
            let place = (partition.topic.to_string(), partition.number);
            let marks = match marks {
                Ok(marks) => marks,
                Err(fault) => {
                    begins.insert(place, Begin::Unknown(fault.reason()));
                    replay.unknown.push(fault.to_string());
                    continue;
                }
            };
            let found = match starts.find(&log, &partition, (marks, &identity), earlier).await {
                Err(LogError::Fault(fault)) if !fault.is_everywhere() => {
                    begins.insert(place, Begin::Unknown(fault.reason()));
                    replay.unknown.push(fault.to_string());
                    continue;
                }
                found => found?,
            };
            let is_another_log = earlier.get(&partition).is_some_and(|(_, of)| of.differs_from(&identity));
            let begin = match &found {
                _ if is_another_log => Begin::Nowhere,
                Ok(offset) => Begin::At(*offset),
                Err(problem) => Begin::Unknown(problem.to_string()),
            };
            begins.insert(place, begin);
            replay.events += found.as_ref().map_or(0, |start| marks.high - start);
            if marks.low > 0 && starts.of_topic(&physical) == StartAt::Earliest {
                replay.log_begins_later.push((partition.to_string(), marks.low));
            }
            replay.starts.push(PartitionStart {
                topic: physical.to_string(),
                partition: partition.number,
                log_begin: marks.low,
                log_end: marks.high,
                start: found.as_ref().ok().copied(),
                problem: found.err().map(|problem| problem.to_string()),
            });
        }
    }
    replay.beyond_reach = live.map(|live| {
        BeyondReach::of(live, |topic, number| {
            let known = || begins.get(&(topic.to_owned(), number)).or_else(|| unknown_topics.get(topic));
            topics.reads(topic).then(|| known().cloned().unwrap_or(Begin::Nowhere))
        })
    });
    let share =
        if live.is_some() { config.deploy_of(plugin.contract.name()).rebuild_share.max(0.01) } else { 1.0 };
    replay.estimated_seconds = replay.events as f64 / (REPLAY_RATE * share);
    Ok(replay)
}

/// What came of a deployment.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub projection: String,
    /// Absent if there was nothing to do.
    pub deployment: Option<Deployed>,
    /// What the generation that it went to is to readers.
    pub role: Option<Role>,
    /// Whether the version may still be reverted by itself.
    pub trial: Trial,
    /// Hosts that cannot run it, and why.
    pub refusals: Vec<(String, String)>,
    /// Hosts that run it.
    pub hosts: Vec<String>,
}

impl Outcome {
    /// No host had to be asked.
    fn at_once(name: &str, deployment: Option<Deployed>) -> Self {
        Self {
            projection: name.to_owned(),
            deployment,
            role: Some(Role::Live),
            trial: Trial::None,
            refusals: Vec::new(),
            hosts: Vec::new(),
        }
    }
}

/// What is told while it is waited for.
pub type Progress<'p> = &'p (dyn Fn(&str) + Sync);

/// Whether a new generation is begun that cannot read all that the live one has read.
fn allow(replay: &Replay, name: &str, gaps: Gaps, progress: Progress<'_>) -> Result<(), OperationError> {
    match &replay.beyond_reach {
        Some(beyond) if !beyond.is_empty() && gaps == Gaps::Refuse => {
            Err(OperationError::Failed(beyond.refusal(name)))
        }
        Some(beyond) if !beyond.is_empty() => {
            progress(&format!("{}; it is begun without them", beyond.to_text()));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What a command waits for, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub time: Duration,
    /// Until the trial of the version is over as well.
    pub for_trial: bool,
}

/// Has a file's component be the active one of its projection: `told` the plan first. An error if it was reverted
/// by the time that this ends.
pub async fn deploy(
    config: &Config,
    executable: PathBuf,
    (file, gaps): (&Path, Gaps),
    asked: &Requester,
    patience: Patience,
    told: &(dyn Fn(&Plan) + Sync),
    progress: Progress<'_>,
) -> Result<Outcome, OperationError> {
    let candidate = tokio::task::block_in_place(|| candidate(config, executable, file))?;
    let store = store::open_to_operate(config.store_of(candidate.plugin.contract.name())).await?;
    let deployed = async {
        let plan = plan_in(config, &*store, &candidate).await?;
        told(&plan);
        if let Some(replay) = &plan.replay {
            allow(replay, &plan.projection, gaps, progress)?;
        }
        let deadline = Instant::now() + patience.time;
        let outcome =
            propose(&*store, &candidate, DeploymentAction::Deploy, asked, patience.time, progress).await?;
        let deadline = patience.for_trial.then_some(deadline);
        end_of_trial(config, &*store, outcome, deadline, progress).await
    };
    let deployed = deployed.await;
    store.close().await;
    deployed
}

/// Adds to an outcome how the version does; with a deadline, once its trial is over.
async fn end_of_trial(
    config: &Config,
    store: &dyn Store,
    outcome: Outcome,
    deadline: Option<Instant>,
    progress: Progress<'_>,
) -> Result<Outcome, OperationError> {
    let Some(deployment) = &outcome.deployment else { return Ok(outcome) };
    let name = &outcome.projection;
    let version = deployment.version.as_deref().unwrap_or("?");
    let batches = config.deploy_of(name).trial_batches;
    let mut told = false;
    loop {
        let trial = trial::of(&store.history(name, i64::MAX).await?, deployment.id, batches);
        match (&trial, deadline) {
            (Trial::Reverted { reverted }, _) => {
                return Err(OperationError::Failed(format!(
                    "version {version} of {name} was reverted, and the version before is active again: {reverted}"
                )));
            }
            (Trial::Superseded { superseded_by }, Some(_)) => {
                return Err(OperationError::Failed(format!(
                    "the trial of version {version} of {name} has no end: another version is active since a {superseded_by}"
                )));
            }
            (Trial::Running, Some(deadline)) if Instant::now() > deadline => {
                return Err(OperationError::Failed(format!(
                    "version {version} of {name} is active, and still on trial: its trial ends when a host has committed {batches} batches of it. `projector status {name}` tells how it ended"
                )));
            }
            (Trial::Running, Some(_)) => {
                if !std::mem::replace(&mut told, true) {
                    progress(&format!(
                        "the version is active; waiting until a host has committed its first {batches} batches"
                    ));
                }
                tokio::time::sleep(INTERVAL).await;
            }
            (Trial::Passed, Some(_)) => {
                if let Some(report) = impure(store, deployment, name).await? {
                    return Err(OperationError::Failed(format!(
                        "version {version} of {name} is active and has passed its trial, but is not a pure function, so its rows cannot be relied on: {report}"
                    )));
                }
                return Ok(Outcome { trial, ..outcome });
            }
            (_, _) => return Ok(Outcome { trial, ..outcome }),
        }
    }
}

/// What the purity sample found of the version of a deployment.
async fn impure(
    store: &dyn Store,
    deployment: &Deployed,
    name: &str,
) -> Result<Option<String>, OperationError> {
    let is_it = |projection: &store::Projection| {
        projection.name == name
            && Some(projection.generation) == deployment.generation
            && Some(&projection.digest) == deployment.digest.as_ref()
    };
    Ok(store.overview().await?.into_iter().find(is_it).and_then(|projection| projection.impure))
}

/// Goes back to what was before: the generation that readers saw, if the last thing was a promotion; or the
/// version before.
pub async fn rollback(
    config: &Config,
    executable: PathBuf,
    name: &str,
    asked: &Requester,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Outcome, OperationError> {
    let (store, live) = super::projection(config, name).await?;
    let rolled_back = async {
        let history = store.history(name, i64::MAX).await?;
        // What became of it before it was dropped is over.
        let dropped = history.iter().position(|done| done.state == "done" && done.action == "drop");
        let history = &history[..dropped.unwrap_or(history.len())];
        let last = history.iter().find(|deployed| {
            deployed.state == "done"
                && deployed.generation == Some(live.generation.number)
                && matches!(deployed.action.as_str(), "deploy" | "promote" | "rollback" | "revert")
        });
        let mut retired = String::new();
        if last.is_some_and(|last| last.action == "promote") {
            let standings = store.standings(name).await?;
            // What the promotion before this one showed; before the first one, the first generation.
            let promotions = history.iter().filter(|done| done.state == "done" && done.action == "promote");
            let before = promotions.filter_map(|promotion| promotion.generation).nth(1);
            let warm = (standings.iter())
                .filter(|standing| standing.role == Role::Warm)
                .find(|standing| before.is_none_or(|before| standing.generation.number == before));
            if let Some(warm) = warm {
                progress(&format!("generation {} is shown to readers again", warm.generation.number));
                let log = KafkaAdmin::open(&config.kafka)?;
                // It undoes: what readers saw before, they see again.
                let terms = (Ask::Nothing, OldSnapshots::Refuse, Gaps::Allow);
                promote::promote(config, &*store, &log, (&live, warm), terms, (Origin::Command, asked))
                    .await?;
                let deployment = store.history(name, 1).await?.pop();
                return Ok(Outcome::at_once(name, deployment));
            }
            // Generations are shown for the first time in the order of their numbers. So the last promotion went back
            // from a newer one, and undid its promotion; what comes next is what became of this one before both.
            let Some(newer) = before.filter(|before| *before > live.generation.number) else {
                return Err(OperationError::Failed(format!(
                    "{name} cannot be rolled back: the generation before the last promotion was retired. `projector rebuild {name}` builds all rows again, and `projector deploy` brings an older version back from its file"
                )));
            };
            retired = format!("generation {newer}, which readers saw meanwhile, was retired, and ");
        }
        let is_active = |deployed: &&Deployed| {
            deployed.state == "done"
                && deployed.action == "deploy"
                && deployed.digest.as_ref() == Some(&live.active)
                && deployed.generation == Some(live.generation.number)
        };
        let before = history.iter().find(is_active).and_then(|deployed| deployed.replaced.clone());
        let before = before.ok_or_else(|| {
            OperationError::Failed(format!(
                "{name} cannot be rolled back: {retired}its live generation has had no version before the active one. `projector deploy` brings an older version back from its file"
            ))
        })?;
        let candidate = stored(config, executable, &*store, name, &before).await?;
        propose(&*store, &candidate, DeploymentAction::Rollback, asked, patience, progress).await
    };
    let rolled_back = rolled_back.await;
    store.close().await;
    rolled_back
}

/// Builds all rows anew, with the active component, beside the live generation.
pub async fn rebuild(
    config: &Config,
    executable: PathBuf,
    (name, gaps): (&str, Gaps),
    asked: &Requester,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Outcome, OperationError> {
    let (store, live) = super::projection(config, name).await?;
    let rebuilt = async {
        let candidate = stored(config, executable, &*store, name, &live.active).await?;
        let (read, earlier) = (what_was_read(&*store, &live).await?, store.earlier_starts(name, None).await?);
        let Candidate { plugin, topics, .. } = &candidate;
        let replay = replay(config, plugin, topics, Some(&read), &earlier).await?;
        allow(&replay, name, gaps, progress)?;
        propose(&*store, &candidate, DeploymentAction::Rebuild, asked, patience, progress).await
    };
    let rebuilt = rebuilt.await;
    store.close().await;
    rebuilt
}

/// A component that the store has. Its owner vouched for it.
pub(super) async fn stored(
    config: &Config,
    executable: PathBuf,
    store: &dyn Store,
    name: &str,
    digest: &str,
) -> Result<Candidate, OperationError> {
    let versions = versions(config, executable)?;
    let refused = |error: VersionError| match error {
        VersionError::Store(error) => OperationError::from(error),
        error => OperationError::Failed(format!("the component {digest}: {error}")),
    };
    let plugin = versions.of(store, name, digest).await.map_err(refused)?;
    let stored = store.component(digest).await?.ok_or_else(|| {
        OperationError::Failed(format!("the component {digest} is not in the store any more"))
    })?;
    let signature = stored.signature;
    let signer = versions.vouched_for(&plugin, &stored.bytes, signature.as_deref()).map_err(refused)?;
    let topics =
        versions.topics(&plugin.contract).map_err(|error| OperationError::Failed(error.to_string()))?;
    Ok(Candidate { plugin, bytes: stored.bytes, signature, signer, topics })
}

pub(super) async fn propose(
    store: &dyn Store,
    candidate: &Candidate,
    action: DeploymentAction,
    asked: &Requester,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Outcome, OperationError> {
    let Candidate { plugin, bytes, signature, signer, .. } = candidate;
    let name = plugin.contract.name();
    let proposal = Proposal {
        component: Component {
            digest: &plugin.digest,
            bytes,
            contract: &plugin.contract,
            signature: signature.as_deref(),
        },
        action,
        origin: Origin::Command,
        asked: asked.clone(),
        signer,
    };
    let id = match store.propose(&proposal).await? {
        Proposed::Open(id) => id,
        Proposed::Active | Proposed::Had => {
            return Ok(Outcome::at_once(name, None));
        }
        Proposed::Foreign(reason) => return Err(OperationError::Failed(format!("{name}: {reason}"))),
    };
    await_decision(store, id, candidate, patience, progress).await
}

/// Waits until every host that is there said whether it can run it, and one carried it out. Where no host
/// is, that is done here.
async fn await_decision(
    store: &dyn Store,
    id: i64,
    Candidate { plugin, topics, .. }: &Candidate,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Outcome, OperationError> {
    let name = plugin.contract.name();
    let deadline = Instant::now() + patience;
    let mut told = String::new();
    loop {
        let open = store.open_deployments().await?.into_iter().find(|open| open.id == id);
        let Some(open) = open else { break };
        let silent: Vec<&str> =
            (open.hosts.iter().filter(|report| report.said.is_none())).map(|report| &*report.name).collect();
        let words = match (open.hosts.is_empty(), silent.is_empty()) {
            (true, _) => "no host is live; this command carries the deployment out".to_owned(),
            (false, false) => {
                format!("waiting until these hosts have compiled the component: {}", silent.join(", "))
            }
            (false, true) => "every live host has answered; a host carries the deployment out".to_owned(),
        };
        if told != words {
            progress(&words);
            told = words;
        }
        if open.hosts.is_empty() {
            store.activate(id, Offered { contract: &plugin.contract, topics }).await?;
        }
        if Instant::now() > deadline {
            return Err(OperationError::Failed(format!(
                "the deployment of {name} is not done after {patience:?}: {told}. It stays open, and hosts go on with it: `projector history {name}` shows the result"
            )));
        }
        tokio::time::sleep(INTERVAL).await;
    }
    let (mut hosts, mut refusals) = (Vec::new(), Vec::new());
    for report in store.reports(id).await? {
        match report.said {
            Some(Err(refusal)) => refusals.push((report.name, refusal)),
            _ => hosts.push(report.name),
        }
    }
    let history = store.history(name, i64::MAX).await?;
    let deployment = history.into_iter().find(|deployed| deployed.id == id);
    match deployment {
        Some(deployed) if deployed.state == "done" => {
            let standings = store.standings(name).await?;
            let own =
                standings.iter().find(|standing| Some(standing.generation.number) == deployed.generation);
            Ok(Outcome {
                projection: name.to_owned(),
                role: own.map(|standing| standing.role),
                trial: Trial::None,
                deployment: Some(deployed),
                refusals,
                hosts,
            })
        }
        Some(deployed) => Err(OperationError::Failed(format!(
            "{}: {}",
            deployed.state,
            deployed.verdict.unwrap_or_default()
        ))),
        None => Err(OperationError::Failed(format!("{name} was dropped"))),
    }
}

/// What became of a projection, newest first.
pub async fn history(config: &Config, name: &str, most: i64) -> Result<Vec<Deployed>, OperationError> {
    let store = store::open_to_read(config.store_of(name)).await?;
    let history = store.history(name, most).await;
    store.close().await;
    let history = history?;
    match history.is_empty() {
        true => Err(super::unknown(name)),
        false => Ok(history),
    }
}

/// Keeps all hosts from running a projection, or lets them again.
pub async fn set_stopped(
    config: &Config,
    name: &str,
    stopped: bool,
    asked: &Requester,
) -> Result<(), OperationError> {
    let (store, _) = super::projection(config, name).await?;
    let done = store.set_stopped(name, stopped, asked).await;
    store.close().await;
    Ok(done?)
}

/// Removes a stopped projection with its rows.
pub async fn drop_projection(config: &Config, name: &str, asked: &Requester) -> Result<(), OperationError> {
    let (store, _) = super::projection(config, name).await?;
    let done = async {
        let control = store.control_state().await?;
        if control.iter().any(|control| control.generation.projection == name && !control.stopped) {
            return Err(OperationError::Failed(format!(
                "{name} is not stopped: run `projector stop {name}` first, and make sure that nobody reads its views any more"
            )));
        }
        Ok(store.drop_projection(name, asked).await?)
    };
    let done = done.await;
    store.close().await;
    done
}

/// Removes a generation that is not live. Without a number: the only one.
pub async fn retire(
    config: &Config,
    name: &str,
    number: Option<i32>,
    asked: &Requester,
) -> Result<i32, OperationError> {
    let (store, live) = super::projection(config, name).await?;
    let done = async {
        let other = other(&*store, &live, number, &[Role::Warm, Role::Building]).await?;
        store.retire(&other.generation, Origin::Command, asked).await?;
        Ok(other.generation.number)
    };
    let done = done.await;
    store.close().await;
    done
}

/// Removes views that keep columns which readers knew before others were added.
pub async fn retire_views(
    config: &Config,
    name: &str,
    schema: &str,
    asked: &Requester,
) -> Result<(), OperationError> {
    let (store, _) = super::projection(config, name).await?;
    let done = store.retire_views(name, schema, asked).await;
    store.close().await;
    Ok(done?)
}

/// A generation beside the live one, as rows and as readers' views.
#[derive(Debug, Serialize)]
pub struct Compared {
    #[serde(flatten)]
    pub diff: Diff,
    /// What a promotion changes for readers; absent if nothing does.
    pub move_readers: Option<Move>,
}

/// Compares the live generation with another one.
pub async fn diff(
    config: &Config,
    name: &str,
    number: Option<i32>,
    expected: &[String],
    samples: usize,
) -> Result<Compared, OperationError> {
    let (store, live) = super::projection(config, name).await?;
    let done = async {
        let new = other(&*store, &live, number, &[Role::Building, Role::Warm]).await?;
        let declared = &config.deploy_of(name).expected_differences;
        let words: Vec<String> = declared.iter().chain(expected).cloned().collect();
        let expected = Expected::parse(&words).map_err(|message| OperationError::Usage {
            message,
            help: "write `table` or `table.column`".into(),
        })?;
        let diff = compare(&*store, &live, &new, &expected, samples).await?;
        let move_readers = readers::from(&*store, &live, &new.layout).await?;
        Ok(Compared { diff, move_readers })
    };
    let done = done.await;
    store.close().await;
    done
}

/// Shows another generation to readers, on these terms.
pub async fn promote(
    config: &Config,
    name: &str,
    number: Option<i32>,
    terms: (Ask, OldSnapshots, Gaps),
    asked: &Requester,
) -> Result<Promotion, OperationError> {
    let (store, live) = super::projection(config, name).await?;
    let done = async {
        let new = other(&*store, &live, number, &[Role::Building, Role::Warm]).await?;
        let log = KafkaAdmin::open(&config.kafka)?;
        Ok(promote::promote(config, &*store, &log, (&live, &new), terms, (Origin::Command, asked)).await?)
    };
    let done = done.await;
    store.close().await;
    done
}

/// A generation beside the live one: that of the number, or the first of these roles that there is.
pub(super) async fn other(
    store: &dyn Store,
    live: &GenerationStatus,
    number: Option<i32>,
    roles: &[Role],
) -> Result<GenerationStatus, OperationError> {
    let name = &live.generation.projection;
    let standings = store.standings(name).await?;
    let is_meant = |standing: &&GenerationStatus| match number {
        Some(number) => standing.generation.number == number,
        None => true,
    };
    let of_role = |role: &Role| {
        standings.iter().rfind(|standing| standing.role == *role && is_meant(standing)).cloned()
    };
    roles.iter().find_map(of_role).ok_or_else(|| OperationError::Usage {
        message: match number {
            Some(number) => format!("{name} has no generation {number} beside the live one"),
            None => format!("{name} has no generation beside the live one"),
        },
        help: format!(
            "`projector status {name}` shows those that there are; `projector rebuild {name}` builds one"
        ),
    })
}

impl From<CompareError> for OperationError {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::Store(error) => error.into(),
            CompareError::NotYet(reason) => Self::Failed(reason),
        }
    }
}

impl From<PromoteError> for OperationError {
    fn from(error: PromoteError) -> Self {
        match error {
            PromoteError::Compare(error) => error.into(),
            PromoteError::Log(error) => error.into(),
            PromoteError::Refused(reason)
            | PromoteError::Behind(reason)
            | PromoteError::Differs(reason, _) => Self::Failed(reason),
        }
    }
}
