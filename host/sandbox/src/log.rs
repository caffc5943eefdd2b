//! A plugin's log: limits the lines per second, and adds projection, version and position to each line.
//!
//! Invariants: a plugin cannot flood the host's log, and cannot forge a line of the host.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::bindings::projector::plugin::types::Level;
use super::engine::{Engine, Seconds};
use projector_config::Limits;
use projector_core::event::Position;
use projector_core::event_failure::printable;

/// Shared by all instances of a plugin, in all its lanes. The engine's clock ends the seconds.
pub(super) struct GuestLogger {
    projection: String,
    /// The version in the plugin's descriptor.
    version: String,
    lines_a_second: usize,
    second: Mutex<Second>,
}

impl GuestLogger {
    pub(super) fn open(engine: &Engine, projection: &str, version: &str, limits: &Limits) -> Arc<Self> {
        let log = Arc::new(Self {
            projection: projection.into(),
            version: version.into(),
            lines_a_second: limits.log_lines,
            second: Mutex::new(Second::beginning(Instant::now())),
        });
        let seconds: Weak<Self> = Arc::downgrade(&log);
        engine.watch(seconds);
        log
    }

    /// Logs a line, or counts it as dropped.
    pub(super) fn write(&self, level: Level, position: Option<&Position>, message: &str) {
        if !self.second().admits(self.lines_a_second) {
            return;
        }
        let (projection, version) = (&*self.projection, &*self.version);
        let position = position.map(ToString::to_string);
        // Line breaks are escaped, so that a guest cannot forge a second log line.
        let message = printable(message).replace('\n', "\\n");
        match level {
            Level::Debug => tracing::debug!(target: "plugin", projection, version, position, "{message}"),
            Level::Info => tracing::info!(target: "plugin", projection, version, position, "{message}"),
            Level::Warn => tracing::warn!(target: "plugin", projection, version, position, "{message}"),
            Level::Error => tracing::error!(target: "plugin", projection, version, position, "{message}"),
        }
    }

    fn log_dropped(&self, dropped: u64) {
        if dropped > 0 {
            tracing::warn!(
                projection = self.projection,
                version = self.version,
                dropped,
                "the plugin logged more lines in one second than `limits.log-lines` allows; the others are dropped"
            );
        }
    }

    fn second(&self) -> MutexGuard<'_, Second> {
        self.second.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seconds for GuestLogger {
    /// Logs how many lines were dropped in a second that is over.
    fn tick(&self, now: Instant) {
        let dropped = self.second().end(now);
        self.log_dropped(dropped);
    }
}

impl Drop for GuestLogger {
    fn drop(&mut self) {
        let dropped = self.second().dropped;
        self.log_dropped(dropped);
    }
}

/// The lines of one second.
struct Second {
    began: Instant,
    admitted: usize,
    dropped: u64,
}

impl Second {
    fn beginning(began: Instant) -> Self {
        Self { began, admitted: 0, dropped: 0 }
    }

    fn admits(&mut self, most_lines: usize) -> bool {
        let admits = self.admitted < most_lines;
        match admits {
            true => self.admitted += 1,
            false => self.dropped += 1,
        }
        admits
    }

    /// Starts the next second if this one is over. Returns how many lines were dropped in it.
    fn end(&mut self, now: Instant) -> u64 {
        match now.duration_since(self.began) < Duration::from_secs(1) {
            true => 0,
            false => std::mem::replace(self, Self::beginning(now)).dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_admits_some_lines_and_reports_once_how_many_it_dropped() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut second = Second::beginning(began);
        assert_eq!([(); 5].map(|()| second.admits(2)), [true, true, false, false, false]);
        assert_eq!(second.end(at(999)), 0);
        assert!(!second.admits(2));
        assert_eq!(second.end(at(1_000)), 4);
        assert_eq!(second.end(at(2_500)), 0);
        assert!(second.admits(2));
    }
}
