//! From a record's value to a handler's payload.

mod place;

use projector_model::Rejection;
use projector_model::change::codes;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::Stop;

/// What a handler can take as an [`Event`](crate::Event)'s payload: anything that serde reads from
/// JSON, or the value as it is, [`Unread`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from an event",
    label = "not a payload",
    note = "derive it: #[derive(serde::Deserialize)]"
)]
pub trait Payload<'e>: Sized {
    /// Reads a record's value; `None` is a tombstone. The rejection says what is wrong with it,
    /// and where.
    fn read(value: Option<&'e [u8]>) -> Result<Self, Rejection>;
}

impl<'e, T: Deserialize<'e>> Payload<'e> for T {
    fn read(value: Option<&'e [u8]>) -> Result<Self, Rejection> {
        match value {
            Some(json) => serde_json::from_slice(json).map_err(|error| misread(json, &error)),
            None => T::deserialize(Tombstone).map_err(|_| {
                bad("the record has no value (a tombstone), and the handler does not take an Option")
            }),
        }
    }
}

/// A record's value that the handler reads itself: because the topic carries several shapes, or
/// none that is JSON.
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
    /// The value's bytes; `None` for a tombstone.
    pub fn bytes(self) -> Option<&'e [u8]> {
        self.0
    }

    /// Reads the value as JSON. What is not a `T` rejects the event with the code `bad-payload`.
    pub fn json<T: Deserialize<'e>>(self) -> Result<T, Stop> {
        T::read(self.0).map_err(Stop::rejected)
    }
}

impl<'e> Payload<'e> for Unread<'e> {
    fn read(value: Option<&'e [u8]>) -> Result<Self, Rejection> {
        Ok(Self(value))
    }
}

#[cold]
fn misread(json: &[u8], error: &serde_json::Error) -> Rejection {
    match place::path(json, error.line(), error.column()) {
        path if path.is_empty() => bad(error),
        path => bad(format_args!("{path}: {error}")),
    }
}

fn bad(detail: impl ToString) -> Rejection {
    Rejection::new(codes::BAD_PAYLOAD, detail.to_string())
}

/// Deserializes an option as `None`, and nothing else.
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
