//! Retries after infrastructure errors: errors that no event caused.
//!
//! A [`Backoff`] waits between the attempts of one task, each time longer, and never gives up by itself. [`Retries`]
//! lists what this host retries at the moment, for `/v1/retrying`. [`RecentCauses`] keeps the log short: a cause that
//! several tasks have, or that lasts, is not logged at every attempt. [`RunEnd`] is the reason why a run of a
//! projection ended; it decides whether a new run starts.
//!
//! Invariants: no retry moves an offset or blames an event. While an operation fails, it is listed in
//! [`Retries`], with its last cause and the advice for an operator.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use projector_core::failure::{Blocker, FailureKind, LASTING};
use projector_core::recent_causes::RecentCauses;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why a projection's run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Start a new run, with a new consumer and the active component.
    Restart(String),
    /// A lane or its poll thread panicked, with this message. Start a new run.
    Crashed(String),
    /// This host cannot use its partitions, perhaps for a reason that concerns only this host: the brokers or the
    /// database do not answer, or foreign members are in the consumer group. The host leaves the group, so that other
    /// hosts get its partitions, and joins again when the cause is gone.
    LeaveGroup(Blocker),
    /// Start a new run, because another version is active that this run cannot switch to, or because the
    /// generation no longer exists.
    Switch,
    /// The generation is caught up. Start a new run, which may have more lanes.
    CaughtUp,
    /// Do not start a new run: only a person can correct the cause.
    Stop(Blocker),
    /// An operator paused the projection, for this reason.
    Paused(String),
}

/// What this host retries at the moment. Kept in memory, since the failing operation may be a request to the database.
#[derive(Clone, Default)]
pub struct Retries(Arc<Mutex<Attempts>>);

#[derive(Default)]
struct Attempts {
    /// By the number of the backoff.
    open: BTreeMap<u64, Retrying>,
    last: u64,
    /// The causes that were logged recently, so that several lanes with the same problem log it once.
    logged: RecentCauses,
}

/// An operation that is retried until it succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retrying {
    /// Empty if the operation concerns a store.
    pub projection: String,
    /// The store's address, if the operation concerns a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    pub kind: FailureKind,
    /// The error of the last attempt.
    pub cause: String,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub since: i64,
    pub attempts: u64,
    pub advice: &'static str,
}

impl Retries {
    /// All retried operations, oldest first. A cause that several lanes of a projection have is listed
    /// once.
    pub fn all(&self) -> Vec<Retrying> {
        let mut all: Vec<Retrying> = self.lock().open.values().cloned().collect();
        all.sort_by_key(|retrying| retrying.since);
        let mut seen = HashSet::new();
        all.retain(|Retrying { projection, kind, cause, .. }| {
            seen.insert((projection.clone(), *kind, cause.clone()))
        });
        all
    }

    /// Logs a warning: something beside the commits of batches failed, and the host tries it again later. Each cause is
    /// logged once, and again after 5 minutes. `what`: what failed, as the beginning of the log line.
    pub fn warn(&self, projection: &str, what: &str, error: &dyn fmt::Display) {
        if self.is_new_cause(projection, &format!("{what}: {error}")) {
            tracing::warn!(projection, %error, "{what}; the host retries");
        }
    }

    /// Whether a cause was not logged recently. If so, it counts as logged from now on.
    fn is_new_cause(&self, projection: &str, cause: &str) -> bool {
        self.lock().logged.is_new(&logged_key(projection, cause))
    }

    fn forget(&self, projection: &str, cause: &str) {
        self.lock().logged.forget(&logged_key(projection, cause));
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits between attempts: from 50 ms, doubling, with jitter, up to 10 s. The number of attempts is not limited: the
/// caller decides when to give up.
pub struct Backoff {
    projection: String,
    store: Option<String>,
    retries: Retries,
    number: u64,
    /// The next delays. `None` until the first failure, and after a success.
    delays: Option<ExponentialBackoff>,
    attempts: u64,
    since: Instant,
    /// The error of the last attempt.
    cause: String,
}

impl Backoff {
    pub fn new(projection: &str, retries: &Retries) -> Self {
        let number = {
            let mut attempts = retries.lock();
            attempts.last += 1;
            attempts.last
        };
        Self {
            projection: projection.to_owned(),
            store: None,
            retries: retries.clone(),
            number,
            delays: None,
            attempts: 0,
            since: Instant::now(),
            cause: String::new(),
        }
    }

    /// A backoff for attempts to open a store, by the store's address.
    pub fn of_store(store: &str, retries: &Retries) -> Self {
        let mut backoff = Self::new("", retries);
        backoff.store = Some(store.to_owned());
        backoff
    }

    /// How long to wait before the next attempt.
    pub fn delay(&mut self) -> Duration {
        self.delays.get_or_insert_with(delays).next().unwrap_or(Duration::from_secs(10))
    }

    /// Waits until the next attempt is due, or until `stop` is cancelled.
    pub async fn wait(&mut self, stop: &CancellationToken) {
        let delay = self.delay();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Records a failed attempt for `/v1/retrying`. Each cause is logged once, and again after 5 minutes.
    pub fn failed(&mut self, kind: FailureKind, error: &dyn fmt::Display) {
        if self.attempts == 0 {
            self.since = Instant::now();
        }
        self.attempts += 1;
        let elapsed = self.since.elapsed();
        let advice = kind.advice_after(elapsed);
        let since =
            SystemTime::now().checked_sub(elapsed).and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        self.cause = error.to_string();
        let retrying = Retrying {
            projection: self.projection.clone(),
            store: self.store.clone(),
            kind,
            cause: self.cause.clone(),
            since: since.map_or(0, |since| since.as_micros() as i64),
            attempts: self.attempts,
            advice,
        };
        self.retries.lock().open.insert(self.number, retrying);
        // A cause that lasts longer than LASTING is logged once more: the advice for a lasting failure is another one.
        let cause = if elapsed < LASTING { self.cause.clone() } else { lasting(&self.cause) };
        if self.retries.is_new_cause(&self.projection, &cause) {
            let (attempts, elapsed_ms) = (self.attempts, elapsed.as_millis() as u64);
            let (projection, store) = self.subject();
            match kind {
                FailureKind::DatabaseSetup | FailureKind::Copied => {
                    tracing::error!(projection, store, %kind, %error, attempts, elapsed_ms, advice, "retrying until a person corrects the cause; no event is lost");
                }
                _ => {
                    tracing::warn!(projection, store, %kind, %error, attempts, elapsed_ms, advice, "retrying; no event is lost");
                }
            }
        }
    }

    /// Like [`Retries::warn`], for the projection of this backoff.
    pub fn warn(&self, what: &str, error: &dyn fmt::Display) {
        self.retries.warn(&self.projection, what, error);
    }

    /// The projection and the store for the log line; `None` leaves the field out.
    fn subject(&self) -> (Option<&str>, Option<&str>) {
        (Some(&*self.projection).filter(|name| !name.is_empty()), self.store.as_deref())
    }

    /// Records a success. Logs it if attempts had failed before. The next delays start at 50 ms again.
    pub fn succeeded(&mut self) {
        self.delays = None;
        if self.attempts == 0 {
            return;
        }
        let (attempts, elapsed_ms) = (self.attempts, self.since.elapsed().as_millis() as u64);
        let cause = &*self.cause;
        let (projection, store) = self.subject();
        tracing::info!(projection, store, attempts, elapsed_ms, cause, "available again");
        self.retries.lock().open.remove(&self.number);
        self.retries.forget(&self.projection, &self.cause);
        self.retries.forget(&self.projection, &lasting(&self.cause));
        self.attempts = 0;
    }
}

/// The entry in [`RecentCauses`] for a cause that has lasted.
fn lasting(cause: &str) -> String {
    format!("lasting: {cause}")
}

impl Drop for Backoff {
    fn drop(&mut self) {
        self.retries.lock().open.remove(&self.number);
    }
}

/// The entry in [`RecentCauses`] for a cause: each projection has its own entries.
fn logged_key(projection: &str, cause: &str) -> String {
    format!("{projection}: {cause}")
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build()
}
