//! Versions and generations of projections.

use std::time::Duration;

use async_trait::async_trait;
use projector_core::checkpoint::Offsets;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::failpoint;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::layout::{Layout, Offered};
use projector_core::refusal::Refusal;
use projector_core::rollout_target::{RolloutTarget, rollout_target};
use projector_core::views::{self, Cover, View, ViewSet};
use projector_model::names;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteQueryResult;
use uuid::Uuid;

use super::errors::classify;
use super::foreign::{self, Others, Own};
use super::waits::try_all;
use super::{Sqlite, tables};
use crate::deployments::{
    self, DeploymentStore as _, GenerationStore, Promoted, next_views, no_step_back, promotable,
    retirable_views, retired_views, views_json,
};
use crate::foreign::{Readers, none_goes_along, to_text};
use crate::host_tables::deployments::{Entry, behind, standings};
use crate::host_tables::offsets_json;
use crate::host_tables::operations::{keep_operations, record_removal};
use crate::requester::Requester;
use crate::{Installed, StoreError};

type Tx = sqlx::Transaction<'static, sqlx::Sqlite>;

#[async_trait]
impl GenerationStore for Sqlite {
    async fn heartbeat(&self, host: Uuid, name: &str, members: &[String]) -> Result<(), StoreError> {
        let members = serde_json::json!(members).to_string();
        let seen = sqlx::query(
            "update projector_host set seen_at = cast(unixepoch('subsec') * 1000000 as integer), member_ids = ?2,
               knows = ?3 where id = ?1",
        )
            .bind(host)
            .bind(&members)
            .bind(self.schema.known)
            .execute(&self.pool)
            .await
            .map_err(classify)?;
        if seen.rows_affected() > 0 {
            return Ok(());
        }
        // Those that never said that they leave: nobody waits for their word any more.
        sqlx::query("delete from projector_host where seen_at < cast(unixepoch('subsec') * 1000000 as integer) - 3600000000")
            .execute(&self.pool)
            .await
            .map_err(classify)?;
        sqlx::query(
            "insert into projector_host (id, name, seen_at, member_ids, knows)
             values (?1, ?2, cast(unixepoch('subsec') * 1000000 as integer), ?3, ?4) on conflict do nothing",
        )
        .bind(host)
        .bind(name)
        .bind(&members)
        .bind(self.schema.known)
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn give_up(&self, deployment: i64, _: Offered<'_>, verdict: &str) -> Result<(), StoreError> {
        // Additions are made in the transaction that failed.
        self.refuse(deployment, verdict).await
    }

    async fn activate(&self, deployment: i64, offered: Offered<'_>) -> Result<Option<Installed>, StoreError> {
        self.carry_out(deployment, offered).await
    }

    async fn revert(
        &self,
        generation: &Generation,
        from: &str,
        to: &str,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.immediate().await?;
        let reverted = sqlx::query(
            "update projector_generation set active_digest = ?3, halted = null, halted_kind = null, impure = null
             where id = ?1 and active_digest = ?2",
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
        tx.commit().await.map_err(classify)?;
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
        // In its turn: no transaction is in flight then.
        let mut tx = self.immediate().await?;
        for generation in generations {
            let held = sqlx::query(
                "update projector_generation set hold_until = cast(unixepoch('subsec') * 1000000 as integer) + ?3, hold_at = ?4, hold_by = ?2
                 where id = ?1 and (hold_by = ?2 or hold_until is null or hold_until <= cast(unixepoch('subsec') * 1000000 as integer))",
            )
            .bind(generation)
            .bind(by)
            .bind(time.as_micros() as i64)
            .bind(at.map(offsets_json))
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
            if held.rows_affected() == 0 {
                return Ok(false);
            }
        }
        tx.commit().await.map_err(classify)?;
        Ok(true)
    }

    async fn release_barrier(&self, generations: &[i64], by: Uuid) -> Result<(), StoreError> {
        let mut tx = self.immediate().await?;
        for generation in generations {
            sqlx::query(
                "update projector_generation set hold_until = null, hold_at = null, hold_by = null
                 where id = ?1 and hold_by = ?2",
            )
            .bind(generation)
            .bind(by)
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        }
        tx.commit().await.map_err(classify)
    }

    async fn promote(
        &self,
        generation: &Generation,
        topics: &[String],
        origin: Origin,
        asked: &Requester,
    ) -> Result<Promoted, StoreError> {
        let name = &generation.projection;
        let mut tx = self.immediate().await?;
        let standings = standings(&mut *tx, name).await?;
        let (new, old) = promotable(&standings, generation)?;
        let behind = behind(&mut *tx, new.generation.id, old.generation.id, topics).await?;
        no_step_back(generation, behind)?;
        let promoted = show(&mut tx, &standings, new, old).await?;
        for (standing, role) in [(old, Role::Warm), (new, Role::Live)] {
            sqlx::query(
                "update projector_generation set role = ?2, hold_until = null, hold_at = null, hold_by = null where id = ?1",
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
        tx.commit().await.map_err(classify)?;
        Ok(promoted)
    }

    async fn views_are_free(&self, _: &[&str]) -> Result<(), StoreError> {
        // Whoever reads keeps nobody from it.
        Ok(())
    }

    /// The definition of a view is a part of the snapshot that a reader has.
    async fn snapshots_are_recent(&self, _: &Generation) -> Result<(), StoreError> {
        Ok(())
    }

    async fn retire(
        &self,
        generation: &Generation,
        origin: Origin,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let name = &generation.projection;
        let mut tx = self.immediate().await?;
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
        tx.commit().await.map_err(classify)
    }

    async fn readers(&self, views: &[ViewSet]) -> Result<Readers, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(classify)?;
        foreign::readers(&mut connection, views).await
    }

    async fn retire_views(
        &self,
        projection: &str,
        schema: &str,
        asked: &Requester,
    ) -> Result<(), StoreError> {
        let mut tx = self.immediate().await?;
        let standings = standings(&mut *tx, projection).await?;
        let (standing, retired, left) = retirable_views(&standings, schema)?;
        let own = Own::views(&[retired]);
        let others = Others::look(&mut tx, &own).await?;
        let what = format!("the views with the prefix {schema}");
        none_goes_along(&what, others.lost())?;
        for statement in own.removal() {
            run(&mut tx, statement).await?;
        }
        none_goes_along(&what, &others.broken(&mut tx, &own).await)?;
        set_views(&mut tx, standing.generation.id, &left, &standing.layout).await?;
        let generation = Some(standing.generation.number);
        let entry = Entry { action: "retire", origin: Origin::Command, generation };
        entry.record(&mut *tx, projection, None, None, &retired_views(schema, asked)).await?;
        let verdict = serde_json::json!({ "views": schema });
        record_removal(&mut *tx, (projection, generation), "retire", asked, verdict).await?;
        tx.commit().await.map_err(classify)
    }

    async fn drop_projection(&self, projection: &str, asked: &Requester) -> Result<(), StoreError> {
        let mut tx = self.immediate().await?;
        let standings = standings(&mut *tx, projection).await?;
        for standing in &standings {
            remove(&mut tx, standing).await?;
        }
        for statement in [
            "update projector_projection set stopped = null where name = ?1",
            "update projector_deployment set state = 'withdrawn', verdict = 'the projection was dropped',
               decided_at = cast(unixepoch('subsec') * 1000000 as integer) where projection = ?1 and state = 'open'",
        ] {
            sqlx::query(statement).bind(projection).execute(&mut *tx).await.map_err(classify)?;
        }
        let entry = Entry { action: "drop", origin: Origin::Command, generation: None };
        entry.record(&mut *tx, projection, None, None, asked).await?;
        let dropped: Vec<i32> = standings.iter().map(|standing| standing.generation.number).collect();
        let verdict = serde_json::json!({ "dropped": dropped });
        record_removal(&mut *tx, (projection, None), "drop", asked, verdict).await?;
        tx.commit().await.map_err(classify)
    }
}

impl Sqlite {
    /// A transaction in which nobody else writes.
    pub(super) async fn immediate(&self) -> Result<Tx, StoreError> {
        self.pool.begin_with("begin immediate").await.map_err(classify)
    }

    async fn carry_out(
        &self,
        deployment: i64,
        offered: Offered<'_>,
    ) -> Result<Option<Installed>, StoreError> {
        let contract = offered.contract;
        let name = contract.name();
        let mut tx = self.immediate().await?;
        let asked: Option<(String, String)> = sqlx::query_as(
            "select action, digest from projector_deployment where id = ?1 and state = 'open'",
        )
        .bind(deployment)
        .fetch_optional(&mut *tx)
        .await
        .map_err(classify)?;
        let Some((action, digest)) = asked else { return Ok(None) };
        let action = deployments::action(&action)?;
        let had: Vec<i32> = sqlx::query_scalar(
            "select generation from projector_deployment
             where projection = ?1 and digest = ?2 and state = 'done' and generation is not null",
        )
        .bind(name)
        .bind(&digest)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        let standings = standings(&mut *tx, name).await?;
        let target =
            rollout_target(action, &standings, offered, |standing| had.contains(&standing.generation.number));
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
                for step in &steps {
                    for statement in tables::add(step, contract, &standing.generation.schema) {
                        run(&mut tx, statement).await?;
                    }
                    failpoint::reached(failpoint::AFTER_STEP, name);
                }
                let mut views = standing.views.clone();
                if !steps.is_empty() && !views.is_empty() {
                    let next = next_views(&standings, name, &extended);
                    let tables = (&extended, &*standing.generation.schema);
                    complete_views(&mut tx, tables, &mut views, next).await?;
                }
                let switched: SqliteQueryResult = sqlx::query(
                    "update projector_generation set active_digest = ?2, halted = null, halted_kind = null,
                       impure = null, layout = ?3 where id = ?1",
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
            "update projector_deployment set state = 'done', decided_at = cast(unixepoch('subsec') * 1000000 as integer), generation = ?2, replaced = ?3,
               verdict = ?4 where id = ?1",
        )
        .bind(deployment)
        .bind(generation.number)
        .bind(replaced)
        .bind(verdict)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        failpoint::reached(failpoint::BEFORE_ACTIVATION, name);
        tx.commit().await.map_err(classify)?;
        failpoint::reached(failpoint::AFTER_ACTIVATION, name);
        Ok(Some(Installed { generation, role, active: digest }))
    }
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
        "update projector_projection set generations = generations + 1 where name = ?1 returning generations",
    )
    .bind(name)
    .fetch_one(&mut **tx)
    .await
    .map_err(classify)?;
    let schema = names::generation_schema(name, number);
    let layout = Layout::of(offered);
    // SQLite gives the number of a row that is gone again, and hosts know generations by it: so it is that
    // of all generations that there ever were.
    let id: i64 = sqlx::query_scalar(
        "insert into projector_generation
           (id, projection, number, revision, table_schema, active_digest, role, layout, backfilling, created_at)
         values ((select max((select sum(generations) from projector_projection),
                             (select coalesce(max(id), 0) + 1 from projector_generation))),
           ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, cast(unixepoch('subsec') * 1000000 as integer)) returning id",
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
    for statement in tables::create(contract, &schema) {
        run(tx, statement).await?;
    }
    if role == Role::Live {
        let views = ViewSet::of(names::views_schema(name, 1), 1, &layout);
        make_views(tx, &views.schema, &views.views, (&layout, &schema)).await?;
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
    let tables = (&new.layout, &*new.generation.schema);
    for set in &moved {
        replace_views(tx, set, tables).await?;
    }
    let mut views = [&*new.views, &moved].concat();
    views.sort_by_key(|set| set.version);
    let next = next_views(standings, &new.generation.projection, &new.layout);
    complete_views(tx, tables, &mut views, next).await?;
    set_views(tx, old.generation.id, &left, &old.layout).await?;
    set_views(tx, new.generation.id, &views, &new.layout).await?;
    Ok(Promoted::new(new, &moved, &views))
}

/// Makes what is missing until some of a generation's views show all of it: views of new tables beside the others,
/// or, if the columns of a table changed, new views under a prefix of their own.
async fn complete_views(
    tx: &mut Tx,
    tables: (&Layout, &str),
    views: &mut Vec<ViewSet>,
    next: ViewSet,
) -> Result<(), StoreError> {
    match views::cover(views, tables.0) {
        Cover::Covered => {}
        Cover::Grow { version, views: more } => {
            for set in views.iter_mut().filter(|set| set.version == version) {
                make_views(tx, &set.schema, &more, tables).await?;
                set.views.extend(more.iter().cloned());
            }
        }
        Cover::Make => {
            make_views(tx, &next.schema, &next.views, tables).await?;
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
    sqlx::query("update projector_generation set readers = ?2, views = ?3 where id = ?1")
        .bind(generation)
        .bind(views::newest(views, layout).map(|newest| &*newest.schema))
        .bind(views_json(views))
        .execute(&mut **tx)
        .await
        .map_err(classify)?;
    Ok(())
}

/// Views under a prefix, of the tables of a layout that stand under another one.
async fn make_views(
    tx: &mut Tx,
    readers: &str,
    views: &[View],
    (layout, schema): (&Layout, &str),
) -> Result<(), StoreError> {
    for view in views {
        if let Some(table) = layout.table(&view.table) {
            run(tx, tables::view(view, (table, schema), readers)).await?;
        }
    }
    Ok(())
}

/// Has views show another generation. They keep their triggers.
async fn replace_views(
    tx: &mut Tx,
    set: &ViewSet,
    (layout, schema): (&Layout, &str),
) -> Result<(), StoreError> {
    let readers = &*set.schema;
    for view in &set.views {
        let Some(table) = layout.table(&view.table) else { continue };
        let triggers = foreign::triggers(tx, &names::prefixed(readers, &view.table)).await?;
        run(tx, format!("drop view if exists {}", tables::qualified(readers, &view.table))).await?;
        run(tx, tables::view(view, (table, schema), readers)).await?;
        for trigger in triggers {
            run(tx, trigger).await?;
        }
    }
    Ok(())
}

/// Removes a generation, with its rows and its views; refused if something that the host did not make would
/// go along, or would not work any more.
async fn remove(tx: &mut Tx, standing: &GenerationStatus) -> Result<(), StoreError> {
    let own = Own::of(standing);
    let others = Others::look(tx, &own).await?;
    none_goes_along(&to_text(&standing.generation), others.lost())?;
    keep_operations(&mut **tx, &standing.generation).await?;
    sqlx::query("delete from projector_generation where id = ?")
        .bind(standing.generation.id)
        .execute(&mut **tx)
        .await
        .map_err(classify)?;
    for statement in own.removal() {
        run(tx, statement).await?;
    }
    Ok(none_goes_along(&to_text(&standing.generation), &others.broken(tx, &own).await)?)
}

async fn run(tx: &mut Tx, statement: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(statement)).execute(&mut **tx).await.map_err(|error| {
        let words = error.to_string();
        match words.contains("already exists") || words.contains("use DROP TABLE") {
            true => Refusal::ForeignHome { kind: "table", database: words }.into(),
            false => classify(error),
        }
    })?;
    Ok(())
}

fn json(layout: &Layout) -> String {
    serde_json::to_string(layout).expect("a layout is plain data")
}
