//! How the host connects to Kafka: TLS and SASL, and which combinations are refused and why.
//!
//! `[kafka.properties]` may set the same things as `[kafka.tls]` and `[kafka.sasl]`. So the effective
//! values come from the functions here, which look at both: [`Kafka::protocol`], [`Kafka::mechanism`],
//! [`Kafka::username`], [`Kafka::password`].

use std::collections::BTreeMap;
use std::fmt;

use projector_model::nearest;
use serde::{Deserialize, Deserializer};

use super::{Kafka, Text};

/// Properties that must not be changed: exactly-once processing depends on them.
pub(crate) const RESERVED_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "partition.assignment.strategy",
    "enable.partition.eof",
];

/// TLS to the brokers; paths are relative to the configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the authorities to trust. It replaces the system's.
    pub ca: Option<Text>,
    /// PEM files of the client's own certificate and key.
    pub certificate: Option<Text>,
    pub key: Option<Text>,
    pub key_password: Option<Text>,
}

/// How the host authenticates to the brokers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    /// For PLAIN and SCRAM.
    pub username: Option<Text>,
    pub password: Option<Text>,
    /// For OAUTHBEARER: the token.
    pub token: Option<Text>,
    /// For OAUTHBEARER: where the host fetches tokens.
    pub oidc: Option<Oidc>,
    /// For OAUTHBEARER: SASL extensions that are sent with the token, as Confluent Cloud requires.
    #[serde(default)]
    pub extensions: BTreeMap<String, Text>,
}

/// The client credentials of OpenID Connect, with which the host fetches tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Oidc {
    /// `https://…`; plain `http://` only on this machine.
    pub token_endpoint: Text,
    pub client_id: Text,
    pub client_secret: Text,
    pub scope: Option<Text>,
    /// PEM file of the authorities to trust. It replaces the system's.
    pub ca: Option<Text>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
    OauthBearer,
}

impl SaslMechanism {
    const ALL: [SaslMechanism; 4] = [Self::Plain, Self::ScramSha256, Self::ScramSha512, Self::OauthBearer];

    /// The mechanism's name in Kafka and librdkafka.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }

    fn from_word(word: &str) -> Result<Self, String> {
        if let Some(mechanism) = Self::ALL.into_iter().find(|mechanism| mechanism.as_str() == word) {
            return Ok(mechanism);
        }
        Err(match word {
            "GSSAPI" => "mechanism GSSAPI (Kerberos) is not built into this program: use a listener with SCRAM-SHA-512, OAUTHBEARER or TLS client certificates".to_owned(),
            "AWS_MSK_IAM" => "mechanism AWS_MSK_IAM is not supported, because its tokens are signed with AWS keys: turn on SASL/SCRAM or TLS client authentication for the cluster, or let a sidecar write IAM tokens to a file and use OAUTHBEARER with `token = \"${file:/path}\"`".to_owned(),
            _ => {
                let known: Vec<String> = Self::ALL.iter().map(|known| format!("`{known}`")).collect();
                format!("unknown mechanism `{word}`, expected one of {}", known.join(", "))
            }
        })
    }
}

impl fmt::Display for SaslMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SaslMechanism {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_word(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Whether a connection uses TLS and SASL: Kafka's `security.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    pub is_tls: bool,
    pub is_sasl: bool,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match (self.is_tls, self.is_sasl) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        let all = [(false, false), (true, false), (false, true), (true, true)];
        let mut all = all.map(|(is_tls, is_sasl)| Self { is_tls, is_sasl }).into_iter();
        all.find(|protocol| protocol.as_str().eq_ignore_ascii_case(word))
    }
}

/// A configuration key whose value cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The names of the tables around the key, and the key's own name.
    pub key: Vec<String>,
    pub message: String,
    pub help: Option<String>,
}

impl Problem {
    /// `key` as in `kafka.sasl.username`.
    pub fn of(key: &str, message: impl Into<String>) -> Self {
        let key = key.split('.').map(str::to_owned).collect();
        Self { key, message: message.into(), help: None }
    }

    pub fn of_property(property: &str, message: impl Into<String>) -> Self {
        let key = ["kafka", "properties", property].map(str::to_owned).into();
        Self { key, message: message.into(), help: None }
    }
}

const PROTOCOL: &str = "security.protocol";
const MECHANISMS: [&str; 2] = ["sasl.mechanisms", "sasl.mechanism"];

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

    /// Checks for settings that contradict each other or have no effect.
    pub fn check(&self) -> Result<(), Problem> {
        self.check_protocol()?;
        self.check_mechanism()?;
        self.check_tls()?;
        self.check_oidc()
    }

    fn check_protocol(&self) -> Result<(), Problem> {
        let Some(word) = self.properties.get(PROTOCOL) else {
            return self.check_unused(format!("add [kafka.tls], [kafka.sasl], or \"{PROTOCOL}\""));
        };
        let Some(protocol) = Protocol::from_word(word) else {
            let words = "`plaintext`, `ssl`, `sasl_plaintext`, `sasl_ssl`";
            let message = format!("unknown {PROTOCOL} `{}`, expected one of {words}", &**word);
            return Err(Problem::of_property(PROTOCOL, message));
        };
        for (table, is_there, is_used) in [
            ("kafka.tls", self.tls.is_some(), protocol.is_tls),
            ("kafka.sasl", self.sasl.is_some(), protocol.is_sasl),
        ] {
            if is_there && !is_used {
                let message = format!(
                    "[{table}] would have no effect, because {PROTOCOL} is {}: remove one of the two",
                    protocol.as_str()
                );
                return Err(Problem::of_property(PROTOCOL, message));
            }
        }
        self.check_unused(format!("change \"{PROTOCOL}\""))
    }

    /// Refuses properties of TLS if TLS is not used, and properties of SASL if SASL is not used.
    fn check_unused(&self, remedy: String) -> Result<(), Problem> {
        let protocol = self.protocol();
        for name in self.properties.keys() {
            let is_unused = name.starts_with("ssl.") && !protocol.is_tls
                || name.starts_with("sasl.") && !protocol.is_sasl;
            if is_unused {
                let message = format!(
                    "{name} would have no effect, because the connection is {}: {remedy}",
                    protocol.as_str()
                );
                return Err(Problem::of_property(name, message));
            }
        }
        Ok(())
    }

    fn check_mechanism(&self) -> Result<(), Problem> {
        for name in MECHANISMS {
            let Some(word) = self.properties.get(name) else { continue };
            let mechanism =
                SaslMechanism::from_word(word).map_err(|message| Problem::of_property(name, message))?;
            if self.sasl.as_ref().is_some_and(|sasl| sasl.mechanism != mechanism) {
                let message = format!("{name} and kafka.sasl.mechanism differ: remove one of the two");
                return Err(Problem::of_property(name, message));
            }
        }
        // The host passes tokens to librdkafka; librdkafka's own code that fetches tokens is not compiled
        // in.
        let foreign = |name: &&String| name.starts_with("sasl.oauthbearer.") || name.contains("unsecure.jwt");
        if let Some(name) = self.properties.keys().find(foreign) {
            let message = format!(
                "{name} is not supported: write [kafka.sasl] with mechanism = \"OAUTHBEARER\" and `token`, or [kafka.sasl.oidc], with which the host fetches tokens itself"
            );
            return Err(Problem::of_property(name, message));
        }
        if !self.protocol().is_sasl {
            return Ok(());
        }
        let Some(mechanism) = self.mechanism() else {
            let message = format!(
                "{PROTOCOL} is {}, but no SASL mechanism is set: add [kafka.sasl]",
                self.protocol().as_str()
            );
            return Err(Problem::of_property(PROTOCOL, message));
        };
        let own = self.sasl.as_ref();
        let has_token = own.is_some_and(|sasl| sasl.token.is_some());
        let has_oidc = own.is_some_and(|sasl| sasl.oidc.is_some());
        let has_extensions = own.is_some_and(|sasl| !sasl.extensions.is_empty());
        let unused = |key: &str| Problem::of(key, format!("{key} would have no effect with {mechanism}"));
        if mechanism == SaslMechanism::OauthBearer {
            if self.username().is_some() || self.password().is_some() {
                return Err(unused("kafka.sasl.username"));
            }
            return match (has_token, has_oidc) {
                (false, false) => Err(Problem::of(
                    "kafka.sasl",
                    "mechanism OAUTHBEARER needs `token` (a token, or `${file:/path}`) or [kafka.sasl.oidc]",
                )),
                (true, true) => Err(Problem::of(
                    "kafka.sasl.token",
                    "`token` and [kafka.sasl.oidc] exclude each other: remove one of the two",
                )),
                _ => Ok(()),
            };
        }
        for (key, is_there) in [
            ("kafka.sasl.token", has_token),
            ("kafka.sasl.oidc", has_oidc),
            ("kafka.sasl.extensions", has_extensions),
        ] {
            if is_there {
                return Err(unused(key));
            }
        }
        for (key, value) in [("username", self.username()), ("password", self.password())] {
            if value.is_none_or(|value| value.is_empty()) {
                let message = format!("mechanism {mechanism} needs `{key}`, which is empty or missing");
                return Err(Problem::of("kafka.sasl", message));
            }
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), Problem> {
        let Some(tls) = &self.tls else { return Ok(()) };
        match (&tls.certificate, &tls.key, &tls.key_password) {
            (Some(_), None, _) => {
                Err(Problem::of("kafka.tls.certificate", "kafka.tls.certificate also needs kafka.tls.key"))
            }
            (None, Some(_), _) => {
                Err(Problem::of("kafka.tls.key", "kafka.tls.key also needs kafka.tls.certificate"))
            }
            (_, None, Some(_)) => {
                Err(Problem::of("kafka.tls.key-password", "kafka.tls.key-password also needs kafka.tls.key"))
            }
            _ => Ok(()),
        }
    }

    fn check_oidc(&self) -> Result<(), Problem> {
        let Some(oidc) = self.sasl.as_ref().and_then(|sasl| sasl.oidc.as_ref()) else { return Ok(()) };
        let url = &*oidc.token_endpoint;
        let is_sound = url.starts_with("https://")
            || url
                .strip_prefix("http://")
                .is_some_and(|rest| is_loopback(rest.split(['/', '?']).next().unwrap_or_default()));
        if !is_sound {
            let message = "kafka.sasl.oidc.token-endpoint: write an https:// address; http:// is for this machine only, because the client's secret is sent there";
            return Err(Problem::of("kafka.sasl.oidc.token-endpoint", message));
        }
        Ok(())
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

/// "did you mean" for a librdkafka property.
pub fn nearest_property<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(given, known).map(|nearest| format!("did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    use crate::Config;

    fn kafka(text: &str) -> Result<Config, String> {
        let text = format!(
            "[plugins]\ndirectory = \"p\"\n[store]\nurl = \"sqlite://a.db\"\n[kafka]\nbrokers = \"b:9092\"\n{text}"
        );
        Config::parse("projector.toml", &text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_have_no_effect_or_is_not_supported_is_refused_with_its_line() {
        for (text, line, reason) in [
            ("[kafka.sasl]\nmechanism = \"GSSAPI\"", 8, "Kerberos"),
            ("[kafka.sasl]\nmechanism = \"AWS_MSK_IAM\"", 8, "SASL/SCRAM"),
            ("[kafka.sasl]\nmechanism = \"SCRAM-SHA-521\"", 8, "expected one of `PLAIN`"),
            ("[kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"a\"", 7, "needs `password`"),
            ("[kafka.sasl]\nmechanism = \"OAUTHBEARER\"", 7, "needs `token`"),
            (
                "[kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"a\"\npassword = \"b\"\ntoken = \"c\"",
                11,
                "kafka.sasl.token would have no effect with PLAIN",
            ),
            ("[kafka.properties]\n\"security.protocol\" = \"sasl_ssl\"", 8, "no SASL mechanism"),
            ("[kafka.properties]\n\"security.protocol\" = \"tls\"", 8, "expected one of `plaintext`"),
            ("[kafka.properties]\n\"sasl.username\" = \"a\"", 8, "the connection is plaintext"),
            ("[kafka.properties]\n\"ssl.ca.location\" = \"a\"", 8, "the connection is plaintext"),
            (
                "[kafka.properties]\n\"security.protocol\" = \"sasl_ssl\"\n\"sasl.mechanism\" = \"GSSAPI\"",
                9,
                "Kerberos",
            ),
            (
                "[kafka.tls]\n[kafka.properties]\n\"security.protocol\" = \"plaintext\"",
                9,
                "[kafka.tls] would have no effect",
            ),
            (
                "[kafka.properties]\n\"security.protocol\" = \"sasl_ssl\"\n\"sasl.mechanism\" = \"OAUTHBEARER\"\n\"sasl.oauthbearer.method\" = \"oidc\"",
                10,
                "[kafka.sasl.oidc]",
            ),
            ("[kafka.tls]\ncertificate = \"c.pem\"", 8, "needs kafka.tls.key"),
            (
                "[kafka.sasl]\nmechanism = \"OAUTHBEARER\"\n[kafka.sasl.oidc]\ntoken-endpoint = \"http://idp/token\"\nclient-id = \"a\"\nclient-secret = \"b\"",
                10,
                "https://",
            ),
        ] {
            let error = kafka(text).expect_err(text);
            assert!(error.starts_with(&format!("projector.toml:{line}:")), "{text}: {error}");
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_plain_connection_beyond_this_machine_is_warned_about() {
        for (brokers, table, is_warned) in [
            ("localhost:9092,127.0.0.1:9093,[::1]:9094", "", false),
            ("localhost:9092,kafka.example:9092", "", true),
            ("kafka.example:9092", "[kafka.tls]", false),
            (
                "kafka.example:9092",
                "[kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"a\"\npassword = \"b\"",
                true,
            ),
        ] {
            let text = format!(
                "[plugins]\ndirectory = \"p\"\n[store]\nurl = \"sqlite://a.db\"\n[kafka]\nbrokers = \"{brokers}\"\n{table}"
            );
            let kafka = Config::parse("projector.toml", &text).expect("sound").kafka;
            let warning = kafka.plain_text_warning();
            assert_eq!(warning.is_some(), is_warned, "{brokers} {table}");
            let names_password = warning.is_some_and(|warning| warning.contains("password"));
            assert_eq!(names_password, is_warned && !table.is_empty());
        }
    }
}
