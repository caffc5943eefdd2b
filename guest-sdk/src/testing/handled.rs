//! The outcome of an event in a test.

use projector_model::{Change, Rejection};

/// The outcome that the event would have in the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "assert the outcome of the event, for example with `.expect_applied()`"]
pub enum Handled {
    /// The changes were applied to the rows.
    Applied {
        changes: Vec<Change>,
        /// For each change: how many rows it wrote or deleted.
        touched: Vec<u64>,
    },
    /// The handler ignored the event with a code of `ignores(...)`, or the host ignored it as a `duplicate`, because an
    /// event with the same id was handled before. The rows are unchanged.
    Ignored { code: String, detail: String },
    /// The handler or the SDK (`bad-payload`) rejected the event, or a row cannot hold one of the values (`invalid-value`,
    /// `overflow` and others). The rows are unchanged.
    Rejected { code: String, detail: String },
    /// The event waits for a row, or behind an earlier event of its topic and key that waits. It is projected again when
    /// the row is written: see [`Harness::after_waiting`](super::Harness::after_waiting).
    Waiting { row: String },
}

impl Handled {
    /// How many rows all changes together wrote or deleted.
    ///
    /// # Panics
    ///
    /// If the event was not applied.
    #[track_caller]
    pub fn expect_applied(self) -> u64 {
        match self {
            Self::Applied { touched, .. } => touched.into_iter().sum(),
            other => panic!("the event should have been applied: {other:?}"),
        }
    }

    /// The detail that was given with the code.
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

    /// The row that the event waits for, as text.
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

    /// The detail that was given with the code.
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
