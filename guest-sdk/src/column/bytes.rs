//! Bytes as a column.

use projector_model::Value;
use projector_model::value::Type;

use super::{Column, TypedColumn, mismatch};

/// Bytes, stored unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Column for Bytes {
    fn into_value(self) -> Value {
        Value::Bytes(self.0)
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bytes(bytes) => Ok(Self(bytes.clone())),
            other => mismatch(other, "bytes"),
        }
    }
}

impl TypedColumn for Bytes {
    const TYPE: Type = Type::Bytes;
}
