//! The SQL that compares two generations, which both databases share. In it, `o` is the old table, and `n` the new one.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::checkpoint::FILE;
use projector_core::event::{Partition, Position, as_json};
use projector_core::generation::Generation;
use projector_core::refusal::Refusal;
use projector_model::contract::{Column, Table};
use projector_model::{Contract, Type, Value, json};
use serde_json::Value as Json;

use crate::diff::{
    Diff, DiffRequest, Difference, Expected, MissingEvent, MissingEvents, NotCompared, Sample, TableDiff,
    Waiting,
};
use crate::error::StoreError;
use crate::names::{DELETED, quote};

/// Reads in a snapshot, and has the SQL that differs between the databases.
#[async_trait]
pub(crate) trait Reader: Send {
    /// A table of a generation's.
    fn table(&self, generation: &Generation, table: &Table) -> String;

    /// A table of the host's own.
    fn own_table(&self, name: &str) -> String;

    /// The expression for a column when two values are compared.
    fn operand(&self, column: &str, ty: Type) -> String;

    /// The expression for a column when its value is read.
    fn selected(&self, column: &str, ty: Type) -> String;

    /// Selects one row: how many rows the old table has, the new table has, and both have; of the latter, how many differ,
    /// and how many in each column.
    fn counts(&self, sql: &Comparison<'_>) -> String;

    /// The rows of a query, whose columns have these types.
    async fn rows(&mut self, sql: String, types: &[Type]) -> Result<Vec<Vec<Value>>, StoreError>;
}

/// All checkpoints of a generation, by their partition.
pub(crate) async fn checkpoints(
    reader: &mut dyn Reader,
    generation: &Generation,
) -> Result<Vec<(Partition, i64)>, StoreError> {
    let sql = format!(
        "select topic, cast(partition as bigint), next_offset from {}
         where generation_id = {} and coalesce(cluster_id, '') <> '{FILE}'
         order by topic, partition",
        reader.own_table("checkpoint"),
        generation.id
    );
    let rows = reader.rows(sql, &[Type::Text, Type::Int64, Type::Int64]).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match <[Value; 3]>::try_from(row) {
            Ok([Value::Text(topic), Value::Int64(partition), Value::Int64(next)]) => {
                Some((Partition::new(topic, partition as i32), next))
            }
            _ => None,
        })
        .collect())
}

/// How many rows readers see in each table of a generation.
pub(crate) async fn row_counts(
    reader: &mut dyn Reader,
    generation: &Generation,
    contract: &Contract,
) -> Result<BTreeMap<String, i64>, StoreError> {
    let mut counts = BTreeMap::new();
    for table in &contract.tables {
        let alive = if table.has_tombstones { format!(" where not {DELETED}") } else { String::new() };
        let sql = format!("select count(*) from {}{alive}", reader.table(generation, table));
        let count = reader.rows(sql, &[Type::Int64]).await?.into_iter().flatten().next();
        if let Some(Value::Int64(count)) = count {
            counts.insert(table.name.clone(), count);
        }
    }
    Ok(counts)
}

pub(crate) async fn diff(reader: &mut dyn Reader, request: &DiffRequest<'_>) -> Result<Diff, StoreError> {
    let ((old, old_contract), (new, new_contract)) = (request.old, request.new);
    request.expected.check(old_contract, new_contract).map_err(Refusal::UnknownDifference)?;
    let mut tables = Vec::new();
    for table in &old_contract.tables {
        if request.expected.has_table(&table.name) {
            continue;
        }
        if let Some(other) = find(new_contract, &table.name) {
            let names = [reader.table(old, table), reader.table(new, other)];
            tables.push(compare(reader, [table, other], names, request).await?);
        }
    }
    let only_in = |one: &Contract, other: &Contract| -> Vec<String> {
        let names = one.tables.iter().map(|table| table.name.clone());
        names.filter(|name| find(other, name).is_none()).collect()
    };
    Ok(Diff {
        tables,
        tables_only_in_old: only_in(old_contract, new_contract),
        tables_only_in_new: only_in(new_contract, old_contract),
        expected: request.expected.clone(),
        waiting: [waiting(reader, old, request.samples).await?, waiting(reader, new, request.samples).await?],
    })
}

fn find<'c>(contract: &'c Contract, table: &str) -> Option<&'c Table> {
    contract.tables.iter().find(|known| known.name == table)
}

async fn compare(
    reader: &mut dyn Reader,
    tables: [&Table; 2],
    names: [String; 2],
    request: &DiffRequest<'_>,
) -> Result<TableDiff, StoreError> {
    let [old, new] = tables;
    let (compared, columns_not_compared) = columns(old, new, request.expected);
    let mut diff = TableDiff { table: old.name.clone(), columns_not_compared, ..TableDiff::default() };
    if let Some(reason) = another_key(old, new) {
        diff.reason = Some(reason);
        return Ok(diff);
    }
    let sql = Comparison::new(reader, tables, names, &compared);
    let query = reader.counts(&sql);
    let counts = reader.rows(query, &vec![Type::Int64; 4 + compared.len()]).await?.into_iter().flatten();
    let counts: Vec<i64> =
        counts.map(|count| if let Value::Int64(count) = count { count } else { 0 }).collect();
    let [rows_old, rows_new, both, differ, by_column @ ..] = &counts[..] else { return Ok(diff) };
    (diff.rows_old, diff.rows_new, diff.differ) = (*rows_old, *rows_new, *differ);
    (diff.only_in_old, diff.only_in_new) = (rows_old - both, rows_new - both);
    let by_column = compared.iter().zip(by_column).filter(|(_, rows)| **rows > 0);
    diff.by_column = by_column.map(|(column, rows)| (column.name.clone(), *rows)).collect();

    let of_key: Vec<Type> = sql.key.iter().map(|column| column.ty).collect();
    for (rows, kind, query) in [
        (diff.only_in_old, Difference::OnlyInOld, sql.only_in_old(reader, request.samples)),
        (diff.only_in_new, Difference::OnlyInNew, sql.only_in_new(reader, request.samples)),
    ] {
        if rows > 0 {
            for row in reader.rows(query, &of_key).await? {
                diff.samples.push(Sample { key: key_of(&sql.key, &row), kind, columns: BTreeMap::new() });
            }
        }
    }
    if diff.differ > 0 {
        let pairs = compared.iter().flat_map(|column| [column.ty, column.ty, Type::Boolean]);
        let types: Vec<Type> = of_key.iter().copied().chain(pairs).collect();
        for row in reader.rows(sql.differing(reader, request.samples), &types).await? {
            let (key, values) = row.split_at(sql.key.len());
            let columns = compared.iter().zip(values.chunks(3)).filter_map(|(column, values)| match values {
                [old, new, Value::Boolean(true)] => Some((column.name.clone(), both_shown(old, new))),
                _ => None,
            });
            let columns = columns.collect();
            diff.samples.push(Sample { key: key_of(&sql.key, key), kind: Difference::Differs, columns });
        }
    }
    Ok(diff)
}

/// The columns beside the key that are compared, and why the others are not.
fn columns<'a>(
    old: &'a Table,
    new: &Table,
    expected: &Expected,
) -> (Vec<&'a Column>, BTreeMap<String, NotCompared>) {
    let is_in = |table: &Table, name: &str| table.columns.iter().any(|column| column.name == name);
    let mut compared = Vec::new();
    let mut not_compared = BTreeMap::new();
    for column in old.columns.iter().chain(new.columns.iter().filter(|column| !is_in(old, &column.name))) {
        let same = |other: &&Column| other.name == column.name;
        let types = [old, new].map(|table| table.columns.iter().find(same).map(|column| column.ty));
        let why = match types {
            _ if expected.has_column(&old.name, &column.name) => NotCompared::Expected,
            [_, None] => NotCompared::OnlyInOld,
            [None, _] => NotCompared::OnlyInNew,
            [old, new] if old != new => NotCompared::TypesDiffer,
            _ => continue,
        };
        not_compared.insert(column.name.clone(), why);
    }
    for (at, column) in old.columns.iter().enumerate() {
        if !old.is_key_column(at) && !not_compared.contains_key(&column.name) {
            compared.push(column);
        }
    }
    (compared, not_compared)
}

fn key(table: &Table) -> Vec<&Column> {
    table.key.iter().map(|at| &table.columns[*at]).collect()
}

/// Why rows of these tables cannot be matched by their keys. `None`: they can.
fn another_key(old: &Table, new: &Table) -> Option<String> {
    let typed = |table| -> BTreeMap<&str, String> {
        key(table).into_iter().map(|column| (&*column.name, column.ty.to_string())).collect()
    };
    let shown = |key: &BTreeMap<&str, String>| {
        key.iter().map(|(name, ty)| format!("{name} {ty}")).collect::<Vec<_>>().join(", ")
    };
    let (old, new) = (typed(old), typed(new));
    (old != new)
        .then(|| format!("its key was ({}) and is ({}): no row can be matched", shown(&old), shown(&new)))
}

/// The parts of the statements that compare two tables.
pub(crate) struct Comparison<'a> {
    pub(crate) old: String,
    pub(crate) new: String,
    key: Vec<&'a Column>,
    /// A column that has a value in every row.
    pub(crate) mark: String,
    pub(crate) same_key: String,
    /// Whether a row is not a tombstone.
    pub(crate) old_is_alive: String,
    pub(crate) new_is_alive: String,
    compared: Vec<&'a Column>,
    /// By column, in the order of those compared.
    pub(crate) differs: Vec<String>,
    pub(crate) any_differs: String,
}

impl<'a> Comparison<'a> {
    fn new(reader: &dyn Reader, tables: [&'a Table; 2], names: [String; 2], compared: &[&'a Column]) -> Self {
        let [old, new] = tables;
        let key = key(old);
        let same = |column: &&Column| format!("o.{0} = n.{0}", quote(&column.name));
        let alive = |table: &Table, alias: &str| match table.has_tombstones {
            true => format!("not {alias}.{DELETED}"),
            false => "true".into(),
        };
        let differs = |column: &&Column| {
            let side = |alias: &str| reader.operand(&format!("{alias}.{}", quote(&column.name)), column.ty);
            format!("{} is distinct from {}", side("o"), side("n"))
        };
        let differs: Vec<String> = compared.iter().map(differs).collect();
        let [old_name, new_name] = names;
        Self {
            old: old_name,
            new: new_name,
            mark: quote(&key[0].name),
            same_key: key.iter().map(same).collect::<Vec<_>>().join(" and "),
            old_is_alive: alive(old, "o"),
            new_is_alive: alive(new, "n"),
            any_differs: if differs.is_empty() { "false".into() } else { differs.join(" or ") },
            differs,
            compared: compared.to_vec(),
            key,
        }
    }

    /// How many of the rows that both tables have differ, and how many in each column. `both`: the condition that both have
    /// the row.
    pub(crate) fn differing_counts(&self, both: &str) -> String {
        let all = std::iter::once(&self.any_differs).chain(&self.differs);
        let counts: Vec<_> =
            all.map(|differs| format!("count(*) filter (where {both} and ({differs}))")).collect();
        counts.join(", ")
    }

    fn only_in_old(&self, reader: &dyn Reader, most: usize) -> String {
        let Self { old, new, same_key, old_is_alive, new_is_alive, .. } = self;
        let (selected, key) = self.keys(reader, "o");
        format!(
            "select {selected} from {old} as o where {old_is_alive}
               and not exists (select 1 from {new} as n where {same_key} and {new_is_alive})
             order by {key} limit {most}"
        )
    }

    fn only_in_new(&self, reader: &dyn Reader, most: usize) -> String {
        let Self { old, new, same_key, old_is_alive, new_is_alive, .. } = self;
        let (selected, key) = self.keys(reader, "n");
        format!(
            "select {selected} from {new} as n where {new_is_alive}
               and not exists (select 1 from {old} as o where {same_key} and {old_is_alive})
             order by {key} limit {most}"
        )
    }

    /// Selects the key; then, for each compared column, both values and whether they differ.
    fn differing(&self, reader: &dyn Reader, most: usize) -> String {
        let Self { old, new, same_key, old_is_alive, new_is_alive, any_differs, .. } = self;
        let (selected, key) = self.keys(reader, "o");
        let columns = self.compared.iter().zip(&self.differs).map(|(column, differs)| {
            let side = |alias: &str| reader.selected(&format!("{alias}.{}", quote(&column.name)), column.ty);
            format!(", {}, {}, {differs}", side("o"), side("n"))
        });
        let columns: String = columns.collect();
        format!(
            "select {selected}{columns} from {old} as o join {new} as n on {same_key}
             where {old_is_alive} and {new_is_alive} and ({any_differs})
             order by {key} limit {most}"
        )
    }

    /// The key's columns as they are read, and as plain names.
    fn keys(&self, reader: &dyn Reader, alias: &str) -> (String, String) {
        let columns: Vec<_> =
            self.key.iter().map(|column| (format!("{alias}.{}", quote(&column.name)), column.ty)).collect();
        let selected: Vec<_> = columns.iter().map(|(column, ty)| reader.selected(column, *ty)).collect();
        let plain: Vec<_> = columns.into_iter().map(|(column, _)| column).collect();
        (selected.join(", "), plain.join(", "))
    }
}

async fn waiting(
    reader: &mut dyn Reader,
    generation: &Generation,
    samples: usize,
) -> Result<Waiting, StoreError> {
    Ok(Waiting {
        dead_letters: missing_events(reader, "dead_letter", generation, samples).await?,
        parked: missing_events(reader, "parked", generation, samples).await?,
    })
}

async fn missing_events(
    reader: &mut dyn Reader,
    table: &str,
    generation: &Generation,
    samples: usize,
) -> Result<MissingEvents, StoreError> {
    let from = format!("from {} where generation_id = {}", reader.own_table(table), generation.id);
    let counted = reader.rows(format!("select count(*) {from}"), &[Type::Int64]).await?;
    let events = match counted.first().map(Vec::as_slice) {
        Some([Value::Int64(events)]) => *events,
        _ => 0,
    };
    let sql = format!(
        "select topic, cast(partition as bigint), \"offset\", key {from} order by id limit {samples}"
    );
    let rows = reader.rows(sql, &[Type::Text, Type::Int64, Type::Int64, Type::Bytes]).await?;
    let event = |row: Vec<Value>| match <[Value; 4]>::try_from(row) {
        Ok([Value::Text(topic), Value::Int64(number), Value::Int64(offset), key]) => {
            let position = Position { partition: Partition::new(topic, number as i32), offset };
            let key = if let Value::Bytes(key) = &key { Some(as_json(key)) } else { None };
            Some(MissingEvent { position: position.to_string(), key })
        }
        _ => None,
    };
    Ok(MissingEvents { events, samples: rows.into_iter().filter_map(event).collect() })
}

fn key_of(key: &[&Column], values: &[Value]) -> BTreeMap<String, Json> {
    key.iter().zip(values).map(|(column, value)| (column.name.clone(), shown(value))).collect()
}

/// Two values that differ. JSON documents are shown as texts if a JSON library would read both as the same value.
fn both_shown(old: &Value, new: &Value) -> [Json; 2] {
    match (shown(old), shown(new)) {
        (one, other) if one == other => [old, new].map(|value| Json::from(value.to_string())),
        (one, other) => [one, other],
    }
}

/// Whether a JSON library with 64-bit numbers reads every number of the document exactly.
fn numbers_fit(document: &str) -> bool {
    let fits = |number: &[u8]| std::str::from_utf8(number).is_ok_and(json::fits_64_bits);
    json::numbers(document.as_bytes()).all(fits)
}

/// A value for a person: times as in RFC 3339, and a number that JSON cannot represent as text.
fn shown(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => Json::from(*value),
        Value::Int64(value) => Json::from(*value),
        Value::Float64(value) if value.is_finite() => Json::from(*value),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => as_json(bytes),
        // As text if a number of the document has too many digits.
        Value::Json(text) => Some(text)
            .filter(|text| numbers_fit(text))
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_else(|| Json::from(text.as_str())),
        Value::Timestamp(micros) => {
            const DAY: i64 = 86_400_000_000;
            let (days, micros) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            Json::from(format!("{}T{hours:02}:{minutes:02}:{seconds:02}.{micros:06}Z", date(days)))
        }
        Value::Date(days) => Json::from(date(i64::from(*days))),
        Value::Float64(_) | Value::Decimal(_) | Value::Uuid(_) => Json::from(value.to_string()),
    }
}

/// The Gregorian date of a day since 1970. Years begin in March, so that a leap day is their last.
fn date(days: i64) -> String {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_people_write_them() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (1_700_000_000_123_456, "2023-11-14T22:13:20.123456Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(shown(&Value::Timestamp(micros)), Json::from(text));
        }
    }

    #[test]
    fn what_differs_is_shown_to_differ() {
        let document = |text: &str| Value::Json(text.into());
        let [old, new] =
            both_shown(&document("10000000000000000000001"), &document("10000000000000000000002"));
        assert_ne!(old, new);
        let [old, new] = both_shown(&document("[0.1234567890123456789]"), &document("[0.5]"));
        assert_eq!((old, new), (Json::from("[0.1234567890123456789]"), serde_json::json!([0.5])));
        assert_eq!(both_shown(&Value::Float64(f64::NAN), &Value::Null), [Json::from("NaN"), Json::Null]);
    }
}
