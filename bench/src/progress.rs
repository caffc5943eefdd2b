//! How far something is: a bar on the standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Gone when dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// `what` has happened to none of `total` things yet.
    pub(crate) fn new(what: String, total: usize) -> Progress {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        bar.set_style(style);
        bar.set_message(what);
        Progress(bar)
    }

    pub(crate) fn reach(&self, count: u64) {
        self.0.set_position(count);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
