//! Secured brokers: every way in, secrets that change while a host runs, and what is said when there is no
//! way in.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use projector_test_servers::{Listener, Resource, Right, SecuredKafka, User, token};
use projector_workload::Record;

use crate::harness::{Host, ORDER_SEARCH, Platform, ReadModel, eventually, seed};

const EVENTS: usize = 300;

/// A platform on the secured Kafka, whose hosts connect to a listener. Topics are made through the plain one.
pub(super) fn platform(name: &str, listener: Listener) -> Platform {
    let kafka = SecuredKafka::shared();
    let platform =
        Platform::on(&kafka.bootstrap(Listener::Plain), name, &[ORDER_SEARCH], ReadModel::sqlite());
    platform.create_topics(2);
    platform
        .set(&["kafka", "brokers"], kafka.bootstrap(listener))
        .env("KAFKA_BROKERS", kafka.bootstrap(listener))
        .env("KAFKA_CA", kafka.ca().display().to_string())
}

pub(super) fn secrets(platform: &Platform) -> PathBuf {
    let directory = platform.directory().join("secrets");
    fs::create_dir_all(&directory).unwrap();
    directory
}

pub(super) fn with_secrets(platform: Platform) -> Platform {
    let directory = secrets(&platform).display().to_string();
    platform.env("SECRETS", directory)
}

/// As Kubernetes does it: the file is there with its old content, or with its new one.
fn replace(file: &Path, content: impl AsRef<[u8]>) {
    let next = file.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, file).unwrap();
}

/// What a host needs.
pub(super) fn grant(platform: &Platform, user: &str) {
    let kafka = SecuredKafka::shared();
    kafka.grant(user, Right::Read, Resource::TopicsFrom(&platform.topic(""))).unwrap();
    kafka.grant(user, Right::Read, Resource::GroupsFrom("projector.")).unwrap();
}

/// The read model follows the log before and after its host started, and no secret shows anywhere.
fn stays_current(platform: Platform, secrets: &[&str]) {
    let records: Vec<Record> = platform.workload(seed(901), EVENTS).records().collect();
    let (before, after) = records.split_at(EVENTS / 2);
    platform.publish(before);
    let host = platform.start_host("secured");
    platform.until_fresh();
    platform.publish(after);
    platform.assert_orders_are_right();
    assert_hidden(host, secrets);
}

#[track_caller]
pub(super) fn assert_hidden(host: Host, secrets: &[&str]) {
    for line in host.sigterm().lines() {
        for secret in secrets {
            assert!(!line.text.contains(secret), "a secret is logged: {}", line.text);
        }
    }
}

#[test]
fn the_systems_roots_are_not_trusted_beside_a_ca_of_ones_own() {
    let platform = platform("tls", Listener::Tls)
        .set(&["kafka", "tls", "ca"], SecuredKafka::shared().ca().display().to_string());
    stays_current(platform, &[]);
}

#[test]
fn order_search_stays_current_with_plain_over_tls() {
    let user = SecuredKafka::shared().plain_user();
    let platform = platform("plain", Listener::SaslTls)
        .env("KAFKA_USER", &*user.name)
        .env("KAFKA_PASSWORD", &*user.password)
        .with_snippet("kafka-plain")
        // What librdkafka says about its logins is looked through for secrets as well.
        .set(&["kafka", "properties", "debug"], "security,broker,conf");
    grant(&platform, &user.name);
    stays_current(platform, &[&user.password]);
}

#[test]
fn order_search_stays_current_with_scram_without_tls() {
    let kafka = SecuredKafka::shared();
    let user = kafka.scram_user("scram-256", "a secret for 256").unwrap();
    let platform = platform("scram-256", Listener::SaslPlain)
        .set(&["kafka", "sasl", "mechanism"], "SCRAM-SHA-256")
        .set(&["kafka", "sasl", "username"], &*user.name)
        .set(&["kafka", "sasl", "password"], &*user.password)
        .set(&["kafka", "properties", "debug"], "security,broker,conf");
    grant(&platform, &user.name);
    stays_current(platform, &[&user.password]);
}

#[test]
fn order_search_stays_current_with_a_client_certificate_whose_key_has_a_password() {
    let kafka = SecuredKafka::shared();
    let certificate = kafka.authority().client("certified-host").unwrap();
    let platform = with_secrets(platform("mtls", Listener::MutualTls))
        .env("KAFKA_KEY_PASSWORD", &*certificate.key_password)
        .with_snippet("kafka-mtls");
    fs::copy(&certificate.certificate, secrets(&platform).join("client.pem")).unwrap();
    fs::copy(&certificate.encrypted_key, secrets(&platform).join("client.key")).unwrap();
    grant(&platform, "certified-host");
    stays_current(platform, &[&certificate.key_password]);
}

#[test]
fn order_search_stays_current_with_a_token() {
    let value = token("bearer-static", Duration::from_secs(3600)).unwrap();
    let kafka = SecuredKafka::shared();
    let platform = platform("token", Listener::SaslTls)
        .set(&["kafka", "tls", "ca"], kafka.ca().display().to_string())
        .set(&["kafka", "sasl", "mechanism"], "OAUTHBEARER")
        .set(&["kafka", "sasl", "token"], &*value);
    grant(&platform, "bearer-static");
    stays_current(platform, &[&value]);
}

/// The broker ends connections whose token has expired.
#[test]
fn a_token_is_read_again_from_its_file_before_it_expires() {
    let kafka = SecuredKafka::shared();
    let platform = with_secrets(platform("token-file", Listener::SaslTls)).with_snippet("kafka-token");
    grant(&platform, "bearer-file");
    let file = secrets(&platform).join("kafka-token");
    let lifetime = Duration::from_secs(25);
    replace(&file, token("bearer-file", lifetime).unwrap());
    let records: Vec<Record> = platform.workload(seed(902), EVENTS).records().collect();
    let (before, after) = records.split_at(EVENTS / 2);
    platform.publish(before);
    let host = platform.start_host("bearer");
    platform.until_fresh();
    let last = token("bearer-file", Duration::from_secs(3600)).unwrap();
    replace(&file, &last);
    host.log().until_said("the Kafka token changed");
    let expires = std::time::Instant::now() + lifetime;
    eventually("the first token has expired", || {
        if std::time::Instant::now() > expires { Ok(()) } else { Err("not yet") }
    });
    // Rights are asked for with each fetch: the connections are open, or have been opened anew.
    kafka.grant("bearer-file", Right::Describe, Resource::TopicsFrom(&platform.topic(""))).unwrap();
    platform.publish(after);
    platform.assert_orders_are_right();
    assert_hidden(host, &[&last]);
}

/// A rotated password: altered at the brokers and in the file, while a host runs.
#[test]
fn a_rotated_password_needs_no_restart() {
    let kafka = SecuredKafka::shared();
    let User { name, .. } = kafka.scram_user("rotated", "the first password").unwrap();
    let platform = with_secrets(platform("rotated", Listener::ScramOnly))
        .env("KAFKA_USER", &*name)
        .with_snippet("kafka-scram")
        // Connections are made anew often, as over days in production.
        .set(&["kafka", "properties", "connections.max.idle.ms"], "1000")
        .set(&["kafka", "properties", "reconnect.backoff.max.ms"], "1000");
    let file = secrets(&platform).join("kafka-password");
    replace(&file, "the first password\n");
    grant(&platform, &name);
    let records: Vec<Record> = platform.workload(seed(903), EVENTS).records().collect();
    let (before, after) = records.split_at(EVENTS / 2);
    platform.publish(before);
    let host = platform.start_host("rotating");
    platform.until_fresh();

    kafka.scram_user(&name, "the second password").unwrap();
    let (code, _, said) = platform.command(&["status"]);
    assert_eq!(code, 2, "the old password is still taken: {said}");
    replace(&file, "the second password\n");
    host.log().until_said("the Kafka user or password changed");
    platform.publish(after);
    platform.assert_orders_are_right();
    let runs = |line: &crate::harness::Line| line.message() == "projection runs";
    assert_eq!(host.log().lines().iter().filter(|line| runs(line)).count(), 1, "it ran on");
    assert_hidden(host, &["the first password", "the second password"]);
}

/// A client certificate that is replaced before it expires.
#[test]
fn a_replaced_client_certificate_needs_no_restart() {
    let kafka = SecuredKafka::shared();
    let first = kafka.authority().client("certificate-one").unwrap();
    let second = kafka.authority().client("certificate-two").unwrap();
    let platform = with_secrets(platform("certificates", Listener::MutualTls))
        .env("KAFKA_KEY_PASSWORD", "")
        .with_snippet("kafka-mtls");
    let (certificate, key) = (secrets(&platform).join("client.pem"), secrets(&platform).join("client.key"));
    replace(&certificate, fs::read(&first.certificate).unwrap());
    replace(&key, fs::read(&first.key).unwrap());
    grant(&platform, "certificate-one");
    let records: Vec<Record> = platform.workload(seed(904), EVENTS).records().collect();
    let (before, after) = records.split_at(EVENTS / 2);
    platform.publish(before);
    let host = platform.start_host("certified");
    platform.until_fresh();

    // Another user, so that it shows which certificate is in use.
    grant(&platform, "certificate-two");
    replace(&certificate, fs::read(&second.certificate).unwrap());
    host.log().until_said("files for the Kafka connection changed, and cannot be used");
    replace(&key, fs::read(&second.key).unwrap());
    host.log().until_said("files for the Kafka connection changed: the host creates new clients");
    kafka.revoke("certificate-one", Right::Read, Resource::TopicsFrom(&platform.topic(""))).unwrap();
    platform.publish(after);
    platform.assert_orders_are_right();
    host.sigterm();
}

/// A token endpoint on this machine. Its first answer is an error; then it gives tokens that live for some
/// seconds to whoever shows the client's secret.
struct TokenEndpoint {
    url: String,
    given: Arc<AtomicUsize>,
}

impl TokenEndpoint {
    fn start(user: &'static str, secret: &'static str) -> TokenEndpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let given = Arc::new(AtomicUsize::new(0));
        let count = given.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let request = read_request(&stream);
                let login = format!("Basic {}", STANDARD.encode(format!("projector:{secret}")));
                let is_sound = request.contains(&login)
                    && request.contains("grant_type=client_credentials")
                    && request.contains("scope=kafka");
                let (status, body) = match number {
                    0 => ("503 Service Unavailable", r#"{"error":"temporarily_unavailable"}"#.to_owned()),
                    _ if !is_sound => ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned()),
                    _ => {
                        count.fetch_add(1, Ordering::Relaxed);
                        let token = token(user, Duration::from_secs(6)).unwrap();
                        ("200 OK", format!(r#"{{"access_token":"{token}","expires_in":6}}"#))
                    }
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                // The host may be gone.
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        TokenEndpoint { url, given }
    }
}

/// Headers in lower case but for their values, and the body.
fn read_request(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return text,
        }
    }
}

#[test]
fn the_host_fetches_its_tokens_and_renews_them() {
    const SECRET: &str = "hunter2";
    let endpoint = TokenEndpoint::start("bearer-oidc", SECRET);
    let platform = platform("oidc", Listener::SaslTls)
        .env("TOKEN_ENDPOINT", &*endpoint.url)
        .env("CLIENT_SECRET", SECRET)
        .with_snippet("kafka-oidc");
    grant(&platform, "bearer-oidc");
    let records: Vec<Record> = platform.workload(seed(905), EVENTS).records().collect();
    let (before, after) = records.split_at(EVENTS / 2);
    platform.publish(before);
    let host = platform.start_host("oidc");
    let line = host.log().until_said("cannot fetch a Kafka token");
    assert!(line.field("error").contains("503"), "{}", line.text);
    assert!(line.field("error").contains(&endpoint.url), "{}", line.text);
    platform.until_fresh();
    let given = endpoint.given.load(Ordering::Relaxed);
    eventually("tokens are renewed", || {
        let now = endpoint.given.load(Ordering::Relaxed);
        if now > given + 2 { Ok(()) } else { Err(now) }
    });
    platform.publish(after);
    platform.assert_orders_are_right();
    assert_hidden(host, &[SECRET]);
}
