//! A value that is too large for the host is not carried on.

use projector_workload::{Publisher, Record};
use serde_json::json;

use crate::harness::{Platform, Plugins, ReadModel, assert_closed, dead_letters, rows};

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
