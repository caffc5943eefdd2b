//! Topics that were written side by side are read side by side again, however far behind: a rebuild
//! does not apply all of one before the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use projector_config as config;
use projector_core::topics::TopicMapping;
use projector_kafka::{Incoming, KafkaAdmin, MergeOrder, Merging, Source, Span};
use projector_test_servers::Kafka;
use projector_workload::topics::{self, Topic};
use projector_workload::{CUSTOMER_COUNTRY_CHANGED, Mix, ORDER_CONFIRMED, Record};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{Line, PATIENCE, Platform, ReadModel, seed};

const PLAIN: &str = "order-search-plain";

/// Of each of the two topics.
const EVENTS: i64 = 1_000_000;
/// The first event's time, and from one event of a topic to its next: three and a half days in all.
const FIRST_MS: i64 = 1_700_000_000_000;
const STEP_MS: i64 = 300;
const SKEW: Duration = Duration::from_secs(10);

/// Event after event to the topic's partitions in turn, all with the same payload.
fn publish(brokers: &str, topic: &Topic, payload: &[u8]) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("compression.codec", "lz4")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    for event in 0..EVENTS {
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic.name)
            .payload(payload)
            .partition((event % i64::from(topic.partitions)) as i32)
            .timestamp(FIRST_MS + event * STEP_MS);
        while let Err((error, refused)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            producer.flush(PATIENCE).unwrap();
            record = refused;
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// Small events in one partition and larger ones in three: whoever takes what comes first is through
/// with the small ones before the first hour of the others.
#[test]
fn two_topics_of_a_million_events_are_never_further_apart_than_the_skew() {
    let brokers = Kafka::shared();
    let name = Uuid::new_v4().simple().to_string();
    let made = [("small", 1), ("large", 3)].map(|(topic, partitions)| {
        Topic::new(format!("catch-up-{name}.{topic}"), partitions).setting("retention.ms", "-1")
    });
    topics::create(brokers, &made).unwrap();
    publish(brokers, &made[0], b"moved");
    publish(brokers, &made[1], &[b'x'; 150]);

    let kafka: config::Kafka = toml::from_str(&format!("brokers = {brokers:?}")).unwrap();
    let names = TopicMapping::same_names(made.iter().map(|topic| topic.name.as_str()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let started = Instant::now();
    let (events, apart) = runtime.block_on(async {
        let log = KafkaAdmin::open(&kafka).unwrap();
        let merging = Merging { order: MergeOrder::Time, then: MergeOrder::Arrival, skew: SKEW };
        let mut source = Source::open(&name, names, merging, log.clone()).unwrap();
        let mut events: BTreeMap<(u16, i32), i64> = BTreeMap::new();
        let (mut latest, mut apart) = (0, 0);
        while events.values().sum::<i64>() < 2 * EVENTS {
            match tokio::time::timeout(PATIENCE, source.next()).await.expect("it reads on") {
                Some(Incoming::Granted(partitions)) => {
                    let marks = log.inspect(partitions.clone()).await.unwrap();
                    let spans = partitions.into_iter().zip(marks);
                    source.read(
                        spans
                            .map(|(partition, (marks, _))| Span {
                                partition,
                                from: marks.low,
                                end: marks.high,
                            })
                            .collect(),
                    );
                }
                Some(Incoming::Events(deliveries)) => {
                    for event in deliveries.into_iter().map(|delivery| delivery.event) {
                        let read = events.entry((event.topic, event.position.partition.number)).or_default();
                        assert_eq!(event.position.offset, *read, "each partition in its own order");
                        *read += 1;
                        let time = event.timestamp_ms.unwrap();
                        apart = apart.max(latest - time);
                        latest = latest.max(time);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        source.close(PATIENCE).await;
        (events, apart)
    });
    println!("read in {:?}, at most {apart} ms apart", started.elapsed());
    assert_eq!(events.len(), 4, "all partitions: {events:?}");
    assert!(apart <= SKEW.as_millis() as i64, "an event came {apart} ms behind a later one");
}

/// What a plugin writes that takes no care of the order between topics: an order with the customer
/// that it carries; a customer's new country to the orders that are there.
fn in_the_order_of_time(records: &[Record]) -> BTreeMap<String, String> {
    let mut orders: BTreeMap<String, (String, String)> = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    for record in records {
        let event: Value = serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap();
        if record.topic.ends_with(ORDER_CONFIRMED) {
            let order = &event["order"];
            if event["schemaVersion"] == 2 {
                let row = (text(&order["customerId"]), text(&order["customerCountry"]));
                orders.insert(text(&order["id"]), row);
            }
        } else {
            assert!(record.topic.ends_with(CUSTOMER_COUNTRY_CHANGED));
            let of_customer =
                orders.values_mut().filter(|(customer, _)| *customer == text(&event["customerId"]));
            of_customer.for_each(|(_, country)| *country = text(&event["country"]));
        }
    }
    orders.into_iter().map(|(order, (_, country))| (order, country)).collect()
}

/// A history whose orders and moves depend on each other, and a host's configuration that keeps to the
/// order of time exactly. All of one topic is there before the first event of the other.
fn rebuild(name: &str, partitions: i32, seed: u64) -> (Platform, Vec<Record>) {
    let platform = Platform::new(name, &[PLAIN], ReadModel::postgres())
        .set(&["batch", "skew"], "0s")
        .set(&["batch", "events"], 100);
    platform.create_topics(partitions);
    let mut workload = platform.workload(seed, 6_000);
    workload.mix = Mix { orders: 60, country_changes: 40, profile_updates: 0 };
    workload.shape.confirmed_again = 0.3;
    let records: Vec<Record> = workload.records().collect();
    let (orders, moves): (Vec<_>, Vec<_>) =
        records.iter().cloned().partition(|record| record.topic.ends_with(ORDER_CONFIRMED));
    platform.publish(&orders);
    platform.publish(&moves);
    (platform, records)
}

#[track_caller]
fn assert_as_time_had_it(platform: &Platform, records: &[Record]) {
    platform.until_fresh();
    let found: BTreeMap<String, String> = platform
        .read_model()
        .query("select order_id, customer_country from order_search_plain.order_search")
        .into_iter()
        .map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap()))
        .collect();
    let expected = in_the_order_of_time(records);
    let wrong: Vec<_> =
        expected.iter().filter(|(order, country)| found.get(*order) != Some(*country)).collect();
    assert!(wrong.is_empty(), "{} of {} orders have another country: {wrong:?}", wrong.len(), expected.len());
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_rebuild_gives_columns_that_depend_on_the_order_between_topics_as_time_had_it() {
    let (platform, records) = rebuild("rebuild", 2, seed(41));
    let host = platform.start_host("host");
    assert_as_time_had_it(&platform, &records);
    host.sigterm();
}

/// Kafka would give one topic to the one host and the other to the other.
#[test]
fn one_host_rebuilds_alone_until_it_has_caught_up_and_another_takes_over_when_it_dies() {
    let (platform, records) = rebuild("rebuild-alone", 1, seed(42));
    let first = platform.start_host_with("first", "before-commit=stop@9");
    first.until_stopped_at("before-commit");
    let second = platform.start_host("second");
    second.log().until_said("another host builds the generation");
    first.kill();
    second.log().until_said("this host alone builds the generation");
    let third = platform.start_host("third");
    assert_as_time_had_it(&platform, &records);
    // From now on they share it, as does whoever comes later.
    platform.until_shared_by(&third.group(PLAIN), 2);
    let fourth = platform.start_host("fourth");
    platform.until_shared_by(&fourth.group(PLAIN), 3);
    for host in [second, third, fourth] {
        let log = host.sigterm();
        assert!(!log.lines().iter().any(|line| line.message().contains("makes no progress")));
    }
}

#[test]
fn a_host_that_gets_nowhere_with_a_rebuild_does_not_keep_others_from_it() {
    let (platform, records) = rebuild("rebuild-stuck", 1, seed(43));
    let stuck = platform.start_host_with("stuck", "before-commit=stop@3");
    stuck.until_stopped_at("before-commit");
    let other = platform.start_host("other");
    other.log().until_said("the host that builds the generation makes no progress");
    platform.until_fresh();
    assert!(stuck.is_stopped());
    let orders = platform.read_model().query("select order_id from order_search_plain.order_search");
    assert_eq!(orders.len(), in_the_order_of_time(&records).len());
    other.sigterm();
}

/// The lock is the database's: after a restart of it, another host may have it.
#[test]
fn a_host_whose_lock_was_lost_asks_for_its_turn_again() {
    let (platform, records) = rebuild("rebuild-lost", 1, seed(44));
    let host = platform.start_host_with("host", "before-commit=stop@3");
    host.until_stopped_at("before-commit");
    let sessions = "select pg_terminate_backend(pid)::text from pg_stat_activity
        where datname = current_database() and application_name = 'projector'";
    assert!(platform.read_model().query(sessions).len() > 1);
    host.cont();
    let again = |line: &Line| {
        line.message() == "projection starts again" && line.text.contains("the catch-up lock was lost")
    };
    host.log().wait_for("that it starts again", again);
    assert_as_time_had_it(&platform, &records);
    host.sigterm();
}
