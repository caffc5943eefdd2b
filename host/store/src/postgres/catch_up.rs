//! Which host catches a generation up.
//!
//! The locks of all generations that this host catches up alone are in one session. The end of the session releases them,
//! so a host that dies keeps no lock.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use projector_core::generation::Generation;
use sqlx::Connection;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::Postgres;
use super::errors::classify;
use super::locks::CATCH_UP_CLASS;
use super::sessions::{Session, Sessions};
use crate::catch_up::{CatchUp, CatchUpLock, CatchUpProgress, CatchUpStore, CatchingUp};
use crate::error::StoreError;

/// How long the session may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[async_trait]
impl CatchUpStore for Postgres {
    async fn catch_up(&self, generation: &Generation, alone: bool) -> Result<CatchUp, StoreError> {
        let (caught_up, building, session, offsets, offsets_of_others): (bool, bool, Option<i32>, i64, i64) =
            sqlx::query_as(
                "select g.caught_up_at is not null, g.role = 'building',
                   (select l.pid from pg_locks l where l.locktype = 'advisory' and l.granted
                     and l.database = (select oid from pg_database where datname = current_database())
                     and l.classid = $2::int4::oid and l.objid = g.id::oid and l.objsubid = 2),
                   (select coalesce(sum(next_offset), 0)::int8 from projector.checkpoint c
                     where c.generation_id = g.id),
                   (select coalesce(sum(next_offset), 0)::int8 from projector.checkpoint c
                     join projector.generation other on other.id = c.generation_id
                     where other.projection = g.projection and other.id <> g.id)
                 from projector.generation g where g.id = $1",
            )
            .bind(generation.id)
            .bind(CATCH_UP_CLASS)
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(classify)?;
        if caught_up && !(alone && building) {
            return Ok(CatchUp::Done);
        }
        if !alone {
            return Ok(CatchUp::Ours(CatchingUp::beside_others()));
        }
        let progress = |session| CatchUpProgress { session, offsets, caught_up, offsets_of_others };
        if let Some(session) = session {
            return Ok(CatchUp::Theirs(progress(session)));
        }
        Ok(match self.catch_up_locks.lock(&self.sessions, generation).await? {
            Some(lock) => CatchUp::Ours(CatchingUp::alone(lock)),
            // Another host was quicker. The next call finds its session.
            None => CatchUp::Theirs(progress(0)),
        })
    }

    async fn set_caught_up(&self, generation: &Generation) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.generation set caught_up_at = now(), caught_up_in = pg_current_xact_id()
             where id = $1 and caught_up_at is null",
        )
        .bind(generation.id)
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn analyze(&self, generation: &Generation) -> Result<(), StoreError> {
        let mut session = self.connection().await?;
        let tables: Option<String> = sqlx::query_scalar(
            "select string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by n.nspname, c.relname)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where n.nspname in ('projector', $1) and c.relkind = 'r'",
        )
        .bind(&generation.schema)
        .fetch_one(&mut *session)
        .await
        .map_err(classify)?;
        let Some(tables) = tables else { return Ok(()) };
        let analyze = sqlx::AssertSqlSafe(format!("analyze {tables}"));
        sqlx::query(analyze).execute(&mut *session).await.map(drop).map_err(classify)
    }
}

/// The session of the locks, which is open while it has a lock.
#[derive(Default)]
pub(super) struct CatchUpLocks(Mutex<Weak<Mutex<Session>>>);

/// The lock of one generation. Dropped, it is released.
struct SessionLock {
    session: Arc<Mutex<Session>>,
    generation: i32,
}

impl CatchUpLocks {
    /// `None`: another host has the lock.
    async fn lock(
        &self,
        sessions: &Arc<Sessions>,
        generation: &Generation,
    ) -> Result<Option<SessionLock>, StoreError> {
        let mut known = self.0.lock().await;
        let session = match known.upgrade() {
            Some(session) if answers(&session).await => session,
            _ => {
                let session = Arc::new(Mutex::new(sessions.dedicated().await?));
                *known = Arc::downgrade(&session);
                session
            }
        };
        let generation = generation.id as i32;
        let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_lock($1, $2)")
            .bind(CATCH_UP_CLASS)
            .bind(generation)
            .fetch_one(&mut **session.lock().await)
            .await
            .map_err(classify)?;
        // Created only if the lock is ours, because dropping it releases the lock.
        Ok(is_ours.then(|| SessionLock { session, generation }))
    }
}

async fn answers(session: &Mutex<Session>) -> bool {
    let mut session = session.lock().await;
    tokio::time::timeout(PATIENCE, session.ping()).await.is_ok_and(|answer| answer.is_ok())
}

#[async_trait]
impl CatchUpLock for SessionLock {
    async fn is_held(&self) -> bool {
        answers(&self.session).await
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        let (session, generation) = (self.session.clone(), self.generation);
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let mut session = session.lock().await;
            let released = sqlx::query("select pg_advisory_unlock($1, $2)")
                .bind(CATCH_UP_CLASS)
                .bind(generation)
                .execute(&mut **session);
            // If that fails, the session is gone, and the lock with it.
            let _ = tokio::time::timeout(PATIENCE, released).await;
        });
    }
}
