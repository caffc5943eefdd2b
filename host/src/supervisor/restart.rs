//! Restarts the tasks of the host that panic.

use std::sync::Arc;
use std::time::Duration;

use projector_core::failure::{FailureKind, panic_text};
use tokio::task::{JoinError, JoinHandle};

use super::Host;
use crate::retry::Backoff;

/// After so long without a failure, a task or a run is healthy, and earlier failures no longer count.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(10);

impl Host {
    /// Runs a task to its end. A task that panics is reported as a blocker, and restarted after a backoff, as
    /// often as it panics.
    pub(super) async fn restart_on_panic<F>(self: Arc<Self>, what: &'static str, mut begin: impl FnMut() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = Backoff::new("", &self.retries);
        loop {
            let mut task = AbortOnDrop(tokio::spawn(begin()));
            let Err(error) = task.outlast(&mut backoff).await else { return };
            if self.stop.is_cancelled() {
                return;
            }
            backoff.failed(FailureKind::Crash, &format!("{what} panicked: {}", crash_text(error)));
            backoff.wait(&self.stop).await;
        }
    }
}

/// Aborts the task when its owner is dropped.
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl AbortOnDrop {
    /// Waits for the task's end. Once the task is healthy, the backoff of its predecessor is reset.
    pub(super) async fn outlast(&mut self, backoff: &mut Backoff) -> Result<(), JoinError> {
        tokio::select! {
            ended = &mut self.0 => return ended,
            () = tokio::time::sleep(HEALTHY_AFTER) => backoff.succeeded(),
        }
        (&mut self.0).await
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The message of a task's panic.
pub(super) fn crash_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic_text(&*panic),
        Err(error) => error.to_string(),
    }
}
