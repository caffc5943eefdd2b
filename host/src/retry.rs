//! What follows a failure that is nobody's event: how long to wait, and when to stop.

use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{FailureKind, Trouble};

/// Why a projection's run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Halt {
    /// A new run, with a new consumer and the active component, may well go on.
    Restart(String),
    /// The generation has come to the end of its topics: a new run may have more lanes.
    CaughtUp,
    /// Only a person can help.
    Stop(Trouble),
    /// An operator said so, for this reason.
    Paused(String),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Halt::Restart(reason) | Halt::Paused(reason) => f.write_str(reason),
            Halt::Stop(trouble) => trouble.fmt(f),
            Halt::CaughtUp => f.write_str("caught up"),
        }
    }
}

/// Waits between attempts: from 50 ms, doubling, with jitter, to 10 s; for as long as it takes.
pub struct Backoff {
    delays: ExponentialBackoff,
    since: Instant,
    attempts: u64,
    complained: Option<Instant>,
}

/// One line about the same trouble in this time is enough.
const COMPLAINT: Duration = Duration::from_secs(30);

impl Default for Backoff {
    fn default() -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(10))
            .with_jitter()
            .without_max_times()
            .build();
        Self { delays, since: Instant::now(), attempts: 0, complained: None }
    }
}

impl Backoff {
    /// Waits for the next attempt, or until the stop.
    pub async fn wait(&mut self, stop: &CancellationToken) {
        let delay = self.delays.next().unwrap_or(Duration::from_secs(10));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Says that what was reported is over; nothing, if nothing was.
    pub fn report_end(&self, projection: &str) {
        if self.attempts == 0 {
            return;
        }
        let seconds = self.since.elapsed().as_secs_f64();
        tracing::info!(projection, attempts = self.attempts, seconds, "available again");
    }
}

/// Says that something outside does not answer: the first time, and now and then.
pub fn report_retry(projection: &str, kind: FailureKind, error: &dyn fmt::Display, backoff: &mut Backoff) {
    backoff.attempts += 1;
    if backoff.complained.is_none_or(|last| last.elapsed() > COMPLAINT) {
        backoff.complained = Some(Instant::now());
        let seconds = backoff.since.elapsed().as_secs_f64();
        let (attempts, advice) = (backoff.attempts, kind.advice());
        tracing::warn!(projection, %kind, %error, attempts, seconds, advice, "retrying; no event is lost");
    }
}
