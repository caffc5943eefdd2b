//! The log as any reader of committed events sees it, from beginning to end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::PATIENCE;

pub(crate) struct Consumed {
    pub(crate) partition: i32,
    pub(crate) value: Option<Vec<u8>>,
}

/// Every committed event of a topic; those of a partition in the order of their offsets.
pub(crate) fn read(brokers: &str, topic: &str) -> Vec<Consumed> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "nobody")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut unfinished: BTreeSet<i32> =
        metadata.topics()[0].partitions().iter().map(|partition| partition.id()).collect();
    assert!(!unfinished.is_empty(), "there is no topic {topic}");
    let mut assignment = TopicPartitionList::new();
    for partition in &unfinished {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();

    let mut events = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !unfinished.is_empty() {
        assert!(Instant::now() < deadline, "{topic} cannot be read to its end: {unfinished:?} are left");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => events.push(Consumed {
                partition: message.partition(),
                value: message.payload().map(<[u8]>::to_vec),
            }),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(unfinished.remove(&partition)),
            Some(Err(error)) => panic!("{topic}: {error}"),
        }
    }
    events
}
