//! Rust types as columns.

pub(crate) mod bytes;
pub(crate) mod json;
pub(crate) mod key;
mod scalar;

use projector_model::Value;
use projector_model::value::Type;

/// A type that a column can have.
///
/// Implemented for `String`, `bool`, the integers up to `i64`, `f64`, [`Decimal`](crate::Decimal),
/// [`Timestamp`](crate::Timestamp), [`Date`](crate::Date), [`Uuid`](crate::Uuid),
/// [`Json`](crate::Json), [`Bytes`](crate::Bytes), and for an `Option` of each, which makes the
/// column nullable.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a type of column",
    label = "not a column",
    note = "a column is a String, bool, i64 (or smaller), f64, Decimal, Timestamp, Date, Uuid, Bytes, Json<…>, or an Option of one",
    note = "a struct or a list is stored as `Json<…>`; an unsigned 64-bit number as an i64 or a Decimal"
)]
pub trait Column: Sized {
    const NULLABLE: bool = false;

    fn into_value(self) -> Value;

    /// Reads a stored value. The error says what was found instead.
    fn from_value(value: &Value) -> Result<Self, String>;
}

/// A column whose type in the database follows from its Rust type alone.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say its type in the database",
    label = "not a column by itself",
    note = "a Decimal is declared with its digits: `#[column(decimal(18, 2))]`",
    note = "a struct or a list is stored as `Json<…>`; an unsigned 64-bit number as an i64 or a Decimal",
    note = "else a column is a String, bool, i64 (or smaller), f64, Timestamp, Date, Uuid, Bytes, or an Option of one"
)]
pub trait TypedColumn: Column {
    const TYPE: Type;
}

/// A column that needs `#[column(decimal(precision, scale))]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a Decimal",
    label = "`#[column(decimal(…))]` is for a Decimal",
    note = "take the attribute away, or make the field a Decimal or an Option<Decimal>"
)]
pub trait DecimalColumn: Column {}

/// A value that can be written to a column of type `C`: one of that type, or one that is never
/// null for a column that may be.
#[diagnostic::on_unimplemented(
    message = "the table's column is a `{C}`, and this field is a `{Self}`",
    label = "another type than the table's column",
    note = "give the field the type of the table's field of the same name"
)]
pub trait Fits<C> {}

impl<T: Column> Fits<T> for T {}
impl<T: Column> Fits<Option<T>> for T {}

impl<T: Column> Column for Option<T> {
    const NULLABLE: bool = true;

    fn into_value(self) -> Value {
        self.map_or(Value::Null, T::into_value)
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        if value.is_null() { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

impl<T: TypedColumn> TypedColumn for Option<T> {
    const TYPE: Type = T::TYPE;
}

impl<T: DecimalColumn> DecimalColumn for Option<T> {}

fn mismatch<T>(value: &Value, expected: &str) -> Result<T, String> {
    Err(format!("{} found, {expected} expected", value.type_name()))
}
