//! The arguments that select dead letters.

use std::time::{SystemTime, UNIX_EPOCH};

use humantime_serde::re::humantime;
use projector_store::dead_letters::DeadLetterFilter;

/// Selects dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// The kind of failure: rejected, trap, limit, too-large, invalid, refused or timeout.
    #[arg(long)]
    kind: Option<String>,
    /// The code of the failure, as `dlq list` shows it in brackets.
    #[arg(long)]
    code: Option<String>,
    /// The record's key, as text.
    #[arg(long)]
    key: Option<String>,
    /// The record's key, as hexadecimal digits.
    #[arg(long, value_name = "HEX", conflicts_with = "key", value_parser = hexadecimal)]
    key_hex: Option<Bytes>,
    /// Failed at or after this time: `2h` (2 hours ago), or `2026-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Failed at or before this time, in the same format.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
}

#[derive(Debug, Clone)]
pub(super) struct Bytes(pub(super) Vec<u8>);

pub(super) fn hexadecimal(digits: &str) -> Result<Bytes, String> {
    hex::decode(digits).map(Bytes).map_err(|error| error.to_string())
}

fn time(written: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(written) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| "this time is too long ago".to_owned());
    }
    humantime::parse_rfc3339_weak(written)
        .map_err(|_| "write a duration before now (`2h`), or an instant (`2026-01-31T12:00:00Z`)".to_owned())
}

impl Selection {
    pub(super) fn is_empty(&self) -> bool {
        let Self { kind, code, key, key_hex, since, until } = self;
        kind.is_none()
            && code.is_none()
            && key.is_none()
            && key_hex.is_none()
            && since.is_none()
            && until.is_none()
    }

    pub(super) fn filter(self, projection: Option<String>, most: i64) -> DeadLetterFilter {
        let micros =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        DeadLetterFilter {
            projection,
            ids: Vec::new(),
            kind: self.kind,
            code: self.code,
            key: self.key.map(String::into_bytes).or(self.key_hex.map(|Bytes(bytes)| bytes)),
            since: self.since.map(micros),
            until: self.until.map(micros),
            whole: false,
            most,
        }
    }
}
