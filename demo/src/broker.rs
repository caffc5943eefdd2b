//! The broker inside this process: librdkafka's own mock, which speaks the real protocol over TCP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use projector_workload::topics::Topic;
use projector_workload::{Position, Record};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing in it outlives this value.
pub(crate) struct EmbeddedBroker {
    bootstrap: String,
    _cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    pub(crate) fn start(topics: &[Topic]) -> Result<EmbeddedBroker> {
        let cluster = MockCluster::new(1).context("no embedded broker")?;
        for topic in topics {
            cluster.create_topic(&topic.name, topic.partitions, 1)?;
        }
        Ok(EmbeddedBroker { bootstrap: cluster.bootstrap_servers(), _cluster: cluster })
    }

    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The mock keeps at most 5 MiB or 100,000 records of a partition, and drops the oldest in
    /// silence. Makes sure that everything published is still there.
    pub(crate) fn assert_complete(&self, records: &[Record], positions: &[Position]) -> Result<()> {
        let mut published: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for (record, position) in records.iter().zip(positions) {
            *published.entry((&record.topic, position.partition)).or_default() += 1;
        }
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap).set("group.id", "demo").create()?;
        for ((topic, partition), count) in published {
            let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
            ensure!(
                (low, high) == (0, count),
                "the embedded broker keeps offsets {low} to {high} of {topic}/{partition}, where {count} events \
                 were published: ask for fewer --events"
            );
        }
        Ok(())
    }
}
