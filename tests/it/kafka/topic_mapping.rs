//! One logical topic may be several physical ones, and several logical topics one physical topic: nothing is
//! lost, nothing is applied twice, and nothing of other topics is ever touched.

use std::collections::BTreeSet;

use projector_workload::Record;
use projector_workload::topics::{self, Topic};
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::harness::{
    Argument, GATES, Gates, Guest, Platform, Plugins, ReadModel, assert_closed, dead_letters, descriptor,
    eventually, rows,
};

fn list(names: &[String]) -> Value {
    Value::Array(names.iter().map(|name| Value::String(name.clone())).collect())
}

fn pattern(text: String) -> Value {
    Value::Table(Table::from_iter([("pattern".to_owned(), Value::String(text))]))
}

fn create(platform: &Platform, names: &[&str]) {
    let made: Vec<Topic> = names.iter().map(|name| Topic::new(platform.topic(name), 1)).collect();
    topics::create(platform.brokers(), &made).unwrap();
}

/// Steps of these keys, on one physical topic.
fn publish(gates: &Gates, topic: &str, steps: &[(&str, &str)]) {
    let record = |(of, step): &(&str, &str)| {
        Record::new(gates.platform.topic(topic), *of, json!({"of": of, "step": step}).to_string())
    };
    gates.platform.publish(&steps.iter().map(record).collect::<Vec<_>>());
}

/// The physical topics of which the projection has checkpoints, without the test's own prefix.
fn read_topics(platform: &Platform, projection: &str) -> BTreeSet<String> {
    let prefix = platform.topic("");
    let checkpoints = platform.read_model().checkpoints(projection);
    checkpoints.into_keys().map(|(topic, _)| topic.trim_start_matches(&prefix).to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A list: each is read to its end, and the plugin sees which it is.
#[test]
fn one_logical_topic_may_be_a_list() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("list", 1, read_model);
        let (eu, us) = (gates.platform.topic("eu.step"), gates.platform.topic("us.step"));
        let gates = gates.set(&["kafka", "topics", "step.v1"], list(&[eu.clone(), us.clone()]));
        create(&gates.platform, &["eu.step", "us.step"]);
        publish(&gates, "eu.step", &[("a", "1"), ("a", "2"), ("e", "where")]);
        publish(&gates, "us.step", &[("b", "1"), ("u", "where")]);
        let host = gates.start_host("host");
        assert_closed(&gates.until_through(), 5, 0, 0);
        assert_eq!(gates.trails_of(["a", "b"]), ["1 2", "1"]);
        assert_eq!(gates.trails_of(["e", "u"]), [eu, us]);
        host.sigterm();
    }
}

/// A pattern: what matches is read, also a topic that is created while the host runs, from its beginning; one
/// that is deleted is named and stops nothing; topics that do not match have no checkpoints.
#[test]
fn what_matches_is_read_from_its_beginning_as_long_as_it_is_there() {
    let gates = Gates::new("pattern", 1, ReadModel::postgres());
    let text = format!("^{}tenant-[a-z]+\\.step$", gates.platform.topic("").replace('.', "\\."));
    let gates = gates.set(&["kafka", "topics", "step.v1"], pattern(text));
    create(&gates.platform, &["tenant-a.step", "tenant-b.step", "tenant-9.step", "tenant-a.step.dlt"]);
    publish(&gates, "tenant-a.step", &[("a", "1")]);
    publish(&gates, "tenant-b.step", &[("b", "1")]);
    publish(&gates, "tenant-9.step", &[("z", "1")]);
    let host = gates.start_host("first");
    assert_closed(&gates.until_through(), 2, 0, 0);

    create(&gates.platform, &["tenant-c.step"]);
    publish(&gates, "tenant-c.step", &[("c", "1"), ("c", "2")]);
    let new = gates.platform.topic("tenant-c.step");
    host.log().wait_for("that a new topic matches", |line| {
        line.message().starts_with("new topic matches") && line.field("topic") == new
    });
    eventually("the new topic is read", || match gates.trails_of(["c"]) {
        [trail] if trail == "1 2" => Ok(()),
        other => Err(other),
    });

    let gone = gates.platform.topic("tenant-b.step");
    topics::delete(gates.platform.brokers(), &[&gone]).unwrap();
    host.log().wait_for("that a topic is gone", |line| {
        line.message().starts_with("topic was deleted") && line.field("topic") == gone
    });
    publish(&gates, "tenant-a.step", &[("a", "2")]);
    publish(&gates, "tenant-c.step", &[("c", "3")]);
    eventually("the others go on", || match gates.trails_of(["a", "b", "c"]) {
        trails if trails == ["1 2", "1", "1 2 3"] => Ok(()),
        other => Err(other),
    });
    host.sigterm();

    // So does a host that begins without it.
    let host = gates.start_host("second");
    publish(&gates, "tenant-a.step", &[("a", "3")]);
    let status = gates.until_through();
    assert_eq!(gates.trails_of(["a", "b", "c", "z"]), ["1 2 3", "1", "1 2 3", ""]);
    assert_eq!(status.counters.read, 7, "{:?}", status.counters);
    let shown: Vec<_> = status.topics.iter().filter(|topic| topic.logical == ["step.v1"]).collect();
    let left: Vec<_> = shown.iter().map(|topic| (topic.topic.as_str(), topic.left_ms.is_some())).collect();
    let tenant = |letter: &str| gates.platform.topic(&format!("tenant-{letter}.step"));
    assert_eq!(left, [(&*tenant("a"), false), (&*gone, true), (&*new, false)]);
    assert!(shown[2].since_ms > shown[0].since_ms, "{shown:?}");
    let read = read_topics(&gates.platform, GATES);
    let declared = ["gate.v1", "step.v2", "tenant-a.step", "tenant-b.step", "tenant-c.step"];
    assert_eq!(read, set(&declared), "and no foreign topic");
    host.sigterm();
}

/// A generation is built from what was declared. With another mapping it goes on as it is, which is said; a
/// rebuild reads what the configuration says by now.
#[test]
fn a_generation_goes_on_with_the_topics_that_it_is_built_from() {
    let gates = Gates::new("remapped", 1, ReadModel::postgres());
    let (eu, us) = (gates.platform.topic("eu.step"), gates.platform.topic("us.step"));
    let gates = gates.set(&["kafka", "topics", "step.v1"], eu.as_str());
    create(&gates.platform, &["eu.step", "us.step"]);
    publish(&gates, "eu.step", &[("a", "1")]);
    publish(&gates, "us.step", &[("b", "1")]);
    let host = gates.start_host("first");
    gates.until_through();
    host.sigterm();

    let gates = gates.set(&["kafka", "topics", "step.v1"], list(&[eu, us]));
    let host = gates.start_host("second");
    host.log().wait_for("that the mapping is another one", |line| {
        line.message().starts_with("the generation continues to read the topics that it was built from")
            && line.message().contains("step.v1")
            && line.field("advice").contains("projector rebuild gates")
    });
    publish(&gates, "eu.step", &[("a", "2")]);
    gates.until_through();
    assert_eq!(gates.trails_of(["a", "b"]), ["1 2", ""]);

    gates.platform.ask(&["rebuild", GATES]);
    eventually("the new generation is shown", || {
        let (code, _, said) = gates.platform.command(&[
            "promote",
            GATES,
            "--force",
            "--reason",
            "it reads another topic as well",
        ]);
        if code == 0 { Ok(()) } else { Err(said) }
    });
    assert_eq!(gates.trails_of(["a", "b"]), ["1 2", "1"]);
    host.sigterm();
}

/// A second host whose configuration maps a topic otherwise shares the generation, and reads what that is built
/// from: its own topic is not mixed in. So it is where a host of an older version made the generation, and did not
/// say what it is built from.
#[test]
fn a_second_host_with_another_mapping_reads_the_same_topics() {
    for of_older_version in [false, true] {
        let gates = Gates::new("two-mappings", 1, ReadModel::postgres());
        let (eu, us) = (gates.platform.topic("eu.step"), gates.platform.topic("us.step"));
        let gates = gates.set(&["kafka", "topics", "step.v1"], eu.as_str());
        create(&gates.platform, &["eu.step", "us.step"]);
        publish(&gates, "eu.step", &[("a", "1")]);
        publish(&gates, "us.step", &[("z", "1"), ("z", "2")]);
        let mut first = gates.start_host("first");
        gates.until_through();
        if of_older_version {
            first.sigterm();
            gates.platform.read_model().query("update projector.generation set layout = layout - 'physical'");
            first = gates.start_host("again");
            gates.platform.until_shared_by(&first.group(GATES), 1);
        }
        let gates = gates.set(&["kafka", "topics", "step.v1"], us.as_str());
        let second = gates.start_host("second");
        gates.platform.until_shared_by(&second.group(GATES), 2);
        second.log().wait_for("that the mapping is another one", |line| {
            line.message().starts_with("the generation continues to read the topics that it was built from")
                && line.message().contains("step.v1")
        });
        publish(&gates, "us.step", &[("z", "3")]);
        publish(&gates, "eu.step", &[("a", "2")]);
        eventually("the topic that it is built from is read", || match gates.trails_of(["a"]) {
            [trail] if trail == "1 2" => Ok(()),
            other => Err(other),
        });
        gates.until_through();
        assert_eq!(gates.trails_of(["a", "z"]), ["1 2", ""]);
        assert_eq!(read_topics(&gates.platform, GATES), set(&["eu.step", "gate.v1", "step.v2"]));
        second.sigterm();
        first.sigterm();
    }
}

/// Two logical topics of which one physical topic is read partly by both: each event goes to each handler.
#[test]
fn an_event_of_two_logical_topics_goes_to_both_in_declared_order() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("overlap", 1, read_model);
        let own = |names: [&str; 2]| list(&names.map(|name| gates.platform.topic(name)));
        let (first, second) = (own(["one.step", "both.step"]), own(["both.step", "two.step"]));
        let gates = gates
            .set(&["kafka", "topics", "step.v1"], first)
            .set(&["kafka", "topics", "step.v2"], second)
            .set(&["batch", "events"], 2);
        create(&gates.platform, &["one.step", "both.step", "two.step"]);
        publish(&gates, "one.step", &[("a", "1")]);
        publish(&gates, "both.step", &[("b", "1"), ("b", "2"), ("b", "3"), ("b", "4")]);
        publish(&gates, "two.step", &[("c", "1")]);
        let host = gates.start_host("host");
        // Each is counted once.
        assert_closed(&gates.until_through(), 6, 0, 0);
        // The second handler sees what the first one wrote.
        assert_eq!(gates.trails_of(["a", "b", "c"]), ["1", "1 1 2 2 3 3 4 4", "1"]);
        host.sigterm();
    }
}

/// Counts an event of `first.v1` as kind 1. One of `second.v1` is rejected as long as there is no row of kind 2,
/// which `third.v1` makes, and counts as kind 3.
fn counting() -> Guest {
    let mut declared: Json = serde_json::from_str(&descriptor("counts")).unwrap();
    declared["topics"] = json!([
        {"name": "first.v1", "statements": ["count"]},
        {"name": "second.v1", "statements": ["count"], "lookups": ["one"]},
        {"name": "third.v1", "statements": ["count"]},
    ]);
    let mut guest = Guest::describing(&declared.to_string());
    let [one, two, three] =
        [1, 2, 3].map(|kind| guest.changes(&[(0, &[Argument::Int64(kind), Argument::Int64(1)])]));
    let needs = guest.needs(&[(0, &[Argument::Int64(2)])]);
    let rejected = guest.rejection("odd", "there is no row of kind 2");
    // Of what was found: the number of its rows.
    let found = format!(
        "(if (result i32) (local.get $found_len)
           (then (if (result i32) (i32.load offset=16 (local.get $found))
             (then (i32.const {three})) (else (i32.const {rejected}))))
           (else (i32.const {needs})))"
    );
    guest.project(&format!(
        "(if (result i32) (i32.eqz (local.get $topic))
           (then (i32.const {one}))
           (else (if (result i32) (i32.eq (local.get $topic) (i32.const 1))
             (then {found}) (else (i32.const {two})))))"
    ))
}

/// The event fails if one of its handlers does: nothing of the others stays, and a retry gives it to all again.
#[test]
fn an_event_fails_if_the_second_of_its_handlers_does() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let plugins = Plugins::new(&[]).add("counts.wasm", counting().component());
        let platform = Platform::new("two-handlers", &[], read_model);
        let (both, opens) = (platform.topic("both"), platform.topic("opens"));
        let platform = platform
            .set(&["plugins", "directory"], plugins.path())
            .set(&["kafka", "topics", "first.v1"], both.as_str())
            .set(&["kafka", "topics", "second.v1"], list(std::slice::from_ref(&both)))
            .set(&["kafka", "topics", "third.v1"], opens.as_str());
        create(&platform, &["both", "opens"]);
        let record = |topic: &str, key: &str| Record::new(topic, key, "A");
        platform.publish(&[record(&both, "k"), record(&both, "k"), record(&both, "other")]);
        let host = platform.start_host("host");
        let status = platform.until_through("counts");
        let counted = || {
            let rows = rows(platform.read_model(), "counts", "seen", &["kind", "events"]);
            rows.into_iter()
                .map(|row| row.into_iter().flatten().collect::<Vec<_>>().join(":"))
                .collect::<Vec<_>>()
        };
        // One waits behind the first of its key.
        assert_eq!((status.counters.dead, status.counters.parked), (2, 1), "{:?}", status.counters);
        assert!(counted().is_empty(), "nothing of the first handler stays: {:?}", counted());
        let letters = dead_letters(platform.read_model(), "counts");
        assert_eq!(letters.len(), 2);
        let letter = &letters[0];
        assert_eq!((letter.verdict().as_str(), letter.topic.as_str()), ("rejected (odd)", both.as_str()));
        assert!(letter.detail.starts_with("as an event of second.v1: "), "{}", letter.detail);

        platform.publish(&[record(&opens, "k")]);
        platform.until_through("counts");
        assert_eq!(counted(), ["2:1"]);
        platform.ask(&["dlq", "retry", "counts", "--all"]);
        assert_eq!(counted(), ["1:3", "2:1", "3:3"]);
        let status = platform.until_through("counts");
        assert_closed(&status, 4, 0, 0);
        host.sigterm();
    }
}

/// An id is one of its physical topic: tenants may give the same ids.
#[test]
fn event_ids_are_told_apart_by_physical_topic() {
    let mut declared: Json = serde_json::from_str(&descriptor("counts")).unwrap();
    declared["topics"][0]["event-id"] = json!({"header": "x-event-id", "window-seconds": 86_400});
    let mut guest = Guest::describing(&declared.to_string());
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let guest = guest.project(&format!("(i32.const {answer})"));
    let plugins = Plugins::new(&[]).add("counts.wasm", guest.component());
    let platform = Platform::new("ids-by-topic", &[], ReadModel::sqlite());
    let text = format!("^{}tenant-[ab]$", platform.topic("").replace('.', "\\."));
    let platform = platform
        .set(&["plugins", "directory"], plugins.path())
        .set(&["kafka", "topics", "hostile.events.v1"], pattern(text));
    create(&platform, &["tenant-a", "tenant-b"]);
    let record = |topic: &str, id: &str| {
        let mut record = Record::new(platform.topic(topic), "k", "A");
        record.headers = vec![("x-event-id".to_owned(), Some(id.into()))];
        record
    };
    let sent =
        [("tenant-a", "1"), ("tenant-b", "1"), ("tenant-a", "2"), ("tenant-a", "1"), ("tenant-b", "1")];
    platform.publish(&sent.map(|(topic, id)| record(topic, id)));
    let host = platform.start_host("host");
    let status = platform.until_through("counts");
    assert_closed(&status, 5, 2, 0);
    assert_eq!(status.ignored_by_code["duplicate"], 2);
    host.sigterm();
}

/// What no topic can be called is refused before anything is read, and a name that no plugin declares is named.
#[test]
fn a_mapping_that_cannot_be_meant_is_named_at_start() {
    let gates = Gates::new("mistaken", 1, ReadModel::sqlite());
    let topic = gates.platform.topic("step.v1");
    for (wrong, said) in [
        (Value::from(format!("^{topic}$")), "write { pattern = '^"),
        (pattern("^.*$".to_owned()), "matches the internal topic `__consumer_offsets`"),
        (list(&[topic.clone(), topic.clone()]), "twice"),
    ] {
        let (code, _, told) = gates.platform.command_with(&["kafka", "topics", "step.v1"], wrong, &["run"]);
        // The report is broken into lines for a terminal.
        let told = told.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == 2 && told.contains(said), "{code}: {told}");
    }
    let gates = gates.set(&["kafka", "topics", "stepp.v1"], topic);
    let host = gates.start_host("host");
    host.log().wait_for("that no plugin declares it", |line| {
        let named = "kafka.topics names `stepp.v1`, which no plugin declares; did you mean `step.v1`?";
        line.message() == "a name in the configuration has no effect" && line.field("warning") == named
    });
    host.sigterm();
}
