//! Causes of failure that were logged recently.
//!
//! A cause that lasts would otherwise be logged with each attempt. It is logged again as a reminder.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same cause is logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(300);

/// Most causes that are remembered as logged. It bounds the memory; further causes are not logged until
/// older ones are forgotten.
const MOST_LOGGED: usize = 1_000;

/// Decides whether a cause is logged: a cause that was logged recently is not.
#[derive(Default)]
pub struct RecentCauses(HashMap<String, Instant>);

impl RecentCauses {
    /// Whether to log a cause: it is new, or was not logged within `LOG_INTERVAL`.
    pub fn is_new(&mut self, cause: &str) -> bool {
        self.0.retain(|_, at| at.elapsed() < LOG_INTERVAL);
        if self.0.contains_key(cause) || self.0.len() >= MOST_LOGGED {
            return false;
        }
        self.0.insert(cause.to_owned(), Instant::now());
        true
    }

    /// The cause is over. If it comes again, it is new.
    pub fn forget(&mut self, cause: &str) {
        self.0.remove(cause);
    }
}
