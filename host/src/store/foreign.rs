//! Objects of other people: views, tables, functions, triggers and grants that the host did not make.
//!
//! What the host removes never takes one of them along. The host names them and refuses; a person decides
//! what becomes of them.

use serde::Serialize;

use super::{Generation, StoreError};

/// So many objects are named in a message.
const NAMED: usize = 20;

/// Who reads views of a generation: what they must be told when these are not the newest ones any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Readers {
    /// The schemas (Postgres), or the prefixes (SQLite), of the views.
    pub schema: String,
    /// Rights that roles have on the views, as `select on counts.seen to reporting`. SQLite has none.
    pub grants: Vec<String>,
    /// Objects that the host did not make, and that depend on the views.
    pub dependants: Vec<String>,
}

/// Refuses to remove something if that would remove or break objects that the host did not make.
pub(super) fn none_goes_along(what: &str, objects: &[String]) -> Result<(), StoreError> {
    if objects.is_empty() {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{what}: nothing is removed, because these objects are not Projector's, and would be lost or broken: {}. Drop them, or change them to read the newest views of the live generation, and try again",
        named(objects)
    )))
}

/// A generation, for a person.
pub(super) fn to_text(generation: &Generation) -> String {
    format!("generation {} of {}", generation.number, generation.projection)
}

/// The first of them, and how many more there are.
pub(crate) fn named(objects: &[String]) -> String {
    let first = objects.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match objects.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}, and {more} more"),
    }
}
