//! One record that no plugin can be given, or that is larger than any fetch, stops nothing else.

use projector_test_servers::Kafka;
use projector_workload::topics::{self, Topic};
use projector_workload::{Publisher, Record};
use serde_json::json;

use crate::harness::{Platform, Plugins, ReadModel, assert_closed, dead_letters, publish_with_header, rows};

fn write(id: &str) -> String {
    json!({"do": "write", "id": id}).to_string()
}

/// Fault 45: a header name that is not UTF-8. Its event is a dead letter, before and after a retry.
#[test]
fn a_header_name_that_is_not_utf8_is_one_dead_letter_and_the_rest_flows() {
    const NAME: &[u8] = b"x-\xff\xfe";
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let plugins = Plugins::new(&["hostile-guest"]);
        let platform =
            Platform::new("odd-header", &[], read_model).set(&["plugins", "directory"], plugins.path());
        platform.create_topics(2);
        let topic = platform.topic("hostile.events.v1");
        let good = |id: &str, partition| Record {
            partition: Some(partition),
            ..Record::new(&*topic, id.to_owned(), write(id))
        };
        platform.publish(&[good("1", 0)]);
        publish_with_header(platform.brokers(), &topic, 0, (b"odd", write("2").as_bytes()), (NAME, b"v"));
        platform.publish(&[good("3", 0), good("4", 1)]);
        let host = platform.start_host("host");
        assert_closed(&platform.until_through("hostile"), 4, 0, 1);

        let [letter] = &dead_letters(platform.read_model(), "hostile")[..] else { panic!("one dead letter") };
        assert_eq!((letter.partition, letter.offset), (0, 1));
        assert_eq!(letter.verdict(), "invalid (header-name)");
        assert_eq!(letter.headers, json!([{"name": {"hex": "782dfffe"}, "value": "v"}]));
        for said in ["782dfffe", "x-\\xff\\xfe", &format!("{topic}/0@1"), "producer"] {
            assert!(letter.detail.contains(said), "{said:?} is not in {letter:?}");
        }
        let id = platform.ask(&["dlq", "list", "hostile"])[0]["id"].to_string();
        let (code, _, shown) = platform.command(&["dlq", "show", "hostile", &id]);
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("782dfffe") && shown.contains("header-name"), "{shown}");

        // It stays what it is: the stored record has the same header.
        let (code, again, said) = platform.command(&["dlq", "retry", "hostile", "--all", "--output", "json"]);
        assert_eq!((code, again[0]["verdict"]["outcome"].as_str()), (1, Some("invalid")), "{said}");
        let written = rows(platform.read_model(), "hostile", "survivor", &["id"]);
        assert_eq!(written, ["1", "3", "4"].map(|id| [Some(id.to_owned())]));
        let log = host.sigterm();
        assert!(!log.lines().iter().any(|line| line.text.contains("panicked")), "something panicked");
    }
}

/// Fault 45: larger than `fetch.message.max.bytes`, and than what librdkafka takes unless it is told.
#[test]
fn a_record_of_110_megabytes_is_a_dead_letter_and_what_is_behind_it_is_read() {
    const HUGE: usize = 110_000_000;
    let kafka = Kafka::start_with(&[
        ("message.max.bytes", "150000000"),
        ("socket.request.max.bytes", "200000000"),
        ("replica.fetch.max.bytes", "150000000"),
    ])
    .unwrap();
    let plugins = Plugins::new(&["hostile-guest"]);
    let platform = Platform::on(&kafka.bootstrap(), "huge", &[], ReadModel::postgres())
        .set(&["plugins", "directory"], plugins.path());
    let topic = platform.topic("hostile.events.v1");
    topics::create(platform.brokers(), &[Topic::new(&*topic, 2)]).unwrap();
    let record = |key: &str, partition, payload: String| Record {
        partition: Some(partition),
        ..Record::new(&*topic, key.to_owned(), payload)
    };
    let huge = json!({"do": "write", "id": "huge", "ballast": "x".repeat(HUGE)}).to_string();
    let bytes = huge.len();
    let sent = [
        record("a", 0, write("1")),
        record("huge", 0, huge),
        record("b", 0, write("2")),
        record("c", 1, write("3")),
    ];
    Publisher::new(platform.brokers())
        .property("compression.codec", "none")
        .property("message.max.bytes", "150000000")
        .property("queue.buffering.max.kbytes", "400000")
        .publish(&sent)
        .unwrap();
    let host = platform.start_host("host");
    assert_closed(&platform.until_through("hostile"), 4, 0, 1);
    let [letter] = &dead_letters(platform.read_model(), "hostile")[..] else { panic!("one dead letter") };
    assert_eq!((letter.offset, letter.verdict()), (1, "too-large (value-bytes)".to_owned()));
    assert!(letter.detail.contains(&format!("{bytes} bytes")), "{letter:?}");
    assert_eq!(letter.payload, None);
    host.sigterm();

    // And no client that asks about it is stopped by it: a host that was never there.
    let status = platform.status().unwrap();
    assert!(status["hostile"].fresh, "{status:#?}");
}
