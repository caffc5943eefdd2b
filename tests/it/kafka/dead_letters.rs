//! What becomes of events that fail is the platform's choice, and it has its bounds.

use projector_workload::Record;
use serde_json::json;

use crate::harness::{GATES, Gates, Platform, Plugins, ReadModel, eventually, step};

/// Nothing waits behind an event without a key, nor behind any under the policy `dead-letter`.
#[test]
fn nothing_waits_where_nothing_is_to() {
    let gates = Gates::new("keyless", 1, ReadModel::postgres());
    let keyless = |written: &str| {
        let mut record = gates.record("step.v1", &step(written));
        record.key = None;
        record
    };
    gates.platform.publish(&["a1 if x", "a2", "a3"].map(keyless));
    let host = gates.start_host("park-key");
    let status = gates.until_through();
    assert_eq!(gates.trails_of(["a"]), ["2 3"]);
    assert_eq!((status.counters.dead, status.counters.parked), (1, 0), "{:?}", status.counters);
    host.sigterm();

    let gates = gates.set(&["failures", "policy"], "dead-letter");
    gates.publish(&["b1 if x", "b2"]);
    let host = gates.start_host("dead-letter");
    gates.until_through();
    assert_eq!(gates.trails_of(["b"]), ["2"]);
    gates.open(&["x"]);
    gates.until_through();
    gates.platform.ask(&["dlq", "retry", GATES, "--all"]);
    assert_eq!(gates.trails_of(["a", "b"]), ["2 3 1", "2 1"]);
    host.sigterm();
}

/// Under the policy `halt` the projection stands still before the event, also after a new start, until
/// somebody passes over it with a reason.
#[test]
fn a_projection_that_halts_stands_before_the_event_until_it_is_skipped() {
    let gates = Gates::new("halts", 1, ReadModel::sqlite()).set(&["failures", "policy"], "halt");
    gates.publish(&["a1", "a2", "a3 if x", "a4"]);
    let until_halted = || {
        eventually("it stands still", || {
            let status = gates.platform.status()?.remove(GATES).ok_or("it is not installed")?;
            match &status.halted {
                Some(trouble) if trouble.kind == "halted" => Ok(status),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let host = gates.start_host("first");
    let status = until_halted();
    let trouble = status.halted.as_ref().unwrap();
    assert!(trouble.says(&["/0@2 failed: rejected (closed)", "projector skip"]), "{trouble:?}");
    assert_eq!((status.counters.read, status.dead_letters), (2, 0), "{:?}", status.counters);
    host.sigterm();

    let host = gates.start_host("second");
    host.log().wait_for("that it is blocked", |line| line.message().starts_with("projection is blocked"));
    let partition = format!("{}/0", gates.platform.topic("step.v1"));
    let (code, _, said) =
        gates.platform.command(&["skip", GATES, "--partition", &partition, "--to", "40", "--reason", "far"]);
    assert!(code == 1 && said.contains("ends at offset 4"), "{said}");
    let (code, _, said) =
        gates.platform.command(&["skip", GATES, "--partition", &partition, "--to", "2", "--reason", "back"]);
    assert!(code == 1 && said.contains("it only moves forward"), "{said}");
    gates.platform.ask(&["skip", GATES, "--partition", &partition, "--to", "3", "--reason", "x never opens"]);
    gates.platform.ask(&["resume", GATES]);
    let status = gates.until_through();
    assert_eq!(gates.trails_of(["a"]), ["1 2 4"]);
    assert_eq!((status.counters.read, status.counters.skipped), (4, 1), "{:?}", status.counters);
    let operations = gates.platform.ask(&["operations", GATES]);
    let actions: Vec<_> =
        operations.as_array().unwrap().iter().map(|one| (&one["action"], &one["reason"])).collect();
    assert_eq!(actions, [(&json!("resume"), &json!(null)), (&json!("skip"), &json!("x never opens"))]);
    host.sigterm();
}

/// Fault 39: where every event is poison, the projection stands still, and a neighbour goes on.
#[test]
fn a_flood_of_failures_stops_the_projection() {
    let gates = Gates::new("flood", 1, ReadModel::postgres())
        .set(&["failures", "consecutive"], 7)
        .set(&["failures", "dead-letters"], 10);
    let poison = |number: usize| Record::new(gates.platform.topic("step.v1"), format!("k{number}"), "poison");
    gates.platform.publish(&(0..500).map(poison).collect::<Vec<_>>());
    let host = gates.start_host("host");
    let until_still = |kind: &str, letters: u64| {
        eventually(&format!("it stands still: {kind}"), || {
            let status = gates.platform.status()?.remove(GATES).ok_or("it is not installed")?;
            match &status.halted {
                Some(trouble) if trouble.kind == kind && status.dead_letters == letters => Ok(status),
                other => Err(format!("{other:?}, {} dead letters", status.dead_letters)),
            }
        })
    };
    let status = until_still("flood", 7);
    assert!(
        status.halted.as_ref().unwrap().says(&["the last 7 events failed", "/0@7"]),
        "{:?}",
        status.halted
    );
    assert_eq!(status.counters.read, 7);
    // Somebody lets it go on without having looked: no more than the bound.
    gates.platform.ask(&["resume", GATES]);
    let status = until_still("full", 7);
    assert!(
        status.halted.as_ref().unwrap().says(&["10 are the most", "projector dlq"]),
        "{:?}",
        status.halted
    );
    // What is the matter can be seen to while it stands still.
    gates.platform.ask(&["dlq", "discard", GATES, "--code", "bad-payload", "--reason", "poison"]);
    assert!(gates.letters().is_empty());
    gates.platform.ask(&["resume", GATES]);
    let status = until_still("flood", 7);
    assert_eq!((status.counters.read, status.counters.skipped), (14, 7), "{:?}", status.counters);
    host.sigterm();
}

/// By code, by kind, by key, by time.
#[test]
fn dead_letters_are_found_by_what_they_are() {
    let gates = Gates::new("found", 1, ReadModel::sqlite());
    gates.publish(&["a1 if x", "b1 if x"]);
    let panics = json!({"of": "d", "step": "1", "gate": "z", "panic": true}).to_string();
    gates.platform.publish(
        &[("c", "poison"), ("d", &panics)]
            .map(|(key, payload)| Record::new(gates.platform.topic("step.v1"), key, payload)),
    );
    let host = gates.start_host("host");
    gates.until_through();
    let found = |options: &[&str]| -> Vec<String> {
        let letters = gates.platform.ask(&[&["dlq", "list", GATES], options].concat());
        letters.as_array().unwrap().iter().map(|letter| letter["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found(&[]), ["a", "b", "c", "d"]);
    assert_eq!(found(&["--code", "closed"]), ["a", "b"]);
    assert_eq!(found(&["--kind", "rejected", "--code", "bad-payload"]), ["c"]);
    assert_eq!(found(&["--key", "b"]), ["b"]);
    assert_eq!(found(&["--key-hex", "62"]), ["b"]);
    assert_eq!(found(&["--since", "1h"]), ["a", "b", "c", "d"]);
    assert!(found(&["--until", "1h"]).is_empty());
    assert_eq!(found(&["--limit", "1"]), ["a"]);
    let (code, _, said) = gates.platform.command(&["dlq", "retry", GATES]);
    assert!(code == 2 && said.contains("no dead letters are selected"), "{said}");
    let (_, _, said) = gates.platform.command(&["dlq", "list"]);
    assert!(said.contains("rejected (closed)") && said.contains("bad-payload"), "{said}");

    let letters = gates.platform.ask(&["dlq", "list", GATES, "--kind", "trap"]);
    let trapped = letters[0]["id"].to_string();
    let shown = gates.platform.ask(&["dlq", "show", GATES, &trapped]);
    assert!(shown["detail"].as_str().unwrap().contains("gate z is closed"), "{shown}");
    assert!(shown["backtrace"].as_str().unwrap().contains("gates::"), "{shown}");
    let (_, _, said) = gates.platform.command(&["dlq", "show", GATES, &trapped]);
    for part in [
        "d",
        "trap (trap)",
        "gate z is closed",
        "gates::",
        "what to do",
        "a bug in the plugin",
        "\"panic\": true",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // Without a host that does it, nothing is done, and the command says so.
    host.sigterm();
    let (code, _, said) = gates.platform.command(&["dlq", "retry", GATES, "--all", "--timeout", "1s"]);
    assert!(code == 1 && said.contains("no host started"), "{said}");
    assert_eq!(gates.platform.ask(&["operations", GATES]), json!([]), "what nobody did is not kept");
}

/// A key that must be forgotten: its dead letters and all that waits, while a host runs.
#[test]
fn an_erased_key_leaves_nothing_behind_and_flows_again() {
    let gates = Gates::new("erased", 1, ReadModel::postgres());
    let host = gates.start_host("host");
    gates.publish(&["a1 if x", "a2", "b1 if x", "a3"]);
    gates.until_through();
    let erased = gates.platform.ask(&["dlq", "erase", GATES, "--key", "a", "--reason", "the customer asked"]);
    assert_eq!(erased["erased"], 3);
    gates.publish(&["a4", "b2"]);
    let status = gates.until_through();
    assert_eq!(gates.trails_of(["a", "b"]), ["4", ""]);
    assert_eq!((status.counters.skipped, status.counters.parked), (3, 1), "{:?}", status.counters);
    let kept = gates.platform.read_model().query(
        "select count(*)::text from (select key from projector.dead_letter where key = 'a' union all
           select key from projector.parked where key = 'a') as kept",
    );
    assert_eq!(kept[0][0].as_deref(), Some("0"));
    host.sigterm();
}

/// Dead letters that no event waits behind are discarded when they are old, and their keys are free; others
/// stay. As long as that fails, the log and `/v1/retrying` say so.
#[test]
fn old_dead_letters_are_discarded_if_nothing_waits_behind_them() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let (letters, two_days, refuse) = match &read_model {
            ReadModel::Postgres { .. } => (
                "projector.dead_letter",
                "interval '2 days'",
                "create function public.refuse() returns trigger language plpgsql as
                   $$ begin raise exception 'not yet' using errcode = '55000'; end $$;
                 create trigger refuse before delete on projector.dead_letter
                   for each row execute function public.refuse()",
            ),
            ReadModel::Sqlite { .. } => (
                "projector_dead_letter",
                "172800000000",
                "create trigger refuse before delete on projector_dead_letter begin
                   select raise(fail, 'not yet'); end",
            ),
        };
        let gates = Gates::new("old", 1, read_model);
        gates.publish(&["a1 if x", "a2", "c1 if x"]);
        gates.platform.publish(&[{
            let mut keyless = gates.record("step.v1", &step("b1 if x"));
            keyless.key = None;
            keyless
        }]);
        let host = gates.start_host("keeps all");
        gates.until_through();
        assert_eq!(gates.letters().len(), 3);
        host.sigterm();
        let database = gates.platform.read_model();
        database.execute(&format!("update {letters} set died_at = died_at - {two_days}"));
        database.execute(refuse);
        let gates = gates.set(&["failures", "retention"], "1day");
        let host = gates.start_host("forgets");
        host.log().wait_for("that it fails", |line| {
            line.field("level") == "WARN"
                && line.field("error").contains("old dead letters could not be discarded")
                && line.field("error").contains("not yet")
        });
        gates.platform.read_model().execute(match letters {
            "projector_dead_letter" => "drop trigger refuse",
            _ => "drop trigger refuse on projector.dead_letter",
        });
        eventually("the old ones are gone", || match gates.letters().as_slice() {
            [left] if left["key"] == "a" => Ok(()),
            letters => Err(format!("{letters:#?}")),
        });
        gates.publish(&["c2"]);
        let status = gates.until_through();
        assert_eq!(gates.trails_of(["a", "c"]), ["", "2"], "the key c is free");
        assert_eq!(
            (status.counters.dead, status.counters.parked, status.counters.skipped),
            (1, 1, 2),
            "{:?}",
            status.counters
        );
        host.sigterm();
    }
}

/// What waited and runs out of time in its turn is the dead letter then: nothing is left that nobody sees.
#[test]
fn what_runs_out_of_time_in_its_turn_keeps_the_others_waiting() {
    let plugins = Plugins::new(&["hostile-guest"]);
    let platform = Platform::new("slow", &[], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path())
        .set(&["limits", "fuel"], i64::MAX)
        .set(&["limits", "batch-fuel"], i64::MAX)
        .set(&["limits", "time"], "200ms");
    platform.create_topics(1);
    let topic = platform.topic("hostile.events.v1");
    let deed = |deed: &str, id: &str| Record::new(&*topic, "k", json!({"do": deed, "id": id}).to_string());
    platform.publish(&[deed("trap", "0")]);
    let host = platform.start_host("host");
    platform.until_through("hostile");
    // Events that wait are not held against their time before their turn.
    platform.publish(&[deed("write", "1"), deed("write", "2")]);
    platform.until_through("hostile");
    host.sigterm();
    // As if the plugin had become slow meanwhile.
    platform.read_model().query(
        "update projector.parked set payload = convert_to('{\"do\": \"loop\", \"id\": \"2\"}', 'UTF8')
         where \"offset\" = 2 returning id::text",
    );
    let host = platform.start_host("again");
    let done = platform.ask(&["dlq", "discard", "hostile", "--all", "--reason", "it traps"]);
    let verdict = &done[0]["verdict"];
    assert_eq!((&verdict["outcome"], &verdict["applied"]), (&json!("discarded"), &json!(1)), "{done}");
    assert!(verdict["behind"].as_str().unwrap().ends_with("/0@2"), "{done}");
    let letters = platform.ask(&["dlq", "list", "hostile"]);
    assert_eq!((&letters[0]["kind"], &letters[0]["parked"]), (&json!("timeout"), &json!(0)), "{letters}");
    host.sigterm();
}
