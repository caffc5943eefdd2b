//! Other sessions of the database are in the way. A transaction that loses is done again, all of it.

use projector_workload::Record;

use crate::harness::{Host, Platform, ReadModel, SALES_BY_COUNTRY, Session, Tally, eventually, seed};

/// A host that is through with half of a history, and another session with its database.
struct Contended {
    platform: Platform,
    host: Host,
    other: Session,
    /// What is still to be published.
    rest: Vec<Record>,
}

impl Contended {
    /// `sql` is run in the database before the host comes.
    fn new(name: &str, seed: u64, lock_timeout: &str, sql: &str) -> Contended {
        let platform = Platform::new(name, &[SALES_BY_COUNTRY], ReadModel::postgres())
            .set(&["store", "lock-timeout"], lock_timeout);
        platform.create_topics(2);
        let ReadModel::Postgres { url } = platform.read_model() else { unreachable!("it is on Postgres") };
        let mut other = Session::open(&format!("{url}?application_name=somebody")).unwrap();
        other.run(sql);
        let mut records: Vec<Record> = platform.workload(seed, 600).records().collect();
        let rest = records.split_off(300);
        platform.publish(&records);
        let host = platform.start_host("contender");
        platform.until_fresh();
        Contended { platform, host, other, rest }
    }

    fn publish_the_rest(&mut self) {
        self.platform.publish(&std::mem::take(&mut self.rest));
    }

    /// Waits until the host waits for a lock.
    #[track_caller]
    fn until_it_waits(&self) {
        let waits = "select pid::text from pg_stat_activity where datname = current_database()
                     and application_name = 'projector' and wait_event_type = 'Lock'";
        eventually("the host waits for a lock", || match self.platform.read_model().query(waits).len() {
            1 => Ok(()),
            waiting => Err(waiting),
        });
    }

    /// Waits until the host tries again, for this reason.
    #[track_caller]
    fn until_it_retries_for(&self, reason: &str) {
        self.host.log().wait_for(&format!("that it retries: {reason}"), |line| {
            line.message().starts_with("retrying") && line.field("error").contains(reason)
        });
    }

    /// Everything is applied once, nothing was given up.
    #[track_caller]
    fn assert_right(self) -> Tally {
        self.platform.assert_sales_are_right();
        let tally = self.host.sigterm().tally(SALES_BY_COUNTRY);
        assert_eq!(tally.fenced, 0, "{tally:?}");
        tally
    }
}

/// Fault 19: the other session holds rows of the read model and wants the host's checkpoints, which
/// the host holds while it waits for the rows. The server ends the host's transaction.
#[test]
fn a_transaction_that_loses_in_a_deadlock_is_done_again() {
    // Whoever waits first is to be the victim, and the other one never.
    let first = "do $$ begin execute format('alter database %I set deadlock_timeout = ''3s''', current_database()); end $$";
    let mut contended = Contended::new("deadlock", seed(371), "30s", first);
    let other = &mut contended.other;
    other.run("set deadlock_timeout = '10min'");
    other.run("begin");
    other.run("lock table sales_by_country_g1.sales_by_country in share mode");
    contended.publish_the_rest();
    contended.until_it_waits();
    contended.other.run("select topic from projector.checkpoint for update");
    contended.until_it_retries_for("deadlock detected");
    contended.other.run("rollback");
    assert!(contended.assert_right().retries >= 1);
}

/// Fault 19: a server that serializes more strictly than it was asked to.
#[test]
fn a_transaction_that_cannot_be_serialized_is_done_again() {
    let mut contended = Contended::new("serialization", seed(372), "10s", "select 'nothing'");
    // What a sequence counts is not rolled back.
    for sql in [
        "create sequence attempts",
        "create function refuse() returns trigger language plpgsql as $$ begin
           if nextval('public.attempts') <= 2 then
             raise exception 'could not serialize access' using errcode = 'serialization_failure';
           end if;
           return null; end $$",
        "create trigger refuse after insert or update on sales_by_country_g1.sales_by_country
         for each statement execute function public.refuse()",
    ] {
        contended.other.run(sql);
    }
    contended.publish_the_rest();
    contended.until_it_retries_for("could not serialize access");
    assert_eq!(contended.assert_right().retries, 2);
}

/// Fault 20: retried for as long as it takes, and the log says who is in the way.
#[test]
fn a_lock_that_is_not_given_is_waited_for_and_its_holder_named() {
    let mut contended = Contended::new("lock-timeout", seed(373), "500ms", "select 'nothing'");
    let other = &mut contended.other;
    let session = other.run("select pg_backend_pid()::text").remove(0);
    for lock in [
        "lock table sales_by_country_g1.sales_by_country",
        "select topic from projector.checkpoint for update",
    ] {
        let other = &mut contended.other;
        other.run("begin");
        other.run(lock);
        let half = contended.rest.split_off(contended.rest.len() / 2);
        contended.publish_the_rest();
        contended.rest = half;
        contended.until_it_retries_for("lock timeout");
        let line = contended.host.log().wait_for("who holds the lock", |line| {
            line.message() == "another session holds the lock" && line.field("query") == lock
        });
        assert_eq!(line.field("application"), "somebody", "{}", line.text);
        assert!(line.text.contains(&format!("\"session\":{session},")), "{}", line.text);
        eventually("the status tells", || {
            let status =
                contended.platform.status()?.remove(SALES_BY_COUNTRY).ok_or("it is not installed")?;
            match &status.halted {
                Some(trouble) if trouble.kind == "locked" && trouble.says(&[&session, lock]) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        contended.other.run("rollback");
        eventually("it goes on by itself", || match contended.platform.status()?.remove(SALES_BY_COUNTRY) {
            Some(status) if status.fresh && status.halted.is_none() => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    assert!(contended.assert_right().retries >= 2);
}
