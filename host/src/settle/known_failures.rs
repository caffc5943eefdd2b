//! What failed attempts at stored events have shown: which events fail, and how many events to try together.
//!
//! A failure may show only when an event is called, written, or read from the log again. The whole transaction is then
//! rolled back. The next attempt fails this event without calling the plugin, or takes fewer events.

use std::collections::HashMap;

use projector_core::batch::Delivery;
use projector_core::event::Position;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_store::StoreError;

use super::{Isolate, SlowTries, isolate};
use crate::project::ProjectError;

/// The stored events that are known to fail.
#[derive(Default)]
pub(super) struct KnownFailures {
    pub(super) by_position: HashMap<Position, Failure>,
    slow: SlowTries,
}

impl KnownFailures {
    /// Learns from a failed attempt at `events`: which event is the cause, or how many events to try next
    /// (`next_events`). An error that no event caused is returned.
    pub(super) fn learn(
        &mut self,
        error: ProjectError,
        events: &[Position],
        next_events: &mut usize,
    ) -> Result<(), StoreError> {
        match error {
            ProjectError::Store(error) => {
                let isolated = match self.slow.isolate(&error, events.len()) {
                    // The event is known to fail, so this attempt wrote only rows of the host's own tables. They are too
                    // slow because of the database, not because of the event: give up this attempt.
                    Some(Isolate::First(_)) if self.by_position.contains_key(&events[0]) => {
                        return Err(error);
                    }
                    Some(isolated) => isolated,
                    None => isolate(error, events.len())?,
                };
                match isolated {
                    // The event is known to fail, so it writes no rows of the plugin. If the database still rejects the
                    // transaction, another attempt would end in the same way: give up.
                    Isolate::First(failure) if self.by_position.contains_key(&events[0]) => {
                        return Err(StoreError::Unusable(failure.to_string()));
                    }
                    Isolate::First(failure) => drop(self.by_position.insert(events[0].clone(), failure)),
                    Isolate::Cut(events) => *next_events = events.max(1),
                }
            }
            ProjectError::Timeout(position) => {
                // A new event of the log that exceeds its time limit blocks the projection in the end. A stored event
                // does not: it fails at its first timeout, and is a dead letter that can be retried.
                let reason = "the call exceeded its time limit, `limits.time`";
                self.by_position.insert(position, Failure::new(FailureKind::Timeout, "time", reason));
            }
            ProjectError::Blocker(blocker) => return Err(StoreError::Unusable(blocker.reason)),
            // Not expected: only new events of the log are part of a version's trial.
            ProjectError::OnTrial(failure) => return Err(StoreError::Unusable(failure.to_string())),
        }
        Ok(())
    }
}

/// A failed attempt: the error, and the events that were in the attempt.
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
