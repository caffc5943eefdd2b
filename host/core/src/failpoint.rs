//! Places at which tests make the host fail. `PROJECTOR_FAILPOINTS=before-commit=kill@3` kills the host the
//! third time that any projection reaches this place, `order-search:before-commit=kill@3` the third time
//! that this projection does, and `=panic@2..4` makes it panic the second to the fourth time. Release
//! builds have no failpoints.

/// The poll thread has a record. The projection's name comes from the consumer group.
pub const POLL: &str = "poll";
/// A projection's task starts.
pub const SUPERVISE: &str = "supervise";
/// In the transaction, its reads done, nothing written.
pub const BEFORE_WRITE: &str = "before-write";
/// In the transaction, everything written.
pub const BEFORE_COMMIT: &str = "before-commit";
/// The transaction is committed, and nothing else has happened since.
pub const AFTER_COMMIT: &str = "after-commit";
/// A step of a change to live tables is done.
pub const AFTER_STEP: &str = "after-step";
/// A component is about to become the active one.
pub const BEFORE_ACTIVATION: &str = "before-activation";
/// The component is the active one, and nothing else has happened since.
pub const AFTER_ACTIVATION: &str = "after-activation";
/// The previous component is the active one again, and nothing else has happened since.
pub const AFTER_REVERT: &str = "after-revert";
/// Readers are about to see another generation.
pub const BEFORE_PROMOTE: &str = "before-promote";
/// Checkpoints are about to be moved to another log.
pub const BEFORE_MOVE: &str = "before-move";
/// The checkpoints are moved, and nothing else has happened since.
pub const AFTER_MOVE: &str = "after-move";
/// Two generations are held, to be compared.
pub const HELD: &str = "held";

/// Records that a projection has reached a place.
#[cfg(debug_assertions)]
pub fn reached(name: &'static str, projection: &str) {
    armed::reached(name, projection);
}

#[cfg(not(debug_assertions))]
pub fn reached(_name: &'static str, _projection: &str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::Signal;

    struct Armed {
        name: String,
        /// `None`: any projection.
        projection: Option<String>,
        action: Action,
        /// The first and the last time.
        at: (u64, u64),
        count: AtomicU64,
    }

    enum Action {
        Signal(Signal),
        Panic,
    }

    static ARMED: LazyLock<Vec<Armed>> = LazyLock::new(|| {
        let text = std::env::var("PROJECTOR_FAILPOINTS").unwrap_or_default();
        let points = text.split(';').filter(|point| !point.is_empty());
        let refuse = |point| {
            panic!(
                "PROJECTOR_FAILPOINTS: {point:?} is not [projection:]name=kill@N, …=stop@N or …=panic@N..M"
            )
        };
        points.map(|point| parse(point).unwrap_or_else(|| refuse(point))).collect()
    });

    /// `name=kill@3`, or `projection:name=stop@1`, which halts the process until it is continued.
    fn parse(point: &str) -> Option<Armed> {
        let (place, action) = point.split_once('=')?;
        let (projection, name) = match place.split_once(':') {
            Some((projection, name)) => (Some(projection.to_owned()), name),
            None => (None, place),
        };
        let (action, at) = action.split_once('@')?;
        let action = match action {
            "kill" => Action::Signal(Signal::KILL),
            "stop" => Action::Signal(Signal::STOP),
            "panic" => Action::Panic,
            _ => return None,
        };
        let (first, last) = at.split_once("..").unwrap_or((at, at));
        Some(Armed {
            name: name.to_owned(),
            projection,
            action,
            at: (first.parse().ok()?, last.parse().ok()?),
            count: AtomicU64::new(0),
        })
    }

    pub(super) fn reached(name: &str, projection: &str) {
        let is_here = |armed: &&Armed| {
            armed.name == name && armed.projection.as_deref().is_none_or(|only| only == projection)
        };
        for armed in ARMED.iter().filter(is_here) {
            let time = armed.count.fetch_add(1, Ordering::Relaxed) + 1;
            if (armed.at.0..=armed.at.1).contains(&time) {
                let signal = match armed.action {
                    Action::Signal(signal) => signal,
                    Action::Panic => panic!("failpoint {name}: panic of {projection}"),
                };
                eprintln!("failpoint {name}: {signal:?} of {projection}");
                // The signal goes to this thread. A signal to the process may be delivered to another thread,
                // and this one would continue for a moment.
                // SAFETY: no handler can run, since the signals that are armed cannot be caught.
                let raised = unsafe { libc::raise(signal.as_raw()) };
                assert_eq!(raised, 0, "a thread may signal itself");
            }
        }
    }
}
