//! How far something is: a bar in a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Elsewhere than in a terminal, lines are at least this far apart.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { what: &'static str, total: usize, last_line: Cell<Instant> },
}

impl Progress {
    /// `what` has happened to none of `total` things yet.
    pub(crate) fn new(what: &'static str, total: usize) -> Progress {
        if !stdout().is_terminal() {
            return Progress::Lines { what, total, last_line: Cell::new(Instant::now()) };
        }
        let style = ProgressStyle::with_template("{msg:10} {wide_bar} {human_pos} of {human_len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stdout());
        bar.set_style(style);
        bar.set_message(what);
        Progress::Bar(bar)
    }

    pub(crate) fn reach(&self, count: usize) {
        match self {
            Progress::Bar(bar) => bar.set_position(count as u64),
            Progress::Lines { what, total, last_line } => {
                if last_line.get().elapsed() >= LINE_INTERVAL {
                    last_line.set(Instant::now());
                    println!("{what} {count} of {total}");
                }
            }
        }
    }

    /// Makes room for what is printed next.
    pub(crate) fn finish(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
