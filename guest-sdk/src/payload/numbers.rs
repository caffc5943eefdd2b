//! The numbers of a payload that serde_json would change.
//!
//! Why: serde_json reads a number that is not a 64-bit integer as an `f64`, and a long number not always as the nearest
//! `f64`. It never changes a short number. So only long numbers, and numbers with an exponent, are examined. Nearly every
//! payload has no number that would change, and is read only once.

use projector_model::json;

/// The numbers of a document that serde_json would change.
#[derive(Debug, Default)]
pub(super) struct Numbers<'j> {
    /// Sorted by the `f64` that serde_json reads.
    changed: Vec<Changed<'j>>,
}

#[derive(Debug)]
struct Changed<'j> {
    /// The number as it is written.
    text: &'j str,
    /// The `f64` that serde_json reads.
    read: f64,
    /// The nearest `f64`.
    nearest: f64,
    /// Whether 64 bits hold all digits.
    is_exact: bool,
}

/// In characters. A number of this length has at most 15 digits, which serde_json always reads exactly.
const SHORT: usize = 15;

impl<'j> Numbers<'j> {
    pub(super) fn of(json: &'j [u8]) -> Self {
        let mut changed: Vec<_> = json::numbers(json).filter_map(Changed::of).collect();
        changed.sort_by(|one, other| one.read.total_cmp(&other.read));
        Self { changed }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// The nearest `f64` to the number that serde_json has read as `read`.
    pub(super) fn nearest(&self, read: f64) -> f64 {
        self.find(read).map_or(read, |changed| changed.nearest)
    }

    /// The same for a type that takes any value, for which every digit may matter. The error is the text of a number that
    /// no `f64` holds exactly.
    pub(super) fn exact(&self, read: f64) -> Result<f64, &'j str> {
        match self.find(read) {
            Some(changed) if !changed.is_exact => Err(changed.text),
            Some(changed) => Ok(changed.nearest),
            None => Ok(read),
        }
    }

    fn find(&self, read: f64) -> Option<&Changed<'j>> {
        let at = self.changed.binary_search_by(|changed| changed.read.total_cmp(&read)).ok()?;
        Some(&self.changed[at])
    }
}

impl<'j> Changed<'j> {
    /// `None` for a number that serde_json reads unchanged, or cannot read.
    fn of(text: &'j [u8]) -> Option<Self> {
        if text.len() <= SHORT && !text.iter().any(|byte| matches!(byte, b'e' | b'E')) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        if text.parse::<u64>().is_ok() || text.parse::<i64>().is_ok() {
            return None;
        }
        let read: f64 = serde_json::from_str(text).ok()?;
        let nearest: f64 = text.parse().ok()?;
        let is_exact = json::fits_64_bits(text);
        let is_changed = !is_exact || nearest.to_bits() != read.to_bits();
        is_changed.then_some(Self { text, read, nearest, is_exact })
    }
}
