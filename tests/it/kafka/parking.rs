//! Behind an event that failed, later events of its key wait, in order; all others flow.

use std::collections::{BTreeMap, BTreeSet};

use projector_workload::Record;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::{GATES, Gates, Host, ReadModel, Step, eventually, seed};

/// Across batches and a restart, on both stores; then the dead letter is retried too early, in vain; tried
/// without being written; and retried.
#[test]
fn what_waits_follows_in_order_when_its_dead_letter_is_retried() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("waits", 1, read_model).set(&["batch", "events"], 2);
        let host = gates.start_host("first");
        gates.publish(&["a1", "b1", "a2 if x", "b2", "a3", "a4", "b3"]);
        gates.until_through();
        host.sigterm();
        let host = gates.start_host("second");
        gates.publish(&["a5", "b4", "a6"]);
        let status = gates.until_through();
        assert_eq!(gates.trails_of(["a", "b"]), ["1", "1 2 3 4"]);
        assert_eq!(
            (status.counters.applied, status.counters.dead, status.counters.parked),
            (5, 1, 4),
            "{:?}",
            status.counters
        );

        let letter = gates.only_letter();
        let shown = gates.platform.ask(&["dlq", "show", GATES, &letter]);
        assert_eq!(
            (&shown["parked"], &shown["code"], &shown["key"]),
            (&4.into(), &"closed".into(), &"a".into())
        );
        assert!(shown["payload"].as_str().unwrap().contains("\"gate\":\"x\""), "{shown}");

        let (code, printed, said) =
            gates.platform.command(&["dlq", "retry", GATES, &letter, "--output", "json"]);
        assert_eq!((code, printed[0]["verdict"]["outcome"].as_str()), (1, Some("rejected")), "{said}");
        assert_eq!(gates.platform.ask(&["dlq", "show", GATES, &letter])["attempts"], 2);

        gates.open(&["x"]);
        gates.until_through();
        let dry = gates.platform.ask(&["dlq", "retry", GATES, &letter, "--dry-run"]);
        assert_eq!(dry[0]["verdict"]["outcome"], "applied", "{dry}");
        let would: Vec<&str> = dry[0]["verdict"]["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| change["arguments"]["steps"].as_str().unwrap())
            .collect();
        assert_eq!(would, ["\"1 2\"", "\"1 2 3\""], "as many as one transaction takes");
        assert_eq!(gates.trails_of(["a"]), ["1"], "a dry run writes nothing");

        let done = gates.platform.ask(&["dlq", "retry", GATES, &letter, "--reason", "x is open"]);
        let verdict = &done[0]["verdict"];
        assert_eq!(
            (&verdict["outcome"], &verdict["applied"], &verdict["waiting"]),
            (&"applied".into(), &4.into(), &0.into())
        );
        assert_eq!(gates.trails_of(["a", "b"]), ["1 2 3 4 5 6", "1 2 3 4"]);
        let status = gates.until_through();
        assert_eq!((status.counters.read, status.counters.applied), (11, 11), "{:?}", status.counters);
        assert!(gates.letters().is_empty());
        let operations = gates.platform.ask(&["operations", GATES]);
        assert_eq!(
            (&operations[0]["action"], &operations[0]["reason"]),
            (&"retry".into(), &"x is open".into())
        );
        assert!(operations[1]["dry_run"].as_bool().unwrap());
        gates.publish(&["a7"]);
        gates.until_through();
        assert_eq!(gates.trails_of(["a"]), ["1 2 3 4 5 6 7"], "the key is free");
        host.sigterm();
    }
}

/// One that waited fails in its turn: it is the dead letter then, and the others go on waiting.
#[test]
fn what_fails_in_its_turn_keeps_the_others_waiting() {
    let gates = Gates::new("turn", 1, ReadModel::postgres());
    let host = gates.start_host("host");
    gates.publish(&["a1 if x", "a2", "a3 if y", "a4", "a5 if z"]);
    gates.open(&["x", "z"]);
    gates.until_through();
    let first = gates.only_letter();
    let done = gates.platform.ask(&["dlq", "retry", GATES, &first]);
    let verdict = &done[0]["verdict"];
    assert_eq!(
        (&verdict["outcome"], &verdict["applied"], &verdict["waiting"]),
        (&"applied".into(), &1.into(), &2.into())
    );
    assert!(verdict["behind"].as_str().unwrap().ends_with("/0@2"), "{verdict}");
    assert_eq!(gates.trails_of(["a"]), ["1 2"]);
    let status = gates.until_through();
    assert_eq!((status.counters.dead, status.counters.parked), (1, 2), "{:?}", status.counters);

    // Whoever waited behind a dead letter that is dropped follows as well.
    let second = gates.only_letter();
    let (code, _, said) = gates.platform.command(&["dlq", "discard", GATES, &second]);
    assert!(code == 2 && said.contains("--reason"), "{said}");
    gates.platform.ask(&["dlq", "discard", GATES, &second, "--reason", "it was a test's"]);
    assert_eq!(gates.trails_of(["a"]), ["1 2 4 5"]);
    let status = gates.until_through();
    assert_eq!((status.counters.applied, status.counters.skipped), (6, 1), "{:?}", status.counters);
    host.sigterm();
}

/// A host is killed in the middle of a retry that takes several transactions; another one goes on with it,
/// and the command gets its answer.
#[test]
fn a_retry_that_is_killed_is_gone_on_with() {
    for (failpoint, at) in
        [("before-write", 1), ("before-commit", 2), ("after-commit", 1), ("after-commit", 3)]
    {
        let gates = Gates::new("killed", 1, ReadModel::postgres()).set(&["batch", "events"], 3);
        let host = gates.start_host("first");
        gates.publish(&["a1 if x", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"]);
        gates.open(&["x"]);
        gates.until_through();
        let letter = gates.only_letter();
        host.sigterm();
        // It reads nothing more: what it commits is the retry's.
        let host = gates.platform.start_host_with("second", &format!("{failpoint}=kill@{at}"));
        host.group(GATES);
        std::thread::scope(|scope| {
            let retried = scope.spawn(|| gates.platform.ask(&["dlq", "retry", GATES, &letter]));
            host.until_killed_at(failpoint);
            let third = gates.start_host("third");
            third.group(GATES);
            let done = retried.join().unwrap();
            assert_eq!(done[0]["verdict"]["outcome"], "applied", "{done}");
            third.sigterm();
        });
        assert_eq!(gates.trails_of(["a"]), ["1 2 3 4 5 6 7 8 9"], "killed at {failpoint}, {at}");
        let status = gates.until_through();
        assert_eq!((status.counters.read, status.counters.applied), (10, 10), "{:?}", status.counters);
    }
}

/// Two topics that are keyed alike, many keys, two hosts, of which one joins, dies and is replaced, while
/// gates are opened and dead letters retried: every step is on its trail once, and each topic's in order.
#[test]
fn keys_keep_their_order_across_hosts_and_rebalances() {
    let mut rng = StdRng::seed_from_u64(seed(61));
    let gates = Gates::new("order", 4, ReadModel::postgres()).set(&["batch", "events"], 20);
    let keys: Vec<String> = (0..12).map(|key| format!("k{key}")).collect();
    let closed: Vec<String> = (0..30).map(|gate| format!("g{gate}")).collect();
    let mut left = closed.clone();
    let mut expected: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    let steady = gates.start_host("steady");
    let mut hosts: Vec<Host> = Vec::new();
    for round in 0..6 {
        let records: Vec<Record> = (0..100)
            .map(|number| {
                let of = keys.choose(&mut rng).unwrap();
                let topic = *["step.v1", "step.v2"].choose(&mut rng).unwrap();
                let step = format!("{}.{round}.{number}", &topic[5..]);
                let gate = if rng.random_bool(0.05) { left.pop() } else { None };
                expected.entry((of.clone(), topic)).or_default().push(step.clone());
                gates.record(topic, &Step { of, step: &step, gate: gate.as_deref() })
            })
            .collect();
        gates.platform.publish(&records);
        let opened: Vec<&str> = closed[round * 5..(round + 1) * 5].iter().map(String::as_str).collect();
        gates.open(&opened);
        match round % 3 {
            0 => hosts.push(gates.start_host(&format!("joins {round}"))),
            1 => hosts.pop().expect("it joined").kill(),
            _ => {}
        }
        gates.platform.command(&["dlq", "retry", GATES, "--all"]);
    }
    gates.until_through();
    eventually("all dead letters are retried with success", || {
        gates.platform.command(&["dlq", "retry", GATES, "--all"]);
        let letters = gates.letters();
        if letters.is_empty() { Ok(()) } else { Err(format!("{letters:#?}")) }
    });
    let trails = gates.trails();
    let walked: BTreeSet<&String> = trails.keys().collect();
    assert_eq!(walked, expected.keys().map(|(of, _)| of).collect());
    for ((of, topic), steps) in &expected {
        let found: Vec<&str> = trails[of].split(' ').filter(|step| step.starts_with(&topic[5..])).collect();
        assert_eq!(&found, steps, "{of}, {topic}");
    }
    let status = gates.until_through();
    assert_eq!((status.counters.read, status.counters.applied), (630, 630), "{:?}", status.counters);
    steady.sigterm();
}

/// One request about many dead letters takes seconds, and not half a second for each: those that nothing waits
/// behind, those that something does, and one that fails again.
#[test]
fn thousands_of_dead_letters_are_dealt_with_at_once() {
    const KEYS: usize = 2_000;
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("thousands", 2, read_model)
            .set(&["failures", "consecutive"], i64::MAX)
            .set(&["failures", "ratio"], 1.0);
        let record = |key: usize, step: &str, gate: Option<&str>| {
            gates.record("step.v1", &Step { of: &format!("k{key}"), step, gate })
        };
        let mut records: Vec<_> =
            (0..KEYS).map(|key| record(key, "1", Some(if key == 7 { "never" } else { "x" }))).collect();
        // Behind each hundredth, one waits.
        records.extend((0..KEYS).step_by(100).map(|key| record(key, "2", None)));
        gates.platform.publish(&records);
        let host = gates.start_host("host");
        let status = gates.until_through();
        assert_eq!((status.counters.dead, status.counters.parked), (KEYS as u64, KEYS as u64 / 100));
        gates.open(&["x"]);
        gates.until_through();
        let began = std::time::Instant::now();
        let (code, done, said) = gates.platform.command(&[
            "dlq",
            "retry",
            GATES,
            "--all",
            "--reason",
            "x is open",
            "--output",
            "json",
        ]);
        let took = began.elapsed();
        assert_eq!(code, 1, "{said}");
        let outcomes =
            done.as_array().unwrap().iter().map(|done| done["verdict"]["outcome"].as_str().unwrap());
        assert_eq!(outcomes.clone().filter(|outcome| *outcome == "applied").count(), KEYS - 1);
        assert_eq!(outcomes.filter(|outcome| *outcome == "rejected").count(), 1);
        assert!(took.as_secs() < 40, "{KEYS} dead letters took {took:?}");
        let trails = gates.trails();
        assert_eq!((trails.len(), trails.get("k7")), (KEYS - 1, None));
        assert_eq!((&*trails["k100"], &*trails["k101"]), ("1 2", "1"));
        let status = gates.until_through();
        assert_eq!((status.counters.dead, status.counters.parked), (1, 0), "{:?}", status.counters);
        assert_eq!(status.counters.applied, (KEYS - 1 + KEYS / 100 + 1) as u64);
        let letter = gates.only_letter();
        gates.platform.ask(&["dlq", "discard", GATES, &letter, "--reason", "it never opens"]);
        assert!(gates.letters().is_empty());
        let (code, _, said) = gates.platform.command(&["dlq", "retry", GATES, &letter]);
        assert!(code == 2 && said.contains("these dead letters do not exist"), "{said}");
        host.sigterm();
    }
}
