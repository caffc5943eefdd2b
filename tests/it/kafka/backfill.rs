//! History that the log no longer has comes from a file, once, and the log takes over where it ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use projector_workload::{ORDER_CONFIRMED, Position, Publisher, Record, write_json_lines};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::harness::{
    Expected, Host, ORDER_SEARCH, Platform, Projection, ReadModel, SALES_BY_COUNTRY, assert_same, eventually,
    fold, seed,
};

const PARTITIONS: i32 = 2;

/// A history whose first part is in a file, and not in the log any more.
struct History {
    platform: Platform,
    /// What the read models must be in the end.
    expected: Expected,
    /// By partition: the offset after the last one of the file.
    ends: BTreeMap<(String, i32), i64>,
    file: Vec<u8>,
    lines: usize,
    /// In the log, behind the file.
    later: usize,
}

impl History {
    /// `lost`: how much of the file's part is not in the log any more.
    fn new(name: &str, plugin: &'static str, read_model: ReadModel, seed: u64, lost: f64) -> History {
        // Batches are small, so that there are some.
        let platform = Platform::new(name, &[plugin], read_model).set(&["batch", "events"], 50);
        platform.create_topics(PARTITIONS);
        let topics = match plugin {
            SALES_BY_COUNTRY => Some(platform.topic(ORDER_CONFIRMED)),
            _ => None,
        };
        let records: Vec<Record> = (platform.workload(seed, 2_000).records())
            .filter(|record| topics.as_ref().is_none_or(|topic| record.topic == *topic))
            .collect();
        let (first, later) = records.split_at(records.len() / 2);
        let positions = Publisher::new(platform.brokers()).publish(first).unwrap();
        platform.publish(later);
        let expected = fold(&platform);
        let mut ends: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for (record, position) in first.iter().zip(&positions) {
            let end = ends.entry((record.topic.clone(), position.partition)).or_default();
            *end = (*end).max(position.offset + 1);
        }
        delete(&platform, &ends, |end| (end as f64 * lost) as i64);
        let history = History {
            file: lines(first.iter().zip(&positions)),
            lines: first.len(),
            later: later.len(),
            platform,
            expected,
            ends,
        };
        // The projection is there, and lacks what was lost.
        let host = history.platform.start_host("before");
        history.platform.until_fresh();
        host.sigterm();
        history
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path: PathBuf = self.platform.directory().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// The generation that is built.
    fn built(&self, projection: &str) -> Projection {
        let status = self.platform.status().unwrap().remove(projection).unwrap();
        status.beside.into_iter().find(|beside| beside.role == "building").expect("one is built")
    }

    /// Hosts bring the built generation to the end of the log, and readers see it, and what it holds is right.
    #[track_caller]
    fn assert_it_ends_well(&self, projection: &str, skipped: usize) {
        let host = self.platform.start_host("after");
        eventually("the generation is through with the log", || {
            let built = self.built(projection);
            if let Some(trouble) = &built.halted {
                return Err(format!("it stands still: {trouble:?}"));
            }
            if built.fresh { Ok(()) } else { Err(format!("{} events behind", built.lag)) }
        });
        self.assert_shown(projection, skipped, host);
    }

    #[track_caller]
    fn assert_shown(&self, projection: &str, skipped: usize, host: Host) {
        self.platform.ask(&["promote", projection, "--force", "--reason", "the other one lacks history"]);
        let Expected { orders, customers, sales, .. } = &self.expected;
        let read_model = self.platform.read_model();
        match projection {
            SALES_BY_COUNTRY => assert_same("sales", sales, &read_model.sales()),
            _ => {
                assert_same("orders", orders, &read_model.orders());
                assert_same("customers", customers, &read_model.customers());
            }
        }
        let live = self.platform.status().unwrap().remove(projection).unwrap();
        let counters = live.counters;
        assert_eq!(counters.read as usize, self.lines + self.later + skipped, "{live:#?}");
        assert_eq!(counters.read, counters.applied + counters.ignored + counters.skipped, "{live:#?}");
        assert_eq!(counters.skipped as usize, skipped);
        for ((topic, partition), end) in &self.ends {
            let read =
                live.partitions.iter().find(|read| read.topic == *topic && read.partition == *partition);
            let read = read.expect("it is read");
            assert_eq!(read.counters.read as i64, read.log_end - end, "{topic}/{partition} begins at {end}");
        }
        host.sigterm();
    }
}

fn lines<'r>(published: impl IntoIterator<Item = (&'r Record, &'r Position)>) -> Vec<u8> {
    let mut file = Vec::new();
    write_json_lines(&mut file, published).unwrap();
    file
}

/// Removes the beginning of partitions from the log.
fn delete(platform: &Platform, ends: &BTreeMap<(String, i32), i64>, before: impl Fn(i64) -> i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", platform.brokers()).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    for ((topic, partition), end) in ends {
        offsets.add_partition_offset(topic, *partition, Offset::Offset(before(*end))).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let deleted = runtime.block_on(admin.delete_records(&offsets, &AdminOptions::new())).unwrap();
    deleted.elements().iter().for_each(|element| element.error().unwrap());
}

/// What a command said, without the breaks that make it fit a terminal.
fn unwrapped(said: &str) -> String {
    said.chars().filter(|character| !character.is_whitespace() && *character != '│').collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// Whatever the file is packed with; the log has the last part of it as well.
#[test]
fn a_file_gives_what_the_log_lost_and_the_log_takes_over() {
    let sqlite = ReadModel::sqlite();
    for (name, plugin, read_model) in [
        ("history.jsonl", SALES_BY_COUNTRY, ReadModel::postgres()),
        ("history.jsonl.gz", ORDER_SEARCH, ReadModel::postgres()),
        ("history.jsonl.zst", SALES_BY_COUNTRY, sqlite),
    ] {
        let history = History::new("history", plugin, read_model, seed(871), 0.7);
        let packed = match name.rsplit('.').next() {
            Some("gz") => gz(&history.file),
            Some("zst") => zstd::encode_all(&history.file[..], 3).unwrap(),
            _ => history.file.clone(),
        };
        let file = history.write(name, &packed);
        // With a host, which is asked, and runs it when the file is through.
        let host = history.platform.start_host("while");
        let done = history.platform.ask(&["backfill", plugin, "--from", &file, "--as", "ann"]);
        assert_eq!(done["generation"], 2);
        assert_eq!((&done["lines"], &done["events"]), (&json!(history.lines), &json!(history.lines)));
        assert_eq!(done["skipped"], 0);
        let whole = done["applied"].as_u64().unwrap() + done["ignored"].as_u64().unwrap();
        assert_eq!(whole, history.lines as u64);
        let last = &history.platform.ask(&["history", plugin])[0];
        assert_eq!((&last["action"], &last["asked_by"]), (&json!("backfill"), &json!("ann")));
        assert!(last["verdict"].as_str().unwrap().contains(name), "{last:#}");
        eventually("the host brings it to the end of the log", || {
            let built = history.built(plugin);
            if built.fresh { Ok(()) } else { Err(format!("{} behind; {:?}", built.lag, built.halted)) }
        });
        history.assert_shown(plugin, 0, host);
    }
}

#[test]
fn killed_in_the_middle_it_goes_on_where_it_was_and_with_no_other_file() {
    for (at, read_model) in [
        ("before-commit=kill@3", ReadModel::postgres()),
        ("after-commit=kill@3", ReadModel::postgres()),
        ("before-commit=kill@3", ReadModel::sqlite()),
    ] {
        let history = History::new("killed", SALES_BY_COUNTRY, read_model, seed(872), 1.0);
        let platform = &history.platform;
        let file = history.write("history.jsonl", &history.file);
        let backfill = ["backfill", SALES_BY_COUNTRY, "--from", &file];
        let (code, _, said) = platform.command_at(at, &backfill);
        assert_eq!(code, -1, "{said}");
        assert!(said.contains("failpoint"), "{said}");
        // What is committed stays, and no host goes on with it, nor does anybody show it to readers.
        let host = platform.start_host("meanwhile");
        let lines_in = if at.starts_with("after") { 150 } else { 100 };
        let built = history.built(SALES_BY_COUNTRY);
        assert_eq!(built.generation, 2);
        assert_eq!(built.counters.read, lines_in, "{built:#?}");
        assert!(built.halted.unwrap().reason.contains("projector backfill"));
        let force = ["promote", SALES_BY_COUNTRY, "--force", "--reason", "x"];
        for command in [&force[..], &["diff", SALES_BY_COUNTRY]] {
            let (code, _, said) = platform.command(command);
            assert!(code == 1 && unwrapped(&said).contains("fedfromafile"), "{said}");
        }
        let other = history.write("other.jsonl", &[&history.file[..], b"\n"].concat());
        let (code, _, said) = platform.command(&["backfill", SALES_BY_COUNTRY, "--from", &other]);
        assert!(
            code == 1 && unwrapped(&said).contains("anotherfile") && unwrapped(&said).contains("retire"),
            "{said}"
        );
        host.sigterm();
        // Killed again, later, and then not.
        let (code, _, said) = platform.command_at("before-commit=kill@5", &backfill);
        assert_eq!(code, -1, "{said}");
        assert_eq!(history.built(SALES_BY_COUNTRY).counters.read, lines_in + 200);
        let done = platform.ask(&backfill);
        assert_eq!((&done["events"], &done["generation"]), (&json!(history.lines), &json!(2)));
        history.assert_it_ends_well(SALES_BY_COUNTRY, 0);
    }
}

/// One that is no JSON, one that the plugin rejects, one that the database refuses; and nothing but blanks.
#[test]
fn a_line_that_fails_is_named_and_may_be_skipped() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let history = History::new("bad-lines", SALES_BY_COUNTRY, read_model, seed(873), 1.0);
        let platform = &history.platform;
        let topic = platform.topic(ORDER_CONFIRMED);
        let text = String::from_utf8(history.file.clone()).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // Sums that no column holds: of a row that is there.
        let counted = |line: &&String| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["value"]["schemaVersion"].as_i64().is_some_and(|version| version >= 2)
        };
        let mut overflow: Value = serde_json::from_str(lines.iter().find(counted).unwrap()).unwrap();
        overflow["value"]["order"]["totalCents"] = json!(i64::MAX);
        overflow["value"]["eventId"] = json!("one of its own");
        let overflow = json!({ "topic": topic, "value": overflow["value"] }).to_string();
        let rejected = json!({ "topic": ORDER_CONFIRMED, "value": "no order" }).to_string();
        let unknown = json!({ "topic": "unknown.v1", "value": 1 }).to_string();
        for (at, line) in [
            (420, overflow),
            (300, String::new()),
            (299, "  ".to_owned()),
            (210, rejected),
            (130, unknown),
            (70, "{\"topic\":".to_owned()),
        ] {
            lines.insert(at, line);
        }
        let bad = [71, 132, 213, 426];
        let file = history.write("history.jsonl", (lines.join("\n") + "\n\n\n").as_bytes());
        let mut command = vec!["backfill", SALES_BY_COUNTRY, "--from", &file, "--reason", "it was never one"];
        let numbers = bad.map(|line| line.to_string());
        let said_of = ["EOF", "unknown.v1", "theeventat", "theeventfailed"];
        for ((line, number), words) in bad.iter().zip(&numbers).zip(said_of) {
            let (code, _, said) = platform.command(&command);
            let said = unwrapped(&said);
            assert!(code == 1 && said.contains(&format!("line{line}:")) && said.contains(words), "{said}");
            // All before it is in the rows: but for those that are skipped, and blanks.
            let built = history.built(SALES_BY_COUNTRY);
            let blanks = if *line > 300 { 2 } else { 0 };
            assert_eq!(built.counters.read as i64, line - 1 - blanks, "{built:#?}");
            command.extend(["--skip-line", number]);
        }
        let done = platform.ask(&command);
        assert_eq!(done["skipped"], 4);
        assert_eq!(done["lines"], json!(lines.len() + 2));
        assert_eq!(history.built(SALES_BY_COUNTRY).skipped_by_code, [("operator".to_owned(), 4)].into());
        let operations = platform.ask(&["operations"]);
        let skips = operations.as_array().unwrap().iter().filter(|one| one["action"] == "skip");
        assert_eq!(skips.filter(|one| one["reason"] == "it was never one").count(), 4, "{operations:#}");
        history.assert_it_ends_well(SALES_BY_COUNTRY, 4);
    }
}

#[test]
fn what_neither_the_file_nor_the_log_has_is_named() {
    let history = History::new("gap", SALES_BY_COUNTRY, ReadModel::postgres(), seed(874), 1.0);
    let platform = &history.platform;
    // Two more are gone of each partition.
    delete(platform, &history.ends, |end| end + 2);
    let file = history.write("history.jsonl", &history.file);
    let backfill = ["backfill", SALES_BY_COUNTRY, "--from", &file];
    let (code, _, said) = platform.command(&backfill);
    let said = unwrapped(&said);
    assert_eq!(code, 1);
    for ((topic, partition), end) in &history.ends {
        let gap = format!("offsets{end}to{}of{topic}/{partition}", end + 1);
        assert!(said.contains(&gap) && said.contains("--allow-gap"), "{said}");
    }
    assert!(platform.status().unwrap()[SALES_BY_COUNTRY].beside.is_empty(), "nothing was begun");
    let ask = [&backfill[..], &["--allow-gap", "--reason", "they are lost"]].concat();
    assert_eq!(platform.ask(&ask)["events"], json!(history.lines));
    let host = platform.start_host("after");
    eventually("the generation is through with the log", || {
        let built = history.built(SALES_BY_COUNTRY);
        if built.fresh { Ok(()) } else { Err(format!("{} behind; {:?}", built.lag, built.halted)) }
    });
    let built = history.built(SALES_BY_COUNTRY);
    assert_eq!(built.counters.read as usize, history.lines + history.later - 2 * PARTITIONS as usize);
    // Of another log: it is longer than this one.
    let line = json!({ "topic": ORDER_CONFIRMED, "partition": 0, "offset": 1_000_000, "value": null });
    let file = history.write("other.jsonl", line.to_string().as_bytes());
    let (code, _, said) = platform.command(&["backfill", SALES_BY_COUNTRY, "--from", &file]);
    assert!(code == 1 && unwrapped(&said).contains("anothertopicorcluster"), "{said}");
    host.sigterm();
}

/// Offsets are missing between lines, before the first one, or of a whole partition; or one stands there twice.
#[test]
fn a_file_with_holes_is_named_before_anything_is_begun() {
    let history = History::new("holes", SALES_BY_COUNTRY, ReadModel::postgres(), seed(875), 1.0);
    let platform = &history.platform;
    let text = String::from_utf8(history.file.clone()).unwrap();
    let place = |line: &str| -> (i64, i64) {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["partition"].as_i64().unwrap(), line["offset"].as_i64().unwrap())
    };
    let topic = platform.topic(ORDER_CONFIRMED);
    let lines_but = |left_out: &dyn Fn(i64, i64) -> bool| -> Vec<&str> {
        let kept = text.lines().filter(|line| {
            let (partition, offset) = place(line);
            !left_out(partition, offset)
        });
        kept.collect()
    };
    let end = history.ends[&(topic.clone(), 1)];
    let cases: [(Vec<&str>, String); 3] = [
        (
            lines_but(&|partition, offset| partition == 0 && (20..23).contains(&offset)),
            "offsets 20 to 22".to_owned(),
        ),
        (lines_but(&|partition, offset| partition == 0 && offset < 2), "offsets 0 to 1".to_owned()),
        (lines_but(&|partition, _| partition == 1), format!("offsets 0 to {}", end - 1)),
    ];
    let mut holes = String::new();
    for (at, (lines, missing)) in cases.into_iter().enumerate() {
        let file = history.write(&format!("holes-{at}.jsonl"), lines.join("\n").as_bytes());
        let (code, _, said) = platform.command(&["backfill", SALES_BY_COUNTRY, "--from", &file]);
        let of = if at == 2 { 1 } else { 0 };
        let named = unwrapped(&format!("{missing} of {topic}/{of}"));
        let said = unwrapped(&said);
        assert!(code == 1 && said.contains(&named) && said.contains("--allow-gap"), "{code}: {said}");
        if at == 0 {
            holes = file;
        }
    }
    let first = text.lines().next().unwrap();
    let twice = history.write("twice.jsonl", format!("{text}{first}\n").as_bytes());
    let (code, _, said) = platform.command(&["backfill", SALES_BY_COUNTRY, "--from", &twice]);
    let line = format!("line{}:offset{}", history.lines + 1, place(first).1);
    let said = unwrapped(&said);
    assert!(code == 1 && said.contains(&line) && said.contains("--skip-line"), "{code}: {said}");
    assert!(platform.status().unwrap()[SALES_BY_COUNTRY].beside.is_empty(), "nothing was begun");

    let allowed = [
        "backfill",
        SALES_BY_COUNTRY,
        "--from",
        &holes,
        "--allow-gap",
        "--reason",
        "they are transactions' markers",
    ];
    assert_eq!(platform.ask(&allowed)["events"], json!(history.lines - 3));
}
