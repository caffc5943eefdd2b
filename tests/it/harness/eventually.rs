//! Waiting for a condition.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// Enough for anything that a test waits for, on a busy machine. Reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until the answer is `Ok`. An `Err` says what was seen instead; the last one is in the
/// failure's message.
#[track_caller]
pub(crate) fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => {
                panic!("{what}: not within {PATIENCE:?}; last seen: {seen:#?}")
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
