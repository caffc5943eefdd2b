//! Whole tables against whole tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// By column.
pub(crate) type Row = BTreeMap<&'static str, Value>;
/// By primary key; several columns are joined by blanks.
pub(crate) type Rows = BTreeMap<String, Row>;

const SHOWN: usize = 5;

/// The first differences for a person; `None`: there are none.
pub(crate) fn difference(expected: &Rows, found: &Rows) -> Option<String> {
    let mut differences = Vec::new();
    for (key, row) in expected {
        match found.get(key) {
            None => differences.push(format!("{key} is missing; expected {row:?}")),
            Some(other) if other != row => {
                let columns = row.iter().filter(|(column, value)| other.get(*column) != Some(*value));
                let columns: Vec<String> = columns
                    .map(|(column, value)| {
                        format!("{column} is {}, expected {value}", other.get(column).unwrap_or(&Value::Null))
                    })
                    .collect();
                differences.push(format!("{key}: {}", columns.join("; ")));
            }
            Some(_) => {}
        }
    }
    let unexpected = found.iter().filter(|(key, _)| !expected.contains_key(*key));
    differences.extend(unexpected.map(|(key, row)| format!("{key} should not be there: {row:?}")));
    if differences.is_empty() {
        return None;
    }
    let mut text = format!(
        "{} rows differ; {} are there, {} expected; the first of them:",
        differences.len(),
        found.len(),
        expected.len()
    );
    for difference in differences.iter().take(SHOWN) {
        let _ = write!(text, "\n  {difference}");
    }
    Some(text)
}

#[track_caller]
pub(crate) fn assert_same(what: &str, expected: &Rows, found: &Rows) {
    assert!(!expected.is_empty(), "{what}: an empty table proves nothing");
    if let Some(difference) = difference(expected, found) {
        panic!("{what}: {difference}");
    }
}
