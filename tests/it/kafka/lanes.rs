//! A projection that writes by key alone is written in several lanes at once, on one host and on
//! several, and comes out as if it were written in one.

use crate::harness::{ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, seed};

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
