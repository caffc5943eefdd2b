//! Which session has a lock that one of the host's transactions needs.
//!
//! Why: a transaction that waits for a lock on tables or views makes readers wait behind it. So before the host locks them,
//! it asks whether an old transaction has a lock, which makes no reader wait. And an error about a lock names the session
//! that has the lock.

use projector_core::failure::FailureKind;
use projector_core::generation::Generation;
use sqlx::postgres::PgConnection;

use super::locks::{ADVISORY_CLASS, ROWS_CLASS};
use crate::batches::LockHolder;
use crate::error::StoreError;
use crate::fault::Outage;

/// Runs after the lock timeout, on another connection, because the transaction that waited has failed. At that time, its
/// wait is not visible any more. So this finds a session that could have been the cause: it has a lock on tables that the
/// generation's batches write, and its transaction is older than the lock timeout. Of several, the strongest lock comes
/// first, then the oldest transaction. The application and the statement are shown only to members of `pg_read_all_stats`.
const HOLDER: &str = "
    select a.pid, coalesce(a.application_name, ''), left(coalesce(a.query, ''), 500),
      extract(epoch from now() - a.xact_start)::float8
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.granted and l.database = (select oid from pg_database where datname = current_database())
      and a.pid <> pg_backend_pid()
      and coalesce(a.xact_start <= now() - current_setting('lock_timeout')::interval, true)
      and (l.locktype = 'advisory' and l.classid in ($1::int4::oid, $4::int4::oid) and l.objid = $2::int4::oid and l.objsubid = 2
        or l.locktype = 'relation' and l.mode <> 'AccessShareLock' and l.relation in (
          select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname in ('projector', $3)))
    order by l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') desc,
      a.xact_start
    limit 1";

/// `None`: the session is gone meanwhile, or the query failed.
pub(super) async fn find(connection: &mut PgConnection, generation: &Generation) -> Option<LockHolder> {
    let found = sqlx::query_as(HOLDER)
        .bind(ADVISORY_CLASS)
        .bind(generation.id as i32)
        .bind(&generation.schema)
        .bind(ROWS_CLASS)
        .fetch_optional(connection)
        .await;
    let (session, application, query, seconds) = found.inspect_err(unanswered).ok()??;
    Some(LockHolder { session, application, query, seconds })
}

/// The oldest transaction of another session that has a lock on a table or view in one of these schemas. `$2`: for how many
/// seconds the transaction must have been open. `$3`: whether a transaction counts whose age is unknown, because it is
/// shown only to members of `pg_read_all_stats`.
const IN_THE_WAY: &str = "
    select a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), left(coalesce(a.query, ''), 500),
      to_char(a.xact_start at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
    where l.locktype = 'relation' and l.granted
      and l.database = (select oid from pg_database where datname = current_database())
      and a.pid <> pg_backend_pid() and n.nspname = any($1)
      and coalesce(a.xact_start < clock_timestamp() - $2 * interval '1 second', $3)
    order by a.xact_start limit 1";

/// A transaction that has been open for longer than this is not expected to end in a moment.
const OLD_SECONDS: f64 = 1.0;

/// An error that names the session, if an old transaction has a lock on a table or view in these schemas.
pub(super) async fn none_in_the_way(
    connection: &mut PgConnection,
    schemas: &[&str],
) -> Result<(), StoreError> {
    match in_the_way(connection, schemas, (OLD_SECONDS, false)).await {
        Some(session) => Err(locked(session)),
        None => Ok(()),
    }
}

/// Adds the session that has the lock to an error about a lock, if the session can be found.
pub(super) async fn named(connection: &mut PgConnection, schemas: &[&str], error: StoreError) -> StoreError {
    if error.kind() != FailureKind::Locked {
        return error;
    }
    match in_the_way(connection, schemas, (0.0, true)).await {
        Some(session) => locked(session),
        None => error,
    }
}

fn locked(message: String) -> StoreError {
    StoreError::Unavailable(Outage { kind: FailureKind::Locked, message })
}

/// Its number, application and role, its last statement, and since when its transaction is open.
type Session = (i32, String, String, String, Option<String>);

async fn in_the_way(
    connection: &mut PgConnection,
    schemas: &[&str],
    (seconds, unknown): (f64, bool),
) -> Option<String> {
    let asked = sqlx::query_as(IN_THE_WAY).bind(schemas).bind(seconds).bind(unknown);
    let found: Result<Option<Session>, _> = asked.fetch_optional(connection).await;
    let (session, application, role, query, since) = found.inspect_err(unanswered).ok()??;
    let since = since.map_or(String::new(), |since| format!(", which began at {since}"));
    Some(format!(
        "session {session} of the role {role} ({application:?}) has a lock that is needed, in a transaction that is open{since}; its last statement: {query}; let its client end the transaction, or end the session with `select pg_terminate_backend({session})`"
    ))
}

fn unanswered(error: &sqlx::Error) {
    tracing::warn!(%error, "the session that holds the lock could not be found");
}
