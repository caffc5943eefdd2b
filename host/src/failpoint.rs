//! Places where tests break the host: `PROJECTOR_FAILPOINTS=before-commit=kill@3` kills it the
//! third time it gets there. Release builds have none.

/// In the transaction, its reads done, nothing written.
pub const BEFORE_WRITE: &str = "before-write";
/// In the transaction, everything written.
pub const BEFORE_COMMIT: &str = "before-commit";
/// The transaction is committed, and nobody was told.
pub const AFTER_COMMIT: &str = "after-commit";

/// Says that the host got to a place.
#[cfg(debug_assertions)]
pub fn reached(name: &'static str) {
    armed::reached(name);
}

#[cfg(not(debug_assertions))]
pub fn reached(_name: &'static str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::collections::HashMap;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::Signal;

    struct Armed {
        signal: Signal,
        at: u64,
        count: AtomicU64,
    }

    static ARMED: LazyLock<HashMap<String, Armed>> = LazyLock::new(|| {
        let text = std::env::var("PROJECTOR_FAILPOINTS").unwrap_or_default();
        text.split(';').filter(|point| !point.is_empty()).map(parse).collect()
    });

    /// `name=kill@3`, or `name=stop@1`, which halts the process until it is continued.
    fn parse(point: &str) -> (String, Armed) {
        let parsed = point.split_once('=').and_then(|(name, action)| {
            let (action, at) = action.split_once('@')?;
            let signal = match action {
                "kill" => Signal::KILL,
                "stop" => Signal::STOP,
                _ => return None,
            };
            Some((name.to_owned(), Armed { signal, at: at.parse().ok()?, count: AtomicU64::new(0) }))
        });
        parsed.unwrap_or_else(|| panic!("PROJECTOR_FAILPOINTS: {point:?} is not name=kill@N or name=stop@N"))
    }

    pub(super) fn reached(name: &str) {
        let Some(armed) = ARMED.get(name) else { return };
        if armed.count.fetch_add(1, Ordering::Relaxed) + 1 == armed.at {
            eprintln!("failpoint {name}: {:?}", armed.signal);
            // To this very thread: a signal to the process stops it when some other thread gets to
            // it, and this one would run on for a moment.
            // SAFETY: no handler can run, since the signals that are armed cannot be caught.
            let raised = unsafe { libc::raise(armed.signal.as_raw()) };
            assert_eq!(raised, 0, "a thread may signal itself");
        }
    }
}
