//! Brokers go away and come back.

use projector_test_servers::Kafka;
use projector_workload::Record;

use crate::harness::{ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, eventually, seed};

/// Fault 1: the broker is killed while a host reads, and comes back later.
#[test]
fn a_host_reads_on_when_a_killed_broker_is_back() {
    let mut kafka = Kafka::start().unwrap();
    let plugins = [ORDER_SEARCH, SALES_BY_COUNTRY];
    // Small buffers: what was fetched before the kill must not be everything.
    let platform = Platform::on(&kafka.bootstrap(), "broker-killed", &plugins, ReadModel::postgres())
        .set(&["batch", "events"], 50)
        .set(&["kafka", "properties", "session.timeout.ms"], "2000")
        .set(&["kafka", "properties", "queued.max.messages.kbytes"], "64")
        .set(&["kafka", "properties", "fetch.message.max.bytes"], "16384");
    platform.create_topics(3);
    let records: Vec<Record> = platform.workload(seed(301), 14_000).records().collect();
    let (before, after) = records.split_at(12_000);
    platform.publish(before);

    let host = platform.start_host("patient");
    let groups = plugins.map(|projection| host.group(projection));
    let read = |projection| platform.read_model().checkpoints(projection).values().sum::<i64>();
    eventually("both projections read", || {
        if plugins.map(read).into_iter().all(|read| read > 500) { Ok(()) } else { Err(plugins.map(read)) }
    });
    kafka.kill();
    let log = host.log();
    for group in &groups {
        log.wait_for(&format!("that {group} misses its broker"), |line| {
            line.message().starts_with("Kafka: trying on") && line.field("group") == group
        });
    }
    assert!(read(ORDER_SEARCH) < before.len() as i64, "all was read before the broker was killed");
    platform.status().expect_err("without brokers nobody knows how fresh a read model is");

    kafka.restart().unwrap();
    platform.publish(after);
    for group in &groups {
        platform.until_shared_by(group, 1);
    }
    let expected = platform.assert_orders_are_right();
    assert_eq!(expected.order_search_books.read.values().sum::<u64>(), records.len() as u64);
    platform.assert_sales_are_right();
    let log = host.sigterm();
    for projection in plugins {
        // One run: it stopped in order, and never had to start again.
        assert_eq!(log.tally(projection).retries, 0, "{projection}: the database was there");
        let restarts = log.lines().iter().filter(|line| line.message() == "projection starts again").count();
        assert_eq!(restarts, 0);
    }
}
