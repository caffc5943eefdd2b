//! The host's advisory locks. Each has two numbers: a class, which is one of these constants, and what is locked.
//!
//! A generation's id is locked as an `int4`: a host has far fewer generations than an `int4` has values.

use sqlx::postgres::PgConnection;

use super::errors::classify;
use crate::error::StoreError;

/// Two kinds of locks have this class. Of a generation's id: its only writer, where the contract needs one writer. Of the
/// hash of a projection's name: the transaction that decides about this name. The number is "PRJ" in ASCII.
pub(super) const ADVISORY_CLASS: i32 = 0x0050_524a;

/// Of a generation's id: the host that catches it up alone.
pub(super) const CATCH_UP_CLASS: i32 = ADVISORY_CLASS + 1;

/// Of the hash of a projection's name: the host that carries out its deployments.
pub(super) const DEPLOY_CLASS: i32 = ADVISORY_CLASS + 2;

/// Of a generation's id, the fence: batches share it, and a transaction that changes the generation has it alone.
pub(super) const FENCE_CLASS: i32 = ADVISORY_CLASS + 3;

/// Of a generation's id, the lock on its rows: transactions that lock rows in one order share it, and a transaction that
/// cannot lock them in this order has it alone.
pub(super) const ROWS_CLASS: i32 = ADVISORY_CLASS + 4;

/// Waits for the batches in flight of these generations, and keeps others from beginning until the end of the transaction.
///
/// Why an advisory lock: a transaction that waits for a row lock alone is overtaken, without end, by those that share it.
/// Advisory locks are granted in the order of the requests. They are taken in the order of the ids, to avoid deadlocks.
pub(super) async fn fence(connection: &mut PgConnection, generations: &[i64]) -> Result<(), StoreError> {
    sqlx::query(
        "select pg_advisory_xact_lock($1, id::int4) from (select unnest($2::int8[]) as id order by 1) as ordered",
    )
    .bind(FENCE_CLASS)
    .bind(generations)
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    Ok(())
}
