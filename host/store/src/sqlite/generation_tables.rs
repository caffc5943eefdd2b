//! The tables and views of generations: created, extended, shown and removed.
//!
//! All of this is a part of the transaction that activates a component: the file has one writer, and additions are quick.

use std::time::Duration;

use async_trait::async_trait;
use projector_core::failpoint;
use projector_core::layout::{Offered, Step};
use projector_core::refusal::Refusal;
use projector_core::rollout_target::RolloutTarget;
use projector_core::views::{View, ViewSet};
use projector_model::{Contract, names};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::errors::classify;
use super::foreign::{self, Others, Own};
use super::{Sqlite, tables};
use crate::error::StoreError;
use crate::foreign::{refuse_if_any, to_text};
use crate::host_tables::{GenerationTables, LaidTables, Removal};

/// What a removal removes, what else there is, and the removal's name for a person.
pub(crate) struct Checked {
    own: Own,
    others: Others,
    what: String,
}

#[async_trait]
impl GenerationTables for Sqlite {
    /// The file has one host.
    type Turn = ();
    type Checked = Checked;

    async fn take_turn(&self, _: &str) -> Result<Option<()>, StoreError> {
        Ok(Some(()))
    }

    async fn end_turn(_: ()) {}

    async fn add_before(
        &self,
        _: &mut (),
        _: i64,
        _: Offered<'_>,
    ) -> Result<Option<RolloutTarget>, StoreError> {
        Ok(None)
    }

    async fn add_within(
        transaction: &mut SqliteConnection,
        step: &Step,
        contract: &Contract,
        schema: &str,
    ) -> Result<(), StoreError> {
        for statement in tables::add(step, contract, schema) {
            run(transaction, statement).await?;
        }
        failpoint::reached(failpoint::AFTER_STEP, contract.name());
        Ok(())
    }

    async fn take_back(&self, _: i64, _: Offered<'_>) -> Result<(), StoreError> {
        // Additions were made in the transaction that failed.
        Ok(())
    }

    async fn create_tables(
        transaction: &mut SqliteConnection,
        contract: &Contract,
        schema: &str,
    ) -> Result<(), StoreError> {
        for statement in tables::create(contract, schema) {
            run(transaction, statement).await?;
        }
        Ok(())
    }

    /// SQLite's views have neither rights nor options.
    async fn create_views(
        transaction: &mut SqliteConnection,
        set: &ViewSet,
        tables: LaidTables<'_>,
        _: Option<&ViewSet>,
    ) -> Result<(), StoreError> {
        Self::add_views(transaction, &set.schema, &set.views, tables).await
    }

    async fn add_views(
        transaction: &mut SqliteConnection,
        schema: &str,
        views: &[View],
        tables: LaidTables<'_>,
    ) -> Result<(), StoreError> {
        for view in views {
            if let Some(table) = tables.layout.table(&view.table) {
                run(transaction, tables::view(view, (table, tables.schema), schema)).await?;
            }
        }
        Ok(())
    }

    /// The views keep their triggers.
    async fn replace_views(
        transaction: &mut SqliteConnection,
        sets: &[ViewSet],
        tables: LaidTables<'_>,
    ) -> Result<(), StoreError> {
        for set in sets {
            let readers = &*set.schema;
            for view in &set.views {
                let Some(table) = tables.layout.table(&view.table) else { continue };
                let triggers = foreign::triggers(transaction, &names::prefixed(readers, &view.table)).await?;
                let drop = format!("drop view if exists {}", tables::qualified(readers, &view.table));
                run(transaction, drop).await?;
                run(transaction, tables::view(view, (table, tables.schema), readers)).await?;
                for trigger in triggers {
                    run(transaction, trigger).await?;
                }
            }
        }
        Ok(())
    }

    async fn check_removal(
        transaction: &mut SqliteConnection,
        removal: Removal<'_>,
    ) -> Result<Checked, StoreError> {
        let (own, what) = match removal {
            Removal::Generation(status) => (Own::of(status), to_text(&status.generation)),
            Removal::Views(set) => {
                (Own::views(std::slice::from_ref(set)), format!("the views with the prefix {}", set.schema))
            }
        };
        let others = Others::look(transaction, &own).await?;
        refuse_if_any(&what, others.lost())?;
        Ok(Checked { own, others, what })
    }

    async fn remove(transaction: &mut SqliteConnection, checked: Checked) -> Result<(), StoreError> {
        let Checked { own, others, what } = checked;
        for statement in own.removal() {
            run(transaction, statement).await?;
        }
        Ok(refuse_if_any(&what, &others.broken(transaction, &own).await)?)
    }

    /// Only one transaction writes at a time, so none waits for a lock on a table.
    async fn limit_lock_waits(_: &mut SqliteConnection, _: Duration) -> Result<(), StoreError> {
        Ok(())
    }

    async fn with_lock_holder(&self, _: &str, error: StoreError) -> StoreError {
        error
    }
}

/// Runs a statement on tables or views. A name that a foreign object has is a refusal.
async fn run(transaction: &mut SqliteConnection, statement: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(statement)).execute(transaction).await.map_err(|error| {
        let text = error.to_string();
        match text.contains("already exists") || text.contains("use DROP TABLE") {
            true => Refusal::ForeignHome { kind: "table", database: text }.into(),
            false => classify(error),
        }
    })?;
    Ok(())
}
