//! Orders and their customers come by three topics, in any order, on two hosts at once; the rows
//! that they end with are the same.

use std::collections::VecDeque;
use std::thread;

use projector_workload::{CUSTOMER_COUNTRY_CHANGED, Mix, ORDER_CONFIRMED, Record};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::harness::{Expected, Host, ORDER_SEARCH, Platform, ReadModel, assert_same, eventually, seed};

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

/// Fault 16: all interleavings of a history, of which each is held against the fold, end the same.
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

/// Fault 16: what one writer at a time prevents. A host has read that nobody knows the customer, and has not
/// written the order yet. Meanwhile another host hears of the customer's country; if it may commit
/// that now, it finds no order to correct, and the order is then stored with the country of old.
#[test]
fn an_order_and_its_customers_move_on_two_hosts_do_not_miss_each_other() {
    let platform = Platform::new("anomaly", &[ORDER_SEARCH], ReadModel::postgres());
    platform.create_topics(3);
    let named = |platform: Platform, name: &str| {
        let platform = platform.set(&["kafka", "properties", "client.id"], name);
        let host = platform.start_host_with(name, "before-write=stop@1");
        (platform, host)
    };
    let (platform, first) = named(platform, "first");
    first.group(ORDER_SEARCH);
    let (platform, second) = named(platform, "second");
    let hosts: [Host; 2] = [first, second];
    let holdings = platform.until_shared_by(&hosts[0].group(ORDER_SEARCH), 2);
    let holder = |topic: &str, partition: i32| {
        let wanted = (platform.topic(topic), partition);
        let holds = holdings.values().find(|(_, partitions)| partitions.contains(&wanted));
        usize::from(holds.expect("every partition is held").0 == "second")
    };
    let pairs = (0..3).flat_map(|order| (0..3).map(move |moved| (order, moved)));
    let (order, moved) = pairs
        .into_iter()
        .find(|(order, moved)| holder(ORDER_CONFIRMED, *order) != holder(CUSTOMER_COUNTRY_CHANGED, *moved))
        .expect("nobody holds two topics of three alone");
    let (ordered, heard) =
        (&hosts[holder(ORDER_CONFIRMED, order)], &hosts[holder(CUSTOMER_COUNTRY_CHANGED, moved)]);
    let publish = |topic: &str, partition: i32, event: serde_json::Value| {
        let mut record = Record::new(platform.topic(topic), "c-1", event.to_string());
        record.partition = Some(partition);
        platform.publish(&[record]);
    };
    let at = "2025-10-01T12:00:00Z";

    let carried = json!({"id": "o-1", "customerId": "c-1", "customerEmail": "e", "customerName": "n",
        "customerCountry": "DE", "currency": "EUR", "totalCents": 1, "items": []});
    publish(
        ORDER_CONFIRMED,
        order,
        json!({"eventId": "e-1", "schemaVersion": 2, "occurredAt": at, "order": carried}),
    );
    eventually("the host of the order stops before it writes", || {
        ordered.is_stopped().then_some(()).ok_or(())
    });
    publish(
        CUSTOMER_COUNTRY_CHANGED,
        moved,
        json!({"eventId": "e-2", "occurredAt": at, "customerId": "c-1", "country": "FR"}),
    );
    let waits = "select pid::text from pg_locks where locktype = 'advisory' and not granted
        and database = (select oid from pg_database where datname = current_database())";
    eventually("the other host waits for the first, or is through", || {
        if heard.is_stopped() {
            heard.cont();
        }
        let is_through = !platform.read_model().customers().is_empty();
        (is_through || !platform.read_model().query(waits).is_empty()).then_some(()).ok_or(())
    });
    ordered.cont();
    eventually("the other host is through", || {
        if heard.is_stopped() {
            heard.cont();
        }
        (!platform.read_model().customers().is_empty()).then_some(()).ok_or(())
    });
    let expected = platform.assert_orders_are_right();
    assert_eq!(expected.orders["o-1"]["customer_country"], "FR");
    for host in hosts {
        host.sigterm();
    }
}
