//! Where a read model depends on an order that Kafka does not promise.
//!
//! Kafka orders the records of one partition. Two *sources* of a column, that is two topics, or
//! two ways in which one topic's events select the row, may reach it in either order; the outcome
//! is the same only if their operations commute, a version decides, or a read settles it.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::contract::{Contract, Write, WriteKind};
use crate::descriptor::Operation;

/// A column that is written by more than one source, where the order of the writes matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OrderDependence {
    pub table: String,
    pub column: String,
    /// Who writes it: `topic (statement)`, in declared order.
    pub sources: Vec<String>,
    /// A source reads a table that another of them writes: right in either order, if the plugin
    /// decides by what it read. `topic reads lookup`.
    pub settled_by: Option<String>,
    /// What would remove the dependence, in the author's words.
    pub remedy: String,
}

/// Every such column, in the order of the tables and their columns.
pub fn dependences(contract: &Contract) -> Vec<OrderDependence> {
    let mut found = Vec::new();
    for (table, writers) in contract.tables.iter().zip(writers(contract)) {
        for (column_index, column) in table.columns.iter().enumerate() {
            if table.is_key_column(column_index) {
                continue;
            }
            let touches = |write: &Write| {
                write.kind == WriteKind::Delete
                    || write.set.iter().any(|(written, _)| *written == column_index)
            };
            let writers: Vec<_> = writers.iter().copied().filter(|writer| touches(writer.write)).collect();
            let sources: BTreeSet<_> =
                writers.iter().map(|writer| (writer.topic, &writer.write.by)).collect();
            if sources.len() < 2 || writers.windows(2).all(|pair| commute(pair[0], pair[1], column_index)) {
                continue;
            }
            let settled_by = settled_by(contract, &writers);
            found.push(OrderDependence {
                table: table.name.clone(),
                column: column.name.clone(),
                sources: writers
                    .iter()
                    .map(|writer| format!("{} ({})", contract.topics[writer.topic].name, writer.write.name))
                    .collect(),
                settled_by,
                remedy: format!(
                    "give each of these statements a guard (a version column that both topics carry), write `{}` by add, min or max, or read what the other topic left",
                    column.name
                ),
            });
        }
    }
    found
}

/// Those that nothing settles: the rows show the order between partitions.
pub fn unsettled(contract: &Contract) -> Vec<OrderDependence> {
    let mut found = dependences(contract);
    found.retain(|dependence| dependence.settled_by.is_none());
    found
}

#[derive(Clone, Copy)]
struct Writer<'c> {
    topic: usize,
    write: &'c Write,
}

/// By table: who may write it.
fn writers(contract: &Contract) -> Vec<Vec<Writer<'_>>> {
    let mut by_table = vec![Vec::new(); contract.tables.len()];
    for (topic, declared) in contract.topics.iter().enumerate() {
        let writes = contract.writes.iter().zip(&declared.writes).filter(|(_, may)| **may);
        writes.for_each(|(write, _)| by_table[write.table].push(Writer { topic, write }));
    }
    by_table
}

fn commute(a: Writer<'_>, b: Writer<'_>, column: usize) -> bool {
    let guarded = |writer: Writer<'_>| writer.write.guard.map(|guard| guard.column);
    if guarded(a).is_some() && guarded(a) == guarded(b) {
        return true;
    }
    let operation = |writer: Writer<'_>| {
        writer.write.set.iter().find(|(written, _)| *written == column).map(|(_, operation)| *operation)
    };
    let commutes_with_itself =
        |operation| matches!(operation, Some(Operation::Add | Operation::Min | Operation::Max));
    a.write.kind == WriteKind::Upsert
        && b.write.kind == WriteKind::Upsert
        && operation(a) == operation(b)
        && commutes_with_itself(operation(a))
}

fn settled_by(contract: &Contract, writers: &[Writer<'_>]) -> Option<String> {
    writers.iter().find_map(|reader| {
        let topic = &contract.topics[reader.topic];
        let lookup = contract.lookups.iter().enumerate().find(|(index, lookup)| {
            topic.lookups[*index]
                && writers.iter().any(|other| {
                    other.topic != reader.topic
                        && contract.writes.iter().enumerate().any(|(statement, write)| {
                            write.table == lookup.table && contract.topics[other.topic].writes[statement]
                        })
                })
        })?;
        Some(format!("{} reads {}", topic.name, lookup.1.name))
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::Descriptor;

    fn dependences_of(statements: serde_json::Value, lookups: serde_json::Value) -> Vec<OrderDependence> {
        let json = serde_json::json!({
            "name": "t", "version": "1",
            "topics": [
                {"name": "a", "statements": ["one"], "lookups": lookups.as_array().map(|list| !list.is_empty()).unwrap_or(false).then_some("other").into_iter().collect::<Vec<_>>()},
                {"name": "b", "statements": ["two"]},
            ],
            "tables": [{"name": "t", "key": ["id"], "columns": [
                {"name": "id", "type": "int64"}, {"name": "n", "type": "int64", "nullable": true},
                {"name": "v", "type": "int64", "nullable": true}]}],
            "statements": statements, "lookups": lookups,
        });
        dependences(&Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("sound"))
    }

    fn upsert(name: &str, set: serde_json::Value) -> serde_json::Value {
        serde_json::json!({"name": name, "table": "t", "kind": "upsert", "set": set})
    }

    #[test]
    fn two_topics_that_set_one_column_depend_on_their_order() {
        let set = serde_json::json!([{"column": "n"}]);
        let found = dependences_of(
            serde_json::json!([upsert("one", set.clone()), upsert("two", set)]),
            serde_json::json!([]),
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].sources, ["a (one)", "b (two)"]);
        assert_eq!(found[0].settled_by, None);
    }

    /// Two thirds of a megabyte, of what a host reads before it knows any better.
    #[test]
    fn the_largest_projection_is_looked_through_in_no_time() {
        let names = |what: &str, count: usize| (0..count).map(|at| format!("{what}{at}")).collect::<Vec<_>>();
        let columns: Vec<_> = names("c", 150)
            .iter()
            .map(|name| serde_json::json!({"name": name, "type": "int64", "nullable": true}))
            .collect();
        let columns = [vec![serde_json::json!({"name": "id", "type": "int64"})], columns].concat();
        let json = serde_json::json!({
            "name": "t", "version": "1",
            "topics": names("t", 1_000).iter().map(|name| serde_json::json!({"name": name, "statements": ["s1"]})).collect::<Vec<_>>(),
            "tables": names("t", 100).iter().map(|name| serde_json::json!({"name": name, "key": ["id"], "columns": columns})).collect::<Vec<_>>(),
            "statements": names("s", 1_000).iter().map(|name| serde_json::json!({"name": name, "table": "t0", "kind": "upsert"})).collect::<Vec<_>>(),
        });
        let contract = Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("sound");
        let started = Instant::now();
        assert_eq!(dependences(&contract), []);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[test]
    fn sums_do_not() {
        let add = serde_json::json!([{"column": "n", "operation": "add"}]);
        assert_eq!(
            dependences_of(
                serde_json::json!([upsert("one", add.clone()), upsert("two", add)]),
                serde_json::json!([])
            ),
            []
        );
    }

    #[test]
    fn a_shared_version_decides() {
        let set = serde_json::json!([{"column": "n"}, {"column": "v"}]);
        let mut statements = serde_json::json!([upsert("one", set.clone()), upsert("two", set)]);
        statements[0]["guard"] = "v".into();
        statements[1]["guard"] = "v".into();
        assert_eq!(dependences_of(statements, serde_json::json!([])), []);
    }

    #[test]
    fn a_read_may_settle_it() {
        let set = serde_json::json!([{"column": "n"}]);
        let lookups = serde_json::json!([{"name": "other", "table": "t", "by": ["id"], "columns": ["n"]}]);
        let found =
            dependences_of(serde_json::json!([upsert("one", set.clone()), upsert("two", set)]), lookups);
        assert_eq!(found[0].settled_by.as_deref(), Some("a reads other"));
    }
}
