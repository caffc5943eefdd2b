//! Rests after batches, so that other projections and the live generation get CPU time and the database.

use std::time::Duration;

use projector_core::failure::FailureKind;
use tokio::time::Instant;

use super::{InFlightBatch, Run};
use crate::project::FirstAnswers;

/// The longest rest after one batch.
const LONGEST_REST: Duration = Duration::from_secs(10);

pub(super) struct Throttle {
    /// A generation that is built beside the live one works for this share of the time, and rests for the other.
    rebuild_share: f64,
    /// Whether the generation is being built beside the live one.
    pub(super) beside_live: bool,
}

impl Throttle {
    pub(super) fn new(rebuild_share: f64) -> Self {
        Self { rebuild_share, beside_live: false }
    }
}

impl Run {
    /// Rests after a batch in which the plugin exceeded its limits, for three times as long as its calls took: so such
    /// a projection uses at most a quarter of a core. Also rests while a generation catches up beside the live one, so
    /// that it only takes its configured share.
    pub(super) async fn rest_after(&mut self, batch: &InFlightBatch, took: Duration) {
        let is_behind = self.catch_up.state.as_ref().is_some_and(|state| !state.is_caught_up());
        if self.throttle.beside_live && is_behind && self.throttle.rebuild_share < 1.0 {
            self.rest(took.mul_f64(1.0 / self.throttle.rebuild_share.max(0.01) - 1.0)).await;
        }
        let broke_limits = |answers: &FirstAnswers| {
            answers.failure().is_some_and(|failure| failure.kind == FailureKind::Limit)
        };
        if batch.answers.iter().flatten().any(broke_limits) {
            self.rest(3 * batch.plugin_time).await;
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
