//! Rust types that a column can have.

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
    message = "`{Self}` cannot be the type of a column",
    label = "not a column type",
    note = "a column is a String, bool, i64 (or smaller), f64, Decimal, Timestamp, Date, Uuid, Bytes, Json<…>, or an Option of one of these",
    note = "store a struct or a list as `Json<…>`, and an unsigned 64-bit number as an i64 or a Decimal"
)]
pub trait Column: Sized {
    /// Whether the column may be null.
    const NULLABLE: bool = false;

    /// The value to store.
    fn into_value(self) -> Value;

    /// Reads a stored value. The error says which type was found, and which was expected.
    fn from_value(value: &Value) -> Result<Self, String>;
}

/// A column whose Rust type alone determines its type in the database.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not determine the type of the column in the database",
    label = "not a column type by itself",
    note = "declare the digits of a Decimal: `#[column(decimal(18, 2))]`",
    note = "store a struct or a list as `Json<…>`, and an unsigned 64-bit number as an i64 or a Decimal",
    note = "any other column is a String, bool, i64 (or smaller), f64, Timestamp, Date, Uuid, Bytes, or an Option of one of these"
)]
pub trait TypedColumn: Column {
    /// The type of the column in the database.
    const TYPE: Type;
}

/// A column that needs `#[column(decimal(precision, scale))]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a Decimal",
    label = "`#[column(decimal(…))]` is for a Decimal",
    note = "remove the attribute, or make the field a Decimal or an Option<Decimal>"
)]
pub trait DecimalColumn: Column {}

/// A type whose values can be written to a column of type `C`: `C` itself, or `T` if `C` is `Option<T>`.
#[diagnostic::on_unimplemented(
    message = "the table's column is a `{C}`, but this field is a `{Self}`",
    label = "not the type of the table's column",
    note = "give the field the type that the field of the same name has in the table"
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
