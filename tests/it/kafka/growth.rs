//! What piles up is removed by itself, and the way back stays.

use projector_workload::Record;
use serde_json::{Value, json};

use super::generations::{COUNTS, counts};
use crate::harness::{Platform, Plugins, ReadModel, eventually};

struct Growth {
    platform: Platform,
    plugins: Plugins,
}

impl Growth {
    fn new(name: &str, read_model: ReadModel) -> Growth {
        let plugins = Plugins::new(&[]).add("counts.wasm", counts("1.0.0", |_| {}));
        let platform = Platform::new(name, &[], read_model)
            .set(&["plugins", "directory"], plugins.path())
            .set(&["deploy", "rebuild-share"], 1.0);
        platform.create_topics(1);
        let topic = platform.topic("hostile.events.v1");
        let record = |letter: &str| Record::new(&*topic, "k", letter.to_owned());
        platform.publish(&["A", "B", "C"].map(record));
        Growth { platform, plugins }
    }

    fn deploy(&self, version: &str) {
        let file = self.plugins.directory().join("next");
        std::fs::write(&file, counts(version, |_| {})).unwrap();
        self.platform.ask(&["deploy", &file.display().to_string()]);
    }

    fn status(&self) -> Value {
        self.platform.ask(&["status", COUNTS])["projections"][0].clone()
    }

    /// Builds another generation, and shows it to readers.
    fn rebuild_and_promote(&self) {
        let before = self.status()["generation"].clone();
        self.platform.ask(&["rebuild", COUNTS]);
        eventually("the new generation is shown", || {
            let (code, _, said) = self.platform.command(&["promote", COUNTS]);
            if code == 0 { Ok(()) } else { Err(said) }
        });
        assert_ne!(self.status()["generation"], before);
    }

    /// The numbers of the generations beside the live one.
    fn beside(&self) -> Vec<i64> {
        let status = self.status();
        let beside = status["beside"].as_array().into_iter().flatten();
        let mut beside: Vec<i64> = beside.filter_map(|one| one["generation"].as_i64()).collect();
        beside.sort_unstable();
        beside
    }
}

#[test]
fn warm_generations_beyond_those_that_are_kept_are_retired_by_themselves() {
    for read_model in [ReadModel::postgres(), ReadModel::sqlite()] {
        let it = Growth::new("warm", read_model);
        let platform = it.platform.set(&["keep", "warm-generations"], 1);
        let it = Growth { platform, ..it };
        let host = it.platform.start_host("host");
        it.platform.until_through(COUNTS);
        it.rebuild_and_promote();
        it.rebuild_and_promote();
        it.rebuild_and_promote();
        eventually("old generations are retired", || match it.beside() {
            beside if beside == [3] => Ok(()),
            beside => Err(beside),
        });
        let said = host.log().until_said("old generation retired");
        assert_eq!((said.field("projection"), said.number("generation")), (COUNTS, Some(1)));
        let retired = |rows: Value| -> Vec<Value> {
            let rows = rows.as_array().cloned().unwrap_or_default();
            rows.into_iter().filter(|row| row["action"] == "retire").collect()
        };
        let history = retired(it.platform.ask(&["history", COUNTS]));
        assert_eq!(history.len(), 2, "{history:#?}");
        assert!(
            history.iter().all(|row| row["asked_by"] == "the host" && row["origin"] == "host"),
            "{history:#?}"
        );
        let operations = retired(it.platform.ask(&["operations", COUNTS]));
        assert_eq!(operations[0]["verdict"], json!({ "retired": 2 }), "{operations:#?}");
        // The way back is there.
        it.platform.ask(&["rollback", COUNTS]);
        assert_eq!((it.status()["generation"].as_i64(), it.beside()), (Some(3), vec![4]));
        host.sigterm();
    }
}

#[test]
fn a_rollback_works_after_one_whose_generation_was_retired() {
    let it = Growth::new("rollback-again", ReadModel::postgres());
    let host = it.platform.start_host("host");
    it.platform.until_through(COUNTS);
    it.deploy("1.1.0");
    it.rebuild_and_promote();
    it.platform.ask(&["rollback", COUNTS]);
    assert_eq!((it.status()["generation"].as_i64(), it.beside()), (Some(1), vec![2]));
    it.platform.ask(&["retire", COUNTS, "--reason", "it is not wanted"]);
    // What came before both is the version before.
    it.platform.ask(&["rollback", COUNTS]);
    let status = it.status();
    assert_eq!((&status["generation"], &status["version"]), (&json!(1), &json!("1.0.0")));
    let (code, said) = it.platform.says(&["rollback", COUNTS]);
    assert!(code == 1 && said.contains("has had no version before"), "{code}: {said}");
    // A promotion whose generation before is gone cannot be undone, and the error says what can be done.
    it.rebuild_and_promote();
    it.platform.ask(&["retire", COUNTS, "--reason", "it is not wanted"]);
    let (code, said) = it.platform.says(&["rollback", COUNTS]);
    assert!(
        code == 1 && said.contains("was retired") && said.contains("projector rebuild"),
        "{code}: {said}"
    );
    host.sigterm();
}
