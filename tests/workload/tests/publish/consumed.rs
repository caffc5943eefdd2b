use std::collections::HashMap;
use std::time::{Duration, Instant};

use projector_workload::{Position, Record};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Reads every topic of `records` from its beginning, and checks that each record lies at its
/// position, and that nothing else lies there.
pub(crate) fn assert_published(brokers: &str, records: &[Record], positions: &[Position]) {
    assert_eq!(records.len(), positions.len());
    let mut expected: HashMap<(String, i32, i64), &Record> = HashMap::new();
    for (record, position) in records.iter().zip(positions) {
        assert!(
            expected.insert((record.topic.clone(), position.partition, position.offset), record).is_none(),
            "two records at one position"
        );
    }
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "published")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut beginnings = TopicPartitionList::new();
    for (topic, partition, _) in expected.keys() {
        if beginnings.find_partition(topic, *partition).is_none() {
            beginnings.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&beginnings).unwrap();

    let deadline = Instant::now() + Duration::from_secs(60);
    while !expected.is_empty() {
        assert!(Instant::now() < deadline, "{} records are missing", expected.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.unwrap();
        let position = (message.topic().to_owned(), message.partition(), message.offset());
        let record = expected.remove(&position).unwrap_or_else(|| panic!("unexpected: {position:?}"));
        assert_eq!(message.key(), record.key.as_deref());
        assert_eq!(message.payload(), record.payload.as_deref());
        assert_eq!(message.timestamp().to_millis(), record.timestamp_ms);
        let headers: Vec<_> = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(headers, record.headers);
    }
}
