//! What becomes of an event, as plain data.

use std::borrow::Cow;
use std::fmt;

use projector_model::Change;

/// What becomes of an event. Most often it is what the plugin answered at once, and is borrowed from
/// there.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<'a> {
    Apply(Cow<'a, [Change]>),
    Ignore { code: Cow<'a, str> },
    Dead(Cow<'a, Failure>),
}

/// Why an event cannot be projected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// Counted by: the plugin's own code, or the host's.
    pub code: String,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The plugin said so.
    Rejected,
    /// The plugin broke off.
    Trap,
    /// The plugin used more than it may.
    Limit,
    /// The plugin answered with what it did not declare, or what no store can hold.
    Invalid,
    /// The database refused the rows.
    Refused,
    /// The wall time ended before the fuel did: the machine's fault as likely as the plugin's.
    Timeout,
}

impl FailureKind {
    /// The word that is stored with a dead letter.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Rejected => "rejected",
            FailureKind::Trap => "trap",
            FailureKind::Limit => "limit",
            FailureKind::Invalid => "invalid",
            FailureKind::Refused => "refused",
            FailureKind::Timeout => "timeout",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind.as_str(), self.code, self.detail)
    }
}

impl Failure {
    pub fn new(kind: FailureKind, code: &str, detail: impl AsRef<str>) -> Self {
        Self { kind, code: code.into(), detail: printable(detail.as_ref()) }
    }
}

/// What a guest said, fit to be stored and shown: bounded, control characters escaped.
pub fn printable(text: &str) -> String {
    const MOST: usize = 4_000;
    let mut shown = String::with_capacity(text.len().min(MOST));
    for character in text.chars() {
        if shown.len() >= MOST {
            shown.push('…');
            break;
        }
        match character {
            '\n' | '\t' => shown.push(character),
            control if control.is_control() => shown.extend(control.escape_default()),
            plain => shown.push(plain),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_can_be_stored_and_shown() {
        assert_eq!(printable("a\0b\u{1b}[31m\nc"), "a\\u{0}b\\u{1b}[31m\nc");
        assert_eq!(printable(&"é".repeat(4_000)).chars().count(), 2_001);
    }
}
