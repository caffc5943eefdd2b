//! What a lane does when its generation is caught up.
//!
//! A generation that catches up may be limited to one lane on one host. When it is caught up, the lane stops merging its
//! partitions by time, and the run may end so that a new run has more lanes.

use std::sync::Arc;

use projector_core::generation::Role;

use super::Run;
use crate::catch_up::CatchUpState;
use crate::retry::RunEnd;

pub(super) struct CatchUpProgress {
    /// Shared by the lanes. `None`: the generation is caught up.
    pub(super) state: Option<Arc<CatchUpState>>,
    /// The generation is caught up, and the source was informed
    /// ([`near_the_end`](projector_kafka::Source::near_the_end)).
    is_near_the_end: bool,
    /// Whether a new run would have more lanes.
    more_lanes: bool,
}

impl CatchUpProgress {
    pub(super) fn new(state: Option<Arc<CatchUpState>>, more_lanes: bool) -> Self {
        Self { state, is_near_the_end: false, more_lanes }
    }

    /// Waits until the generation is caught up. Never ends if it is caught up already.
    pub(super) async fn caught_up(&self) {
        match self.state.as_deref() {
            Some(state) if !state.is_caught_up() => state.caught_up().await,
            _ => std::future::pending().await,
        }
    }
}

impl Run {
    /// Informs the source when the generation is caught up. When all hosts may share the generation, the lane merges as
    /// a live one does, and the run ends if a new run has more lanes.
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
