//! How SQLite writes the statements for the host's own tables.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite as Lite, SqliteArguments, SqliteConnection};

use super::errors::classify;
use super::{Sqlite, Tx, now_micros, schema};
use crate::error::StoreError;
use crate::host_tables::{Argument, Database, Session, Stored};
use crate::schema::Schema;

/// Only one transaction writes at a time, so no other lock is needed.
#[async_trait]
impl Database for Sqlite {
    type Connection = SqliteConnection;
    type Acquired = PoolConnection<Lite>;
    type Transaction = Tx;

    async fn acquire(&self) -> Result<Self::Acquired, StoreError> {
        self.pool.acquire().await.map_err(classify)
    }

    async fn read_only(&self) -> Result<Self::Transaction, StoreError> {
        self.pool.begin().await.map_err(classify)
    }

    async fn transaction(&self) -> Result<Self::Transaction, StoreError> {
        self.immediate().await
    }

    fn known_migration(&self) -> i64 {
        self.schema.known
    }

    async fn current_schema(&self) -> Result<Schema, StoreError> {
        schema(&self.pool, self.pool.connect_options().get_filename()).await
    }

    async fn decide(&self, _: &str) -> Result<Self::Transaction, StoreError> {
        self.immediate().await
    }

    async fn fence(_: &mut SqliteConnection, _: &[i64]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn commit(transaction: Self::Transaction) -> Result<(), StoreError> {
        transaction.commit().await.map_err(classify)
    }
}

#[async_trait]
impl Session for SqliteConnection {
    async fn execute(&mut self, sql: &str, arguments: &[Argument]) -> Result<u64, StoreError> {
        let done = query(sql, arguments).execute(self).await.map_err(classify)?;
        Ok(done.rows_affected())
    }

    async fn rows<T: Stored>(&mut self, sql: &str, arguments: &[Argument]) -> Result<Vec<T>, StoreError> {
        let rows = query(sql, arguments).fetch_all(self).await.map_err(classify)?;
        rows.iter().map(|row| T::from_row(row)).collect::<Result<_, _>>().map_err(classify)
    }

    /// The transaction locks the whole file.
    const FOR_UPDATE: &'static str = "";

    /// Hosts know a generation by its id, and SQLite would use the id of a removed row again. So the id is the number of all
    /// generations that were ever created.
    const NEXT_GENERATION_ID: &'static str =
        "(select max((select sum(generations) from projector.projection),
      (select coalesce(max(id), 0) + 1 from projector.generation)))";

    fn document(parameter: &str) -> String {
        parameter.to_owned()
    }

    fn array_length(document: &str) -> String {
        format!("json_array_length({document})")
    }

    fn has_lineage(descriptor: &str) -> String {
        format!(
            "exists (select 1 from json_each({descriptor}, '$.tables') as t where json_extract(t.value, '$.lineage'))"
        )
    }

    fn any_ready(generation: &str) -> String {
        format!(
            "exists (select 1 from projector.parked r where r.generation_id = {generation} and r.ready_ms is not null)"
        )
    }

    fn micros(time: &str) -> String {
        time.to_owned()
    }

    fn is_one_of(value: &str, parameter: &str) -> String {
        format!("{value} in (select value from json_each({parameter}))")
    }

    fn millis(time: &str) -> String {
        format!("{time} / 1000")
    }

    fn seconds_since(time: &str) -> String {
        format!("(now() - {time}) / 1000000")
    }

    fn seconds_ago(seconds: &str) -> String {
        format!("now() - {seconds} * 1000000")
    }

    fn micros_from_now(micros: &str) -> String {
        format!("now() + {micros}")
    }
}

/// Translates a statement. `now()` becomes one more parameter, because SQLite's own clock has only milliseconds.
fn query<'q>(sql: &str, arguments: &[Argument]) -> Query<'q, Lite, SqliteArguments> {
    let now = format!("${}", arguments.len() + 1);
    let sql = sql.replace("projector.", "projector_").replace("now()", &now);
    let query = sqlx::query(AssertSqlSafe(sql));
    let query = arguments.iter().cloned().fold(query, |query, argument| match argument {
        Argument::Boolean(value) => query.bind(value),
        Argument::Int4(value) => query.bind(value),
        Argument::Int8(value) => query.bind(value),
        Argument::Text(value) => query.bind(value),
        Argument::Bytes(value) => query.bind(value),
        Argument::Time(value) => query.bind(value),
        Argument::Uuid(value) => query.bind(value),
        Argument::Int8s(values) => query.bind(serde_json::json!(values).to_string()),
        Argument::Texts(values) => query.bind(serde_json::json!(values).to_string()),
    });
    query.bind(now_micros())
}
