//! What lookups find, call by call, as long as it weighs no more than it may.

use projector_model::interpret::Row;

/// How many rows a query may be asked for: what it finds in vain, when there is no more room, must still be
/// taken from the database.
pub(super) const MOST_ROWS: usize = 100_000;

/// How the bytes that all calls may find are shared out among the lookups.
pub(super) struct Budget {
    bytes: usize,
    calls: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize, calls: usize) -> Self {
        Self { bytes, calls }
    }

    /// The share of so many of the calls that have had none yet. What is left of it is for later ones.
    pub(super) fn share(&mut self, calls: usize) -> usize {
        let share = self.bytes as u128 * calls as u128 / self.calls.max(1) as u128;
        self.calls -= calls.min(self.calls);
        share as usize
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The rows of one lookup's calls, as they come: all rows of a call, then those of the next.
pub(super) struct Finding {
    found: Vec<Option<Vec<Row>>>,
    /// The calls before this one are answered.
    completed: usize,
    most_bytes: usize,
    bytes: usize,
}

impl Finding {
    pub(super) fn new(calls: usize, most_bytes: usize) -> Self {
        Self { found: vec![None; calls], completed: 0, most_bytes, bytes: 0 }
    }

    /// Takes a row of a call. `false`: there is no room for it, and so neither for that call nor for any after
    /// it.
    pub(super) fn take(&mut self, call: usize, row: Row) -> bool {
        self.complete(call);
        let bytes = row.size_bytes();
        if bytes > self.most_bytes - self.bytes {
            self.found[call] = None;
            return false;
        }
        self.bytes += bytes;
        self.found[call].get_or_insert_default().push(row);
        true
    }

    /// All rows of the calls before this one have come.
    pub(super) fn complete(&mut self, before: usize) {
        for rows in &mut self.found[self.completed..before] {
            rows.get_or_insert_default();
        }
        self.completed = before;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// By call; `None`: its rows were not all taken.
    pub(super) fn into_rows(self) -> Vec<Option<Vec<Row>>> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use projector_model::Value;

    use super::*;

    fn row(text: &str) -> Row {
        Row { values: vec![Value::Text(text.into())], tombstone: false }
    }

    #[test]
    fn a_call_is_answered_wholly_or_not_at_all() {
        let three = 3 * row("x").size_bytes();
        let mut finding = Finding::new(5, three);
        assert!(finding.take(1, row("a")) && finding.take(3, row("b")) && finding.take(3, row("c")));
        assert!(!finding.take(3, row("d")));
        assert_eq!(finding.into_rows(), [Some(vec![]), Some(vec![row("a")]), Some(vec![]), None, None]);
        let mut finding = Finding::new(2, three);
        assert!(finding.take(0, row("a")));
        finding.complete(2);
        assert_eq!(finding.into_rows(), [Some(vec![row("a")]), Some(vec![])]);
    }

    #[test]
    fn what_a_lookup_leaves_of_its_share_is_for_the_next() {
        let mut budget = Budget::new(1_000, 10);
        assert_eq!(budget.share(4), 400);
        budget.spend(100);
        assert_eq!(budget.share(6), 900);
        assert_eq!(Budget::new(usize::MAX, 3).share(3), usize::MAX);
    }
}
