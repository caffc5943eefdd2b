//! An event that needs a row waits until it is there, in the order of its key; or until its age in event time is over.
//!
//! The gates' steps are of two topics that share their keys' order, and wait for an hour. Gates are opened by another
//! topic, or by a step.

use std::time::{SystemTime, UNIX_EPOCH};

use projector_workload::{Publisher, Record, write_json_lines};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::generations::until_beside_is_fresh;
use crate::harness::{GATES, Gates, ReadModel, eventually, guest, seed, variant};

const MINUTE_MS: i64 = 60_000;

fn minutes_ago(minutes: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as i64 - minutes * MINUTE_MS
}

/// A step of a key's trail, with what else it says.
fn step_of(gates: &Gates, topic: &str, written: &str, more: Value) -> Record {
    let (of, step) = written.split_at(1);
    let mut payload = json!({"of": of, "step": step});
    payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Record::new(gates.platform.topic(topic), of, payload.to_string())
}

/// One that waits until a gate is open.
fn waits(gates: &Gates, topic: &str, written: &str, gate: &str) -> Record {
    step_of(gates, topic, written, json!({"gate": gate, "wait": true}))
}

fn plain(gates: &Gates, topic: &str, written: &str) -> Record {
    step_of(gates, topic, written, json!({}))
}

fn opened(gates: &Gates, gate: &str) -> Record {
    Record::new(gates.platform.topic("gate.v1"), gate, json!({"gate": gate}).to_string())
}

fn at(mut record: Record, timestamp_ms: i64) -> Record {
    record.timestamp_ms = Some(timestamp_ms);
    record
}

/// Waits until so many events were applied, wait for rows, are parked and are dead, of all that were read.
#[track_caller]
fn until_counted(gates: &Gates, applied: u64, waiting: u64, parked: u64, dead: u64) {
    let wanted = (applied + waiting + parked + dead, applied, waiting, parked, dead);
    eventually("the books say so", || {
        let counters = gates.until_through().counters;
        let counted = (counters.read, counters.applied, counters.waiting, counters.parked, counters.dead);
        if counted == wanted { Ok(()) } else { Err((counted, wanted)) }
    });
}

/// On both stores, and across a restart: first the event that waits, then those behind it, of which one waits for
/// another row.
#[test]
fn an_event_waits_for_its_row_and_those_of_its_key_behind_it() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("waits-row", 2, read_model).set(&["batch", "events"], 3);
        let host = gates.start_host("first");
        gates.platform.publish(&[
            waits(&gates, "step.v1", "a1", "x"),
            plain(&gates, "step.v1", "a2"),
            plain(&gates, "step.v1", "b1"),
            waits(&gates, "step.v1", "a3", "y"),
            plain(&gates, "step.v1", "a4"),
        ]);
        until_counted(&gates, 1, 1, 3, 0);
        assert_eq!(gates.trails_of(["a", "b"]), ["", "1"]);
        let shown = gates.platform.ask(&["status"]);
        let shown = &shown["projections"][0];
        assert_eq!((&shown["complete"], &shown["missing_events"]), (&json!(false), &json!(4)), "{shown:#}");
        assert_eq!(shown["waits"][0]["row"], "gate with id = \"x\"", "{shown:#}");
        gates.open(&["x"]);
        until_counted(&gates, 4, 1, 1, 0);
        assert_eq!(gates.trails_of(["a", "b"]), ["1 2", "1"]);
        host.sigterm();
        // Nothing is lost meanwhile, and the row may come while no host runs that was there before.
        gates.open(&["y"]);
        let host = gates.start_host("second");
        until_counted(&gates, 7, 0, 0, 0);
        assert_eq!(gates.trails_of(["a", "b"]), ["1 2 3 4", "1"]);
        gates.publish(&["a5"]);
        until_counted(&gates, 8, 0, 0, 0);
        assert_eq!(gates.trails_of(["a"]), ["1 2 3 4 5"], "the line is free");
        assert!(gates.letters().is_empty());
        host.sigterm();
    }
}

/// What an ordering group can do: an event is rejected, and that which would have it go well is parked behind it. One
/// that waits lets the other topic of its group pass.
#[test]
fn another_topic_of_the_ordering_group_may_bring_the_row() {
    let gates = Gates::new("brings", 1, ReadModel::postgres());
    let host = gates.start_host("host");
    gates.platform.publish(&[step_of(&gates, "step.v1", "a1", json!({"gate": "x"}))]);
    until_counted(&gates, 0, 0, 0, 1);
    gates.platform.publish(&[step_of(&gates, "step.v2", "a2", json!({"opens": "x"}))]);
    until_counted(&gates, 0, 0, 1, 1);

    gates.platform.publish(&[waits(&gates, "step.v1", "b1", "y")]);
    until_counted(&gates, 0, 1, 1, 1);
    gates.platform.publish(&[plain(&gates, "step.v1", "b2")]);
    until_counted(&gates, 0, 1, 2, 1);
    gates.platform.publish(&[step_of(&gates, "step.v2", "b3", json!({"opens": "y"}))]);
    until_counted(&gates, 3, 0, 1, 1);
    assert_eq!(gates.trails_of(["a", "b"]), ["", "3 1 2"]);
    host.sigterm();
}

/// Whose time is over fails, by the policy; live as well as in a rebuild, in which the rows come in another order.
#[test]
fn an_age_that_is_over_is_the_same_live_and_in_a_rebuild() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("ages", 1, read_model);
        let host = gates.start_host("live");
        gates.platform.publish(&[
            at(waits(&gates, "step.v1", "a1", "x"), minutes_ago(180)),
            at(plain(&gates, "step.v1", "a2"), minutes_ago(179)),
            at(waits(&gates, "step.v1", "b1", "y"), minutes_ago(30)),
        ]);
        // No event of the hour after the first one is to come.
        until_counted(&gates, 0, 1, 1, 1);
        let letters = gates.letters();
        assert_eq!(
            (&letters[0]["kind"], &letters[0]["code"], &letters[0]["key"]),
            (&json!("not-yet"), &json!("not-yet"), &json!("a"))
        );
        assert!(letters[0]["detail"].as_str().unwrap().contains("gate with id = \"x\""), "{letters:#?}");
        // Too late for the one, in time for the other; and in the log before it.
        gates
            .platform
            .publish(&[at(opened(&gates, "x"), minutes_ago(100)), at(opened(&gates, "y"), minutes_ago(40))]);
        until_counted(&gates, 3, 0, 1, 1);
        assert_eq!(gates.trails_of(["a", "b"]), ["", "1"]);

        gates.platform.ask(&["rebuild", GATES]);
        until_beside_is_fresh(&gates.platform, GATES);
        let beside = eventually("the generation beside is through with what waits", || {
            let live = gates.until_through();
            let counters = live.beside.first().map(|beside| beside.counters);
            if counters == Some(live.counters) { Ok(live.counters) } else { Err((counters, live.counters)) }
        });
        assert_eq!((beside.applied, beside.dead, beside.parked), (3, 1, 1));
        gates.platform.ask(&["diff", GATES]);

        // The row is there now: an operator's retry finds it.
        let letters = gates.letters();
        let live = letters.iter().find(|letter| letter["generation"] == 1).expect("it is dead there");
        let letter = live["id"].to_string();
        let done = gates.platform.ask(&["dlq", "retry", GATES, &letter]);
        assert_eq!(done[0]["verdict"]["outcome"], "applied", "{done}");
        assert_eq!(gates.trails_of(["a", "b"]), ["1 2", "1"]);
        host.sigterm();
    }
}

/// A dead letter that an operator retries before the row is there stays one, and says what it needs.
#[test]
fn a_dead_letter_does_not_wait() {
    let gates = Gates::new("letter", 1, ReadModel::postgres());
    let host = gates.start_host("host");
    gates.platform.publish(&[
        at(waits(&gates, "step.v1", "a1", "x"), minutes_ago(180)),
        plain(&gates, "step.v1", "a2"),
        waits(&gates, "step.v1", "a3", "y"),
        plain(&gates, "step.v1", "a4"),
    ]);
    until_counted(&gates, 0, 0, 3, 1);
    let letter = gates.only_letter();
    let (code, printed, said) = gates.platform.command(&["dlq", "retry", GATES, &letter, "--output", "json"]);
    assert_eq!((code, printed[0]["verdict"]["outcome"].as_str()), (1, Some("not-yet")), "{said}");
    gates.open(&["x"]);
    gates.until_through();
    // One of those behind it waits for a row itself: in the line of its own topic, and the last one behind it.
    let done = gates.platform.ask(&["dlq", "retry", GATES, &letter]);
    assert_eq!(done[0]["verdict"]["outcome"], "applied", "{done}");
    until_counted(&gates, 3, 1, 1, 0);
    assert_eq!(gates.trails_of(["a"]), ["1 2"]);
    // The group's key is free.
    gates.platform.publish(&[step_of(&gates, "step.v2", "a5", json!({"opens": "y"}))]);
    until_counted(&gates, 6, 0, 0, 0);
    assert_eq!(gates.trails_of(["a"]), ["1 2 5 3 4"]);
    host.sigterm();
}

/// Steps and their gates in any order, on two hosts, of which one is killed at some point of letting them go.
#[test]
fn two_hosts_in_any_order_lose_nothing_and_keep_each_keys_order() {
    let mut rng = StdRng::seed_from_u64(seed(1101));
    let gates = Gates::new("any-order", 4, ReadModel::postgres()).set(&["batch", "events"], 7);
    let failpoints = ["before-write", "before-commit", "after-commit"];
    let steady = gates.start_host("steady");
    let failpoint = failpoints[rng.random_range(0..failpoints.len())];
    let killed = gates.platform.start_host_with("killed", &format!("{failpoint}=kill@5"));
    gates.platform.until_shared_by(&steady.group(GATES), 2);
    let mut records = Vec::new();
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for round in 0..30 {
        for of in keys {
            let written = format!("{of}{round}");
            let gate = format!("{of}{}", round / 3);
            records.push(match round % 3 {
                1 => waits(&gates, "step.v1", &written, &gate),
                _ => plain(&gates, "step.v1", &written),
            });
            // Before, between or after: often the gate comes much later.
            if round % 3 == 2 {
                let place = rng.random_range(records.len().saturating_sub(40)..=records.len());
                records.insert(place, opened(&gates, &gate));
            }
        }
    }
    for some in records.chunks(31) {
        gates.platform.publish(some);
    }
    killed.until_killed_at(failpoint);
    until_counted(&gates, records.len() as u64, 0, 0, 0);
    let walked = (0..30).map(|round| round.to_string()).collect::<Vec<_>>().join(" ");
    for (of, trail) in gates.trails() {
        assert_eq!(trail, walked, "{of}");
    }
    assert!(gates.letters().is_empty());
    steady.sigterm();
}

/// Events wait while another version becomes active: it tries them, and they go on waiting; then it lets them go.
#[test]
fn another_version_goes_on_with_events_that_wait() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("version", 1, read_model);
        let host = gates.start_host("host");
        gates.platform.publish(&[waits(&gates, "step.v1", "a1", "x"), plain(&gates, "step.v1", "a2")]);
        until_counted(&gates, 0, 1, 1, 0);
        let next = variant(&guest("gates-guest"), b'2');
        let file = gates.platform.directory().join("next.wasm");
        std::fs::write(&file, &next).unwrap();
        gates.platform.ask(&["deploy", &file.display().to_string()]);
        until_counted(&gates, 0, 1, 1, 0);
        gates.open(&["x"]);
        until_counted(&gates, 3, 0, 0, 0);
        assert_eq!(gates.trails_of(["a"]), ["1 2"]);
        host.sigterm();
    }
}

/// Where the policy is to halt, an event whose time is over stops the projection, until a person decides.
#[test]
fn an_age_that_is_over_halts_where_the_policy_says_so() {
    let gates = Gates::new("halts", 1, ReadModel::sqlite()).set(&["failures", "policy"], "halt");
    let host = gates.start_host("host");
    gates.platform.publish(&[
        at(waits(&gates, "step.v1", "a1", "x"), minutes_ago(180)),
        at(plain(&gates, "step.v1", "b1"), minutes_ago(150)),
    ]);
    let trouble = eventually("the projection stands still", || {
        let status = gates.platform.status()?.remove(GATES).ok_or("it is not installed")?;
        status.halted.filter(|trouble| trouble.kind == "halted").ok_or("it does not".to_owned())
    });
    assert!(trouble.says(&["/0@0 waited for a row", "gate with id = \"x\"", "dlq erase"]), "{trouble:?}");
    gates.platform.ask(&["dlq", "erase", GATES, "--key", "a", "--reason", "a test"]);
    gates.platform.command(&["resume", GATES]);
    gates.publish(&["a2"]);
    eventually("it goes on", || {
        let trails = gates.trails_of(["a", "b"]);
        if trails == ["2", "1"] { Ok(()) } else { Err(trails) }
    });
    host.sigterm();
}

/// Events of a file wait as well; hosts let them go, or end their waits, when the file is through.
#[test]
fn events_of_a_file_wait_until_hosts_run_what_was_built_from_it() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("file", 1, read_model);
        let records = [
            at(waits(&gates, "step.v1", "a1", "x"), minutes_ago(30)),
            at(plain(&gates, "step.v1", "a2"), minutes_ago(29)),
            at(opened(&gates, "x"), minutes_ago(20)),
            at(waits(&gates, "step.v2", "b1", "y"), minutes_ago(180)),
        ];
        let positions = Publisher::new(gates.platform.brokers()).publish(&records).unwrap();
        let mut lines = Vec::new();
        write_json_lines(&mut lines, records.iter().zip(&positions)).unwrap();
        let file = gates.platform.directory().join("history.jsonl");
        std::fs::write(&file, lines).unwrap();
        let host = gates.start_host("host");
        until_counted(&gates, 3, 0, 0, 1);
        gates.platform.ask(&["backfill", GATES, "--from", &file.display().to_string()]);
        eventually("the generation that was built of the file is through with what waits", || {
            let live = gates.until_through();
            let counters = live.beside.first().map(|beside| beside.counters);
            match counters {
                Some(counters) if (counters.applied, counters.dead) == (3, 1) => Ok(()),
                counters => Err(counters),
            }
        });
        let letters = gates.letters();
        let of_file = letters.iter().find(|letter| letter["generation"] == 2).expect("it is dead there");
        let (code, printed, said) =
            gates.platform.command(&["dlq", "retry", GATES, &of_file["id"].to_string(), "--output", "json"]);
        assert_eq!((code, printed[0]["verdict"]["outcome"].as_str()), (1, Some("not-yet")), "{said}");
        host.sigterm();
    }
}

/// What is erased does not wait any more, and is in the books.
#[test]
fn an_event_that_waits_can_be_erased_with_its_key() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("erased", 1, read_model);
        let host = gates.start_host("host");
        gates.platform.publish(&[waits(&gates, "step.v1", "a1", "x"), plain(&gates, "step.v1", "a2")]);
        until_counted(&gates, 0, 1, 1, 0);
        gates.platform.ask(&["dlq", "erase", GATES, "--key", "a", "--reason", "a test"]);
        let counters = gates.until_through().counters;
        assert_eq!((counters.waiting, counters.parked, counters.skipped), (0, 0, 2), "{counters:?}");
        gates.open(&["x"]);
        gates.publish(&["a3"]);
        gates.until_through();
        assert_eq!(gates.trails_of(["a"]), ["3"]);
        host.sigterm();
    }
}
