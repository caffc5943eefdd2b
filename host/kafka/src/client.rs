//! The properties of Kafka clients: brokers, TLS, SASL, timings.
//!
//! [`configure`] sets the properties of every client. Never copy one `ClientConfig` into another: rdkafka
//! returns placeholders for secrets, and the copy would send the placeholders.

use rdkafka::ClientConfig;

use projector_config::{Text, TextError};

/// The properties of every client: brokers, TLS, SASL, and `[kafka.properties]`. Secrets are read from
/// their files again.
pub(super) fn client_config(kafka: &projector_config::Kafka) -> Result<ClientConfig, TextError> {
    let mut config = ClientConfig::new();
    configure(&mut config, kafka)?;
    Ok(config)
}

/// The properties of a consumer of a group.
pub(super) fn consumer_config(
    kafka: &projector_config::Kafka,
    group: &str,
) -> Result<ClientConfig, TextError> {
    let mut config = ClientConfig::new();
    config
        .set("session.timeout.ms", projector_config::SESSION_TIMEOUT_MS.to_string())
        .set("heartbeat.interval.ms", "3000")
        // The prefetch of each partition, in kilobytes of values or in records, and how soon librdkafka fetches again
        // for a queue that was full. A fetch that waits for new records of partitions at their end delays the other
        // partitions of the same broker. So it must return before their queues are empty.
        .set("queued.max.messages.kbytes", "2048")
        .set("queued.min.messages", "10000")
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.wait.max.ms", "100")
        .set("topic.metadata.refresh.interval.ms", projector_config::METADATA_REFRESH_MS.to_string());
    configure(&mut config, kafka)?;
    config
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // The stored offsets come from [`Source::publish_offsets`](super::Source::publish_offsets). They are committed
        // for Kafka's tools only.
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "5000")
        // Tells the merge which partitions are at their end.
        .set("enable.partition.eof", "true");
    Ok(config)
}

fn configure(config: &mut ClientConfig, kafka: &projector_config::Kafka) -> Result<(), TextError> {
    config
        .set("bootstrap.servers", kafka.brokers.current()?)
        .set("client.id", "projector")
        .set("log.connection.close", "false")
        .set("socket.keepalive.enable", "true")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_committed")
        // A broker returns the first record of a fetch in full, however large it is. If an answer is larger than this
        // limit, librdkafka drops the connection, again and again, and reads no partition of this broker. So the limit
        // is larger than any usual `max.message.bytes`. Values above `kafka.value-bytes` are not kept.
        .set("receive.message.max.bytes", "335544320")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error");
    let protocol = kafka.protocol();
    config.set("security.protocol", protocol.as_str());
    if protocol.is_tls && !kafka.properties.keys().any(|property| property.starts_with("ssl.ca.")) {
        // `probe` finds the system's certificate authorities. OpenSSL is linked statically, and would look for them at
        // a path of the machine on which it was built.
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
