use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use projector_workload::{Position as Published, Record, write_json_lines};
use proptest::prelude::*;

use super::*;

const MOST: usize = 1_000;

fn topics() -> Topics {
    let named = |logical: &str, physical: &[&str]| {
        (logical.to_owned(), PhysicalTopics::listed(physical.iter().copied()).unwrap())
    };
    Topics::new(TopicMapping::new([
        named("orders", &["live.orders"]),
        named("customers", &["customers"]),
        named("items", &["eu.items", "us.items"]),
        named("european", &["eu.items"]),
    ]))
}

fn read(line: &str) -> Result<Event, String> {
    event(line.as_bytes(), 7, &topics(), MOST)
}

#[track_caller]
fn value_of(json: &str) -> Option<String> {
    let event = read(&format!(r#"{{"topic": "orders", "value": {json}}}"#)).unwrap();
    event.value.map(|value| String::from_utf8(value).unwrap())
}

#[track_caller]
fn refused(line: &str, reason: &str) {
    let error = read(line).unwrap_err();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn a_line_is_an_event_at_its_number() {
    let event = read(
        r#"{"topic": "live.orders", "partition": 2, "offset": 9, "timestamp": 5, "key": "k",
            "headers": {"a": "b", "none": null}, "value": {"b":1.50}}"#,
    )
    .unwrap();
    assert_eq!(event.position.to_string(), "backfill/0@7");
    assert_eq!((event.topic, event.timestamp_ms), (0, Some(5)));
    assert_eq!(event.key.as_deref(), Some(&b"k"[..]));
    let headers: Vec<_> =
        event.headers.iter().map(|header| (header.text_name().unwrap(), &header.value)).collect();
    assert_eq!(headers, [("a", &Some(b"b".to_vec())), ("none", &None)]);
    assert_eq!(read(r#"{"topic": "customers", "value": 1}"#).unwrap().topic, 1);
    assert_eq!(read(r#"{"topic": "orders", "value": 1}"#).unwrap().topic, 0);
    // A physical topic of two logical topics, one of which has several physical topics.
    let event = read(r#"{"topic": "european", "value": 1}"#).unwrap();
    assert_eq!((event.topic, &event.also[..], &*event.topic_name), (2, &[3][..], "eu.items"));
}

#[test]
fn a_payload_is_the_json_itself_unless_it_is_a_string_or_hexadecimal() {
    assert_eq!(value_of(r#"{"b": 1.50,  "a":"ü"}"#).unwrap(), r#"{"b": 1.50,  "a":"ü"}"#);
    assert_eq!(value_of("1e400").unwrap(), "1e400");
    assert_eq!(value_of(r#""line\nbreak""#).unwrap(), "line\nbreak");
    assert_eq!(value_of(r#"{"hex": "6869"}"#).unwrap(), "hi");
    assert_eq!(value_of(r#"{"hex": "6869", "more": 1}"#).unwrap(), r#"{"hex": "6869", "more": 1}"#);
    assert_eq!(value_of(r#"{"hex": 5}"#).unwrap(), r#"{"hex": 5}"#);
    assert_eq!(value_of("null"), None);
    assert_eq!(value_of("false").unwrap(), "false");
}

#[test]
fn keys_and_headers_are_text_or_bytes_and_headers_may_repeat() {
    let event = read(
        r#"{"topic": "orders", "key": {"hex": "00ff"}, "value": null,
            "headers": [{"name": "a", "value": "1"}, {"name": "a", "value": {"hex": "ff"}}, {"name": "b"}]}"#,
    )
    .unwrap();
    assert_eq!(event.key, Some(vec![0, 255]));
    let values: Vec<_> = event.headers.iter().map(|header| header.value.as_deref()).collect();
    assert_eq!(values, [Some(&b"1"[..]), Some(&b"\xff"[..]), None]);
}

#[test]
fn an_invalid_line_is_refused_with_its_reason() {
    refused(r#"{"topic": "orders", "payload": 1}"#, "unknown field `payload`");
    refused(r#"{"topic": "orders"}"#, "missing field `value`");
    refused(r#"{"topic": "items", "value": 1}"#, "stands for several topics in Kafka (eu.items, us.items)");
    refused(r#"{"topic": "others", "value": 1}"#, "does not read the topic \"others\": it reads live.orders");
    refused(r#"{"topic": "orders", "offset": 1, "value": 1}"#, "give both, or none");
    refused(r#"{"topic": "orders", "partition": -1, "offset": 1, "value": 1}"#, "out of range");
    refused(r#"{"topic": "orders", "key": 1, "value": 1}"#, "`key` is neither");
    refused(r#"{"topic": "orders", "key": {"hex": "x"}, "value": 1}"#, "`key` is not hexadecimal");
    refused(r#"{"topic": "orders", "value": {"hex": "x"}}"#, "`value` is not hexadecimal");
    refused(r#"{"topic": "orders", "headers": 1, "value": 1}"#, "`headers` is neither");
    refused(r#"{"topic": "orders", "value": 1"#, "EOF");
    let long = format!(r#"{{"topic": "orders", "value": "{}"}}"#, "x".repeat(MOST + 1));
    refused(&long, "1001 bytes, more than `kafka.value-bytes`");
}

fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn all(lines: &mut Lines) -> Vec<(i64, bool, String)> {
    let (mut line, mut all) = (Vec::new(), Vec::new());
    while let Some(Line { number, too_long }) = lines.read(&mut line).unwrap() {
        all.push((number, too_long, String::from_utf8(line.clone()).unwrap()));
    }
    all
}

#[test]
fn a_compressed_file_has_the_same_lines_and_a_long_line_keeps_its_number() {
    let text = format!("one\n\n{}\nfour", "x".repeat(100));
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
    for (name, bytes) in
        [("a.jsonl", text.as_bytes()), ("a.jsonl.gz", &gz.finish().unwrap()), ("a.jsonl.zst", &zst)]
    {
        let (_directory, path) = written(name, bytes);
        let mut lines = Lines::open(&path, 10).unwrap();
        let expected = [(0, false, "one\n"), (1, false, "\n"), (2, true, ""), (3, false, "four")];
        assert_eq!(all(&mut lines), expected.map(|(at, long, line)| (at, long, line.to_owned())));
        assert_eq!(lines.file_bytes_read(), bytes.len() as u64);
        let mut lines = Lines::open(&path, 10).unwrap();
        lines.skip_to(3).unwrap();
        assert_eq!(all(&mut lines), [(3, false, "four".to_owned())]);
        assert_eq!(digest(&path, |_| ()).unwrap(), hex::encode(Sha256::digest(bytes)));
    }
}

#[test]
fn a_truncated_compressed_file_is_an_error() {
    let text = "x".repeat(10_000) + "\n";
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    for (name, bytes) in
        [("a.gz", gz.finish().unwrap()), ("a.zst", zstd::encode_all(text.as_bytes(), 1).unwrap())]
    {
        let (_directory, path) = written(name, &bytes[..bytes.len() - 3]);
        let mut lines = Lines::open(&path, 100_000).unwrap();
        let mut line = Vec::new();
        assert!((0..2).any(|_| lines.read(&mut line).is_err()), "{name}");
    }
}

#[test]
fn the_log_takes_over_after_the_last_offset_of_each_partition() {
    let lines = r#"{"topic": "orders", "partition": 0, "offset": 4, "value": 1}
{"topic": "live.orders", "partition": 0, "offset": 9, "value": 1}
{"topic": "live.orders", "partition": 0, "offset": 7, "value": 1}

not json
{"topic": "customers", "partition": 3, "offset": 0, "value": 1}
{"topic": "others", "partition": 3, "offset": 0, "value": 1}
{"topic": "customers", "value": 1}
"#;
    let (_directory, path) = written("a.jsonl", lines.as_bytes());
    let scan = |skipped: &[i64]| {
        let skipped = skipped.iter().copied().collect();
        Scanned::of(&mut Lines::open(&path, MOST).unwrap(), &topics(), &skipped, |_| ()).unwrap()
    };
    let scanned = scan(&[]);
    assert_eq!(scanned.lines, 8);
    let ends = [(Partition::new("customers", 3), 1), (Partition::new("live.orders", 0), 10)];
    assert_eq!(scanned.ends(), ends.into());
    assert_eq!(scanned.offsets[&Partition::new("live.orders", 0)].holes(), (vec![0..4, 5..7, 8..9], 0));
    // The offsets of skipped lines count as well.
    assert_eq!(scan(&[1, 5]).ends(), scanned.ends());
}

/// Payloads that an export writes so that the file gives them back. Not among them: text that is itself a JSON
/// string, `null`, or hexadecimal, because the file would give another payload for it.
fn payloads() -> impl Strategy<Value = Option<String>> {
    let text = "[ -~äß\n\r\t\u{0}\u{2028}]{0,30}";
    let json = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        (text, any::<f64>().prop_filter("finite", |number| number.is_finite()))
            .prop_map(|(text, number)| serde_json::json!({"a": text, "b": [number, null]}).to_string()),
        "[0-9]{1,40}\\.[0-9]{1,40}".prop_map(|digits| format!("{{ \"n\" :1{digits}}}")),
    ];
    let plain = text.prop_filter("no JSON", |text| serde_json::from_str::<Json>(text).is_err());
    prop_oneof![Just(None), json.prop_map(Some), plain.prop_map(Some)]
}

proptest! {
    #[test]
    fn an_exported_record_is_read_back_unchanged(
        payload in payloads(),
        key in proptest::option::of("[ -~äß\n\u{0}]{0,10}"),
        headers in prop::collection::btree_map("[ -~ä\n]{0,5}", proptest::option::of("[ -~ä\n]{0,5}"), 0..4),
        offset in 0i64..1_000_000_000_000, partition in 0i32..1_000, timestamp in any::<i64>(),
    ) {
        let text = |text: &Option<String>| text.clone().map(String::into_bytes);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let record = Record {
            topic: "live.orders".to_owned(),
            partition: None,
            key: text(&key),
            payload: text(&payload),
            headers: headers.clone(),
            timestamp_ms: Some(timestamp),
        };
        let mut file = Vec::new();
        let published = Published { partition, offset, timestamp_ms: 0 };
        write_json_lines(&mut file, [(&record, &published), (&record, &published)]).unwrap();
        let (_directory, path) = written("export.jsonl", &file);
        let mut lines = Lines::open(&path, 10_000).unwrap();
        let mut line = Vec::new();
        for number in 0..2 {
            prop_assert_eq!(lines.read(&mut line).unwrap(), Some(Line { number, too_long: false }));
            let event = event(&line, number, &topics(), MOST).unwrap();
            prop_assert_eq!(event.position.offset, number);
            prop_assert_eq!(&event.key, &record.key);
            prop_assert_eq!(&event.value, &record.payload);
            prop_assert_eq!(event.timestamp_ms, Some(timestamp));
            let back: Vec<_> = event.headers.into_iter().map(|header| (String::from_utf8(header.name).unwrap(), header.value)).collect();
            prop_assert_eq!(&back, &headers);
        }
        prop_assert_eq!(lines.read(&mut line).unwrap(), None);
        let mut lines = Lines::open(&path, 10_000).unwrap();
        let scanned = Scanned::of(&mut lines, &topics(), &BTreeSet::new(), |_| ()).unwrap();
        prop_assert_eq!(scanned.ends(), [(Partition::new("live.orders", partition), offset + 1)].into());
    }
}
