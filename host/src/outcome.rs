//! What becomes of an event, as plain data.

use std::borrow::Cow;
use std::fmt::{self, Write};

use projector_model::Change;

use crate::awaited::AwaitedRow;
pub use crate::failure::FailureKind;
use crate::ordering::KeyId;

/// What becomes of an event. Most often it is what the plugin answered at once, and is borrowed from
/// there.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<'a> {
    Apply(Cow<'a, [Change]>),
    Ignore {
        code: Cow<'a, str>,
    },
    /// An earlier event of its key failed, or one of its line waits: it waits behind that one.
    Park(KeyId),
    /// It needs a row that is not there yet. Later events of its line wait behind it.
    Wait {
        row: AwaitedRow,
        line: KeyId,
    },
    /// It failed.
    Dead {
        failure: Cow<'a, Failure>,
        /// The key whose later events wait behind it; `None`: none do.
        blocks: Option<KeyId>,
    },
}

impl Outcome<'_> {
    /// What becomes of an event of several logical topics, neither of which fails: it is applied, with the
    /// changes of both in their order, unless both ignore it, which counts as the first one does.
    pub fn and(self, next: Self) -> Self {
        match (self, next) {
            (Outcome::Apply(changes), Outcome::Apply(more)) => {
                let mut changes = changes.into_owned();
                changes.extend(more.into_owned());
                Outcome::Apply(Cow::Owned(changes))
            }
            (Outcome::Ignore { .. }, applied @ Outcome::Apply(_)) => applied,
            (open @ (Outcome::Dead { .. } | Outcome::Park(_) | Outcome::Wait { .. }), _) => open,
            (_, open @ (Outcome::Dead { .. } | Outcome::Park(_) | Outcome::Wait { .. })) => open,
            (first, Outcome::Ignore { .. }) => first,
        }
    }
}

/// Why an event cannot be projected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// Counted by: the plugin's own code, or the host's.
    pub code: String,
    pub detail: String,
    /// Where in the plugin a trap was, function by function.
    pub backtrace: Option<String>,
    /// What the database said, if it was the database that refused.
    pub refusal: Option<Box<Refusal>>,
}

/// What the database said of rows that it refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

impl fmt::Display for Refusal {
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

    pub fn refused(refusal: Refusal) -> Self {
        let failure = Self::new(FailureKind::Refused, "data", &refusal.message);
        Self { refusal: Some(Box::new(refusal)), ..failure }
    }
}

/// What a guest said, fit to be stored and shown: bounded, control characters escaped.
pub fn printable(text: &str) -> String {
    shown(text)
}

/// The same of what is yet to be written out, of which no more is written than is kept.
pub fn shown(said: impl fmt::Display) -> String {
    let mut printable = Printable(String::new());
    // Fails where it is full.
    let _ = write!(printable, "{said}");
    printable.0
}

struct Printable(String);

impl fmt::Write for Printable {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const MOST: usize = 4_000;
        let Printable(shown) = self;
        for character in text.chars() {
            if shown.len() >= MOST {
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
    fn what_a_guest_says_can_be_stored_and_shown() {
        assert_eq!(printable("a\0b\u{1b}[31m\nc"), "a\\u{0}b\\u{1b}[31m\nc");
        assert_eq!(printable(&"é".repeat(4_000)).chars().count(), 2_001);
    }
}
