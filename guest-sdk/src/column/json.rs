//! JSON documents as a column.

use std::fmt;

use projector_model::Value;
use projector_model::value::Type;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Column, TypedColumn, mismatch};
use crate::payload::read_json;

/// A value that is stored as a JSON document: `Json<Vec<Item>>`. Plain `Json` stores a document as it was sent, with all
/// of its fields and every digit of its numbers.
///
/// The database compares documents by meaning, not by their bytes. In a payload, `Json<T>` is read like a `T`. Numbers in
/// a `Json<serde_json::Value>` keep their value, but not their spelling: `100.00` is written as `100.0`. A number that a
/// float cannot hold rejects the event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json<T = RawJson>(pub T);

impl<T: Serialize + DeserializeOwned> Column for Json<T> {
    /// # Panics
    ///
    /// If `T` cannot be written as JSON, such as a map whose keys are structs. For the host, the plugin then traps.
    fn into_value(self) -> Value {
        match serde_json::to_string(&self.0) {
            Ok(document) => Value::Json(document),
            Err(error) => panic!("a {} cannot be written as JSON: {error}", std::any::type_name::<T>()),
        }
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Json(document) => read_json(document.as_bytes()).map(Json),
            other => mismatch(other, "json"),
        }
    }
}

impl<T: Serialize + DeserializeOwned> TypedColumn for Json<T> {
    const TYPE: Type = Type::Json;
}

/// The text of a JSON value, as it was sent. Two values are equal if their texts are equal.
#[derive(Clone)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// Reads the text as a `T`. The error says what is wrong, and where.
    pub fn read<'d, T: Deserialize<'d>>(&'d self) -> Result<T, String> {
        read_json(self.get().as_bytes())
    }
}

impl Default for RawJson {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for RawJson {}

impl std::hash::Hash for RawJson {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.get().hash(state);
    }
}

impl std::str::FromStr for RawJson {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        RawValue::from_string(text.to_owned()).map(Self).map_err(|error| error.to_string())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        projector_model::raw::text(deserializer).map(Self)
    }
}
