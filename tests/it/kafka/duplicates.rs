//! What a producer sends twice counts once, where the topic says how its events are told apart.

use projector_workload::Record;
use serde_json::{Value, json};

use crate::harness::{
    Argument, Guest, Platform, Plugins, ReadModel, assert_closed, descriptor, eventually, rows,
};

/// Counts every event, by an id that its topic declares.
fn platform(name: &str, read_model: ReadModel, event_id: Value) -> (Platform, Plugins) {
    let mut declared: Value = serde_json::from_str(&descriptor("counts")).unwrap();
    declared["topics"][0]["event-id"] = event_id;
    let mut guest = Guest::describing(&declared.to_string());
    let answer = guest.changes(&[(0, &[Argument::Int64(1), Argument::Int64(1)])]);
    let guest = guest.project(&format!("(i32.const {answer})"));
    let plugins = Plugins::new(&[]).add("counts.wasm", guest.component());
    let platform = Platform::new(name, &[], read_model)
        .set(&["plugins", "directory"], plugins.path())
        .set(&["batch", "events"], 4);
    platform.create_topics(2);
    (platform, plugins)
}

/// Runs a host on these records, and says how many events were counted of how many.
#[track_caller]
fn prove(platform: &Platform, records: &[Record], read: usize, duplicates: usize) {
    platform.publish(records);
    let host = platform.start_host("host");
    let status = platform.until_through("counts");
    assert_closed(&status, read, duplicates, 0);
    assert_eq!(status.ignored_by_code.get("duplicate").copied().unwrap_or_default(), duplicates as u64);
    let counted = rows(platform.read_model(), "counts", "seen", &["events"]);
    assert_eq!(counted, [[Some((read - duplicates).to_string())]]);
    host.sigterm();
}

fn in_header(platform: &Platform, id: Option<&str>, partition: i32) -> Record {
    let mut record = Record::new(platform.topic("hostile.events.v1"), "k", "A");
    record.partition = Some(partition);
    record.headers = id.map(|id| ("x-event-id".to_owned(), Some(id.into()))).into_iter().collect();
    record
}

/// Fault 15: in one batch, in another, after a restart, on another partition. Events without an id
/// are all different.
#[test]
fn an_event_that_is_sent_again_counts_once() {
    let declared = json!({"header": "x-event-id", "window-seconds": 86_400});
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let (platform, _plugins) = platform("duplicates", read_model, declared.clone());
        let of = |ids: &[&str], partition| -> Vec<Record> {
            ids.iter().map(|id| in_header(&platform, Some(id), partition)).collect()
        };
        let first = of(&["a", "b", "a", "c", "d", "e", "f", "g", "a", "b"], 0);
        prove(&platform, &first, 10, 3);
        let mut again = of(&["b", "g", "h"], 0);
        again.extend(of(&["a", "i"], 1));
        again.extend([in_header(&platform, None, 0), in_header(&platform, None, 0)]);
        prove(&platform, &again, 17, 6);
    }
}

/// The id may be a field of the payload; what has none is no duplicate, whatever it is.
#[test]
fn the_id_may_stand_in_the_payload() {
    let declared = json!({"field": "eventId", "window-seconds": 86_400});
    let (platform, _plugins) = platform("duplicates-field", ReadModel::postgres(), declared);
    let topic = platform.topic("hostile.events.v1");
    let payloads = [
        r#"{"n": {"eventId": "no"}, "eventId": "a"}"#,
        r#"{"eventId": "b"}"#,
        r#"{"eventId": "a", "other": 1}"#,
        r#"{"eventId": 7}"#,
        r#"{"eventId": 7}"#,
        r#"{"eventId": null}"#,
        r#"{"eventId": null}"#,
        "no json",
        "no json",
    ];
    let records: Vec<Record> = payloads.iter().map(|payload| Record::new(&*topic, "k", *payload)).collect();
    prove(&platform, &records, 9, 2);
}

/// CloudEvents are one if their source and their id are; what lacks either, or has it empty, has no id, is
/// applied, and is counted. Of headers of one name the last counts. What was ignored is listed with the
/// position of the first.
#[test]
fn an_id_in_parts_tells_duplicates_which_are_listed_with_their_first() {
    let declared = json!({"parts": [{"header": "ce_source"}, {"header": "ce_id"}], "window-seconds": 86_400});
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let (platform, _plugins) = platform("duplicates-parts", read_model, declared.clone());
        let topic = platform.topic("hostile.events.v1");
        let record = |headers: &[(&str, Option<&str>)]| {
            let mut record = Record::new(&*topic, "k", "A");
            record.partition = Some(0);
            record.headers = headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(|value| value.as_bytes().to_vec())))
                .collect();
            record
        };
        let event = |source: &str, id: &str| record(&[("ce_source", Some(source)), ("ce_id", Some(id))]);
        let records = [
            event("/shop", "1"),
            event("/stock", "1"),
            event("/shop", "11"),
            event("/shop", "1"),
            record(&[("ce_id", Some("9")), ("ce_source", Some("/shop")), ("ce_id", Some("1"))]),
            // Without an id.
            event("/shop", ""),
            event("/shop", ""),
            record(&[("ce_id", Some("1"))]),
            record(&[("ce_source", Some("/shop")), ("ce_id", Some("1")), ("ce_id", None)]),
        ];
        prove(&platform, &records, 9, 2);
        assert_eq!(platform.ask(&["status"])["projections"][0]["without_id"], 4);
        let listed = platform.ask(&["duplicates", "counts"]);
        let place = |one: &Value, of: &str| {
            [
                one[format!("{of}topic")].clone(),
                one[format!("{of}partition")].clone(),
                one[format!("{of}offset")].clone(),
            ]
        };
        let listed: Vec<_> = listed.as_array().unwrap().iter().collect();
        for (one, offset) in listed.iter().zip([4, 3]) {
            assert_eq!(place(one, ""), [json!(topic), json!(0), json!(offset)]);
            assert_eq!(place(one, "first_"), [json!(topic), json!(0), json!(0)]);
            assert!(one["ignored_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{one}");
        }
        assert_eq!(listed.len(), 2);
        let (code, _, said) = platform.command(&["duplicates", "counts", "--most", "1"]);
        assert!(
            code == 0 && said.contains(&format!("{topic}/0@4")) && said.contains(&format!("{topic}/0@0")),
            "{said}"
        );
        assert!(!said.contains("@3"), "{said}");
        let (code, _, said) = platform.command(&["duplicates", "nobody"]);
        assert_eq!(code, 2, "{said}");
    }
}

/// Two partitions of one topic are not equally far: what one brings may be long out of the window for the other.
#[test]
fn an_id_is_known_until_all_partitions_are_past_its_window() {
    const MINUTE: i64 = 60_000;
    let declared = json!({"header": "x-event-id", "window-seconds": 3_600});
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let (platform, _plugins) = platform("duplicates-lag", read_model, declared.clone());
        let event = |id: &str, partition: i32, minute: i64| {
            let mut record = in_header(&platform, Some(id), partition);
            record.timestamp_ms = Some(1_760_000_000_000 + minute * MINUTE);
            record
        };
        // Each in a run of its own, in this order.
        prove(&platform, &[event("x", 0, 0)], 1, 0);
        prove(&platform, &[event("y", 1, 120)], 2, 0);
        prove(&platform, &[event("x", 0, 10), event("x", 1, 130)], 4, 2);

        // Both are past it, and not past the others.
        platform.publish(&[event("z", 0, 120)]);
        let host = platform.start_host("host");
        platform.until_through("counts");
        let table = match platform.read_model() {
            ReadModel::Postgres { .. } => "projector.event_id",
            ReadModel::Sqlite { .. } => "projector_event_id",
        };
        eventually("the id is forgotten", || {
            let ids = platform.read_model().query(&format!("select cast(count(*) as text) from {table}"));
            if ids == [[Some("2".to_owned())]] { Ok(()) } else { Err(ids) }
        });
        host.sigterm();
        prove(&platform, &[event("y", 0, 121), event("x", 0, 122)], 7, 3);
    }
}
