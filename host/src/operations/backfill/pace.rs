//! Reports the progress of a backfill.

use std::time::{Duration, Instant};

use humantime_serde::re::humantime;

use super::super::Progress;

/// How often progress is reported.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reports how much of the file is processed, at most once a second.
pub(super) struct Pace<'p> {
    progress: Progress<'p>,
    /// The size of the file.
    bytes: u64,
    began: Instant,
    /// The next line, and the bytes that were read of the file, at the time `began`.
    from: (i64, u64),
    last_report: Instant,
}

impl<'p> Pace<'p> {
    pub(super) fn new(progress: Progress<'p>, bytes: u64) -> Self {
        let now = Instant::now();
        Self { progress, bytes, began: now, from: (0, 0), last_report: now }
    }

    /// Starts the measurement at this line, after so many bytes of the file.
    pub(super) fn begin(&mut self, line: i64, bytes: u64) {
        *self = Self { from: (line, bytes), ..Self::new(self.progress, self.bytes) };
    }

    /// Reports a text with the share of the file that was read.
    pub(super) fn at(&mut self, bytes: u64, text: impl FnOnce() -> String) {
        if self.last_report.elapsed() >= INTERVAL {
            self.last_report = Instant::now();
            (self.progress)(&format!("{}, {:.0} %", text(), self.percent(bytes)));
        }
    }

    /// Reports the next line, the speed and the remaining time.
    pub(super) fn line(&mut self, line: i64, bytes: u64) {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let (lines, read) = (line - self.from.0, bytes.saturating_sub(self.from.1));
        let left = self.bytes.saturating_sub(bytes) as f64 * seconds / (read as f64).max(1.0);
        let left = humantime::format_duration(Duration::from_secs(left as u64));
        self.at(bytes, || format!("line {line}: {:.0} lines a second, {left} left", lines as f64 / seconds));
    }

    fn percent(&self, bytes: u64) -> f64 {
        bytes as f64 * 100.0 / self.bytes.max(1) as f64
    }
}
