//! A projection moves to another cluster that holds the same events at other offsets: nothing is lost, nothing
//! counts twice, and a kill leaves it where it was or where it goes.

use std::fmt::Write;
use std::fs;
use std::sync::OnceLock;

use projector_test_servers::Kafka;
use projector_workload::topics::{self, Topic};
use projector_workload::{Publisher, Record};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::harness::{
    Argument, GATES, Gates, Guest, Platform, Plugins, ReadModel, descriptor, eventually, rows, step,
};

/// The cluster that these tests move to; they come from the one that all tests share.
fn other_cluster() -> &'static str {
    static OTHER: OnceLock<Kafka> = OnceLock::new();
    static BROKERS: OnceLock<String> = OnceLock::new();
    BROKERS.get_or_init(|| OTHER.get_or_init(|| Kafka::start().unwrap()).bootstrap())
}

/// A topic of the other cluster that begins at these offsets, by partition.
fn create(topic: &str, begins: &[i64]) {
    let brokers = other_cluster();
    let created = Topic::new(topic, begins.len() as i32).setting("retention.ms", "-1");
    topics::create(brokers, &[created]).unwrap();
    let (mut fillers, mut before) = (Vec::new(), TopicPartitionList::new());
    for (number, begin) in begins.iter().enumerate().filter(|(_, begin)| **begin > 0) {
        let mut filler = Record::new(topic, "", "");
        filler.partition = Some(number as i32);
        fillers.extend(vec![filler; *begin as usize]);
        before.add_partition_offset(topic, number as i32, Offset::Offset(*begin)).unwrap();
    }
    if fillers.is_empty() {
        return;
    }
    Publisher::new(brokers).publish(&fillers).unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let deleted = runtime.block_on(admin.delete_records(&before, &AdminOptions::new())).unwrap();
    assert!(deleted.elements().iter().all(|element| element.error().is_ok()), "{deleted:?}");
}

fn in_partition(mut record: Record, partition: i32) -> Record {
    record.partition = Some(partition);
    record
}

/// The n-th minute.
fn at_minute(mut record: Record, n: i64) -> Record {
    record.timestamp_ms = Some(1_760_000_000_000 + 60_000 * n);
    record
}

fn steps(gates: &Gates, partition: i32, written: &[&str]) -> Vec<Record> {
    written.iter().map(|written| in_partition(gates.record("step.v1", &step(written)), partition)).collect()
}

/// The topics of the gates projection in the other cluster: `step.v1` begins at these offsets.
fn create_gates(gates: &Gates, begins: &[i64]) {
    create(&gates.platform.topic("step.v1"), begins);
    for other in ["step.v2", "gate.v1"] {
        create(&gates.platform.topic(other), &vec![0; begins.len()]);
    }
}

/// A map with these offsets for `step.v1`, and 0 for the other topics.
fn map(gates: &Gates, offsets: &[i64]) -> String {
    let mut text = String::from("topic,partition,offset\n");
    for (number, offset) in offsets.iter().enumerate() {
        writeln!(text, "{},{number},{offset}", gates.platform.topic("step.v1")).unwrap();
        for other in ["step.v2", "gate.v1"] {
            writeln!(text, "{},{number},0", gates.platform.topic(other)).unwrap();
        }
    }
    let file = gates.platform.directory().join("offsets.csv");
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn pause(platform: &Platform, projection: &str) {
    platform.ask(&["pause", projection, "--reason", "failover"]);
}

/// As hosts see it that run with the new cluster's address.
fn resume(platform: &Platform, projection: &str) {
    platform.ask(&["resume", projection]);
    eventually("it runs", || {
        let status = platform.status()?;
        match &status[projection].halted {
            None => Ok(()),
            halted => Err(format!("{halted:?}")),
        }
    });
}

#[test]
fn by_a_map_every_event_counts_once_although_the_move_is_killed() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("move-map", 2, read_model);
        let (a, b) = (["a1", "a2", "a3", "a4", "a5"], ["b1", "b2", "b3"]);
        gates.platform.publish(&[steps(&gates, 0, &a[..3]), steps(&gates, 1, &b[..2])].concat());
        let host = gates.start_host("old");
        gates.until_through();
        let before = gates.platform.read_model().checkpoints(GATES);

        // The mirror has all of it, and more, elsewhere.
        create_gates(&gates, &[10, 0]);
        let mirrored = [steps(&gates, 0, &a), steps(&gates, 1, &b)].concat();
        Publisher::new(other_cluster()).publish(&mirrored).unwrap();
        let gates = gates.set(&["kafka", "brokers"], other_cluster());
        let file = map(&gates, &[13, 2]);
        let go = ["move-checkpoints", GATES, "--map", &file, "--yes", "--reason", "failover"];
        let (code, _, said) = gates.platform.command(&go);
        assert!(code == 1 && said.contains("still runs"), "{code}: {said}");
        pause(&gates.platform, GATES);
        host.sigterm();

        let plan = gates.platform.ask(&["move-checkpoints", GATES, "--map", &file]);
        assert_eq!(plan["operation"], Value::Null);
        let topic = gates.platform.topic("step.v1");
        let of_steps: Vec<&Value> =
            plan["partitions"].as_array().unwrap().iter().filter(|of| of["topic"] == *topic).collect();
        assert_eq!((&of_steps[0]["old_offset"], &of_steps[0]["new_offset"]), (&json!(3), &json!(13)));
        assert_eq!((&of_steps[0]["log_begin"], &of_steps[0]["log_end"]), (&json!(10), &json!(15)));
        assert_ne!(of_steps[0]["old_cluster"], of_steps[0]["new_cluster"]);
        assert!(plan["cannot_know"][0].as_str().unwrap().contains("the same events"));
        assert_eq!(gates.platform.read_model().checkpoints(GATES), before, "a plan changes nothing");

        for (offsets, wrong) in [(&[9, 2][..], "says 9"), (&[16, 2], "says 16"), (&[13], "no offset for")] {
            let file = map(&gates, offsets);
            let (code, _, said) = gates.platform.command(&[
                "move-checkpoints",
                GATES,
                "--map",
                &file,
                "--yes",
                "--reason",
                "x",
            ]);
            assert!(code == 1 && said.contains(wrong), "{code}: {said}");
        }
        let file = map(&gates, &[13, 2]);
        let go = ["move-checkpoints", GATES, "--map", &file, "--yes", "--reason", "failover", "--as", "ann"];
        gates.platform.command_killed_at("before-move", &go);
        assert_eq!(gates.platform.read_model().checkpoints(GATES), before, "it was killed before");
        gates.platform.command_killed_at("after-move", &go);
        let (code, _, said) = gates.platform.command(&go);
        assert!(code == 1 && said.contains("nothing is to be moved"), "{code}: {said}");
        assert_eq!(gates.platform.read_model().checkpoints(GATES)[&(topic.clone(), 0)], 13);
        let operations = gates.platform.ask(&["operations", GATES]);
        let recorded = operations.as_array().unwrap().iter().find(|one| one["action"] == "move").unwrap();
        assert_eq!((&recorded["reason"], &recorded["asked_by"]), (&json!("failover"), &json!("ann")));
        let partitions = recorded["verdict"]["partitions"].as_array().unwrap();
        assert!(partitions.iter().any(|of| of["topic"] == *topic && of["new_offset"] == 13), "{recorded:#}");

        let host = gates.start_host("new");
        resume(&gates.platform, GATES);
        eventually("it reads on", || match gates.trails_of(["a", "b"]) {
            [a, b] if a == "1 2 3 4 5" && b == "1 2 3" => Ok(()),
            trails => Err(trails),
        });
        assert_eq!(gates.until_through().counters.read, 8);
        host.sigterm();
    }
}

/// Fault 7: hosts that run with the new cluster's address read nothing before the move, and go on after it,
/// without a pause.
#[test]
fn a_refused_projection_is_moved_while_its_host_runs() {
    let gates = Gates::new("move-refused", 1, ReadModel::postgres());
    gates.platform.publish(&steps(&gates, 0, &["a1", "a2"]));
    let host = gates.start_host("old");
    gates.until_through();
    host.sigterm();
    create_gates(&gates, &[5]);
    Publisher::new(other_cluster()).publish(&steps(&gates, 0, &["a1", "a2", "a3"])).unwrap();
    let gates = gates.set(&["kafka", "brokers"], other_cluster());
    let host = gates.start_host("new");
    eventually("every partition is refused", || {
        let status = gates.platform.status()?;
        let refused = |of: &crate::harness::Partition| {
            of.paused.as_ref().is_some_and(|why| why.says(&["another cluster", "move-checkpoints"]))
        };
        let partitions = &status[GATES].partitions;
        if partitions.iter().all(refused) { Ok(()) } else { Err(format!("{partitions:?}")) }
    });
    let file = map(&gates, &[7]);
    gates.platform.ask(&["move-checkpoints", GATES, "--map", &file, "--yes", "--reason", "failover"]);
    eventually("it reads on", || match &gates.trails_of(["a"])[0] {
        a if a == "1 2 3" => Ok(()),
        a => Err(a.clone()),
    });
    host.sigterm();
}

/// Counts every event, by an id that its topic remembers for so long.
fn counts(name: &str, window_seconds: u32, read_model: ReadModel) -> (Platform, Plugins) {
    let mut declared: Value = serde_json::from_str(&descriptor("counts")).unwrap();
    declared["topics"][0]["event-id"] = json!({"header": "x-event-id", "window-seconds": window_seconds});
    let mut guest = Guest::describing(&declared.to_string());
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let guest = guest.project(&format!("(i32.const {answer})"));
    let plugins = Plugins::new(&[]).add("counts.wasm", guest.component());
    let platform = Platform::new(name, &[], read_model).set(&["plugins", "directory"], plugins.path());
    platform.create_topics(2);
    (platform, plugins)
}

/// The n-th event of the n-th minute, in each of two partitions.
fn minutes(platform: &Platform, minutes: std::ops::Range<i64>) -> Vec<Record> {
    let record = |n: i64, partition: i32| {
        let mut record = Record::new(platform.topic("hostile.events.v1"), "k", "A");
        record.headers = vec![("x-event-id".to_owned(), Some(format!("{partition}-{n}").into_bytes()))];
        at_minute(in_partition(record, partition), n)
    };
    minutes.flat_map(|n| [record(n, 0), record(n, 1)]).collect()
}

#[test]
fn by_time_what_is_read_again_is_told_by_its_id() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let (platform, _plugins) = counts("move-time", 3_600, read_model);
        platform.publish(&minutes(&platform, 0..15));
        let host = platform.start_host("old");
        assert_eq!(platform.until_through("counts").counters.read, 30);
        pause(&platform, "counts");
        host.sigterm();
        let topic = platform.topic("hostile.events.v1");
        create(&topic, &[100, 7]);
        Publisher::new(other_cluster()).publish(&minutes(&platform, 0..20)).unwrap();
        let old = platform.brokers().to_owned();
        let platform = platform.set(&["kafka", "brokers"], other_cluster());

        let by_time = ["move-checkpoints", "counts", "--from-brokers", &old, "--overlap", "5m"];
        let plan = platform.ask(&by_time);
        for (partition, begin) in plan["partitions"].as_array().unwrap().iter().zip([100, 7]) {
            assert_eq!(partition["last_read"], "2025-10-09T09:07:20Z", "{plan:#}");
            assert_eq!(partition["new_offset"], begin + 9);
            assert_eq!((&partition["read_again"], &partition["never_read"]), (&json!(6), &json!(0)));
        }
        platform.ask(&[&by_time[..], &["--yes", "--reason", "failover"]].concat());
        let host = platform.start_host("new");
        resume(&platform, "counts");
        let through = platform.until_through("counts");
        assert_eq!(through.ignored_by_code["duplicate"], 12);
        let counted = rows(platform.read_model(), "counts", "seen", &["events"]);
        assert_eq!(counted, [[Some("40".to_owned())]]);
        host.sigterm();
    }
}

/// What could count twice is refused, by the topic's name; and so is a cluster that is not the old one.
#[test]
fn an_overlap_that_ids_do_not_cover_is_refused() {
    let (platform, _plugins) = counts("move-window", 60, ReadModel::postgres());
    platform.publish(&minutes(&platform, 0..5));
    let host = platform.start_host("old");
    platform.until_through("counts");
    pause(&platform, "counts");
    host.sigterm();
    let topic = platform.topic("hostile.events.v1");
    create(&topic, &[0, 0]);
    Publisher::new(other_cluster()).publish(&minutes(&platform, 0..6)).unwrap();
    let old = platform.brokers().to_owned();
    let platform = platform.set(&["kafka", "brokers"], other_cluster());
    let by_time = ["move-checkpoints", "counts", "--time", "2025-10-09T08:57:20Z", "--overlap", "2m"];
    let (code, _, said) = platform.command(&by_time);
    let why = format!("events of {topic} could be applied twice: its statement \"count\" adds");
    assert!(code == 1 && said.contains("remembered for 1m") && said.contains("counts"), "{code}: {said}");
    assert!(said.contains(&why) || said.contains("its events read rows"), "{said}");
    let wrong = ["move-checkpoints", "counts", "--from-brokers", other_cluster()];
    let (code, _, said) = platform.command(&wrong);
    assert!(code == 1 && said.contains("is not the one of the checkpoints"), "{code}: {said}");
    platform.ask(&[
        "move-checkpoints",
        "counts",
        "--from-brokers",
        &old,
        "--overlap",
        "2m",
        "--accept-duplicates",
    ]);
    platform.ask(&["move-checkpoints", "counts", "--from-brokers", &old, "--overlap", "30s"]);
}

/// Dead letters and parked events keep their old positions: a retry works, also where an event of the new log
/// fails at the same position.
#[test]
fn dead_letters_of_the_old_log_can_be_retried() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("move-letters", 1, read_model).set(&["kafka", "value-bytes"], 10_000);
        let mut large = steps(&gates, 0, &["l1"]);
        large[0].payload =
            Some(json!({"of": "l", "step": "1", "more": "x".repeat(20_000)}).to_string().into());
        gates.platform.publish(&steps(&gates, 0, &["a1", "a2 if x", "a3"]));
        gates.platform.publish(&large);
        let host = gates.start_host("old");
        gates.until_through();
        pause(&gates.platform, GATES);
        host.sigterm();

        create_gates(&gates, &[0]);
        Publisher::new(other_cluster()).publish(&steps(&gates, 0, &["b1", "b2 if y", "b3", "c1"])).unwrap();
        let gates =
            gates.set(&["kafka", "brokers"], other_cluster()).set(&["kafka", "value-bytes"], 1_000_000);
        let file = map(&gates, &[0]);
        let go = ["move-checkpoints", GATES, "--map", &file, "--yes", "--reason", "failover"];
        let moved = gates.platform.ask(&go);
        assert_eq!(moved["kept"], json!({"events": 3, "left_in_old_log": 1}));
        let host = gates.start_host("new");
        resume(&gates.platform, GATES);
        gates.until_through();
        assert_eq!(gates.letters().len(), 3, "{:#?}", gates.letters());

        let opened = |gate: &str| {
            let record =
                Record::new(gates.platform.topic("gate.v1"), gate, json!({"gate": gate}).to_string());
            Publisher::new(other_cluster()).publish(&[record]).unwrap();
        };
        opened("x");
        opened("y");
        gates.until_through();
        let (code, done, said) =
            gates.platform.command(&["dlq", "retry", GATES, "--all", "--output", "json"]);
        assert_eq!(code, 1, "{said}");
        let outcomes: Vec<(&str, &str)> = done
            .as_array()
            .unwrap()
            .iter()
            .map(|done| {
                let verdict = &done["verdict"];
                (verdict["outcome"].as_str().unwrap(), verdict["code"].as_str().unwrap_or_default())
            })
            .collect();
        assert_eq!(outcomes, [("applied", ""), ("too-large", "other-log"), ("applied", "")], "{said}");
        assert_eq!(gates.trails_of(["a", "b", "c", "l"]), ["1 2 3", "1 2 3", "1", ""]);
        host.sigterm();
    }
}
