//! A broker as real ones are: encrypted, with users, and with rights that are refused unless granted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Kafka;
use super::authority::Authority;
use super::rights::{Administrator, Resource, Right};
use crate::directory::ServerDirectory;
use crate::port;

/// Kafka reads the users of PLAIN at its start: so many are there for tests to take.
const PLAIN_USERS: usize = 40;

/// A way to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// Neither encrypted nor authenticated. Its user is `ANONYMOUS`, who may do everything: tests create
    /// topics and publish through it.
    Plain,
    /// TLS without client certificates. Its user is `ANONYMOUS` too.
    Tls,
    /// TLS that asks for a client certificate. Its user is the certificate's common name.
    MutualTls,
    /// `SASL_SSL` with PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER.
    SaslTls,
    /// `SASL_PLAINTEXT` with the same mechanisms.
    SaslPlain,
    /// `SASL_SSL` with SCRAM-SHA-512 and no other mechanism.
    ScramOnly,
}

/// A Kafka user with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
}

/// A [`Kafka`] with listeners of every kind. Every user but `ANONYMOUS` has no right until
/// [`SecuredKafka::grant`].
///
/// OAUTHBEARER takes the unsecured tokens that [`token`] makes, and asks for a new one when a token expires.
pub struct SecuredKafka {
    ports: BTreeMap<Listener, u16>,
    plain_users_taken: AtomicUsize,
    authority: Authority,
    administrator: Administrator,
    kafka: Kafka,
}

impl SecuredKafka {
    /// Starts a broker of one's own.
    pub fn start() -> Result<SecuredKafka> {
        let directory = ServerDirectory::create("kafka-secured")?;
        let authority = Authority::create(&directory.path().join("certificates"))?;
        let keystore = authority.server()?;
        let mut further = Vec::new();
        let mut ports = BTreeMap::new();
        for (listener, name, protocol) in [
            (Listener::Tls, "TLS", "SSL"),
            (Listener::MutualTls, "MUTUAL", "SSL"),
            (Listener::SaslTls, "SASLTLS", "SASL_SSL"),
            (Listener::SaslPlain, "SASLPLAIN", "SASL_PLAINTEXT"),
            (Listener::ScramOnly, "SCRAMONLY", "SASL_SSL"),
        ] {
            let port = port::free()?;
            further.push((name, protocol, port));
            ports.insert(listener, port);
        }
        let kafka = Kafka::start_listening(directory, further, settings(&keystore, &authority.ca()))?;
        ports.insert(Listener::Plain, kafka.port());
        let administrator = Administrator::new(&kafka.bootstrap())?;
        Ok(SecuredKafka { ports, plain_users_taken: AtomicUsize::new(0), authority, administrator, kafka })
    }

    /// The broker that several tests share, started at the first call. Topics, groups and users need names
    /// of their own there.
    ///
    /// # Panics
    /// When no broker can be had.
    pub fn shared() -> &'static SecuredKafka {
        static SHARED: OnceLock<SecuredKafka> = OnceLock::new();
        SHARED.get_or_init(|| match SecuredKafka::start() {
            Ok(kafka) => kafka,
            Err(error) => panic!("no secured Kafka for this test: {error:#}"),
        })
    }

    /// `127.0.0.1:port` of a listener. The broker's certificate is valid for `localhost` as well.
    pub fn bootstrap(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", self.ports[&listener])
    }

    /// The PEM file that a client must trust.
    pub fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    /// What signs the broker's certificate, and those of its clients.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The broker itself, to stop and start it.
    pub fn kafka(&mut self) -> &mut Kafka {
        &mut self.kafka
    }

    /// A user for the mechanism PLAIN that no other test has.
    ///
    /// # Panics
    /// When all are taken.
    pub fn plain_user(&self) -> User {
        let number = self.plain_users_taken.fetch_add(1, Ordering::Relaxed);
        assert!(number < PLAIN_USERS, "all {PLAIN_USERS} users of PLAIN are taken: raise PLAIN_USERS");
        plain_user(number)
    }

    /// Creates a user for SCRAM-SHA-256 and SCRAM-SHA-512, or gives one another password. Connections that
    /// are open stay open.
    pub fn scram_user(&self, name: &str, password: &str) -> Result<User> {
        self.administrator.set_scram(name, password)?;
        Ok(User { name: name.to_owned(), password: password.to_owned() })
    }

    /// Lets a user do something.
    pub fn grant(&self, user: &str, right: Right, resource: Resource<'_>) -> Result<()> {
        self.administrator.grant(user, right, resource)
    }

    /// Takes a right away, named in the words in which it was granted.
    pub fn revoke(&self, user: &str, right: Right, resource: Resource<'_>) -> Result<()> {
        self.administrator.revoke(user, right, resource)
    }
}

/// A token for OAUTHBEARER: an unsecured JWT for a user, valid for so long from now on.
pub fn token(user: &str, lifetime: Duration) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock after 1970")?;
    let claims = format!(
        r#"{{"sub":"{user}","iat":{:.3},"exp":{:.3}}}"#,
        now.as_secs_f64(),
        (now + lifetime).as_secs_f64()
    );
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    Ok(format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(&claims)))
}

fn plain_user(number: usize) -> User {
    User { name: format!("plain-{number}"), password: format!("plain-secret-{number}") }
}

fn settings(keystore: &std::path::Path, ca: &std::path::Path) -> Vec<(String, String)> {
    let users: String = (0..PLAIN_USERS)
        .map(plain_user)
        .map(|user| format!(" user_{}=\"{}\"", user.name, user.password))
        .collect();
    let module = "org.apache.kafka.common.security";
    let mut settings = vec![
        ("ssl.keystore.type".to_owned(), "PEM".to_owned()),
        ("ssl.keystore.location".to_owned(), keystore.display().to_string()),
        ("ssl.truststore.type".to_owned(), "PEM".to_owned()),
        ("ssl.truststore.location".to_owned(), ca.display().to_string()),
        ("ssl.principal.mapping.rules".to_owned(), "RULE:^CN=(.*)$/$1/,DEFAULT".to_owned()),
        ("listener.name.mutual.ssl.client.auth".to_owned(), "required".to_owned()),
        (
            "authorizer.class.name".to_owned(),
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
        ),
        ("super.users".to_owned(), "User:ANONYMOUS".to_owned()),
    ];
    for listener in ["sasltls", "saslplain", "scramonly"] {
        let mechanisms = match listener {
            "scramonly" => "SCRAM-SHA-512",
            _ => "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        };
        let name = |suffix: &str| format!("listener.name.{listener}.{suffix}");
        settings.push((name("sasl.enabled.mechanisms"), mechanisms.to_owned()));
        for (mechanism, login) in [
            ("plain", format!("{module}.plain.PlainLoginModule required{users};")),
            ("scram-sha-256", format!("{module}.scram.ScramLoginModule required;")),
            ("scram-sha-512", format!("{module}.scram.ScramLoginModule required;")),
            (
                "oauthbearer",
                format!(
                    "{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
                ),
            ),
        ] {
            settings.push((name(&format!("{mechanism}.sasl.jaas.config")), login));
        }
        // A connection ends when its token does, unless the client shows a new one.
        settings.push((name("oauthbearer.connections.max.reauth.ms"), "3600000".to_owned()));
    }
    settings
}
