//! Statements: the writes that a projection declares.

use std::convert::Infallible;

use projector_model::Value;
use projector_model::descriptor::{self, Assignment, OnMiss, Operation, StatementKind};

use super::table::{TableDeclaration, owned};

/// One call of a declared write. Derived by `Table` (the whole row), `Upsert`, `Update` and `Delete`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a statement",
    label = "cannot be written",
    note = "derive Table (the whole row), Upsert, Update or Delete for it"
)]
pub trait Statement: Sized {
    /// The statement that this type calls.
    const STATEMENT: StatementDeclaration;

    /// The arguments in the order of [`Change::arguments`](projector_model::Change): the columns that select the rows,
    /// then the columns that are set, then the version of a guarded delete.
    fn into_arguments(self) -> Vec<Value>;
}

/// The projection declares that it writes `S`, with `writes(S)` in the `#[on(…)]` of a handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not declare that it writes `{S}`",
    label = "this write is not declared",
    note = "add it to `writes(…)` in the `#[on(…)]` of this handler"
)]
pub trait Writes<S> {
    /// The statement's index in the descriptor.
    const INDEX: u16;
}

/// A second implementation for every projection, which nothing uses. If a projection declared only one statement, rustc
/// would otherwise assume that every write means this statement, and report a write of another type as a type mismatch.
impl<P: ?Sized> Writes<Infallible> for P {
    const INDEX: u16 = u16::MAX;
}

/// A statement, as a constant.
#[derive(Debug)]
pub struct StatementDeclaration {
    pub name: &'static str,
    pub table: &'static TableDeclaration,
    pub kind: StatementKind,
    /// The columns that select the rows. Empty for an upsert, whose key is among `fields`.
    pub by: &'static [&'static str],
    /// The other columns, each with its operation.
    pub fields: &'static [(&'static str, Operation)],
    pub guard: Option<&'static str>,
    pub on_miss: OnMiss,
}

impl StatementDeclaration {
    pub(crate) fn describe(&self) -> descriptor::Statement {
        let is_set = |column: &str| match self.kind {
            StatementKind::Upsert | StatementKind::InsertOnce => !self.table.key.contains(&column),
            StatementKind::Update => true,
            StatementKind::Delete => false,
        };
        let set = self.fields.iter().filter(|(column, _)| is_set(column));
        descriptor::Statement {
            name: self.name.into(),
            table: self.table.name.into(),
            kind: self.kind,
            by: owned(self.by),
            set: set
                .map(|(column, operation)| Assignment { column: (*column).into(), operation: *operation })
                .collect(),
            guard: self.guard.map(Into::into),
            on_miss: self.on_miss,
        }
    }
}
