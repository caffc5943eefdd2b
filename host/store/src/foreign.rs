//! Foreign objects: views, tables, functions, triggers and grants that the host did not make.
//!
//! Invariant: the host removes none of them. Where a removal would remove or break one, the host refuses it and names
//! the object, and a person decides.

use projector_core::generation::Generation;
use projector_core::refusal::Refusal;

/// Refuses a removal if it would remove or break these objects.
pub(crate) fn refuse_if_any(what: &str, objects: &[String]) -> Result<(), Refusal> {
    match objects.is_empty() {
        true => Ok(()),
        false => Err(Refusal::ForeignObjects { what: what.to_owned(), objects: objects.to_vec() }),
    }
}

/// A generation, for a person.
pub(crate) fn to_text(generation: &Generation) -> String {
    format!("generation {} of {}", generation.number, generation.projection)
}
