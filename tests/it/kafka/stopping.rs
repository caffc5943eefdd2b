//! Hosts end: asked to, in the middle of a batch, or killed while another one is there.

use std::time::{Duration, Instant};

use projector_workload::Record;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::harness::{Host, ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, Session, eventually, seed};

const DEADLINE: Duration = Duration::from_secs(4);
/// What a process takes to end beside its transactions, on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

fn platform(name: &str, plugins: &[&'static str]) -> Platform {
    let platform = Platform::new(name, plugins, ReadModel::postgres())
        .set(&["batch", "events"], 40)
        .set(&["shutdown-deadline"], "4s");
    platform.create_topics(3);
    platform
}

fn history(platform: &Platform, seed: u64, events: usize) -> Vec<Record> {
    platform.workload(seed, events).records().collect()
}

fn read(platform: &Platform, projection: &str) -> i64 {
    platform.read_model().checkpoints(projection).values().sum()
}

/// Fault 36: again and again, at any moment of a busy host's life.
#[test]
fn a_host_that_is_asked_to_stop_does_so_in_time() {
    let platform = platform("sigterm", &[ORDER_SEARCH, SALES_BY_COUNTRY]);
    let seed = seed(341);
    let mut rng = StdRng::seed_from_u64(seed);
    let records = history(&platform, seed, 12_000);
    platform.publish(&records);
    let mut busy = 0;
    for visit in 1..=6 {
        let host = platform.start_host(&format!("visit {visit}"));
        host.group(ORDER_SEARCH);
        let enough = read(&platform, ORDER_SEARCH) + rng.random_range(1..600);
        eventually("the host reads", || match read(&platform, ORDER_SEARCH) {
            read if read >= enough => Ok(()),
            read => Err(read),
        });
        let asked = Instant::now();
        let log = host.sigterm();
        assert!(asked.elapsed() < DEADLINE + SLACK, "visit {visit} took {:?} to stop", asked.elapsed());
        assert!(log.tally(ORDER_SEARCH).batches > 0);
        busy += u32::from(platform.status().unwrap()[ORDER_SEARCH].lag > 0);
    }
    assert!(busy >= 3, "{busy} of 6 hosts were stopped before all was read");
    let host = platform.start_host("last");
    platform.assert_orders_are_right();
    platform.assert_sales_are_right();
    host.sigterm();
}

/// A host whose transaction, in the middle of a batch, waits for a lock that a session holds; it
/// was asked to stop then.
fn asked_to_stop_mid_batch(platform: &Platform) -> (Host, Session, Instant) {
    let ReadModel::Postgres { url } = platform.read_model() else { unreachable!("it is on Postgres") };
    let records = history(platform, seed(342), 600);
    let (before, after) = records.split_at(200);
    platform.publish(before);
    let host = platform.start_host("interrupted");
    platform.until_fresh();
    let mut holder = Session::open(url).unwrap();
    holder.run("begin");
    holder.run("select 'held' from projector.checkpoint for update");
    platform.publish(after);
    let waits = "select pid::text from pg_stat_activity where datname = current_database()
                 and application_name = 'projector' and wait_event_type = 'Lock'";
    eventually("the host waits inside its transaction", || match platform.read_model().query(waits).len() {
        1 => Ok(()),
        waiting => Err(waiting),
    });
    let asked = Instant::now();
    host.signal(Signal::TERM);
    host.log().wait_for("that it stops", |line| line.message() == "stopping");
    (host, holder, asked)
}

/// Fault 36.
#[test]
fn a_batch_that_can_be_finished_in_time_is_finished() {
    let platform = platform("sigterm-finishes", &[SALES_BY_COUNTRY]);
    let (host, mut holder, _) = asked_to_stop_mid_batch(&platform);
    let before = read(&platform, SALES_BY_COUNTRY);
    holder.run("rollback");
    let tally = host.sigterm().tally(SALES_BY_COUNTRY);
    let finished = read(&platform, SALES_BY_COUNTRY) - before;
    assert!((1..=40).contains(&finished), "{finished} events after it was asked to stop");
    assert_eq!((tally.fenced, tally.retries), (0, 0), "{tally:?}");
    let host = platform.start_host("next");
    platform.assert_sales_are_right();
    host.sigterm();
}

/// Fault 36.
#[test]
fn a_batch_that_cannot_be_finished_in_time_is_rolled_back() {
    let platform = platform("sigterm-gives-up", &[SALES_BY_COUNTRY]);
    let (host, mut holder, asked) = asked_to_stop_mid_batch(&platform);
    let before = read(&platform, SALES_BY_COUNTRY);
    let log = host.sigterm();
    assert!(asked.elapsed() < DEADLINE + SLACK, "it took {:?} to stop", asked.elapsed());
    log.wait_for("that it gave up", |line| line.message().starts_with("shutdown deadline exceeded"));
    holder.run("rollback");
    assert_eq!(read(&platform, SALES_BY_COUNTRY), before, "what was given up was committed");
    let host = platform.start_host("next");
    platform.assert_sales_are_right();
    host.sigterm();
}

/// Fault 37: one of two hosts dies at a failpoint, with partitions of its own; the other one takes
/// them over.
fn killed_while_another_host_is_there(failpoint: &str) {
    let platform = platform(&format!("killed-{failpoint}"), &[SALES_BY_COUNTRY]);
    let records = history(&platform, seed(343), 4_000);
    let (before, after) = records.split_at(1_000);
    let survivor = platform.start_host("survivor");
    let victim = platform.start_host_with("victim", &format!("{failpoint}=kill@2"));
    let group = survivor.group(SALES_BY_COUNTRY);
    platform.until_shared_by(&group, 2);
    platform.publish(before);
    victim.until_killed_at(failpoint);
    platform.publish(after);
    platform.until_shared_by(&group, 1);
    platform.assert_sales_are_right();
    let tally = survivor.sigterm().tally(SALES_BY_COUNTRY);
    assert!(tally.fenced == 0 && tally.retries == 0 && (tally.events as usize) < records.len(), "{tally:?}");
}

/// Fault 37.
#[test]
fn a_host_killed_before_it_writes_is_survived_by_another() {
    killed_while_another_host_is_there("before-write");
}

/// Fault 37.
#[test]
fn a_host_killed_before_it_commits_is_survived_by_another() {
    killed_while_another_host_is_there("before-commit");
}

/// Fault 37.
#[test]
fn a_host_killed_after_it_committed_is_survived_by_another() {
    killed_while_another_host_is_there("after-commit");
}
