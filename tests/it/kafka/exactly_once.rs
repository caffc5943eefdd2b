//! The effect of every event is in the read model once, however often its host is killed.

use crate::harness::{
    ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, check_books, difference, fold, seed,
};

/// In the order of a transaction.
const FAILPOINTS: [&str; 3] = ["before-write", "before-commit", "after-commit"];

/// Publishes a history piece by piece. With each piece a host is started, and killed when one of the
/// projections, in turn, gets to one of the failpoints for the n-th time, for each n; the last piece
/// is for a host that may finish. So there is work for every host, however fast the one before was.
fn every_event_counts_once_although_hosts_are_killed(platform: &Platform, events: usize, kills_at: &[u32]) {
    platform.create_topics(4);
    let records: Vec<_> = platform.workload(seed(2_024), events).records().collect();
    let kills = kills_at.iter().flat_map(|n| FAILPOINTS.map(|failpoint| (failpoint, n)));
    let pieces = kills_at.len() * FAILPOINTS.len() + 1;
    let mut pieces = records.chunks(events.div_ceil(pieces));
    for ((failpoint, n), victim) in kills.zip([ORDER_SEARCH, SALES_BY_COUNTRY].iter().cycle()) {
        platform.publish(pieces.next().expect("there is one for each kill"));
        let armed = format!("{victim}:{failpoint}=kill@{n}");
        platform.start_host_with(&armed, &armed).until_killed_at(failpoint);
    }
    platform.publish(pieces.next().expect("one is left for the survivor"));
    let behind = platform.status().unwrap();
    for projection in [ORDER_SEARCH, SALES_BY_COUNTRY] {
        assert!(behind[projection].lag > 0, "{projection}: all was done before the last kill");
        assert!(behind[projection].counters.read > 0, "{projection}: nothing was done before the last kill");
    }

    let host = platform.start_host("survivor");
    let expected = platform.assert_orders_are_right();
    assert_eq!(expected.order_search_books.read.values().sum::<u64>(), events as u64);
    assert!(!expected.sales_books.ignored.is_empty(), "the history has no event to ignore");
    platform.assert_sales_are_right();
    host.sigterm();
}

#[test]
fn fifty_thousand_events_in_postgres() {
    let platform = Platform::new("exactly-once", &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["batch", "events"], 250);
    every_event_counts_once_although_hosts_are_killed(&platform, 50_000, &[1, 4, 8]);
}

#[test]
fn five_thousand_events_in_sqlite() {
    let platform =
        Platform::new("exactly-once-sqlite", &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::sqlite())
            .set(&["batch", "events"], 100);
    every_event_counts_once_although_hosts_are_killed(&platform, 5_000, &[3]);
}

/// A proof is worth what its checker sees.
#[test]
fn the_checker_sees_one_wrong_row_and_one_wrong_count() {
    let platform = Platform::new("checker", &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::sqlite());
    platform.create_topics(2);
    platform.publish(&platform.workload(seed(7), 300).records().collect::<Vec<_>>());
    let host = platform.start_host("honest");
    platform.assert_orders_are_right();
    platform.assert_sales_are_right();
    let status = platform.until_fresh();
    host.sigterm();

    let expected = fold(&platform);
    let sound = platform.read_model().sales();
    let key = sound.keys().nth(7).unwrap().clone();
    let complains = |spoilt, of: &[&str]| {
        let said = difference(&expected.sales, &spoilt).expect("it sees no difference");
        assert!(said.starts_with("1 rows differ") && of.iter().all(|word| said.contains(word)), "{said}");
    };
    let mut twice = sound.clone();
    twice.get_mut(&key).unwrap().insert("orders", "999".into());
    complains(twice, &[&key, "orders is \"999\""]);
    let mut lost = sound.clone();
    lost.remove(&key);
    complains(lost, &[&key, "is missing"]);
    let mut invented = sound.clone();
    invented.insert("nowhere".into(), sound[&key].clone());
    complains(invented, &["nowhere should not be there"]);

    let honest = &status[SALES_BY_COUNTRY];
    check_books(honest, &expected.sales_books).unwrap();
    let mut again = honest.clone();
    again.partitions[0].counters.read += 1;
    again.partitions[0].counters.applied += 1;
    again.counters.read += 1;
    again.counters.applied += 1;
    assert!(check_books(&again, &expected.sales_books).unwrap_err().contains("were read"));
    let mut open = honest.clone();
    open.partitions[1].counters.applied += 1;
    assert!(check_books(&open, &expected.sales_books).unwrap_err().contains("are open"));
    let mut unexplained = honest.clone();
    unexplained.ignored_by_code.insert("other".into(), 1);
    assert!(check_books(&unexplained, &expected.sales_books).is_err());
}
