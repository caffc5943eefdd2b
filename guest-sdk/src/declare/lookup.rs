//! Lookups: the reads that a projection can make.

use std::convert::Infallible;

use projector_model::Value;
use projector_model::descriptor;

use super::table::{Table, TableDeclaration, owned};

/// A declared read of whole rows. Derived by `Table` (the row of a key) and by `Lookup`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read",
    label = "not a lookup",
    note = "derive one of Table (the row of a key) and Lookup for it"
)]
pub trait Lookup {
    type Row: Table;

    const LOOKUP: LookupDeclaration;
}

/// One call of a derived `Lookup`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` selects no rows",
    label = "not a lookup",
    note = "derive Lookup for it; the row of a key is read with `cx.get::<Row>(&key)?`"
)]
pub trait Query: Lookup {
    /// The values of the columns that select the rows, in declared order.
    fn into_arguments(self) -> Vec<Value>;
}

/// The projection declares that it reads `L`: `reads(L)` in one of its handlers' `#[on(…)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` reads `{L}` without having declared it",
    label = "not among the declared reads",
    note = "add it to `reads(…)` in the `#[on(…)]` of this handler"
)]
pub trait Reads<L> {
    /// The lookup's index in the descriptor.
    const INDEX: u16;
}

/// For the sake of rustc's messages, as with [`Writes`](super::Writes).
impl<P: ?Sized> Reads<Infallible> for P {
    const INDEX: u16 = u16::MAX;
}

#[derive(Debug)]
pub struct LookupDeclaration {
    pub name: &'static str,
    pub table: &'static TableDeclaration,
    pub by: &'static [&'static str],
    /// At most this many rows, in the order of the key.
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
