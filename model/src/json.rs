//! JSON documents: which documents every store can hold, and the canonical form of a number.

use serde_json::value::RawValue;

/// How many levels of arrays and objects a document may have: as many as serde_json reads.
///
/// Plugins read events and rows with serde_json. So every document that a plugin can read can be stored and read again.
pub const MAX_JSON_DEPTH: usize = 127;

/// Checks that a text is a JSON document that a `jsonb` column of Postgres can hold.
///
/// Such a document has no `\u0000`, no half of a surrogate pair and no number outside Postgres' `numeric`, and is nested
/// at most [`MAX_JSON_DEPTH`] levels deep.
pub(crate) fn fit(text: &str) -> Result<(), String> {
    serde_json::from_str::<&RawValue>(text).map_err(|error| format!("not a JSON document: {error}"))?;
    if has_escaped_nul(text) {
        return Err("json with \\u0000 cannot be stored".into());
    }
    if has_lone_surrogate(text) {
        return Err("json with only half of a surrogate pair (\\ud800 to \\udfff) cannot be stored".into());
    }
    if depth(text) > MAX_JSON_DEPTH {
        return Err(format!("json nested deeper than {MAX_JSON_DEPTH} levels cannot be stored"));
    }
    // Postgres' `numeric` has up to 131,072 digits before the point and 16,383 after it. Numbers of at most 5,000 digits
    // with an exponent of at most four digits are always within that range.
    if numbers(text.as_bytes()).any(is_huge) {
        return Err(
            "json with a number of more than 5,000 digits or an exponent beyond ±9999 cannot be stored"
                .into(),
        );
    }
    Ok(())
}

/// The numbers of a JSON document, in order, exactly as they are written.
///
/// If the bytes are not JSON, the results are runs of characters that occur in numbers.
pub fn numbers(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    at += 1;
                    while at < bytes.len() && bytes[at] != b'"' {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let start = at;
                    while at < bytes.len()
                        && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
                    {
                        at += 1;
                    }
                    return Some(&bytes[start..at]);
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// The canonical text of a number, which is equal for all its spellings: `-12e3` for `-12.0e+3` and `-12000`.
///
/// `None` if the text is not a JSON number, or if the exponent does not fit an `i64`.
pub fn canonical_number(text: &str) -> Option<String> {
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let mut exponent: i64 = exponent.parse().ok()?;
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    exponent = exponent.checked_add(i64::try_from(digits.len() - significant.len()).ok()?)?;
    Some(match significant.trim_start_matches('0') {
        "" => "0".into(),
        significant => format!("{sign}{significant}e{exponent}"),
    })
}

/// Whether a 64-bit integer or an `f64` represents the number without losing a digit.
pub fn fits_64_bits(number: &str) -> bool {
    number.parse::<u64>().is_ok()
        || number.parse::<i64>().is_ok()
        || number
            .parse::<f64>()
            .is_ok_and(|nearest| canonical_number(number) == canonical_number(&format!("{nearest:e}")))
}

fn is_huge(number: &[u8]) -> bool {
    let mut parts = number.split(|byte| matches!(byte, b'e' | b'E'));
    let digits = parts.next().unwrap_or_default();
    let exponent = parts.next().unwrap_or_default();
    let leading = exponent.iter().take_while(|byte| matches!(byte, b'+' | b'-' | b'0')).count();
    digits.len() > 5_000 || exponent.len() - leading > 4
}

fn has_escaped_nul(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find("\\u0000") {
        let backslashes = rest.as_bytes()[..at].iter().rev().take_while(|b| **b == b'\\').count();
        if backslashes % 2 == 0 {
            return true;
        }
        rest = &rest[at + 6..];
    }
    false
}

/// Whether an escape in valid JSON is half of a UTF-16 surrogate pair whose other half is missing.
fn has_lone_surrogate(json: &str) -> bool {
    let mut rest = json;
    let mut after_high = false;
    while let Some(at) = rest.find('\\') {
        if after_high && at > 0 {
            return true;
        }
        let escape = &rest[at..];
        let hex = escape.strip_prefix("\\u").and_then(|hex| hex.get(..4));
        match hex.and_then(|hex| u16::from_str_radix(hex, 16).ok()) {
            Some(0xd800..=0xdbff) if !after_high => after_high = true,
            Some(0xdc00..=0xdfff) if after_high => after_high = false,
            Some(0xd800..=0xdfff) => return true,
            _ if after_high => return true,
            _ => {}
        }
        rest = &escape[if hex.is_some() { 6 } else { 2 }..];
    }
    after_high
}

/// How many levels deep the arrays and objects of valid JSON are nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_is_what_serde_json_reads() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for (depth, fits) in [(MAX_JSON_DEPTH, true), (MAX_JSON_DEPTH + 1, false)] {
            assert_eq!(fit(&nested(depth)).is_ok(), fits, "{depth}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&nested(depth)).is_ok(), fits, "{depth}");
        }
    }

    #[test]
    fn numbers_are_found_as_they_are_written() {
        let found = |json: &'static str| {
            numbers(json.as_bytes()).map(|number| std::str::from_utf8(number).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(found(r#"{"a 1": [1, -2.50,3e+4], "b": "5\" 6", "c":7}"#), ["1", "-2.50", "3e+4", "7"]);
        assert_eq!(found("12345678901234567890.12"), ["12345678901234567890.12"]);
        assert_eq!(found("\"1\\"), Vec::<&str>::new());
    }

    #[test]
    fn a_number_fits_64_bits_if_no_digit_is_lost() {
        for fits in ["18446744073709551615", "-9223372036854775808", "0.1", "1e300", "100.00", "-0", "5e-324"]
        {
            assert!(fits_64_bits(fits), "{fits}");
        }
        for lossy in [
            "18446744073709551617",
            "12345678901234567890.12",
            "0.1234567890123456789",
            "1e-400",
            "1e400",
            "9007199254740993.0",
        ] {
            assert!(!fits_64_bits(lossy), "{lossy}");
        }
    }

    #[test]
    fn one_number_has_one_spelling() {
        for (one, other) in [("-0", "0.00"), ("120", "1.2e+2"), ("0.012", "12E-3"), ("1e2", "100.00")] {
            assert_eq!(canonical_number(one), canonical_number(other), "{one} {other}");
        }
        assert_ne!(canonical_number("10000000000000000000001"), canonical_number("10000000000000000000002"));
        for none in ["", "-", "e1", "x", "1e99999999999999999999", "1.5e-9223372036854775808"] {
            assert_eq!(canonical_number(none), None, "{none}");
        }
    }
}
