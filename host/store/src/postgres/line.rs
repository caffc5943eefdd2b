//! What goes over the connections of a store, and how long an answer has been waited for.
//!
//! A socket stays open when the server behind its address was replaced, its machine is gone, or a network in
//! between forgot the connection. So for each connection it is known since when nothing came back for what
//! was sent, and each can be ended from here: whoever waits for its answer then gets an error.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// All connections of one store.
#[derive(Default)]
pub(super) struct Lines {
    open: Mutex<Vec<Weak<Line>>>,
    /// Grows whenever the server answers a session that it has let in.
    heard: AtomicU64,
}

/// One connection.
pub(super) struct Line {
    lines: Arc<Lines>,
    server: String,
    /// When something was sent last that nothing has come back for.
    asked: Mutex<Option<Instant>>,
    /// The server's number of the session; 0: it is not known yet, and whoever connects bounds the wait.
    session: AtomicI32,
    /// Whether the server lets its statements run for as long as they take.
    unbounded: AtomicBool,
    ended: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    pub(super) fn open(self: &Arc<Self>, server: &str) -> Arc<Line> {
        let line = Arc::new(Line {
            lines: self.clone(),
            server: server.to_owned(),
            asked: Mutex::default(),
            session: AtomicI32::new(0),
            unbounded: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        let mut open = lock(&self.open);
        open.retain(|known| known.strong_count() > 0);
        open.push(Arc::downgrade(&line));
        line
    }

    /// Changes whenever the server answers a session that it has let in.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Those whose server has left them without an answer for so long, and since when.
    pub(super) fn unanswered(&self, patience: Duration) -> Vec<(Arc<Line>, Instant)> {
        let open: Vec<Arc<Line>> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        let waiting = |line: Arc<Line>| {
            let asked = line.unanswered_since().filter(|asked| asked.elapsed() >= patience)?;
            (line.session() != 0).then_some((line, asked))
        };
        open.into_iter().filter_map(waiting).collect()
    }
}

impl Line {
    pub(super) fn sent(&self) {
        *lock(&self.asked) = Some(Instant::now());
    }

    pub(super) fn received(&self) {
        *lock(&self.asked) = None;
        if self.session() != 0 {
            self.lines.heard.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing comes any more, as whoever waits hears.
    pub(super) fn closed(&self) {
        *lock(&self.asked) = None;
    }

    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        *lock(&self.asked)
    }

    pub(super) fn session(&self) -> i32 {
        self.session.load(Ordering::Relaxed)
    }

    pub(super) fn is_session(&self, session: i32) {
        self.session.store(session, Ordering::Relaxed);
    }

    /// From now on its statements may run for as long as they take, if the server is at work for them.
    pub(super) fn lift_bound(&self) {
        self.unbounded.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_bounded(&self) -> bool {
        !self.unbounded.load(Ordering::Relaxed)
    }

    /// Ends the connection, unless an answer has come meanwhile.
    pub(super) fn end_if_unanswered(&self, since: Instant, reason: &str) -> bool {
        if self.ended.is_cancelled() || self.unanswered_since() != Some(since) {
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
        self.ended.cancel();
        true
    }

    /// Waits until the connection is to be ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}
