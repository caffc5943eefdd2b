//! The end of a generation's catch-up.
//!
//! A generation that catches up may have one lane on one host only. When it is caught up, the lane stops merging its
//! partitions by time, and the run may end so that a new one has more lanes.

use std::sync::Arc;

use projector_core::generation::Role;

use super::Run;
use crate::catch_up::CatchUpState;
use crate::retry::RunEnd;

pub(super) struct CatchUpProgress {
    /// Shared by the lanes. `None`: the generation is caught up.
    pub(super) state: Option<Arc<CatchUpState>>,
    /// The generation is caught up, and the source was told so.
    is_near_the_end: bool,
    /// Whether a new run would have more lanes.
    more_lanes: bool,
}

impl CatchUpProgress {
    pub(super) fn new(state: Option<Arc<CatchUpState>>, more_lanes: bool) -> Self {
        Self { state, is_near_the_end: false, more_lanes }
    }

    /// Waits until the generation is caught up. Never ends if it is already.
    pub(super) async fn caught_up(&self) {
        match self.state.as_deref() {
            Some(state) if !state.is_caught_up() => state.caught_up().await,
            _ => std::future::pending().await,
        }
    }
}

impl Run {
    /// Once the generation is caught up and no longer being built, other hosts may run it, and it may have more lanes.
    pub(super) fn check_caught_up(&mut self, role: Role) -> Result<(), RunEnd> {
        match &self.catch_up.state {
            Some(state) if state.is_over(role) => self.catch_up.state = None,
            Some(state) if state.is_caught_up() && !self.catch_up.is_near_the_end => {
                self.catch_up.is_near_the_end = true;
                self.intake.source.near_the_end();
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.intake.source.caught_up();
        if self.catch_up.more_lanes { Err(RunEnd::CaughtUp) } else { Ok(()) }
    }
}
