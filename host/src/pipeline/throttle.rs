//! Rests after batches, so that other projections get their share of the machine.

use std::time::Duration;

use projector_core::failure::FailureKind;
use tokio::time::Instant;

use super::{InFlightBatch, Run};
use crate::project::FirstAnswers;

/// The longest rest after one batch.
const LONGEST_REST: Duration = Duration::from_secs(10);

pub(super) struct Throttle {
    /// The share of the time in which a generation is built beside the live one.
    rebuild_share: f64,
    /// The generation is being built beside the live one.
    pub(super) beside_live: bool,
}

impl Throttle {
    pub(super) fn new(rebuild_share: f64) -> Self {
        Self { rebuild_share, beside_live: false }
    }
}

impl Run {
    /// Rests after a batch in which the plugin exceeded its limits: such a projection gets a quarter of a core at most.
    /// Also rests while a generation catches up beside the live one, so that it only takes its share.
    pub(super) async fn yield_to_neighbours(&mut self, batch: &InFlightBatch, took: Duration) {
        let is_behind = self.catch_up.state.as_ref().is_some_and(|state| !state.is_caught_up());
        if self.throttle.beside_live && is_behind && self.throttle.rebuild_share < 1.0 {
            self.rest(took.mul_f64(1.0 / self.throttle.rebuild_share.max(0.01) - 1.0)).await;
        }
        let broke_limits = |answers: &FirstAnswers| {
            answers.failure().is_some_and(|failure| failure.kind == FailureKind::Limit)
        };
        if batch.answers.iter().flatten().any(broke_limits) {
            self.rest(3 * batch.asked).await;
        }
    }

    async fn rest(&mut self, wanted: Duration) {
        let began = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(wanted.min(LONGEST_REST)) => {}
            () = self.stop.cancelled() => {}
        }
        self.tally.rested += began.elapsed();
    }
}
