//! What breaks a rule, and the list of those that are still allowed.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place that breaks a rule.
pub(crate) struct Violation {
    /// Relative to the workspace.
    file: PathBuf,
    line: usize,
    /// The rule and who breaks it. It names no number that changes with every edit.
    what: String,
    /// What to do about it.
    remedy: String,
}

impl Violation {
    pub(crate) fn new(file: &Path, line: usize, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Violation { file: file.to_owned(), line, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file.display(), self.line, self.what, self.remedy)
    }
}

/// Drops the violations that `list` allows. An entry that allows nothing is a violation itself, so that
/// the list only shrinks.
///
/// `list` is the text of the file at `path`. It has a line `CHECK FILE: WHAT` for each place that breaks a
/// rule of `check`; lines that start with `#` are comments.
pub(crate) fn without_allowed(check: &str, found: Vec<Violation>, path: &Path, list: &str) -> Vec<Violation> {
    let entries = list.lines().enumerate().filter(|(_, entry)| entry.split(' ').next() == Some(check));
    let entries: Vec<_> = entries.map(|(at, entry)| (at + 1, entry)).collect();
    let entry_of =
        |violation: &Violation| format!("{check} {}: {}", violation.file.display(), violation.what);
    let (allowed, mut left): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|violation| entries.iter().any(|(_, entry)| *entry == entry_of(violation)));
    for (line, entry) in entries {
        if !allowed.iter().any(|violation| entry_of(violation) == entry) {
            let what = format!("`{entry}` allows nothing");
            left.push(Violation::new(path, line, what, "delete the line; it is no longer needed"));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long() -> Violation {
        Violation::new(Path::new("src/a.rs"), 1, "longer than 450 lines", "split it")
    }

    fn shown(list: &str, found: Vec<Violation>) -> Vec<String> {
        let left = without_allowed("sizes", found, Path::new("allowed.txt"), list);
        left.iter().map(Violation::to_string).collect()
    }

    #[test]
    fn a_violation_stays_unless_it_is_on_the_list() {
        let split_it = "src/a.rs:1: longer than 450 lines: split it";
        assert_eq!(shown("", vec![long()]), [split_it]);
        assert_eq!(shown("modules src/a.rs: longer than 450 lines", vec![long()]), [split_it]);
        assert!(shown("# why\nsizes src/a.rs: longer than 450 lines\n", vec![long()]).is_empty());
    }

    #[test]
    fn an_entry_that_allows_nothing_is_a_violation() {
        let list = "# why\nsizes src/a.rs: longer than 450 lines\n";
        let left = shown(list, vec![]);
        assert_eq!(left.len(), 1);
        assert!(left[0].starts_with("allowed.txt:2: `sizes src/a.rs: longer than 450 lines`"), "{left:?}");
    }
}
