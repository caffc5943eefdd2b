//! Databases and brokers that fall silent: connections stay open, and nothing comes through any more.

use projector_test_servers::Postgres;
use projector_workload::Record;

use crate::harness::{
    Line, Platform, QuietProxy, ReadModel, SALES_BY_COUNTRY, Silence, SilentProxy, eventually, seed,
    until_nothing_is_retried, until_told, with_admin,
};

fn history(platform: &Platform, seed: u64, events: usize) -> Vec<Record> {
    platform.workload(seed, events).records().collect()
}

fn read(platform: &Platform) -> i64 {
    platform.read_model().checkpoints(SALES_BY_COUNTRY).values().sum()
}

/// Fault 44: a failover behind one address. The host's connections are dead, a new one works.
#[test]
fn connections_that_fell_silent_are_made_anew() {
    let postgres = Postgres::start().unwrap();
    let proxy = SilentProxy::to(postgres.port());
    let read_model = ReadModel::on(&postgres);
    let ReadModel::Postgres { url } = &read_model else { unreachable!("it is on Postgres") };
    let url = proxy.url(url);
    let platform = Platform::new("failover", &[SALES_BY_COUNTRY], read_model)
        .set(&["batch", "events"], 20)
        .set(&["store", "idle-in-transaction-timeout"], "5s")
        .set(&["store", "url"], url);
    platform.create_topics(2);
    platform.publish(&history(&platform, seed(441), 10_000));
    let host = platform.start_host("patient");
    host.group(SALES_BY_COUNTRY);
    eventually("it reads", || if read(&platform) > 200 { Ok(()) } else { Err(read(&platform)) });
    proxy.silence_old();
    let stuck_at = read(&platform);
    assert!(stuck_at < 10_000, "all was read before");
    host.log().until_said("a connection to the database has fallen silent");
    assert!(proxy.swallowed() > 0, "nothing was kept from the host");
    platform.assert_sales_are_right();

    // Idle, it notices as well: what operators want is heard again.
    proxy.silence_old();
    platform.ask(&["pause", SALES_BY_COUNTRY, "--reason", "to see that it is heard"]);
    host.log().until_said("projection paused");
    platform.ask(&["resume", SALES_BY_COUNTRY]);
    let log = host.sigterm();
    let gave_up =
        |line: &Line| line.message().starts_with("this host leaves the projection's consumer group");
    assert!(!log.lines().iter().any(gave_up), "new connections worked");
}

/// Fault 44: one host's way to the database is silent, another one's is not.
#[test]
fn a_host_whose_database_is_silent_says_so_and_leaves_its_partitions_to_others() {
    let postgres = Postgres::start().unwrap();
    let proxy = SilentProxy::to(postgres.port());
    let read_model = ReadModel::on(&postgres);
    let ReadModel::Postgres { url } = &read_model else { unreachable!("it is on Postgres") };
    let (direct, by_proxy) = (url.clone(), proxy.url(url));
    let platform = with_admin(Platform::new("silent-store", &[SALES_BY_COUNTRY], read_model))
        .set(&["batch", "events"], 50)
        .set(&["store", "url"], by_proxy)
        .set(&["kafka", "properties", "client.id"], "deaf");
    platform.create_topics(4);
    let records = history(&platform, seed(442), 2_000);
    let (before, after) = records.split_at(1_000);
    platform.publish(before);
    let deaf = platform.start_host("deaf");
    let group = deaf.group(SALES_BY_COUNTRY);
    platform.until_fresh();
    let platform = platform.set(&["store", "url"], direct).set(&["kafka", "properties", "client.id"], "well");
    let well = platform.start_host("well");
    platform.until_shared_by(&group, 2);

    proxy.silence_all();
    platform.publish(after);
    let told = until_told(&deaf, "database", "the database does not answer");
    assert!(told["store"].is_string() && told["projection"] == "", "{told}");
    let line = deaf.log().until_said("this host leaves the projection's consumer group");
    assert!(line.field("reason").contains("the database does not answer"), "{}", line.text);
    let holdings = platform.until_shared_by(&group, 1);
    assert!(holdings.values().all(|(client, _)| client == "well"), "{holdings:?}");
    platform.assert_sales_are_right();

    proxy.heal();
    platform.until_shared_by(&group, 2);
    until_nothing_is_retried(&deaf);
    platform.publish(&history(&platform, seed(443), 500));
    platform.assert_sales_are_right();
    deaf.sigterm();
    well.sigterm();
}

/// The client's own connections stay silent for minutes, while new ones would work: it is made anew, and so is
/// the consumer.
#[test]
fn a_client_that_goes_on_failing_is_made_anew() {
    let proxy = QuietProxy::shared();
    let platform = with_admin(Platform::on(
        proxy.bootstrap(),
        "stuck-client",
        &[SALES_BY_COUNTRY],
        ReadModel::postgres(),
    ))
    .set(&["batch", "events"], 20)
    .set(&["kafka", "properties", "queued.max.messages.kbytes"], "64")
    .set(&["kafka", "properties", "fetch.message.max.bytes"], "16384")
    .set(&["kafka", "properties", "socket.timeout.ms"], "300000")
    .set(&["kafka", "properties", "client.id"], "stuck");
    platform.create_topics(2);
    let records = history(&platform, seed(444), 8_000);
    platform.publish(&records);
    let host = platform.start_host("stuck");
    host.group(SALES_BY_COUNTRY);
    eventually("it reads", || if read(&platform) > 200 { Ok(()) } else { Err(read(&platform)) });
    proxy.silence("stuck", Silence::Everything);
    until_told(&host, "brokers", "");
    assert!(proxy.swallowed() > 0, "nothing was kept from the host");
    assert!(read(&platform) < records.len() as i64, "all was read before");

    proxy.heal("stuck");
    host.log().until_said("this host leaves the projection's consumer group");
    host.log().until_said("the brokers have not answered for");
    platform.assert_sales_are_right();
    host.sigterm();
}
