//! Plans a deployment: what it would change, without changing anything.

use std::path::{Path, PathBuf};

use projector_config::{Config, Known};
use projector_core::deployment::DeploymentAction;
use projector_core::generation::{GenerationStatus, Role};
use projector_core::layout::{Layout, Offered, Step};
use projector_core::rollout_target::{RolloutTarget, rollout_target};
use projector_model::order;
use projector_sandbox::Plugin;
use projector_store::deployments::DeploymentRecord;
use projector_store::{self as store, Store};
use serde::Serialize;

use super::OperationError;
use super::candidate::{self, Candidate};
use super::replay::{Replay, replay, what_was_read};
use super::unused::{self, unused};
use crate::deploy::readers::{self, Move};

/// What the deployment of a file would change.
#[derive(Debug, Serialize)]
pub struct Plan {
    #[serde(flatten)]
    pub component: PlannedComponent,
    /// What a deployment would do: `nothing`, `first`, `in-place` or `anew`.
    pub change: &'static str,
    /// Whether no host has ever run on the store.
    pub store_is_new: bool,
    /// Names in the configuration that have no effect.
    pub warnings: Vec<String>,
    /// The active version of the generation that the deployment changes, or that readers see meanwhile.
    pub active: Option<Active>,
    /// Whether the projection had this component before. Then a file in the plugin directory does not activate it
    /// again.
    pub had_before: bool,
    #[serde(flatten)]
    pub tables: TableChanges,
    /// What changes for readers; absent if nothing does.
    pub move_readers: Option<Move>,
    pub replay: Option<Replay>,
    /// Columns that depend on the order between partitions.
    pub order_dependent: Vec<String>,
}

/// The component of the file.
#[derive(Debug, Serialize)]
pub struct PlannedComponent {
    pub projection: String,
    pub version: String,
    pub digest: String,
    /// Who signed the component.
    pub signer: Option<String>,
}

/// What happens to tables and rows.
#[derive(Debug, Serialize)]
pub struct TableChanges {
    /// What is added to tables in use, and which locks that takes.
    pub steps: Vec<PlannedStep>,
    /// Why all rows are built again.
    pub reasons: Vec<String>,
    /// Tables whose rows stay as earlier versions wrote them.
    pub rows_stay: Vec<String>,
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

/// Plans the deployment of a file. Nothing is changed.
pub async fn plan(config: &Config, executable: PathBuf, file: &Path) -> Result<Plan, OperationError> {
    let candidate = tokio::task::block_in_place(|| candidate::from_file(config, executable, file))?;
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

pub(super) async fn plan_in(
    config: &Config,
    store: &dyn Store,
    candidate: &Candidate,
) -> Result<Plan, OperationError> {
    let Candidate { plugin, signer, topics, .. } = candidate;
    let contract = &plugin.contract;
    let (name, digest) = (contract.name(), &plugin.digest);
    let statuses = store.generations(name).await?;
    let history = store.history(name, i64::MAX).await?;
    let had = |deployed: &&DeploymentRecord| {
        deployed.decision.state == "done" && deployed.digest.as_ref() == Some(digest)
    };
    let had_in = |status: &GenerationStatus| {
        history.iter().filter(had).any(|had| had.generation == Some(status.generation.number))
    };
    let offered = Offered { contract, topics };
    let target = rollout_target(DeploymentAction::Deploy, &statuses, offered, had_in);
    let of_target = |status: &&GenerationStatus| match &target {
        RolloutTarget::InPlace { generation, .. } => status.generation.id == *generation,
        _ => status.role == Role::Live,
    };
    let status = statuses.iter().find(of_target);
    let is_active = status.is_some_and(|status| status.active == *digest);
    let live = statuses.iter().find(|status| status.role == Role::Live);
    let move_readers = match (&target, live) {
        (_, None) | (RolloutTarget::First, _) => None,
        _ if is_active => None,
        (RolloutTarget::InPlace { generation, .. }, Some(live)) if live.generation.id == *generation => {
            readers::from(store, live, &live.layout.extended(offered)).await?
        }
        (_, Some(live)) => readers::from(store, live, &Layout::of(offered)).await?,
    };
    let (change, steps, reasons) = match target {
        _ if is_active => ("nothing", Vec::new(), Vec::new()),
        RolloutTarget::First => ("first", Vec::new(), Vec::new()),
        RolloutTarget::InPlace { steps, .. } => ("in-place", steps, Vec::new()),
        RolloutTarget::Anew { reasons, .. } => ("anew", Vec::new(), reasons),
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
    let component = PlannedComponent {
        projection: name.to_owned(),
        version: contract.descriptor.version.clone(),
        digest: digest.clone(),
        signer: signer.owner(),
    };
    let steps = steps
        .into_iter()
        .map(|step| PlannedStep { words: step.to_string(), locks: step.locks(), step })
        .collect();
    Ok(Plan {
        component,
        change,
        warnings: warnings(config, plugin).await,
        store_is_new: false,
        active: status.map(|status| Active {
            generation: status.generation.number,
            version: status.descriptor.version.clone(),
            digest: status.active.clone(),
        }),
        had_before: history.iter().any(|deployed| had(&deployed)),
        tables: TableChanges { steps, reasons, rows_stay },
        move_readers,
        replay,
        order_dependent: order::unsettled(contract)
            .iter()
            .map(|dependence| format!("{}.{}", dependence.table, dependence.column))
            .collect(),
    })
}

/// Names in the configuration that have no effect, this plugin included.
async fn warnings(config: &Config, plugin: &Plugin) -> Vec<String> {
    let mut known = Known::new();
    unused::add(&mut known, &plugin.contract.descriptor);
    unused(config, known).await.unwrap_or_default()
}
