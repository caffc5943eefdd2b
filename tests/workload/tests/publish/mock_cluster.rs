use std::time::{Duration, UNIX_EPOCH};

use projector_workload::{Publisher, Record, Workload};
use rdkafka::mocking::MockCluster;

use crate::consumed::assert_published;

#[test]
fn an_idempotent_gzip_producer_works_with_the_embedded_broker() {
    let cluster = MockCluster::new(1).unwrap();
    let workload = Workload::new(7, 3_000, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    for topic in workload.topics(3) {
        cluster.create_topic(&topic.name, topic.partitions, 1).unwrap();
    }
    let records: Vec<_> = workload.records().collect();
    let mut delivered = Vec::new();
    let brokers = cluster.bootstrap_servers();
    let positions =
        Publisher::new(&brokers).progress(|count| delivered.push(count)).publish(&records).unwrap();
    assert!(delivered.is_sorted());
    assert_eq!(delivered.last(), Some(&3_000));
    assert_published(&brokers, &records, &positions);
}

#[test]
fn what_cannot_be_delivered_is_an_error() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let fits = Record::new("t", "k", "v");
    let nowhere = Record { partition: Some(5), ..fits.clone() };
    let error = Publisher::new(&cluster.bootstrap_servers()).publish(&[fits, nowhere]).unwrap_err();
    assert!(format!("{error:#}").contains("record 1 for t"), "{error:#}");
}
