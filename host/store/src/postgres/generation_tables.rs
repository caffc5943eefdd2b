//! The tables and views of generations: additions to tables in use, creation and removal.
//!
//! Why additions are not a part of the transaction that activates a component: an index on a table in use may take hours,
//! and is built concurrently, which no transaction allows.
//!
//! Invariant: a transaction that waits for a lock on tables or views makes readers wait behind it. So it waits for
//! [`READERS_WAIT_MS`] at most, and the deployment or promotion is tried again.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use projector_core::failpoint;
use projector_core::layout::{Offered, Step};
use projector_core::rollout_target::RolloutTarget;
use projector_core::views::{View, ViewSet};
use projector_model::Contract;
use sqlx::postgres::PgConnection;

use super::additions::{self, READERS_WAIT_MS};
use super::errors::classify;
use super::foreign::{self, KnownView, Own};
use super::locks::DEPLOY_CLASS;
use super::migrate::make_schema;
use super::sessions::Session;
use super::tables;
use super::views::{create_view, replace_views, run};
use super::{Postgres, lock_holder};
use crate::error::StoreError;
use crate::foreign::{refuse_if_any, to_text};
use crate::host_tables::{GenerationTables, LaidTables, Removal, generations, open_rollout};
use crate::names::quote;

/// The longest pause between two additions to tables in use.
const MOST_PAUSE: Duration = Duration::from_secs(1);

#[async_trait]
impl GenerationTables for Postgres {
    /// A dedicated session with the lock [`DEPLOY_CLASS`]: an index may take long, and the lock must last until
    /// everything is done.
    type Turn = Session;
    type Checked = Own;

    async fn take_turn(&self, projection: &str) -> Result<Option<Session>, StoreError> {
        let mut session = self.sessions.dedicated().await?;
        match is_alone(&mut session, projection).await? {
            true => Ok(Some(session)),
            false => {
                session.close().await;
                Ok(None)
            }
        }
    }

    async fn end_turn(turn: Session) {
        turn.close().await;
    }

    async fn add_before(
        &self,
        turn: &mut Session,
        deployment: i64,
        offered: Offered<'_>,
    ) -> Result<Option<RolloutTarget>, StoreError> {
        let contract = offered.contract;
        let rollout = open_rollout(&mut **turn, deployment, offered, "").await?;
        let Some(rollout) = rollout else { return Ok(None) };
        if let RolloutTarget::InPlace { generation, steps } = &rollout.target
            && let Some(status) =
                rollout.generations.iter().find(|status| status.generation.id == *generation)
        {
            for step in steps {
                let begun = Instant::now();
                additions::add(turn, step, contract, &status.generation.schema).await?;
                failpoint::reached(failpoint::AFTER_STEP, contract.name());
                // Many additions leave the database half of the time to other work.
                tokio::time::sleep(begun.elapsed().min(MOST_PAUSE)).await;
            }
        }
        Ok(Some(rollout.target))
    }

    async fn add_within(_: &mut PgConnection, _: &Step, _: &Contract, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn take_back(&self, deployment: i64, offered: Offered<'_>) -> Result<(), StoreError> {
        let projection = offered.contract.name();
        let mut session = self.sessions.dedicated().await?;
        let taken_back = match is_alone(&mut session, projection).await {
            Ok(true) => additions::take_back(&mut session, deployment, offered).await,
            other => other.map(drop),
        };
        session.close().await;
        if let Err(error) = taken_back {
            tracing::warn!(
                projection, %error,
                "what a refused deployment added to tables in use stays there, unused, until the next deployment"
            );
        }
        Ok(())
    }

    async fn create_tables(
        transaction: &mut PgConnection,
        contract: &Contract,
        schema: &str,
    ) -> Result<(), StoreError> {
        make_schema(transaction, schema).await?;
        for statement in tables::create(contract, schema) {
            run(transaction, statement).await?;
        }
        Ok(())
    }

    async fn create_views(
        transaction: &mut PgConnection,
        set: &ViewSet,
        tables: LaidTables<'_>,
        like: Option<&ViewSet>,
    ) -> Result<(), StoreError> {
        make_schema(transaction, &set.schema).await?;
        for view in &set.views {
            let known = match like {
                Some(like) => foreign::known_view(transaction, &like.schema, &view.table).await?,
                None => None,
            };
            let KnownView { options, .. } = known.unwrap_or_default();
            create_view(transaction, &set.schema, view, tables, &options).await?;
        }
        if let Some(like) = like {
            for grant in foreign::rights(transaction, &like.schema, &set.schema).await? {
                run(transaction, grant).await?;
            }
        }
        Ok(())
    }

    async fn add_views(
        transaction: &mut PgConnection,
        schema: &str,
        views: &[View],
        tables: LaidTables<'_>,
    ) -> Result<(), StoreError> {
        for view in views {
            create_view(transaction, schema, view, tables, &[]).await?;
        }
        Ok(())
    }

    async fn replace_views(
        transaction: &mut PgConnection,
        sets: &[ViewSet],
        tables: LaidTables<'_>,
    ) -> Result<(), StoreError> {
        replace_views(transaction, sets, tables).await
    }

    async fn check_removal(transaction: &mut PgConnection, removal: Removal<'_>) -> Result<Own, StoreError> {
        let (own, what) = match removal {
            Removal::Generation(status) => (Own::of(transaction, status).await?, to_text(&status.generation)),
            Removal::Views(set) => {
                (Own::views(std::slice::from_ref(set)), format!("the views in {}", set.schema))
            }
        };
        refuse_if_any(&what, &foreign::objects(transaction, &own).await?)?;
        let schemas: Vec<&str> = own.schemas.iter().map(String::as_str).collect();
        lock_holder::none_in_the_way(transaction, &schemas).await?;
        run(transaction, format!("set local lock_timeout = {READERS_WAIT_MS}")).await?;
        Ok(own)
    }

    async fn remove(transaction: &mut PgConnection, own: Own) -> Result<(), StoreError> {
        for statement in own.removal() {
            run(transaction, statement).await?;
        }
        // A schema that another role made for the projection stays, empty.
        let made: Vec<String> = sqlx::query_scalar(
            "select nspname::text from pg_namespace where nspname = any($1) and pg_has_role(nspowner, 'usage')",
        )
        .bind(&own.schemas)
        .fetch_all(&mut *transaction)
        .await
        .map_err(classify)?;
        for schema in made {
            run(transaction, format!("drop schema {}", quote(&schema))).await?;
        }
        Ok(())
    }

    async fn limit_lock_waits(transaction: &mut PgConnection, time: Duration) -> Result<(), StoreError> {
        sqlx::query("select set_config('lock_timeout', $1, true)")
            .bind(time.as_millis().max(1).to_string())
            .execute(transaction)
            .await
            .map(drop)
            .map_err(classify)
    }

    async fn with_lock_holder(&self, projection: &str, error: StoreError) -> StoreError {
        let Ok(mut session) = self.connection().await else { return error };
        let Ok(generations) = generations(&mut *session, projection).await else { return error };
        let views = generations.iter().flat_map(|status| &status.views).map(|set| &*set.schema);
        let tables = generations.iter().map(|status| &*status.generation.schema);
        let schemas: Vec<&str> = views.chain(tables).collect();
        lock_holder::named(&mut session, &schemas, error).await
    }
}

/// Takes the lock of the host that carries out a projection's deployments. `false`: another host has it.
async fn is_alone(session: &mut PgConnection, projection: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar("select pg_try_advisory_lock($1, hashtext($2))")
        .bind(DEPLOY_CLASS)
        .bind(projection)
        .fetch_one(session)
        .await
        .map_err(classify)
}
