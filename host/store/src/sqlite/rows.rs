//! The rows of a projection's table: found by the values of some columns, written and deleted by their keys.

use std::future::poll_fn;

use projector_core::event::Position;
use projector_model::contract::Table;
use projector_model::interpret::{Key, Row};
use projector_model::{Decimal, Lookup, Type, Value};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row as _, SqliteConnection};
use uuid::Uuid;

use super::errors::classify;
use super::tables::qualified;
use crate::error::StoreError;
use crate::lookup_rows::{LookupRows, MOST_ROWS};
use crate::names::{DELETED, LINEAGE, quote};

/// How many parameters a statement has at most. SQLite allows 32,766; a statement with fewer is compiled faster.
const PARAMETERS: usize = 2_000;

/// The collation under which decimals, which are texts, have the order of numbers.
pub(super) const DECIMAL: &str = "projector_decimal";

/// The order of two stored decimals. A text that is not a decimal comes after all decimals, in the order of texts.
pub(super) fn compare_decimals(a: &str, b: &str) -> std::cmp::Ordering {
    match (a.parse::<Decimal>(), b.parse::<Decimal>()) {
        (Ok(one), Ok(other)) => one.cmp(&other),
        (one, other) => one.is_err().cmp(&other.is_err()).then_with(|| a.cmp(b)),
    }
}

/// The writer of a row: the position of the event, and the digest of the component.
pub(super) struct Writer<'w> {
    pub(super) position: &'w Position,
    pub(super) digest: &'w str,
}

/// A table, and its name in the file.
pub(super) struct Stored<'c> {
    pub(super) table: &'c Table,
    name: String,
}

impl<'c> Stored<'c> {
    pub(super) fn new(table: &'c Table, schema: &str) -> Self {
        Self { table, name: qualified(schema, &table.name) }
    }

    /// The rows, with tombstones, whose columns have any of these values.
    pub(super) async fn find(
        &self,
        connection: &mut SqliteConnection,
        columns: &[usize],
        values: &[&[Value]],
    ) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        for chunk in values.chunks((PARAMETERS / columns.len()).max(1)) {
            let matches: Vec<_> = self
                .table
                .column_names(columns)
                .enumerate()
                .map(|(at, column)| format!("t.{} = v.column{}", quote(column), at + 1))
                .collect();
            let sql = format!(
                "select {} from (values {}) as v join {} as t on {}",
                self.columns("t.").join(", "),
                placeholders(chunk.len(), columns.len()),
                self.name,
                matches.join(" and ")
            );
            rows.extend(self.fetch(connection, sql, arguments(chunk.iter().copied().flatten())?).await?);
        }
        Ok(rows)
    }

    /// Adds the rows that a lookup finds with each of these arguments: see [`Transaction::read`](crate::Transaction::read).
    pub(super) async fn look_up(
        &self,
        connection: &mut SqliteConnection,
        lookup: &Lookup,
        selections: &[&[Value]],
        found: &mut LookupRows,
    ) -> Result<(), StoreError> {
        let (by, limit) = (&lookup.by, lookup.limit);
        let matches: Vec<_> = self
            .table
            .column_names(by)
            .enumerate()
            .map(|(at, column)| format!("t.{} = v.column{}", quote(column), at + 2))
            .collect();
        let read = lookup.read_columns(self.table);
        let mut names: Vec<String> =
            self.table.column_names(&read).map(|name| format!("t.{}", quote(name))).collect();
        let mut alive = String::new();
        let with_tombstones = lookup.is_by_key(self.table) && self.table.has_tombstones;
        if with_tombstones {
            names.push(format!("t.{DELETED}"));
        } else if self.table.has_tombstones {
            alive = format!(" and not t.{DELETED}");
        }
        let in_order = |column: &usize| {
            let column = &self.table.columns[*column];
            let collation = match column.ty {
                Type::Decimal { .. } => format!(" collate {DECIMAL}"),
                _ => String::new(),
            };
            format!("t.{}{collation}", quote(&column.name))
        };
        let key: Vec<_> = self.table.key.iter().map(in_order).collect();
        let in_a_query = (PARAMETERS / by.len()).min(MOST_ROWS / limit as usize).max(1);
        for (first, chunk) in (0..).step_by(in_a_query).zip(selections.chunks(in_a_query)) {
            let numbered: Vec<_> =
                (0..chunk.len()).map(|at| format!("({at}{})", ",?".repeat(by.len()))).collect();
            let sql = format!(
                "select * from (
                   select v.column1 as number, row_number() over (partition by v.column1 order by {}) as place, {}
                   from (values {}) as v join {} as t on {}{alive})
                 where place <= {limit} order by number, place",
                key.join(", "),
                names.join(", "),
                numbered.join(","),
                self.name,
                matches.join(" and "),
            );
            let arguments = arguments(chunk.iter().copied().flatten())?;
            let mut rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch(&mut *connection);
            while let Some(row) = poll_fn(|cx| rows.as_mut().poll_next(cx)).await {
                let row = row.map_err(classify)?;
                let number: i64 = row.try_get(0).map_err(StoreError::drift)?;
                let row = self.decode(&row, 2, &read, with_tombstones).map_err(StoreError::drift)?;
                if !found.add(first + number as usize, row) {
                    return Ok(());
                }
            }
            found.complete(first + chunk.len());
        }
        Ok(())
    }

    /// Writes rows by their keys, each with its writer if the table has lineage.
    pub(super) async fn write(
        &self,
        connection: &mut SqliteConnection,
        rows: &[(&Row, Option<Writer<'_>>)],
    ) -> Result<(), StoreError> {
        let mut columns = self.columns("");
        if self.table.has_lineage {
            columns.extend(LINEAGE.map(String::from));
        }
        let width = columns.len();
        // Not `insert or replace`, which would delete other rows because of a unique index that a person made.
        let on_conflict = self.on_conflict();
        for chunk in rows.chunks((PARAMETERS / width).max(1)) {
            let sql = format!(
                "insert into {} ({}) values {} {on_conflict}",
                self.name,
                columns.join(", "),
                placeholders(chunk.len(), width)
            );
            let mut arguments = SqliteArguments::default();
            for (row, writer) in chunk {
                for value in &row.values {
                    bind(&mut arguments, value)?;
                }
                if self.table.has_tombstones {
                    bind(&mut arguments, &Value::Boolean(row.tombstone))?;
                }
                if let Some(Writer { position, digest }) = writer {
                    arguments.add(position.partition.topic.to_string()).map_err(encoding)?;
                    arguments.add(position.partition.number).map_err(encoding)?;
                    arguments.add(position.offset).map_err(encoding)?;
                    arguments.add((*digest).to_owned()).map_err(encoding)?;
                }
            }
            execute(connection, sql, arguments).await?;
        }
        Ok(())
    }

    pub(super) async fn delete(
        &self,
        connection: &mut SqliteConnection,
        keys: &[&Key],
    ) -> Result<(), StoreError> {
        let width = self.table.key.len();
        let key: Vec<_> = self.table.column_names(&self.table.key).map(quote).collect();
        for chunk in keys.chunks((PARAMETERS / width).max(1)) {
            let sql = format!(
                "delete from {} where ({}) in (values {})",
                self.name,
                key.join(", "),
                placeholders(chunk.len(), width)
            );
            execute(connection, sql, arguments(chunk.iter().copied().flatten())?).await?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        connection: &mut SqliteConnection,
        sql: String,
        arguments: SqliteArguments,
    ) -> Result<Vec<Row>, StoreError> {
        let rows =
            sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await.map_err(classify)?;
        let all: Vec<usize> = (0..self.table.columns.len()).collect();
        let decode = |row| self.decode(row, 0, &all, self.table.has_tombstones);
        rows.iter().map(|row| decode(row).map_err(StoreError::drift)).collect()
    }

    fn on_conflict(&self) -> String {
        let others = (0..self.table.columns.len()).filter(|at| !self.table.is_key_column(*at));
        let mut others: Vec<String> = others.map(|at| quote(&self.table.columns[at].name)).collect();
        if self.table.has_tombstones {
            others.push(DELETED.into());
        }
        if self.table.has_lineage {
            others.extend(LINEAGE.map(String::from));
        }
        let key: Vec<_> = self.table.column_names(&self.table.key).map(quote).collect();
        let set: Vec<_> = others.iter().map(|name| format!("{name} = excluded.{name}")).collect();
        match set.is_empty() {
            true => format!("on conflict ({}) do nothing", key.join(", ")),
            false => format!("on conflict ({}) do update set {}", key.join(", "), set.join(", ")),
        }
    }

    /// The columns that a row of the model consists of.
    fn columns(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<_> =
            self.table.columns.iter().map(|column| format!("{prefix}{}", quote(&column.name))).collect();
        if self.table.has_tombstones {
            names.push(format!("{prefix}{DELETED}"));
        }
        names
    }

    /// Reads these columns from the index `first` on, and then the column that marks a tombstone, if the table has it.
    fn decode(
        &self,
        row: &SqliteRow,
        first: usize,
        columns: &[usize],
        with_tombstones: bool,
    ) -> Result<Row, sqlx::Error> {
        let values = columns.iter().enumerate();
        let values = values.map(|(at, column)| decode(row, first + at, self.table.columns[*column].ty));
        let values = values.collect::<Result<Vec<Value>, sqlx::Error>>()?;
        Ok(Row { tombstone: with_tombstones && row.try_get(first + values.len())?, values })
    }
}

async fn execute(
    connection: &mut SqliteConnection,
    sql: String,
    arguments: SqliteArguments,
) -> Result<(), StoreError> {
    sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await.map_err(classify)?;
    Ok(())
}

fn placeholders(rows: usize, width: usize) -> String {
    let row = format!("({})", vec!["?"; width].join(","));
    vec![row; rows].join(",")
}

fn arguments<'v>(values: impl Iterator<Item = &'v Value>) -> Result<SqliteArguments, StoreError> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        bind(&mut arguments, value)?;
    }
    Ok(arguments)
}

fn bind(arguments: &mut SqliteArguments, value: &Value) -> Result<(), StoreError> {
    let bound = match value {
        Value::Null => arguments.add(None::<i64>),
        Value::Boolean(value) => arguments.add(*value),
        Value::Int64(value) | Value::Timestamp(value) => arguments.add(*value),
        Value::Float64(value) => arguments.add(*value),
        Value::Decimal(value) => arguments.add(value.to_string()),
        Value::Text(value) | Value::Json(value) => arguments.add(value.clone()),
        Value::Bytes(value) => arguments.add(value.clone()),
        Value::Date(value) => arguments.add(*value),
        Value::Uuid(value) => arguments.add(Uuid::from_bytes(*value).to_string()),
    };
    bound.map_err(encoding)
}

fn encoding(error: sqlx::error::BoxDynError) -> StoreError {
    StoreError::Unusable(format!("a value cannot be encoded: {error}"))
}

pub(super) fn decode(row: &SqliteRow, at: usize, ty: Type) -> Result<Value, sqlx::Error> {
    let invalid = |problem: String| sqlx::Error::Decode(problem.into());
    let value = match ty {
        Type::Boolean => row.try_get::<Option<bool>, _>(at)?.map(Value::Boolean),
        Type::Int64 => row.try_get::<Option<i64>, _>(at)?.map(Value::Int64),
        Type::Float64 => row.try_get::<Option<f64>, _>(at)?.map(Value::Float64),
        Type::Decimal { .. } => row
            .try_get::<Option<String>, _>(at)?
            .map(|text| text.parse().map(Value::Decimal))
            .transpose()
            .map_err(invalid)?,
        Type::Text => row.try_get::<Option<String>, _>(at)?.map(Value::Text),
        Type::Bytes => row.try_get::<Option<Vec<u8>>, _>(at)?.map(Value::Bytes),
        Type::Json => row.try_get::<Option<String>, _>(at)?.map(Value::Json),
        Type::Timestamp => row.try_get::<Option<i64>, _>(at)?.map(Value::Timestamp),
        Type::Date => row.try_get::<Option<i32>, _>(at)?.map(Value::Date),
        Type::Uuid => row
            .try_get::<Option<String>, _>(at)?
            .map(|text| text.parse::<Uuid>().map(|uuid| Value::Uuid(*uuid.as_bytes())))
            .transpose()
            .map_err(|error| invalid(error.to_string()))?,
    };
    Ok(value.unwrap_or(Value::Null))
}
