//! Calendar days, without a time of day and without a time zone.

use std::fmt;
use std::str::FromStr;

use projector_model::value::DATE_RANGE;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

/// A day of the Gregorian calendar, which is extended to all years.
///
/// A date is read and written as `2026-02-28`. A field that counts days declares [`days`]. A table holds the years 1 to
/// 9999. A date outside these years, which only [`Date::from_days`] can make, rejects its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// Days since 1970-01-01.
    days: i32,
}

/// Days in an era of 400 years. After an era the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01, the first day of an era, to 1970-01-01.
const EPOCH_IN_ERAS: i64 = 719_468;

impl Date {
    /// The date that is so many days after 1970-01-01.
    pub fn from_days(days: i32) -> Self {
        Self { days }
    }

    /// Days since 1970-01-01.
    pub fn as_days(self) -> i32 {
        self.days
    }

    /// The date of a year (1 to 9999), month (1 to 12) and day (1 to 31). `None` if this day does not exist.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
            return None;
        }
        // Here a year begins in March, so that a leap day is the last day of its year.
        let (from_march, year) = match month {
            1 | 2 => (i64::from(month) + 9, i64::from(year) - 1),
            _ => (i64::from(month) - 3, i64::from(year)),
        };
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * from_march + 2) / 5 + i64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let date = Self { days: (era * DAYS_PER_ERA + day_of_era - EPOCH_IN_ERAS) as i32 };
        // A day that does not exist, such as February 30, gives a day of the next month.
        (date.parts().2 == day).then_some(date)
    }

    /// Year, month (1 to 12) and day (1 to 31).
    pub fn parts(self) -> (i32, u8, u8) {
        let days = i64::from(self.days) + EPOCH_IN_ERAS;
        let (era, day_of_era) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        (year as i32, month as u8, day as u8)
    }
}

/// Reads a text that consists of digits only.
pub(crate) fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (year, rest) = text.split_at_checked(4)?;
            let (month, day) = rest.strip_prefix('-')?.split_once('-')?;
            if month.len() != 2 || day.len() != 2 {
                return None;
            }
            Self::new(digits(year)? as u16, digits(month)? as u8, digits(day)? as u8)
        };
        parse().ok_or_else(|| format!("{text:?} is not a date: write it like 2026-02-28"))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.parts();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DateVisitor)
    }
}

struct DateVisitor;

impl Visitor<'_> for DateVisitor {
    type Value = Date;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a date like 2026-02-28")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Date, E> {
        let date: Date = text.parse().map_err(E::custom)?;
        debug_assert!(DATE_RANGE.contains(&date.days));
        Ok(date)
    }
}

/// Reads a number of days since 1970-01-01, as Debezium and Kafka Connect write dates.
///
/// Declare it on a field of type `Date` or `Option<Date>`: `#[serde(with = "projector_sdk::date::days")]`.
pub mod days {
    use super::{Date, Deserialize, Deserializer, Error, Field};

    pub fn deserialize<'de, D: Deserializer<'de>, F: Field>(deserializer: D) -> Result<F, D::Error> {
        let days = Option::<i32>::deserialize(deserializer)?;
        F::of(days.map(Date::from_days))
            .ok_or_else(|| D::Error::custom("null found, but a number of days since 1970-01-01 is expected"))
    }
}

/// The type of a field for a date: `Date`, or `Option<Date>` if the field may be null.
pub trait Field: Sized {
    #[doc(hidden)]
    fn of(read: Option<Date>) -> Option<Self>;
}

impl Field for Date {
    fn of(read: Option<Date>) -> Option<Self> {
        read
    }
}

impl Field for Option<Date> {
    fn of(read: Option<Date>) -> Option<Self> {
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn days_that_there_are_not_are_refused() {
        for text in [
            "2026-02-29",
            "2100-02-29",
            "2026-13-01",
            "2026-00-10",
            "0000-01-01",
            "2026-1-01",
            "2026-01-1x",
            "",
        ] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
        assert_eq!(Date::new(2024, 2, 29).map(|date| date.to_string()), Some("2024-02-29".into()));
        assert_eq!(Date::new(1970, 1, 1).map(Date::as_days), Some(0));
    }

    #[test]
    fn days_are_counted_by_declaration() {
        #[derive(serde::Deserialize)]
        struct Row {
            #[serde(with = "days")]
            due: Date,
            #[serde(default, with = "days")]
            paid: Option<Date>,
        }
        let row: Row = crate::payload::read_json(br#"{"due": 20512, "paid": null}"#).unwrap();
        assert_eq!((row.due.to_string().as_str(), row.paid), ("2026-02-28", None));
        for json in [r#"{"due": null}"#, r#"{"due": "2026-02-28"}"#, r#"{"due": 4294967296}"#] {
            let error = crate::payload::read_json::<Row>(json.as_bytes()).err().unwrap_or_default();
            assert!(error.contains("`due`"), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn dates_are_those_of_the_calendar(days in DATE_RANGE) {
            let epoch = jiff::civil::date(1970, 1, 1);
            let known = epoch + jiff::Span::new().days(days);
            let date = Date::from_days(days);
            prop_assert_eq!(date.to_string(), known.to_string());
            prop_assert_eq!(date.to_string().parse(), Ok(date));
        }
    }
}
