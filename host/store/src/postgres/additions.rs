//! Additions to tables in use, each in a transaction of its own.
//!
//! Invariant: an addition can be made again after an attempt that was interrupted, and nothing that a person made is
//! replaced.

use projector_core::layout::{Offered, Step};
use projector_core::refusal::Refusal;
use projector_core::rollout_target::RolloutTarget;
use projector_model::Contract;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::errors::classify;
use super::tables::{self, Addition};
use super::{foreign, lock_holder};
use crate::error::StoreError;
use crate::host_tables::open_rollout;
use crate::names::quote;

/// The lock timeout for tables and views that readers use. Readers that come after such a wait began must wait behind it.
pub(super) const READERS_WAIT_MS: u32 = 1_000;

/// Makes an addition, unless it is there.
pub(super) async fn add(
    session: &mut PgConnection,
    step: &Step,
    contract: &Contract,
    schema: &str,
) -> Result<(), StoreError> {
    check_free(session, step, schema).await?;
    for Addition { sql, index } in tables::add(step, contract, schema) {
        match index {
            None => {
                lock_holder::none_in_the_way(session, &[schema]).await?;
                run(session, format!("set lock_timeout = {READERS_WAIT_MS}")).await?;
            }
            // An index that is built concurrently waits for open transactions, and no reader waits behind it.
            Some(index) => {
                run(session, "set lock_timeout = 0".into()).await?;
                run(session, "set statement_timeout = 0".into()).await?;
                drop_broken(session, &index).await?;
            }
        }
        run(session, sql).await?;
    }
    Ok(())
}

/// Drops an index whose build was interrupted, because its host died.
async fn drop_broken(session: &mut PgConnection, index: &str) -> Result<(), StoreError> {
    let is_broken: bool = sqlx::query_scalar(
        "select exists (select from pg_index where indexrelid = to_regclass($1) and not indisvalid)",
    )
    .bind(index)
    .fetch_one(&mut *session)
    .await
    .map_err(classify)?;
    match is_broken {
        true => run(session, format!("drop index concurrently if exists {index}")).await,
        false => Ok(()),
    }
}

/// Removes what a deployment that is still open added to tables in use. No layout has these additions, so no component
/// uses them.
pub(super) async fn take_back(
    session: &mut PgConnection,
    deployment: i64,
    offered: Offered<'_>,
) -> Result<(), StoreError> {
    let Some(rollout) = open_rollout(&mut *session, deployment, offered, "").await? else { return Ok(()) };
    let RolloutTarget::InPlace { generation, steps } = rollout.target else { return Ok(()) };
    let of_target = rollout.generations.iter().find(|status| status.generation.id == generation);
    let Some(status) = of_target else { return Ok(()) };
    let schema = &status.generation.schema;
    for step in steps.iter().rev() {
        // What a person made stays.
        if check_free(session, step, schema).await.is_err() {
            continue;
        }
        let lock_timeout = match step {
            // It waits for open transactions, and no reader waits behind it.
            Step::CreateIndex { .. } => 0,
            _ => READERS_WAIT_MS,
        };
        run(session, format!("set lock_timeout = {lock_timeout}")).await?;
        run(session, tables::take_back(step, schema)).await?;
    }
    Ok(())
}

/// Refuses an addition whose name a person's table or column has. What an interrupted deployment left may be replaced: a
/// table that the host made, or a column that has no value in any row.
async fn check_free(session: &mut PgConnection, step: &Step, schema: &str) -> Result<(), StoreError> {
    let taken = |what: String| StoreError::Refused(Refusal::ForeignName { what });
    match step {
        Step::CreateTable { table } => match foreign::is_own_table(session, schema, table).await? {
            Some(false) => Err(taken(format!("the table or view {schema}.{table}"))),
            Some(true) | None => Ok(()),
        },
        Step::AddColumn { table, column } => match has_values(session, schema, (table, column)).await? {
            true => Err(taken(format!("the column {column} of {schema}.{table}"))),
            false => Ok(()),
        },
        Step::CreateIndex { .. } => Ok(()),
    }
}

/// Whether a column exists and has a value in some row.
async fn has_values(
    session: &mut PgConnection,
    schema: &str,
    (table, column): (&str, &str),
) -> Result<bool, StoreError> {
    let exists: bool = sqlx::query_scalar(
        "select exists (select from pg_attribute where attrelid = to_regclass($1) and attname = $2 and not attisdropped)",
    )
    .bind(tables::qualified(schema, table))
    .bind(column)
    .fetch_one(&mut *session)
    .await
    .map_err(classify)?;
    if !exists {
        return Ok(false);
    }
    let sql = format!(
        "select exists (select from {} where {} is not null)",
        tables::qualified(schema, table),
        quote(column)
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(session).await.map_err(classify)
}

async fn run(session: &mut PgConnection, sql: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(sql)).execute(session).await.map(drop).map_err(classify)
}
