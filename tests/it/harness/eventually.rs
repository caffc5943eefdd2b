//! Waiting for a condition.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// Enough for the next step of anything that a test waits for, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Enough for all of its steps.
const MOST: Duration = Duration::from_secs(300);

/// Between two looks, at least. A look that starts a process is followed by a longer pause, so that looking does not take the processor's time
/// from what is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until the answer is `Ok`. An `Err` says what was seen instead; the last one is in the failure's
/// message. The test fails when nothing else was seen for [`PATIENCE`]: a slow machine that goes on is waited for.
#[track_caller]
pub(crate) fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    let (mut last_seen, mut changed) = (String::new(), started);
    loop {
        let looked = Instant::now();
        match look() {
            Ok(found) => return found,
            Err(seen) => {
                let seen = format!("{seen:#?}");
                if seen != last_seen {
                    (last_seen, changed) = (seen, Instant::now());
                }
            }
        }
        if changed.elapsed() > PATIENCE || started.elapsed() > MOST {
            let waited = started.elapsed();
            panic!("{what}: not within {waited:.0?}; last seen: {last_seen}");
        }
        thread::sleep(PAUSE.max(2 * looked.elapsed()));
    }
}
