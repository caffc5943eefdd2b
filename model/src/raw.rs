//! The text of a value in a JSON document, exactly as it is written.
//!
//! Why: a number that is read as a float can lose digits. Its text has all of them.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The struct name by which serde_json recognises a request for the text. It is private to serde_json. If it ever
/// changes, [`Text`] writes the text from the value that serde_json read; the SDK's payloads keep all digits there too.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Reads the text of a value.
///
/// Where serde has buffered the value before (below `flatten`, in internally tagged and untagged enums), the original
/// text is lost. There the text is written from the buffered value.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<RawValue>, D::Error> {
    deserializer.deserialize_newtype_struct(RAW_VALUE, Text)
}

struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = Box<RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(map))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        serde_json::value::to_raw_value(&value).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Field {
        #[serde(deserialize_with = "text")]
        a: Box<RawValue>,
    }

    #[derive(serde::Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        One(Field),
    }

    #[test]
    fn the_text_is_kept_where_serde_does_not_buffer() {
        let field: Field = serde_json::from_str(r#"{"a": {"b":  100.00}}"#).unwrap();
        assert_eq!(field.a.get(), r#"{"b":  100.00}"#);
        let Tagged::One(field) = serde_json::from_str(r#"{"type": "One", "a": {"b":  1.50}}"#).unwrap();
        assert_eq!(field.a.get(), r#"{"b":1.5}"#);
    }
}
