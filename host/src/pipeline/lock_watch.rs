//! Shows in the log and in `projector status` why a batch cannot be committed: the session that holds a lock, or another
//! blocker.
//!
//! Nothing here ends the run: the batch is retried all the time.

use projector_core::failure::{Blocker, FailureKind};
use projector_store::{LockHolder, StoreError, WriteTarget};

use super::Run;
use crate::settle::Settler;

/// After this many lock timeouts in a row, `projector status` shows the session that holds the lock.
const LOCK_TIMEOUTS: u32 = 3;

#[derive(Default)]
pub(super) struct LockWatch {
    /// Lock timeouts in a row.
    timeouts: u32,
    /// Whether the stored blocker of the generation comes from this lane.
    blocker_shown: bool,
}

impl Run {
    /// After a lock timeout: logs the session that holds the lock. After [`LOCK_TIMEOUTS`] in a row, also stores it for
    /// `projector status`. Does nothing after another error.
    pub(super) async fn report_lock_holder(&mut self, error: &StoreError) {
        if error.kind() != FailureKind::Locked {
            return;
        }
        self.lock_watch.timeouts += 1;
        let Settler { store, deployment: WriteTarget { generation, .. }, .. } = &self.settler;
        let held = match store.lock_holder(generation).await {
            None => "a lock is held by a session that could not be identified".to_owned(),
            Some(LockHolder { session, application, query, seconds }) => {
                let projection = &generation.projection;
                let what = "another session holds the lock";
                let transaction_ms = (seconds * 1_000.0) as u64;
                tracing::warn!(projection, session, application, query, transaction_ms, "{what}");
                format!("{what}: {session} ({application:?}), in a transaction of {seconds:.0} s: {query}")
            }
        };
        if self.lock_watch.timeouts >= LOCK_TIMEOUTS {
            self.show_blocker(Blocker::new(FailureKind::Locked, held)).await;
        }
    }

    /// Counts a deadlock for `projector status`. Does nothing after another error.
    pub(super) async fn count_deadlock(&self, error: &StoreError) {
        if error.kind() != FailureKind::Deadlock {
            return;
        }
        let Settler { store, deployment, .. } = &self.settler;
        if let Err(error) = store.count_deadlock(&deployment.generation).await {
            self.backoff.warn("a deadlock could not be counted", &error);
        }
    }

    /// Stores a blocker for `projector status`, until a batch is committed.
    pub(super) async fn show_blocker(&mut self, blocker: Blocker) {
        self.lock_watch.blocker_shown = true;
        let Settler { store, deployment, .. } = &self.settler;
        if let Err(error) = store.set_blocked(&deployment.generation, Some(&blocker)).await {
            self.backoff
                .warn("the blocker could not be stored, so `projector status` does not show it", &error);
        }
    }

    /// Call when the store works: resets the backoff, and removes the stored blocker of this lane.
    pub(super) async fn available_again(&mut self) {
        self.backoff.succeeded();
        self.lock_watch.timeouts = 0;
        if std::mem::take(&mut self.lock_watch.blocker_shown) {
            let Settler { store, deployment, .. } = &self.settler;
            if let Err(error) = store.set_blocked(&deployment.generation, None).await {
                self.backoff.warn("`projector status` still shows a blocker that is over", &error);
            }
        }
    }
}
