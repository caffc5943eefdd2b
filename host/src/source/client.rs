//! What a client of Kafka is told: brokers, TLS, SASL, timings.

use rdkafka::ClientConfig;

use crate::config::{self, SaslMechanism};

/// Properties that the host's promises rest on.
pub const RESERVED_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "partition.assignment.strategy",
    "enable.partition.eof",
];

/// What every client of the host has: brokers, TLS, SASL, and what the platform set by hand.
pub(super) fn client_config(kafka: &config::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &*kafka.brokers)
        .set("client.id", "projector")
        .set("log.connection.close", "false")
        .set("socket.keepalive.enable", "true")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_committed")
        // A broker hands out the first record of a fetch whole, however large it is. Of an answer that is
        // larger than this, librdkafka drops the connection, again and again, and with it all partitions of
        // that broker. So this is larger than any sensible `max.message.bytes`; a value beyond
        // `kafka.value-bytes` is not kept anyway.
        .set("receive.message.max.bytes", "335544320")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error");
    let protocol = match (&kafka.tls, &kafka.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(tls) = &kafka.tls {
        for (property, value) in [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.certificate),
            ("ssl.key.location", &tls.key),
            ("ssl.key.password", &tls.key_password),
        ] {
            if let Some(value) = value {
                config.set(property, &**value);
            }
        }
    }
    if let Some(sasl) = &kafka.sasl {
        let mechanism = match sasl.mechanism {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        config
            .set("sasl.mechanisms", mechanism)
            .set("sasl.username", &*sasl.username)
            .set("sasl.password", &*sasl.password);
    }
    for (property, value) in &kafka.properties {
        config.set(property, &**value);
    }
    config
}

/// What a consumer of a group has beside it.
pub(super) fn consumer_config(kafka: &config::Kafka, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("session.timeout.ms", config::SESSION_TIMEOUT_MS.to_string())
        .set("heartbeat.interval.ms", "3000")
        // Of each partition so much is fetched ahead, values in kilobytes or records of any size, and how soon it is fetched again after that was
        // full. A fetch that waits for partitions which are at their end keeps the broker's others
        // waiting: it must be back before those have run dry.
        .set("queued.max.messages.kbytes", "2048")
        .set("queued.min.messages", "10000")
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.wait.max.ms", "100")
        .set("topic.metadata.refresh.interval.ms", config::METADATA_REFRESH_MS.to_string());
    for (property, value) in client_config(kafka).config_map() {
        config.set(property.to_owned(), value.to_owned());
    }
    config
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Stored offsets are what the pipeline advises; committing them is for Kafka's tools.
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "5000")
        // Tells the merge who is not behind any more.
        .set("enable.partition.eof", "true");
    config
}
