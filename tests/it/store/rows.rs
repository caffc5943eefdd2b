//! What is in a projection's tables, read past the host, in one form for both stores and the model.

use std::collections::BTreeMap;

use anyhow::Result;
use projector_core::generation::Generation;
use projector_model::contract::{Column, Table};
use projector_model::interpret::Key;
use projector_model::{Contract, Tables, Type, Value};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::home::{Home, Session};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// As texts.
    pub(super) values: Vec<Option<String>>,
    pub(super) tombstone: bool,
    /// `t/0@17 by <digest>`, in a table with lineage; readers do not see it.
    pub(super) lineage: Option<String>,
}

/// By table and key: the lineage of a row of the model's.
pub(super) type Writers = BTreeMap<(usize, Key), String>;

/// What a table holds, and what its readers see; both sorted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dump {
    pub(super) stored: Vec<Row>,
    pub(super) visible: Vec<Row>,
}

impl Dump {
    fn of(mut stored: Vec<Row>, mut visible: Vec<Row>) -> Self {
        stored.sort();
        visible.sort();
        Self { stored, visible }
    }
}

/// What the model says: readers see every row but the tombstones, and no lineage.
pub(super) fn of_model(contract: &Contract, tables: &Tables, writers: &Writers) -> Vec<Dump> {
    let dump = |at: usize| {
        let writer = |key: &Key| writers.get(&(at, key.clone())).cloned();
        let row = |(key, row): (&Key, &projector_model::interpret::Row)| Row {
            values: row.values.iter().map(shown).collect(),
            tombstone: row.tombstone,
            lineage: writer(key).filter(|_| contract.tables[at].has_lineage),
        };
        let stored: Vec<Row> = tables.rows(at).map(row).collect();
        let seen = |row: &Row| Row { lineage: None, ..row.clone() };
        let visible = stored.iter().filter(|row| !row.tombstone).map(seen).collect();
        Dump::of(stored, visible)
    };
    (0..contract.tables.len()).map(dump).collect()
}

/// What a database holds: every table and every readers' view of a projection.
pub(super) async fn of_store(home: &Home, contract: &Contract, generation: &Generation) -> Result<Vec<Dump>> {
    within(&mut home.session().await?, contract, generation).await
}

/// The same, as a session that is there already sees it.
pub(super) async fn within(
    session: &mut Session,
    contract: &Contract,
    generation: &Generation,
) -> Result<Vec<Dump>> {
    let readers = contract.name().replace('-', "_");
    let mut dumps = Vec::new();
    for table in &contract.tables {
        let between = match session {
            Session::Postgres(_) => ".",
            Session::Sqlite(_) => "__",
        };
        let physical = format!("{}{between}{}", generation.schema, table.name);
        let view = format!("{readers}{between}{}", table.name);
        let lineage = table.has_lineage.then_some(LINEAGE);
        let tombstone = table.has_tombstones.then_some("_deleted");
        let stored = select(session, table, &physical, tombstone, lineage).await?;
        let visible = select(session, table, &view, None, None).await?;
        dumps.push(Dump::of(stored, visible));
    }
    Ok(dumps)
}

const LINEAGE: &str = "_topic || '/' || _partition || '@' || _offset || ' by ' || _digest";

async fn select(
    session: &mut Session,
    table: &Table,
    from: &str,
    tombstone: Option<&str>,
    lineage: Option<&str>,
) -> Result<Vec<Row>> {
    let mut columns: Vec<String> = match session {
        Session::Postgres(_) => table.columns.iter().map(as_text).collect(),
        Session::Sqlite(_) => table.columns.iter().map(|column| column.name.clone()).collect(),
    };
    columns.push(tombstone.unwrap_or("1 = 2").into());
    columns.push(lineage.unwrap_or("cast(null as text)").into());
    let width = table.columns.len();
    let sql = AssertSqlSafe(format!("select {} from {from}", columns.join(", ")));
    let mut rows = Vec::new();
    match session {
        Session::Postgres(session) => {
            for row in sqlx::query(sql).fetch_all(session).await? {
                let mut values = Vec::new();
                for (at, column) in table.columns.iter().enumerate() {
                    let text: Option<String> = row.try_get(at)?;
                    values.push(text.map(|text| canonical(column.ty, text)));
                }
                let (tombstone, lineage) = (row.try_get(width)?, row.try_get(width + 1)?);
                rows.push(Row { values, tombstone, lineage });
            }
        }
        Session::Sqlite(session) => {
            for row in sqlx::query(sql).fetch_all(session).await? {
                let values =
                    table.columns.iter().enumerate().map(|(at, column)| from_sqlite(&row, at, column.ty));
                let values = values.collect::<Result<_, sqlx::Error>>()?;
                let (tombstone, lineage) = (row.try_get(width)?, row.try_get(width + 1)?);
                rows.push(Row { values, tombstone, lineage });
            }
        }
    }
    Ok(rows)
}

fn as_text(column: &Column) -> String {
    let name = &column.name;
    match column.ty {
        Type::Bytes => format!("encode({name}, 'hex')"),
        Type::Timestamp => format!("(extract(epoch from {name}) * 1000000)::int8::text"),
        Type::Date => format!("({name} - date '1970-01-01')::text"),
        _ => format!("{name}::text"),
    }
}

fn from_sqlite(row: &SqliteRow, at: usize, ty: Type) -> Result<Option<String>, sqlx::Error> {
    Ok(match ty {
        Type::Boolean => row.try_get::<Option<i64>, _>(at)?.map(|value| (value == 1).to_string()),
        Type::Int64 | Type::Timestamp | Type::Date => {
            row.try_get::<Option<i64>, _>(at)?.map(|value| value.to_string())
        }
        Type::Float64 => row.try_get::<Option<f64>, _>(at)?.map(|value| format!("{value:?}")),
        Type::Bytes => row.try_get::<Option<Vec<u8>>, _>(at)?.map(hex::encode),
        Type::Decimal { .. } | Type::Text | Type::Json | Type::Uuid => {
            row.try_get::<Option<String>, _>(at)?.map(|text| canonical(ty, text))
        }
    })
}

/// A value as the databases above show it.
pub(super) fn shown(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Float64(number) => format!("{number:?}"),
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => hex::encode(bytes),
        Value::Json(text) => canonical(Type::Json, text.clone()),
        Value::Timestamp(micros) => micros.to_string(),
        Value::Date(days) => days.to_string(),
        Value::Boolean(_) | Value::Int64(_) | Value::Decimal(_) | Value::Uuid(_) => value.to_string(),
    })
}

/// Databases write floats and documents as they like; what they mean is compared.
fn canonical(ty: Type, text: String) -> String {
    match ty {
        Type::Float64 => text.parse::<f64>().map_or(text, |number| format!("{number:?}")),
        Type::Json => meaning(&text).unwrap_or(text),
        _ => text,
    }
}

/// Every digit of a number counts, however it is written.
fn meaning(document: &str) -> Option<String> {
    use serde_json::value::RawValue;
    let document = document.trim();
    Some(match document.as_bytes().first()? {
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(document).ok()?;
            let items: Option<Vec<_>> = items.iter().map(|item| meaning(item.get())).collect();
            format!("[{}]", items?.join(","))
        }
        b'{' => {
            let fields: BTreeMap<String, &RawValue> = serde_json::from_str(document).ok()?;
            let field = |(name, value): (&String, &&RawValue)| {
                meaning(value.get()).map(|value| format!("{name:?}:{value}"))
            };
            let fields: Option<Vec<_>> = fields.iter().map(field).collect();
            format!("{{{}}}", fields?.join(","))
        }
        b'-' | b'0'..=b'9' => projector_model::json::canonical_number(document)?,
        b'"' => serde_json::from_str::<String>(document).ok().map(|text| format!("{text:?}"))?,
        _ => document.to_owned(),
    })
}
