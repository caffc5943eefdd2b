//! A generation that is built while events are written, on two hosts, of a projection that rejects an event when the
//! row that it needs is not there yet: its rows and its dead letters are those of the events in the order of their
//! time.
//!
//! `PROJECTOR_REBUILD_SEEDS=100` tries as many histories.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use projector_workload::{ORDER_CONFIRMED, Publisher, Record, Turn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::generations::{eventually_done, until_beside_is_fresh};
use crate::harness::{Argument, Guest, Host, Platform, Plugins, ReadModel, eventually, seed};

const BOOKINGS: &str = "bookings";
/// Which topic is which: a confirmation makes a row, a cancellation needs it.
const CONFIRMED: &str = ORDER_CONFIRMED;
const CANCELLED: &str = "hostile.events.v1";

/// Both topics write the row whose key is the record's, and neither writes a column of the other one. A cancellation
/// looks its row up, and is rejected if there is none.
fn bookings() -> Vec<u8> {
    let declared = json!({
        "name": BOOKINGS,
        "version": "1.0.0",
        "topics": [
            {"name": CONFIRMED, "statements": ["confirm"]},
            {"name": CANCELLED, "statements": ["cancel"], "lookups": ["booking"]}],
        "tables": [{"name": "booking", "key": ["id"], "columns": [
            {"name": "id", "type": "text"},
            {"name": "confirmed", "type": "int64", "nullable": true},
            {"name": "cancelled", "type": "int64", "nullable": true}]}],
        "statements": [
            {"name": "confirm", "table": "booking", "kind": "upsert", "set": [{"column": "confirmed"}]},
            {"name": "cancel", "table": "booking", "kind": "update", "by": ["id"], "set": [{"column": "cancelled"}]}],
        "lookups": [{"name": "booking", "table": "booking", "by": ["id"], "columns": ["confirmed"]}],
        "rejects": [{"code": "no-booking", "meaning": "there is nothing to cancel"}],
    });
    let mut guest = Guest::describing(&declared.to_string());
    let mut keyed = |call: u16, arguments: &[Argument<'_>]| {
        let at = guest.arguments(arguments);
        let key = format!(
            "(i32.store (i32.const {}) (local.get $key)) (i32.store (i32.const {}) (local.get $key_len))",
            at + 8,
            at + 12
        );
        (guest.calls(&[(call, at, arguments.len())]), key)
    };
    let (confirm, confirmed_key) = keyed(0, &[Argument::Text(b"?"), Argument::Int64(1)]);
    let (cancel, cancelled_key) = keyed(1, &[Argument::Text(b"?"), Argument::Int64(1)]);
    let (needs, needed_key) = keyed(0, &[Argument::Text(b"?")]);
    let rejection = guest.rejection("no-booking", "");
    // A lookup call looks as a change does, but for the case of the answer. Of what is found, the rows are counted.
    let answer = format!(
        "{confirmed_key} {cancelled_key} {needed_key} (i32.store8 (i32.const {}) (i32.const 2))
         (if (result i32) (local.get $topic)
           (then (if (result i32) (local.get $found_len)
             (then (select (i32.const {cancel}) (i32.const {rejection}) (i32.load offset=16 (local.get $found))))
             (else (i32.const {needs}))))
           (else (i32.const {confirm})))",
        needs + 4
    );
    guest.project(&answer).component()
}

#[derive(Debug, Clone)]
struct Event {
    /// In milliseconds: since whenever the events begin, and once it is published, since 1970.
    at: i64,
    is_cancellation: bool,
    id: String,
}

/// Bookings, one every so many milliseconds. Most of them are cancelled 0.3 to 0.5 s after they are confirmed; some
/// before that, and some cancellations are of a booking that never was: those are to be rejected.
fn history(name: &str, bookings: i64, every_ms: i64, rng: &mut StdRng) -> Vec<Event> {
    let mut events = Vec::new();
    for booking in 0..bookings {
        let at = 1_000 + booking * every_ms;
        let id = format!("{name}-{booking}");
        let later = rng.random_range(300..500);
        let mut cancelled = |at, id| events.push(Event { at, is_cancellation: true, id });
        match rng.random_range(0..100) {
            0..60 => cancelled(at + later, id.clone()),
            60..65 => cancelled(at - later, id.clone()),
            65..68 => cancelled(at, format!("{id}-never")),
            _ => {}
        }
        events.push(Event { at, is_cancellation: false, id });
    }
    events.sort_by_key(|event| event.at);
    events
}

/// What the events make, one by one, in the order of their time: rows, with whether they are cancelled, and
/// the rejected cancellations.
fn fold(mut events: Vec<Event>) -> (BTreeMap<String, bool>, BTreeSet<String>) {
    events.sort_by_key(|event| event.at);
    let (mut rows, mut rejected) = (BTreeMap::new(), BTreeSet::new());
    for Event { is_cancellation, id, .. } in events {
        match (is_cancellation, rows.get_mut(&id)) {
            (false, _) => drop(rows.insert(id, false)),
            (true, Some(is_cancelled)) => *is_cancelled = true,
            (true, None) => drop(rejected.insert(id)),
        }
    }
    (rows, rejected)
}

struct Bookings {
    platform: Platform,
    _plugins: Plugins,
    /// Everything that is in the log.
    published: Vec<Event>,
}

impl Bookings {
    fn new(name: &str) -> Bookings {
        let plugins = Plugins::new(&[]).add("bookings.wasm", bookings());
        let platform = Platform::new(name, &[], ReadModel::postgres())
            .set(&["plugins", "directory"], plugins.path())
            .set(&["failures", "policy"], "dead-letter")
            .set(&["failures", "consecutive"], i64::MAX)
            .set(&["failures", "ratio"], 1.0)
            .set(&["batch", "events"], 200);
        platform.create_topics(2);
        Bookings { platform, _plugins: plugins, published: Vec::new() }
    }

    fn records(&self, events: &[Event]) -> Vec<Record> {
        let [confirmed, cancelled] = [CONFIRMED, CANCELLED].map(|topic| self.platform.topic(topic));
        let record = |event: &Event| match event.is_cancellation {
            true => Record::new(&*cancelled, &*event.id, "c"),
            // So that a fetch takes fewer of them.
            false => Record::new(&*confirmed, &*event.id, vec![b'x'; 1_000]),
        };
        events.iter().map(record).collect()
    }

    /// What was written in the last minutes; all of one topic before the first of the other.
    fn publish_history(&mut self, rng: &mut StdRng) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let mut events = history("old", 1_200, 30, rng);
        let first = now - 5_000 - events.last().unwrap().at;
        events.iter_mut().for_each(|event| event.at += first);
        let (cancelled, confirmed): (Vec<_>, Vec<_>) =
            events.iter().cloned().partition(|event| event.is_cancellation);
        for events in [cancelled, confirmed] {
            let mut records = self.records(&events);
            records.iter_mut().zip(&events).for_each(|(record, event)| record.timestamp_ms = Some(event.at));
            self.platform.publish(&records);
        }
        self.published.extend(events);
        // From here on the time of an event is that at which it comes into the log, however slow its producer is.
        let topics = [CONFIRMED, CANCELLED].map(|topic| self.platform.topic(topic));
        let settings = [("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")];
        let topics = topics.each_ref().map(String::as_str);
        projector_workload::topics::set(self.platform.brokers(), &topics, &settings).unwrap();
    }

    /// Writes events at the pace of a history, until it is told to stop.
    fn load(&self, name: &str, rng: &mut StdRng) -> Load {
        let events = history(name, 10_000, 25, rng);
        let records = self.records(&events);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, brokers) = (stop.clone(), self.platform.brokers().to_owned());
        let thread = thread::spawn(move || {
            let began = Instant::now();
            // After a delay all that follows is delayed as well: no two events come closer to each other.
            let mut delay = 0;
            let pace = |index: usize| {
                if stopped.load(Ordering::Relaxed) {
                    return Ok(Turn::Never);
                }
                let now = began.elapsed().as_millis() as i64;
                let due = events[index].at + delay;
                delay += (now - due).max(0);
                Ok(Turn::from(now >= due))
            };
            let positions = Publisher::new(&brokers).pace(pace).publish(&records).unwrap();
            assert!(positions.len() < events.len(), "there are too few events for this test");
            let written = events.iter().zip(positions);
            written.map(|(event, position)| Event { at: position.timestamp_ms, ..event.clone() }).collect()
        });
        Load { stop, thread }
    }

    fn number(&self, sql: &str) -> i64 {
        let rows = self.platform.read_model().query(&format!("select ({sql})::text"));
        rows[0][0].as_ref().map_or(0, |number| number.parse().unwrap())
    }

    /// How many events of a generation were read.
    fn read_by(&self, generation: i64) -> i64 {
        self.number(&format!(
            "select coalesce(sum(c.next_offset), 0) from projector.checkpoint c join projector.generation g
             on g.id = c.generation_id where g.projection = '{BOOKINGS}' and g.number = {generation}"
        ))
    }

    /// Builds a generation under load. It is caught up while events are written, and goes on for a while.
    fn rebuild(&mut self, generation: i64, rng: &mut StdRng, meanwhile: impl FnOnce(&Self)) {
        let load = self.load(&format!("live-{generation}"), rng);
        self.platform.ask(&["rebuild", BOOKINGS]);
        eventually("the new generation reads", || match self.read_by(generation) {
            0 => Err("nothing yet"),
            _ => Ok(()),
        });
        meanwhile(self);
        eventually("the new generation is caught up", || {
            let caught_up = self.number(&format!(
                "select count(*) from projector.generation
                 where projection = '{BOOKINGS}' and number = {generation} and caught_up_at is not null"
            ));
            if caught_up == 1 { Ok(()) } else { Err(self.read_by(generation)) }
        });
        let then = self.read_by(generation);
        eventually("it reads on", || match self.read_by(generation) {
            read if read >= then + 150 => Ok(()),
            read => Err(read - then),
        });
        self.published.extend(load.end());
        until_beside_is_fresh(&self.platform, BOOKINGS);
    }

    #[track_caller]
    fn assert_is_as_time_had_it(&self, generation: i64) {
        let (rows, rejected) = fold(self.published.clone());
        let texts = |sql: &str| self.platform.read_model().query(sql).into_iter();
        let found: BTreeMap<String, bool> =
            texts(&format!("select id, (cancelled is not null)::text from {BOOKINGS}_g{generation}.booking"))
                .map(|row| (row[0].clone().unwrap(), row[1].as_deref() == Some("true")))
                .collect();
        let dead: BTreeSet<String> = texts(&format!(
            "select convert_from(l.key, 'UTF8') from projector.dead_letter l join projector.generation g
             on g.id = l.generation_id where g.projection = '{BOOKINGS}' and g.number = {generation}"
        ))
        .map(|row| row[0].clone().unwrap())
        .collect();
        let wrongly: Vec<_> = dead.difference(&rejected).take(10).collect();
        assert_eq!(dead.len(), rejected.len(), "dead letters; among those that should be none: {wrongly:?}");
        assert!(wrongly.is_empty(), "these should be no dead letters: {wrongly:?}");
        let wrong: Vec<_> = rows.iter().filter(|(id, is)| found.get(*id) != Some(*is)).take(10).collect();
        assert!(
            wrong.is_empty() && found.len() == rows.len(),
            "these rows are not as they should be: {wrong:?}"
        );
        let cancelled = rows.values().filter(|is_cancelled| **is_cancelled).count();
        println!("{} rows, {cancelled} cancelled, {} dead letters", rows.len(), rejected.len());
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Event>>,
}

impl Load {
    fn end(self) -> Vec<Event> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn rebuilds_under_load_on_two_hosts_are_as_time_had_it() {
    let seeds = env::var("PROJECTOR_REBUILD_SEEDS").map_or(10, |asked| asked.parse().unwrap());
    let first = seed(7_100);
    let mut it = Bookings::new("rebuild-order");
    it.publish_history(&mut StdRng::seed_from_u64(first));
    let hosts = [it.platform.start_host("one"), it.platform.start_host("another")];
    it.platform.until_through(BOOKINGS);
    it.platform.until_shared_by(&hosts[0].group(BOOKINGS), 2);
    for (seed, generation) in (first..first + seeds).zip(2..) {
        println!("seed {seed}, generation {generation}");
        it.rebuild(generation, &mut StdRng::seed_from_u64(seed), |_| {});
        it.assert_is_as_time_had_it(generation);
        // The live one had no order between the topics.
        eventually_done(&it.platform, &["promote", BOOKINGS, "--force", "--reason", "it is as time had it"]);
        it.platform.ask(&["retire", BOOKINGS]);
    }
    for host in hosts {
        host.sigterm();
    }
}

/// The checkpoints are a moment in the order of time, from where the other host goes on.
#[test]
fn the_order_of_a_rebuild_outlives_the_host_that_reads_it() {
    let mut it = Bookings::new("rebuild-outlives");
    let mut rng = StdRng::seed_from_u64(seed(7_200));
    it.publish_history(&mut rng);
    let mut hosts = vec![it.platform.start_host("one"), it.platform.start_host("another")];
    it.platform.until_through(BOOKINGS);
    it.rebuild(2, &mut rng, |_| {
        let builds = |host: &Host| {
            let lines = host.log().lines();
            lines
                .iter()
                .any(|line| line.message() == "projection runs" && line.number("generation") == Some(2))
        };
        let builder = eventually("one host builds it", || hosts.iter().position(builds).ok_or(()));
        hosts.remove(builder).kill();
    });
    it.assert_is_as_time_had_it(2);
    hosts.into_iter().for_each(|host| drop(host.sigterm()));
}
