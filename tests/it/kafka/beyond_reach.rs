//! A log that does not reach back to where the live generation began: how many events and rows a new generation
//! would be without is said before one is begun or shown, and an operator says by name that they are to be left out.

use projector_workload::Record;

use super::log_identity::delete_records;
use crate::harness::{Platform, ReadModel, SALES_BY_COUNTRY, eventually, seed};

const PARTITIONS: i32 = 2;

/// A projection that has read all of its history, the first offsets of which the log does not hold any more.
fn truncated(name: &str, read_model: ReadModel) -> (Platform, String) {
    let platform = Platform::new(name, &[SALES_BY_COUNTRY], read_model);
    platform.create_topics(PARTITIONS);
    let records: Vec<Record> = platform.workload(seed(290), 1_000).records().collect();
    platform.publish(&records);
    let topic = platform.topic(projector_workload::ORDER_CONFIRMED);
    (platform, topic)
}

/// What a command said, in one line: without frames, and joined where a line was broken.
fn in_one_line(said: &str) -> String {
    let bare: String = said.chars().map(|c| if "│×╰─▶".contains(c) { ' ' } else { c }).collect();
    let line = bare.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("- ", "-").replace("/ ", "/")
}

/// The number that stands before these words.
fn number_before(said: &str, words: &str) -> u64 {
    let before = said.split(words).next().unwrap_or_default().trim_end();
    let number = before.rsplit(' ').next().unwrap_or_default();
    number.parse().unwrap_or_else(|_| panic!("no number before {words:?}: {said}"))
}

/// Runs a command that is refused; returns what it said.
#[track_caller]
fn refusal(platform: &Platform, arguments: &[&str]) -> String {
    let (code, _, said) = platform.command(arguments);
    assert_eq!(code, 1, "{said}");
    in_one_line(&said)
}

fn a_gap_is_asked_for_by_name(name: &str, read_model: ReadModel) {
    let (platform, topic) = truncated(name, read_model);
    let host = platform.start_host("host");
    let status = platform.until_fresh();
    let rows_before = platform.read_model().sales().len();
    let mut deleted = 0;
    for partition in &status[SALES_BY_COUNTRY].partitions {
        let checkpoint = partition.checkpoint.expect("it is read");
        deleted += checkpoint * 3 / 4;
        delete_records(&platform, &topic, partition.partition, checkpoint * 3 / 4);
    }
    assert!(deleted > 100, "{deleted}");

    let said = refusal(&platform, &["rebuild", SALES_BY_COUNTRY]);
    assert_eq!(number_before(&said, "events that the live generation"), deleted as u64, "{said}");
    assert!(said.contains("--allow-gap") && said.contains("projector backfill"), "{said}");
    assert!(said.contains(&format!("{topic}/0")), "{said}");
    assert!(platform.status().unwrap()[SALES_BY_COUNTRY].beside.is_empty(), "one was begun");

    platform.ask(&["rebuild", SALES_BY_COUNTRY, "--allow-gap", "--reason", "they are lost"]);
    eventually("the rows are built", || match platform.status()?[SALES_BY_COUNTRY].beside.first() {
        Some(beside) if beside.fresh => Ok(()),
        beside => Err(format!("{beside:?}")),
    });
    let promote = ["promote", SALES_BY_COUNTRY, "--force", "--reason", "they are lost"];
    let said = refusal(&platform, &promote);
    assert_eq!(number_before(&said, "events that the live generation"), deleted as u64, "{said}");
    assert_eq!(number_before(&said, "before,"), rows_before as u64, "{said}");
    assert_eq!(platform.read_model().sales().len(), rows_before, "readers see it already");

    let done = platform.ask(&[&promote[..], &["--allow-gap"]].concat());
    assert_eq!(done["beyond_reach"]["events"], deleted, "{done}");
    let rows = &done["beyond_reach"]["rows"]["sales_by_country"];
    assert_eq!(rows[0], rows_before, "{done}");
    assert_eq!(rows[1], platform.read_model().sales().len(), "{done}");
    // What was there before may be shown again without a question.
    platform.ask(&["rollback", SALES_BY_COUNTRY]);
    assert_eq!(platform.read_model().sales().len(), rows_before);
    host.sigterm();
}

#[test]
fn a_generation_without_history_is_asked_for_by_name() {
    a_gap_is_asked_for_by_name("gap", ReadModel::postgres());
}

#[test]
fn a_generation_without_history_is_asked_for_by_name_in_sqlite() {
    a_gap_is_asked_for_by_name("gap-sqlite", ReadModel::sqlite());
}

/// Nobody can be asked: it is not shown, and the log says why.
#[test]
fn a_generation_without_history_is_not_promoted_by_itself() {
    let (platform, topic) = truncated("gap-unasked", ReadModel::postgres());
    let platform = platform.set(&["deploy", "promote"], "when-fresh");
    let host = platform.start_host("host");
    let status = platform.until_fresh();
    for partition in &status[SALES_BY_COUNTRY].partitions {
        delete_records(&platform, &topic, partition.partition, partition.checkpoint.expect("it is read") / 2);
    }
    platform.ask(&["rebuild", SALES_BY_COUNTRY, "--allow-gap", "--reason", "to look at it"]);
    let line = host.log().until_said("not promoted");
    assert!(line.field("reason").contains("events that the live generation"), "{}", line.text);
    assert_eq!(platform.status().unwrap()[SALES_BY_COUNTRY].generation, 1);
    host.sigterm();
}
