//! Tables: the rows that a projection owns.

use projector_model::Value;
use projector_model::descriptor::{self, IndexKind};
use projector_model::value::Type;

/// A row of a table that the projection owns. Derived: see [`derive@crate::Table`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a table",
    label = "not a table",
    note = "derive Table for it: #[derive(Table)]"
)]
pub trait Table: Sized + 'static {
    /// The types of the key's columns, in the key's order.
    type Key;

    /// The table that holds the rows of this type.
    const TABLE: TableDeclaration;

    /// Reads a whole stored row, its values in the columns' order. The error names the column.
    fn from_row(values: &[Value]) -> Result<Self, String>;
}

/// A table, as a constant.
#[derive(Debug)]
pub struct TableDeclaration {
    pub name: &'static str,
    pub columns: &'static [ColumnDeclaration],
    /// The names of the primary key's columns, in order.
    pub key: &'static [&'static str],
    pub indexes: &'static [IndexDeclaration],
    pub lineage: bool,
}

/// A column of a table, as a constant.
#[derive(Debug)]
pub struct ColumnDeclaration {
    pub name: &'static str,
    pub ty: Type,
    pub nullable: bool,
}

/// An index of a table, as a constant.
#[derive(Debug)]
pub struct IndexDeclaration {
    pub columns: &'static [&'static str],
    pub kind: IndexKind,
}

impl TableDeclaration {
    pub(crate) fn describe(&self) -> descriptor::Table {
        let column = |column: &ColumnDeclaration| descriptor::Column {
            name: column.name.into(),
            ty: column.ty,
            nullable: column.nullable,
        };
        let index =
            |index: &IndexDeclaration| descriptor::Index { columns: owned(index.columns), kind: index.kind };
        descriptor::Table {
            name: self.name.into(),
            columns: self.columns.iter().map(column).collect(),
            key: owned(self.key),
            indexes: self.indexes.iter().map(index).collect(),
            lineage: self.lineage,
        }
    }
}

pub(super) fn owned(names: &[&str]) -> Vec<String> {
    names.iter().copied().map(String::from).collect()
}
