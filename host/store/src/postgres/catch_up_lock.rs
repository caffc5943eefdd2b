//! The locks of the generations that this host catches up alone: all in one session, whose end frees them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use projector_core::generation::Generation;
use sqlx::Connection;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::CATCH_UP_CLASS;
use super::errors::classify;
use super::sessions::{Session, Sessions};
use crate::StoreError;

/// How long the session may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The session, for as long as it holds a lock.
#[derive(Default)]
pub(super) struct Holder(Mutex<Weak<Mutex<Session>>>);

/// One generation's lock, freed when this is dropped.
pub struct CatchUpLock {
    session: Arc<Mutex<Session>>,
    generation: i32,
}

impl Holder {
    /// `None`: another host has it.
    pub(super) async fn lock(
        &self,
        sessions: &Arc<Sessions>,
        generation: &Generation,
    ) -> Result<Option<CatchUpLock>, StoreError> {
        let mut known = self.0.lock().await;
        let session = match known.upgrade() {
            Some(session) if answers(&session).await => session,
            _ => {
                let session = Arc::new(Mutex::new(sessions.own().await?));
                *known = Arc::downgrade(&session);
                session
            }
        };
        // A host has far fewer generations than an int4 has values.
        let generation = generation.id as i32;
        let ours: bool = sqlx::query_scalar("select pg_try_advisory_lock($1, $2)")
            .bind(CATCH_UP_CLASS)
            .bind(generation)
            .fetch_one(&mut **session.lock().await)
            .await
            .map_err(classify)?;
        // Made only if it is ours: it is freed when it is dropped.
        Ok(ours.then(|| CatchUpLock { session, generation }))
    }
}

async fn answers(session: &Mutex<Session>) -> bool {
    let mut session = session.lock().await;
    tokio::time::timeout(PATIENCE, session.ping()).await.is_ok_and(|answer| answer.is_ok())
}

impl CatchUpLock {
    /// Whether the session still is there: the database may have been restarted.
    pub(crate) async fn is_held(&self) -> bool {
        answers(&self.session).await
    }
}

impl Drop for CatchUpLock {
    fn drop(&mut self) {
        let (session, generation) = (self.session.clone(), self.generation);
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let mut session = session.lock().await;
            let freed = sqlx::query("select pg_advisory_unlock($1, $2)")
                .bind(CATCH_UP_CLASS)
                .bind(generation)
                .execute(&mut **session);
            // If that fails, the session is gone, and the lock with it.
            let _ = tokio::time::timeout(PATIENCE, freed).await;
        });
    }
}
