//! What became of an event.

use projector_model::{Change, Rejection};

/// What the host would have made of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "assert what became of the event: `.expect_applied()`, for instance"]
pub enum Handled {
    /// The changes are in the rows.
    Applied {
        changes: Vec<Change>,
        /// By change: how many rows it touched.
        touched: Vec<u64>,
    },
    /// By the handler, with one of the declared `ignores`, or by the host as a `duplicate`: an event of the same
    /// `event_id` was handled before. The rows are as they were.
    Ignored { code: String, detail: String },
    /// By the handler, by the SDK (`bad-payload`), or because the rows cannot hold a value
    /// (`invalid-value`, `overflow` and the like). The rows are as they were.
    Rejected { code: String, detail: String },
    /// For a row that is not there yet, or behind an earlier event of its topic and key that does so. It is projected
    /// again when the row is written: see [`Harness::after_waiting`](super::Harness::after_waiting).
    Waiting { row: String },
}

impl Handled {
    /// How many rows were touched, all changes together.
    ///
    /// # Panics
    ///
    /// If the event was ignored or rejected.
    #[track_caller]
    pub fn expect_applied(self) -> u64 {
        match self {
            Self::Applied { touched, .. } => touched.into_iter().sum(),
            other => panic!("the event should have been applied: {other:?}"),
        }
    }

    /// The detail that the handler gave.
    ///
    /// # Panics
    ///
    /// If the event was not ignored with this code.
    #[track_caller]
    pub fn expect_ignored(self, code: &str) -> String {
        match self {
            Self::Ignored { code: given, detail } if given == code => detail,
            other => panic!("the event should have been ignored as {code:?}: {other:?}"),
        }
    }

    /// The row that it waits for, in words.
    ///
    /// # Panics
    ///
    /// If the event does not wait.
    #[track_caller]
    pub fn expect_waiting(self) -> String {
        match self {
            Self::Waiting { row } => row,
            other => panic!("the event should wait: {other:?}"),
        }
    }

    /// The detail for the operator.
    ///
    /// # Panics
    ///
    /// If the event was not rejected with this code.
    #[track_caller]
    pub fn expect_rejected(self, code: &str) -> String {
        match self {
            Self::Rejected { code: given, detail } if given == code => detail,
            other => panic!("the event should have been rejected as {code:?}: {other:?}"),
        }
    }
}

impl From<Rejection> for Handled {
    fn from(Rejection { code, detail }: Rejection) -> Self {
        Self::Rejected { code, detail }
    }
}
