//! Restarts the tasks of the host that panic.

use std::sync::Arc;
use std::time::Duration;

use projector_core::failure::{FailureKind, panic_text};
use tokio::task::{JoinError, JoinHandle};

use super::Host;
use crate::retry::Backoff;

/// A task or a run that has not failed for this time is healthy: the backoff of earlier failures is reset.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(10);

impl Host {
    /// Runs a task to its end. If it panics, this is reported for `/v1/retrying` and in the log, and the task is
    /// restarted after a backoff, without a limit.
    pub(super) async fn restart_on_panic<F>(self: Arc<Self>, what: &'static str, mut begin: impl FnMut() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = Backoff::new("", &self.retries);
        loop {
            let mut task = AbortOnDrop(tokio::spawn(begin()));
            let Err(error) = task.wait_for_end(&mut backoff).await else { return };
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
    /// Waits for the task's end. When the task is healthy, the backoff of the failed tasks before it is reset.
    pub(super) async fn wait_for_end(&mut self, backoff: &mut Backoff) -> Result<(), JoinError> {
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
