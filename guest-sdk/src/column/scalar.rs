//! Numbers, text, booleans, times and UUIDs as columns.

use projector_model::value::Type;
use projector_model::{Decimal, Value};

use super::{Column, DecimalColumn, TypedColumn, mismatch};
use crate::{Date, Timestamp, Uuid};

macro_rules! scalar {
    ($rust:ty, $ty:expr, $name:literal, $into:expr, $pattern:pat => $from:expr) => {
        impl Column for $rust {
            fn into_value(self) -> Value {
                $into(self)
            }

            fn from_value(value: &Value) -> Result<Self, String> {
                match value {
                    $pattern => Ok($from),
                    other => mismatch(other, $name),
                }
            }
        }

        impl TypedColumn for $rust {
            const TYPE: Type = $ty;
        }
    };
}

scalar!(String, Type::Text, "text", Value::Text, Value::Text(text) => text.clone());
scalar!(bool, Type::Boolean, "boolean", Value::Boolean, Value::Boolean(truth) => *truth);
scalar!(i64, Type::Int64, "int64", Value::Int64, Value::Int64(number) => *number);
scalar!(f64, Type::Float64, "float64", Value::Float64, Value::Float64(number) => *number);
scalar!(Uuid, Type::Uuid, "uuid", |id: Uuid| Value::Uuid(id.into_bytes()), Value::Uuid(bytes) => Uuid::from_bytes(*bytes));
scalar!(
    Timestamp,
    Type::Timestamp,
    "timestamp",
    |at: Timestamp| Value::Timestamp(at.as_micros()),
    Value::Timestamp(micros) => Timestamp::from_micros(*micros)
);
scalar!(Date, Type::Date, "date", |day: Date| Value::Date(day.as_days()), Value::Date(days) => Date::from_days(*days));

/// Smaller integers, which are stored as an int64.
macro_rules! narrow {
    ($($rust:ty),*) => {$(
        impl Column for $rust {
            fn into_value(self) -> Value {
                Value::Int64(self.into())
            }

            fn from_value(value: &Value) -> Result<Self, String> {
                match value {
                    Value::Int64(number) => (*number).try_into().map_err(|_| {
                        format!(concat!("{} is outside the range of ", stringify!($rust)), number)
                    }),
                    other => mismatch(other, "int64"),
                }
            }
        }

        impl TypedColumn for $rust {
            const TYPE: Type = Type::Int64;
        }
    )*};
}

narrow!(i8, i16, i32, u8, u16, u32);

impl Column for Decimal {
    fn into_value(self) -> Value {
        Value::Decimal(self)
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Decimal(number) => Ok(*number),
            other => mismatch(other, "decimal"),
        }
    }
}

impl DecimalColumn for Decimal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, Json};

    fn comes_back<T: Column + Clone + PartialEq + std::fmt::Debug>(value: T) {
        assert_eq!(T::from_value(&value.clone().into_value()), Ok(value.clone()));
        assert_eq!(Option::<T>::from_value(&Some(value.clone()).into_value()), Ok(Some(value)));
        assert_eq!(Option::<T>::from_value(&Value::Null), Ok(None));
        assert!(T::from_value(&Value::Null).is_err());
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        comes_back("Gdańsk".to_string());
        comes_back(true);
        comes_back(i64::MIN);
        comes_back(u32::MAX);
        comes_back(-0.5f64);
        comes_back("12.50".parse::<Decimal>().unwrap());
        comes_back(Timestamp::from_micros(-1));
        comes_back(Date::from_days(19_000));
        comes_back(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
        comes_back(Bytes(vec![0, 255]));
        comes_back(Json(vec!["yoga mat".to_string()]));
    }

    #[test]
    fn a_stored_number_that_is_too_large_is_named() {
        assert_eq!(
            i32::from_value(&Value::Int64(1 << 40)),
            Err("1099511627776 is outside the range of i32".into())
        );
        assert_eq!(i64::from_value(&Value::Text("1".into())), Err("text found, int64 expected".into()));
    }
}
