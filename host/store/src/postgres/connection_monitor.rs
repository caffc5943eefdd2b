//! Monitors the connections of a store: since when the server has not answered a request.
//!
//! Why: a socket stays open when the server behind its address was replaced, when its machine is gone, or when a network
//! device in between has forgotten the connection. So for each connection this module knows since when a request has no
//! answer, and it can close the connection: the caller that waits for the answer then gets an error.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// The monitors of all connections of one store.
#[derive(Default)]
pub(super) struct ConnectionMonitors {
    open: Mutex<Vec<Weak<ConnectionMonitor>>>,
    /// Grows whenever the server sends something to a session that it has accepted.
    answers: AtomicU64,
}

/// The monitor of one connection.
pub(super) struct ConnectionMonitor {
    all: Arc<ConnectionMonitors>,
    server: String,
    /// When the last request was sent. `None`: the server has sent something since.
    unanswered: Mutex<Option<Instant>>,
    /// The server's number of the session. 0: not known yet; the code that connects has a time limit of its own.
    session: AtomicI32,
    /// Whether the server lets the session's statements run without a time limit.
    is_unlimited: AtomicBool,
    closing: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConnectionMonitors {
    /// Starts to monitor a new connection.
    pub(super) fn add(self: &Arc<Self>, server: &str) -> Arc<ConnectionMonitor> {
        let monitor = Arc::new(ConnectionMonitor {
            all: self.clone(),
            server: server.to_owned(),
            unanswered: Mutex::default(),
            session: AtomicI32::new(0),
            is_unlimited: AtomicBool::new(false),
            closing: CancellationToken::new(),
        });
        let mut open = lock(&self.open);
        open.retain(|known| known.strong_count() > 0);
        open.push(Arc::downgrade(&monitor));
        monitor
    }

    /// Changes whenever the server sends something to a session that it has accepted.
    pub(super) fn answer_count(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Connections on which a request has been unanswered for at least this time, and since when.
    pub(super) fn unanswered(&self, patience: Duration) -> Vec<(Arc<ConnectionMonitor>, Instant)> {
        let open: Vec<Arc<ConnectionMonitor>> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        let waiting = |monitor: Arc<ConnectionMonitor>| {
            let since = monitor.unanswered_since().filter(|since| since.elapsed() >= patience)?;
            (monitor.session() != 0).then_some((monitor, since))
        };
        open.into_iter().filter_map(waiting).collect()
    }
}

impl ConnectionMonitor {
    /// Bytes were sent to the server.
    pub(super) fn sent(&self) {
        *lock(&self.unanswered) = Some(Instant::now());
    }

    /// The server has sent bytes.
    pub(super) fn received(&self) {
        *lock(&self.unanswered) = None;
        if self.session() != 0 {
            self.all.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The connection is closed, so the caller that waits for an answer gets an error.
    pub(super) fn closed(&self) {
        *lock(&self.unanswered) = None;
    }

    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        *lock(&self.unanswered)
    }

    pub(super) fn session(&self) -> i32 {
        self.session.load(Ordering::Relaxed)
    }

    pub(super) fn set_session(&self, session: i32) {
        self.session.store(session, Ordering::Relaxed);
    }

    /// From now on, the session's statements may run for any time while the server works on them.
    pub(super) fn lift_time_limit(&self) {
        self.is_unlimited.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_time_limit(&self) -> bool {
        !self.is_unlimited.load(Ordering::Relaxed)
    }

    /// Closes the connection, unless an answer has come meanwhile. Returns whether it did.
    pub(super) fn close_if_unanswered(&self, since: Instant, reason: &str) -> bool {
        if self.closing.is_cancelled() || self.unanswered_since() != Some(since) {
            return false;
        }
        let (server, session, waited_ms) =
            (&*self.server, self.session(), since.elapsed().as_millis() as u64);
        tracing::warn!(
            store = server,
            session,
            waited_ms,
            reason,
            "a connection to the database has fallen silent, and is closed"
        );
        self.closing.cancel();
        true
    }

    /// Waits until the connection is to be closed.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}
