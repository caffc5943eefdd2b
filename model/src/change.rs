//! What a plugin answers at run time: calls of its declared statements and lookups.

use std::fmt;

use crate::value::Value;

/// One call of a declared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Index into the descriptor's statements.
    pub statement: u16,
    /// First the values of the statement's `by` columns (for an upsert or insert-once: of the key), then the values of
    /// its `set` columns, then, for a guarded delete, the version.
    pub arguments: Vec<Value>,
}

impl Change {
    /// How much memory the change occupies, in bytes.
    pub fn size_bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.arguments.iter().map(Value::size_bytes).sum::<usize>()
    }
}

/// One call of a declared lookup.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupCall {
    /// Index into the descriptor's lookups.
    pub lookup: u16,
    /// The values of the lookup's `by` columns.
    pub arguments: Vec<Value>,
}

impl LookupCall {
    /// How much memory the call occupies, in bytes.
    pub fn size_bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.arguments.iter().map(Value::size_bytes).sum::<usize>()
    }

    /// Whether an answer that needs these rows means "not yet".
    ///
    /// It does if the event has already been shown all of them: then reading them again brings nothing new, and the
    /// event waits for the first of these rows.
    pub fn means_not_yet<'s>(needed: &[Self], shown: impl Iterator<Item = &'s Self> + Clone) -> bool {
        !needed.is_empty() && needed.iter().all(|call| shown.clone().any(|shown| shown == call))
    }
}

/// Why an event cannot be projected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A declared code, or one of [`codes`]. Rejections are counted by their code.
    pub code: String,
    /// The reason, for the operator.
    pub detail: String,
}

impl Rejection {
    /// A rejection with this code and detail.
    pub fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: code.into(), detail: detail.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// The built-in codes. A plugin does not declare them, because the host or the SDK uses them.
pub mod codes {
    /// From the SDK: the record's value cannot be read as the handler's payload.
    pub const BAD_PAYLOAD: &str = "bad-payload";
    /// The plugin called a statement or lookup that is not declared for the topic, or with a wrong number of arguments.
    pub const INVALID_CHANGE: &str = "invalid-change";
    /// A store cannot hold the value. The detail names the column.
    pub const INVALID_VALUE: &str = "invalid-value";
    /// A column that selects rows was given null.
    pub const NULL_KEY: &str = "null-key";
    /// The result of an `add` is outside the column's range.
    pub const OVERFLOW: &str = "overflow";
    /// An update or delete with `on-miss: reject` found no row.
    pub const MISSED: &str = "missed";

    /// From the host, for an ignored event: an event with the same id was handled before.
    pub const DUPLICATE: &str = "duplicate";
    /// From the host: the row that the event waited for was not written in time.
    pub const NOT_YET: &str = "not-yet";

    /// All built-in codes. The check refuses a descriptor that declares one of them.
    pub const BUILT_IN: &[&str] =
        &[BAD_PAYLOAD, INVALID_CHANGE, INVALID_VALUE, NULL_KEY, OVERFLOW, MISSED, DUPLICATE, NOT_YET];
}
