//! Formats instants. Inside the host, an instant is a number of microseconds since 1970, as in both stores;
//! in output it is RFC 3339.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime_serde::re::humantime;
use serde::{Serialize, Serializer};

/// The first instant of the year 10000, in microseconds: RFC 3339 ends there.
const END_MICROS: i64 = 253_402_300_800_000_000;

/// Now, in microseconds since 1970, by this machine's clock.
pub fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Now, in milliseconds since 1970, like the timestamps of records.
pub fn now_ms() -> i64 {
    now_micros() / 1_000
}

fn time(micros: i64) -> Option<SystemTime> {
    let since = Duration::from_micros(u64::try_from(micros).ok().filter(|_| micros < END_MICROS)?);
    UNIX_EPOCH.checked_add(since)
}

/// An instant for a person: to the second. An instant that RFC 3339 cannot express is shown as a number with its unit.
pub fn to_seconds(micros: i64) -> String {
    match time(micros) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => format!("{micros} µs since 1970"),
    }
}

/// An instant for a program: to the microsecond. `null` if RFC 3339 cannot express it.
pub fn serialize<S: Serializer>(micros: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    time(*micros).map(|time| humantime::format_rfc3339_micros(time).to_string()).serialize(serializer)
}

/// [`serialize`] for an optional instant; `null` if there is none.
pub mod option {
    use super::{Serialize, Serializer, humantime, time};

    pub fn serialize<S: Serializer>(micros: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        let time = micros.and_then(time);
        time.map(|time| humantime::format_rfc3339_micros(time).to_string()).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        #[serde(serialize_with = "serialize")]
        at: i64,
        #[serde(serialize_with = "option::serialize")]
        done_at: Option<i64>,
    }

    #[test]
    fn instants_leave_the_host_as_rfc_3339() {
        let json = |row: Row| serde_json::to_string(&row).expect("JSON");
        let at = 1_760_000_000_123_456;
        assert_eq!(
            json(Row { at, done_at: Some(at) }),
            r#"{"at":"2025-10-09T08:53:20.123456Z","done_at":"2025-10-09T08:53:20.123456Z"}"#
        );
        assert_eq!(json(Row { at: -1, done_at: None }), r#"{"at":null,"done_at":null}"#);
        assert_eq!(
            (to_seconds(0), to_seconds(END_MICROS)),
            ("1970-01-01T00:00:00Z".into(), format!("{END_MICROS} µs since 1970"))
        );
    }
}
