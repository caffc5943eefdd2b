//! Readers' views.

use std::time::Instant;

use projector_core::refusal::Refusal;
use projector_core::views::{View, ViewSet};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::additions::READERS_WAIT_MS;
use super::errors::classify;
use super::{foreign, lock_holder, tables};
use crate::error::StoreError;
use crate::host_tables::LaidTables;
use crate::names::quote;

/// The lock timeout for the last of many views is at least this, even if the others have used up [`READERS_WAIT_MS`].
const LEAST_WAIT_MS: u32 = 100;

/// Creates a view in the schema `readers`.
pub(super) async fn create_view(
    transaction: &mut PgConnection,
    readers: &str,
    view: &View,
    LaidTables { layout, schema }: LaidTables<'_>,
    options: &[String],
) -> Result<(), StoreError> {
    let Some(table) = layout.table(&view.table) else { return Ok(()) };
    run(transaction, tables::view("create view", view, (table, schema), readers, options)).await
}

/// Replaces views, so that they show these tables. Their grants, comments, options and dependent objects stay. A view that
/// a person dropped is created again.
///
/// A reader of a view that is replaced already waits until the transaction ends. So the lock timeouts of all views
/// together are no longer than readers may be made to wait.
pub(super) async fn replace_views(
    transaction: &mut PgConnection,
    sets: &[ViewSet],
    tables: LaidTables<'_>,
) -> Result<(), StoreError> {
    let schemas: Vec<&str> = sets.iter().map(|set| &*set.schema).collect();
    lock_holder::none_in_the_way(transaction, &schemas).await?;
    let began = Instant::now();
    for set in sets {
        for view in &set.views {
            replace_view(transaction, &set.schema, view, (tables, began)).await?;
        }
    }
    Ok(())
}

async fn replace_view(
    transaction: &mut PgConnection,
    readers: &str,
    view: &View,
    (LaidTables { layout, schema }, began): (LaidTables<'_>, Instant),
) -> Result<(), StoreError> {
    let Some(table) = layout.table(&view.table) else { return Ok(()) };
    let known = foreign::known_view(transaction, readers, &view.table).await?.unwrap_or_default();
    if let (Some(owner), false) = (&known.owner, known.ours) {
        let view = tables::qualified(readers, &view.table);
        return Err(Refusal::ForeignView { view, owner: owner.clone() }.into());
    }
    let left = u128::from(READERS_WAIT_MS).saturating_sub(began.elapsed().as_millis());
    run(transaction, format!("set local lock_timeout = {}", left.max(u128::from(LEAST_WAIT_MS)))).await?;
    let replace = tables::view("create or replace view", view, (table, schema), readers, &known.options);
    run(transaction, replace).await?;
    // A view reads its table with the rights of the view's owner.
    if let Some(owner) = &known.owner {
        let (owner, from) = (quote(owner), tables::qualified(schema, &view.table));
        run(transaction, format!("grant usage on schema {} to {owner}", quote(schema))).await?;
        run(transaction, format!("grant select on {from} to {owner}")).await?;
    }
    Ok(())
}

/// Runs a statement on tables, views or schemas. A name that a foreign object has, and foreign objects that depend on
/// what is dropped, are refusals.
pub(super) async fn run(transaction: &mut PgConnection, statement: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(statement)).execute(transaction).await.map_err(|error| {
        match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some("42P06") => Refusal::ForeignHome { kind: "schema", database: error.to_string() }.into(),
            Some("2BP01") => Refusal::ForeignDependants { database: error.to_string() }.into(),
            _ => classify(error),
        }
    })?;
    Ok(())
}
