//! `[kafka]`: the brokers, how the host connects to them, and which physical topics it reads.
//!
//! `[kafka.properties]` may set the same things as `[kafka.tls]` and `[kafka.sasl]`. So the effective
//! values come from the functions here, which look at both: [`Kafka::protocol`], [`Kafka::mechanism`],
//! [`Kafka::username`], [`Kafka::password`].

mod check;
mod security;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use projector_core::topics::{PhysicalTopics, PhysicalTopicsVisitor};
use serde::{Deserialize, Deserializer};

pub use security::{Oidc, Protocol, Sasl, SaslMechanism, Tls};

use super::text::Text;

/// The broker considers a host dead after this time. A usual value for consumers.
pub const SESSION_TIMEOUT_MS: u64 = 30_000;

/// How often metadata is refreshed, and so how soon new topics and partitions are found.
pub const METADATA_REFRESH_MS: u64 = 30_000;

/// The default of `kafka.value-bytes`. The default limits of plugins allow to read and write a value of
/// this size.
pub const VALUE_BYTES: usize = 8 * 1024 * 1024;

const PROTOCOL: &str = "security.protocol";
const MECHANISMS: [&str; 2] = ["sasl.mechanisms", "sasl.mechanism"];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kafka {
    /// Bootstrap servers: `host:port`, several separated by commas.
    pub brokers: Text,
    /// The first part of every consumer group's id.
    #[serde(default = "default_group_prefix")]
    pub group_prefix: Text,
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
    /// The largest value of a record that is read. A record with a larger value becomes a dead letter that
    /// has the record's position, and not its value.
    #[serde(default = "default_value_bytes")]
    pub value_bytes: usize,
    /// Any librdkafka property. It takes precedence over the settings above.
    #[serde(default)]
    pub properties: BTreeMap<String, Text>,
    /// The physical topics of a logical topic (the name that plugins use): a name, a list of names, or a
    /// pattern. A logical topic that is not listed has the same name in Kafka.
    #[serde(default, deserialize_with = "physical_topics")]
    pub topics: BTreeMap<String, PhysicalTopics>,
}

fn default_group_prefix() -> Text {
    Text::from("projector")
}

fn default_value_bytes() -> usize {
    VALUE_BYTES
}

/// The values of `[kafka.topics]`, whose strings may contain variables.
fn physical_topics<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, PhysicalTopics>, D::Error> {
    struct Value(PhysicalTopics);
    impl<'de> Deserialize<'de> for Value {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(PhysicalTopicsVisitor::<Text>(PhantomData)).map(Value)
        }
    }
    let written = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(written.into_iter().map(|(logical, Value(topics))| (logical, topics)).collect())
}

impl Kafka {
    /// The protocol in effect.
    pub fn protocol(&self) -> Protocol {
        let own = Protocol { is_tls: self.tls.is_some(), is_sasl: self.sasl.is_some() };
        self.properties.get(PROTOCOL).and_then(|word| Protocol::from_word(word)).unwrap_or(own)
    }

    /// The mechanism in effect; `None` without SASL.
    pub fn mechanism(&self) -> Option<SaslMechanism> {
        let by_hand = MECHANISMS.iter().find_map(|name| self.properties.get(*name));
        let own = || self.sasl.as_ref().map(|sasl| sasl.mechanism);
        let mechanism = by_hand.and_then(|word| SaslMechanism::from_word(word).ok()).or_else(own);
        mechanism.filter(|_| self.protocol().is_sasl)
    }

    pub fn username(&self) -> Option<&Text> {
        let own = || self.sasl.as_ref().and_then(|sasl| sasl.username.as_ref());
        self.properties.get("sasl.username").or_else(own)
    }

    pub fn password(&self) -> Option<&Text> {
        let own = || self.sasl.as_ref().and_then(|sasl| sasl.password.as_ref());
        self.properties.get("sasl.password").or_else(own)
    }

    /// Whether all brokers are on this machine.
    pub fn is_loopback(&self) -> bool {
        self.brokers.split(',').all(|broker| is_loopback(broker.trim().rsplit("://").next().unwrap_or("")))
    }

    /// A warning if data leaves this machine without encryption.
    pub fn plain_text_warning(&self) -> Option<String> {
        let protocol = self.protocol();
        if protocol.is_tls || self.is_loopback() {
            return None;
        }
        let what = match self.mechanism() {
            Some(SaslMechanism::Plain) => "events and the password are",
            Some(SaslMechanism::OauthBearer) => "events and the token are",
            _ => "events are",
        };
        Some(format!(
            "the connection to Kafka ({}) is not encrypted: {what} readable on the network; use a listener with TLS and add [kafka.tls]",
            &*self.brokers
        ))
    }

    /// After this time without a heartbeat, the group gives a host's partitions to other hosts.
    pub fn session_timeout(&self) -> Duration {
        let own = self.properties.get("session.timeout.ms").and_then(|text| text.parse().ok());
        Duration::from_millis(own.unwrap_or(SESSION_TIMEOUT_MS))
    }

    /// How often topics that match a pattern are looked for.
    pub fn metadata_refresh(&self) -> Duration {
        let own = self.properties.get("topic.metadata.refresh.interval.ms");
        let own = own.and_then(|text| text.parse().ok()).filter(|ms| *ms > 0);
        Duration::from_millis(own.unwrap_or(METADATA_REFRESH_MS)).max(Duration::from_millis(100))
    }

    /// Resolves relative paths against the directory of the configuration file.
    pub(super) fn resolve(&mut self, base: &Path) {
        if let Some(tls) = &mut self.tls {
            tls.resolve(base);
        }
        if let Some(ca) = self.sasl.as_mut().and_then(|sasl| sasl.oidc.as_mut()?.ca.as_mut()) {
            *ca = ca.as_path_below(base);
        }
    }
}

/// Whether an address is on this machine; as `host:port`, `[::1]:port` or `host`.
fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => address.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
