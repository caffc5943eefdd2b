//! Operators pause a projection and let it go on, and what they did is kept.

use crate::harness::{GATES, Gates, ReadModel, eventually};

/// On all hosts, and on one that is started meanwhile.
#[test]
fn a_paused_projection_writes_nothing_until_it_is_resumed() {
    let gates = Gates::new("paused", 2, ReadModel::postgres());
    let hosts = [gates.start_host("one"), gates.start_host("two")];
    gates.publish(&["a1", "b1", "c1", "d1"]);
    gates.until_through();
    gates.platform.ask(&["pause", GATES, "--reason", "the database moves", "--as", "ann"]);
    gates.publish(&["a2", "b2", "c2", "d2"]);
    for host in &hosts {
        host.log().wait_for("that it is paused", |line| line.message() == "projection paused");
    }
    let late = gates.start_host("late");
    late.log().wait_for("that it is paused", |line| line.message() == "projection paused");
    let status = gates.platform.status().unwrap().remove(GATES).unwrap();
    let trouble = status.halted.unwrap();
    assert_eq!((&*trouble.kind, &*trouble.reason), ("operator", "the database moves"));
    assert_eq!((status.counters.applied, status.lag), (4, 4));

    gates.platform.ask(&["resume", GATES, "--as", "bob"]);
    gates.until_through();
    assert_eq!(gates.trails_of(["a", "b", "c", "d"]), ["1 2"; 4]);
    let operations = gates.platform.ask(&["operations", GATES]);
    let who: Vec<_> =
        operations.as_array().unwrap().iter().map(|one| one["asked_by"].as_str().unwrap()).collect();
    assert_eq!(who, ["bob", "ann"]);
    for host in hosts.into_iter().chain([late]) {
        host.sigterm();
    }
}

#[test]
fn what_cannot_be_asked_for_is_answered_with_what_can() {
    let gates = Gates::new("asked", 1, ReadModel::sqlite());
    let host = gates.start_host("host");
    eventually("it is installed", || match gates.platform.status()?.remove(GATES) {
        Some(_) => Ok(()),
        None => Err("it is not".to_owned()),
    });
    for (arguments, expected) in [
        (&["pause", "gate", "--reason", "x"][..], "no projection is called \"gate\""),
        (&["dlq", "show", GATES, "17"], "gates has no dead letter 17"),
        (&["skip", GATES, "--partition", "t", "--to", "1", "--reason", "x"], "`orders/3`"),
    ] {
        let (code, _, said) = gates.platform.command(arguments);
        assert!(code == 2 && said.contains(expected), "{code}: {said}");
    }
    let (code, _, said) =
        gates.platform.command(&["skip", GATES, "--partition", "t/7", "--to", "1", "--reason", "x"]);
    assert!(code == 1 && said.contains("Kafka has no partition t/7"), "{code}: {said}");
    host.sigterm();
}
