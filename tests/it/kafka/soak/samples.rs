//! What a host and its database hold, sampled again and again, and whether any of it grows.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::{GATES, Host, Session, request};
use crate::kafka::generations::COUNTS;

/// Of one moment: by name, how much there is of each thing.
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) held: BTreeMap<String, u64>,
}

const MIB: u64 = 1024 * 1024;

/// Each of them has a name that its slack goes by.
const MEMORY: &str = "memory";
const SHOWN: [&str; 6] = [MEMORY, "threads", "descriptors", "tasks", "sessions", "relations"];

impl Sample {
    /// `None`: the database or the host did not answer at the moment, as after its connections were cut.
    pub(super) fn take(at: Duration, host: &Host, database: &mut Session) -> Option<Sample> {
        let address = host.log().until_said("the admin API is listening");
        let (status, process) = request(address.field("address"), Some("ann's"), "GET /v1/host", "");
        let tasks = process["tasks"].as_u64().filter(|_| status == 200)?;
        let mut held: BTreeMap<String, u64> = [
            (MEMORY, host.resident_memory()),
            ("threads", host.threads() as u64),
            ("descriptors", host.descriptors() as u64),
            ("tasks", tasks),
        ]
        .map(|(name, held)| (name.to_owned(), held))
        .into();
        let mut number = |name: String, sql: &str| {
            let found: u64 = database.run(sql)[0].parse().unwrap();
            held.insert(name, found);
        };
        number(
            "sessions".to_owned(),
            "select count(*)::text from pg_stat_activity
             where datname = current_database() and application_name = 'projector'",
        );
        // Those of the plugins' tables, of which each generation has some.
        number(
            "relations".to_owned(),
            &format!(
                "select count(*)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where n.nspname like '{COUNTS}%' or n.nspname like '{GATES}%'"
            ),
        );
        let tables = database.run(
            "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where n.nspname = 'projector' and c.relkind = 'r' order by 1",
        );
        for table in tables {
            let mut number = |what: &str, sql: String| {
                let found: u64 = database.run(&sql)[0].parse().unwrap();
                held.insert(format!("{what} of {table}"), found);
            };
            number("rows", format!("select count(*)::text from projector.{table}"));
            number("bytes", format!("select pg_total_relation_size('projector.{table}')::text"));
        }
        Some(Sample { at, held })
    }

    /// A line of the table.
    pub(super) fn line(&self) -> String {
        let total = |what: &str| -> u64 {
            self.held.iter().filter(|(name, _)| name.starts_with(what)).map(|(_, held)| held).sum()
        };
        let shown = SHOWN.map(|name| format!("{:>12}", readable(name, self.held[name]))).concat();
        let (rows, bytes) = (total("rows of "), total("bytes of "));
        format!("{:>7} s{shown}{rows:>11}{:>12}", self.at.as_secs(), readable("bytes of all", bytes))
    }
}

/// Above the lines.
pub(super) fn head() -> String {
    let shown = SHOWN.map(|name| format!("{name:>12}")).concat();
    format!("{:>9}{shown}{:>11}{:>12}", "time", "rows", "bytes")
}

fn is_bytes(name: &str) -> bool {
    name == MEMORY || name.starts_with("bytes of ")
}

fn readable(name: &str, held: u64) -> String {
    if is_bytes(name) { format!("{:.1} MiB", held as f64 / MIB as f64) } else { held.to_string() }
}

/// What a thing may have more of at the end than at the beginning, beside a share: it differs by so much from one
/// moment to the next.
fn slack(name: &str) -> u64 {
    match name {
        MEMORY => 24 * MIB,
        "threads" | "sessions" => 4,
        "descriptors" | "tasks" => 8,
        // A generation that is built.
        "relations" => 10,
        _ if is_bytes(name) => 2 * MIB,
        _ => 20,
    }
}

/// The medians of a thing in three windows, one after the other.
pub(super) struct Medians {
    pub(super) name: String,
    pub(super) windows: [u64; 3],
}

impl Medians {
    pub(super) fn grows(&self) -> bool {
        let [first, middle, last] = self.windows;
        // The database gives space back when it vacuums.
        let share = if self.name.starts_with("bytes of ") { 4 } else { 10 };
        last > first + first / share + slack(&self.name) && middle >= first
    }

    pub(super) fn line(&self) -> String {
        let windows = self.windows.map(|held| format!("{:>12}", readable(&self.name, held))).concat();
        format!("{:<24}{windows}{}", self.name, if self.grows() { "  grows" } else { "" })
    }
}

/// Of each thing, after a quarter of the time, in which caches are filled and what is kept for minutes comes to its
/// number.
pub(super) fn medians(samples: &[Sample]) -> Vec<Medians> {
    let warm = &samples[samples.len() / 4..];
    let third = warm.len() / 3;
    assert!(third > 0, "{} samples are too few", samples.len());
    let windows = [&warm[..third], &warm[third..2 * third], &warm[2 * third..]];
    let names = warm[0].held.keys();
    let median = |name: &str, window: &[Sample]| {
        let mut held: Vec<u64> = window.iter().filter_map(|sample| sample.held.get(name).copied()).collect();
        held.sort_unstable();
        held.get(held.len() / 2).copied().unwrap_or_default()
    };
    names
        .map(|name| Medians { name: name.clone(), windows: windows.map(|window| median(name, window)) })
        .collect()
}

#[test]
fn what_grows_is_told_from_what_goes_up_and_down() {
    let samples: Vec<Sample> = (0..120)
        .map(|at: u64| Sample {
            at: Duration::from_secs(at),
            held: [
                // Filled at first, and then up and down.
                ("memory", 200 * MIB + at.min(20) * MIB + at % 7 * MIB),
                ("tasks", 40 + at / 3),
                ("threads", 20 + at % 5),
                ("rows of operation", at * 10),
            ]
            .map(|(name, held)| (name.to_owned(), held))
            .into(),
        })
        .collect();
    let grows: Vec<String> =
        medians(&samples).into_iter().filter(Medians::grows).map(|medians| medians.name).collect();
    assert_eq!(grows, ["rows of operation", "tasks"]);
}
