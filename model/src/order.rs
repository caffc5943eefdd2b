//! Where a read model depends on an order that Kafka does not guarantee.
//!
//! Why: Kafka orders the records of one partition only. A *source* of a column is a topic, together with the columns by
//! which its statement selects the row. The changes of two sources can reach the column in either order. The result is
//! the same in both orders only if the operations commute, if a version decides, or if the plugin reads what the other
//! topic has written and decides by that. When the host loads a plugin, it
//! warns about every other column.
//!
//! Whether an event is rejected can depend on that order too: a handler may reject an event because a row is missing
//! that another topic's event inserts. A read does not help there, because an event that comes too early becomes a dead
//! letter. Such an event must wait for the row.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::contract::{Contract, Topic, Write, WriteKind};
use crate::descriptor::{OnMiss, Operation};

/// A column that has more than one source, and whose value depends on the order of their changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OrderDependence {
    pub table: String,
    pub column: String,
    /// The sources, as `topic (statement)`, in declared order.
    pub sources: Vec<String>,
    /// A read of one source that sees what another source has written, as `topic reads lookup`. If the plugin decides by
    /// this read, the result is right in either order.
    pub settled_by: Option<String>,
    /// What removes the dependence, for the author.
    pub remedy: String,
}

/// Every column that depends on the order between its sources, in the order of the tables and their columns.
pub fn dependences(contract: &Contract) -> Vec<OrderDependence> {
    dependent_columns(contract)
        .into_iter()
        .map(|dependent| {
            let column = &contract.tables[dependent.table].columns[dependent.column].name;
            let read = |(topic, lookup): (usize, usize)| {
                format!("{} reads {}", contract.topics[topic].name, contract.lookups[lookup].name)
            };
            OrderDependence {
                table: contract.tables[dependent.table].name.clone(),
                column: column.clone(),
                sources: dependent.writers.iter().map(|writer| writer.name(contract)).collect(),
                settled_by: dependent.settled_by.map(read),
                remedy: format!(
                    "give each of these statements a guard (a version column that both topics carry), or write `{column}` with add, min or max, or read what the other topic has written"
                ),
            }
        })
        .collect()
}

/// The dependences that no read settles. Their columns show the order between partitions.
pub fn unsettled(contract: &Contract) -> Vec<OrderDependence> {
    let mut found = dependences(contract);
    found.retain(|dependence| dependence.settled_by.is_none());
    found
}

/// Events of a topic that are rejected, or not, depending on the order between partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RejectionDependence {
    /// The topic of the events.
    pub topic: String,
    /// How the events depend on rows of the table: `looks up customer`, or `calls cancel, which rejects if it finds no
    /// row`.
    pub by: String,
    pub table: String,
    /// Which events of other topics insert or delete such rows, as `topic (statement)`. At most the first 8.
    pub sources: Vec<String>,
    /// `true`: the declaration alone says that such an event is rejected. `false`: the event is rejected if the handler
    /// decides so by the rows that it finds.
    pub certain: bool,
    /// What removes the dependence, for the author.
    pub remedy: String,
}

const MAX_NAMED_SOURCES: usize = 8;

/// Every topic whose events may be rejected because of the rows that events of other topics have inserted, deleted, or
/// not inserted yet. Each table is listed once for a topic, with the first way in which the topic depends on it.
pub fn rejections(contract: &Contract) -> Vec<RejectionDependence> {
    let sources = inserters_and_deleters(contract);
    let settling = settling_reads(contract);
    let mut found = Vec::new();
    for (at, topic) in contract.topics.iter().enumerate() {
        let mut tables = BTreeSet::new();
        for dependence in ways_to_reject(contract, at, &settling) {
            if !tables.insert(dependence.table) || waits_for(contract, topic, dependence.table) {
                continue;
            }
            let others = sources[dependence.table].iter().filter(|writer| writer.topic != at);
            let sources: Vec<_> =
                others.take(MAX_NAMED_SOURCES).map(|writer| writer.name(contract)).collect();
            if !sources.is_empty() {
                found.push(dependence.describe(contract, topic, sources));
            }
        }
    }
    found
}

/// A way in which the events of a topic may be rejected.
struct WayToReject {
    by: String,
    table: usize,
    certain: bool,
}

impl WayToReject {
    fn describe(self, contract: &Contract, topic: &Topic, sources: Vec<String>) -> RejectionDependence {
        let table = contract.tables[self.table].name.clone();
        let remedy = format!(
            "let such an event wait for the missing row of `{table}`: look the row up by its key, answer \"not yet\" (`cx.require` in Rust), and declare `wait-seconds` (`waits = \"24h\"`) for {}",
            topic.name
        );
        RejectionDependence {
            topic: topic.name.clone(),
            by: self.by,
            table,
            sources,
            certain: self.certain,
            remedy,
        }
    }
}

fn ways_to_reject(
    contract: &Contract,
    topic_index: usize,
    settling: &BTreeSet<(usize, usize)>,
) -> Vec<WayToReject> {
    let topic = &contract.topics[topic_index];
    let mut ways = Vec::new();
    for (write, _) in contract.writes.iter().zip(&topic.writes).filter(|(_, may)| **may) {
        if write.on_miss == OnMiss::Reject {
            let by = format!("calls {}, which rejects if it finds no row", write.name);
            ways.push(WayToReject { by, table: write.table, certain: true });
        }
    }
    if contract.descriptor.rejects.is_empty() {
        return ways;
    }
    for (lookup, _) in contract.lookups.iter().zip(&topic.lookups).filter(|(_, may)| **may) {
        // A read that settles a column of another table is there to decide a value, not to reject.
        if !settling.contains(&(topic_index, lookup.table)) {
            let by = format!("looks up {}", lookup.name);
            ways.push(WayToReject { by, table: lookup.table, certain: false });
        }
    }
    ways
}

/// Whether events of the topic may wait for a row of the table.
fn waits_for(contract: &Contract, topic: &Topic, table: usize) -> bool {
    let mut lookups = contract.lookups.iter().zip(&topic.lookups).filter(|(_, may)| **may);
    topic.wait_seconds.is_some()
        && lookups.any(|(lookup, _)| lookup.table == table && lookup.is_by_key(&contract.tables[table]))
}

/// For each table: the writers that insert or delete rows.
fn inserters_and_deleters(contract: &Contract) -> Vec<Vec<Writer<'_>>> {
    let mut writers = writers(contract);
    for of_table in &mut writers {
        of_table.retain(|writer| writer.write.kind != WriteKind::Update);
    }
    writers
}

/// Each topic with each table that the topic looks up to settle a column of *another* table.
fn settling_reads(contract: &Contract) -> BTreeSet<(usize, usize)> {
    let mut settling = BTreeSet::new();
    for dependent in dependent_columns(contract) {
        if let Some((topic, lookup)) = dependent.settled_by {
            let table = contract.lookups[lookup].table;
            if table != dependent.table {
                settling.insert((topic, table));
            }
        }
    }
    settling
}

/// A column whose value depends on the order between its writers.
struct DependentColumn<'c> {
    table: usize,
    column: usize,
    writers: Vec<Writer<'c>>,
    /// The topic and the lookup that settle the dependence.
    settled_by: Option<(usize, usize)>,
}

fn dependent_columns(contract: &Contract) -> Vec<DependentColumn<'_>> {
    let mut found = Vec::new();
    for (table_index, of_table) in writers(contract).into_iter().enumerate() {
        let table = &contract.tables[table_index];
        for column in (0..table.columns.len()).filter(|column| !table.is_key_column(*column)) {
            let touches = |write: &Write| {
                write.kind == WriteKind::Delete || write.set.iter().any(|(written, _)| *written == column)
            };
            let writers: Vec<_> = of_table.iter().copied().filter(|writer| touches(writer.write)).collect();
            let sources: BTreeSet<_> =
                writers.iter().map(|writer| (writer.topic, &writer.write.by)).collect();
            if sources.len() < 2 || writers.windows(2).all(|pair| commute(pair[0], pair[1], column)) {
                continue;
            }
            let settled_by = settled_by(contract, &writers);
            found.push(DependentColumn { table: table_index, column, writers, settled_by });
        }
    }
    found
}

/// A statement, called by the events of a topic.
#[derive(Clone, Copy)]
struct Writer<'c> {
    topic: usize,
    write: &'c Write,
}

impl Writer<'_> {
    fn name(&self, contract: &Contract) -> String {
        format!("{} ({})", contract.topics[self.topic].name, self.write.name)
    }
}

/// For each table: its writers, by topic and then by statement.
fn writers(contract: &Contract) -> Vec<Vec<Writer<'_>>> {
    let mut by_table = vec![Vec::new(); contract.tables.len()];
    for (topic, declared) in contract.topics.iter().enumerate() {
        let writes = contract.writes.iter().zip(&declared.writes).filter(|(_, may)| **may);
        writes.for_each(|(write, _)| by_table[write.table].push(Writer { topic, write }));
    }
    by_table
}

/// Whether both orders of two changes leave the same value in a column.
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

/// The first writer's topic that looks up a table which another writer's topic writes, with that lookup.
fn settled_by(contract: &Contract, writers: &[Writer<'_>]) -> Option<(usize, usize)> {
    writers.iter().find_map(|reader| {
        let topic = &contract.topics[reader.topic];
        let lookup = contract.lookups.iter().enumerate().position(|(index, lookup)| {
            topic.lookups[index]
                && writers.iter().any(|other| {
                    other.topic != reader.topic
                        && contract.writes.iter().enumerate().any(|(statement, write)| {
                            write.table == lookup.table && contract.topics[other.topic].writes[statement]
                        })
                })
        })?;
        Some((reader.topic, lookup))
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

    /// The JSON has two thirds of a megabyte, which is near the largest descriptor that a host reads.
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

    /// One topic confirms orders, and another topic cancels them.
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
        assert_eq!(found[0].by, "calls cancel, which rejects if it finds no row");
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
