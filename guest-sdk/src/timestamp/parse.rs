//! Reads an instant from a text.

use super::{MICROS_PER_SECOND, Timestamp};
use crate::Date;
use crate::date::digits;

/// Reads an instant with an offset. The error says what was found, and what is missing.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    let wrong = |what: &str| {
        let found: String = text.chars().take(60).collect();
        format!("{found:?} is not a timestamp{what}: write it like 2026-02-28T12:00:00Z")
    };
    match local(text) {
        Some((None, _)) => Err(wrong(" because it has no time of day")),
        Some((Some(_), "")) => Err(format!(
            "{text:?} is not a timestamp because it has no offset from UTC: write it like 2026-02-28T12:00:00Z, or declare that the field is in UTC, with #[serde(with = \"projector_sdk::timestamp::assume_utc\")]"
        )),
        Some((Some(micros), zone)) => offset(zone)
            .map(|minutes| Timestamp::from_micros(micros - minutes * 60 * MICROS_PER_SECOND))
            .ok_or_else(|| wrong("")),
        None => Err(wrong("")),
    }
}

/// Reads an instant. A text without an offset is in UTC.
pub(super) fn instant_in_utc(text: &str) -> Result<Timestamp, String> {
    match local(text) {
        Some((Some(micros), "")) => Ok(Timestamp::from_micros(micros)),
        _ => instant(text),
    }
}

/// Reads the date and the time of day. Returns the microseconds since 1970 in local time (`None` if the text is only a
/// date), and the rest of the text.
fn local(text: &str) -> Option<(Option<i64>, &str)> {
    let (date, rest) = text.split_at_checked(10)?;
    let date: Date = date.parse().ok()?;
    if rest.is_empty() {
        return Some((None, ""));
    }
    let (time, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(5)?;
    let (hours, minutes) = time.split_once(':')?;
    let minutes = two_digits(hours, 23)? * 60 + two_digits(minutes, 59)?;
    let (seconds, micros, rest) = match rest.strip_prefix(':') {
        None => (0, 0, rest),
        Some(rest) => {
            let (seconds, rest) = rest.split_at_checked(2)?;
            let (micros, rest) = fraction(rest)?;
            (two_digits(seconds, 60)?, micros, rest)
        }
    };
    let seconds = i64::from(date.as_days()) * 86_400 + minutes * 60 + seconds;
    Some((Some(seconds * MICROS_PER_SECOND + micros), rest))
}

/// Reads an offset, in minutes: `Z`, `+01`, `+0130` or `+01:30`, with or without a space before it.
fn offset(text: &str) -> Option<i64> {
    let text = text.strip_prefix(' ').unwrap_or(text);
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_at_checked(2)?;
    let minutes = match minutes.strip_prefix(':') {
        Some(minutes) => two_digits(minutes, 59)?,
        None if minutes.is_empty() => 0,
        None => two_digits(minutes, 59)?,
    };
    Some(sign * (two_digits(hours, 23)? * 60 + minutes))
}

fn two_digits(text: &str, most: u32) -> Option<i64> {
    let number = digits(text).filter(|number| text.len() == 2 && *number <= most)?;
    Some(number.into())
}

/// Reads an optional fraction of a second, such as `.123456789`. Returns its microseconds and the rest of the text.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(text) = text.strip_prefix(['.', ',']) else { return Some((0, text)) };
    let end = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    let (fraction, rest) = text.split_at(end);
    let first_six = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    let micros = first_six.fold(0, |micros, digit| micros * 10 + i64::from(digit - b'0'));
    (end > 0).then_some((micros, rest))
}
