//! Exact decimals: an integer, and how many of its digits stand after the decimal point.
//!
//! Why: money does not survive binary floats. Nothing in here rounds. A number that would lose a digit is an error.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The largest precision of a column: an `i128` holds every number of so many digits.
pub const MAX_PRECISION: u8 = 38;

/// A decimal number, `units / 10^scale`. Equality, order and hash go by value: `1.50 == 1.5`.
///
/// In JSON a decimal is read from a number or a string, `12.50`, `"12.50"` or `1250e-2`, with every digit. It is written
/// as a number. Below `#[serde(flatten)]`, and in internally tagged and untagged enums, serde reads a number as a float
/// first. If digits would be lost there, the event is rejected.
#[derive(Debug, Clone, Copy)]
pub struct Decimal {
    units: i128,
    scale: u8,
}

impl Decimal {
    /// The number `units / 10^scale`. `None` if it has more than [`MAX_PRECISION`] digits.
    pub fn new(units: i128, scale: u8) -> Option<Self> {
        let fits = scale <= MAX_PRECISION && units.unsigned_abs() < 10u128.pow(MAX_PRECISION.into());
        fits.then_some(Self { units, scale })
    }

    /// The number without its decimal point: 1250 for `12.50`.
    pub fn units(self) -> i128 {
        self.units
    }

    /// How many digits stand after the decimal point: 2 for `12.50`.
    pub fn scale(self) -> u8 {
        self.scale
    }

    /// The same number with exactly `scale` digits after the point and at most `precision` digits in total.
    ///
    /// Nothing is rounded. The error says which digits do not fit.
    pub fn fit(self, precision: u8, scale: u8) -> Result<Self, String> {
        let Self { mut units, scale: mut from } = self.trimmed();
        if from > scale {
            return Err(format!("{self} has more than {scale} digits after the point"));
        }
        while from < scale {
            units =
                units.checked_mul(10).ok_or_else(|| format!("{self} has more than {precision} digits"))?;
            from += 1;
        }
        if units.unsigned_abs() >= 10u128.pow(precision.into()) {
            return Err(format!("{self} does not fit decimal({precision},{scale})"));
        }
        Ok(Self { units, scale })
    }

    /// The sum, with the larger of both scales. `None` on overflow. The caller checks the column's precision with
    /// [`Decimal::fit`].
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let units = self.at_scale(scale)?.checked_add(other.at_scale(scale)?)?;
        Some(Self { units, scale })
    }

    fn at_scale(self, scale: u8) -> Option<i128> {
        self.units.checked_mul(10i128.checked_pow(u32::from(scale.checked_sub(self.scale)?))?)
    }

    /// The form that equal numbers share: without trailing zeros after the point.
    pub fn trimmed(self) -> Self {
        let Self { mut units, mut scale } = self;
        while scale > 0 && units % 10 == 0 {
            units /= 10;
            scale -= 1;
        }
        Self { units, scale }
    }

    /// Reads a number as JSON and Java write it: as [`FromStr`] does, or with an exponent, `1.5E-7`.
    pub fn read(text: &str) -> Result<Self, String> {
        let Some((digits, exponent)) = text.split_once(['e', 'E']) else { return text.parse() };
        let number: Self = digits.parse()?;
        let too_long = || format!("`{}` has more than {MAX_PRECISION} digits", shown(text));
        let exponent: i32 = exponent.parse().map_err(|_| not_a_decimal(text))?;
        if number.units == 0 {
            return Ok(Self { units: 0, scale: 0 });
        }
        let scale = i32::from(number.scale).checked_sub(exponent).ok_or_else(too_long)?;
        if let Ok(scale) = u8::try_from(scale) {
            return Self::new(number.units, scale).ok_or_else(too_long);
        }
        let factor = 10_i128.checked_pow(scale.unsigned_abs()).filter(|_| scale < 0);
        factor
            .and_then(|factor| number.units.checked_mul(factor))
            .and_then(|units| Self::new(units, 0))
            .ok_or_else(too_long)
    }

    fn parts(self) -> (i128, u128, u8) {
        let unit = 10u128.pow(self.scale.into());
        let magnitude = self.units.unsigned_abs();
        ((magnitude / unit) as i128 * self.units.signum(), magnitude % unit, self.scale)
    }
}

impl FromStr for Decimal {
    type Err = String;

    /// Plain notation: `-12.50`. No exponent, no NaN, no infinity, no blanks.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || not_a_decimal(text);
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || unsigned.ends_with('.') {
            return Err(wrong());
        }
        let too_long = || format!("a decimal has at most {MAX_PRECISION} digits");
        if fraction.len() > usize::from(MAX_PRECISION) {
            return Err(too_long());
        }
        let mut units: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            units = units
                .checked_mul(10)
                .and_then(|units| units.checked_add(i128::from(digit - b'0')))
                .ok_or_else(too_long)?;
        }
        if text.starts_with('-') {
            units = -units;
        }
        Self::new(units, fraction.len() as u8).ok_or_else(too_long)
    }
}

fn not_a_decimal(text: &str) -> String {
    format!("`{}` is not a decimal: write it like -12.50", shown(text))
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = crate::raw::text(deserializer)?;
        let text = raw.get();
        let read = match text.as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(text).map_err(D::Error::custom)?;
                Self::read(&text)
            }
            Some(b'-' | b'0'..=b'9') => Self::read(text),
            _ => Err(not_a_decimal(text)),
        };
        read.map_err(D::Error::custom)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction, scale) = self.parts();
        if self.units < 0 {
            f.write_str("-")?;
        }
        write!(f, "{}", whole.unsigned_abs())?;
        if scale > 0 {
            write!(f, ".{fraction:0width$}", width = usize::from(scale))?;
        }
        Ok(())
    }
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Self { units: number.into(), scale: 0 }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| number.units.signum();
        sign(self).cmp(&sign(other)).then_with(|| {
            // The integer parts, then the fractions brought to 38 digits: no overflow.
            let (whole, fraction, scale) = self.parts();
            let (other_whole, other_fraction, other_scale) = other.parts();
            let widened = |fraction: u128, scale: u8| fraction * 10u128.pow((MAX_PRECISION - scale).into());
            let by_fraction = widened(fraction, scale).cmp(&widened(other_fraction, other_scale));
            whole.cmp(&other_whole).then(if self.units < 0 { by_fraction.reverse() } else { by_fraction })
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl std::hash::Hash for Decimal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let Self { units, scale } = self.trimmed();
        (units, scale).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().expect(text)
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["0", "-0.05", "12.50", "99999999999999999999999999999999999999", "-1"] {
            assert_eq!(decimal(text).to_string(), text);
        }
        for text in
            ["", "-", ".", "1.", ".5", "1e3", "NaN", " 1", "+1", "999999999999999999999999999999999999999"]
        {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
    }

    #[test]
    fn json_gives_every_digit() {
        let read = |json: &str| serde_json::from_str::<Decimal>(json).map(|decimal| decimal.to_string());
        for (json, text) in [
            ("12345678901234567890.12", "12345678901234567890.12"),
            ("\"100.00\"", "100.00"),
            ("100.00", "100.00"),
            ("1e-2", "0.01"),
            ("\"1.5E+3\"", "1500"),
            ("-12.5e1", "-125"),
            ("18446744073709551616", "18446744073709551616"),
            ("0e99999", "0"),
            ("1e-38", "0.00000000000000000000000000000000000001"),
        ] {
            assert_eq!(read(json).map_err(|error| error.to_string()), Ok(text.to_owned()), "{json}");
            assert_eq!(serde_json::to_string(&decimal(text)).unwrap(), text);
        }
        for json in [
            "1e38",
            "1e-39",
            "\"\"",
            "\"1e\"",
            "\"1e1e1\"",
            "\"12,5\"",
            "null",
            "true",
            "[1]",
            "\"+1\"",
            "1e9999999999",
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains("digits") || error.contains("is not a decimal"), "{json}: {error}");
        }
    }

    #[test]
    fn nothing_is_rounded() {
        assert_eq!(decimal("1.5").fit(4, 2).map(|d| d.to_string()), Ok("1.50".into()));
        assert_eq!(decimal("1.500").fit(4, 2).map(|d| d.to_string()), Ok("1.50".into()));
        assert!(decimal("1.505").fit(4, 2).is_err());
        assert!(decimal("100").fit(4, 2).is_err());
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_numbers(a in -10_000i64..10_000, b in -10_000i64..10_000, s in 0u8..4, t in 0u8..4) {
            let (x, y) = (Decimal::new(a.into(), s).unwrap(), Decimal::new(b.into(), t).unwrap());
            let scaled = |n: i64, s: u8| i128::from(n) * 10i128.pow((4 - s).into());
            prop_assert_eq!(x.cmp(&y), scaled(a, s).cmp(&scaled(b, t)));
            prop_assert_eq!(x.checked_add(y).unwrap().at_scale(4).unwrap(), scaled(a, s) + scaled(b, t));
        }
    }
}
