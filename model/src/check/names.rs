//! The names in a descriptor: what they may look like, and that each is declared once.
//!
//! Two kinds of names differ. An *identifier* (a table or column) becomes part of SQL. A *label* (a statement, lookup,
//! code or ordering group) is for people and metrics, and never becomes part of SQL.

use std::collections::HashSet;

use crate::change::codes;
use crate::descriptor::Code;
use crate::names;
use crate::problem::Report;
use crate::reserved;

/// Postgres cuts off longer identifiers without an error.
const MAX_IDENTIFIER_BYTES: usize = 63;

/// The place of an entry in one of the descriptor's lists: `tables[0] "orders"`.
pub(super) fn place(list: &str, at: usize, name: &str) -> String {
    format!("{list}[{at}] {name:?}")
}

/// The projection's name, from which the host derives schemas and consumer groups.
pub(super) fn projection(report: &mut Report, name: &str) {
    if !names::is_well_formed(name) {
        let most = names::MAX_BYTES;
        report.add(
            "name",
            format!("{name:?} cannot be the name of a projection"),
            format!(
                "write lowercase letters, digits and single dashes, beginning with a letter, at most {most} characters"
            ),
        );
    }
    if let Some(reason) = names::taken(name) {
        report.add("name", reason, "choose another name");
    }
    if reserved::is_word(&names::schema(name)) {
        report.add(
            "name",
            format!("{name:?} is a reserved word of SQL"),
            "choose another name: readers would have to quote this one",
        );
    }
}

pub(super) fn identifier(report: &mut Report, place: &str, name: &str) {
    let well_formed = name.len() <= MAX_IDENTIFIER_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !well_formed {
        report.add(
            place,
            format!("{name:?} cannot be an identifier"),
            format!(
                "write lowercase letters, digits and underscores, beginning with a letter, at most {MAX_IDENTIFIER_BYTES} characters"
            ),
        );
    } else if reserved::is_word(name) || name.starts_with("sqlite_") || name.starts_with("pg_") {
        report.add(place, format!("{name:?} is reserved by Postgres or SQLite"), "choose another name");
    }
}

pub(super) fn label(report: &mut Report, place: &str, name: &str) {
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_IDENTIFIER_BYTES || !name.bytes().all(legal) {
        report.add(
            place,
            format!("{name:?} cannot be a name"),
            format!(
                "write lowercase letters, digits, dashes, dots and underscores, at most {MAX_IDENTIFIER_BYTES} characters"
            ),
        );
    }
}

pub(super) fn unique<'a>(report: &mut Report, place: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            report.add(place, format!("{name:?} is listed twice"), "list each name once");
        }
    }
}

/// The codes of one list, `ignores` or `rejects`.
pub(super) fn codes(report: &mut Report, list: &str, codes: &[Code]) {
    unique(report, list, codes.iter().map(|code| code.code.as_str()));
    for (at, code) in codes.iter().enumerate() {
        let place = place(list, at, &code.code);
        label(report, &place, &code.code);
        if codes::BUILT_IN.contains(&code.code.as_str()) {
            report.add(&place, "this code is built into Projector", "choose another code");
        }
    }
}
