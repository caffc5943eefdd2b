//! Versions and generations of projections.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use projector_core::checkpoint::Offsets;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::failpoint;
use projector_core::failure::FailureKind;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::layout::{Layout, Offered, Step};
use projector_core::refusal::Refusal;
use projector_core::rollout_target::{RolloutTarget, rollout_target};
use projector_core::views::{self, Cover, View, ViewSet};
use projector_model::{Contract, names};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgQueryResult};
use uuid::Uuid;

use super::errors::classify;
use super::foreign::{self, KnownView, Own};
use super::sessions::Tx;
use super::tables::{self, Addition};
use super::waits::try_all;
use super::{ADVISORY_CLASS, BEGIN, Postgres, fence, lock_holder, make_schema, old_snapshots};
use crate::deployments::{
    self, DeploymentStore as _, GenerationStore, Promoted, next_views, no_step_back, promotable,
    retirable_views, retired_views, views_json,
};
use crate::foreign::{Readers, none_goes_along, to_text};
use crate::host_tables::deployments::{Entry, behind, standings};
use crate::host_tables::offsets_json;
use crate::host_tables::operations::{keep_operations, record_removal};
use crate::names::quote;
use crate::requester::Requester;
use crate::{Installed, StoreError};

/// The first argument of the lock of whoever carries a deployment out.
const DEPLOY_CLASS: i32 = ADVISORY_CLASS + 2;
/// Between two additions to tables in use.
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// Whoever waits for a lock on tables or views that readers use keeps those waiting that come after it: so
/// it waits for no longer, and tries again.
const READERS_WAIT_MS: u32 = 1_000;
/// What is left of that for the last of many views.
const LEAST_WAIT_MS: u32 = 100;

#[async_trait]
impl GenerationStore for Postgres {
    async fn heartbeat(&self, host: Uuid, name: &str, members: &[String]) -> Result<(), StoreError> {
        let members = serde_json::json!(members).to_string();
        let seen = sqlx::query(
            "update projector.host set seen_at = now(), member_ids = $2, knows = $3
             where id = $1 and $3 >= (select needs from projector.store)",
        )
        .bind(host)
        .bind(&members)
        .bind(self.schema.known)
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        if seen.rows_affected() > 0 {
            return Ok(());
        }
        // Those that never said that they leave: nobody waits for their word any more.
        sqlx::query("delete from projector.host where seen_at < now() - interval '1 hour'")
            .execute(&mut *self.connection().await?)
            .await
            .map_err(classify)?;
        let mut session = self.connection().await?;
        let added = sqlx::query(
            "insert into projector.host (id, name, member_ids, knows)
             select $1, $2, $3, $4 from projector.store where needs <= $4
             on conflict do nothing",
        )
        .bind(host)
        .bind(name)
        .bind(&members)
        .bind(self.schema.known)
        .execute(&mut *session)
        .await
        .map_err(classify)?;
        match added.rows_affected() {
            // Something was taken away since this host was seen last, and it was not waited for.
            0 => super::schema(&mut session).await?.check_known(),
            _ => Ok(()),
        }
    }

    async fn give_up(&self, deployment: i64, offered: Offered<'_>, verdict: &str) -> Result<(), StoreError> {
        let projection = offered.contract.name();
        let mut session = self.sessions.own().await?;
        let taken_back = match is_alone(&mut session, projection).await {
            Ok(true) => take_back(&mut session, deployment, offered).await,
            other => other.map(drop),
        };
        session.close().await;
        if let Err(error) = taken_back {
            tracing::warn!(
                projection, %error,
                "what a refused deployment added to tables in use stays there, unused, until the next deployment"
            );
        }
        self.refuse(deployment, verdict).await
    }

    async fn activate(&self, deployment: i64, offered: Offered<'_>) -> Result<Option<Installed>, StoreError> {
        let name = offered.contract.name();
        // Of its own: an index may take long, and the lock is to last until all is done.
        let mut session = self.sessions.own().await?;
        let done = match is_alone(&mut session, name).await? {
            true => self.carry_out(&mut session, deployment, offered).await,
            false => Ok(None),
        };
        session.close().await;
        self.naming(name, done).await
    }

    async fn revert(
        &self,
        generation: &Generation,
        from: &str,
        to: &str,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.decide(&generation.projection).await?;
        fence(&mut tx, &[generation.id]).await?;
        let reverted = sqlx::query(
            "update projector.generation set active_digest = $3, halted = null, halted_kind = null, impure = null
             where id = $1 and active_digest = $2",
        )
        .bind(generation.id)
        .bind(from)
        .bind(to)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        if reverted.rows_affected() == 0 {
            return Ok(false);
        }
        try_all(&mut tx, generation.id).await?;
        let entry = Entry { action: "revert", origin: Origin::Host, generation: Some(generation.number) };
        let asked = Requester::host(Some(reason.to_owned()));
        entry.record(&mut *tx, &generation.projection, Some(to), Some(from), &asked).await?;
        tx.commit().await?;
        failpoint::reached(failpoint::AFTER_REVERT, &generation.projection);
        Ok(true)
    }

    async fn raise_barrier(
        &self,
        generations: &[i64],
        by: Uuid,
        at: Option<&Offsets>,
        time: Duration,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin(BEGIN).await?;
        // Who waits for the batches in flight keeps others from beginning, and that is a hold already.
        let patience = (time / 2).as_millis().max(1);
        sqlx::query("select set_config('lock_timeout', $1, true)")
            .bind(patience.to_string())
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        fence(&mut tx, generations).await?;
        // From the transaction's beginning on.
        let held = sqlx::query(
            "update projector.generation
             set hold_until = now() + $3 * interval '1 second', hold_at = $4::text::jsonb, hold_by = $2
             where id = any($1) and (hold_by = $2 or hold_until is null or hold_until <= now())",
        )
        .bind(generations)
        .bind(by)
        .bind(time.as_secs_f64())
        .bind(at.map(offsets_json))
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        if held.rows_affected() < generations.len() as u64 {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }

    async fn release_barrier(&self, generations: &[i64], by: Uuid) -> Result<(), StoreError> {
        // No batch locks the row, so none is waited for.
        let mut tx = self.begin(BEGIN).await?;
        sqlx::query(
            "update projector.generation set hold_until = null, hold_at = null, hold_by = null
             where id = any($1) and hold_by = $2",
        )
        .bind(generations)
        .bind(by)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        tx.commit().await
    }

    async fn promote(
        &self,
        generation: &Generation,
        topics: &[String],
        origin: Origin,
        asked: &Requester,
    ) -> Result<Promoted, StoreError> {
        let switched = self.switch(generation, topics, origin, asked).await;
        self.naming(&generation.projection, switched).await
    }

    async fn views_are_free(&self, schemas: &[&str]) -> Result<(), StoreError> {
        lock_holder::none_in_the_way(&mut *self.connection().await?, schemas).await
    }

    async fn snapshots_are_recent(&self, generation: &Generation) -> Result<(), StoreError> {
        old_snapshots::none_is_left(&mut *self.connection().await?, generation).await
    }

    async fn retire(
        &self,
        generation: &Generation,
        origin: Origin,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let retired = self.remove_generation(generation, origin, asked).await;
        self.naming(&generation.projection, retired).await
    }

    async fn readers(&self, views: &[ViewSet]) -> Result<Readers, StoreError> {
        foreign::readers(&mut *self.connection().await?, views).await
    }

    async fn retire_views(
        &self,
        projection: &str,
        schema: &str,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let retired = self.remove_views(projection, schema, asked).await;
        self.naming(projection, retired).await
    }

    async fn drop_projection(&self, projection: &str, asked: &Requester) -> Result<(), StoreError> {
        let dropped = self.remove_projection(projection, asked).await;
        self.naming(projection, dropped).await
    }
}

impl Postgres {
    /// One transaction shows another generation to readers.
    async fn switch(
        &self,
        generation: &Generation,
        topics: &[String],
        origin: Origin,
        asked: &Requester,
    ) -> Result<Promoted, StoreError> {
        let name = &generation.projection;
        let mut tx = self.decide(name).await?;
        let standings = standings(&mut *tx, name).await?;
        // No batch is in flight then, and none begins before the end.
        fence(&mut tx, &standings.iter().map(|standing| standing.generation.id).collect::<Vec<_>>()).await?;
        let (new, old) = promotable(&standings, generation)?;
        let behind = behind(&mut *tx, new.generation.id, old.generation.id, topics).await?;
        no_step_back(generation, behind)?;
        let promoted = show(&mut tx, &standings, new, old).await?;
        for (standing, role) in [(old, Role::Warm), (new, Role::Live)] {
            sqlx::query(
                "update projector.generation set role = $2, hold_until = null, hold_at = null, hold_by = null where id = $1",
            )
            .bind(standing.generation.id)
            .bind(role.as_str())
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        }
        let entry = Entry { action: "promote", origin, generation: Some(generation.number) };
        entry.record(&mut *tx, name, Some(&new.active), Some(&old.active), asked).await?;
        failpoint::reached(failpoint::BEFORE_PROMOTE, name);
        tx.commit().await?;
        Ok(promoted)
    }

    /// What came of a change of tables or views that readers may use: where it had to wait for a lock, it names
    /// the session that has it.
    async fn naming<T>(&self, projection: &str, done: Result<T, StoreError>) -> Result<T, StoreError> {
        let error = match done {
            Err(error) if error.kind() == FailureKind::Locked => error,
            done => return done,
        };
        let Ok(mut session) = self.connection().await else { return Err(error) };
        let Ok(standings) = standings(&mut *session, projection).await else { return Err(error) };
        let views = standings.iter().flat_map(|standing| &standing.views).map(|set| &*set.schema);
        let tables = standings.iter().map(|standing| &*standing.generation.schema);
        let schemas: Vec<&str> = views.chain(tables).collect();
        Err(lock_holder::named(&mut session, &schemas, error).await)
    }

    async fn remove_generation(
        &self,
        generation: &Generation,
        origin: Origin,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let name = &generation.projection;
        let mut tx = self.decide(name).await?;
        let standings = standings(&mut *tx, name).await?;
        match standings.into_iter().find(|standing| standing.generation.id == generation.id) {
            Some(standing) if standing.role != Role::Live => remove(&mut tx, &standing).await?,
            found => {
                let (projection, number) = (name.clone(), generation.number);
                return Err(StoreError::Refused(match found {
                    Some(_) => Refusal::Live { projection, number },
                    None => Refusal::Gone { projection, number },
                }));
            }
        }
        let entry = Entry { action: "retire", origin, generation: Some(generation.number) };
        entry.record(&mut *tx, name, None, None, asked).await?;
        let verdict = serde_json::json!({ "retired": generation.number });
        record_removal(&mut *tx, (name, Some(generation.number)), "retire", asked, verdict).await?;
        tx.commit().await
    }

    async fn remove_views(
        &self,
        projection: &str,
        schema: &str,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let mut tx = self.decide(projection).await?;
        let standings = standings(&mut *tx, projection).await?;
        let (standing, retired, left) = retirable_views(&standings, schema)?;
        let own = Own::views(&[retired]);
        let what = format!("the views in {schema}");
        none_goes_along(&what, &foreign::objects(&mut tx, &own).await?)?;
        lock_holder::none_in_the_way(&mut tx, &[schema]).await?;
        run(&mut tx, format!("set local lock_timeout = {READERS_WAIT_MS}")).await?;
        remove_own(&mut tx, &own).await?;
        set_views(&mut tx, standing.generation.id, &left, &standing.layout).await?;
        let generation = Some(standing.generation.number);
        let entry = Entry { action: "retire", origin: Origin::Command, generation };
        entry.record(&mut *tx, projection, None, None, &retired_views(schema, asked)).await?;
        let verdict = serde_json::json!({ "views": schema });
        record_removal(&mut *tx, (projection, generation), "retire", asked, verdict).await?;
        tx.commit().await
    }

    async fn remove_projection(&self, projection: &str, asked: &Requester) -> Result<(), StoreError> {
        let mut tx = self.decide(projection).await?;
        let standings = standings(&mut *tx, projection).await?;
        for standing in &standings {
            remove(&mut tx, standing).await?;
        }
        for statement in [
            "update projector.projection set stopped = null where name = $1",
            "update projector.deployment set state = 'withdrawn', verdict = 'the projection was dropped',
               decided_at = now() where projection = $1 and state = 'open'",
        ] {
            sqlx::query(statement).bind(projection).execute(&mut *tx).await.map_err(classify)?;
        }
        let entry = Entry { action: "drop", origin: Origin::Command, generation: None };
        entry.record(&mut *tx, projection, None, None, asked).await?;
        let dropped: Vec<i32> = standings.iter().map(|standing| standing.generation.number).collect();
        let verdict = serde_json::json!({ "dropped": dropped });
        record_removal(&mut *tx, (projection, None), "drop", asked, verdict).await?;
        tx.commit().await
    }

    /// A transaction in which nobody else decides anything about this name.
    pub(super) async fn decide(&self, projection: &str) -> Result<Tx, StoreError> {
        let mut tx = self.begin(BEGIN).await?;
        sqlx::query("select pg_advisory_xact_lock($1, hashtext($2))")
            .bind(ADVISORY_CLASS)
            .bind(projection)
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        Ok(tx)
    }

    async fn carry_out(
        &self,
        session: &mut PgConnection,
        deployment: i64,
        offered: Offered<'_>,
    ) -> Result<Option<Installed>, StoreError> {
        let contract = offered.contract;
        let name = contract.name();
        let asked: Option<(String, String)> = sqlx::query_as(
            "select action, digest from projector.deployment where id = $1 and state = 'open'",
        )
        .bind(deployment)
        .fetch_optional(&mut *session)
        .await
        .map_err(classify)?;
        let Some((action, digest)) = asked else { return Ok(None) };
        let action = deployments::action(&action)?;
        let (standings, target) = aim(&mut *session, action, &digest, offered).await?;
        if let RolloutTarget::InPlace { generation, steps } = &target
            && let Some(standing) = standings.iter().find(|standing| standing.generation.id == *generation)
        {
            for step in steps {
                let begun = Instant::now();
                add(session, step, contract, &standing.generation.schema).await?;
                failpoint::reached(failpoint::AFTER_STEP, name);
                // So that many additions leave the database half of the time to others.
                tokio::time::sleep(begun.elapsed().min(MOST_PAUSE)).await;
            }
        }
        let mut tx = self.decide(name).await?;
        let open: Option<i64> = sqlx::query_scalar(
            "select id from projector.deployment where id = $1 and state = 'open' for update",
        )
        .bind(deployment)
        .fetch_optional(&mut *tx)
        .await
        .map_err(classify)?;
        // A promotion or a revert may have come between: then all of this is for the next try.
        let (standings, again) = aim(&mut tx, action, &digest, offered).await?;
        if open.is_none() || again != target {
            return Ok(None);
        }
        let role = target.role(&standings);
        let (generation, replaced, verdict) = match target {
            RolloutTarget::First => (create(&mut tx, offered, &digest, Role::Live, false).await?, None, None),
            RolloutTarget::Anew { reasons, instead_of } => {
                if let Some(given_up) =
                    standings.iter().find(|standing| Some(standing.generation.id) == instead_of)
                {
                    remove(&mut tx, given_up).await?;
                }
                let backfilling = action == DeploymentAction::Backfill;
                let generation = create(&mut tx, offered, &digest, Role::Building, backfilling).await?;
                let verdict = format!("generation {}: {}", generation.number, reasons.join("; "));
                (generation, None, Some(verdict))
            }
            RolloutTarget::InPlace { generation, steps } => {
                let standing =
                    standings.iter().find(|standing| standing.generation.id == generation).cloned();
                let standing = standing.ok_or_else(|| StoreError::Unusable("no such generation".into()))?;
                let extended = standing.layout.extended(offered);
                let mut views = standing.views.clone();
                if !steps.is_empty() && !views.is_empty() {
                    let like = standing.newest_views().cloned();
                    let next = next_views(&standings, name, &extended);
                    let grown = GenerationStatus { layout: extended.clone(), ..standing.clone() };
                    complete_views(&mut tx, &grown, &mut views, next, like.as_ref()).await?;
                }
                fence(&mut tx, &[generation]).await?;
                let switched: PgQueryResult = sqlx::query(
                    "update projector.generation set active_digest = $2, halted = null, halted_kind = null,
                       impure = null, layout = $3::text::jsonb where id = $1",
                )
                .bind(generation)
                .bind(&digest)
                .bind(json(&extended))
                .execute(&mut *tx)
                .await
                .map_err(classify)?;
                if switched.rows_affected() == 0 {
                    return Ok(None);
                }
                set_views(&mut tx, generation, &views, &extended).await?;
                try_all(&mut tx, generation).await?;
                let added: Vec<String> = steps.iter().map(ToString::to_string).collect();
                let verdict = (!added.is_empty()).then(|| added.join("; "));
                (standing.generation, Some(standing.active), verdict)
            }
        };
        sqlx::query(
            "update projector.deployment set state = 'done', decided_at = now(), generation = $2, replaced = $3,
               verdict = $4 where id = $1",
        )
        .bind(deployment)
        .bind(generation.number)
        .bind(replaced)
        .bind(verdict)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        failpoint::reached(failpoint::BEFORE_ACTIVATION, name);
        tx.commit().await?;
        failpoint::reached(failpoint::AFTER_ACTIVATION, name);
        Ok(Some(Installed { generation, role, active: digest }))
    }
}

/// Takes the lock of whoever carries a projection's deployment out; `false`: somebody else has it.
async fn is_alone(session: &mut PgConnection, projection: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar("select pg_try_advisory_lock($1, hashtext($2))")
        .bind(DEPLOY_CLASS)
        .bind(projection)
        .fetch_one(session)
        .await
        .map_err(classify)
}

/// Removes what a deployment that is still open added to tables in use. No layout has it, so nobody uses it.
async fn take_back(
    session: &mut PgConnection,
    deployment: i64,
    offered: Offered<'_>,
) -> Result<(), StoreError> {
    let asked: Option<(String, String)> =
        sqlx::query_as("select action, digest from projector.deployment where id = $1 and state = 'open'")
            .bind(deployment)
            .fetch_optional(&mut *session)
            .await
            .map_err(classify)?;
    let Some((action, digest)) = asked else { return Ok(()) };
    let (standings, target) = aim(&mut *session, deployments::action(&action)?, &digest, offered).await?;
    let RolloutTarget::InPlace { generation, steps } = target else { return Ok(()) };
    let Some(standing) = standings.iter().find(|standing| standing.generation.id == generation) else {
        return Ok(());
    };
    let schema = &standing.generation.schema;
    for step in steps.iter().rev() {
        // What a person made stays.
        if is_free(session, step, schema).await.is_err() {
            continue;
        }
        let lock_timeout = match step {
            // It keeps nobody waiting while it waits for transactions that are open.
            Step::CreateIndex { .. } => 0,
            _ => READERS_WAIT_MS,
        };
        for statement in [format!("set lock_timeout = {lock_timeout}"), tables::take_back(step, schema)] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *session).await.map_err(classify)?;
        }
    }
    Ok(())
}

/// Where a deployment goes, as generations stand now.
async fn aim(
    connection: &mut PgConnection,
    action: DeploymentAction,
    digest: &str,
    offered: Offered<'_>,
) -> Result<(Vec<GenerationStatus>, RolloutTarget), StoreError> {
    let contract = offered.contract;
    let had: Vec<i32> = sqlx::query_scalar(
        "select generation from projector.deployment
         where projection = $1 and digest = $2 and state = 'done' and generation is not null",
    )
    .bind(contract.name())
    .bind(digest)
    .fetch_all(&mut *connection)
    .await
    .map_err(classify)?;
    let standings = standings(connection, contract.name()).await?;
    let had = |standing: &GenerationStatus| had.contains(&standing.generation.number);
    let target = rollout_target(action, &standings, offered, had);
    Ok((standings, target))
}

/// A new generation with its tables; the first one is shown to readers.
async fn create(
    tx: &mut Tx,
    offered: Offered<'_>,
    digest: &str,
    role: Role,
    backfilling: bool,
) -> Result<Generation, StoreError> {
    let contract = offered.contract;
    let name = contract.name();
    let number: i32 = sqlx::query_scalar(
        "update projector.projection set generations = generations + 1 where name = $1 returning generations",
    )
    .bind(name)
    .fetch_one(&mut **tx)
    .await
    .map_err(classify)?;
    let schema = names::generation_schema(name, number);
    let layout = Layout::of(offered);
    let id: i64 = sqlx::query_scalar(
        "insert into projector.generation
           (projection, number, revision, table_schema, active_digest, role, layout, backfilling)
         values ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8) returning id",
    )
    .bind(name)
    .bind(number)
    .bind(contract.descriptor.revision as i32)
    .bind(&schema)
    .bind(digest)
    .bind(role.as_str())
    .bind(json(&layout))
    .bind(backfilling)
    .fetch_one(&mut **tx)
    .await
    .map_err(classify)?;
    make_schema(tx, &schema).await?;
    for statement in tables::create(contract, &schema) {
        run(tx, statement).await?;
    }
    if role == Role::Live {
        let views = ViewSet::of(names::views_schema(name, 1), 1, &layout);
        make_views(tx, &views, &layout, &schema, None).await?;
        set_views(tx, id, &[views], &layout).await?;
    }
    Ok(Generation { id, projection: name.to_owned(), number, schema })
}

/// Shows a generation instead of another one, in all views whose columns it has: who reads them sees the one or the
/// other. If none of them shows all of it, there are new views beside them.
async fn show(
    tx: &mut Tx,
    standings: &[GenerationStatus],
    new: &GenerationStatus,
    old: &GenerationStatus,
) -> Result<Promoted, StoreError> {
    let (moved, left): (Vec<ViewSet>, Vec<ViewSet>) =
        old.views.iter().cloned().partition(|set| set.fits(&new.layout));
    let like = old.newest_views();
    let schemas: Vec<&str> = moved.iter().map(|set| &*set.schema).collect();
    lock_holder::none_in_the_way(tx, &schemas).await?;
    let began = Instant::now();
    for set in &moved {
        replace_views(tx, set, (&new.layout, &new.generation.schema), began).await?;
    }
    let mut views = [&*new.views, &moved].concat();
    views.sort_by_key(|set| set.version);
    let next = next_views(standings, &new.generation.projection, &new.layout);
    complete_views(tx, new, &mut views, next, like).await?;
    set_views(tx, old.generation.id, &left, &old.layout).await?;
    set_views(tx, new.generation.id, &views, &new.layout).await?;
    Ok(Promoted::new(new, &moved, &views))
}

/// Makes what is missing until some of a generation's views show all of it: views of new tables beside the others,
/// or, if the columns of a table changed, new views in a schema of their own. These have the rights and the options
/// that the views `like` have.
async fn complete_views(
    tx: &mut Tx,
    standing: &GenerationStatus,
    views: &mut Vec<ViewSet>,
    next: ViewSet,
    like: Option<&ViewSet>,
) -> Result<(), StoreError> {
    let (layout, schema) = (&standing.layout, &standing.generation.schema);
    match views::cover(views, layout) {
        Cover::Covered => {}
        Cover::Grow { version, views: more } => {
            for set in views.iter_mut().filter(|set| set.version == version) {
                for view in &more {
                    make_view(tx, &set.schema, view, (layout, schema), &[]).await?;
                }
                set.views.extend(more.iter().cloned());
            }
        }
        Cover::Make => {
            make_views(tx, &next, layout, schema, like).await?;
            views.push(next);
        }
    }
    Ok(())
}

async fn set_views(
    tx: &mut Tx,
    generation: i64,
    views: &[ViewSet],
    layout: &Layout,
) -> Result<(), StoreError> {
    sqlx::query("update projector.generation set readers = $2, views = $3::text::jsonb where id = $1")
        .bind(generation)
        .bind(views::newest(views, layout).map(|newest| &*newest.schema))
        .bind(views_json(views))
        .execute(&mut **tx)
        .await
        .map_err(classify)?;
    Ok(())
}

async fn make_views(
    tx: &mut Tx,
    set: &ViewSet,
    layout: &Layout,
    schema: &str,
    like: Option<&ViewSet>,
) -> Result<(), StoreError> {
    make_schema(tx, &set.schema).await?;
    for view in &set.views {
        let known = match like {
            Some(like) => foreign::known_view(tx, &like.schema, &view.table).await?.unwrap_or_default(),
            None => KnownView::default(),
        };
        make_view(tx, &set.schema, view, (layout, schema), &known.options).await?;
    }
    if let Some(like) = like {
        for grant in foreign::rights(tx, &like.schema, &set.schema).await? {
            run(tx, grant).await?;
        }
    }
    Ok(())
}

async fn make_view(
    tx: &mut Tx,
    readers: &str,
    view: &View,
    (layout, schema): (&Layout, &str),
    options: &[String],
) -> Result<(), StoreError> {
    let Some(table) = layout.table(&view.table) else { return Ok(()) };
    run(tx, tables::view("create view", view, (table, schema), readers, options)).await
}

/// Has views show another generation: their grants, comments, options and dependent objects stay. A view that a
/// person dropped is made again. Who reads a view that is replaced already waits until the transaction ends: so what
/// all of them wait for, since `began`, takes no longer than readers may be kept waiting.
async fn replace_views(
    tx: &mut Tx,
    set: &ViewSet,
    (layout, schema): (&Layout, &str),
    began: Instant,
) -> Result<(), StoreError> {
    let readers = &*set.schema;
    for view in &set.views {
        let Some(table) = layout.table(&view.table) else { continue };
        let known = foreign::known_view(tx, readers, &view.table).await?.unwrap_or_default();
        if let (Some(owner), false) = (&known.owner, known.ours) {
            let view = tables::qualified(readers, &view.table);
            return Err(Refusal::ForeignView { view, owner: owner.clone() }.into());
        }
        let left = u128::from(READERS_WAIT_MS).saturating_sub(began.elapsed().as_millis());
        run(tx, format!("set local lock_timeout = {}", left.max(u128::from(LEAST_WAIT_MS)))).await?;
        let replace = tables::view("create or replace view", view, (table, schema), readers, &known.options);
        run(tx, replace).await?;
        // A view reads its table with its owner's rights.
        if let Some(owner) = &known.owner {
            let (owner, from) = (quote(owner), tables::qualified(schema, &view.table));
            run(tx, format!("grant usage on schema {} to {owner}", quote(schema))).await?;
            run(tx, format!("grant select on {from} to {owner}")).await?;
        }
    }
    Ok(())
}

/// Removes a generation, with its rows and its views; refused if something would go along that the host did
/// not make.
async fn remove(tx: &mut Tx, standing: &GenerationStatus) -> Result<(), StoreError> {
    // Whoever begins after it finds no generation.
    fence(tx, &[standing.generation.id]).await?;
    let own = Own::of(tx, standing).await?;
    none_goes_along(&to_text(&standing.generation), &foreign::objects(tx, &own).await?)?;
    let schemas: Vec<&str> = own.schemas.iter().map(String::as_str).collect();
    lock_holder::none_in_the_way(tx, &schemas).await?;
    run(tx, format!("set local lock_timeout = {READERS_WAIT_MS}")).await?;
    keep_operations(&mut **tx, &standing.generation).await?;
    sqlx::query("delete from projector.generation where id = $1")
        .bind(standing.generation.id)
        .execute(&mut **tx)
        .await
        .map_err(classify)?;
    remove_own(tx, &own).await
}

/// Removes tables and views of the host's, and their schemas.
async fn remove_own(tx: &mut Tx, own: &Own) -> Result<(), StoreError> {
    for statement in own.removal() {
        run(tx, statement).await?;
    }
    // A schema that somebody else made for the projection stays, empty.
    let made: Vec<String> = sqlx::query_scalar(
        "select nspname::text from pg_namespace where nspname = any($1) and pg_has_role(nspowner, 'usage')",
    )
    .bind(&own.schemas)
    .fetch_all(&mut **tx)
    .await
    .map_err(classify)?;
    for schema in made {
        run(tx, format!("drop schema {}", quote(&schema))).await?;
    }
    Ok(())
}

/// Adds something to tables in use, unless it is there.
async fn add(
    session: &mut PgConnection,
    step: &Step,
    contract: &Contract,
    schema: &str,
) -> Result<(), StoreError> {
    async fn run(session: &mut PgConnection, sql: &str) -> Result<(), StoreError> {
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(session).await.map(drop).map_err(classify)
    }
    is_free(session, step, schema).await?;
    for Addition { sql, index } in tables::add(step, contract, schema) {
        match index {
            None => {
                lock_holder::none_in_the_way(session, &[schema]).await?;
                run(session, &format!("set lock_timeout = {READERS_WAIT_MS}")).await?;
            }
            // It waits for transactions that are open, and keeps nobody waiting.
            Some(index) => {
                run(session, "set lock_timeout = 0").await?;
                run(session, "set statement_timeout = 0").await?;
                // What a host left that died while it was made.
                let broken: bool = sqlx::query_scalar(
                    "select exists (select from pg_index where indexrelid = to_regclass($1) and not indisvalid)",
                )
                .bind(&index)
                .fetch_one(&mut *session)
                .await
                .map_err(classify)?;
                if broken {
                    run(session, &format!("drop index concurrently if exists {index}")).await?;
                }
            }
        }
        run(session, &sql).await?;
    }
    Ok(())
}

/// Refuses an addition whose name a person's table or column has. What a deployment left that came to nothing
/// is another matter: the host's own table, or a column that has no value in any row.
async fn is_free(session: &mut PgConnection, step: &Step, schema: &str) -> Result<(), StoreError> {
    let taken = |what: String| StoreError::Refused(Refusal::ForeignName { what });
    match step {
        Step::CreateTable { table } => match foreign::is_own_table(session, schema, table).await? {
            Some(false) => Err(taken(format!("the table or view {schema}.{table}"))),
            Some(true) | None => Ok(()),
        },
        Step::AddColumn { table, column } => {
            let there: bool = sqlx::query_scalar(
                "select exists (select from pg_attribute where attrelid = to_regclass($1) and attname = $2 and not attisdropped)",
            )
            .bind(tables::qualified(schema, table))
            .bind(column)
            .fetch_one(&mut *session)
            .await
            .map_err(classify)?;
            if !there {
                return Ok(());
            }
            let sql = format!(
                "select exists (select from {} where {} is not null)",
                tables::qualified(schema, table),
                quote(column)
            );
            let filled: bool =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(session).await.map_err(classify)?;
            match filled {
                true => Err(taken(format!("the column {column} of {schema}.{table}"))),
                false => Ok(()),
            }
        }
        Step::CreateIndex { .. } => Ok(()),
    }
}

async fn run(tx: &mut Tx, statement: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(statement)).execute(&mut **tx).await.map_err(|error| {
        match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some("42P06") => Refusal::ForeignHome { kind: "schema", database: error.to_string() }.into(),
            Some("2BP01") => Refusal::ForeignDependants { database: error.to_string() }.into(),
            _ => classify(error),
        }
    })?;
    Ok(())
}

fn json(layout: &Layout) -> String {
    serde_json::to_string(layout).expect("a layout is plain data")
}
