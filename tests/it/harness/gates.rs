//! A projection whose events fail until their gate is open, and whose trails show every loss, doubling
//! and change of order.

use std::collections::BTreeMap;

use projector_workload::Record;
use serde_json::{Value, json};
use toml::Value as Setting;

use super::{Host, Platform, Plugins, Projection, ReadModel, rows};

pub(crate) const GATES: &str = "gates";

pub(crate) struct Gates {
    pub(crate) platform: Platform,
    /// What the host was given lives as long as it.
    plugins: Plugins,
}

/// A step on a key's trail; with `gate`, one that is rejected until that gate is open.
pub(crate) struct Step<'a> {
    pub(crate) of: &'a str,
    pub(crate) step: &'a str,
    pub(crate) gate: Option<&'a str>,
}

/// `a1`, `a2 if x`: the step `1` on the trail of `a`; the step `2`, once the gate `x` is open.
pub(crate) fn step(written: &str) -> Step<'_> {
    let (step, gate) = match written.split_once(" if ") {
        Some((step, gate)) => (step, Some(gate)),
        None => (written, None),
    };
    Step { of: &step[..1], step: &step[1..], gate }
}

impl Gates {
    pub(crate) fn new(name: &str, partitions: i32, read_model: ReadModel) -> Gates {
        let plugins = Plugins::new(&["gates-guest"]);
        let platform = Platform::new(name, &[], read_model).set(&["plugins", "directory"], plugins.path());
        platform.create_topics(partitions);
        Gates { platform, plugins }
    }

    pub(crate) fn set(self, path: &[&str], value: impl Into<Setting>) -> Gates {
        Gates { platform: self.platform.set(path, value), ..self }
    }

    /// The plugin directory.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.plugins.directory()
    }

    pub(crate) fn record(&self, topic: &str, step: &Step<'_>) -> Record {
        let payload = json!({"of": step.of, "step": step.step, "gate": step.gate});
        Record::new(self.platform.topic(topic), step.of, payload.to_string())
    }

    /// Steps of the first topic, in this order.
    pub(crate) fn publish(&self, steps: &[&str]) {
        let records = steps.iter().map(|written| self.record("step.v1", &step(written)));
        self.platform.publish(&records.collect::<Vec<_>>());
    }

    pub(crate) fn open(&self, gates: &[&str]) {
        let topic = self.platform.topic("gate.v1");
        let opened = |gate: &&str| Record::new(&*topic, *gate, json!({"gate": gate}).to_string());
        self.platform.publish(&gates.iter().map(opened).collect::<Vec<_>>());
    }

    pub(crate) fn start_host(&self, name: &str) -> Host {
        self.platform.start_host(name)
    }

    #[track_caller]
    pub(crate) fn until_through(&self) -> Projection {
        self.platform.until_through(GATES)
    }

    /// Each key's trail.
    pub(crate) fn trails(&self) -> BTreeMap<String, String> {
        let rows = rows(self.platform.read_model(), GATES, "trail", &["id", "steps"]);
        rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
    }

    /// The trails of these keys, in their order.
    pub(crate) fn trails_of<const N: usize>(&self, keys: [&str; N]) -> [String; N] {
        let trails = self.trails();
        keys.map(|key| trails.get(key).cloned().unwrap_or_default())
    }

    /// The dead letters as `projector dlq list` has them.
    #[track_caller]
    pub(crate) fn letters(&self) -> Vec<Value> {
        self.platform.ask(&["dlq", "list", GATES]).as_array().cloned().unwrap_or_default()
    }

    /// The number of the only dead letter there is.
    #[track_caller]
    pub(crate) fn only_letter(&self) -> String {
        let letters = self.letters();
        assert_eq!(letters.len(), 1, "{letters:#?}");
        letters[0]["id"].to_string()
    }
}
