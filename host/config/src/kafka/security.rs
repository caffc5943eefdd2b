//! `[kafka.tls]` and `[kafka.sasl]`: how the host connects to the brokers and logs in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::text::Text;

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

impl Tls {
    /// Resolves relative paths against the directory of the configuration file.
    pub(super) fn resolve(&mut self, base: &Path) {
        for file in [&mut self.ca, &mut self.certificate, &mut self.key].into_iter().flatten() {
            *file = file.as_path_below(base);
        }
    }
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

    pub(super) fn from_word(word: &str) -> Result<Self, String> {
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

    pub(super) fn from_word(word: &str) -> Option<Self> {
        let all = [(false, false), (true, false), (false, true), (true, true)];
        let mut all = all.map(|(is_tls, is_sasl)| Self { is_tls, is_sasl }).into_iter();
        all.find(|protocol| protocol.as_str().eq_ignore_ascii_case(word))
    }
}
