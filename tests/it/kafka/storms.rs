//! Connections to the brokers and to the database break, again and again, for as long as a session of a consumer group
//! or longer, while a generation is built: the host lives, every projection reads on, and no event is lost or doubled.
//!
//! `cargo xtask soak --storms` has them for an hour. In the tests there is one.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use projector_test_servers::Postgres;
use projector_workload::Record;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::generations::counts;
use crate::harness::{CuttingProxy, Host, Platform, Plugins, ReadModel, seed};

const PROJECTIONS: usize = 8;
/// How long it may take after a storm: sessions of the group end, and pauses between tries have grown.
const CALM: Duration = Duration::from_secs(120);
const EVENTS: usize = 26;

#[test]
fn a_host_lives_through_storms_of_broken_connections() {
    let minutes = env::var("PROJECTOR_SOAK_MINUTES").ok();
    let length = minutes
        .map_or(Duration::ZERO, |minutes| Duration::from_secs_f64(minutes.parse::<f64>().unwrap() * 60.0));
    let mut random = StdRng::seed_from_u64(seed(21));
    let (brokers, _kafka) = CuttingProxy::before_kafka();
    let server = Postgres::start().unwrap();
    let database = CuttingProxy::to(server.port());
    let read_model = ReadModel::on(&server);
    let ReadModel::Postgres { url } = &read_model else { unreachable!("it is on Postgres") };
    let by_proxy = database.url(url);
    let plugins = (0..PROJECTIONS).fold(Plugins::new(&[]), |plugins, number| {
        let component = counts("1.0.0", |declared| declared["name"] = json!(name(number)));
        plugins.add(&format!("{}.wasm", name(number)), component)
    });
    let platform = Platform::on(&format!("127.0.0.1:{}", brokers.port()), "storms", &[], read_model)
        .set(&["plugins", "directory"], plugins.path())
        .set(&["store", "url"], by_proxy)
        .set(&["deploy", "promote"], "when-fresh")
        .with_own_program();
    platform.create_topics(2);
    let mut host = platform.start_host("storms");
    (0..PROJECTIONS).for_each(|number| drop(host.group(&name(number))));
    let began = Instant::now();
    let mut published = 0;
    for round in 1.. {
        let _ = platform.command(&["rebuild", &name(0)]);
        storm(&brokers, &database, &mut random);
        publish(&platform);
        published += EVENTS;
        until_all_is_counted(&platform, &mut host, published, round);
        let after = began.elapsed();
        println!(
            "round {round}: all is counted after {} s, {} sessions ended",
            after.as_secs(),
            ended(&host)
        );
        if after > length {
            break;
        }
    }
    host.sigterm();
}

fn name(number: usize) -> String {
    format!("counts{number}")
}

/// Either so many broken connections that nothing comes through, or some that do.
fn storm(brokers: &CuttingProxy, database: &CuttingProxy, random: &mut StdRng) {
    let pause = if random.random_bool(0.6) { 60 } else { 1_500 };
    let over = Instant::now() + Duration::from_secs(random.random_range(4..16));
    while Instant::now() < over {
        brokers.cut();
        database.cut();
        thread::sleep(Duration::from_millis(random.random_range(0..pause)));
    }
}

fn publish(platform: &Platform) {
    let topic = platform.topic("hostile.events.v1");
    let record = |at: usize| Record::new(&*topic, format!("k{at}"), "A".to_owned());
    platform.publish(&(0..EVENTS).map(record).collect::<Vec<_>>());
}

#[track_caller]
fn until_all_is_counted(platform: &Platform, host: &mut Host, published: usize, round: usize) {
    let deadline = Instant::now() + CALM;
    let is_behind = |number: &usize| {
        let sum = format!("select coalesce(sum(events), 0)::text from {}.seen", name(*number));
        let found = platform.read_model().query(&sum)[0][0].clone().unwrap_or_default();
        let found: usize = found.parse().unwrap();
        assert!(found <= published, "{found} of {published} events are counted by {}", name(*number));
        found < published
    };
    let mut behind: Vec<usize> = (0..PROJECTIONS).collect();
    loop {
        assert!(host.is_running(), "round {round}: the host died");
        behind.retain(is_behind);
        if behind.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            let (_, status, said) = platform.command(&["status", "--output", "json"]);
            panic!("round {round}: not counted within {CALM:?}: {behind:?}; {said}; {status:#}");
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// How often a consumer was put out of its group, as librdkafka says.
fn ended(host: &Host) -> usize {
    host.log().lines().iter().filter(|line| line.text.contains("group session timed out")).count()
}
