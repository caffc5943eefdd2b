//! The failure policy: what happens to an event that fails, and how many events may fail before the
//! projection stops. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;

use crate::failure::{Blocker, FailureKind};
use crate::outcome::Outcome;

/// What happens to an event whose failure the event itself or the plugin caused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The event becomes a dead letter, and later events of its key wait behind it, in order. An event
    /// without a key becomes a dead letter only.
    #[default]
    ParkKey,
    /// The event becomes a dead letter. All other events continue.
    DeadLetter,
    /// The projection stops before the event.
    Halt,
}

/// The settings in `[failures]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Failures {
    pub policy: Policy,
    /// The projection stops if this many events fail in a row.
    pub consecutive: usize,
    /// The projection also stops if this share of the last `window` events failed.
    pub ratio: f64,
    pub window: usize,
    /// Most stored dead letters. The projection stops when there would be more.
    pub dead_letters: i64,
    /// Most events that wait behind dead letters or for rows. The projection stops when there would be
    /// more.
    pub parked: i64,
    /// A dead letter behind which no event waits is discarded after this time, and its key is freed.
    /// `None`: never.
    #[serde(with = "humantime_serde")]
    pub retention: Option<Duration>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            consecutive: 100,
            ratio: 0.5,
            window: 1_000,
            dead_letters: 10_000,
            parked: 100_000,
            retention: None,
        }
    }
}

impl Failures {
    /// Checks the limits for the stored dead letters and waiting events together with those of a batch.
    pub fn check_room(&self, dead: i64, parked: i64) -> Result<(), Blocker> {
        let full = |what: &str, there: i64, most: i64| {
            Err(Blocker::new(
                FailureKind::Full,
                format!("there would be {there} {what}, and {most} are the most"),
            ))
        };
        match () {
            () if dead > self.dead_letters => full("dead letters", dead, self.dead_letters),
            () if parked > self.parked => full("parked events", parked, self.parked),
            () => Ok(()),
        }
    }
}

/// Detects a flood of failures. Events that are parked or wait do not count.
#[derive(Debug, Clone, Default)]
pub struct Flood {
    consecutive: usize,
    /// Whether each of the last events failed.
    recent: VecDeque<bool>,
    failed: usize,
}

impl Flood {
    /// How many of a batch's outcomes can be committed before there is a flood, and the state after them.
    pub fn admit(&self, settings: &Failures, outcomes: &[Outcome<'_>]) -> (usize, Flood) {
        let mut after = self.clone();
        for (at, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Outcome::Park(_) | Outcome::Wait { .. } => {}
                Outcome::Dead { .. } if after.is_one_short(settings) => return (at, after),
                Outcome::Dead { .. } => after.count(settings, true),
                Outcome::Apply(_) | Outcome::Ignore { .. } => after.count(settings, false),
            }
        }
        (outcomes.len(), after)
    }

    /// Whether one more failure would be a flood.
    fn is_one_short(&self, settings: &Failures) -> bool {
        let leaves = self.recent.len() >= settings.window && self.recent.front() == Some(&true);
        let failed = self.failed + 1 - usize::from(leaves);
        self.consecutive >= settings.consecutive || failed as f64 > settings.ratio * settings.window as f64
    }

    fn count(&mut self, settings: &Failures, failed: bool) {
        self.consecutive = if failed { self.consecutive + 1 } else { 0 };
        self.recent.push_back(failed);
        self.failed += usize::from(failed);
        while self.recent.len() > settings.window.max(1) {
            self.failed -= usize::from(self.recent.pop_front() == Some(true));
        }
    }

    /// Why the projection stops. `next`: the event that would make the flood, and its failure.
    pub fn blocker(&self, settings: &Failures, next: &str) -> Blocker {
        let reason = match self.consecutive >= settings.consecutive {
            true => format!("the last {} events failed, and so does the next one: {next}", self.consecutive),
            false => format!(
                "{} of the last {} events failed, and so does the next one: {next}",
                self.failed,
                self.recent.len()
            ),
        };
        Blocker::new(FailureKind::Flood, reason)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::event_failure::Failure;

    fn outcome(failed: bool) -> Outcome<'static> {
        match failed {
            true => {
                let failure = Cow::Owned(Failure::new(FailureKind::Rejected, "no", "no"));
                Outcome::Dead { failure, blocks: None }
            }
            false => Outcome::Apply(Cow::Borrowed(&[])),
        }
    }

    fn settings(consecutive: usize, ratio: f64, window: usize) -> Failures {
        Failures { consecutive, ratio, window, ..Failures::default() }
    }

    #[test]
    fn a_row_of_failures_is_a_flood() {
        let settings = settings(3, 1.0, 100);
        let row: Vec<_> = [true, true, true, true].map(outcome).into();
        let (admitted, after) = Flood::default().admit(&settings, &row);
        assert_eq!(admitted, 3);
        assert!(after.blocker(&settings, "t/0@3").reason.starts_with("the last 3 events failed"));
        let broken: Vec<_> = [true, true, false, true, true, true].map(outcome).into();
        assert_eq!(Flood::default().admit(&settings, &broken).0, 6);
    }

    #[test]
    fn events_that_wait_do_not_count() {
        let settings = settings(2, 1.0, 100);
        let parked = || Outcome::Park(crate::ordering::KeyId([0; 16]));
        let row = [outcome(true), parked(), outcome(true), parked(), outcome(true)];
        assert_eq!(Flood::default().admit(&settings, &row).0, 4);
    }

    proptest! {
        /// Of any window of admitted events, at most the share failed, and at most so many in a row, however
        /// the events were cut into batches.
        #[test]
        fn the_admitted_events_are_no_flood(
            events in prop::collection::vec(prop::bool::weighted(0.4), 0..300),
            batch in 1usize..40, consecutive in 1usize..8, window in 1usize..30, ratio in 0.1f64..1.0,
        ) {
            let settings = settings(consecutive, ratio, window);
            let (mut flood, mut through) = (Flood::default(), Vec::new());
            for batch in events.chunks(batch) {
                let outcomes: Vec<_> = batch.iter().copied().map(outcome).collect();
                let (admitted, after) = flood.admit(&settings, &outcomes);
                through.extend_from_slice(&batch[..admitted]);
                flood = after;
                if admitted < batch.len() {
                    prop_assert!(batch[admitted], "only a failure is not admitted");
                    break;
                }
            }
            let failed = |events: &[bool]| events.iter().filter(|failed| **failed).count();
            prop_assert!(through.windows(window).all(|events| failed(events) as f64 <= ratio * window as f64));
            prop_assert!(through.windows(consecutive + 1).all(|events| failed(events) <= consecutive));
        }
    }
}
