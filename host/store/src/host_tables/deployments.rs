//! Deployments, the hosts' reports on them, and the components that were proposed.

use async_trait::async_trait;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::generation::{Generation, Role};
use projector_core::ownership::may_take_over;
use projector_core::refusal::Refusal;
use uuid::Uuid;

use super::generation_rows::generations;
use super::history::HistoryEntry;
use super::hosts::heartbeat_limit;
use super::{Database, Session};
use crate::deployments::{
    Component, DeploymentRecord, DeploymentStore, OpenDeployment, Proposal, Proposed, Report, StoredComponent,
};
use crate::error::StoreError;
use crate::requester::Requester;

#[async_trait]
impl<D: Database> DeploymentStore for D {
    async fn propose(&self, proposal: &Proposal<'_>) -> Result<Proposed, StoreError> {
        let name = proposal.component.contract.name();
        let mut tx = self.decide(name).await?;
        let proposed = propose(&mut *tx, proposal).await?;
        // The rollback leaves the name to its owner, unchanged.
        if !matches!(proposed, Proposed::Foreign(_)) {
            D::commit(tx).await?;
        }
        Ok(proposed)
    }

    async fn open_deployments(&self) -> Result<Vec<OpenDeployment>, StoreError> {
        let sql = format!(
            "select d.id, d.projection, d.action, d.digest, h.id, h.name, r.host_id is not null, r.refusal
             from projector.deployment d
             left join projector.host h on h.seen_at > {}
             left join projector.readiness r on r.deployment_id = d.id and r.host_id = h.id
             where d.state = 'open' order by d.id, h.id",
            heartbeat_limit::<D::Connection>()
        );
        Ok(open_deployments(self.acquire().await?.rows(&sql, &[]).await?))
    }

    async fn report(&self, deployment: i64, host: Uuid, refusal: Option<&str>) -> Result<(), StoreError> {
        self.acquire()
            .await?
            .execute(
                "insert into projector.readiness (deployment_id, host_id, refusal)
                 select d.id, h.id, $3 from projector.deployment d, projector.host h where d.id = $1 and h.id = $2
                 on conflict (deployment_id, host_id) do update set refusal = excluded.refusal",
                &[deployment.into(), host.into(), refusal.into()],
            )
            .await
            .map(drop)
    }

    async fn reports(&self, deployment: i64) -> Result<Vec<Report>, StoreError> {
        let rows: Vec<ReportRow> = self
            .acquire()
            .await?
            .rows(
                "select h.id, h.name, r.refusal from projector.readiness r
                 join projector.host h on h.id = r.host_id where r.deployment_id = $1 order by h.name",
                &[deployment.into()],
            )
            .await?;
        Ok(rows
            .into_iter()
            .map(|(host, name, refusal)| Report { host, name, answer: Some(answer(refusal)) })
            .collect())
    }

    async fn refuse(&self, deployment: i64, result: &str) -> Result<(), StoreError> {
        self.acquire()
            .await?
            .execute(
                "update projector.deployment set state = 'refused', verdict = $2, decided_at = now()
                 where id = $1 and state = 'open'",
                &[deployment.into(), result.into()],
            )
            .await
            .map(drop)
    }

    async fn history(&self, projection: &str, most: i64) -> Result<Vec<DeploymentRecord>, StoreError> {
        let sql = format!(
            "select d.id, d.action, c.version, d.digest, d.generation, d.replaced, d.source, d.asked_by, d.reason,
               {} as asked_at, d.state, d.verdict, {} as decided_at, {} as proven_at, d.start
             from projector.deployment d left join projector.component c on c.digest = d.digest
             where d.projection = $1 order by d.id desc limit $2",
            D::Connection::micros("d.asked_at"),
            D::Connection::micros("d.decided_at"),
            D::Connection::micros("d.proven_at"),
        );
        self.acquire().await?.rows(&sql, &[projection.into(), most.into()]).await
    }

    async fn pass_trial(&self, generation: &Generation, digest: &str) -> Result<(), StoreError> {
        self.acquire()
            .await?
            .execute(
                "update projector.deployment set proven_at = now()
                 where projection = $1 and generation = $2 and digest = $3 and state = 'done' and proven_at is null",
                &[generation.projection.as_str().into(), generation.number.into(), digest.into()],
            )
            .await
            .map(drop)
    }

    async fn component(&self, digest: &str) -> Result<Option<StoredComponent>, StoreError> {
        let found: Option<(Vec<u8>, Option<String>)> = self
            .acquire()
            .await?
            .row(
                "select bytes, signature from projector.component where digest = $1 and pruned_at is null",
                &[digest.into()],
            )
            .await?;
        Ok(found.map(|(bytes, signature)| StoredComponent { bytes, signature }))
    }

    async fn end_backfill(&self, generation: &Generation, result: &str) -> Result<(), StoreError> {
        let mut tx = self.decide(&generation.projection).await?;
        let ended = tx
            .execute(
                "update projector.generation set backfilling = false where id = $1 and backfilling",
                &[generation.id.into()],
            )
            .await?;
        if ended == 0 {
            let Generation { projection, number, .. } = generation;
            let (projection, number) = (projection.clone(), *number);
            return Err(Refusal::NotBackfilling { projection, number }.into());
        }
        tx.execute(
            "update projector.deployment set verdict = $3
             where projection = $1 and generation = $2 and action = 'backfill' and state = 'done'",
            &[generation.projection.as_str().into(), generation.number.into(), result.into()],
        )
        .await?;
        D::commit(tx).await
    }

    async fn set_stopped(
        &self,
        projection: &str,
        stopped: bool,
        requester: &Requester,
    ) -> Result<(), StoreError> {
        let mut tx = self.decide(projection).await?;
        let reason = stopped.then(|| requester.reason.as_deref().unwrap_or("no reason was given"));
        let generations: Vec<(i64,)> = tx
            .rows("select id from projector.generation where projection = $1", &[projection.into()])
            .await?;
        let generations: Vec<i64> = generations.into_iter().map(|(id,)| id).collect();
        D::fence(&mut tx, &generations).await?;
        for statement in [
            "update projector.projection set stopped = $2 where name = $1",
            "update projector.generation set resumes = resumes + 1,
               paused = case when $2 is not null then coalesce(paused, 'stopped: ' || $2)
                 when paused like 'stopped: %' then null else paused end
             where projection = $1",
        ] {
            tx.execute(statement, &[projection.into(), reason.into()]).await?;
        }
        let action = if stopped { "stop" } else { "start" };
        let entry = HistoryEntry { action, origin: Origin::Command, generation: None };
        entry.record(&mut *tx, projection, None, None, requester).await?;
        D::commit(tx).await
    }
}

/// Proposes a component, in a transaction in which no other transaction decides about its name.
async fn propose<S: Session>(session: &mut S, proposal: &Proposal<'_>) -> Result<Proposed, StoreError> {
    let Proposal { component, action, origin, signer, .. } = proposal;
    let name = component.contract.name();
    session
        .execute("insert into projector.projection (name) values ($1) on conflict do nothing", &[name.into()])
        .await?;
    let owner: Option<(Option<String>,)> = session
        .row(
            "update projector.projection set owner = coalesce(owner, $2) where name = $1 returning owner",
            &[name.into(), signer.owner().as_deref().into()],
        )
        .await?;
    let owner = owner.and_then(|(owner,)| owner);
    if let Err(refused) = may_take_over(owner.as_deref(), signer) {
        return Ok(Proposed::Foreign(refused.to_string()));
    }
    // A known component may have been signed since it was stored.
    session
        .execute(
            "update projector.component set signature = coalesce($2, signature) where digest = $1",
            &[component.digest.into(), component.signature.into()],
        )
        .await?;
    let generations = generations(session, name).await?;
    let is_active =
        generations.iter().any(|status| status.role != Role::Warm && status.active == component.digest);
    let open: Option<(i64, String)> = session
        .row(
            "select id, digest from projector.deployment where projection = $1 and state = 'open'",
            &[name.into()],
        )
        .await?;
    if let Some((id, digest)) = open
        && digest == component.digest
        && *action == DeploymentAction::Deploy
    {
        return Ok(Proposed::Open(id));
    }
    let had: Option<(i64,)> = session
        .row(
            "select id from projector.deployment where projection = $1 and digest = $2 and state = 'done' limit 1",
            &[name.into(), component.digest.into()],
        )
        .await?;
    let answer = without_deployment(*action, *origin, is_active, had.is_some());
    if let (Some(answer), Origin::Directory) = (&answer, origin) {
        return Ok(answer.clone());
    }
    session
        .execute(
            "update projector.deployment set state = 'withdrawn', decided_at = now(),
               verdict = 'another component was proposed' where projection = $1 and state = 'open'",
            &[name.into()],
        )
        .await?;
    // A command withdraws an earlier proposal even if its own component is active already.
    if let Some(answer) = answer {
        return Ok(answer);
    }
    store_component(session, component).await?;
    open_deployment(session, proposal).await.map(Proposed::Open)
}

/// The answer to a proposal that needs no deployment.
fn without_deployment(
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

/// Stores a component, or its bytes again if they were removed.
async fn store_component<S: Session>(session: &mut S, component: &Component<'_>) -> Result<(), StoreError> {
    let sql = format!(
        "insert into projector.component as known (digest, version, bytes, descriptor, signature, stored_at)
         values ($1, $2, $3, {}, $5, now())
         on conflict (digest) do update set signature = coalesce(excluded.signature, known.signature),
           bytes = case when known.pruned_at is null then known.bytes else excluded.bytes end, pruned_at = null",
        S::document("$4")
    );
    let arguments = [
        component.digest.into(),
        component.contract.descriptor.version.as_str().into(),
        Some(component.bytes).into(),
        component.contract.descriptor.to_json().into(),
        component.signature.into(),
    ];
    session.execute(&sql, &arguments).await.map(drop)
}

/// Returns the number of the deployment.
async fn open_deployment<S: Session>(session: &mut S, proposal: &Proposal<'_>) -> Result<i64, StoreError> {
    let Proposal { component, action, origin, requester, .. } = proposal;
    let number: Option<(i64,)> = session
        .row(
            "insert into projector.deployment (projection, action, digest, source, asked_by, reason, asked_at, state)
             values ($1, $2, $3, $4, $5, $6, now(), 'open') returning id",
            &[
                component.contract.name().into(),
                action.as_str().into(),
                component.digest.into(),
                origin.as_str().into(),
                requester.by.as_str().into(),
                requester.reason.as_deref().into(),
            ],
        )
        .await?;
    number.map(|(number,)| number).ok_or_else(|| StoreError::Unusable("a deployment got no number".into()))
}

/// Deployment, projection, action and digest; then a live host: its id and name, whether it reported, and its refusal.
type OpenRow = (i64, String, String, String, Option<Uuid>, Option<String>, bool, Option<String>);

/// Host, its name, and its refusal.
type ReportRow = (Uuid, String, Option<String>);

fn open_deployments(rows: Vec<OpenRow>) -> Vec<OpenDeployment> {
    let mut open: Vec<OpenDeployment> = Vec::new();
    for (id, projection, action, digest, host, name, reported, refusal) in rows {
        if open.last().is_none_or(|last| last.id != id) {
            // An action that only a newer host knows: such a host carries it out.
            let Some(action) = DeploymentAction::from_word(&action) else { continue };
            open.push(OpenDeployment { id, projection, action, digest, hosts: Vec::new() });
        }
        if let (Some(last), Some(host), Some(name)) = (open.last_mut(), host, name) {
            last.hosts.push(Report { host, name, answer: reported.then(|| answer(refusal)) });
        }
    }
    open
}

fn answer(refusal: Option<String>) -> Result<(), String> {
    refusal.map_or(Ok(()), Err)
}
