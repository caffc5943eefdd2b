//! How Postgres writes the statements for the host's own tables.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgArguments, PgConnection, Postgres as Pg};
use sqlx::query::Query;

use super::errors::classify;
use super::locks::{ADVISORY_CLASS, fence};
use super::migrate::schema;
use super::sessions::{self, Tx};
use super::values::Timestamp;
use super::{BEGIN, BEGIN_SNAPSHOT, Postgres};
use crate::error::StoreError;
use crate::host_tables::{Argument, Database, Session, Stored};
use crate::schema::Schema;

#[async_trait]
impl Database for Postgres {
    type Connection = PgConnection;
    type Acquired = sessions::Session;
    type Transaction = Tx;

    async fn acquire(&self) -> Result<sessions::Session, StoreError> {
        self.connection().await
    }

    async fn read_only(&self) -> Result<Tx, StoreError> {
        self.begin_session(BEGIN_SNAPSHOT).await
    }

    async fn transaction(&self) -> Result<Tx, StoreError> {
        self.begin_session(BEGIN).await
    }

    fn known_migration(&self) -> i64 {
        self.schema.known
    }

    async fn current_schema(&self) -> Result<Schema, StoreError> {
        schema(&mut *self.connection().await?).await
    }

    async fn decide(&self, projection: &str) -> Result<Tx, StoreError> {
        let mut tx = self.begin_session(BEGIN).await?;
        sqlx::query("select pg_advisory_xact_lock($1, hashtext($2))")
            .bind(ADVISORY_CLASS)
            .bind(projection)
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        Ok(tx)
    }

    async fn fence(transaction: &mut PgConnection, generations: &[i64]) -> Result<(), StoreError> {
        fence(transaction, generations).await
    }

    async fn commit(transaction: Tx) -> Result<(), StoreError> {
        transaction.commit().await
    }
}

#[async_trait]
impl Session for PgConnection {
    async fn execute(&mut self, sql: &str, arguments: &[Argument]) -> Result<u64, StoreError> {
        let done = query(sql, arguments).execute(self).await.map_err(classify)?;
        Ok(done.rows_affected())
    }

    async fn rows<T: Stored>(&mut self, sql: &str, arguments: &[Argument]) -> Result<Vec<T>, StoreError> {
        let rows = query(sql, arguments).fetch_all(self).await.map_err(classify)?;
        rows.iter().map(|row| T::from_row(row)).collect::<Result<_, _>>().map_err(classify)
    }

    const FOR_UPDATE: &'static str = "for update";

    /// From the column's own sequence.
    const NEXT_GENERATION_ID: &'static str = "default";

    fn document(parameter: &str) -> String {
        format!("{parameter}::text::jsonb")
    }

    fn array_length(document: &str) -> String {
        format!("jsonb_array_length({document})")
    }

    fn has_lineage(descriptor: &str) -> String {
        format!("{descriptor} @? '$.tables[*].lineage ? (@ == true)'")
    }

    /// The index of ready events is over this difference. No other index matches it, so the planner chooses this one.
    fn any_ready(generation: &str) -> String {
        format!(
            "(select r.id from projector.parked r where (r.generation_id - 0) = {generation} and r.ready_ms is not null
              order by r.id limit 1) is not null"
        )
    }

    fn micros(time: &str) -> String {
        format!("(extract(epoch from {time}) * 1000000)::int8")
    }

    fn is_one_of(value: &str, parameter: &str) -> String {
        format!("{value} = any({parameter})")
    }

    fn millis(time: &str) -> String {
        format!("(extract(epoch from {time}) * 1000)::int8")
    }

    fn seconds_since(time: &str) -> String {
        format!("extract(epoch from now() - {time})::int8")
    }

    fn seconds_ago(seconds: &str) -> String {
        format!("now() - {seconds} * interval '1 second'")
    }

    fn micros_from_now(micros: &str) -> String {
        format!("now() + {micros} * interval '1 microsecond'")
    }
}

fn query<'q>(sql: &str, arguments: &[Argument]) -> Query<'q, Pg, PgArguments> {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    arguments.iter().cloned().fold(query, |query, argument| match argument {
        Argument::Boolean(value) => query.bind(value),
        Argument::Int4(value) => query.bind(value),
        Argument::Int8(value) => query.bind(value),
        Argument::Text(value) => query.bind(value),
        Argument::Bytes(value) => query.bind(value),
        Argument::Time(value) => query.bind(value.map(Timestamp)),
        Argument::Uuid(value) => query.bind(value),
        Argument::Int8s(values) => query.bind(values),
        Argument::Texts(values) => query.bind(values),
    })
}
