//! Instants that are incomplete by themselves: a number without its unit, or a time without its offset from UTC.
//!
//! Why: a wrong guess would shift every timestamp silently. So the payload's field declares the missing part.

use std::fmt::Display;

use projector_model::Decimal;
use projector_model::value::TIMESTAMP_RANGE;
use serde::de::{Deserialize, Deserializer, Error};

use super::{Timestamp, parse};

/// The type of a field for an instant: `Timestamp`, or `Option<Timestamp>` if the field may be null.
pub trait Field: Sized {
    #[doc(hidden)]
    fn of(read: Option<Timestamp>) -> Option<Self>;
}

impl Field for Timestamp {
    fn of(read: Option<Timestamp>) -> Option<Self> {
        read
    }
}

impl Field for Option<Timestamp> {
    fn of(read: Option<Timestamp>) -> Option<Self> {
        Some(read)
    }
}

macro_rules! unit {
    ($module:ident, $unit:literal, $places:literal) => {
        #[doc = concat!("Reads a number of ", $unit, " since 1970-01-01T00:00:00Z, with or without a fraction, or a string of its digits.")]
        #[doc = ""]
        #[doc = "Declare it on a field of type `Timestamp` or `Option<Timestamp>`:"]
        #[doc = concat!("`#[serde(with = \"projector_sdk::timestamp::", stringify!($module), "\")]`. A field that may be absent also needs")]
        #[doc = "`#[serde(default)]`."]
        pub mod $module {
            use super::{Deserializer, Field, read};

            pub fn deserialize<'de, D: Deserializer<'de>, F: Field>(deserializer: D) -> Result<F, D::Error> {
                read(deserializer, $unit, $places)
            }
        }
    };
}

unit!(seconds, "seconds", 0);
unit!(millis, "milliseconds", 3);
unit!(micros, "microseconds", 6);
unit!(nanos, "nanoseconds", 9);

/// Reads a text without an offset as UTC: `2026-02-28T12:00:00`, as Java's `LocalDateTime` and Python's naive `datetime`
/// are written. A text with an offset is read as usual.
///
/// Declare it on a field of type `Timestamp` or `Option<Timestamp>`:
/// `#[serde(with = "projector_sdk::timestamp::assume_utc")]`.
pub mod assume_utc {
    use std::borrow::Cow;

    use super::{Deserialize, Deserializer, Error, Field, parse};

    pub fn deserialize<'de, D: Deserializer<'de>, F: Field>(deserializer: D) -> Result<F, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        let read = text.map(|text| parse::instant_in_utc(&text)).transpose().map_err(D::Error::custom)?;
        F::of(read).ok_or_else(|| {
            D::Error::custom("null found, but a timestamp like 2026-02-28T12:00:00 is expected")
        })
    }
}

pub(super) fn unit_is_missing(number: impl Display) -> String {
    format!(
        "the number {number} is not a timestamp by itself: declare its unit, with #[serde(with = \"projector_sdk::timestamp::millis\")], or with `seconds`, `micros` or `nanos`"
    )
}

/// Reads a number of units, each of which is `10^-places` seconds.
fn read<'de, D: Deserializer<'de>, F: Field>(deserializer: D, unit: &str, places: u8) -> Result<F, D::Error> {
    let number = Option::<Decimal>::deserialize(deserializer)?;
    let read = number.map(|number| instant(number, places).ok_or(number)).transpose().map_err(|number| {
        D::Error::custom(format_args!(
            "{number} {unit} since 1970 are outside the years 1 to 9999: is this the right unit?"
        ))
    })?;
    F::of(read)
        .ok_or_else(|| D::Error::custom(format_args!("null found, but {unit} since 1970 are expected")))
}

/// The instant that is `number / 10^places` seconds after 1970. Digits beyond the microsecond are cut off.
fn instant(number: Decimal, places: u8) -> Option<Timestamp> {
    let behind = u32::from(places) + u32::from(number.scale());
    let micros = match 6_u32.checked_sub(behind) {
        Some(more) => number.units().checked_mul(10_i128.pow(more))?,
        // A decimal has at most 38 digits, so a larger divisor would give the same result.
        None => number.units().div_euclid(10_i128.pow((behind - 6).min(38))),
    };
    let micros = i64::try_from(micros).ok()?;
    TIMESTAMP_RANGE.contains(&micros).then(|| Timestamp::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Row {
        #[serde(default, with = "seconds")]
        seconds: Option<Timestamp>,
        #[serde(default, with = "millis")]
        millis: Option<Timestamp>,
        #[serde(default, with = "micros")]
        micros: Option<Timestamp>,
        #[serde(default, with = "nanos")]
        nanos: Option<Timestamp>,
        #[serde(default, with = "assume_utc")]
        local: Option<Timestamp>,
        #[serde(default)]
        plain: Option<Timestamp>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Required {
        #[serde(with = "millis")]
        #[expect(dead_code, reason = "only its reading matters")]
        at: Timestamp,
    }

    fn row(json: &str) -> Result<Row, String> {
        crate::payload::read_json(json.as_bytes())
    }

    #[test]
    fn numbers_count_what_their_field_declares() {
        let row = row(r#"{"seconds": 1772280000.5, "millis": "1772280000500", "micros": 1772280000500000,
                "nanos": 1772280000500000999, "local": "2026-02-28 12:00:00.5"}"#)
        .unwrap();
        let half_past_noon = "2026-02-28T12:00:00.5Z".parse().ok();
        assert_eq!([row.seconds, row.millis, row.micros, row.nanos, row.local], [half_past_noon; 5]);
        assert_eq!(row.plain, None);
    }

    #[test]
    fn errors_say_what_was_found_and_where() {
        for (json, words) in [
            (r#"{"plain": 1772280000}"#, "the number 1772280000 is not a timestamp by itself"),
            (r#"{"plain": 1772280000.5}"#, "the number 1772280000.5 is not a timestamp by itself"),
            (r#"{"seconds": 1772280000500}"#, "1772280000500 seconds since 1970 are outside the years"),
            (r#"{"nanos": "2026-02-28T12:00:00Z"}"#, "`2026-02-28T12:00:00Z` is not a decimal"),
            (r#"{"local": "yesterday"}"#, "\"yesterday\" is not a timestamp"),
            (r#"{"micros": 1e30}"#, "outside the years"),
        ] {
            let error = row(json).err().unwrap_or_default();
            let path = json.split('"').nth(1).unwrap();
            assert!(error.contains(words) && error.contains(&format!("`{path}`")), "{json}: {error}");
        }
        let error = crate::payload::read_json::<Required>(br#"{"at": null}"#).unwrap_err();
        assert!(error.contains("null found, but milliseconds since 1970 are expected"), "{error}");
    }

    proptest! {
        #[test]
        fn every_instant_is_counted(micros in TIMESTAMP_RANGE) {
            let at = Some(Timestamp::from_micros(micros));
            let decimal = |units: i128, scale| Decimal::new(units, scale).unwrap();
            prop_assert_eq!(instant(decimal(micros.into(), 6), 0), at);
            prop_assert_eq!(instant(decimal(micros.into(), 3), 3), at);
            prop_assert_eq!(instant(decimal(micros.into(), 0), 6), at);
            prop_assert_eq!(instant(decimal(i128::from(micros) * 1_000 + 999, 0), 9), at);
        }
    }
}
