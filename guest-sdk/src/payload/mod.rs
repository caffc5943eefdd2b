//! From the value of a record to the payload of a handler.
//!
//! Why: most rejected events are rejected here. The operator who reads the rejection must see what is wrong, where, and
//! what to do.
//!
//! Invariant: no digit of a value is lost silently. A number that the payload's type cannot hold rejects the event.

mod exact;
mod format;
mod numbers;

use std::borrow::Cow;

use projector_model::Rejection;
use projector_model::change::codes;
use projector_model::json::MAX_JSON_DEPTH;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::error::Category;

use crate::Stop;
use exact::Exact;
use numbers::Numbers;

/// A type that a handler can take as the payload of an [`Event`](crate::Event): any type that serde reads from JSON, or
/// [`Unread`] for the value's bytes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from an event",
    label = "not a payload",
    note = "derive Deserialize for it: #[derive(serde::Deserialize)]"
)]
pub trait Payload<'e>: Sized {
    /// Reads the value of a record, or of a tombstone (`None`). The rejection says what is wrong, and where.
    fn read(value: Option<&'e [u8]>) -> Result<Self, Rejection>;
}

impl<'e, T: Deserialize<'e>> Payload<'e> for T {
    fn read(value: Option<&'e [u8]>) -> Result<Self, Rejection> {
        match value {
            Some(json) => read_json(json).map_err(bad),
            None => T::deserialize(Tombstone).map_err(|_| {
                bad("the record has no value (a tombstone), but the handler does not take an Option")
            }),
        }
    }
}

/// The value of a record, which the handler reads itself. For topics with several kinds of payloads, or with payloads
/// that are not JSON.
///
/// ```ignore
/// fn order(event: Event<Unread>, cx: &mut Context<Self>) -> Outcome {
///     if event.headers.get_str("type") != Some("OrderConfirmed") {
///         return cx.ignore("other-type", "");
///     }
///     let order: OrderConfirmed = event.payload.json()?;
///     // …
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Unread<'e>(Option<&'e [u8]>);

impl<'e> Unread<'e> {
    /// The value's bytes. `None` for a tombstone.
    pub fn bytes(self) -> Option<&'e [u8]> {
        self.0
    }

    /// Reads the value as JSON. If it cannot be read as a `T`, the error rejects the event with the code `bad-payload`.
    pub fn json<T: Deserialize<'e>>(self) -> Result<T, Stop> {
        T::read(self.0).map_err(Stop::rejected)
    }
}

impl<'e> Payload<'e> for Unread<'e> {
    fn read(value: Option<&'e [u8]>) -> Result<Self, Rejection> {
        Ok(Self(value))
    }
}

/// Reads JSON in UTF-8, with or without a byte order mark. The error is a text for the operator.
pub(crate) fn read_json<'de, T: Deserialize<'de>>(value: &'de [u8]) -> Result<T, String> {
    let json = value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value);
    let numbers = Numbers::of(json);
    if numbers.is_empty()
        && let Ok(read) = serde_json::from_slice(json)
    {
        return Ok(read);
    }
    read_with_care(json, &numbers)
}

/// Reads the JSON again, more slowly: without losing digits, and with the path of a value that cannot be read.
#[cold]
fn read_with_care<'de, T: Deserialize<'de>>(json: &'de [u8], numbers: &Numbers<'_>) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let exact = Exact { inner: &mut deserializer, numbers };
    let read = T::deserialize(serde_path_to_error::Deserializer::new(exact, &mut track));
    read.and_then(|read| deserializer.end().map(|()| read))
        .map_err(|error| misread(json, &error, &track.path().to_string()))
}

/// In characters.
const LONGEST_REASON: usize = 500;
/// In characters.
const LONGEST_PATH: usize = 120;

/// The text of a rejection. The reason comes before the path, because a producer's field names can make a path very long.
fn misread(json: &[u8], error: &serde_json::Error, path: &str) -> String {
    let syntax = matches!(error.classify(), Category::Syntax | Category::Eof);
    if let Some(format) = syntax.then(|| format::recognise(json)).flatten() {
        return format;
    }
    let reason = error.to_string();
    let reason = match reason.strip_prefix("recursion limit exceeded") {
        Some(place) => format!("the value is nested deeper than {MAX_JSON_DEPTH} levels{place}"),
        None if syntax => format!("the value is not JSON: {reason}"),
        None => reason,
    };
    let reason = shorten(&reason, LONGEST_REASON);
    match path {
        "." | "" => reason.into_owned(),
        path => format!("{reason}, in `{}`", shorten(path, LONGEST_PATH)),
    }
}

/// Shortens a text to at most `most` characters. The beginning and the end of a longer text are kept.
fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most || text.chars().count() <= most {
        return Cow::Borrowed(text);
    }
    let kept = (most - 1) / 2;
    let end = text.chars().rev().take(kept).collect::<Vec<_>>();
    Cow::Owned(text.chars().take(kept).chain(['…']).chain(end.into_iter().rev()).collect())
}

fn bad(detail: impl ToString) -> Rejection {
    Rejection::new(codes::BAD_PAYLOAD, detail.to_string())
}

/// Deserializes as `None` for an `Option`. Every other type is an error.
struct Tombstone;

impl<'de> Deserializer<'de> for Tombstone {
    type Error = serde::de::value::Error;

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_none()
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("a tombstone"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests;
