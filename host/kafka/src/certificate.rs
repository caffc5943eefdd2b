//! Whether a certificate has expired. Brokers do not report this: they only refuse the certificate.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const SEQUENCE: u8 = 0x30;
const EXPLICIT_VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The day on which the first certificate of a PEM file expired, as `2026-11-25`. `None` if the certificate
/// is still valid, or if the file contains none.
pub(super) fn expired(file: &Path) -> Option<String> {
    let end = not_after(&std::fs::read_to_string(file).ok()?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    (end < digits(now)).then(|| format!("{}-{}-{}", &end[..4], &end[4..6], &end[6..8]))
}

/// `YYYYMMDDHHMMSS`.
fn not_after(pem: &str) -> Option<String> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let der = STANDARD.decode(body.split_whitespace().collect::<String>()).ok()?;
    // The certificate, and in it the signed part.
    let (_, certificate, _) = element(&der).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, signed, _) = element(certificate)?;
    let (tag, _, after_version) = element(signed)?;
    let fields = if tag == EXPLICIT_VERSION { after_version } else { signed };
    let (_, _, fields) = element(fields)?; // serial number
    let (_, _, fields) = element(fields)?; // signature algorithm
    let (_, _, fields) = element(fields)?; // issuer
    let (_, validity, _) = element(fields)?;
    let (_, _, end) = element(validity)?;
    let (tag, time, _) = element(end)?;
    let time = std::str::from_utf8(time).ok()?.trim_end_matches('Z');
    match (tag, time.len()) {
        // Two digits of a year from 1950 to 2049.
        (UTC_TIME, 12) => Some(format!("{}{time}", if time < "50" { "20" } else { "19" })),
        (GENERALIZED_TIME, 14) => Some(time.to_owned()),
        _ => None,
    }
}

/// The first element of DER data: its tag, its content, and the rest of the data.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ ..0x80 => (short, rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80).filter(|(bytes, _)| bytes.len() <= 4)?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Seconds since 1970 as `YYYYMMDDHHMMSS`.
fn digits(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years from March on, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(digits(0), "19700101000000");
        assert_eq!(digits(951_782_400), "20000229000000");
        assert_eq!(digits(1_796_000_399), "20261130005959");
    }

    #[test]
    fn what_is_no_certificate_has_not_expired() {
        for pem in ["", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"] {
            assert_eq!(not_after(pem), None);
        }
    }
}
