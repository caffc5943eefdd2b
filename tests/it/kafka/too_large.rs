//! A value that is too large for the host is not carried on.

use projector_workload::topics::{self, Topic};
use projector_workload::{Publisher, Record};
use serde_json::json;

use crate::harness::{
    GATES, Gates, Platform, Plugins, ReadModel, assert_closed, dead_letters, eventually, rows,
};

const MOST: usize = 50_000;

/// Fault 11: on both stores. Its key and its headers are kept; at the limit it is still applied.
#[test]
fn a_value_that_is_too_large_is_a_dead_letter_that_says_where_it_is() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let plugins = Plugins::new(&["hostile-guest"]);
        let platform = Platform::new("too-large", &[], read_model)
            .set(&["plugins", "directory"], plugins.path())
            .set(&["kafka", "value-bytes"], MOST as i64);
        platform.create_topics(1);
        let topic = platform.topic("hostile.events.v1");
        let write = |id: &str, bytes: usize| {
            let empty = json!({"do": "write", "id": id, "ballast": ""}).to_string().len();
            let ballast = "x".repeat(bytes - empty);
            let payload = json!({"do": "write", "id": id, "ballast": ballast}).to_string();
            let mut record = Record::new(&*topic, id, payload);
            record.headers = vec![("x-trace".into(), Some(b"abc".to_vec()))];
            record
        };
        let sent = [write("1", 100), write("2", MOST + 1), write("3", MOST), write("4", 10 * MOST)];
        let places = Publisher::new(platform.brokers()).publish(&sent).unwrap();
        let host = platform.start_host("host");
        assert_closed(&platform.until_through("hostile"), 4, 0, 2);

        let letters = dead_letters(platform.read_model(), "hostile");
        for (letter, at) in letters.iter().zip([1, 3]) {
            assert_eq!((letter.partition, letter.offset), (places[at].partition, places[at].offset));
            assert_eq!(letter.verdict(), "too-large (value-bytes)");
            assert_eq!((&letter.key, &letter.payload), (&sent[at].key, &None));
            assert_eq!(letter.headers, json!([{"name": "x-trace", "value": "abc"}]));
            let bytes = sent[at].payload.as_ref().unwrap().len();
            for said in [format!("{bytes} bytes"), format!("{topic}/0@{}", letter.offset)] {
                assert!(letter.detail.contains(&said), "{said:?} is not in {letter:?}");
            }
        }
        // Nobody takes one for a tombstone when it comes back.
        let (code, again, said) = platform.command(&["dlq", "retry", "hostile", "--all", "--output", "json"]);
        let outcomes: Vec<_> = (0..2).map(|at| again[at]["verdict"]["outcome"].as_str()).collect();
        assert_eq!((code, outcomes), (1, vec![Some("too-large"); 2]), "{said}");
        let written = rows(platform.read_model(), "hostile", "survivor", &["id"]);
        assert_eq!(written, [[Some("1".to_owned())], [Some("3".to_owned())]]);
        host.sigterm();
    }
}

/// A step on the trail of `a` that weighs so much.
fn weighing(gates: &Gates, step: &str, bytes: usize) -> Record {
    let payload = json!({"of": "a", "step": step, "more": "x".repeat(bytes)});
    let mut record = Record::new(gates.platform.topic("step.v1"), "a", payload.to_string());
    record.partition = Some(0);
    record
}

fn verdicts(gates: &Gates) -> Vec<(String, String)> {
    let (_, done, said) = gates.platform.command(&["dlq", "retry", GATES, "--all", "--output", "json"]);
    let word = |done: &serde_json::Value, key: &str| done["verdict"][key].as_str().unwrap_or("").to_owned();
    let done = done.as_array().unwrap_or_else(|| panic!("{said}"));
    done.iter().map(|done| (word(done, "outcome"), word(done, "code"))).collect()
}

/// Once a value may be as large, a retry reads it from the log again, and what waits behind it follows, in order:
/// other values that were left in the log as well.
#[test]
fn a_retry_reads_a_value_from_the_log_again_when_it_may_be_as_large() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("recalled", 1, read_model).set(&["kafka", "value-bytes"], MOST as i64);
        let sent = [("1", 2 * MOST), ("2", 10), ("3", 3 * MOST), ("4", 10), ("5", 9 * MOST), ("6", 10)];
        let sent: Vec<Record> = sent.iter().map(|(step, bytes)| weighing(&gates, step, *bytes)).collect();
        gates.platform.publish(&sent);
        let host = gates.start_host("host");
        let through = gates.until_through();
        assert_eq!((through.counters.dead, through.counters.parked), (1, 5));
        assert_eq!(verdicts(&gates), [("too-large".to_owned(), "value-bytes".to_owned())]);
        host.sigterm();

        let gates = gates.set(&["kafka", "value-bytes"], 4 * MOST as i64);
        let host = gates.start_host("with more room");
        assert_eq!(verdicts(&gates), [("applied".to_owned(), String::new())]);
        // The next one is larger still, and fails in its turn.
        assert_eq!(gates.trails_of(["a"]), ["1 2 3 4"]);
        let letters = gates.letters();
        assert_eq!((letters.len(), &letters[0]["offset"]), (1, &json!(4)), "{letters:#?}");
        host.sigterm();

        let gates = gates.set(&["kafka", "value-bytes"], 10 * MOST as i64);
        let host = gates.start_host("with room for all");
        assert_eq!(verdicts(&gates), [("applied".to_owned(), String::new())]);
        assert_eq!(gates.trails_of(["a"]), ["1 2 3 4 5 6"]);
        let status = gates.until_through();
        assert_closed(&status, 6, 0, 0);
        host.sigterm();
    }
}

/// Nothing but the record itself is taken: neither what took its place in a topic that was created anew, nor
/// what follows it in a log that lost it.
#[test]
fn a_record_that_the_log_lost_is_named_and_no_other_is_taken() {
    let gates = Gates::new("recalled-gone", 1, ReadModel::postgres())
        .set(&["kafka", "value-bytes"], MOST as i64)
        .set(&["failures", "policy"], "dead-letter");
    let topic = gates.platform.topic("step.v1");
    let sent = [("1", 2 * MOST), ("2", 10), ("3", 2 * MOST), ("4", 10)];
    let sent: Vec<Record> = sent.iter().map(|(step, bytes)| weighing(&gates, step, *bytes)).collect();
    gates.platform.publish(&sent);
    let host = gates.start_host("host");
    gates.until_through();
    host.sigterm();
    super::log_identity::delete_records(&gates.platform, &topic, 0, 1);
    let gates = gates.set(&["kafka", "value-bytes"], 4 * MOST as i64);
    let host = gates.start_host("with more room");
    let outcomes = verdicts(&gates);
    assert_eq!(outcomes[0], ("too-large".to_owned(), "gone".to_owned()));
    assert_eq!(outcomes[1], ("applied".to_owned(), String::new()));
    assert_eq!(gates.trails_of(["a"]), ["2 4 3"]);

    gates.platform.publish(&[weighing(&gates, "5", 5 * MOST)]);
    gates.until_through();
    host.sigterm();
    topics::delete(gates.platform.brokers(), &[&topic]).unwrap();
    eventually("the topic is created anew", || {
        topics::create(gates.platform.brokers(), &[Topic::new(&*topic, 1)]).map_err(|error| error.to_string())
    });
    let strange: Vec<Record> = (0..8).map(|_| weighing(&gates, "strange", 10)).collect();
    gates.platform.publish(&strange);
    let gates = gates.set(&["kafka", "value-bytes"], 10 * MOST as i64);
    let host = gates.start_host("beside the new topic");
    let outcomes = verdicts(&gates);
    assert_eq!(outcomes[1], ("too-large".to_owned(), "other-log".to_owned()), "{outcomes:?}");
    assert_eq!(gates.trails_of(["a"]), ["2 4 3"]);
    host.sigterm();
}
