//! What a host said, line by line, while it runs and after.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use super::PATIENCE;

const TAIL_LINES: usize = 300;

/// One line. Those of the host itself are JSON objects.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) text: String,
    json: Value,
}

impl Line {
    /// Empty for what is no JSON.
    pub(crate) fn message(&self) -> &str {
        self.field("message")
    }

    /// A field that is a text; empty if there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// A field that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.json[name].as_u64()
    }
}

/// What a projection's run did, as its last line says.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Tally {
    pub(crate) batches: u64,
    pub(crate) events: u64,
    pub(crate) fenced: u64,
    pub(crate) retries: u64,
    pub(crate) impure: u64,
}

pub(crate) struct HostLog {
    host: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    ended: bool,
}

impl HostLog {
    /// Reads `output` on a thread of its own, up to its end.
    pub(super) fn collect(host: String, output: impl Read + Send + 'static) -> Arc<HostLog> {
        let log = Arc::new(HostLog { host, state: Mutex::default(), changed: Condvar::new() });
        let collected = log.clone();
        thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                let json = serde_json::from_str(&text).unwrap_or_default();
                collected.state().lines.push(Line { text, json });
                collected.changed.notify_all();
            }
            collected.state().ended = true;
            collected.changed.notify_all();
        });
        log
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this")
    }

    /// Every line up to now.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.state().lines.clone()
    }

    /// Every line of the whole life; waits for its end.
    pub(super) fn all_lines(&self) -> Vec<Line> {
        let state = self.changed.wait_while(self.state(), |state| !state.ended);
        state.expect("nothing panics while it holds this").lines.clone()
    }

    /// The first line for which `wanted` holds, from the beginning on; waits for it.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        let mut looked_at = 0;
        loop {
            if let Some(line) = state.lines[looked_at..].iter().find(|line| wanted(line)) {
                return line.clone();
            }
            looked_at = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "the host ended" } else { "the time is up" };
                drop(state);
                panic!("{} did not log {what}, and {why}", self.host);
            }
            state = self.changed.wait_timeout(state, left).expect("nothing panics while it holds this").0;
        }
    }

    /// Waits for a message that begins like this.
    #[track_caller]
    pub(crate) fn until_said(&self, beginning: &str) -> Line {
        self.wait_for(&format!("{beginning:?}"), |line| line.message().starts_with(beginning))
    }

    /// What the last run of a projection did.
    #[track_caller]
    pub(crate) fn tally(&self, projection: &str) -> Tally {
        let lines = self.lines();
        let last = lines
            .iter()
            .rev()
            .find(|line| line.message() == "projection stopped" && line.field("projection") == projection);
        let line = last.unwrap_or_else(|| panic!("{}: {projection} did not stop in order", self.host));
        serde_json::from_value(line.json.clone()).expect("the line has its counts")
    }

    /// For a person, when something failed.
    pub(super) fn print_tail(&self) {
        let lines = self.lines();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        eprintln!("--- {}: the last {} of {} lines", self.host, tail.len(), lines.len());
        for line in tail {
            eprintln!("{}", line.text);
        }
    }
}
