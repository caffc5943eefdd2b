//! The broker's settings.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

/// A listener beside the plain one: its name, Kafka's name of its protocol, and its port.
pub(super) type Further = (&'static str, &'static str, u16);

/// Settings that depend on the ports.
pub(super) fn listeners(port: u16, controller_port: u16, further: &[Further]) -> BTreeMap<String, String> {
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for (name, protocol, port) in further {
        advertised.push_str(&format!(",{name}://127.0.0.1:{port}"));
        protocols.push_str(&format!(",{name}:{protocol}"));
    }
    [
        ("listeners", format!("{advertised},CONTROLLER://127.0.0.1:{controller_port}")),
        ("advertised.listeners", advertised),
        ("listener.security.protocol.map", protocols),
        ("controller.quorum.voters", format!("1@127.0.0.1:{controller_port}")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Settings of a broker that joins the cluster of another one, which is its controller.
pub(super) fn joining(node: u32, port: u16) -> BTreeMap<String, String> {
    [
        ("process.roles", "broker".to_owned()),
        ("node.id", node.to_string()),
        ("listeners", format!("PLAINTEXT://127.0.0.1:{port}")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

pub(super) const FIXED: [(&str, &str); 30] = [
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "PLAINTEXT"),
    // A killed broker may come back only when its old session with the controller has ended.
    ("broker.session.timeout.ms", "2000"),
    ("broker.heartbeat.interval.ms", "300"),
    ("auto.create.topics.enable", "false"),
    // One replica of everything, and few partitions of the broker's own topics.
    ("offsets.topic.num.partitions", "2"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.num.partitions", "2"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("share.coordinator.state.topic.num.partitions", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    // Tests choose short sessions, and wait for nobody to join.
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "500"),
    // Workloads carry timestamps of the last months.
    ("log.retention.ms", "-1"),
    // What a test may wait for happens soon.
    ("log.initial.task.delay.ms", "200"),
    ("log.retention.check.interval.ms", "300"),
    ("log.cleaner.backoff.ms", "200"),
    ("log.segment.delete.delay.ms", "100"),
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "300"),
    ("transaction.remove.expired.transaction.cleanup.interval.ms", "300000"),
    // Small.
    ("log.cleaner.dedupe.buffer.size", "4194304"),
    ("log.cleaner.io.buffer.size", "262144"),
    ("log.index.size.max.bytes", "1048576"),
    ("num.network.threads", "2"),
    ("num.io.threads", "4"),
    ("background.threads", "2"),
];

/// slf4j's plain logger, to the standard error, without the hundreds of lines of configuration.
pub(super) const LOGGING: [&str; 4] = [
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
];

/// 16 random bytes in URL-safe base64 without padding: 22 characters, as `StorageTool random-uuid`
/// prints them after starting a Java for it.
pub(super) fn new_cluster_id() -> Result<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const LENGTH: usize = 22;
    let mut random = [0; LENGTH];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("/dev/urandom")?;
    let mut id: Vec<u8> = random.iter().map(|byte| ALPHABET[usize::from(byte % 64)]).collect();
    // 22 characters are 132 bits, 4 more than 16 bytes have: those must be zero. A leading dash
    // would be read as an option.
    id[0] = ALPHABET[usize::from(random[0] % 62)];
    id[LENGTH - 1] = ALPHABET[usize::from(random[LENGTH - 1] % 4) * 16];
    Ok(String::from_utf8_lossy(&id).into_owned())
}
