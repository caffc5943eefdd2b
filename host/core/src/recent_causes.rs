//! Causes that were logged lately, so that one that lasts is not logged with each attempt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same cause is logged at most once in this time.
const REMINDER: Duration = Duration::from_secs(300);

/// Most causes that are remembered as logged. It bounds the memory; further causes are not logged until
/// older ones are forgotten.
const MOST_LOGGED: usize = 1_000;

/// Decides whether a cause is logged: a cause that was logged recently is not.
#[derive(Default)]
pub struct RecentCauses(HashMap<String, Instant>);

impl RecentCauses {
    /// Whether to log a cause: it is new, or was not logged within [`REMINDER`].
    pub fn is_new(&mut self, cause: &str) -> bool {
        self.0.retain(|_, at| at.elapsed() < REMINDER);
        if self.0.contains_key(cause) || self.0.len() >= MOST_LOGGED {
            return false;
        }
        self.0.insert(cause.to_owned(), Instant::now());
        true
    }

    /// The cause is new when it comes again.
    pub fn forget(&mut self, cause: &str) {
        self.0.remove(cause);
    }
}
