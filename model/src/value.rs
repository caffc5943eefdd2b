//! The values that a plugin and a table exchange, and their types.
//!
//! Why: a value means the same in Postgres, in SQLite and in a plugin. A value that one of the stores cannot hold is
//! refused ([`Value::fit`]), and never changed silently.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decimal::{Decimal, MAX_PRECISION};
use crate::json;

/// The type of a column. In JSON a type is written as a string: `"text"`, `"decimal(18,2)"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub enum Type {
    Boolean,
    Int64,
    /// IEEE 754 double. NaN rejects its event, because SQLite cannot store NaN.
    Float64,
    /// Exact decimal with at most `precision` digits in total (1 to 38), of which `scale` stand after the point. A value
    /// with more digits rejects its event; nothing is rounded.
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// UTF-8 without NUL characters, ordered by its bytes.
    Text,
    Bytes,
    /// A JSON document. Stores compare documents by meaning, not by their bytes.
    Json,
    /// Microseconds since 1970-01-01T00:00:00Z, in the years 1 to 9999.
    Timestamp,
    /// Days since 1970-01-01, in the years 1 to 9999.
    Date,
    Uuid,
}

/// All types, as a descriptor writes them.
pub const TYPE_NAMES: &[&str] = &[
    "boolean",
    "int64",
    "float64",
    "decimal(precision,scale)",
    "text",
    "bytes",
    "json",
    "timestamp",
    "date",
    "uuid",
];

impl Type {
    /// Whether a column of this type can select rows. It can if both stores agree on equality and order.
    pub fn is_comparable(self) -> bool {
        !matches!(self, Type::Float64 | Type::Json)
    }

    /// Whether `add` is defined for this type.
    pub fn is_addable(self) -> bool {
        matches!(self, Type::Int64 | Type::Decimal { .. })
    }

    /// Whether `min` and `max` are defined for this type.
    pub fn is_ordered(self) -> bool {
        !matches!(self, Type::Json | Type::Boolean | Type::Bytes | Type::Uuid)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Type::Boolean => "boolean",
            Type::Int64 => "int64",
            Type::Float64 => "float64",
            Type::Decimal { precision, scale } => {
                return write!(f, "decimal({precision},{scale})");
            }
            Type::Text => "text",
            Type::Bytes => "bytes",
            Type::Json => "json",
            Type::Timestamp => "timestamp",
            Type::Date => "date",
            Type::Uuid => "uuid",
        };
        f.write_str(name)
    }
}

impl FromStr for Type {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = match text {
            "boolean" => Some(Type::Boolean),
            "int64" => Some(Type::Int64),
            "float64" => Some(Type::Float64),
            "text" => Some(Type::Text),
            "bytes" => Some(Type::Bytes),
            "json" => Some(Type::Json),
            "timestamp" => Some(Type::Timestamp),
            "date" => Some(Type::Date),
            "uuid" => Some(Type::Uuid),
            _ => None,
        };
        if let Some(plain) = plain {
            return Ok(plain);
        }
        let unknown = || format!("unknown type `{text}`: write one of {}", TYPE_NAMES.join(", "));
        let inner =
            text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(unknown)?;
        let (precision, scale) = inner.split_once(',').ok_or_else(unknown)?;
        let precision: u8 = precision.trim().parse().map_err(|_| unknown())?;
        let scale: u8 = scale.trim().parse().map_err(|_| unknown())?;
        if precision == 0 || precision > MAX_PRECISION || scale > precision {
            return Err(format!(
                "`{text}` is out of range: the precision is 1 to {MAX_PRECISION}, the scale at most the precision"
            ));
        }
        Ok(Type::Decimal { precision, scale })
    }
}

impl TryFrom<String> for Type {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Type> for String {
    fn from(ty: Type) -> String {
        ty.to_string()
    }
}

/// One value of a row or argument. [`Value::Null`] belongs to every type.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Boolean(bool),
    Int64(i64),
    Float64(f64),
    Decimal(Decimal),
    Text(String),
    Bytes(Vec<u8>),
    /// The serialized document.
    Json(String),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// Days since 1970-01-01.
    Date(i32),
    Uuid([u8; 16]),
}

/// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z, in microseconds since 1970-01-01T00:00:00Z. Postgres, the
/// functions of SQLite and every driver support this range.
pub const TIMESTAMP_RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// 0001-01-01 to 9999-12-31, in days since 1970-01-01.
pub const DATE_RANGE: std::ops::RangeInclusive<i32> = -719_162..=2_932_896;

impl Value {
    /// Whether this is [`Value::Null`].
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// How much memory the value occupies, in bytes. The host's memory limits count with this size.
    pub fn size_bytes(&self) -> usize {
        let apart = match self {
            Value::Text(text) | Value::Json(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        std::mem::size_of::<Self>() + apart
    }

    /// The name of the value's own type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Boolean(_) => "boolean",
            Value::Int64(_) => "int64",
            Value::Float64(_) => "float64",
            Value::Decimal(_) => "decimal",
            Value::Text(_) => "text",
            Value::Bytes(_) => "bytes",
            Value::Json(_) => "json",
            Value::Timestamp(_) => "timestamp",
            Value::Date(_) => "date",
            Value::Uuid(_) => "uuid",
        }
    }

    /// Checks that a column of type `ty` can hold this value in every store, and brings a decimal to the column's scale.
    ///
    /// The error says why the column cannot hold the value. The caller adds the column's name.
    pub fn fit(&mut self, ty: Type) -> Result<(), String> {
        match (&mut *self, ty) {
            (Value::Null, _)
            | (Value::Boolean(_), Type::Boolean)
            | (Value::Int64(_), Type::Int64)
            | (Value::Bytes(_), Type::Bytes)
            | (Value::Uuid(_), Type::Uuid) => Ok(()),
            (Value::Float64(number), Type::Float64) => {
                if number.is_nan() {
                    return Err("NaN cannot be stored".into());
                }
                // Databases treat -0.0 and 0.0 as equal, so only 0.0 is stored.
                *number += 0.0;
                Ok(())
            }
            (Value::Decimal(number), Type::Decimal { precision, scale }) => {
                *number = number.fit(precision, scale)?;
                Ok(())
            }
            (Value::Text(text), Type::Text) => {
                if text.as_bytes().contains(&0) {
                    return Err("text with a NUL character cannot be stored".into());
                }
                Ok(())
            }
            (Value::Json(text), Type::Json) => json::fit(text),
            (Value::Timestamp(micros), Type::Timestamp) => {
                if TIMESTAMP_RANGE.contains(micros) {
                    return Ok(());
                }
                Err(format!("timestamp {micros} µs is outside the years 1 to 9999"))
            }
            (Value::Date(days), Type::Date) => {
                if DATE_RANGE.contains(days) {
                    return Ok(());
                }
                Err(format!("date {days} is outside the years 1 to 9999"))
            }
            (value, ty) => Err(format!("{} given, {ty} expected", value.type_name())),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Value::Null => 0,
            Value::Boolean(_) => 1,
            Value::Int64(_) => 2,
            Value::Float64(_) => 3,
            Value::Decimal(_) => 4,
            Value::Text(_) => 5,
            Value::Bytes(_) => 6,
            Value::Json(_) => 7,
            Value::Timestamp(_) => 8,
            Value::Date(_) => 9,
            Value::Uuid(_) => 10,
        }
    }
}

/// The order of the value's own type, with null first. Text is ordered by its bytes, and a float by IEEE 754 total order.
/// Only values of one column are compared, so both have the same type or are null.
impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::Boolean(a), Value::Boolean(b)) => a.cmp(b),
            (Value::Int64(a), Value::Int64(b)) => a.cmp(b),
            (Value::Float64(a), Value::Float64(b)) => a.total_cmp(b),
            (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) | (Value::Json(a), Value::Json(b)) => a.cmp(b),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
            (Value::Date(a), Value::Date(b)) => a.cmp(b),
            (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        match self {
            Value::Null => {}
            Value::Boolean(v) => v.hash(state),
            Value::Int64(v) | Value::Timestamp(v) => v.hash(state),
            Value::Float64(v) => v.to_bits().hash(state),
            Value::Decimal(v) => v.hash(state),
            Value::Text(v) | Value::Json(v) => v.hash(state),
            Value::Bytes(v) => v.hash(state),
            Value::Date(v) => v.hash(state),
            Value::Uuid(v) => v.hash(state),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Boolean(v) => write!(f, "{v}"),
            Value::Int64(v) => write!(f, "{v}"),
            Value::Float64(v) => write!(f, "{v}"),
            Value::Decimal(v) => write!(f, "{v}"),
            Value::Text(v) => write!(f, "{v:?}"),
            Value::Json(v) => f.write_str(v),
            Value::Bytes(v) => {
                f.write_str("0x")?;
                v.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Value::Timestamp(v) => write!(f, "timestamp({v}µs)"),
            Value::Date(v) => write!(f, "date({v}d)"),
            Value::Uuid(v) => v.iter().enumerate().try_for_each(|(at, byte)| {
                if matches!(at, 4 | 6 | 8 | 10) {
                    f.write_str("-")?;
                }
                write!(f, "{byte:02x}")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_as_they_are_read() {
        for text in [
            "boolean",
            "int64",
            "float64",
            "decimal(18,2)",
            "text",
            "bytes",
            "json",
            "timestamp",
            "date",
            "uuid",
        ] {
            assert_eq!(text.parse::<Type>().map(|ty| ty.to_string()), Ok(text.to_string()));
        }
        for text in ["string", "decimal", "decimal(0,0)", "decimal(39,0)", "decimal(4,5)"] {
            assert!(text.parse::<Type>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_that_a_store_cannot_hold_do_not_fit() {
        let unfit = [
            (Value::Text("a\0b".into()), Type::Text),
            (Value::Json(r#"{"a":"\u0000"}"#.into()), Type::Json),
            (Value::Json("{".into()), Type::Json),
            (Value::Json("1e400000".into()), Type::Json),
            (Value::Json(r#""\ud800""#.into()), Type::Json),
            (Value::Json(r#""\udc00\ud800""#.into()), Type::Json),
            (Value::Json(r#"["\ud83d \ude00"]"#.into()), Type::Json),
            (Value::Json(r#"{"\ud83d\n":1}"#.into()), Type::Json),
            (Value::Json("[".repeat(128) + &"]".repeat(128)), Type::Json),
            (Value::Float64(f64::NAN), Type::Float64),
            (Value::Timestamp(i64::MAX), Type::Timestamp),
            (Value::Date(i32::MAX), Type::Date),
            (Value::Int64(1), Type::Text),
        ];
        for (mut value, ty) in unfit {
            assert!(value.fit(ty).is_err(), "{value} as {ty}");
        }
        let fit = [
            (Value::Json(r#"{"a":"\\u0000 is six characters"}"#.into()), Type::Json),
            (Value::Json(r#"["1e400000"]"#.into()), Type::Json),
            (Value::Json(r#""\ud83d\ude00\ud83d\ude00\n\\ud800""#.into()), Type::Json),
            (Value::Json("[".repeat(127) + &"]".repeat(127)), Type::Json),
            (Value::Json(format!("[{}\"[{{\"]", "[],{},".repeat(1_000))), Type::Json),
            (Value::Null, Type::Uuid),
        ];
        for (mut value, ty) in fit {
            assert_eq!(value.fit(ty), Ok(()), "{value} as {ty}");
        }
    }
}
