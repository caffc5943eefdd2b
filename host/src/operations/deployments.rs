//! Deploying a component, rolling back, and building all rows again.
//!
//! Each operation proposes a deployment to the store and waits for its result. Hosts carry it out: every live host
//! first reports whether it can run the component. If no host is live, the command carries it out itself. A command
//! that stops waiting leaves the deployment open, and hosts continue with it.

use std::path::Path;
use std::time::{Duration, Instant};

use projector_config::Config;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::generation::{GenerationStatus, Role};
use projector_core::layout::Offered;
use projector_kafka::KafkaAdmin;
use projector_store::deployments::{DeploymentRecord, Proposal, Proposed};
use projector_store::{self as store, Component, Store};
use serde::Serialize;

use super::candidate::{self, Candidate};
use super::plan::{Plan, plan_in};
use super::replay::{check_gap, replay, what_was_read};
use super::trial::{self, Trial};
use super::{OperationError, Operations, Progress, with_store};
use crate::deploy::promote::{self, Ask, OldSnapshots, Terms};
use crate::deploy::reach::Gaps;

/// How often an open deployment is checked for its result.
const INTERVAL: Duration = Duration::from_millis(100);

/// The result of a deployment.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub projection: String,
    /// Absent if nothing had to be done.
    pub deployment: Option<DeploymentRecord>,
    /// The role of the generation that has the version now.
    pub role: Option<Role>,
    /// Whether hosts may still revert the version.
    pub trial: Trial,
    /// Hosts that cannot run the version, and why.
    pub refusals: Vec<(String, String)>,
    /// Hosts that can run the version.
    pub hosts: Vec<String>,
}

impl Outcome {
    /// The result of what needs no host.
    fn at_once(name: &str, deployment: Option<DeploymentRecord>) -> Self {
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

impl Operations<'_> {
    /// Deploys a file's component as the active one of its projection. `planned` gets the plan before anything
    /// changes. `for_trial`: waits for the end of the version's trial as well. An error if the version was reverted
    /// meanwhile.
    pub async fn deploy(
        &self,
        file: &Path,
        gaps: Gaps,
        for_trial: bool,
        planned: &(dyn Fn(&Plan) + Sync),
    ) -> Result<Outcome, OperationError> {
        let Self { config, progress, .. } = *self;
        let candidate =
            tokio::task::block_in_place(|| candidate::from_file(config, self.executable.clone(), file))?;
        let store = store::open_to_operate(config.store_of(candidate.plugin.contract.name())).await?;
        let deployed = async {
            let plan = plan_in(config, &*store, &candidate).await?;
            planned(&plan);
            if let Some(replay) = &plan.replay {
                check_gap(replay, &plan.component.projection, gaps, progress)?;
            }
            let deadline = Instant::now() + self.patience;
            let outcome = self.propose(&*store, &candidate, DeploymentAction::Deploy).await?;
            let deadline = for_trial.then_some(deadline);
            end_of_trial(config, &*store, outcome, deadline, progress).await
        };
        let deployed = deployed.await;
        store.close().await;
        deployed
    }

    /// Undoes the last change: shows the generation that readers saw before, if the last change was a promotion, or
    /// else activates the version before.
    pub async fn rollback(&self, name: &str) -> Result<Outcome, OperationError> {
        with_store(self.config, name, |store, live| async move { self.rollback_in(&*store, &live).await })
            .await
    }

    async fn rollback_in(
        &self,
        store: &dyn Store,
        live: &GenerationStatus,
    ) -> Result<Outcome, OperationError> {
        let (config, name) = (self.config, &*live.generation.projection);
        let history = store.history(name, i64::MAX).await?;
        // Ignore what happened before the projection was last dropped.
        let dropped = history.iter().position(|done| done.decision.state == "done" && done.action == "drop");
        let history = &history[..dropped.unwrap_or(history.len())];
        let last = history.iter().find(|deployed| {
            deployed.decision.state == "done"
                && deployed.generation == Some(live.generation.number)
                && matches!(deployed.action.as_str(), "deploy" | "promote" | "rollback" | "revert")
        });
        let mut retired = String::new();
        if last.is_some_and(|last| last.action == "promote") {
            let statuses = store.generations(name).await?;
            // The generation that the promotion before the last one showed. Without one: the first generation.
            let promotions =
                history.iter().filter(|done| done.decision.state == "done" && done.action == "promote");
            let before = promotions.filter_map(|promotion| promotion.generation).nth(1);
            let warm = (statuses.iter())
                .filter(|status| status.role == Role::Warm)
                .find(|status| before.is_none_or(|before| status.generation.number == before));
            if let Some(warm) = warm {
                (self.progress)(&format!("generation {} is shown to readers again", warm.generation.number));
                let log = KafkaAdmin::open(&config.kafka)?;
                // A rollback of a promotion shows what readers saw before, so no condition applies.
                let terms = Terms {
                    ask: Ask::Nothing,
                    snapshots: OldSnapshots::Refuse,
                    gaps: Gaps::Allow,
                    origin: Origin::Command,
                    requester: self.requester,
                };
                promote::promote(config, store, &log, (live, warm), terms).await?;
                let deployment = store.history(name, 1).await?.pop();
                return Ok(Outcome::at_once(name, deployment));
            }
            // Generations are promoted for the first time in the order of their numbers. If the generation before has
            // a higher number, the last promotion was itself a rollback: it undid the promotion of that generation,
            // which is retired by now. Then the change to undo is the last change of this generation's version,
            // below.
            let Some(newer) = before.filter(|before| *before > live.generation.number) else {
                return Err(OperationError::Failed(format!(
                    "{name} cannot be rolled back: the generation before the last promotion was retired. `projector rebuild {name}` builds all rows again, and `projector deploy` brings an older version back from its file"
                )));
            };
            retired = format!("generation {newer}, which readers saw meanwhile, was retired, and ");
        }
        let is_active = |deployed: &&DeploymentRecord| {
            deployed.decision.state == "done"
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
        let candidate = self.stored(store, name, &before).await?;
        self.propose(store, &candidate, DeploymentAction::Rollback).await
    }

    /// Builds all rows again, with the active component, in a new generation beside the live one.
    pub async fn rebuild(&self, name: &str, gaps: Gaps) -> Result<Outcome, OperationError> {
        with_store(self.config, name, |store, live| async move {
            let candidate = self.stored(&*store, name, &live.active).await?;
            let read = what_was_read(&*store, &live).await?;
            let earlier = store.earlier_starts(name, None).await?;
            let Candidate { plugin, topics, .. } = &candidate;
            let replay = replay(self.config, plugin, topics, Some(&read), &earlier).await?;
            check_gap(&replay, name, gaps, self.progress)?;
            self.propose(&*store, &candidate, DeploymentAction::Rebuild).await
        })
        .await
    }

    /// A component of the store, ready to be deployed.
    pub(super) async fn stored(
        &self,
        store: &dyn Store,
        name: &str,
        digest: &str,
    ) -> Result<Candidate, OperationError> {
        candidate::from_store(self.config, self.executable.clone(), store, name, digest).await
    }

    /// Proposes a component to the store, and waits for the result.
    pub(super) async fn propose(
        &self,
        store: &dyn Store,
        candidate: &Candidate,
        action: DeploymentAction,
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
            requester: self.requester.clone(),
            signer,
        };
        let id = match store.propose(&proposal).await? {
            Proposed::Open(id) => id,
            Proposed::Active | Proposed::Had => {
                return Ok(Outcome::at_once(name, None));
            }
            Proposed::Foreign(reason) => return Err(OperationError::Failed(format!("{name}: {reason}"))),
        };
        self.await_decision(store, id, candidate).await
    }

    /// Waits until the deployment is decided: every live host has reported, and one has carried it out.
    async fn await_decision(
        &self,
        store: &dyn Store,
        id: i64,
        Candidate { plugin, topics, .. }: &Candidate,
    ) -> Result<Outcome, OperationError> {
        let name = plugin.contract.name();
        let (patience, progress) = (self.patience, self.progress);
        let deadline = Instant::now() + patience;
        let mut last_text = String::new();
        loop {
            let open = store.open_deployments().await?.into_iter().find(|open| open.id == id);
            let Some(open) = open else { break };
            let silent: Vec<&str> = (open.hosts.iter().filter(|report| report.answer.is_none()))
                .map(|report| &*report.name)
                .collect();
            let text = match (open.hosts.is_empty(), silent.is_empty()) {
                (true, _) => "no host is live; this command carries the deployment out".to_owned(),
                (false, false) => {
                    format!("waiting until these hosts have compiled the component: {}", silent.join(", "))
                }
                (false, true) => "every live host has reported; a host carries the deployment out".to_owned(),
            };
            if last_text != text {
                progress(&text);
                last_text = text;
            }
            if open.hosts.is_empty() {
                store.activate(id, Offered { contract: &plugin.contract, topics }).await?;
            }
            if Instant::now() > deadline {
                return Err(OperationError::Failed(format!(
                    "the deployment of {name} is not done after {patience:?}: {last_text}. It stays open, and hosts continue with it: `projector history {name}` shows the result"
                )));
            }
            tokio::time::sleep(INTERVAL).await;
        }
        let (mut hosts, mut refusals) = (Vec::new(), Vec::new());
        for report in store.reports(id).await? {
            match report.answer {
                Some(Err(refusal)) => refusals.push((report.name, refusal)),
                _ => hosts.push(report.name),
            }
        }
        let history = store.history(name, i64::MAX).await?;
        let deployment = history.into_iter().find(|deployed| deployed.id == id);
        match deployment {
            Some(deployed) if deployed.decision.state == "done" => {
                let statuses = store.generations(name).await?;
                let own =
                    statuses.iter().find(|status| Some(status.generation.number) == deployed.generation);
                Ok(Outcome {
                    projection: name.to_owned(),
                    role: own.map(|status| status.role),
                    trial: Trial::None,
                    deployment: Some(deployed),
                    refusals,
                    hosts,
                })
            }
            Some(deployed) => Err(OperationError::Failed(format!(
                "{}: {}",
                deployed.decision.state,
                deployed.decision.result.unwrap_or_default()
            ))),
            None => Err(OperationError::Failed(format!("the projection {name} was dropped"))),
        }
    }
}

/// Adds the state of the version's trial to an outcome. With a deadline, waits until the trial is over.
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
    let mut is_reported = false;
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
                    "the trial of version {version} of {name} did not end: a {superseded_by} has activated another version"
                )));
            }
            (Trial::Running, Some(deadline)) if Instant::now() > deadline => {
                return Err(OperationError::Failed(format!(
                    "version {version} of {name} is active, and still on trial: its trial ends when a host has committed {batches} batches of it. `projector status {name}` shows the result"
                )));
            }
            (Trial::Running, Some(_)) => {
                if !std::mem::replace(&mut is_reported, true) {
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

/// The finding of the purity check for the deployment's version. `None`: it has found nothing.
async fn impure(
    store: &dyn Store,
    deployment: &DeploymentRecord,
    name: &str,
) -> Result<Option<String>, OperationError> {
    let is_own = |projection: &store::Projection| {
        projection.name == name
            && Some(projection.generation) == deployment.generation
            && Some(&projection.active.digest) == deployment.digest.as_ref()
    };
    Ok(store.overview().await?.into_iter().find(is_own).and_then(|projection| projection.faults.impure))
}

/// The deployments of a projection, newest first.
pub async fn history(
    config: &Config,
    name: &str,
    most: i64,
) -> Result<Vec<DeploymentRecord>, OperationError> {
    let store = store::open_to_read(config.store_of(name)).await?;
    let history = store.history(name, most).await;
    store.close().await;
    let history = history?;
    match history.is_empty() {
        true => Err(super::unknown(name)),
        false => Ok(history),
    }
}
