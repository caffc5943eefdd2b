//! The id of an event, as the producer wrote it, by which duplicates are recognised.
//!
//! Why: the host and the SDK's test harness share this code, so that a test skips the same events as the host.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::descriptor::IdPart;

impl IdPart {
    /// The bytes of this part of an event's id. `None` if the event lacks the part, or if the part is empty.
    ///
    /// `of_header` gives the last value of the header with a name.
    pub fn written<'e>(
        &self,
        of_header: impl FnOnce(&str) -> Option<&'e [u8]>,
        payload: Option<&'e [u8]>,
    ) -> Option<&'e [u8]> {
        match self {
            IdPart::Header(name) => of_header(name).filter(|value| !value.is_empty()),
            IdPart::Field(name) => field(payload?, name),
        }
    }
}

/// The text or number of a field at the top level of a JSON object, exactly as it is written in the payload.
fn field<'p>(payload: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let payload = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
    let mut json = serde_json::Deserializer::from_slice(payload);
    let raw = Field(name).deserialize(&mut json).ok()??;
    let written = raw.get().as_bytes();
    (matches!(written.first(), Some(b'"' | b'-' | b'0'..=b'9')) && written != b"\"\"").then_some(written)
}

/// Finds one field of an object, and allocates nothing for the other fields.
struct Field<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match key == self.0 {
                true => found = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_as_it_is_written() {
        let found = |payload: &str| {
            field(payload.as_bytes(), "eventId").map(|id| String::from_utf8(id.to_vec()).unwrap())
        };
        assert_eq!(found(r#"{"a": {"eventId": 1}, "eventId": "e-1", "b": []}"#).as_deref(), Some("\"e-1\""));
        assert_eq!(found(r#"{"event\u0049d": 17}"#).as_deref(), Some("17"));
        assert_eq!(
            found("\u{feff}{\"eventId\": 12345678901234567890123}").as_deref(),
            Some("12345678901234567890123")
        );
        for none in [
            r#"{"eventId": null}"#,
            r#"{"eventId": ""}"#,
            r#"{"eventId": {}}"#,
            "{}",
            "[]",
            "{\"eventId\": 1",
            "",
            "\u{0}",
        ] {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
