//! What the pages about connecting show: the tests run it.
//!
//! Each fenced block there is preceded by its name: `<!-- snippet: kafka-scram -->`. What is particular to a
//! reader (addresses, passwords) stands in those of `docs/src/operators/kafka.md` as `${NAME}`, and a test gives
//! the value with [`Platform::env`]; in those of `docs/src/operators/postgres.md` a test replaces the example.

use toml::{Table, Value};

use super::Platform;

const KAFKA: &str = include_str!("../../../docs/src/operators/kafka.md");
const POSTGRES: &str = include_str!("../../../docs/src/operators/postgres.md");

/// The block of this name on the page about Postgres.
pub(crate) fn postgres_snippet(name: &str) -> &'static str {
    block(POSTGRES, name)
}

fn block(page: &'static str, name: &str) -> &'static str {
    let comment = format!("<!-- snippet: {name} -->\n```");
    let (_, rest) = page.split_once(&comment).unwrap_or_else(|| panic!("no page has {comment}"));
    let block = rest.split_once('\n').and_then(|(_language, rest)| rest.split_once("```"));
    block.unwrap_or_else(|| panic!("the block after {comment} does not end")).0
}

impl Platform {
    /// Adds a block of `docs/src/operators/kafka.md` to this configuration: its values replace those of the same keys.
    pub(crate) fn with_snippet(mut self, name: &str) -> Platform {
        let snippet = block(KAFKA, name).parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        merge(self.config(), snippet);
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
