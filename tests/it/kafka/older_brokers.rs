//! Brokers of before do the main job, and a topic that is created anew is noticed on them.

use projector_test_servers::Kafka;
use projector_workload::topics;
use serde_json::Value;

use crate::harness::{ORDER_SEARCH, Platform, ReadModel, eventually, seed};

const EVENTS: usize = 300;

fn does_the_main_job(version: &str) {
    let kafka = Kafka::start_release(version).unwrap();
    let name = format!("older-{}", version.replace('.', "-"));
    let platform = Platform::on(&kafka.bootstrap(), &name, &[ORDER_SEARCH], ReadModel::sqlite());
    platform.create_topics(2);
    let records: Vec<_> = platform.workload(seed(921), EVENTS).records().collect();
    platform.publish(&records);
    let host = platform.start_host("on-an-older-broker");
    platform.assert_orders_are_right();

    let topic = platform.topic(projector_workload::CUSTOMER_COUNTRY_CHANGED);
    topics::delete(platform.brokers(), &[&topic]).unwrap();
    eventually("the topic can be created anew", || {
        topics::create(platform.brokers(), &[topics::Topic::new(topic.clone(), 2)])
    });
    // As many records as before: offsets alone would not tell.
    platform.publish(&records);
    eventually("its partitions are paused", || {
        let status = platform.ask(&["status"]);
        let partitions = status["projections"][0]["partitions"].as_array().cloned().unwrap_or_default();
        let is_paused = |partition: &&Value| partition["topic"] == *topic && !partition["paused"].is_null();
        if partitions.iter().filter(is_paused).count() == 2 { Ok(()) } else { Err(format!("{partitions:?}")) }
    });
    host.sigterm();
}

#[test]
fn kafka_3_9_does_the_main_job() {
    does_the_main_job("3.9.1");
}

#[test]
fn kafka_2_8_with_zookeeper_does_the_main_job() {
    does_the_main_job("2.8.2");
}
