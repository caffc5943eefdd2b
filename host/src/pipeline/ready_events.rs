//! Tries waiting events again when the rows that they wait for have come.
//!
//! This lane knows of rows that it wrote itself; of rows of other lanes, the control state tells. A try may find nothing
//! ready, and may be repeated.

use std::time::Duration;

use tokio::time::Instant;

use super::{BARRIER_INTERVAL, Run};
use crate::project::ProjectError;
use crate::retry::RunEnd;
use crate::settle::Released;

/// How old the control state may be.
const CONTROL_STATE_AGE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct ReadyEvents {
    /// When to try events that are ready. `None`: none is known to be ready.
    pub(super) at: Option<Instant>,
    /// When the last try found none: the control state may be older than that.
    none_at: Option<Instant>,
}

impl Run {
    /// Tries events that are ready: as many as fit into one transaction.
    pub(super) async fn release_ready(&mut self, any_ready: bool) -> Result<(), RunEnd> {
        if !self.intake.barrier.is_open() {
            // A comparison or promotion is under way: nothing is written.
            self.ready.at = self.ready.at.map(|_| Instant::now() + BARRIER_INTERVAL);
            return Ok(());
        }
        if any_ready && self.ready.at.is_none() {
            let said = self.ready.none_at.map(|at| at + CONTROL_STATE_AGE);
            self.ready.at = Some(said.unwrap_or_else(Instant::now));
        }
        if self.ready.at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        match self.settler.release_ready(self.intake.limits).await {
            Ok(Released::More) => self.ready.at = Some(Instant::now()),
            Ok(Released::Done) => (self.ready.at, self.ready.none_at) = (None, Some(Instant::now())),
            Err(ProjectError::Blocker(trouble)) => return Err(RunEnd::Stop(trouble)),
            Err(ProjectError::Store(error)) => {
                let what = "waiting events could not be tried again";
                self.ready.at = Some(Instant::now() + self.pause_after(what, error).await?);
            }
            // A release handles timeouts itself, and only batches of the log are part of a version's trial. Should
            // one of these come up, try again later.
            Err(ProjectError::Timeout(_) | ProjectError::OnTrial(_)) => {
                self.ready.at = Some(Instant::now() + CONTROL_STATE_AGE);
            }
        }
        Ok(())
    }
}
