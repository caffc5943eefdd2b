//! What a plugin answers at run time: calls of what it has declared.

use std::fmt;

use crate::value::Value;

/// One call of a declared statement.
///
/// `arguments` are the values of the statement's `by` columns (the key, for an upsert or an
/// insert), then those of its `set` columns, then, for a guarded delete, the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub statement: u16,
    pub arguments: Vec<Value>,
}

impl Change {
    /// What it takes in memory.
    pub fn size_bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.arguments.iter().map(Value::size_bytes).sum::<usize>()
    }
}

/// One call of a declared lookup; `arguments` are the values of its `by` columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupCall {
    pub lookup: u16,
    pub arguments: Vec<Value>,
}

impl LookupCall {
    /// What it takes in memory.
    pub fn size_bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.arguments.iter().map(Value::size_bytes).sum::<usize>()
    }

    /// Whether an event that needs these rows says "not yet": it was shown all of them. So it waits for the first.
    pub fn say_not_yet<'s>(needed: &[Self], shown: impl Iterator<Item = &'s Self> + Clone) -> bool {
        !needed.is_empty() && needed.iter().all(|call| shown.clone().any(|shown| shown == call))
    }
}

/// Why an event cannot be projected: a code to count by, and what a person needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub code: String,
    pub detail: String,
}

impl Rejection {
    pub fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: code.into(), detail: detail.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// Codes that a plugin need not declare, because the host or the SDK gives them.
pub mod codes {
    /// SDK: the record's value is not what the handler takes.
    pub const BAD_PAYLOAD: &str = "bad-payload";
    /// The plugin answered with a change that it did not declare, or with wrong arguments.
    pub const INVALID_CHANGE: &str = "invalid-change";
    /// A value that a store cannot hold, the column named.
    pub const INVALID_VALUE: &str = "invalid-value";
    /// A null in a column by which rows are selected.
    pub const NULL_KEY: &str = "null-key";
    /// An `add` beyond the column's range.
    pub const OVERFLOW: &str = "overflow";
    /// An update or delete with `on-miss: reject` touched no row.
    pub const MISSED: &str = "missed";

    /// Host, of an ignored event: one with the same id was handled before.
    pub const DUPLICATE: &str = "duplicate";
    /// Host: the row that the event waited for did not come in time.
    pub const NOT_YET: &str = "not-yet";

    /// Every code above: a descriptor that declares one of them is refused.
    pub const BUILT_IN: &[&str] =
        &[BAD_PAYLOAD, INVALID_CHANGE, INVALID_VALUE, NULL_KEY, OVERFLOW, MISSED, DUPLICATE, NOT_YET];
}
