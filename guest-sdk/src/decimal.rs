//! Decimals in the form in which connectors write them into JSON.
//!
//! A [`Decimal`] is read from a number or a string, with or without an exponent. With `decimal.handling.mode=precise`,
//! Debezium and Kafka Connect write decimals in binary forms instead. A field with such a form declares it with serde's
//! `with`, or with `deserialize_with = "…::deserialize"` if the struct is also serialized. The field is a `Decimal` or an
//! `Option<Decimal>`. A field that may be absent also needs `#[serde(default)]`.

use std::borrow::Cow;

use projector_model::Decimal;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Reads a decimal from base64 of a big-endian two's complement integer, such as `"Fto="`.
///
/// `SCALE` is the scale of the column in the source database: `#[serde(with = "projector_sdk::decimal::Base64::<2>")]`.
pub struct Base64<const SCALE: u8>;

impl<const SCALE: u8> Base64<SCALE> {
    pub fn deserialize<'de, D: Deserializer<'de>, F: Field>(deserializer: D) -> Result<F, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        let read = text.map(|text| digits(&text, i32::from(SCALE))).transpose().map_err(D::Error::custom)?;
        F::of(read).ok_or_else(|| D::Error::custom("null found, but a decimal in base64 is expected"))
    }
}

/// Reads a decimal from an object with its scale, such as Debezium's `VariableScaleDecimal`,
/// `{"scale": 2, "value": "Fto="}`: `#[serde(with = "projector_sdk::decimal::VariableScale")]`.
pub struct VariableScale;

#[derive(Deserialize)]
struct Parts {
    scale: i32,
    value: String,
}

impl VariableScale {
    pub fn deserialize<'de, D: Deserializer<'de>, F: Field>(deserializer: D) -> Result<F, D::Error> {
        let parts = Option::<Parts>::deserialize(deserializer)?;
        let read =
            parts.map(|parts| digits(&parts.value, parts.scale)).transpose().map_err(D::Error::custom)?;
        F::of(read).ok_or_else(|| {
            D::Error::custom(r#"null found, but a decimal like {"scale": 2, "value": "Fto="} is expected"#)
        })
    }
}

/// The type of a field for a decimal: `Decimal`, or `Option<Decimal>` if the field may be null.
pub trait Field: Sized {
    #[doc(hidden)]
    fn of(read: Option<Decimal>) -> Option<Self>;
}

impl Field for Decimal {
    fn of(read: Option<Decimal>) -> Option<Self> {
        read
    }
}

impl Field for Option<Decimal> {
    fn of(read: Option<Decimal>) -> Option<Self> {
        Some(read)
    }
}

fn digits(text: &str, scale: i32) -> Result<Decimal, String> {
    let shown = || text.chars().take(60).collect::<String>();
    let bytes = decode(text).filter(|bytes| !bytes.is_empty());
    let bytes = bytes.ok_or_else(|| {
        format!(
            "{:?} is not a decimal in base64, like \"Fto=\": does the producer send a number or a string instead?",
            shown()
        )
    })?;
    let too_long = || format!("{:?} with scale {scale} has more than 38 digits", shown());
    // Leading bytes that only repeat the sign do not count.
    let sign: u8 = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
    let mut wide = [sign; 16];
    let from = bytes.len().saturating_sub(16);
    if bytes[..from].iter().any(|byte| *byte != sign) || (from > 0 && (bytes[from] ^ sign) & 0x80 != 0) {
        return Err(too_long());
    }
    wide[16 - (bytes.len() - from)..].copy_from_slice(&bytes[from..]);
    let units = i128::from_be_bytes(wide);
    match u8::try_from(scale) {
        Ok(scale) => Decimal::new(units, scale),
        // A negative scale, which Oracle's numbers can have, means zeros before the point.
        Err(_) => 10_i128
            .checked_pow(scale.unsigned_abs())
            .filter(|_| scale < 0)
            .and_then(|factor| units.checked_mul(factor))
            .and_then(|units| Decimal::new(units, 0)),
    }
    .ok_or_else(too_long)
}

/// Decodes base64 in the standard alphabet, with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits.bytes() {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Deserialize)]
    struct Row {
        #[serde(with = "Base64::<2>")]
        price: Decimal,
        #[serde(default, with = "Base64::<0>")]
        count: Option<Decimal>,
        #[serde(default, with = "VariableScale")]
        amount: Option<Decimal>,
    }

    fn row(json: &str) -> Result<Row, String> {
        crate::payload::read_json(json.as_bytes())
    }

    #[test]
    fn what_debezium_writes_is_read() {
        let read =
            row(r#"{"price": "Fto=", "count": null, "amount": {"scale": 4, "value": "/w=="}}"#).unwrap();
        assert_eq!(read.price.to_string(), "58.50");
        assert_eq!(read.count, None);
        assert_eq!(read.amount.unwrap().to_string(), "-0.0001");
        let read =
            row(r#"{"price": "AA==", "count": "Fto", "amount": {"scale": -2, "value": "Fto="}}"#).unwrap();
        assert_eq!(read.price.to_string(), "0.00");
        assert_eq!(read.count.unwrap().to_string(), "5850");
        assert_eq!(read.amount.unwrap().to_string(), "585000");
    }

    #[test]
    fn what_is_none_is_named() {
        for (json, words) in [
            (r#"{"price": "58.50"}"#, "\"58.50\" is not a decimal in base64"),
            (r#"{"price": ""}"#, "is not a decimal in base64"),
            (r#"{"price": null}"#, "null found, but a decimal in base64 is expected"),
            (r#"{"price": 58.5}"#, "invalid type: floating point"),
            (r#"{"price": "f/////////////////////w=="}"#, "more than 38 digits"),
            (r#"{"price": "AIAAAAAAAAAAAAAAAAAAAAA="}"#, "more than 38 digits"),
        ] {
            let error = row(json).err().unwrap_or_default();
            assert!(error.contains(words) && error.contains("`price`"), "{json}: {error}");
        }
        let error = row(r#"{"price": "Fto=", "amount": {"scale": 2}}"#).err().unwrap_or_default();
        assert!(error.contains("missing field `value`") && error.contains("`amount`"), "{error}");
    }

    proptest! {
        #[test]
        fn all_digits_are_read(units in -99_999_999_999_999_999_999_999_999_999_999_999_999_i128..=99_999_999_999_999_999_999_999_999_999_999_999_999, scale in 0..39_i32) {
            let text = encode(&units.to_be_bytes());
            prop_assert_eq!(digits(&text, scale), Ok(Decimal::new(units, scale as u8).unwrap()));
            // As Java's BigInteger: no byte more than the sign needs.
            let bytes = units.to_be_bytes();
            let spare = (0..15).take_while(|at| {
                let sign = if units < 0 { 0xff } else { 0 };
                bytes[*at] == sign && (bytes[at + 1] ^ sign) & 0x80 == 0
            }).count();
            prop_assert_eq!(digits(&encode(&bytes[spare..]), scale), Ok(Decimal::new(units, scale as u8).unwrap()));
        }

        #[test]
        fn no_text_brings_it_down(text in "[A-Za-z0-9+/=]{0,40}|\\PC{0,20}", scale in any::<i32>()) {
            let _ = digits(&text, scale);
        }
    }

    fn encode(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let three = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
            let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            for at in 0..=chunk.len() {
                text.push(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63] as char);
            }
        }
        text
    }
}
