//! The configurations that `docs/connecting.md` shows: the tests run them.
//!
//! Each fenced `toml` block there is preceded by its name: `<!-- snippet: kafka-scram -->`. What is
//! particular to a reader (addresses, passwords) stands in it as `${NAME}`, and a test gives the value with
//! [`Platform::env`].

use toml::{Table, Value};

use super::Platform;

const PAGE: &str = include_str!("../../../docs/connecting.md");

/// The block of this name.
pub(crate) fn snippet(name: &str) -> Table {
    let comment = format!("<!-- snippet: {name} -->\n");
    let (_, rest) =
        PAGE.split_once(&comment).unwrap_or_else(|| panic!("docs/connecting.md has no {comment}"));
    let block = rest.strip_prefix("```toml\n").and_then(|rest| rest.split_once("\n```"));
    let (block, _) = block.unwrap_or_else(|| panic!("no toml block follows {comment}"));
    block.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

impl Platform {
    /// Adds a block of `docs/connecting.md` to this configuration: its values replace those of the same keys.
    pub(crate) fn with_snippet(mut self, name: &str) -> Platform {
        merge(self.config(), snippet(name));
        self
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}
