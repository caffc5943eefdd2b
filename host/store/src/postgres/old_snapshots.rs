//! Readers whose snapshot is older than the rows of a generation that is to be promoted.
//!
//! Why: Postgres uses the current definition of a view, and the rows as they were at the reader's snapshot. A transaction
//! that keeps one snapshot (repeatable read, serializable) and reads a view after a promotion sees the new generation as it
//! was at the snapshot. If the snapshot is older than the end of the build, that is fewer rows than before, or none. A
//! younger snapshot sees the complete generation. A transaction that has read a view before the promotion has a lock on it,
//! and `lock_holder` finds that transaction.
//!
//! Readers of a standby server are not in `pg_stat_activity`, so their snapshots are unknown.

use projector_core::failure::FailureKind;
use projector_core::generation::Generation;
use sqlx::postgres::PgConnection;

use super::errors::classify;
use crate::error::StoreError;
use crate::fault::Outage;

/// Sessions that have a snapshot from before the generation `$1` came to the end of its topics, the oldest transactions first.
///
/// Two conditions must hold: the transaction began before that, and its snapshot reaches back (`backend_xmin`) before that.
/// The first alone is not enough, since an old transaction may have taken its snapshot a moment ago; nor is the second,
/// since a long transaction of another session makes every snapshot reach far back. The start of another role's
/// transaction is shown only to members of `pg_read_all_stats`; where it is unknown, the second condition decides.
const OLD: &str = "
    select a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), left(coalesce(a.query, ''), 200),
      extract(epoch from clock_timestamp() - a.xact_start)::float8
    from projector.generation g, pg_stat_activity a
    where g.id = $1 and a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_xmin is not null
      and coalesce(a.backend_type, '') not in ('autovacuum worker', 'parallel worker', 'walsender')
      and coalesce(a.xact_start < g.caught_up_at, true)
      and coalesce(pg_snapshot_xmax(pg_current_snapshot())::text::int8 - age(a.backend_xmin)
        <= g.caught_up_in::text::int8, true)
    order by a.xact_start";

/// How many sessions the error names.
const NAMED: usize = 5;

/// Its number, application and role, its last statement, and for how many seconds its transaction has been open.
type Session = (i32, String, String, String, Option<f64>);

/// An error that names the sessions with a snapshot that is too old.
pub(super) async fn none_is_left(
    connection: &mut PgConnection,
    generation: &Generation,
) -> Result<(), StoreError> {
    let found: Vec<Session> =
        sqlx::query_as(OLD).bind(generation.id).fetch_all(connection).await.map_err(classify)?;
    if found.is_empty() {
        return Ok(());
    }
    let mut sessions: Vec<String> = found.iter().take(NAMED).map(to_text).collect();
    if let Some(more @ 1..) = found.len().checked_sub(NAMED) {
        sessions.push(format!("{more} more"));
    }
    let Generation { projection, number, .. } = generation;
    let message = format!(
        "transactions are open whose snapshot is from before generation {number} of {projection} was complete, and in its views they would see fewer rows, or none: {}. Wait until they end, end a session with `select pg_terminate_backend(NUMBER)`, or switch all the same: `projector promote {projection} --generation {number} --ignore-old-snapshots --reason \"…\"`",
        sessions.join("; ")
    );
    Err(StoreError::Unavailable(Outage { kind: FailureKind::Locked, message }))
}

fn to_text((session, application, role, query, seconds): &Session) -> String {
    let age = seconds.map_or_else(
        || ", for a time that is shown to members of pg_read_all_stats".to_owned(),
        |seconds| format!(", open for {seconds:.0} s"),
    );
    format!("session {session} of the role {role} ({application:?}){age}; its last statement: {query}")
}
