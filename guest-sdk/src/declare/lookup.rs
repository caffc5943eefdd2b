//! Lookups: the reads that a projection declares.

use std::convert::Infallible;

use projector_model::Value;
use projector_model::descriptor;

use super::table::{Table, TableDeclaration, owned};

/// A declared read of whole rows. `derive(Table)` implements it (the row with a key), and so does `derive(Lookup)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read",
    label = "not a lookup",
    note = "derive Table (the row with a key) or Lookup for it"
)]
pub trait Lookup {
    /// The type of the rows that are read.
    type Row: Table;

    /// The lookup that this type calls.
    const LOOKUP: LookupDeclaration;
}

/// One call of a derived `Lookup`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` selects no rows",
    label = "not a lookup",
    note = "derive Lookup for it; the row with a key is read with `cx.get::<Row>(&key)?`"
)]
pub trait Query: Lookup {
    /// The values of the columns that select the rows, in the order of `by(…)`.
    fn into_arguments(self) -> Vec<Value>;
}

/// The projection declares that it reads `L`, with `reads(L)` in the `#[on(…)]` of a handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not declare that it reads `{L}`",
    label = "this read is not declared",
    note = "add it to `reads(…)` in the `#[on(…)]` of this handler"
)]
pub trait Reads<L> {
    /// The lookup's index in the descriptor.
    const INDEX: u16;
}

/// Improves rustc's messages: see the same implementation of [`Writes`](super::Writes).
impl<P: ?Sized> Reads<Infallible> for P {
    const INDEX: u16 = u16::MAX;
}

/// A lookup, as a constant.
#[derive(Debug)]
pub struct LookupDeclaration {
    pub name: &'static str,
    pub table: &'static TableDeclaration,
    pub by: &'static [&'static str],
    /// The largest number of rows that are returned, in the order of the key.
    pub limit: u32,
}

impl LookupDeclaration {
    pub(crate) fn describe(&self) -> descriptor::Lookup {
        descriptor::Lookup {
            name: self.name.into(),
            table: self.table.name.into(),
            by: owned(self.by),
            columns: self.table.columns.iter().map(|column| column.name.into()).collect(),
            limit: self.limit,
        }
    }
}
