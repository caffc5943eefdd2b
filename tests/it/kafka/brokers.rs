//! Brokers go away and come back.

use projector_test_servers::Kafka;
use projector_workload::{Publisher, Record};
use serde_json::json;

use crate::harness::{
    Host, ORDER_SEARCH, Platform, Plugins, QuietProxy, ReadModel, SALES_BY_COUNTRY, Session, Silence,
    assert_closed, eventually, put_out, seed,
};

/// Fault 1: the broker is killed while a host reads, and comes back later.
#[test]
fn a_host_reads_on_when_a_killed_broker_is_back() {
    let mut kafka = Kafka::start().unwrap();
    let plugins = [ORDER_SEARCH, SALES_BY_COUNTRY];
    // Small buffers: what was fetched before the kill must not be everything.
    let platform = Platform::on(&kafka.bootstrap(), "broker-killed", &plugins, ReadModel::postgres())
        .set(&["batch", "events"], 50)
        .set(&["kafka", "properties", "session.timeout.ms"], "2000")
        .set(&["kafka", "properties", "queued.max.messages.kbytes"], "64")
        .set(&["kafka", "properties", "fetch.message.max.bytes"], "16384");
    platform.create_topics(3);
    let records: Vec<Record> = platform.workload(seed(301), 14_000).records().collect();
    let (before, after) = records.split_at(12_000);
    platform.publish(before);

    let host = platform.start_host("patient");
    let groups = plugins.map(|projection| host.group(projection));
    let read = |projection| platform.read_model().checkpoints(projection).values().sum::<i64>();
    eventually("both projections read", || {
        if plugins.map(read).into_iter().all(|read| read > 500) { Ok(()) } else { Err(plugins.map(read)) }
    });
    kafka.kill();
    let log = host.log();
    for group in &groups {
        log.wait_for(&format!("that {group} misses its broker"), |line| {
            line.message().starts_with("Kafka error; retrying") && line.field("group") == group
        });
    }
    assert!(read(ORDER_SEARCH) < before.len() as i64, "all was read before the broker was killed");
    platform.status().expect_err("without brokers nobody knows how fresh a read model is");

    kafka.restart().unwrap();
    platform.publish(after);
    for group in &groups {
        platform.until_shared_by(group, 1);
    }
    let expected = platform.assert_orders_are_right();
    assert_eq!(expected.order_search_books.read.values().sum::<u64>(), records.len() as u64);
    platform.assert_sales_are_right();
    let log = host.sigterm();
    for projection in plugins {
        // One run: it stopped in order, and never had to start again.
        assert_eq!(log.tally(projection).retries, 0, "{projection}: the database was there");
        let restarts = log.lines().iter().filter(|line| line.message() == "projection starts again").count();
        assert_eq!(restarts, 0);
    }
}

/// As the proxy and the group's coordinator know a host.
fn start_as(client: &str, platform: Platform) -> (Platform, Host) {
    let platform = platform.set(&["kafka", "properties", "client.id"], client);
    let host = platform.start_host(client);
    (platform, host)
}

/// Fault 2: connections stay open, and nothing comes through any more. What has gathered meanwhile
/// is far more than the host may hold.
#[test]
fn a_host_whose_broker_falls_silent_reads_on_within_its_memory() {
    const PARTITIONS: i32 = 8;
    const EVENTS: usize = 200;
    const BYTES: usize = 900_000;
    const MORE_MEMORY: u64 = 100 << 20;
    let proxy = QuietProxy::shared();
    let plugins = Plugins::new(&["hostile-guest"]);
    let platform = Platform::on(proxy.bootstrap(), "silent", &[], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["kafka", "properties", "socket.timeout.ms"], "2000");
    platform.create_topics(PARTITIONS);
    let topic = platform.topic("hostile.events.v1");
    let write = |id: usize, ballast: String| {
        let payload = json!({"do": "write", "id": id.to_string(), "ballast": ballast}).to_string();
        Record { partition: Some(id as i32 % PARTITIONS), ..Record::new(&*topic, "k", payload) }
    };
    platform.publish(&[write(EVENTS, String::new())]);
    let (platform, host) = start_as("silenced", platform);
    platform.until_through("hostile");

    // Else the host is through with what it fetches before it could gather.
    let ReadModel::Postgres { url } = platform.read_model() else { unreachable!("it is on Postgres") };
    let mut slow = Session::open(url).unwrap();
    slow.run(
        "create function dawdle() returns trigger language plpgsql as
           $$ begin perform pg_sleep(0.08); return null; end $$",
    );
    slow.run(
        "create trigger dawdle after insert or update on hostile_g1.survivor
           for each statement execute function public.dawdle()",
    );
    proxy.silence("silenced", Silence::Everything);
    let heavy: Vec<Record> = (0..EVENTS).map(|id| write(id, "x".repeat(BYTES))).collect();
    Publisher::new(platform.brokers()).property("compression.codec", "none").publish(&heavy).unwrap();
    host.log().wait_for("that the broker does not answer", |line| line.text.contains("timed out"));
    assert!(proxy.swallowed() > 0, "nothing was kept from the host");
    let read = || platform.read_model().checkpoints("hostile").values().sum::<i64>();
    assert_eq!(read(), 1, "something came through");
    let before = host.peak_memory();

    proxy.heal("silenced");
    eventually("all is read", || if read() == 1 + EVENTS as i64 { Ok(()) } else { Err(read()) });
    assert_closed(&platform.until_through("hostile"), 1 + EVENTS, 0, 0);
    let more = host.peak_memory() - before;
    println!("{} MiB were read, with {} MiB more", (EVENTS * BYTES) >> 20, more >> 20);
    assert!(more < MORE_MEMORY, "{} MiB more than before", more >> 20);
    host.sigterm();
}

/// Fault 5: the group has put a host out, and it does not hear of that. It fetches on beside its heir.
#[test]
fn a_host_that_cannot_hear_its_coordinator_is_fenced() {
    let proxy = QuietProxy::shared();
    let platform = Platform::on(proxy.bootstrap(), "estranged", &[SALES_BY_COUNTRY], ReadModel::postgres())
        // For so long it believes that its partitions are its own.
        .set(&["kafka", "properties", "session.timeout.ms"], "30000")
        .set(&["kafka", "properties", "socket.timeout.ms"], "3000");
    platform.create_topics(2);
    let records: Vec<Record> = platform.workload(seed(303), 20_000).records().collect();
    let mut records = records.chunks(100);
    let mut publish =
        |platform: &Platform| platform.publish(records.next().expect("the history is long enough"));
    publish(&platform);
    let (platform, estranged) = start_as("estranged", platform);
    let group = estranged.group(SALES_BY_COUNTRY);
    let member = platform.until_shared_by(&group, 1).into_keys().next().expect("it has one member");
    platform.until_fresh();

    proxy.silence("estranged", Silence::Coordinator);
    publish(&platform);
    platform.until_fresh();
    put_out(platform.brokers(), &group, &member);
    let (platform, heir) = start_as("heir", platform);
    let holdings = platform.until_shared_by(&group, 1);
    assert!(
        holdings.values().all(|(client, partitions)| client == "heir" && partitions.len() == 2),
        "{holdings:?}"
    );
    eventually("two hosts read the same partitions, and one is fenced", || {
        publish(&platform);
        platform.until_fresh();
        let is_fenced = |host: &Host| {
            host.log()
                .lines()
                .iter()
                .any(|line| line.message().starts_with("another host has moved the checkpoint"))
        };
        if is_fenced(&estranged) { Ok(()) } else { Err("not yet") }
    });
    platform.assert_sales_are_right();

    proxy.heal("estranged");
    platform.until_shared_by(&group, 2);
    publish(&platform);
    platform.assert_sales_are_right();
    for host in [estranged, heir] {
        assert!(host.sigterm().tally(SALES_BY_COUNTRY).events > 0);
    }
}
