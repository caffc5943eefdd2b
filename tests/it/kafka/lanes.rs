//! A projection that writes by key alone is written in several lanes at once, on one host and on
//! several, and comes out as if it were written in one.

use projector_workload::{ORDER_CONFIRMED, Record};
use serde_json::{Value, json};

use crate::harness::{
    Argument, Guest, Line, ORDER_SEARCH, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, assert_closed,
    descriptor, seed,
};

fn platform(name: &str, projection: &'static str) -> Platform {
    let platform = Platform::new(name, &[projection], ReadModel::postgres())
        .set(&["lanes"], 3)
        .set(&["batch", "events"], 200);
    platform.create_topics(6);
    platform
}

#[test]
fn three_lanes_share_the_partitions_and_count_every_event_once() {
    let platform = platform("lanes", SALES_BY_COUNTRY);
    let records: Vec<_> = platform.workload(seed(31), 12_000).records().collect();
    let (first, rest) = records.split_at(6_000);
    // Rows of the same days and countries are written by all lanes, which wait for each other's
    // locks, or end in a deadlock and try again; and one lane takes all of them down.
    let victim = platform.start_host_with("victim", "before-commit=kill@9");
    platform.until_shared_by(&victim.group(SALES_BY_COUNTRY), 3);
    platform.publish(first);
    victim.until_killed_at("before-commit");

    let one = platform.start_host("one");
    let another = platform.start_host("another");
    platform.until_shared_by(&one.group(SALES_BY_COUNTRY), 6);
    platform.publish(rest);
    platform.assert_sales_are_right();
    another.sigterm();
    one.sigterm();
}

/// A projection that reads has one writer at a time, so more lanes would only wait.
#[test]
fn a_projection_that_reads_has_one_lane() {
    let platform = platform("one-lane", ORDER_SEARCH);
    let records: Vec<_> = platform.workload(seed(32), 600).records().collect();
    platform.publish(&records);
    let host = platform.start_host("host");
    platform.until_shared_by(&host.group(ORDER_SEARCH), 1);
    platform.assert_orders_are_right();
    host.sigterm();
}

/// Two topics write one column: the lanes would merge each its own partitions.
#[test]
fn rows_that_show_the_order_between_topics_are_caught_up_in_one_lane() {
    let mut declared: Value = serde_json::from_str(&descriptor("last")).unwrap();
    let topics = ["hostile.events.v1", ORDER_CONFIRMED];
    declared["topics"] = topics.iter().map(|topic| json!({"name": topic, "statements": ["count"]})).collect();
    declared["statements"][0]["set"] = json!([{"column": "events"}]);
    declared["lookups"] = json!([]);
    let mut guest = Guest::describing(&declared.to_string());
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let guest = guest.project(&format!("(i32.const {answer})"));
    let plugins = Plugins::new(&[]).add("last.wasm", guest.component());
    let platform = Platform::new("lanes-later", &[], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["lanes"], 2);
    platform.create_topics(2);
    let records = topics.map(|topic| Record::new(platform.topic(topic), "k", "A"));
    platform.publish(&records);

    let host = platform.start_host("host");
    let lanes = |lanes: &str| {
        let runs = |line: &Line| line.message() == "projection runs" && line.text.contains(lanes);
        host.log().wait_for(&format!("that it runs with {lanes}"), runs);
    };
    lanes("\"lanes\":1");
    lanes("\"lanes\":2");
    platform.publish(&records);
    assert_closed(&platform.until_through("last"), 4, 0, 0);
    platform.until_shared_by(&host.group("last"), 2);
    host.sigterm();
}

/// Two topics write columns of the same rows: each batch has two statements, and their keys overlap.
#[test]
fn lanes_that_write_the_same_rows_from_two_topics_never_end_in_a_deadlock() {
    let topics = ["hostile.events.v1", ORDER_CONFIRMED];
    let mut declared: Value = serde_json::from_str(&descriptor("pairs")).unwrap();
    declared["topics"] = json!([
        {"name": topics[0], "statements": ["first"]},
        {"name": topics[1], "statements": ["second"]},
    ]);
    declared["tables"] = json!([{"name": "seen", "key": ["id"], "columns": [
        {"name": "id", "type": "text"},
        {"name": "first", "type": "int64", "nullable": true},
        {"name": "second", "type": "int64", "nullable": true}]}]);
    declared["statements"] = json!([
        {"name": "first", "table": "seen", "kind": "upsert", "set": [{"column": "first", "operation": "add"}]},
        {"name": "second", "table": "seen", "kind": "upsert", "set": [{"column": "second", "operation": "add"}]},
    ]);
    declared["lookups"] = json!([]);
    let mut guest = Guest::describing(&declared.to_string());
    let mut answers = Vec::new();
    let mut keys = Vec::new();
    for statement in 0..2 {
        let arguments = guest.arguments(&[Argument::Text(b"?"), Argument::Int64(1)]);
        keys.push(arguments + 8);
        answers.push(guest.calls(&[(statement, arguments, 2)]));
    }
    // The row's key is the record's.
    let write = |at: usize| {
        format!(
            "(i32.store (i32.const {at}) (local.get $key)) (i32.store (i32.const {}) (local.get $key_len))",
            at + 4
        )
    };
    let guest = guest
        .project(&format!(
            "(select (i32.const {}) (i32.const {}) (local.get $topic))",
            answers[1], answers[0]
        ))
        .before(&keys.into_iter().map(write).collect::<String>());
    let plugins = Plugins::new(&[]).add("pairs.wasm", guest.component());
    let platform = Platform::new("lanes-same-rows", &[], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["lanes"], 4)
        .set(&["batch", "events"], 200);
    platform.create_topics(8);
    const RECORDS: usize = 12_000;
    const KEYS: usize = 300;
    let records = |rounds: std::ops::Range<usize>| -> Vec<Record> {
        rounds
            .map(|at| Record::new(platform.topic(topics[at % 2]), format!("k{}", at * 7919 % KEYS), "A"))
            .collect()
    };
    let hosts = [platform.start_host("one"), platform.start_host("another")];
    platform.publish(&records(0..2_000));
    platform.until_shared_by(&hosts[0].group("pairs"), 8);
    platform.publish(&records(2_000..RECORDS));
    let status = platform.until_through("pairs");
    assert_closed(&status, RECORDS, 0, 0);
    assert_eq!(status.deadlocks, 0);
    let sums = platform.read_model().query("select sum(first)::text, sum(second)::text from pairs.seen");
    assert_eq!(sums[0], [Some((RECORDS / 2).to_string()), Some((RECORDS / 2).to_string())]);
    let counted = "select deadlocks::text from pg_stat_database where datname = current_database()";
    assert_eq!(platform.read_model().query(counted)[0], [Some("0".to_owned())]);
    for host in hosts {
        let log = host.sigterm();
        assert!(!log.lines().iter().any(|line| line.text.contains("deadlock")), "a deadlock");
    }
}
