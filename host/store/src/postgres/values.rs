//! Values to and from Postgres, by the type of their column.

use projector_model::{Type, Value};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef,
};
use sqlx::{Arguments, Decode, Encode, Postgres, Row};
use uuid::Uuid;

/// From 1970-01-01 to 2000-01-01, from which Postgres counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The type of the array of a column's values, and the cast of a single value, if it needs one.
pub(super) fn array_type(ty: Type) -> (&'static str, Option<String>) {
    match ty {
        Type::Boolean => ("bool[]", None),
        Type::Int64 => ("int8[]", None),
        Type::Float64 => ("float8[]", None),
        Type::Decimal { .. } => ("text[]", Some("numeric".into())),
        Type::Text => ("text[]", None),
        Type::Bytes => ("bytea[]", None),
        Type::Json => ("text[]", Some("jsonb".into())),
        Type::Timestamp => ("timestamptz[]", None),
        Type::Date => ("date[]", None),
        Type::Uuid => ("uuid[]", None),
    }
}

/// Binds one column of many rows as an array.
pub(super) fn bind<'v>(
    arguments: &mut PgArguments,
    ty: Type,
    values: impl Iterator<Item = &'v Value>,
) -> Result<(), BoxDynError> {
    macro_rules! array {
        ($($pattern:pat => $value:expr),+) => {
            values.map(|value| match value { $($pattern => Some($value),)+ _ => None }).collect::<Vec<Option<_>>>()
        };
    }
    match ty {
        Type::Boolean => arguments.add(array!(Value::Boolean(value) => *value)),
        Type::Int64 => arguments.add(array!(Value::Int64(value) => *value)),
        Type::Float64 => arguments.add(array!(Value::Float64(value) => *value)),
        Type::Decimal { .. } => arguments.add(array!(Value::Decimal(value) => value.to_string())),
        Type::Text => arguments.add(array!(Value::Text(value) => value.as_str())),
        Type::Bytes => arguments.add(array!(Value::Bytes(value) => value.as_slice())),
        Type::Json => arguments.add(array!(Value::Json(value) => value.as_str())),
        Type::Timestamp => arguments.add(array!(Value::Timestamp(value) => Timestamp(*value))),
        Type::Date => arguments.add(array!(Value::Date(value) => Date(*value))),
        Type::Uuid => arguments.add(array!(Value::Uuid(value) => Uuid::from_bytes(*value))),
    }
}

/// The expression that selects a column so that [`decode`] can read it.
pub(super) fn selected(column: &str, ty: Type) -> String {
    match ty {
        Type::Decimal { .. } | Type::Json => format!("{column}::text"),
        _ => column.to_owned(),
    }
}

pub(super) fn decode(row: &PgRow, at: usize, ty: Type) -> Result<Value, sqlx::Error> {
    let invalid = |problem: String| sqlx::Error::Decode(problem.into());
    let value = match ty {
        Type::Boolean => row.try_get::<Option<bool>, _>(at)?.map(Value::Boolean),
        Type::Int64 => row.try_get::<Option<i64>, _>(at)?.map(Value::Int64),
        Type::Float64 => row.try_get::<Option<f64>, _>(at)?.map(Value::Float64),
        Type::Decimal { .. } => row
            .try_get::<Option<String>, _>(at)?
            .map(|text| text.parse().map(Value::Decimal))
            .transpose()
            .map_err(invalid)?,
        Type::Text => row.try_get::<Option<String>, _>(at)?.map(Value::Text),
        Type::Bytes => row.try_get::<Option<Vec<u8>>, _>(at)?.map(Value::Bytes),
        Type::Json => row.try_get::<Option<String>, _>(at)?.map(Value::Json),
        Type::Timestamp => row.try_get::<Option<Timestamp>, _>(at)?.map(|value| Value::Timestamp(value.0)),
        Type::Date => row.try_get::<Option<Date>, _>(at)?.map(|value| Value::Date(value.0)),
        Type::Uuid => row.try_get::<Option<Uuid>, _>(at)?.map(|value| Value::Uuid(*value.as_bytes())),
    };
    Ok(value.unwrap_or(Value::Null))
}

/// Microseconds since 1970. The contract's range is within the range of Postgres.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp(pub(super) i64);

/// Days since 1970.
#[derive(Clone, Copy)]
struct Date(i32);

macro_rules! binary {
    ($name:ident, $inner:ty, $type:literal, $epoch:expr) => {
        impl sqlx::Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_name($type)
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::with_name(concat!($type, "[]"))
            }
        }

        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <$inner as Encode<'_, Postgres>>::encode(self.0 - $epoch, buffer)
            }
        }

        impl Decode<'_, Postgres> for $name {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                if value.format() != PgValueFormat::Binary {
                    return Err(concat!("a ", $type, " in text form").into());
                }
                Ok(Self(<$inner as Decode<'_, Postgres>>::decode(value)? + $epoch))
            }
        }
    };
}

binary!(Timestamp, i64, "timestamptz", EPOCH_MICROS);
binary!(Date, i32, "date", EPOCH_DAYS);
