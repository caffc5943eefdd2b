//! What a client of Kafka is told: brokers, TLS, SASL, timings.
//!
//! Every client is configured by [`configure`]. Nothing here copies one `ClientConfig` into another:
//! rdkafka shows the values of secrets as a placeholder, so the copy would send that.

use rdkafka::ClientConfig;

use crate::config::{self, Text, TextError};

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

/// What every client of the host has: brokers, TLS, SASL, and what the platform set by hand. Secrets are
/// read anew from their files.
pub(super) fn client_config(kafka: &config::Kafka) -> Result<ClientConfig, TextError> {
    let mut config = ClientConfig::new();
    configure(&mut config, kafka)?;
    Ok(config)
}

/// What a consumer of a group has beside it.
pub(super) fn consumer_config(kafka: &config::Kafka, group: &str) -> Result<ClientConfig, TextError> {
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
    configure(&mut config, kafka)?;
    config
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Stored offsets are what the pipeline advises; committing them is for Kafka's tools.
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "5000")
        // Tells the merge who is not behind any more.
        .set("enable.partition.eof", "true");
    Ok(config)
}

fn configure(config: &mut ClientConfig, kafka: &config::Kafka) -> Result<(), TextError> {
    config
        .set("bootstrap.servers", kafka.brokers.current()?)
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
    let protocol = kafka.protocol();
    config.set("security.protocol", protocol.as_str());
    if protocol.is_tls && !kafka.properties.keys().any(|property| property.starts_with("ssl.ca.")) {
        // The system's authorities, wherever they are: OpenSSL is linked statically, and would look where it
        // was built.
        config.set("ssl.ca.location", "probe");
    }
    let tls = kafka.tls.iter().flat_map(|tls| {
        [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.certificate),
            ("ssl.key.location", &tls.key),
            ("ssl.key.password", &tls.key_password),
        ]
    });
    let tls = tls.filter_map(|(property, value)| Some((property, value.as_ref()?)));
    let login = [("sasl.username", kafka.username()), ("sasl.password", kafka.password())];
    let login =
        login.into_iter().filter_map(|(property, value): (_, Option<&Text>)| Some((property, value?)));
    if let Some(mechanism) = kafka.mechanism() {
        config.set("sasl.mechanisms", mechanism.as_str());
    }
    let by_hand = kafka.properties.iter().map(|(property, value)| (property.as_str(), value));
    for (property, value) in tls.chain(login).chain(by_hand) {
        config.set(property, value.current()?);
    }
    Ok(())
}
