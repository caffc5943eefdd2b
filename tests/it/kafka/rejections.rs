//! An event that the database refuses is refused for its own sake: given the events before it that
//! stand, and none that fell themselves.

use projector_workload::Record;
use serde_json::json;

use crate::harness::{Argument, Guest, Platform, Plugins, ReadModel, assert_closed, dead_letters, rows};

fn descriptor() -> String {
    let table = |name: &str, column: &str| {
        json!({"name": name, "key": ["id"], "columns": [
            {"name": "id", "type": "int64"}, {"name": column, "type": "int64"}]})
    };
    json!({
        "name": "falls",
        "version": "1.0.0",
        "topics": [{"name": "hostile.events.v1", "statements": ["add", "touch"]}],
        "tables": [table("sums", "n"), table("touched", "x")],
        "statements": [
            {"name": "add", "table": "sums", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
            {"name": "touch", "table": "touched", "kind": "update", "by": ["id"], "set": [{"column": "x"}],
             "on-miss": "reject"}],
    })
    .to_string()
}

/// `A` would fill a sum, and is rejected because it touches a row that is not there; `B` adds to the
/// same sum, which would overflow only if `A` stood. They come in one batch, and the sums are
/// written first.
#[test]
fn an_event_does_not_fall_with_one_that_falls_before_it() {
    let mut guest = Guest::describing(&descriptor());
    let fill = guest.changes(&[
        (0, &[Argument::Int64(2), Argument::Int64(i64::MAX)]),
        (1, &[Argument::Int64(1), Argument::Int64(0)]),
    ]);
    let add = guest.changes(&[(0, &[Argument::Int64(2), Argument::Int64(5)])]);
    let plugins = Plugins::new(&[]).add("falls.wasm", guest.answering(&[fill, add]).component());
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let platform = Platform::new("falls", &[], read_model)
            .set(&["plugins", "directory"], plugins.path())
            .set(&["failures", "policy"], "dead-letter");
        platform.create_topics(1);
        let topic = platform.topic("hostile.events.v1");
        platform.publish(&["A", "B", "A", "B"].map(|payload| Record::new(&*topic, "k", payload)));
        let host = platform.start_host("host");
        let status = platform.until_through("falls");
        let letters = dead_letters(platform.read_model(), "falls");
        let verdicts: Vec<_> = letters.iter().map(|letter| (letter.offset, letter.verdict())).collect();
        // The second `A` overflows what the first `B` added; either reason is its own.
        assert_eq!(verdicts[0], (0, "refused (missed)".to_owned()), "{letters:?}");
        assert_eq!(verdicts.len(), 2, "{letters:?}");
        assert_eq!(verdicts[1].0, 2, "{letters:?}");
        assert_closed(&status, 4, 0, 2);
        assert_eq!(
            rows(platform.read_model(), "falls", "sums", &["id", "n"]),
            [[Some("2".to_owned()), Some("10".to_owned())]]
        );
        host.sigterm();
    }
}
