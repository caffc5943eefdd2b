use std::time::{Duration, UNIX_EPOCH};

use projector_test_servers::Kafka;
use projector_workload::topics::{self, Topic};
use projector_workload::{Publisher, Record, Workload};

use crate::consumed::assert_published;

/// Other runs may use the same broker.
fn prefix(test: &str) -> String {
    format!("{test}.{}.", uuid::Uuid::new_v4())
}

#[test]
fn a_workload_lies_where_the_publisher_says() {
    let brokers = Kafka::shared();
    let workload = Workload {
        topic_prefix: prefix("published"),
        ..Workload::new(8, 5_000, UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    };
    topics::create(brokers, &workload.topics(3)).unwrap();
    let records: Vec<_> = workload.records().collect();
    let positions = Publisher::new(brokers).publish(&records).unwrap();
    assert_published(brokers, &records, &positions);
}

#[test]
fn odd_records_are_published_as_they_are() {
    let brokers = Kafka::shared();
    let topic = prefix("odd");
    topics::create(brokers, &[Topic::new(&topic, 1)]).unwrap();
    let plain = Record { timestamp_ms: Some(5), ..Record::new(&topic, "k", "v") };
    let records = [
        Record { key: None, ..plain.clone() },
        Record { payload: None, ..plain.clone() },
        Record { payload: Some(vec![0xff, 0, 0xfe]), ..plain.clone() },
        Record { headers: vec![("x".to_owned(), None), ("x".to_owned(), Some(Vec::new()))], ..plain },
    ];
    let positions = Publisher::new(brokers).publish(&records).unwrap();
    assert_eq!(positions.iter().map(|position| position.offset).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_published(brokers, &records, &positions);
}

#[test]
fn topics_are_created_grown_and_deleted() {
    let brokers = Kafka::shared();
    let topic = prefix("grown");
    let create = || topics::create(brokers, &[Topic::new(&topic, 1).setting("cleanup.policy", "compact")]);
    create().unwrap();
    assert!(create().is_err(), "a topic was created twice");
    topics::grow(brokers, &topic, 3).unwrap();
    let last = Record { partition: Some(2), ..Record::new(&topic, "k", "v") };
    assert_eq!(Publisher::new(brokers).publish(&[last]).unwrap()[0].partition, 2);
    topics::delete(brokers, &[&topic]).unwrap();
    create().unwrap();
}
