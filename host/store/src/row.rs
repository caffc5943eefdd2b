//! Rows of the host's own tables, read into structs.

/// Implements `FromRow` of both databases for a struct: each field is read from the column of its name, or of the name
/// after `=`. A field after `..` is a struct of its own, which is read from the same row; these fields come first.
///
/// sqlx's derive does the same, but to build it, cargo compiles sqlx with both databases once more.
macro_rules! from_row {
    (@impl $row:ty, $name:ident { $(..$inner:ident),* ; $($field:ident $(= $column:literal)?),* }) => {
        impl sqlx::FromRow<'_, $row> for $name {
            fn from_row(row: &$row) -> sqlx::Result<Self> {
                use sqlx::Row as _;
                Ok(Self {
                    $($inner: sqlx::FromRow::from_row(row)?,)*
                    $($field: row.try_get(from_row!(@column $field $($column)?))?,)*
                })
            }
        }
    };
    (@column $field:ident) => { stringify!($field) };
    (@column $field:ident $column:literal) => { $column };
    ($name:ident { $(..$inner:ident,)* $($field:ident $(= $column:literal)?),* }) => {
        from_row! { @impl sqlx::postgres::PgRow, $name { $(..$inner),* ; $($field $(= $column)?),* } }
        from_row! { @impl sqlx::sqlite::SqliteRow, $name { $(..$inner),* ; $($field $(= $column)?),* } }
    };
}
