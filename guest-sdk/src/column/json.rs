//! A document in a column.

use projector_model::Value;
use projector_model::value::Type;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Column, TypedColumn, mismatch};

/// A value that is stored as a JSON document: `Json<Vec<Item>>`.
///
/// Documents are compared by meaning, not by their bytes. In a payload it is transparent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Column for Json<T> {
    /// # Panics
    ///
    /// If `T` cannot be JSON, a map with structs for its keys for instance. The event that led to
    /// it is then handled as one that traps.
    fn into_value(self) -> Value {
        match serde_json::to_string(&self.0) {
            Ok(document) => Value::Json(document),
            Err(error) => panic!("a {} cannot be written as JSON: {error}", std::any::type_name::<T>()),
        }
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Json(document) => {
                serde_json::from_str(document).map(Json).map_err(|error| error.to_string())
            }
            other => mismatch(other, "json"),
        }
    }
}

impl<T: Serialize + DeserializeOwned> TypedColumn for Json<T> {
    const TYPE: Type = Type::Json;
}
