//! What is said when there is no way into Kafka: as what it is, with whom it concerns and what to do.

use std::fs;

use projector_test_servers::{Authority, Listener, SecuredKafka};

use super::secured::{assert_hidden, grant, platform, secrets, with_secrets};
use crate::harness::Platform;

/// The exit code of `projector status` and what it prints, as one line in which LISTENER stands for the
/// brokers' address.
fn asked(platform: &Platform, listener: Listener) -> (i32, String) {
    let (code, _, said) = platform.command(&["status"]);
    let said: String = said.chars().map(|c| if "│×╰─▶╭┬·".contains(c) { ' ' } else { c }).collect();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    (code, said.replace(&SecuredKafka::shared().bootstrap(listener), "LISTENER"))
}

/// A host logs each of the fragments as the reason why it waits, and `projector status` ends with this exit
/// code and says the same.
#[track_caller]
fn assert_told(platform: &Platform, listener: Listener, code: i32, fragments: &[&str]) {
    let host = platform.start_host("no-way-in");
    let address = SecuredKafka::shared().bootstrap(listener);
    let line = host.log().wait_for("why it waits", |line| {
        line.message().starts_with("retrying") && line.field("error").contains("the broker at")
    });
    let (found, said) = asked(platform, listener);
    for said in [line.field("error").replace(&address, "LISTENER"), said.clone()] {
        for fragment in fragments {
            assert!(said.contains(fragment), "{fragment:?} is not in {said:?}");
        }
    }
    assert_eq!(line.field("kind"), if code == 2 { "login" } else { "brokers" }, "{}", line.text);
    assert_eq!(found, code, "{said}");
    assert_hidden(host, &["hunter2"]);
    assert!(!said.contains("hunter2"), "the secret is shown: {said}");
}

fn with_login(platform: Platform, mechanism: &str, user: &str, password: &str) -> Platform {
    platform
        .set(&["kafka", "sasl", "mechanism"], mechanism)
        .set(&["kafka", "sasl", "username"], user)
        .set(&["kafka", "sasl", "password"], password)
}

fn with_tls(platform: Platform) -> Platform {
    platform.set(&["kafka", "tls", "ca"], SecuredKafka::shared().ca().display().to_string())
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_a_refused_login() {
    let user = SecuredKafka::shared().scram_user("mistyped", "right").unwrap();
    for (name, mechanism) in
        [(&*user.name, "SCRAM-SHA-512"), ("nobody", "SCRAM-SHA-256"), ("nobody", "PLAIN")]
    {
        let platform = with_login(with_tls(platform("login", Listener::SaslTls)), mechanism, name, "hunter2");
        assert_told(
            &platform,
            Listener::SaslTls,
            2,
            &[
                &format!("the broker at LISTENER refuses user {name} ({mechanism}): "),
                "correct the user or its password",
            ],
        );
    }
}

#[test]
fn a_mechanism_that_the_listener_does_not_offer_is_named_with_those_that_it_offers() {
    let platform =
        with_login(with_tls(platform("mechanism", Listener::ScramOnly)), "PLAIN", "plain-0", "hunter2");
    assert_told(
        &platform,
        Listener::ScramOnly,
        2,
        &["the broker at LISTENER does not offer the SASL mechanism PLAIN: it offers SCRAM-SHA-512"],
    );
}

/// A listener of one protocol, and a host that is configured for another.
#[test]
fn listeners_of_another_protocol_are_told_apart() {
    for (listener, of_host, fragment) in [
        (Listener::Plain, with_tls as fn(Platform) -> Platform, "does not speak TLS on this port"),
        (Listener::Tls, |platform: Platform| platform, "the port expects TLS"),
        (
            Listener::Plain,
            |platform: Platform| with_login(platform, "PLAIN", "plain-0", "hunter2"),
            "does not speak SASL on this port",
        ),
    ] {
        let platform = of_host(platform("protocol", listener));
        assert_told(&platform, listener, 2, &["the broker at LISTENER ", fragment]);
    }
}

#[test]
fn certificates_that_one_side_does_not_take_are_told_apart() {
    let kafka = SecuredKafka::shared();
    // The system's roots did not sign the tests' brokers.
    let untrusting =
        platform("untrusted", Listener::Tls).set(&["kafka", "tls"], toml::Value::Table(toml::Table::new()));
    assert_told(
        &untrusting,
        Listener::Tls,
        2,
        &[
            "its certificate is not signed by an authority that this host trusts",
            "to the file of the authority",
        ],
    );

    let expired = kafka.authority().expired_client("expired-host").unwrap();
    let platform = with_secrets(platform("expired", Listener::MutualTls))
        .env("KAFKA_KEY_PASSWORD", "")
        .with_snippet("kafka-mtls");
    fs::copy(&expired.certificate, secrets(&platform).join("client.pem")).unwrap();
    fs::copy(&expired.key, secrets(&platform).join("client.key")).unwrap();
    let (code, said) = asked(&platform, Listener::MutualTls);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("kafka.tls.certificate: the client certificate"), "{said}");
    assert!(said.contains("expired on 20"), "{said}");

    // What another authority signed is refused by the broker.
    let other = platform.directory().join("other-authority");
    let foreign = Authority::create(&other).unwrap().client("foreign").unwrap();
    fs::copy(&foreign.certificate, secrets(&platform).join("client.pem")).unwrap();
    fs::copy(&foreign.key, secrets(&platform).join("client.key")).unwrap();
    assert_told(&platform, Listener::MutualTls, 2, &["refuses the connection: the client certificate"]);
}

#[test]
fn an_address_without_a_broker_is_exit_code_3() {
    let platform = platform("nobody", Listener::Plain).set(&["kafka", "brokers"], "127.0.0.1:1");
    assert_told(
        &platform,
        Listener::Plain,
        3,
        &[
            "the broker at 127.0.0.1:1 cannot be reached: Connection refused",
            "check that the broker is running",
        ],
    );
}

/// The host says why it waits, and reads as soon as it may.
#[test]
fn a_host_goes_on_by_itself_when_its_login_is_mended() {
    let kafka = SecuredKafka::shared();
    kafka.scram_user("late", "not yet").unwrap();
    let platform =
        with_login(with_tls(platform("late", Listener::SaslTls)), "SCRAM-SHA-512", "late", "hunter2");
    grant(&platform, "late");
    let records: Vec<_> = platform.workload(crate::harness::seed(911), 100).records().collect();
    platform.publish(&records);
    let host = platform.start_host("late");
    let line = host.log().wait_for("that the login is refused", |line| {
        line.message().starts_with("retrying")
            && line.field("kind") == "login"
            && line.field("error").contains("refuses user late (SCRAM-SHA-512)")
    });
    assert!(line.field("advice").contains("[kafka]"), "{}", line.text);
    kafka.scram_user("late", "hunter2").unwrap();
    platform.assert_orders_are_right();
    host.sigterm();
}

/// Nothing here is asked of a broker: the configuration itself is wrong.
#[test]
fn what_librdkafka_cannot_take_is_an_error_of_the_configuration_with_its_line() {
    let kafka = SecuredKafka::shared();
    let certificate = kafka.authority().client("wrong-key-password").unwrap();
    let of = |key: &[&str], value: &str| platform("configuration", Listener::Tls).set(key, value);
    for (platform, fragments) in [
        (
            of(&["kafka", "properties", "fetch.wait.max"], "100"),
            vec!["librdkafka has no property fetch.wait.max", "did you mean `fetch.wait.max.ms`?"],
        ),
        (
            of(&["kafka", "properties", "socket.timeout.ms"], "soon"),
            vec!["Invalid value", "socket.timeout.ms"],
        ),
        (of(&["kafka", "properties", "linger.ms"], "5"), vec!["linger.ms is a property of producers"]),
        (
            of(&["kafka", "tls", "ca"], "/nowhere/ca.pem"),
            vec!["kafka.tls.ca: the file /nowhere/ca.pem cannot be read"],
        ),
        (
            with_tls(of(&["kafka", "tls", "certificate"], certificate.certificate.to_str().unwrap()))
                .set(&["kafka", "tls", "key"], certificate.encrypted_key.display().to_string())
                .set(&["kafka", "tls", "key-password"], "hunter2"),
            vec!["kafka.tls.key: the key", "cannot be read with this key"],
        ),
        (
            with_tls(of(&["kafka", "sasl", "mechanism"], "GSSAPI"))
                .set(&["kafka", "sasl", "password"], "hunter2"),
            vec!["Kerberos"],
        ),
    ] {
        let (code, said) = asked(&platform, Listener::Tls);
        assert_eq!(code, 2, "{said}");
        for fragment in fragments {
            assert!(said.contains(fragment), "{fragment:?} is not in {said:?}");
        }
        assert!(said.contains("projector.toml:"), "no line is named: {said}");
        assert!(!said.contains("hunter2"), "the secret is shown: {said}");
        let (code, _, said) = platform.command(&["run"]);
        assert_eq!(code, 2, "{said}");
    }
}
