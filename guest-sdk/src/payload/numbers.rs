//! The numbers of a payload that serde_json alone would change.
//!
//! serde_json reads a number that is not an integer of 64 bits into an `f64`, and a long one not always
//! into the nearest. A short number comes out as it went in. So only long ones, and those with an
//! exponent, are looked at; nearly every payload has none that would change.

use projector_model::json;

/// What serde_json would change of a document.
#[derive(Debug, Default)]
pub(super) struct Numbers<'j> {
    /// In the order of what serde_json reads.
    changed: Vec<Changed<'j>>,
}

#[derive(Debug)]
struct Changed<'j> {
    text: &'j str,
    read: f64,
    nearest: f64,
    is_exact: bool,
}

/// So many characters hold at most 15 digits, which an `f64` and serde_json's arithmetic keep.
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

    /// The nearest `f64` to the number that serde_json read as this one.
    pub(super) fn nearest(&self, read: f64) -> f64 {
        self.find(read).map_or(read, |changed| changed.nearest)
    }

    /// The same for a reader of any value, to which the digits may matter. The error is the number that
    /// has more of them than an `f64`.
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
    /// `None` for a number that serde_json reads as it is, or not at all.
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
