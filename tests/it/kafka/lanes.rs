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
