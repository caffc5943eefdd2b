//! What is to become of projections, and what became of them.

use async_trait::async_trait;
use projector_core::checkpoint::{FILE, Offsets};
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::event::Partition;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::ownership::may_take_over;
use projector_core::refusal::Refusal;
use uuid::Uuid;

use super::{Database, Session};
use crate::deployments::{
    Deployed, DeploymentStore, LiveHost, OpenDeployment, OpenRow, PRESENCE, Proposal, Proposed, Report,
    ReportRow, StandingRow, StoredComponent, known, open, report,
};
use crate::requester::Requester;
use crate::{Component, StoreError};

#[async_trait]
impl<D: Database> DeploymentStore for D {
    async fn deregister(&self, host: Uuid) -> Result<(), StoreError> {
        let delete = "delete from projector.host where id = $1";
        self.held().await?.execute(delete, &[host.into()]).await.map(drop)
    }

    async fn live_hosts(&self) -> Result<Vec<LiveHost>, StoreError> {
        let sql = format!(
            "select name, knows from projector.host where seen_at > {} order by name",
            D::Connection::seconds_ago(&PRESENCE.as_secs().to_string())
        );
        self.held().await?.rows(&sql, &[]).await
    }

    async fn propose(&self, proposal: &Proposal<'_>) -> Result<Proposed, StoreError> {
        let name = proposal.component.contract.name();
        let mut tx = self.decide(name).await?;
        let proposed = propose(&mut *tx, proposal).await?;
        // A name that belongs to somebody else stays as it was.
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
            D::Connection::seconds_ago(&PRESENCE.as_secs().to_string())
        );
        let rows: Vec<OpenRow> = self.held().await?.rows(&sql, &[]).await?;
        Ok(open(rows))
    }

    async fn report(&self, deployment: i64, host: Uuid, refusal: Option<&str>) -> Result<(), StoreError> {
        self.held()
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
            .held()
            .await?
            .rows(
                "select h.id, h.name, r.refusal from projector.readiness r
                 join projector.host h on h.id = r.host_id where r.deployment_id = $1 order by h.name",
                &[deployment.into()],
            )
            .await?;
        Ok(rows.into_iter().map(report).collect())
    }

    async fn refuse(&self, deployment: i64, verdict: &str) -> Result<(), StoreError> {
        self.held()
            .await?
            .execute(
                "update projector.deployment set state = 'refused', verdict = $2, decided_at = now()
                 where id = $1 and state = 'open'",
                &[deployment.into(), verdict.into()],
            )
            .await
            .map(drop)
    }

    async fn history(&self, projection: &str, most: i64) -> Result<Vec<Deployed>, StoreError> {
        let sql = format!(
            "select d.id, d.action, c.version, d.digest, d.generation, d.replaced, d.source, d.asked_by, d.reason,
               {} as asked_at, d.state, d.verdict, {} as decided_at, {} as proven_at, d.start
             from projector.deployment d left join projector.component c on c.digest = d.digest
             where d.projection = $1 order by d.id desc limit $2",
            D::Connection::micros("d.asked_at"),
            D::Connection::micros("d.decided_at"),
            D::Connection::micros("d.proven_at"),
        );
        self.held().await?.rows(&sql, &[projection.into(), most.into()]).await
    }

    async fn pass_trial(&self, generation: &Generation, digest: &str) -> Result<(), StoreError> {
        self.held()
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
            .held()
            .await?
            .row(
                "select bytes, signature from projector.component where digest = $1 and pruned_at is null",
                &[digest.into()],
            )
            .await?;
        Ok(found.map(|(bytes, signature)| StoredComponent { bytes, signature }))
    }

    async fn standings(&self, projection: &str) -> Result<Vec<GenerationStatus>, StoreError> {
        standings(&mut *self.held().await?, projection).await
    }

    async fn vector(&self, generation: i64) -> Result<Offsets, StoreError> {
        let rows: Vec<(String, i32, i64)> = self
            .held()
            .await?
            .rows(
                "select topic, partition, next_offset from projector.checkpoint
                 where generation_id = $1 and cluster_id is distinct from $2",
                &[generation.into(), FILE.into()],
            )
            .await?;
        let next = |(topic, number, next): (String, i32, i64)| (Partition::new(topic.as_str(), number), next);
        Ok(rows.into_iter().map(next).collect())
    }

    async fn behind(
        &self,
        generation: i64,
        other: i64,
        topics: &[String],
    ) -> Result<Vec<Partition>, StoreError> {
        behind(&mut *self.held().await?, generation, other, topics).await
    }

    async fn end_backfill(&self, generation: &Generation, verdict: &str) -> Result<(), StoreError> {
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
            &[generation.projection.as_str().into(), generation.number.into(), verdict.into()],
        )
        .await?;
        D::commit(tx).await
    }

    async fn set_stopped(
        &self,
        projection: &str,
        stopped: bool,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let mut tx = self.decide(projection).await?;
        let reason = stopped.then(|| asked.reason.as_deref().unwrap_or("no reason was given"));
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
        let entry = Entry { action, origin: Origin::Command, generation: None };
        entry.record(&mut *tx, projection, None, None, asked).await?;
        D::commit(tx).await
    }
}

/// Asks for a component to be the active one, in a transaction in which no other one decides about its name.
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
    // It may have been signed since.
    session
        .execute(
            "update projector.component set signature = coalesce($2, signature) where digest = $1",
            &[component.digest.into(), component.signature.into()],
        )
        .await?;
    let standings = standings(session, name).await?;
    let is_active =
        (standings.iter()).any(|standing| standing.role != Role::Warm && standing.active == component.digest);
    let asked_for: Option<(i64, String)> = session
        .row(
            "select id, digest from projector.deployment where projection = $1 and state = 'open'",
            &[name.into()],
        )
        .await?;
    if let Some((id, digest)) = asked_for
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
    let known = known(*action, *origin, is_active, had.is_some());
    if let (Some(known), Origin::Directory) = (&known, origin) {
        return Ok(known.clone());
    }
    session
        .execute(
            "update projector.deployment set state = 'withdrawn', decided_at = now(),
               verdict = 'another one was asked for' where projection = $1 and state = 'open'",
            &[name.into()],
        )
        .await?;
    // A command means this component, and not what was asked for before.
    if let Some(known) = known {
        return Ok(known);
    }
    keep_component(session, component).await?;
    open_deployment(session, proposal).await.map(Proposed::Open)
}

/// Stores a component, or its bytes again if those were removed.
async fn keep_component<S: Session>(session: &mut S, component: &Component<'_>) -> Result<(), StoreError> {
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
    let Proposal { component, action, origin, asked, .. } = proposal;
    let number: Option<(i64,)> = session
        .row(
            "insert into projector.deployment (projection, action, digest, source, asked_by, reason, asked_at, state)
             values ($1, $2, $3, $4, $5, $6, now(), 'open') returning id",
            &[
                component.contract.name().into(),
                action.as_str().into(),
                component.digest.into(),
                origin.as_str().into(),
                asked.by.as_str().into(),
                asked.reason.as_deref().into(),
            ],
        )
        .await?;
    number.map(|(number,)| number).ok_or_else(|| StoreError::Unusable("a deployment got no number".into()))
}

/// A projection's generations, oldest first.
pub(crate) async fn standings<S: Session>(
    session: &mut S,
    projection: &str,
) -> Result<Vec<GenerationStatus>, StoreError> {
    let rows: Vec<StandingRow> = session
        .rows(
            "select g.id, g.projection, g.number, g.table_schema, g.role, cast(g.layout as text) as layout,
               g.active_digest, cast(c.descriptor as text) as descriptor, g.readers, cast(g.views as text) as views,
               g.caught_up_at is not null as caught_up, g.backfilling
             from projector.generation g join projector.component c on c.digest = g.active_digest
             where g.projection = $1 order by g.number",
            &[projection.into()],
        )
        .await?;
    rows.into_iter().map(StandingRow::standing).collect()
}

/// Partitions of these topics in which a generation is behind another one.
pub(crate) async fn behind<S: Session>(
    session: &mut S,
    generation: i64,
    other: i64,
    topics: &[String],
) -> Result<Vec<Partition>, StoreError> {
    let sql = format!(
        "select o.topic, o.partition from projector.checkpoint o
         left join projector.checkpoint n
           on n.generation_id = $1 and n.topic = o.topic and n.partition = o.partition
         where o.generation_id = $2 and {}
           and (n.next_offset is null or n.next_offset < o.next_offset
                and (n.topic_id is null or o.topic_id is null or n.topic_id = o.topic_id))
         order by o.topic, o.partition",
        S::is_one_of("o.topic", "$3")
    );
    let rows: Vec<(String, i32)> =
        session.rows(&sql, &[generation.into(), other.into(), topics.into()]).await?;
    Ok(rows.into_iter().map(|(topic, number)| Partition::new(topic.as_str(), number)).collect())
}

/// What became of a projection, for its history.
pub(crate) struct Entry {
    pub(crate) action: &'static str,
    pub(crate) origin: Origin,
    pub(crate) generation: Option<i32>,
}

impl Entry {
    pub(crate) async fn record<S: Session>(
        &self,
        session: &mut S,
        projection: &str,
        digest: Option<&str>,
        replaced: Option<&str>,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        session
            .execute(
                "insert into projector.deployment
                   (projection, action, digest, source, asked_by, reason, asked_at, state, decided_at, generation,
                    replaced)
                 values ($1, $2, $3, $4, $5, $6, now(), 'done', now(), $7, $8)",
                &[
                    projection.into(),
                    self.action.into(),
                    digest.into(),
                    self.origin.as_str().into(),
                    asked.by.as_str().into(),
                    asked.reason.as_deref().into(),
                    self.generation.into(),
                    replaced.into(),
                ],
            )
            .await
            .map(drop)
    }
}
