//! Objects of other people: views, tables, functions, triggers and grants that the host did not make.
//!
//! What the host removes never takes one of them along. The host names them and refuses; a person decides
//! what becomes of them.

use projector_core::generation::Generation;
use projector_core::refusal::Refusal;
use serde::Serialize;

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
pub(super) fn none_goes_along(what: &str, objects: &[String]) -> Result<(), Refusal> {
    match objects.is_empty() {
        true => Ok(()),
        false => Err(Refusal::ForeignObjects { what: what.to_owned(), objects: objects.to_vec() }),
    }
}

/// A generation, for a person.
pub(super) fn to_text(generation: &Generation) -> String {
    format!("generation {} of {}", generation.number, generation.projection)
}
