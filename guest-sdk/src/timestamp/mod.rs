//! Instants, with a precision of one microsecond.

mod declared;
mod parse;

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use crate::Date;
pub use declared::{Field, assume_utc, micros, millis, nanos, seconds};

/// An instant, in microseconds since 1970-01-01T00:00:00Z. Both stores hold it exactly.
///
/// A timestamp is read from the common forms of ISO 8601: `2026-02-28T12:00:00.5Z`, with a space instead of the `T`,
/// without seconds, or with an offset like `+01:00`, `+0100` or `+01`. The offset is required, unless the field declares
/// with [`assume_utc`] that a text without offset is in UTC. A field that holds a number declares its unit with
/// [`seconds`], [`millis`], [`micros`] or [`nanos`].
///
/// Digits beyond the microsecond are cut off, not rounded, so an earlier instant never becomes later than a later one. A
/// leap second (`:60`) is read as the following second. A timestamp is written in UTC: `2026-02-28T12:00:00.5Z`. A table
/// holds the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    micros: i64,
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

impl Timestamp {
    /// The instant that is so many microseconds after 1970-01-01T00:00:00Z.
    pub fn from_micros(micros: i64) -> Self {
        Self { micros }
    }

    /// The instant that is so many milliseconds after 1970-01-01T00:00:00Z, the unit of Kafka's timestamps.
    ///
    /// Beyond ±292,000 years the result is the first or last instant of this type, which no table holds.
    pub fn from_millis(millis: i64) -> Self {
        Self { micros: millis.saturating_mul(1_000) }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn as_micros(self) -> i64 {
        self.micros
    }

    /// The day in UTC.
    pub fn date(self) -> Date {
        Date::from_days(self.micros.div_euclid(MICROS_PER_DAY) as i32)
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse::instant(text)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_day = self.micros.rem_euclid(MICROS_PER_DAY);
        let (seconds, micros) = (of_day / MICROS_PER_SECOND, of_day % MICROS_PER_SECOND);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        write!(f, "{}T{hour:02}:{minute:02}:{second:02}", self.date())?;
        if micros > 0 {
            let fraction = format!("{micros:06}");
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimestampVisitor)
    }
}

struct TimestampVisitor;

impl Visitor<'_> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a timestamp like 2026-02-28T12:00:00Z")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Timestamp, E> {
        Err(E::custom(declared::unit_is_missing(number)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Timestamp, E> {
        Err(E::custom(declared::unit_is_missing(number)))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Timestamp, E> {
        Err(E::custom(declared::unit_is_missing(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector_model::value::TIMESTAMP_RANGE;
    use proptest::prelude::*;

    fn micros(text: &str) -> Result<i64, String> {
        text.parse().map(Timestamp::as_micros)
    }

    #[test]
    fn offsets_and_fractions_are_read() {
        assert_eq!(micros("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(micros("1970-01-01t01:00:00.25+01:00"), Ok(250_000));
        assert_eq!(micros("1969-12-31T23:59:59.999999999-00:00"), Ok(-1));
        assert_eq!(micros("1969-12-31 19:00:00.000001-05:00"), Ok(1));
    }

    #[test]
    fn instants_are_read_as_people_send_them() {
        let noon = micros("2026-02-28T12:00:00Z");
        for text in [
            "2026-02-28T12:00Z",
            "2026-02-28 12:00:00+00",
            "2026-02-28T12:00:00+0000",
            "2026-02-28T13:00:00+01",
            "2026-02-28T13:30:00+0130",
            "2026-02-28T12:00:00.000000000Z",
            "2026-02-28T12:00:00,0Z",
            "2026-02-28T11:59:60Z",
            "2026-02-28 12:00:00 +0000",
            "2026-02-28T12:00+00:00",
        ] {
            assert_eq!(micros(text), noon, "{text}");
        }
        assert_eq!(micros("2016-12-31T23:59:60.5Z"), micros("2017-01-01T00:00:00.5Z"));
        let error = micros("2026-02-28T12:00:00").unwrap_err();
        assert!(error.contains("no offset") && error.contains("assume_utc"), "{error}");
        let error = micros("2026-02-28").unwrap_err();
        assert!(error.contains("no time of day"), "{error}");
    }

    #[test]
    fn what_is_not_an_instant_is_refused() {
        for text in [
            "",
            "2026-02-28",
            "2026-02-28T12:00:00",
            "2026-02-28T24:00:00Z",
            "2026-02-28T12:60:00Z",
            "2026-02-28T12:00:61Z",
            "2026-02-29T12:00:00Z",
            "2026-02-28T12:00:00.Z",
            "2026-02-28T12:00:00+24:00",
            "2026-02-28T12:00:00Z ",
            "2026-02-28T+1:00:00Z",
            "2026-02-28T12:00:00ä01:00",
            "1772280000",
        ] {
            assert!(micros(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn instants_are_written_as_they_are_read(micros in TIMESTAMP_RANGE) {
            let timestamp = Timestamp::from_micros(micros);
            prop_assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
            if let Ok(known) = jiff::Timestamp::from_microsecond(micros) {
                prop_assert_eq!(timestamp.to_string(), known.to_string());
            }
        }

        #[test]
        fn offsets_are_those_of_the_standard(
            micros in -30_000_000_000_000_000i64..30_000_000_000_000_000, minutes in -1_439i64..1_440, digits in 0usize..10,
        ) {
            let local = Timestamp::from_micros(micros / MICROS_PER_SECOND * MICROS_PER_SECOND + minutes * 60 * MICROS_PER_SECOND);
            let sign = if minutes < 0 { '-' } else { '+' };
            let fraction = if digits == 0 { String::new() } else { format!(".{}", &"123456789"[..digits]) };
            let text = format!(
                "{}{fraction}{sign}{:02}:{:02}",
                local.to_string().trim_end_matches('Z'), minutes.abs() / 60, minutes.abs() % 60,
            );
            let known: jiff::Timestamp = text.parse().unwrap();
            prop_assert_eq!(text.parse().map(Timestamp::as_micros), Ok(known.as_nanosecond().div_euclid(1_000) as i64));
        }

        #[test]
        fn no_text_brings_it_down(text in "\\PC{0,40}", tail in "[-+0-9:.Z]{0,16}") {
            let _ = text.parse::<Timestamp>();
            let _ = format!("2026-02-28T12:00:00{tail}").parse::<Timestamp>();
        }
    }
}
