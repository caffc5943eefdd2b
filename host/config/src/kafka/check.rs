//! Refuses settings of `[kafka]` that contradict each other, have no effect, or break exactly-once
//! processing.

use super::security::{Protocol, SaslMechanism};
use super::{Kafka, MECHANISMS, PROTOCOL, is_loopback};
use crate::error::Problem;

/// Properties that must not be changed: exactly-once processing depends on them.
const RESERVED_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "partition.assignment.strategy",
    "enable.partition.eof",
];

impl Kafka {
    /// Refuses settings that contradict each other, have no effect, or that the host must set itself.
    pub fn check(&self) -> Result<(), Problem> {
        self.check_reserved()?;
        self.check_protocol()?;
        self.check_mechanism()?;
        self.check_tls()?;
        self.check_oidc()
    }

    fn check_reserved(&self) -> Result<(), Problem> {
        match RESERVED_PROPERTIES.iter().find(|reserved| self.properties.contains_key(**reserved)) {
            None => Ok(()),
            Some(reserved) => Err(Problem::of_property(
                reserved,
                format!(
                    "kafka.properties.\"{reserved}\" is set by the host and must not be changed: remove this line"
                ),
            )),
        }
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
