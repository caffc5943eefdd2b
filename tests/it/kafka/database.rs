//! The database goes away, refuses, and comes back. Offsets stay where they are meanwhile.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use projector_test_servers::Postgres;
use projector_workload::{ORDER_CONFIRMED, Record};
use tempfile::TempDir;

use crate::harness::{
    Host, HostLog, Line, LossyProxy, ORDER_SEARCH, Platform, Plugins, ReadModel, SALES_BY_COUNTRY, Session,
    assert_same, check_books, eventually, fold, request, seed,
};

fn history(platform: &Platform, seed: u64, events: usize) -> Vec<Record> {
    platform.workload(seed, events).records().collect()
}

/// The sum of the offsets that are committed.
fn read(read_model: &ReadModel, projection: &str) -> i64 {
    read_model.checkpoints(projection).values().sum()
}

/// Waits until a projection's transactions fail.
#[track_caller]
fn until_retrying(host: &Host, projection: &str) {
    host.log().wait_for(&format!("that {projection} retries"), |line| {
        line.message().starts_with("retrying") && line.field("projection") == projection
    });
}

/// Fault 17: everything is written, and the server is killed before it commits.
#[test]
fn a_transaction_that_died_with_postgres_is_done_again() {
    let mut postgres = Postgres::start().unwrap();
    let platform = Platform::new("killed-in-commit", &[SALES_BY_COUNTRY], ReadModel::on(&postgres))
        .set(&["batch", "events"], 100);
    platform.create_topics(2);
    platform.publish(&history(&platform, seed(311), 3_000));
    let host = platform.start_host_with("bereft", "before-commit=stop@5");
    host.until_stopped_at("before-commit");
    let stuck_at = platform.read_model().checkpoints(SALES_BY_COUNTRY);
    assert!(stuck_at.values().sum::<i64>() > 0, "nothing was committed before the kill");

    postgres.kill();
    postgres.restart().unwrap();
    assert_eq!(platform.read_model().checkpoints(SALES_BY_COUNTRY), stuck_at, "the transaction did not die");
    postgres.kill();
    host.cont();
    until_retrying(&host, SALES_BY_COUNTRY);
    postgres.restart().unwrap();
    platform.assert_sales_are_right();
    let tally = host.sigterm().tally(SALES_BY_COUNTRY);
    assert!(tally.retries > 0 && tally.fenced == 0, "{tally:?}");
}

/// Fault 17: the commit is durable, then the server is killed and its host has yet to go on.
#[test]
fn a_transaction_that_outlived_postgres_is_not_done_again() {
    let mut postgres = Postgres::start().unwrap();
    let platform = Platform::new("killed-after-commit", &[SALES_BY_COUNTRY], ReadModel::on(&postgres))
        .set(&["batch", "events"], 100);
    platform.create_topics(2);
    platform.publish(&history(&platform, seed(312), 3_000));
    let host = platform.start_host_with("bereft", "after-commit=stop@5");
    host.until_stopped_at("after-commit");
    let committed = platform.read_model().checkpoints(SALES_BY_COUNTRY);

    postgres.kill();
    postgres.restart().unwrap();
    assert_eq!(platform.read_model().checkpoints(SALES_BY_COUNTRY), committed, "a commit was lost");
    host.cont();
    // The first session that finds its connection broken clears all idle ones: the lane may meet none of them.
    platform.assert_sales_are_right();
    let tally = host.sigterm().tally(SALES_BY_COUNTRY);
    assert_eq!(tally.fenced, 0, "{tally:?}");
}

/// Fault 17: the commit is durable, and the host never hears of it. The checkpoint tells.
#[test]
fn a_commit_whose_answer_was_lost_is_recognised() {
    let server = Postgres::start().unwrap();
    let proxy = LossyProxy::to(server.port());
    let read_model = ReadModel::on(&server);
    let ReadModel::Postgres { url } = &read_model else { unreachable!("it is on Postgres") };
    let url = proxy.url(url);
    let platform = Platform::new("lost-answer", &[SALES_BY_COUNTRY], read_model)
        .set(&["batch", "events"], 100)
        .set(&["store", "url"], url);
    platform.create_topics(2);
    let records = history(&platform, seed(313), 3_000);
    let (before, after) = records.split_at(1_000);
    platform.publish(before);
    let host = platform.start_host("uncertain");
    // From then on only batches are committed.
    platform.until_fresh();
    proxy.lose_the_answer_to_the_next_commit();
    platform.publish(after);
    until_retrying(&host, SALES_BY_COUNTRY);
    assert!(proxy.has_lost_an_answer(), "something else went wrong");
    platform.assert_sales_are_right();
    let tally = host.sigterm().tally(SALES_BY_COUNTRY);
    assert_eq!((tally.retries, tally.fenced), (1, 0), "it was not recognised as its own: {tally:?}");
}

/// `order-search` writes to a Postgres that a test gives trouble, `sales-by-country` to a SQLite
/// file of its own.
struct Apart {
    platform: Platform,
    sales: ReadModel,
    _directory: TempDir,
}

impl Apart {
    fn new(name: &str, postgres: &Postgres) -> Apart {
        let directory = TempDir::with_prefix(format!("projector-{name}-aside-")).unwrap();
        let file = directory.path().join("sales.db");
        let platform = Platform::new(name, &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::on(postgres))
            .set(&["stores", "aside", "url"], format!("sqlite://{}", file.display()))
            .set(&["projections", SALES_BY_COUNTRY, "store"], "aside")
            .set(&["batch", "events"], 50);
        platform.create_topics(2);
        Apart { platform, sales: ReadModel::Sqlite { file: OnceLock::from(file) }, _directory: directory }
    }

    /// Publishes while the Postgres is in trouble, and waits until one projection is through with
    /// that, and the other one tries in vain.
    fn publish_in_trouble(&self, host: &Host, records: &[Record]) {
        self.platform.publish(records);
        until_retrying(host, ORDER_SEARCH);
        let topic = self.platform.topic(ORDER_CONFIRMED);
        let orders = records.iter().filter(|record| record.topic == topic).count() as i64;
        let before = fold(&self.platform).sales_books.read.values().sum::<u64>() as i64 - orders;
        eventually("the projection with a store of its own goes on", || {
            match read(&self.sales, SALES_BY_COUNTRY) {
                read if read == before + orders => Ok(()),
                read => Err(read),
            }
        });
    }

    /// Rows and counters of both, and that no event was given up.
    fn assert_right(&self, host: Host) -> Arc<HostLog> {
        self.platform.assert_orders_are_right();
        let status = self.platform.until_fresh();
        let expected = fold(&self.platform);
        assert_same("sales_by_country", &expected.sales, &self.sales.sales());
        check_books(&status[SALES_BY_COUNTRY], &expected.sales_books)
            .unwrap_or_else(|wrong| panic!("{wrong}"));
        let log = host.sigterm();
        let (troubled, apart) = (log.tally(ORDER_SEARCH), log.tally(SALES_BY_COUNTRY));
        assert!(troubled.retries > 0 && troubled.fenced == 0, "{troubled:?}");
        assert_eq!((apart.retries, apart.fenced), (0, 0), "{apart:?}");
        log
    }

    /// The same, after a trouble that nothing came through.
    fn assert_right_after_one_trouble(&self, host: Host) {
        let log = self.assert_right(host);
        let ends =
            |line: &&Line| line.message() == "available again" && line.field("projection") == ORDER_SEARCH;
        let ends = log.lines().iter().filter(ends).count();
        assert_eq!(ends, 1, "the trouble ended once");
    }
}

/// Fault 18.
#[test]
fn a_read_only_postgres_is_waited_for() {
    let postgres = Postgres::start().unwrap();
    let apart = Apart::new("read-only", &postgres);
    let records = history(&apart.platform, seed(321), 1_500);
    let (before, after) = records.split_at(700);
    apart.platform.publish(before);
    let host = apart.platform.start_host("patient");
    apart.platform.until_fresh();
    let stuck_at = apart.platform.read_model().checkpoints(ORDER_SEARCH);

    postgres.set("default_transaction_read_only", "on").unwrap();
    apart.publish_in_trouble(&host, after);
    let refused = |line: &crate::harness::Line| line.field("error").contains("read-only transaction");
    host.log().wait_for("that the database is read-only", refused);
    let status = apart.platform.status().expect("a read-only database can be looked at");
    assert!(!status[ORDER_SEARCH].fresh && status[ORDER_SEARCH].halted.is_none());
    assert_eq!(status[ORDER_SEARCH].dead_letters, 0);
    assert_eq!(apart.platform.read_model().checkpoints(ORDER_SEARCH), stuck_at, "the offsets moved");
    postgres.set("default_transaction_read_only", "off").unwrap();
    apart.assert_right_after_one_trouble(host);
}

/// Fault 18.
#[test]
fn a_restarted_postgres_is_waited_for() {
    let mut postgres = Postgres::start().unwrap();
    let apart = Apart::new("restarted", &postgres);
    let records = history(&apart.platform, seed(322), 1_500);
    let (before, after) = records.split_at(700);
    apart.platform.publish(before);
    let host = apart.platform.start_host("patient");
    apart.platform.until_fresh();
    let stuck_at = apart.platform.read_model().checkpoints(ORDER_SEARCH);

    postgres.stop_fast().unwrap();
    apart.publish_in_trouble(&host, after);
    apart.platform.status().expect_err("it is there");
    postgres.restart().unwrap();
    let moved = apart.platform.read_model().checkpoints(ORDER_SEARCH);
    assert!(
        stuck_at.iter().all(|(partition, offset)| moved[partition] >= *offset),
        "{stuck_at:?} → {moved:?}"
    );
    apart.assert_right_after_one_trouble(host);
}

/// Fault 18.
#[test]
fn a_postgres_without_a_free_connection_is_waited_for() {
    let mut postgres = Postgres::start().unwrap();
    let apart = Apart::new("crowded", &postgres);
    let records = history(&apart.platform, seed(323), 1_500);
    let (before, after) = records.split_at(700);
    apart.platform.publish(before);
    let host = apart.platform.start_host("patient");
    apart.platform.until_fresh();
    let stuck_at = read(apart.platform.read_model(), ORDER_SEARCH);

    // With nothing to write, the host does not come back by itself.
    postgres.restart_with(&[("max_connections", "8")]).unwrap();
    let ReadModel::Postgres { url } = apart.platform.read_model() else { unreachable!("it is on Postgres") };
    let mut crowd = Vec::new();
    let full = loop {
        match Session::open(url) {
            Ok(session) => crowd.push(session),
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("too many clients"), "{full}");
    apart.publish_in_trouble(&host, after);
    let observer = &mut crowd[0];
    let hosts = "select count(*)::text from pg_stat_activity where application_name = 'projector'";
    assert_eq!(observer.run(hosts), ["0"], "the host has a connection");
    let offsets = "select sum(next_offset)::text from projector.checkpoint";
    assert_eq!(observer.run(offsets), [stuck_at.to_string()], "the offsets moved");
    drop(crowd);
    apart.assert_right_after_one_trouble(host);
}

/// Fault 21: no table can grow any more. What that hits is nobody's event.
#[test]
fn a_full_disk_is_waited_for() {
    // The ballast's place is not to be used again when it is thrown off.
    let postgres = Postgres::start_with(&[("autovacuum", "off")]).unwrap();
    let apart = Apart::new("disk-full", &postgres);
    let records = history(&apart.platform, seed(324), 1_500);
    let (before, after) = records.split_at(700);
    apart.platform.publish(before);
    let host = apart.platform.start_host("patient");
    apart.platform.until_fresh();
    let stuck_at = apart.platform.read_model().checkpoints(ORDER_SEARCH);

    let ReadModel::Postgres { url } = apart.platform.read_model() else { unreachable!("it is on Postgres") };
    let mut hand = Session::open(url).unwrap();
    let table = "order_search_g1.order_search";
    hand.run(&format!("alter table {table} alter customer_name set storage plain"));
    // A page each, so that the table's file is larger than the files of the server's log.
    hand.run(&format!(
        "insert into {table} select 'ballast-' || n, '', '', null, repeat('x', 8000), '', 0, '[]', now()
         from generate_series(1, 2100) as n"
    ));
    let size: u64 = hand.run(&format!("select pg_relation_size('{table}')::text"))[0].parse().unwrap();
    assert!(size > 16 << 20, "{size}");
    postgres.limit_files(Some(size + 4096)).unwrap();
    apart.publish_in_trouble(&host, after);
    host.log()
        .wait_for("that the disk is full", |line| line.field("error").contains("could not extend file"));
    let status = apart.platform.status().expect("a full disk can be looked at");
    assert!(!status[ORDER_SEARCH].fresh && status[ORDER_SEARCH].halted.is_none());
    assert_eq!(status[ORDER_SEARCH].dead_letters, 0);
    let moved = apart.platform.read_model().checkpoints(ORDER_SEARCH);
    assert!(moved.values().sum::<i64>() < stuck_at.values().sum::<i64>() + after.len() as i64);
    postgres.limit_files(None).unwrap();
    hand.run(&format!("delete from {table} where order_id like 'ballast-%'"));
    apart.assert_right(host);
}

/// Five projections, and nobody where their database was but a door that opens and leads nowhere.
#[test]
fn a_database_that_is_down_is_asked_by_one_at_a_time() {
    let mut postgres = Postgres::start().unwrap();
    let names = [ORDER_SEARCH, SALES_BY_COUNTRY, "ancestors-guest", "gates-guest", "hostile-guest"];
    let plugins = Plugins::new(&names);
    let platform = Platform::new("storm", &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::on(&postgres))
        .set(&["plugins", "directory"], plugins.path())
        .set(&["admin", "listen"], "127.0.0.1:0")
        .set(&["admin", "tokens", "ann", "token"], "ann's");
    platform.create_topics(2);
    let records = history(&platform, seed(332), 600);
    let (before, after) = records.split_at(300);
    platform.publish(before);
    let host = platform.start_host("patient");
    platform.until_fresh();

    postgres.stop_fast().unwrap();
    let door = Door::open(postgres.port());
    platform.publish(after);
    for projection in [ORDER_SEARCH, SALES_BY_COUNTRY] {
        until_retrying(&host, projection);
    }
    // Whoever asked before anybody knew has been answered by then.
    eventually("it is asked for", || match door.counted().1 {
        asked if asked < 6 => Err(asked),
        _ => Ok(()),
    });
    door.count_anew();
    eventually("it is asked for again and again", || match door.counted() {
        (_, asked) if asked < 10 => Err(asked),
        (at_once, _) => {
            assert_eq!(at_once, 1, "asked at once");
            Ok(())
        }
    });
    // Only the host itself can tell, and it does.
    let address =
        host.log().wait_for("where it listens", |line| line.message() == "the admin API is listening");
    let (_, retrying) = request(address.field("address"), Some("ann's"), "GET /v1/retrying", "");
    let of = |name: &str| retrying.as_array().unwrap().iter().find(|one| one["projection"] == name).cloned();
    let told = of(ORDER_SEARCH).expect("it is told");
    assert!(told["kind"] == "database" && told["attempts"].as_u64() > Some(0), "{told}");
    assert!(
        told["since"].as_str().is_some_and(|since| since.ends_with('Z')) && told["advice"].as_str().is_some(),
        "{told}"
    );
    door.close();
    postgres.restart().unwrap();
    platform.assert_orders_are_right();
    platform.assert_sales_are_right();
    let (_, retrying) = request(address.field("address"), Some("ann's"), "GET /v1/retrying", "");
    // Topics that do not exist are another matter.
    let of_database = |one: &&serde_json::Value| one["kind"] != "no-topic";
    let left: Vec<_> = retrying.as_array().into_iter().flatten().filter(of_database).collect();
    assert!(left.is_empty(), "{left:?}");
    host.sigterm();
}

/// Accepts connections, and lets each wait a while before it closes it.
struct Door {
    port: u16,
    closed: Arc<AtomicBool>,
    /// Open now, most at once, and all.
    counts: Arc<Mutex<[usize; 3]>>,
    thread: JoinHandle<()>,
}

impl Door {
    fn open(port: u16) -> Door {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (closed, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new([0; 3])));
        let thread = thread::spawn({
            let (closed, counts) = (closed.clone(), counts.clone());
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if closed.load(Ordering::Relaxed) {
                        return;
                    }
                    let counts = counts.clone();
                    {
                        let [now, most, all] = &mut *counts.lock().unwrap();
                        (*now, *all) = (*now + 1, *all + 1);
                        *most = (*most).max(*now);
                    }
                    thread::spawn(move || {
                        thread::sleep(Duration::from_millis(100));
                        drop(client);
                        counts.lock().unwrap()[0] -= 1;
                    });
                }
            }
        });
        Door { port, closed, counts, thread }
    }

    fn count_anew(&self) {
        let [now, most, all] = &mut *self.counts.lock().unwrap();
        (*most, *all) = (*now, 0);
    }

    fn counted(&self) -> (usize, usize) {
        let [_, most, all] = *self.counts.lock().unwrap();
        (most, all)
    }

    fn close(self) {
        self.closed.store(true, Ordering::Relaxed);
        // Whoever comes next is let in no more, and closes it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.thread.join().unwrap();
    }
}

/// Fault 38: a host is granted partitions, with checkpoints, while the database is down. Another
/// one starts then.
#[test]
fn partitions_granted_without_a_database_wait_for_their_checkpoints() {
    let mut postgres = Postgres::start().unwrap();
    let platform = Platform::new("granted-in-the-dark", &[SALES_BY_COUNTRY], ReadModel::on(&postgres))
        .set(&["batch", "events"], 50);
    platform.create_topics(4);
    let records = history(&platform, seed(331), 2_400);
    let (before, after) = records.split_at(1_500);
    platform.publish(before);
    let (heir, dying) = (platform.start_host("heir"), platform.start_host("dying"));
    let group = heir.group(SALES_BY_COUNTRY);
    platform.until_shared_by(&group, 2);
    platform.until_fresh();
    let stuck_at = platform.read_model().checkpoints(SALES_BY_COUNTRY);
    assert!(stuck_at.len() == 4 && stuck_at.values().all(|offset| *offset > 0), "{stuck_at:?}");

    postgres.stop_fast().unwrap();
    dying.kill();
    until_retrying(&heir, SALES_BY_COUNTRY);
    let late = platform.start_host("late");
    until_retrying(&late, SALES_BY_COUNTRY);
    platform.publish(after);
    postgres.restart().unwrap();
    platform.until_shared_by(&group, 2);
    platform.assert_sales_are_right();
    for host in [heir, late] {
        assert_eq!(host.sigterm().tally(SALES_BY_COUNTRY).fenced, 0, "two hosts read one partition");
    }
}
