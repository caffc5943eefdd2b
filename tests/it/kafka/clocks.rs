//! Clocks of producers, far off in both directions from the host's: no row depends on any of them.

use projector_workload::topics::{self, Topic};
use projector_workload::{CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, ORDER_CONFIRMED};
use projector_workload::{Publisher, Record};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::{ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, seed};

const YEAR_MS: i64 = 31_557_600_000;

/// On topics that take records of any time.
fn platform(name: &str) -> Platform {
    let platform = Platform::new(name, &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::postgres());
    let made = [ORDER_CONFIRMED, CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED].map(|topic| {
        Topic::new(platform.topic(topic), 2)
            .setting("retention.ms", "-1")
            .setting("message.timestamp.after.max.ms", &i64::MAX.to_string())
    });
    topics::create(platform.brokers(), &made).unwrap();
    platform
}

fn history(platform: &Platform, seed: u64) -> Vec<Record> {
    platform.workload(seed, 2_000).records().collect()
}

/// Fault 40: read from the beginning, when records are merged by their times, and live.
#[test]
fn rows_do_not_depend_on_the_clocks_of_producers() {
    let platform = platform("clocks");
    let seed = seed(401);
    let mut rng = StdRng::seed_from_u64(seed);
    let now = history(&platform, seed)[0].timestamp_ms.expect("the workload has times");
    let mut records = history(&platform, seed);
    for record in &mut records {
        let years = [-1_000_000, -20, -1, 0, 0, 0, 0, 1, 20, 8_000];
        let years: i64 = *years.choose(&mut rng).unwrap();
        let skewed = (now + years * YEAR_MS + rng.random_range(0..YEAR_MS)).max(1);
        record.timestamp_ms = Some(if rng.random_bool(0.01) { i64::MAX } else { skewed });
    }
    let (before, after) = records.split_at(1_500);
    let places = Publisher::new(platform.brokers()).publish(before).unwrap();
    for (record, place) in before.iter().zip(places) {
        assert_eq!(record.timestamp_ms, Some(place.timestamp_ms), "the broker's own time");
    }
    let host = platform.start_host("host");
    platform.assert_orders_are_right();
    platform.assert_sales_are_right();
    platform.publish(after);
    platform.assert_orders_are_right();
    platform.assert_sales_are_right();
    host.sigterm();
}

/// Fault 40: the age of an event that is yet to come is not negative, and it is behind all the same.
#[test]
fn freshness_is_never_negative() {
    let platform = platform("freshness");
    platform.publish(&history(&platform, seed(402)));
    let host = platform.start_host("host");
    platform.until_fresh();
    host.sigterm();
    let mut record = history(&platform, seed(403))
        .into_iter()
        .find(|record| record.topic == platform.topic(ORDER_CONFIRMED))
        .unwrap();
    let now_ms = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    for (partition, written_ms, ages) in
        [(0, now_ms() + YEAR_MS, 0..=0), (1, now_ms() - YEAR_MS, YEAR_MS..=2 * YEAR_MS)]
    {
        record.partition = Some(partition);
        record.timestamp_ms = Some(written_ms);
        platform.publish(std::slice::from_ref(&record));
        let status = &platform.status().unwrap()[SALES_BY_COUNTRY];
        let behind = &status.partitions[partition as usize];
        assert_eq!((behind.partition, behind.lag), (partition, 1), "{behind:?}");
        assert!(behind.freshness_ms.is_some_and(|age| ages.contains(&age)), "{behind:?}");
        assert!(status.freshness_ms.is_some_and(|age| ages.contains(&age)) && !status.fresh, "{status:?}");
    }
    let host = platform.start_host("next");
    platform.assert_sales_are_right();
    host.sigterm();
}
