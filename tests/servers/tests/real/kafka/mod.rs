mod lifetime;
mod secured;

use std::net::TcpStream;

use projector_test_servers::Kafka;

fn accepts(kafka: &Kafka) -> bool {
    TcpStream::connect(kafka.bootstrap()).is_ok()
}

#[test]
fn comes_back_on_its_port_after_a_kill_and_after_a_stop() {
    let mut kafka = Kafka::start().unwrap();
    let bootstrap = kafka.bootstrap();
    let first = kafka.pid();
    kafka.kill();
    assert!(!accepts(&kafka), "a killed broker still listens");
    kafka.restart().unwrap();
    assert!(accepts(&kafka));
    assert_ne!(kafka.pid(), first);

    kafka.stop().unwrap();
    assert!(!accepts(&kafka), "a stopped broker still listens");
    kafka.restart().unwrap();
    assert!(accepts(&kafka));
    assert_eq!(kafka.bootstrap(), bootstrap);
}

#[test]
fn a_replaced_cluster_listens_at_the_same_address() {
    let mut kafka = Kafka::start().unwrap();
    let bootstrap = kafka.bootstrap();
    kafka.replace().unwrap();
    assert!(accepts(&kafka));
    assert_eq!(kafka.bootstrap(), bootstrap);
}

#[test]
fn a_setting_that_kafka_refuses_is_an_error_with_its_log() {
    let error = Kafka::start_with(&[("num.io.threads", "none")]).err().expect("it started");
    assert!(format!("{error:#}").contains("num.io.threads"), "{error:#}");
}
