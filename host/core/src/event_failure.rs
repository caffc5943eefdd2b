//! The failure of one event: its kind, a code that is counted, and the message of the database or the
//! plugin.

use std::fmt::{self, Write};

use crate::failure::FailureKind;

/// Why an event cannot be projected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// The plugin's code, or the host's. Failures are counted by code.
    pub code: String,
    pub detail: String,
    /// The functions of the plugin on the stack of a trap.
    pub backtrace: Option<String>,
    /// The database's refusal, if the database refused the event's rows.
    pub refusal: Option<Box<DatabaseRefusal>>,
}

/// Why the database refuses rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseRefusal {
    pub message: String,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

impl fmt::Display for DatabaseRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind.as_str(), self.code, self.detail)
    }
}

impl Failure {
    pub fn new(kind: FailureKind, code: &str, detail: impl AsRef<str>) -> Self {
        Self { kind, code: code.into(), detail: printable(detail.as_ref()), backtrace: None, refusal: None }
    }

    pub fn refused(refusal: DatabaseRefusal) -> Self {
        let failure = Self::new(FailureKind::Refused, "data", &refusal.message);
        Self { refusal: Some(Box::new(refusal)), ..failure }
    }
}

/// Makes a text fit to be stored and shown: at most about 4,000 bytes, with control characters escaped.
pub fn printable(text: &str) -> String {
    shown(text)
}

/// Like [`printable`], for a value, which is formatted only up to the bound.
pub fn shown(value: impl fmt::Display) -> String {
    let mut printable = Printable(String::new());
    // Fails when the bound is reached.
    let _ = write!(printable, "{value}");
    printable.0
}

struct Printable(String);

impl fmt::Write for Printable {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const MOST_BYTES: usize = 4_000;
        let Printable(shown) = self;
        for character in text.chars() {
            if shown.len() >= MOST_BYTES {
                shown.push('…');
                return Err(fmt::Error);
            }
            match character {
                '\n' | '\t' => shown.push(character),
                control if control.is_control() => shown.extend(control.escape_default()),
                plain => shown.push(plain),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_guest_can_be_stored_and_shown() {
        assert_eq!(printable("a\0b\u{1b}[31m\nc"), "a\\u{0}b\\u{1b}[31m\nc");
        assert_eq!(printable(&"é".repeat(4_000)).chars().count(), 2_001);
    }
}
