//! Deployments: requests to make a component the active one, and what came of them.
//!
//! A component is [proposed](DeploymentStore::propose), every live host [reports](DeploymentStore::report) whether it can
//! run the component, and a host [activates](crate::GenerationStore::activate) it. Every step is stored, and any host can
//! continue with an open deployment: a host that dies in between leaves nothing undone.

use async_trait::async_trait;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::generation::Generation;
use projector_core::ownership::Signer;
use projector_model::Contract;
use serde::Serialize;
use uuid::Uuid;

use crate::error::StoreError;
use crate::requester::Requester;

/// The deployments of a store, with the components that were proposed.
#[async_trait]
pub trait DeploymentStore: Send + Sync {
    /// Requests that a component become the active one. An earlier request that is still open is withdrawn.
    async fn propose(&self, proposal: &Proposal<'_>) -> Result<Proposed, StoreError>;

    /// The open deployments, with the reports of the live hosts.
    async fn open_deployments(&self) -> Result<Vec<OpenDeployment>, StoreError>;

    /// Stores whether a host can run the component of a deployment. `refusal`: why it cannot.
    async fn report(&self, deployment: i64, host: Uuid, refusal: Option<&str>) -> Result<(), StoreError>;

    /// The reports of all hosts on a deployment.
    async fn reports(&self, deployment: i64) -> Result<Vec<Report>, StoreError>;

    /// Refuses an open deployment.
    async fn refuse(&self, deployment: i64, result: &str) -> Result<(), StoreError>;

    /// The history of a projection, newest first.
    async fn history(&self, projection: &str, most: i64) -> Result<Vec<DeploymentRecord>, StoreError>;

    /// Records that the active component has passed its trial.
    async fn pass_trial(&self, generation: &Generation, digest: &str) -> Result<(), StoreError>;

    /// A component by its digest. `None`: it is unknown, or its bytes were removed.
    async fn component(&self, digest: &str) -> Result<Option<StoredComponent>, StoreError>;

    /// Ends a backfill: from now on, hosts run the generation. `result`: a summary for the history.
    async fn end_backfill(&self, generation: &Generation, result: &str) -> Result<(), StoreError>;

    /// Stops a projection, so that no host runs it, or starts it again.
    async fn set_stopped(
        &self,
        projection: &str,
        stopped: bool,
        requester: &Requester,
    ) -> Result<(), StoreError>;
}

/// A component that is proposed.
pub struct Component<'a> {
    pub digest: &'a str,
    pub bytes: &'a [u8],
    pub contract: &'a Contract,
    /// The content of the signature file beside the component.
    pub signature: Option<&'a str>,
}

pub struct Proposal<'a> {
    pub component: Component<'a>,
    pub action: DeploymentAction,
    pub origin: Origin,
    pub requester: Requester,
    /// The signer of the component, who owns its name from then on.
    pub signer: &'a Signer,
}

/// The answer to a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposed {
    /// A deployment is open, under this number.
    Open(i64),
    /// The component is active already.
    Active,
    /// The projection had the component before, or was dropped. Only a command activates it again.
    Had,
    /// Another signer owns the name. The text says what to do.
    Foreign(String),
}

/// A deployment that is not decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDeployment {
    pub id: i64,
    pub projection: String,
    pub action: DeploymentAction,
    pub digest: String,
    /// One report for each live host.
    pub hosts: Vec<Report>,
}

/// What a host reported on a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub host: Uuid,
    pub name: String,
    /// `None`: nothing yet. An error: why the host cannot run the component.
    pub answer: Option<Result<(), String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredComponent {
    pub bytes: Vec<u8>,
    pub signature: Option<String>,
}

/// An entry of a projection's history: a deployment, or another change of its generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentRecord {
    pub id: i64,
    pub action: String,
    pub version: Option<String>,
    pub digest: Option<String>,
    /// The number of the generation that was changed.
    pub generation: Option<i32>,
    /// The digest of the component that was active in it before.
    pub replaced: Option<String>,
    #[serde(flatten)]
    pub request: DeploymentRequest,
    #[serde(flatten)]
    pub decision: Decision,
    /// Of a new generation: the start that was configured when it began to read.
    pub start: Option<String>,
}

from_row! {
    DeploymentRecord { ..request, ..decision, id, action, version, digest, generation, replaced, start }
}

/// Where a request came from, who made it, why and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentRequest {
    pub origin: String,
    pub asked_by: String,
    pub reason: Option<String>,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub asked_at: i64,
}

from_row! { DeploymentRequest { origin = "source", asked_by, reason, asked_at } }

/// What was decided about a request, and when. Times are in microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// `open`, `done`, `refused` or `withdrawn`.
    pub state: String,
    #[serde(rename = "verdict")]
    pub result: Option<String>,
    #[serde(serialize_with = "projector_core::instant::option::serialize")]
    pub decided_at: Option<i64>,
    /// When the component had passed its trial.
    #[serde(rename = "proven_at", serialize_with = "projector_core::instant::option::serialize")]
    pub trial_passed_at: Option<i64>,
}

from_row! { Decision { state, result = "verdict", decided_at, trial_passed_at = "proven_at" } }
