//! What becomes of a projection's versions and generations, as a store keeps it.
//!
//! A component is [proposed](DeploymentStore::propose), every host that is there [reports](DeploymentStore::report)
//! whether it can run it, and it is [activated](GenerationStore::activate): an open deployment is a row that
//! anybody can bring to its end, so that whoever dies on the way leaves nothing undone.

use std::time::Duration;

use async_trait::async_trait;
use projector_core::checkpoint::Offsets;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::event::Partition;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::layout::{Layout, Offered};
use projector_core::ownership::Signer;
use projector_core::refusal::Refusal;
use projector_core::views::{self, ViewSet};
use projector_model::{Descriptor, names};
use serde::Serialize;
use uuid::Uuid;

use super::foreign::Readers;
use super::requester::Requester;
use super::{Component, Installed, StoreError};

/// A host that was not seen for so long is not waited for.
pub const PRESENCE: Duration = Duration::from_secs(5);

/// What is asked for, and what became of it.
#[async_trait]
pub trait DeploymentStore: Send + Sync {
    /// Says that a host is there no more.
    async fn deregister(&self, host: Uuid) -> Result<(), StoreError>;

    /// The hosts that were seen in the last seconds, by name.
    async fn live_hosts(&self) -> Result<Vec<LiveHost>, StoreError>;

    /// Asks for a component to be the active one. One that was asked for before, and is not decided, is
    /// withdrawn.
    async fn propose(&self, proposal: &Proposal<'_>) -> Result<Proposed, StoreError>;

    /// What is asked for and not decided, and which hosts could run it.
    async fn open_deployments(&self) -> Result<Vec<OpenDeployment>, StoreError>;

    /// Says whether a host can run what is to be deployed; `refusal`: why not.
    async fn report(&self, deployment: i64, host: Uuid, refusal: Option<&str>) -> Result<(), StoreError>;

    /// What hosts said of a deployment.
    async fn reports(&self, deployment: i64) -> Result<Vec<Report>, StoreError>;

    /// Decides that a deployment is not to be.
    async fn refuse(&self, deployment: i64, verdict: &str) -> Result<(), StoreError>;

    /// What became of a projection, newest first.
    async fn history(&self, projection: &str, most: i64) -> Result<Vec<Deployed>, StoreError>;

    /// The active component has stood its trial.
    async fn pass_trial(&self, generation: &Generation, digest: &str) -> Result<(), StoreError>;

    /// A component by its digest.
    async fn component(&self, digest: &str) -> Result<Option<StoredComponent>, StoreError>;

    /// A projection's generations, oldest first.
    async fn standings(&self, projection: &str) -> Result<Vec<GenerationStatus>, StoreError>;

    /// Every checkpoint of a generation in the log.
    async fn vector(&self, generation: i64) -> Result<Offsets, StoreError>;

    /// The file is through: from now on, hosts run the generation. `verdict`: what came of it.
    async fn end_backfill(&self, generation: &Generation, verdict: &str) -> Result<(), StoreError>;

    /// Partitions of these topics in which a generation is behind another one. A topic that was created
    /// anew has no offsets that could be compared.
    async fn behind(
        &self,
        generation: i64,
        other: i64,
        topics: &[String],
    ) -> Result<Vec<Partition>, StoreError>;

    /// Keeps hosts from running a projection, or lets them again.
    async fn set_stopped(&self, projection: &str, stopped: bool, asked: &Requester)
    -> Result<(), StoreError>;
}

/// What changes the generations that there are.
#[async_trait]
pub trait GenerationStore: Send + Sync {
    /// An error that names the session, if an old transaction keeps views of these schemas from being replaced.
    /// To ask keeps nobody waiting; to try would keep readers that come after it.
    async fn views_are_free(&self, schemas: &[&str]) -> Result<(), StoreError>;

    /// An error that names the sessions of readers, if some have a snapshot from before the generation was complete:
    /// if its views became theirs, they would see fewer rows than before.
    async fn snapshots_are_recent(&self, generation: &Generation) -> Result<(), StoreError>;

    /// Says that a host is there, for [`PRESENCE`] from now, and the ids that it has as a member of consumer
    /// groups.
    async fn heartbeat(&self, host: Uuid, name: &str, members: &[String]) -> Result<(), StoreError>;

    /// Decides the same of a deployment that was begun, and takes back what was added for it to tables in use,
    /// as far as that can be done now.
    async fn give_up(&self, deployment: i64, offered: Offered<'_>, verdict: &str) -> Result<(), StoreError>;

    /// Carries an open deployment out: additions to tables in use, each of which may be there already;
    /// then all the rest in one transaction. `None`: somebody else does, or did.
    async fn activate(&self, deployment: i64, offered: Offered<'_>) -> Result<Option<Installed>, StoreError>;

    /// Puts the component back that was active before, unless another one is active meanwhile.
    async fn revert(
        &self,
        generation: &Generation,
        from: &str,
        to: &str,
        reason: &str,
    ) -> Result<bool, StoreError>;

    /// Keeps batches of these generations from going beyond `at`, or from being written at all, for no
    /// longer than `time`. When this returns, no batch is in flight that does not know of the barrier.
    /// `false`: another owner has a barrier in one of the generations.
    async fn raise_barrier(
        &self,
        generations: &[i64],
        by: Uuid,
        at: Option<&Offsets>,
        time: Duration,
    ) -> Result<bool, StoreError>;

    /// Opens the barrier again, if it was raised by this owner.
    async fn release_barrier(&self, generations: &[i64], by: Uuid) -> Result<(), StoreError>;

    /// Shows a generation to readers instead of the live one, which stays warm. All or nothing; refused
    /// where readers would see a step back in one of these topics, which it reads.
    async fn promote(
        &self,
        generation: &Generation,
        topics: &[String],
        origin: Origin,
        asked: &Requester,
    ) -> Result<Promoted, StoreError>;

    /// Who reads these views: roles, and objects that the host did not make.
    async fn readers(&self, views: &[ViewSet]) -> Result<Readers, StoreError>;

    /// Removes a generation that is not live, its rows and its views. Refused where something that the host
    /// did not make stands in its schemas or depends on its tables and views.
    async fn retire(
        &self,
        generation: &Generation,
        origin: Origin,
        asked: &Requester,
    ) -> Result<(), StoreError>;

    /// Removes views of one schema or prefix that do not show all of their generation. Refused as `retire` is.
    async fn retire_views(&self, projection: &str, schema: &str, asked: &Requester)
    -> Result<(), StoreError>;

    /// Removes a stopped projection, its rows and its views. What became of it is kept. Refused as `retire`
    /// is.
    async fn drop_projection(&self, projection: &str, asked: &Requester) -> Result<(), StoreError>;
}

/// A host that was seen in the last seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveHost {
    pub name: String,
    /// The newest migration of the host's own tables that its program knows; 0: it is of a version that did not
    /// say.
    pub knows: i64,
}

from_row! { LiveHost { name, knows } }

pub struct Proposal<'a> {
    pub component: Component<'a>,
    pub action: DeploymentAction,
    pub origin: Origin,
    pub asked: Requester,
    /// Who vouches for it: the owner of its name from then on.
    pub signer: &'a Signer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposed {
    /// It is asked for, under this number.
    Open(i64),
    /// It is the active one already.
    Active,
    /// The projection had it before, or it was dropped, and only a command brings it back.
    Had,
    /// The name belongs to somebody else: what to do about it.
    Foreign(String),
}

/// A deployment that is not decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDeployment {
    pub id: i64,
    pub projection: String,
    pub action: DeploymentAction,
    pub digest: String,
    /// What each host that is there says: `None`: nothing yet; or why it cannot run it, if it cannot.
    pub hosts: Vec<Report>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub host: Uuid,
    pub name: String,
    pub said: Option<Result<(), String>>,
}

/// Deployment, projection, action, digest, and a host that is there: its id and name, whether it
/// reported, and its refusal.
pub(super) type OpenRow = (i64, String, String, String, Option<Uuid>, Option<String>, bool, Option<String>);

/// Host, its name, and its refusal.
pub(super) type ReportRow = (Uuid, String, Option<String>);

pub(super) fn report((host, name, refusal): ReportRow) -> Report {
    Report { host, name, said: Some(refusal.map_or(Ok(()), Err)) }
}

/// What only a later host knows how to do is left to it.
pub(super) fn open(rows: Vec<OpenRow>) -> Vec<OpenDeployment> {
    let mut open: Vec<OpenDeployment> = Vec::new();
    for (id, projection, action, digest, host, name, reported, refusal) in rows {
        if open.last().is_none_or(|last| last.id != id) {
            let Some(action) = DeploymentAction::from_word(&action) else { continue };
            open.push(OpenDeployment { id, projection, action, digest, hosts: Vec::new() });
        }
        if let (Some(last), Some(host), Some(name)) = (open.last_mut(), host, name) {
            let said = reported.then(|| refusal.map_or(Ok(()), Err));
            last.hosts.push(Report { host, name, said });
        }
    }
    open
}

/// Something that became of a projection, or is to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deployed {
    pub id: i64,
    pub action: String,
    pub version: Option<String>,
    pub digest: Option<String>,
    /// The number of the generation that it went to.
    pub generation: Option<i32>,
    /// What was active there before.
    pub replaced: Option<String>,
    pub origin: String,
    pub asked_by: String,
    pub reason: Option<String>,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub asked_at: i64,
    /// `open`, `done`, `refused` or `withdrawn`.
    pub state: String,
    pub verdict: Option<String>,
    #[serde(serialize_with = "projector_core::instant::option::serialize")]
    pub decided_at: Option<i64>,
    #[serde(serialize_with = "projector_core::instant::option::serialize")]
    pub proven_at: Option<i64>,
    /// Of a new generation: the start that was configured when it began to read.
    pub start: Option<String>,
}

from_row! {
    Deployed {
        id, action, version, digest, generation, replaced, origin = "source", asked_by, reason, asked_at, state,
        verdict, decided_at, proven_at, start
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredComponent {
    pub bytes: Vec<u8>,
    pub signature: Option<String>,
}

/// What a generation is to readers, from its stored word.
pub(super) fn role(word: &str) -> Result<Role, StoreError> {
    Role::from_word(word)
        .ok_or_else(|| StoreError::Unusable(format!("a generation that is {word:?}: made by a newer host?")))
}

/// What a deployment does, from its stored word.
pub(super) fn action(word: &str) -> Result<DeploymentAction, StoreError> {
    DeploymentAction::from_word(word)
        .ok_or_else(|| StoreError::Unusable(format!("a deployment to {word:?}: made by a newer host?")))
}

pub(super) struct StandingRow {
    pub(super) id: i64,
    pub(super) projection: String,
    pub(super) number: i32,
    pub(super) table_schema: String,
    pub(super) role: String,
    pub(super) layout: Option<String>,
    pub(super) active_digest: String,
    pub(super) descriptor: String,
    /// The schema, or prefix, of the newest views; hosts that store no `views` know only these.
    pub(super) readers: Option<String>,
    pub(super) views: Option<String>,
    pub(super) caught_up: bool,
    pub(super) backfilling: bool,
}

from_row! {
    StandingRow {
        id, projection, number, table_schema, role, layout, active_digest, descriptor, readers, views,
        caught_up, backfilling
    }
}

impl StandingRow {
    pub(super) fn standing(self) -> Result<GenerationStatus, StoreError> {
        let unusable = |what: &str, error: &dyn std::fmt::Display| {
            StoreError::Unusable(format!("the {what} of {} {}: {error}", self.projection, self.number))
        };
        let descriptor =
            Descriptor::from_json(&self.descriptor).map_err(|problems| unusable("descriptor", &problems))?;
        let layout = match &self.layout {
            Some(json) => serde_json::from_str(json).map_err(|error| unusable("layout", &error))?,
            // Made by a host that had none.
            None => {
                let contract = descriptor.clone().check();
                Layout::unmapped(&contract.map_err(|problems| unusable("descriptor", &problems))?)
            }
        };
        let role = role(&self.role)?;
        let mut views: Vec<ViewSet> = match &self.views {
            Some(json) => serde_json::from_str(json).map_err(|error| unusable("views", &error))?,
            None => Vec::new(),
        };
        let newest = views::newest(&views, &layout);
        let is_stored = newest.map(|newest| &*newest.schema) == self.readers.as_deref()
            && newest.is_none_or(|newest| newest.shows_all(&layout));
        // Otherwise a host changed it that stores no views, and knows only the newest of them.
        if !is_stored {
            let moved = newest.map(|newest| newest.schema.clone());
            views.retain(|set| Some(&set.schema) != moved.as_ref());
            if let Some(readers) = self.readers {
                let version = names::views_version(&self.projection, &readers);
                views.retain(|set| set.schema != readers);
                views.push(ViewSet::of(readers, version, &layout));
                views.sort_by_key(|set| set.version);
            }
        }
        Ok(GenerationStatus {
            generation: Generation {
                id: self.id,
                projection: self.projection,
                number: self.number,
                schema: self.table_schema,
            },
            role,
            layout,
            active: self.active_digest,
            descriptor,
            views,
            caught_up: self.caught_up,
            backfilling: self.backfilling,
        })
    }
}

/// What a proposal need not be asked for.
pub(super) fn known(
    action: DeploymentAction,
    origin: Origin,
    is_active: bool,
    had: bool,
) -> Option<Proposed> {
    match action {
        DeploymentAction::Deploy if is_active => Some(Proposed::Active),
        _ if had && origin == Origin::Directory => Some(Proposed::Had),
        _ => None,
    }
}

/// A generation that may be shown, and the live one.
pub(super) fn promotable<'s>(
    standings: &'s [GenerationStatus],
    generation: &Generation,
) -> Result<(&'s GenerationStatus, &'s GenerationStatus), Refusal> {
    let Generation { projection, number, .. } = generation;
    let (projection, number) = (projection.clone(), *number);
    let new = standings.iter().find(|standing| standing.generation.id == generation.id);
    let live = standings.iter().find(|standing| standing.role == Role::Live);
    let (Some(new), Some(live)) = (new, live) else { return Err(Refusal::Gone { projection, number }) };
    if new.role == Role::Live {
        return Err(Refusal::Live { projection, number });
    }
    new.is_fed()?;
    match new.caught_up {
        true => Ok((new, live)),
        false => Err(Refusal::NotCaughtUp { projection, number }),
    }
}

/// Whether readers would see no step back if a generation was shown that is behind in these partitions.
pub(super) fn no_step_back(generation: &Generation, behind: Vec<Partition>) -> Result<(), Refusal> {
    let Generation { projection, number, .. } = generation;
    match behind.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Behind { projection: projection.clone(), number: *number, partitions: behind }),
    }
}

/// What a promotion did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promoted {
    /// Where readers find all of it.
    pub readers: String,
    /// These are views that readers of the generation before know.
    pub replaced: bool,
    /// Schemas, or prefixes, of all views that showed the generation before, and show this one now.
    pub moved: Vec<String>,
}

impl Promoted {
    /// `moved`: views that went over; `views`: all that the generation has now.
    pub(super) fn new(standing: &GenerationStatus, moved: &[ViewSet], views: &[ViewSet]) -> Self {
        let readers = views::newest(views, &standing.layout).map(|newest| newest.schema.clone());
        let readers = readers.unwrap_or_default();
        let moved: Vec<String> = moved.iter().map(|set| set.schema.clone()).collect();
        Self { replaced: moved.contains(&readers), readers, moved }
    }
}

/// The next set of views of a projection: under a number that none of its sets has.
pub(super) fn next_views(standings: &[GenerationStatus], projection: &str, layout: &Layout) -> ViewSet {
    let last = standings.iter().flat_map(|standing| &standing.views).map(|set| set.version).max();
    let version = last.unwrap_or(0) + 1;
    ViewSet::of(names::views_schema(projection, version), version, layout)
}

/// The generation whose views stand in a schema, these views, and those that it has beside them.
pub(super) fn retirable_views<'s>(
    standings: &'s [GenerationStatus],
    schema: &str,
) -> Result<(&'s GenerationStatus, ViewSet, Vec<ViewSet>), Refusal> {
    let has_them = |standing: &&GenerationStatus| standing.views.iter().any(|set| set.schema == schema);
    let standing = standings.iter().find(has_them);
    let standing = standing.ok_or_else(|| Refusal::NoViews { schema: schema.to_owned() })?;
    let (retired, mut left): (Vec<ViewSet>, Vec<ViewSet>) =
        standing.views.iter().cloned().partition(|set| set.schema == schema);
    if !left.iter().any(|set| set.shows_all(&standing.layout)) {
        return Err(Refusal::OnlyViews { schema: schema.to_owned(), number: standing.generation.number });
    }
    left.sort_by_key(|set| set.version);
    let retired = retired.into_iter().next().ok_or_else(|| Refusal::NoViews { schema: schema.to_owned() })?;
    Ok((standing, retired, left))
}

/// What the history says of views that are retired.
pub(super) fn retired_views(schema: &str, asked: &Requester) -> Requester {
    let reason = asked.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Requester::new(asked.by.clone(), Some(format!("the views in {schema}{reason}")))
}

/// As they are stored.
pub(super) fn views_json(views: &[ViewSet]) -> String {
    serde_json::to_string(views).expect("views are plain data")
}
