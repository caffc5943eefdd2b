//! What a plugin says about itself.

use std::collections::HashSet;

use order_search::OrderSearch;
use projector_core::planner::Rules;
use projector_model::order::dependences;
use projector_model::{Contract, Descriptor, Problems};
use projector_sdk::Projection;
use sales_by_country::SalesByCountry;

use crate::{EVERYTHING, Shape, Target};

pub(crate) const TARGET: Target =
    Target { name: "descriptors", check, seeds, most_bytes: 8_192, shape: Shape::Json { begins: |_| 0 } };

/// It is refused with reasons; or it is written again as the same one, its names are safe in SQL, and
/// the host can rely on it.
fn check(bytes: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(bytes) else { return false };
    match Descriptor::from_json(json).and_then(Descriptor::check) {
        Ok(contract) => {
            written_again(&contract);
            named_safely(&contract);
            resolved(&contract);
            true
        }
        Err(Problems(problems)) => {
            assert!(!problems.is_empty(), "refused without a reason");
            assert!(problems.iter().all(|problem| !problem.message.is_empty()), "{problems:?}");
            false
        }
    }
}

fn written_again(contract: &Contract) {
    let json = contract.descriptor.to_json();
    let again = Descriptor::from_json(&json).unwrap_or_else(|problems| panic!("{problems}\n{json}"));
    assert_eq!(again, contract.descriptor);
    assert_eq!(again.to_json(), json);
    let again = again.check().unwrap_or_else(|problems| panic!("{problems}\n{json}"));
    assert_eq!(format!("{again:?}"), format!("{contract:?}"));
}

/// What becomes an identifier: the schemas by the projection's name, tables and columns by their own.
fn named_safely(contract: &Contract) {
    let readers = contract.name().replace('-', "_");
    identifier(&readers);
    identifier(&format!("{readers}_g{}", i32::MAX));
    let generation = readers.rsplit_once("_g").map(|(_, number)| number.parse::<i32>());
    assert!(!matches!(generation, Some(Ok(_))), "{readers} is the schema of another one's generation");
    different(contract.tables.iter().map(|table| &table.name));
    for table in &contract.tables {
        identifier(&table.name);
        assert!(!table.name.contains("__"), "{} may be an index's name", table.name);
        different(table.columns.iter().map(|column| &column.name));
        table.columns.iter().for_each(|column| identifier(&column.name));
    }
}

#[track_caller]
fn identifier(name: &str) {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    assert!(first && rest && name.len() <= 63, "{name:?} is no safe identifier");
    let reserved = ["select", "table", "user", "order", "rowid", "public", "main", "temp", "projector"];
    assert!(!reserved.contains(&name), "{name:?} is reserved");
    assert!(!name.starts_with("pg_") && !name.starts_with("sqlite_"), "{name:?} is the database's own");
}

#[track_caller]
fn different<'a>(names: impl Iterator<Item = &'a String>) {
    let mut seen = HashSet::new();
    names.for_each(|name| assert!(seen.insert(name), "{name:?} stands twice"));
}

/// Every index is one of its list, and what the host works out at the start can be worked out.
fn resolved(contract: &Contract) {
    let Contract { descriptor, topics, tables, writes, lookups } = contract;
    assert_eq!(
        [topics.len(), tables.len(), writes.len(), lookups.len()],
        [
            descriptor.topics.len(),
            descriptor.tables.len(),
            descriptor.statements.len(),
            descriptor.lookups.len()
        ]
    );
    for topic in topics {
        assert_eq!([topic.writes.len(), topic.lookups.len()], [writes.len(), lookups.len()]);
    }
    for table in tables {
        assert!(!table.key.is_empty());
        let indexes = table.indexes.iter().flat_map(|index| &index.columns);
        assert!(table.key.iter().chain(indexes).all(|column| *column < table.columns.len()));
    }
    for write in writes {
        let columns: Vec<usize> = write.argument_columns().collect();
        assert!(columns.iter().all(|column| *column < tables[write.table].columns.len()));
        if let Some(guard) = write.guard {
            assert_eq!(columns[guard.argument], guard.column);
        }
    }
    for lookup in lookups {
        let columns = tables[lookup.table].columns.len();
        assert!(lookup.by.iter().chain(&lookup.columns).all(|column| *column < columns));
        assert!(lookup.limit > 0);
    }
    let _ = (dependences(contract), Rules::of(contract));
}

fn seeds() -> Vec<Vec<u8>> {
    let small = r#"{"name":"a","version":"1","topics":[{"name":"t","statements":["s"]}],
"tables":[{"name":"a","key":["k"],"columns":[{"name":"k","type":"int64"}]}],
"statements":[{"name":"s","table":"a","kind":"upsert"}]}"#;
    [
        OrderSearch::descriptor().to_json(),
        SalesByCountry::descriptor().to_json(),
        EVERYTHING.into(),
        small.into(),
    ]
    .map(String::into_bytes)
    .into()
}
