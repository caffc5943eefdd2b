//! Two hosts, one group: partitions move, and whoever lost one writes nothing to it any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use projector_workload::Record;

use crate::harness::{Host, Line, ORDER_SEARCH, Platform, ReadModel, SALES_BY_COUNTRY, eventually, seed};

pub(super) fn history(platform: &Platform, seed: u64, events: usize) -> Vec<Record> {
    platform.workload(seed, events).records().collect()
}

/// Events that a projection is through with, as committed now.
fn read(platform: &Platform, projection: &str) -> i64 {
    platform.read_model().checkpoints(projection).values().sum()
}

/// Waits until a projection has read this many events more.
#[track_caller]
pub(super) fn until_read_on(platform: &Platform, projection: &str, events: i64) {
    let enough = read(platform, projection) + events;
    eventually(&format!("{projection} reads {events} events more"), || match read(platform, projection) {
        read if read >= enough => Ok(()),
        read => Err(read),
    });
}

/// Publishes for as long as it is told to, never far ahead of the readers, so that there is always
/// something to read and never long to wait.
pub(super) fn publish_while(platform: &Platform, records: &[Record], wanted: &AtomicBool) {
    const CHUNK: usize = 500;
    let mut published = 0;
    for chunk in records.chunks(CHUNK) {
        platform.publish(chunk);
        published += chunk.len() as i64;
        eventually("the hosts keep up", || {
            let behind = published - read(platform, ORDER_SEARCH);
            if behind < 4 * CHUNK as i64 || !wanted.load(Ordering::Relaxed) { Ok(()) } else { Err(behind) }
        });
        if !wanted.load(Ordering::Relaxed) {
            return;
        }
    }
    panic!("the history was too short");
}

/// Fault 3: hosts join, leave and vanish.
#[test]
fn partitions_move_while_events_flow() {
    let platform = Platform::new("moving", &[ORDER_SEARCH, SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["batch", "events"], 50);
    platform.create_topics(4);
    let records = history(&platform, seed(11), 200_000);
    let resident = platform.start_host("resident");
    let groups = [ORDER_SEARCH, SALES_BY_COUNTRY].map(|projection| resident.group(projection));
    let flowing = AtomicBool::new(true);
    thread::scope(|scope| {
        // However this ends, the publisher must not be waited for in vain.
        let _last = StopWhenDropped(&flowing);
        scope.spawn(|| publish_while(&platform, &records, &flowing));
        for visit in 1..=3 {
            let visitor = platform.start_host(&format!("visitor {visit}"));
            for (group, projection) in groups.iter().zip([ORDER_SEARCH, SALES_BY_COUNTRY]) {
                platform.until_shared_by(group, 2);
                until_read_on(&platform, projection, 1_000);
            }
            match visit {
                // It leaves the group; or it vanishes, and the group must find that out.
                1 | 2 => {
                    let log = visitor.sigterm();
                    for projection in [ORDER_SEARCH, SALES_BY_COUNTRY] {
                        let tally = log.tally(projection);
                        assert!(tally.batches > 0 && tally.events > 0, "{projection}: {tally:?}");
                    }
                }
                _ => visitor.kill(),
            }
            for (group, projection) in groups.iter().zip([ORDER_SEARCH, SALES_BY_COUNTRY]) {
                platform.until_shared_by(group, 1);
                until_read_on(&platform, projection, 500);
            }
        }
    });
    platform.assert_orders_are_right();
    platform.assert_sales_are_right();
    resident.sigterm();
}

/// However a test ends, what runs beside it must not be waited for in vain.
pub(super) struct StopWhenDropped<'a>(pub(super) &'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Another host moved the checkpoint; or the group said first that its partitions are another's.
fn stopped_writing(line: &Line) -> bool {
    line.message().starts_with("another host has moved the checkpoint")
        || line.message().starts_with("partitions were assigned to another host")
}

/// Stops a host at a failpoint, lets another one take its partitions over and finish, and continues
/// the first. Returns both, when everything is in the read model.
fn outlive(
    platform: &Platform,
    projection: &str,
    failpoint: &str,
    meanwhile: impl Fn(&Host),
) -> (Host, Host) {
    platform.create_topics(3);
    let records = history(platform, seed(12), 6_000);
    let (before, after) = records.split_at(4_000);
    platform.publish(before);
    let zombie = platform.start_host_with("zombie", &format!("{failpoint}=stop@6"));
    zombie.until_stopped_at(failpoint);
    let stuck_at = platform.read_model().checkpoints(projection);
    assert!(stuck_at.values().sum::<i64>() > 0, "nothing was committed before the stop");

    let successor = platform.start_host("successor");
    platform.until_fresh();
    meanwhile(&zombie);
    assert!(zombie.is_stopped(), "it was to be stopped all the while");
    assert!(read(platform, projection) > stuck_at.values().sum(), "the successor had nothing to do");

    zombie.cont();
    zombie.log().wait_for("that it was stopped by the checkpoint or the group", stopped_writing);
    // It did not leave the group for that: it reads on.
    platform.until_shared_by(&successor.group(projection), 2);
    platform.publish(after);
    platform.until_fresh();
    (zombie, successor)
}

/// Server processes that idle in a transaction.
fn idle_in_transaction(platform: &Platform) -> usize {
    let sql = "select pid::text from pg_stat_activity
               where datname = current_database() and state = 'idle in transaction'";
    platform.read_model().query(sql).len()
}

/// Fault 4: with all rows written and all locks taken, the last before the commit: the server ends the
/// transaction of a host that does not move, so its successor need not wait for it.
#[test]
fn a_host_stopped_before_its_commit_blocks_nobody_and_is_fenced() {
    let platform = Platform::new("stopped-writer", &[ORDER_SEARCH], ReadModel::postgres())
        .set(&["batch", "events"], 100)
        .set(&["store", "idle-in-transaction-timeout"], "3s");
    let (zombie, successor) = outlive(&platform, ORDER_SEARCH, "before-commit", |_| {
        assert_eq!(idle_in_transaction(&platform), 0, "the stopped host's transaction is still open");
    });
    platform.assert_orders_are_right();
    let log = zombie.sigterm();
    let tally = log.tally(ORDER_SEARCH);
    // Once for each batch that it held; how its partitions lay in batches is chance.
    assert!(
        log.lines().iter().any(stopped_writing) && tally.retries >= 1,
        "the connection was lost, then the checkpoint had moved: {tally:?}"
    );
    assert!(tally.events >= 500, "it read before it was stopped: {tally:?}");
    let tally = successor.sigterm().tally(ORDER_SEARCH);
    assert_eq!((tally.fenced, tally.retries), (0, 0), "{tally:?}");
}

/// Fault 4: before its first write, with a transaction that outlives the stop: what stops this one is that
/// the checkpoint is compared in the transaction.
#[test]
fn a_host_stopped_before_its_first_write_finds_its_checkpoint_moved() {
    let platform = Platform::new("stopped-reader", &[SALES_BY_COUNTRY], ReadModel::postgres())
        .set(&["batch", "events"], 100)
        .set(&["store", "idle-in-transaction-timeout"], "5m");
    let (zombie, successor) = outlive(&platform, SALES_BY_COUNTRY, "before-write", |_| {
        assert_eq!(idle_in_transaction(&platform), 1, "the stopped host's transaction is gone");
    });
    platform.assert_sales_are_right();
    let tally = zombie.sigterm().tally(SALES_BY_COUNTRY);
    assert!(tally.fenced >= 1 && tally.retries == 0, "the comparison alone stopped it: {tally:?}");
    let tally = successor.sigterm().tally(SALES_BY_COUNTRY);
    assert_eq!((tally.fenced, tally.retries), (0, 0), "{tally:?}");
}
