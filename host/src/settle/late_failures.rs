//! Failures of stored events that show only when the events are tried: written, called, or read from the log.
//!
//! The next try uses what was learned: an event at fault fails without a call, or fewer events are tried.

use std::collections::HashMap;

use projector_core::batch::Delivery;
use projector_core::event::Position;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_store::StoreError;

use super::{Isolate, Slow, isolate};
use crate::project::ProjectError;

/// Stored events that are known to fail.
#[derive(Default)]
pub(super) struct LateFailures {
    pub(super) of: HashMap<Position, Failure>,
    slow: Slow,
}

impl LateFailures {
    /// Learns from a failed try: which event is at fault, or how many events to try next. Returns an error that no
    /// event has caused.
    pub(super) fn learn(
        &mut self,
        error: ProjectError,
        events: &[Position],
        next: &mut usize,
    ) -> Result<(), StoreError> {
        match error {
            ProjectError::Store(error) => {
                let isolated = match self.slow.isolate(&error, events.len()) {
                    // The event has failed already, so only rows of the host are written: the event is not to blame.
                    Some(Isolate::First(_)) if self.of.contains_key(&events[0]) => return Err(error),
                    Some(isolated) => isolated,
                    None => isolate(error, events.len())?,
                };
                match isolated {
                    // The event has failed already and writes no rows, and yet the store rejects it: a retry would change
                    // nothing.
                    Isolate::First(failure) if self.of.contains_key(&events[0]) => {
                        return Err(StoreError::Unusable(failure.to_string()));
                    }
                    Isolate::First(failure) => drop(self.of.insert(events[0].clone(), failure)),
                    Isolate::Cut(events) => *next = events.max(1),
                }
            }
            ProjectError::Timeout(position) => {
                let reason = "it ran longer than one event may";
                self.of.insert(position, Failure::new(FailureKind::Timeout, "time", reason));
            }
            ProjectError::Blocker(trouble) => return Err(StoreError::Unusable(trouble.reason)),
            // Not expected: only batches of the log are part of a version's trial.
            ProjectError::OnTrial(failure) => return Err(StoreError::Unusable(failure.to_string())),
        }
        Ok(())
    }
}

/// Why a try failed, and which events were in it.
pub(super) struct Failed {
    pub(super) error: ProjectError,
    pub(super) events: Vec<Position>,
}

impl Failed {
    pub(super) fn of(error: ProjectError, events: &[Delivery]) -> Self {
        Self { error, events: events.iter().map(|delivery| delivery.event.position.clone()).collect() }
    }
}

impl From<ProjectError> for Failed {
    fn from(error: ProjectError) -> Self {
        Self { error, events: Vec::new() }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        ProjectError::from(error).into()
    }
}
