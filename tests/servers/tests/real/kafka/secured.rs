//! Every listener lets its clients in, and nobody may do what was not granted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use projector_test_servers::{Listener, Resource, Right, SecuredKafka, token};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

const PATIENCE: Duration = Duration::from_secs(20);

/// A consumer with these properties, on a listener of the shared broker.
fn consumer(listener: Listener, properties: &[(&str, &str)]) -> BaseConsumer {
    let kafka = SecuredKafka::shared();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.bootstrap(listener))
        .set("ssl.ca.location", kafka.ca().to_str().unwrap());
    for (name, value) in properties {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// Waits until a topic has as many partitions as it should, in a user's eyes.
#[track_caller]
fn until_sees(consumer: &BaseConsumer, topic: &str, partitions: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        if metadata.topics()[0].partitions().len() == partitions {
            return;
        }
        assert!(Instant::now() < deadline, "{topic}: {:?}", metadata.topics()[0].error());
        std::thread::yield_now();
    }
}

/// Runs a future to its end on this thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn every_listener_takes_its_users_and_rights_are_granted_and_taken() {
    let kafka = SecuredKafka::shared();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap(Listener::Plain)).create().unwrap();
    let topic = NewTopic::new("secrets", 2, TopicReplication::Fixed(1));
    wait(admin.create_topics([&topic], &AdminOptions::new())).unwrap();

    until_sees(&consumer(Listener::Tls, &[("security.protocol", "ssl")]), "secrets", 2);

    let plain = kafka.plain_user();
    let scram = kafka.scram_user("scram-user", "scram secret").unwrap();
    let of = |user: &projector_test_servers::User, protocol: &'static str, mechanism: &'static str| {
        [
            ("security.protocol", protocol.to_owned()),
            ("sasl.mechanisms", mechanism.to_owned()),
            ("sasl.username", user.name.clone()),
            ("sasl.password", user.password.clone()),
        ]
    };
    for (listener, user, properties) in [
        (Listener::SaslTls, &plain, of(&plain, "sasl_ssl", "PLAIN")),
        (Listener::SaslPlain, &scram, of(&scram, "sasl_plaintext", "SCRAM-SHA-256")),
        (Listener::ScramOnly, &scram, of(&scram, "sasl_ssl", "SCRAM-SHA-512")),
    ] {
        let properties: Vec<(&str, &str)> =
            properties.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let consumer = consumer(listener, &properties);
        until_sees(&consumer, "secrets", 0);
        kafka.grant(&user.name, Right::Describe, Resource::TopicsFrom("sec")).unwrap();
        until_sees(&consumer, "secrets", 2);
        kafka.revoke(&user.name, Right::Describe, Resource::TopicsFrom("sec")).unwrap();
        until_sees(&consumer, "secrets", 0);
    }

    let certificate = kafka.authority().client("certified").unwrap();
    kafka.grant("certified", Right::Read, Resource::Topic("secrets")).unwrap();
    let properties = [
        ("security.protocol", "ssl"),
        ("ssl.certificate.location", certificate.certificate.to_str().unwrap()),
        ("ssl.key.location", certificate.encrypted_key.to_str().unwrap()),
        ("ssl.key.password", &*certificate.key_password),
    ];
    until_sees(&consumer(Listener::MutualTls, &properties), "secrets", 2);

    let bearer =
        consumer(Listener::SaslTls, &[("security.protocol", "sasl_ssl"), ("sasl.mechanisms", "OAUTHBEARER")]);
    let token = std::ffi::CString::new(token("bearer", PATIENCE).unwrap()).unwrap();
    kafka.grant("bearer", Right::Read, Resource::Topic("secrets")).unwrap();
    // SAFETY: every pointer outlives the call, which copies what it keeps.
    let error = unsafe {
        rdkafka::bindings::rd_kafka_oauthbearer_set_token(
            bearer.client().native_ptr(),
            token.as_ptr(),
            i64::MAX / 2_000,
            c"bearer".as_ptr(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
            0,
        )
    };
    assert_eq!(error, rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    until_sees(&bearer, "secrets", 2);
}
