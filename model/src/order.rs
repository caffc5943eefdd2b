//! Where a read model depends on an order that Kafka does not promise.
//!
//! Kafka orders the records of one partition. Two *sources* of a column, that is two topics, or
//! two ways in which one topic's events select the row, may reach it in either order; the outcome
//! is the same only if their operations commute, a version decides, or a read settles it.
//!
//! Which events are rejected may depend on that order as well: where a handler rejects an event because of a row that an
//! event of another topic brings or takes away. No read settles that: the one that comes too early is a dead letter.
//! What settles it is to wait for the row.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::contract::{Contract, Lookup, Write, WriteKind};
use crate::descriptor::{OnMiss, Operation};

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

/// Events that are rejected or not by the order between partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RejectionDependence {
    /// The topic of the events.
    pub topic: String,
    /// How its events meet rows of the table: `looks up customer`, or `cancel, which rejects where it finds no row`.
    pub by: String,
    pub table: String,
    /// Which events of other topics bring such rows or take them away: `topic (statement)`, the first ones.
    pub sources: Vec<String>,
    /// Whether the declaration alone says that such an event is rejected. Otherwise it is, if the handler rejects by
    /// what it finds.
    pub certain: bool,
    /// What would remove the dependence, in the author's words.
    pub remedy: String,
}

/// Between a topic and the lookup that it settles a column with. No name has a space.
const READS: &str = " reads ";

/// So many sources are named.
const NAMED_SOURCES: usize = 8;

/// Every topic whose events may be rejected because of what events of other topics did to a table, or did not do yet:
/// for each such table, the first way.
pub fn rejections(contract: &Contract) -> Vec<RejectionDependence> {
    let bringers = bringers(contract);
    let settling = settling(contract);
    let mut found = Vec::new();
    for (at, topic) in contract.topics.iter().enumerate() {
        let sources = |table: usize| -> Vec<String> {
            let others = bringers[table].iter().filter(|writer| writer.topic != at).take(NAMED_SOURCES);
            let name = |writer: &Writer<'_>| {
                format!("{} ({})", contract.topics[writer.topic].name, writer.write.name)
            };
            others.map(name).collect()
        };
        let mut tables = BTreeSet::new();
        let waits_for = |table: usize| {
            let by_key = |lookup: &Lookup| lookup.is_by_key(&contract.tables[lookup.table]);
            let mut lookups = contract.lookups.iter().zip(&topic.lookups);
            topic.wait_seconds.is_some()
                && lookups.any(|(lookup, may)| *may && lookup.table == table && by_key(lookup))
        };
        let mut add = |table: usize, by: String, certain: bool| {
            if !tables.insert(table) || waits_for(table) {
                return;
            }
            let sources = sources(table);
            if sources.is_empty() {
                return;
            }
            let table = contract.tables[table].name.clone();
            let remedy = format!(
                "have an event wait that needs a row of `{table}` which is not there yet: look it up by its key, answer \"not yet\" (`cx.require` in Rust), and declare `wait-seconds` (`waits = \"24h\"`) for {}",
                topic.name
            );
            found.push(RejectionDependence {
                topic: topic.name.clone(),
                by,
                table,
                sources,
                certain,
                remedy,
            });
        };
        for (write, _) in contract.writes.iter().zip(&topic.writes).filter(|(_, may)| **may) {
            if write.on_miss == OnMiss::Reject {
                add(write.table, format!("{}, which rejects where it finds no row", write.name), true);
            }
        }
        if contract.descriptor.rejects.is_empty() {
            continue;
        }
        for (lookup, _) in contract.lookups.iter().zip(&topic.lookups).filter(|(_, may)| **may) {
            // It reads what the others left in their own table, to settle a column of its own.
            if !settling.contains(&(at, lookup.table)) {
                add(lookup.table, format!("looks up {}", lookup.name), false);
            }
        }
    }
    found
}

/// By table: which writes bring its rows, or take them away.
fn bringers(contract: &Contract) -> Vec<Vec<Writer<'_>>> {
    let mut bringers = writers(contract);
    for writers in &mut bringers {
        writers.retain(|writer| writer.write.kind != WriteKind::Update);
    }
    bringers
}

/// Topics and the tables that they look up to settle a column of another table.
fn settling(contract: &Contract) -> BTreeSet<(usize, usize)> {
    let topics = contract.topics.iter().enumerate().map(|(at, topic)| (&*topic.name, at));
    let topics: BTreeMap<&str, usize> = topics.collect();
    let lookups = contract.lookups.iter().map(|lookup| (&*lookup.name, lookup.table));
    let lookups: BTreeMap<&str, usize> = lookups.collect();
    let mut settling = BTreeSet::new();
    for dependence in dependences(contract) {
        let read = dependence.settled_by.as_deref().and_then(|read| read.split_once(READS));
        let Some((topic, lookup)) = read else { continue };
        if let (Some(topic), Some(table)) = (topics.get(topic), lookups.get(lookup))
            && contract.tables[*table].name != dependence.table
        {
            settling.insert((*topic, *table));
        }
    }
    settling
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
        Some(format!("{}{READS}{}", topic.name, lookup.1.name))
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
        assert_eq!(rejections(&contract), []);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    /// Orders are confirmed by one topic and cancelled by another one.
    fn rejections_of(cancelled: serde_json::Value, rejects: serde_json::Value) -> Vec<RejectionDependence> {
        let json = serde_json::json!({
            "name": "t", "version": "1",
            "topics": [{"name": "confirmed", "statements": ["confirm"]}, cancelled],
            "tables": [
                {"name": "orders", "key": ["id"], "columns": [
                    {"name": "id", "type": "int64"}, {"name": "n", "type": "int64", "nullable": true}]},
                {"name": "cancellation", "key": ["id"], "columns": [{"name": "id", "type": "int64"}]}],
            "statements": [
                {"name": "confirm", "table": "orders", "kind": "upsert", "set": [{"column": "n"}]},
                {"name": "note", "table": "cancellation", "kind": "upsert"},
                {"name": "cancel", "table": "orders", "kind": "delete", "by": ["id"], "on-miss": "reject"}],
            "lookups": [{"name": "order", "table": "orders", "by": ["id"], "columns": ["id"]}],
            "rejects": rejects,
        });
        rejections(&Descriptor::from_json(&json.to_string()).and_then(Descriptor::check).expect("sound"))
    }

    #[test]
    fn a_rejection_by_a_row_of_another_topic_depends_on_their_order() {
        let rejects = serde_json::json!([{"code": "unknown-order"}]);
        let mut cancelled =
            serde_json::json!({"name": "cancelled", "statements": ["note"], "lookups": ["order"]});
        let found = rejections_of(cancelled.clone(), rejects.clone());
        assert_eq!(found.len(), 1);
        assert_eq!(
            (&*found[0].topic, &*found[0].by, &*found[0].table),
            ("cancelled", "looks up order", "orders")
        );
        assert_eq!(
            (&found[0].sources[..], found[0].certain),
            (&["confirmed (confirm)".to_owned()][..], false)
        );
        assert_eq!(rejections_of(cancelled.clone(), serde_json::json!([])), [], "it rejects nothing");
        cancelled["wait-seconds"] = 60.into();
        assert_eq!(rejections_of(cancelled, rejects), [], "it waits");
    }

    #[test]
    fn a_change_that_must_find_a_row_of_another_topic_depends_on_their_order() {
        let mut cancelled = serde_json::json!({"name": "cancelled", "statements": ["cancel"]});
        let found = rejections_of(cancelled.clone(), serde_json::json!([]));
        assert_eq!((found.len(), found[0].certain), (1, true));
        assert_eq!(found[0].by, "cancel, which rejects where it finds no row");
        cancelled["wait-seconds"] = 60.into();
        assert_eq!(rejections_of(cancelled.clone(), serde_json::json!([])).len(), 1, "it looks nothing up");
        cancelled["lookups"] = serde_json::json!(["order"]);
        assert_eq!(rejections_of(cancelled, serde_json::json!([])), []);
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
