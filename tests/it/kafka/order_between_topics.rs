//! Orders and their customers come by three topics, in any order, on two hosts at once; the rows
//! that they end with are the same.

use std::collections::VecDeque;
use std::thread;

use projector_workload::{Mix, Record};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Expected, ORDER_SEARCH, Platform, ReadModel, assert_same, seed};

const EVENTS: usize = 400;
/// Interleavings of each history.
const INTERLEAVINGS: u64 = 4;

/// Each topic's records in their own order, the topics merged at random: in runs, so that one may
/// be far ahead of another.
fn interleave(records: Vec<Record>, rng: &mut StdRng) -> Vec<Record> {
    let mut topics: Vec<VecDeque<Record>> = Vec::new();
    for record in records {
        match topics.iter_mut().find(|topic| topic[0].topic == record.topic) {
            Some(topic) => topic.push_back(record),
            None => topics.push(VecDeque::from([record])),
        }
    }
    let mut merged = Vec::new();
    while !topics.is_empty() {
        let drawn = rng.random_range(0..topics.len());
        let run = rng.random_range(1..=30).min(topics[drawn].len());
        merged.extend(topics[drawn].drain(..run));
        topics.retain(|topic| !topic.is_empty());
    }
    merged
}

/// One history, interleaved in one way, through two hosts.
fn play(history: u64, interleaving: u64) -> Expected {
    let mut rng = StdRng::seed_from_u64(history << 32 | interleaving);
    let platform = Platform::new("interleaved", &[ORDER_SEARCH], ReadModel::postgres())
        .set(&["batch", "events"], rng.random_range(3..30));
    platform.create_topics(3);
    let mut workload = platform.workload(history, EVENTS);
    workload.mix = Mix { orders: 50, country_changes: 30, profile_updates: 20 };
    let records = interleave(workload.records().collect(), &mut rng);
    let hosts = [platform.start_host("first"), platform.start_host("second")];
    platform.until_shared_by(&hosts[0].group(ORDER_SEARCH), 2);
    let mut rest = &records[..];
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(rng.random_range(1..=80).min(rest.len()));
        platform.publish(chunk);
        rest = later;
    }
    let expected = platform.assert_orders_are_right();
    for host in hosts {
        let tally = host.sigterm().tally(ORDER_SEARCH);
        assert!(tally.events > 0, "one host did it all");
    }
    expected
}

/// All interleavings of a history, of which each is held against the fold, end the same.
fn interleavings_agree(history: u64) {
    println!("history {history}, interleavings 0..{INTERLEAVINGS}");
    let outcomes: Vec<Expected> = thread::scope(|scope| {
        let plays: Vec<_> =
            (0..INTERLEAVINGS).map(|interleaving| scope.spawn(move || play(history, interleaving))).collect();
        plays.into_iter().map(|play| play.join().expect("an interleaving went wrong: see above")).collect()
    });
    for other in &outcomes[1..] {
        assert_same("order_search", &outcomes[0].orders, &other.orders);
        assert_same("customer", &outcomes[0].customers, &other.customers);
    }
}

#[test]
fn rows_do_not_depend_on_it_in_history_1() {
    interleavings_agree(seed(101));
}

#[test]
fn rows_do_not_depend_on_it_in_history_2() {
    interleavings_agree(seed(102));
}

#[test]
fn rows_do_not_depend_on_it_in_history_3() {
    interleavings_agree(seed(103));
}
