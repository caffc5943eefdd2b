//! The rows that lookups find, call by call, within a limit on their bytes.

use projector_model::interpret::Row;

/// How many rows one query may return at most: rows beyond the limit on bytes must still be read from the connection.
pub(crate) const MOST_ROWS: usize = 100_000;

/// Shares the limit on the bytes of all calls among the lookups.
pub(crate) struct Budget {
    bytes: usize,
    calls: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize, calls: usize) -> Self {
        Self { bytes, calls }
    }

    /// The share of the next `calls` calls. What they do not use is for later calls.
    pub(crate) fn share(&mut self, calls: usize) -> usize {
        let share = self.bytes as u128 * calls as u128 / self.calls.max(1) as u128;
        self.calls -= calls.min(self.calls);
        share as usize
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The rows of one lookup's calls. They are added in order: all rows of a call, then those of the next.
pub(crate) struct LookupRows {
    found: Vec<Option<Vec<Row>>>,
    /// The calls before this one are answered.
    completed: usize,
    most_bytes: usize,
    bytes: usize,
}

impl LookupRows {
    pub(crate) fn new(calls: usize, most_bytes: usize) -> Self {
        Self { found: vec![None; calls], completed: 0, most_bytes, bytes: 0 }
    }

    /// Adds a row of a call. `false`: there is no room for it, so neither this call nor any after it is answered.
    pub(crate) fn add(&mut self, call: usize, row: Row) -> bool {
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

    /// All rows of the calls before this one were added.
    pub(crate) fn complete(&mut self, before: usize) {
        for rows in &mut self.found[self.completed..before] {
            rows.get_or_insert_default();
        }
        self.completed = before;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// By call. `None`: the call is not answered.
    pub(crate) fn into_rows(self) -> Vec<Option<Vec<Row>>> {
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
        let mut rows = LookupRows::new(5, three);
        assert!(rows.add(1, row("a")) && rows.add(3, row("b")) && rows.add(3, row("c")));
        assert!(!rows.add(3, row("d")));
        assert_eq!(rows.into_rows(), [Some(vec![]), Some(vec![row("a")]), Some(vec![]), None, None]);
        let mut rows = LookupRows::new(2, three);
        assert!(rows.add(0, row("a")));
        rows.complete(2);
        assert_eq!(rows.into_rows(), [Some(vec![row("a")]), Some(vec![])]);
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
