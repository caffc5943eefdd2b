//! Tries waiting events again when the rows that they wait for were written.
//!
//! A lane knows when it has written such a row itself. For rows that other lanes write, the control state has a flag. A
//! call may find nothing ready, and may be repeated.

use std::time::Duration;

use tokio::time::Instant;

use super::{BARRIER_INTERVAL, Run};
use crate::project::ProjectError;
use crate::retry::RunEnd;
use crate::settle::Released;

/// The control state in memory may be this old.
const CONTROL_STATE_AGE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct ReadyEvents {
    /// When to try events that are ready. `None`: no event is known to be ready.
    pub(super) at: Option<Instant>,
    /// When the last call found none. The flag in the control state may be older than this.
    none_at: Option<Instant>,
}

impl Run {
    /// Tries events that are ready: as many as fit into one transaction. `any_ready`: the flag of the control state.
    pub(super) async fn release_ready(&mut self, any_ready: bool) -> Result<(), RunEnd> {
        if !self.intake.barrier.is_open() {
            // Generations are being compared or switched, so nothing may be written now: try again when the barrier may
            // be open.
            self.ready.at = self.ready.at.map(|_| Instant::now() + BARRIER_INTERVAL);
            return Ok(());
        }
        if any_ready && self.ready.at.is_none() {
            // Right after a call that found none, the flag may still be set from before. Wait until it must be newer.
            let flag_is_new = self.ready.none_at.map(|at| at + CONTROL_STATE_AGE);
            self.ready.at = Some(flag_is_new.unwrap_or_else(Instant::now));
        }
        if self.ready.at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        match self.settler.release_ready(self.intake.limits).await {
            Ok(Released::More) => self.ready.at = Some(Instant::now()),
            Ok(Released::Done) => (self.ready.at, self.ready.none_at) = (None, Some(Instant::now())),
            Err(ProjectError::Blocker(blocker)) => return Err(RunEnd::Stop(blocker)),
            Err(ProjectError::Store(error)) => {
                let what = "waiting events could not be tried again";
                self.ready.at = Some(Instant::now() + self.pause_after(what, error).await?);
            }
            // Not expected: `release_ready` handles timeouts itself, and only new events of the log are part of a
            // version's trial. If one of these is returned, try again later.
            Err(ProjectError::Timeout(_) | ProjectError::OnTrial(_)) => {
                self.ready.at = Some(Instant::now() + CONTROL_STATE_AGE);
            }
        }
        Ok(())
    }
}
