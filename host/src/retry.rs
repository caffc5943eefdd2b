//! What follows a failure that is nobody's event: how long to wait, and when to stop.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{Blocker, FailureKind, LASTING};

/// Why a projection's run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// A new run, with a new consumer and the active component, may well go on.
    Restart(String),
    /// A lane or its poll thread panicked: what it said. A new run may go on.
    Crashed(String),
    /// It could not get on for a while, which may be this host's trouble alone: its partitions are for
    /// others, until it can.
    GivesUp(Blocker),
    /// Another version is active, and cannot take over here: a new run has it. Or the generation is gone.
    Switch,
    /// The generation has come to the end of its topics: a new run may have more lanes.
    CaughtUp,
    /// Only a person can help.
    Stop(Blocker),
    /// An operator said so, for this reason.
    Paused(String),
}

/// What is being tried again on this host, for whoever asks: kept in memory, since the database may be
/// what does not answer.
#[derive(Clone, Default)]
pub struct Retries(Arc<Mutex<Attempts>>);

#[derive(Default)]
struct Attempts {
    /// By the number of their backoff.
    open: BTreeMap<u64, Retrying>,
    last: u64,
    /// What was logged lately of which projection: lanes that meet the same say it once.
    said: News,
}

/// Tells a cause that is to be logged from one that was logged lately.
#[derive(Default)]
pub struct News(HashMap<String, Instant>);

impl News {
    /// Whether a cause is to be logged: it is new, or was not logged for a while.
    pub fn is_news(&mut self, cause: &str) -> bool {
        self.0.retain(|_, at| at.elapsed() < REMINDER);
        if self.0.contains_key(cause) || self.0.len() >= MOST_SAID {
            return false;
        }
        self.0.insert(cause.to_owned(), Instant::now());
        true
    }

    fn forget(&mut self, cause: &str) {
        self.0.remove(cause);
    }
}

/// Something that is tried until it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retrying {
    /// Empty: it is about a store.
    pub projection: String,
    /// The store, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    pub kind: FailureKind,
    /// What was said the last time.
    pub cause: String,
    /// Microseconds since 1970.
    #[serde(serialize_with = "crate::instant::serialize")]
    pub since: i64,
    pub attempts: u64,
    pub advice: &'static str,
}

impl Retries {
    /// Each cause once, however many lanes meet it: the one that met it first.
    pub fn all(&self) -> Vec<Retrying> {
        let mut all: Vec<Retrying> = self.lock().open.values().cloned().collect();
        all.sort_by_key(|retrying| retrying.since);
        let mut seen = HashSet::new();
        all.retain(|Retrying { projection, kind, cause, .. }| {
            seen.insert((projection.clone(), *kind, cause.clone()))
        });
        all
    }

    /// Something beside the batches failed, and is done again at its next occasion: at warn, once for each
    /// cause, and again every few minutes. `what`: what did not come to be.
    pub fn missed(&self, projection: &str, what: &str, error: &dyn fmt::Display) {
        if self.is_news(projection, &format!("{what}: {error}")) {
            tracing::warn!(projection, %error, "{what}; it is tried again");
        }
    }

    fn is_news(&self, projection: &str, cause: &str) -> bool {
        self.lock().said.is_news(&said(projection, cause))
    }

    fn forget(&self, projection: &str, cause: &str) {
        self.lock().said.forget(&said(projection, cause));
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits between attempts: from 50 ms, doubling, with jitter, to 10 s; for as long as it takes.
pub struct Backoff {
    projection: String,
    store: Option<String>,
    retries: Retries,
    number: u64,
    /// Those to come; none were taken yet if there are none.
    delays: Option<ExponentialBackoff>,
    attempts: u64,
    since: Instant,
    /// What failed the last time.
    cause: String,
}

/// One line about the same cause in this time is enough.
const REMINDER: Duration = Duration::from_secs(300);
/// So many causes are remembered as said.
const MOST_SAID: usize = 1_000;

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

    /// Of attempts to open a store, by its address.
    pub fn of_store(store: &str, retries: &Retries) -> Self {
        let mut backoff = Self::new("", retries);
        backoff.store = Some(store.to_owned());
        backoff
    }

    /// How long to wait before the next attempt.
    pub fn delay(&mut self) -> Duration {
        self.delays.get_or_insert_with(delays).next().unwrap_or(Duration::from_secs(10))
    }

    /// Waits for the next attempt, or until the stop.
    pub async fn wait(&mut self, stop: &CancellationToken) {
        let delay = self.delay();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => {}
        }
    }

    /// An attempt failed: kept for `/v1/retrying`, and logged once for each distinct cause, and again every
    /// few minutes.
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
        // Once more when it turns out to last.
        let news = if elapsed < LASTING { self.cause.clone() } else { lasting(&self.cause) };
        if self.retries.is_news(&self.projection, &news) {
            let (attempts, elapsed_ms) = (self.attempts, elapsed.as_millis() as u64);
            let (projection, store) = self.subject();
            match kind {
                FailureKind::DatabaseSetup | FailureKind::Copied => {
                    tracing::error!(projection, store, %kind, %error, attempts, elapsed_ms, advice, "not until this is mended; no event is lost");
                }
                _ => {
                    tracing::warn!(projection, store, %kind, %error, attempts, elapsed_ms, advice, "retrying; no event is lost");
                }
            }
        }
    }

    /// Like [`Retries::missed`], of this projection.
    pub fn missed(&self, what: &str, error: &dyn fmt::Display) {
        self.retries.missed(&self.projection, what, error);
    }

    /// The projection or the store: what there is not stands in no log line.
    fn subject(&self) -> (Option<&str>, Option<&str>) {
        (Some(&*self.projection).filter(|name| !name.is_empty()), self.store.as_deref())
    }

    /// It works again. Says so, if it was said that it did not.
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

/// What is remembered as said of a cause that has lasted.
fn lasting(cause: &str) -> String {
    format!("lasting: {cause}")
}

impl Drop for Backoff {
    fn drop(&mut self) {
        self.retries.lock().open.remove(&self.number);
    }
}

/// A cause is another one in another projection.
fn said(projection: &str, cause: &str) -> String {
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
