//! Readers whose snapshot is older than the rows of a generation that is to be shown to them.
//!
//! Postgres reads the definition of a view as it is now, and its rows as they were at the reader's snapshot. So a
//! transaction that keeps one snapshot (repeatable read, serializable) and reads a view after a switch would see the
//! new generation as it was at the snapshot: with fewer rows than the one before, or none, where the snapshot is older
//! than the end of the build. A snapshot that is younger sees a complete generation. A transaction that has read a view
//! already has a lock on it: `lock_holder` finds that one.
//!
//! Readers of a standby server are not in `pg_stat_activity`: nothing is known of their snapshots.

use projector_core::failure::FailureKind;
use projector_core::generation::Generation;
use sqlx::postgres::PgConnection;

use super::errors::classify;
use crate::error::StoreError;
use crate::fault::Outage;

/// Sessions that have a snapshot (`backend_xmin`) from before the generation `$1` came to the end of its topics: the
/// oldest transactions first. The start of another role's transaction is shown to members of `pg_read_all_stats` only;
/// where it is not known, the transaction that the snapshot reaches back to decides alone. Otherwise both do: another
/// transaction that writes for long makes every snapshot reach far back, and a transaction that is old may have taken
/// its snapshot just now.
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

/// So many sessions are named.
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
