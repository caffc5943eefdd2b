//! Places where tests break the host: `PROJECTOR_FAILPOINTS=before-commit=kill@3` kills it the
//! third time that any projection gets there, `order-search:before-commit=kill@3` the third time
//! that this one does. Release builds have none.

/// In the transaction, its reads done, nothing written.
pub const BEFORE_WRITE: &str = "before-write";
/// In the transaction, everything written.
pub const BEFORE_COMMIT: &str = "before-commit";
/// The transaction is committed, and nobody was told.
pub const AFTER_COMMIT: &str = "after-commit";
/// Something was added to tables in use.
pub const AFTER_STEP: &str = "after-step";
/// A component is about to become the active one.
pub const BEFORE_ACTIVATION: &str = "before-activation";
/// It is, and nobody was told.
pub const AFTER_ACTIVATION: &str = "after-activation";
/// The component before is the active one again, and nobody was told.
pub const AFTER_REVERT: &str = "after-revert";
/// Readers are about to see another generation.
pub const BEFORE_PROMOTE: &str = "before-promote";
/// Two generations are held, to be compared.
pub const HELD: &str = "held";

/// Says that a projection got to a place.
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
        /// `None`: whichever gets there.
        projection: Option<String>,
        signal: Signal,
        at: u64,
        count: AtomicU64,
    }

    static ARMED: LazyLock<Vec<Armed>> = LazyLock::new(|| {
        let text = std::env::var("PROJECTOR_FAILPOINTS").unwrap_or_default();
        let points = text.split(';').filter(|point| !point.is_empty());
        let refuse =
            |point| panic!("PROJECTOR_FAILPOINTS: {point:?} is not [projection:]name=kill@N or …=stop@N");
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
        let signal = match action {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return None,
        };
        Some(Armed {
            name: name.to_owned(),
            projection,
            signal,
            at: at.parse().ok()?,
            count: AtomicU64::new(0),
        })
    }

    pub(super) fn reached(name: &str, projection: &str) {
        let here = |armed: &&Armed| {
            armed.name == name && armed.projection.as_deref().is_none_or(|only| only == projection)
        };
        for armed in ARMED.iter().filter(here) {
            if armed.count.fetch_add(1, Ordering::Relaxed) + 1 == armed.at {
                eprintln!("failpoint {name}: {:?} of {projection}", armed.signal);
                // To this very thread: a signal to the process stops it when some other thread gets
                // to it, and this one would run on for a moment.
                // SAFETY: no handler can run, since the signals that are armed cannot be caught.
                let raised = unsafe { libc::raise(armed.signal.as_raw()) };
                assert_eq!(raised, 0, "a thread may signal itself");
            }
        }
    }
}
