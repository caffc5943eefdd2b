//! A new projection begins where its configuration says, and counts what it does not read.

use projector_workload::topics;
use projector_workload::{Record, topics::Topic};
use toml::{Table, Value};

use crate::harness::{GATES, Gates, Partition, Projection, ReadModel, eventually, step};

/// The time of the n-th step, in milliseconds.
fn time(n: usize) -> i64 {
    1_760_000_000_000 + 60_000 * n as i64
}

/// Steps of one key, in one partition of `step.v1`: the n-th at the n-th minute.
fn steps(gates: &Gates, partition: i32, of: &str, numbers: std::ops::Range<usize>) -> Vec<Record> {
    let record = |n: usize| {
        let mut record = gates.record("step.v1", &step(&format!("{of}{n}")));
        record.partition = Some(partition);
        record.timestamp_ms = Some(time(n));
        record
    };
    numbers.map(record).collect()
}

/// `[projections.gates.start] "step.v1" = …`
fn start(at: impl Into<Value>) -> Value {
    Value::Table(Table::from_iter([("step.v1".to_owned(), at.into())]))
}

fn at(key: &str, value: impl Into<Value>) -> Value {
    Value::Table(Table::from_iter([(key.to_owned(), value.into())]))
}

fn offsets(offsets: &[(&str, i64)]) -> Value {
    let each = offsets.iter().map(|(partition, offset)| ((*partition).to_owned(), Value::from(*offset)));
    at("offsets", Value::Table(each.collect()))
}

const START: [&str; 3] = ["projections", GATES, "start"];

/// The partitions of `step.v1`.
fn of_steps(gates: &Gates, status: &Projection) -> Vec<Partition> {
    let topic = gates.platform.topic("step.v1");
    status.partitions.iter().filter(|partition| partition.topic == topic).cloned().collect()
}

/// Waits until every partition has a checkpoint: from then on, what is written is read.
#[track_caller]
fn until_begun(gates: &Gates) -> Projection {
    eventually("every partition is begun", || {
        let mut status = gates.platform.status()?;
        let status = status.remove(GATES).ok_or("it is not installed")?;
        match status.partitions.iter().all(|partition| partition.checkpoint.is_some()) {
            true => Ok(status),
            false => Err(format!("{:?}", status.partitions)),
        }
    })
}

/// What was not read, and what was, are all that is in the log. No offset of these logs is without an event.
#[track_caller]
fn assert_books_close(status: &Projection) {
    for partition in &status.partitions {
        let counted = partition.before_start + partition.counters.read as i64;
        assert_eq!(counted, partition.log_end, "{partition:#?}");
        assert_eq!(partition.start, Some(partition.before_start), "{partition:#?}");
    }
    let before: i64 = status.partitions.iter().map(|partition| partition.before_start).sum();
    assert_eq!(status.before_start, before);
}

#[test]
fn the_latest_is_the_end_of_the_log_when_it_begins_and_stays_so() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("start-latest", 2, read_model).set(&START, start("latest"));
        gates.platform.publish(&steps(&gates, 0, "a", 0..5));
        gates.platform.publish(&steps(&gates, 1, "b", 0..3));
        let host = gates.start_host("first");
        let begun = until_begun(&gates);
        assert_eq!(of_steps(&gates, &begun).iter().map(|of| of.before_start).collect::<Vec<_>>(), [5, 3]);
        gates.platform.publish(&steps(&gates, 0, "a", 5..7));
        gates.platform.publish(&steps(&gates, 1, "b", 3..4));
        assert_books_close(&gates.until_through());
        assert_eq!(gates.trails_of(["a", "b"]), ["5 6", "3"]);
        let history = gates.platform.ask(&["history", GATES]);
        assert_eq!(history[0]["start"], "step.v1: latest", "{history:#}");
        host.sigterm();

        // Neither another start, nor a partition that is added while no host runs, changes what has begun.
        topics::grow(gates.platform.brokers(), &gates.platform.topic("step.v1"), 3).unwrap();
        gates.platform.publish(&steps(&gates, 2, "c", 0..2));
        let gates = gates.set(&START, start("earliest"));
        let host = gates.start_host("second");
        let through = eventually("the partition that was added is read", || {
            let status = gates.until_through();
            if status.partitions.len() == 7 { Ok(status) } else { Err(status.partitions.len()) }
        });
        assert_books_close(&through);
        assert_eq!(gates.trails_of(["a", "b", "c"]), ["5 6", "3", "0 1"]);
        host.sigterm();

        let gates = gates.set(&START, start("latest"));
        topics::grow(gates.platform.brokers(), &gates.platform.topic("step.v1"), 4).unwrap();
        gates.platform.publish(&steps(&gates, 3, "d", 0..2));
        let host = gates.start_host("third");
        eventually("the partition that was added is read", || match &gates.trails_of(["d"])[0] {
            trail if trail == "0 1" => Ok(()),
            trail => Err(trail.clone()),
        });
        assert_books_close(&gates.until_through());
        host.sigterm();
    }
}

/// A partition without a record as young begins at its end.
#[test]
fn a_time_is_an_offset_of_each_partition() {
    let gates = Gates::new("start-time", 2, ReadModel::postgres());
    let gates = gates.set(&START, at("time", "2025-10-09T08:56:40Z"));
    assert_eq!(time(10), 1_760_000_600_000, "which is 2025-10-09T09:03:20Z");
    gates.platform.publish(&steps(&gates, 0, "a", 0..20));
    gates.platform.publish(&steps(&gates, 1, "b", 0..2));
    let host = gates.start_host("host");
    until_begun(&gates);
    let through = gates.until_through();
    assert_books_close(&through);
    let [a, b] = gates.trails_of(["a", "b"]);
    assert_eq!(of_steps(&gates, &through).iter().map(|of| of.before_start).collect::<Vec<_>>(), [4, 2]);
    assert!(a.starts_with("4 5 6") && a.ends_with(" 19"), "{a}");
    assert_eq!(b, "");
    host.sigterm();
}

/// An offset that is not in the log is refused, and named, for its partition alone.
#[test]
fn offsets_are_taken_as_they_are_or_refused() {
    let gates = Gates::new("start-offsets", 3, ReadModel::postgres());
    let gates = gates.set(&START, start(offsets(&[("0", 3), ("1", 9)])));
    gates.platform.publish(&steps(&gates, 0, "a", 0..5));
    gates.platform.publish(&steps(&gates, 1, "b", 0..5));
    gates.platform.publish(&steps(&gates, 2, "c", 0..5));
    let file = gates.directory().join("gates-guest.wasm");
    let plan = gates.platform.ask(&["plan", file.to_str().unwrap()]);
    let topic = gates.platform.topic("step.v1");
    let planned: Vec<_> =
        plan["replay"]["starts"].as_array().unwrap().iter().filter(|of| of["topic"] == *topic).collect();
    assert_eq!(planned[0]["start"], 3);
    assert!(planned[1]["problem"].as_str().unwrap().contains("its log ends at 5"), "{plan:#}");
    assert!(planned[2]["problem"].as_str().unwrap().contains("none for"), "{plan:#}");

    let host = gates.start_host("first");
    gates.open(&["x"]);
    let status = eventually("the other partitions are read", || {
        let mut status = gates.platform.status()?;
        let status = status.remove(GATES).ok_or("it is not installed")?;
        let is_refused = |of: &Partition| of.paused.is_some();
        let others = status.partitions.iter().filter(|of| !is_refused(of));
        match others.clone().all(|of| of.lag == 0 && of.checkpoint.is_some()) && others.count() == 7 {
            true => Ok(status),
            false => Err(format!("{:?}", status.partitions)),
        }
    });
    assert_eq!(gates.trails_of(["a", "b", "c"]), ["3 4", "", ""]);
    let refused: Vec<_> =
        of_steps(&gates, &status)[1..].iter().map(|of| of.paused.clone().unwrap()).collect();
    assert_eq!(refused[0].kind, "start");
    assert!(refused[0].says(&["offset 9", &format!("{topic}/1"), "ends at 5", "[projections.NAME] start"]));
    assert!(refused[1].says(&[&format!("none for {topic}/2")]), "{refused:?}");
    host.sigterm();

    let gates = gates.set(&START, start(offsets(&[("0", 0), ("1", 4), ("2", 0)])));
    let host = gates.start_host("second");
    until_begun(&gates);
    assert_books_close(&gates.until_through());
    assert_eq!(gates.trails_of(["a", "b", "c"]), ["3 4", "4", "0 1 2 3 4"]);
    host.sigterm();
}

#[test]
fn a_topic_that_the_plugin_does_not_read_is_named() {
    let gates = Gates::new("start-unknown", 1, ReadModel::postgres());
    let gates = gates.set(&["projections", GATES, "start", "step.v3"], "latest");
    let host = gates.start_host("first");
    let trouble = eventually("it stands still", || {
        let status = gates.platform.status()?;
        let trouble = status.get(GATES).and_then(|status| status.halted.clone());
        trouble.ok_or_else(|| "it does not".to_owned())
    });
    assert_eq!(trouble.kind, "start");
    assert!(trouble.says(&["\"step.v3\"", "did you mean"]), "{trouble:?}");
    host.sigterm();
    let gates = gates.set(&START, "latest");
    let host = gates.start_host("second");
    until_begun(&gates);
    gates.until_through();
    host.sigterm();
}

/// All rows anew: from where the live generation began, and not from the end of the log now.
#[test]
fn a_rebuild_begins_where_the_live_generation_began() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let gates = Gates::new("start-rebuild", 2, read_model).set(&START, "latest");
        gates.platform.publish(&steps(&gates, 0, "a", 0..5));
        let host = gates.start_host("host");
        until_begun(&gates);
        gates.platform.publish(&steps(&gates, 0, "a", 5..9));
        gates.until_through();
        gates.platform.ask(&["rebuild", GATES]);
        let beside = eventually("the new generation is fresh", || {
            let status = gates.until_through();
            match status.beside.first() {
                Some(beside) if beside.fresh && beside.counters.read == 4 => Ok(beside.clone()),
                beside => Err(format!("{beside:?}")),
            }
        });
        assert_eq!(beside.before_start, 5);
        gates.platform.ask(&["promote", GATES]);
        assert_eq!(gates.trails_of(["a"]), ["5 6 7 8"]);
        host.sigterm();
    }
}

/// A topic that is created after the generation began: all that is in it is new.
#[test]
fn a_topic_that_is_created_later_is_read_from_its_beginning() {
    let gates = Gates::new("start-topic", 1, ReadModel::postgres()).set(&START, "latest");
    let late = gates.platform.topic("step.v2");
    topics::delete(gates.platform.brokers(), &[&late]).unwrap();
    let host = gates.start_host("first");
    eventually("the other topics are begun", || {
        let status = gates.platform.status()?;
        let status = status.get(GATES).ok_or("it is not installed")?;
        let begun = status.partitions.iter().filter(|of| of.checkpoint.is_some()).count();
        if begun == 2 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    host.sigterm();
    topics::create(gates.platform.brokers(), &[Topic::new(&*late, 1)]).unwrap();
    gates.platform.publish(&[gates.record("step.v2", &step("a1"))]);
    let host = gates.start_host("second");
    until_begun(&gates);
    assert_books_close(&gates.until_through());
    assert_eq!(gates.trails_of(["a"]), ["1"]);
    host.sigterm();
}
