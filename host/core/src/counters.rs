//! How many events had which outcome.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::outcome::Outcome;

/// What became of a partition's events, by code; or how that changes, where an event that had failed
/// or waited is counted anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    pub applied: i64,
    pub parked: i64,
    pub waiting: i64,
    pub ignored: BTreeMap<String, i64>,
    pub dead: BTreeMap<String, i64>,
    pub skipped: BTreeMap<String, i64>,
}

impl OutcomeCounts {
    pub fn count(&mut self, outcome: &Outcome<'_>) {
        match outcome {
            Outcome::Apply(_) => self.applied += 1,
            Outcome::Ignore { code } => add(&mut self.ignored, code, 1),
            Outcome::Park(_) => self.parked += 1,
            Outcome::Wait { .. } => self.waiting += 1,
            Outcome::Dead { failure, .. } => add(&mut self.dead, &failure.code, 1),
        }
    }

    pub fn totals(&self) -> Counters {
        let sum = |codes: &BTreeMap<String, i64>| codes.values().sum::<i64>();
        let (ignored, dead, skipped) = (sum(&self.ignored), sum(&self.dead), sum(&self.skipped));
        let OutcomeCounts { applied, parked, waiting, .. } = *self;
        let read = applied + ignored + parked + waiting + dead + skipped;
        Counters { read, applied, ignored, parked, waiting, dead, skipped }
    }

    /// `(outcome, code, events)` of everything that has a code.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, &str, i64)> {
        [("ignored", &self.ignored), ("dead", &self.dead), ("skipped", &self.skipped)].into_iter().flat_map(
            |(outcome, codes)| codes.iter().map(move |(code, events)| (outcome, code.as_str(), *events)),
        )
    }
}

/// Counts events by their code.
pub fn add(codes: &mut BTreeMap<String, i64>, code: &str, events: i64) {
    match codes.get_mut(code) {
        Some(counted) => *counted += events,
        None => drop(codes.insert(code.to_owned(), events)),
    }
}

/// The books: `read = applied + ignored + parked + waiting + dead + skipped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub read: i64,
    pub applied: i64,
    pub ignored: i64,
    /// Behind an earlier event of their key.
    pub parked: i64,
    /// For rows that are not there yet.
    pub waiting: i64,
    pub dead: i64,
    pub skipped: i64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.applied += other.applied;
        self.ignored += other.ignored;
        self.parked += other.parked;
        self.waiting += other.waiting;
        self.dead += other.dead;
        self.skipped += other.skipped;
    }
}
