//! Who holds the lock that one of the host's transactions waited for in vain.

use sqlx::postgres::PgConnection;

use super::ADVISORY_CLASS;
use crate::store::{Generation, LockHolder};

/// Asked when the wait is over, on another connection, since the transaction that waited is lost. So
/// it looks for whoever could have been in its way: a session that holds a lock on what a generation
/// writes, and whose transaction is older than any wait. Of several the strongest lock comes first,
/// then the oldest transaction. Its name and its statement are shown to members of
/// `pg_read_all_stats`.
const HOLDER: &str = "
    select a.pid, coalesce(a.application_name, ''), left(coalesce(a.query, ''), 500),
      extract(epoch from now() - a.xact_start)::float8
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.granted and l.database = (select oid from pg_database where datname = current_database())
      and a.pid <> pg_backend_pid()
      and coalesce(a.xact_start <= now() - current_setting('lock_timeout')::interval, true)
      and (l.locktype = 'advisory' and l.classid = $1::int4::oid and l.objid = $2::int4::oid and l.objsubid = 2
        or l.locktype = 'relation' and l.mode <> 'AccessShareLock' and l.relation in (
          select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname in ('projector', $3)))
    order by l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') desc,
      a.xact_start
    limit 1";

/// `None` as well when it is gone meanwhile, or cannot be asked for.
pub(super) async fn find(connection: &mut PgConnection, generation: &Generation) -> Option<LockHolder> {
    let asked = sqlx::query_as(HOLDER)
        .bind(ADVISORY_CLASS)
        .bind(generation.id as i32)
        .bind(&generation.schema)
        .fetch_optional(connection)
        .await;
    let (session, application, query, seconds) = asked.inspect_err(unanswered).ok()??;
    Some(LockHolder { session, application, query, seconds })
}

fn unanswered(error: &sqlx::Error) {
    tracing::warn!(%error, "who holds the lock could not be asked");
}
