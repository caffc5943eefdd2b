//! The database that a contender writes, seen with a reader's eyes.

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::runtime::{Builder, Runtime};

use crate::contender::Contender;

pub(crate) struct ReadModel {
    contender: Contender,
    runtime: Runtime,
    connection: PgConnection,
}

/// One order, with its columns in a form that can be compared.
#[derive(Debug, PartialEq)]
pub(crate) struct OrderRow {
    pub(crate) order_id: String,
    pub(crate) customer_id: String,
    pub(crate) customer_country: String,
    pub(crate) customer_email: Option<String>,
    pub(crate) customer_name: Option<String>,
    pub(crate) currency: String,
    pub(crate) total_cents: i64,
    /// JSON.
    pub(crate) items: String,
    /// Microseconds since 1970.
    pub(crate) confirmed_at: i64,
}

impl ReadModel {
    pub(crate) fn connect(contender: Contender, url: &str) -> Result<ReadModel> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connection = runtime
            .block_on(PgConnection::connect(url))
            .with_context(|| format!("cannot connect to {url}"))?;
        Ok(ReadModel { contender, runtime, connection })
    }

    /// How many events are committed.
    pub(crate) fn committed(&mut self) -> Result<u64> {
        let sql = sqlx::query_scalar::<_, i64>(AssertSqlSafe(self.contender.progress_sql()));
        match self.runtime.block_on(sql.fetch_one(&mut self.connection)) {
            Ok(committed) => Ok(u64::try_from(committed)?),
            // The contender did not get to create it yet.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => Ok(0),
            Err(error) => Err(error).context("cannot see the checkpoints"),
        }
    }

    pub(crate) fn orders(&mut self) -> Result<Vec<OrderRow>> {
        let sql = format!(
            "select order_id, customer_id, customer_country, customer_email, customer_name, currency, total_cents,
                    items::text as items, (extract(epoch from confirmed_at) * 1000000)::int8 as confirmed_at
               from {}",
            self.contender.read_model()
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).try_map(|row: PgRow| {
            Ok(OrderRow {
                order_id: row.try_get("order_id")?,
                customer_id: row.try_get("customer_id")?,
                customer_country: row.try_get("customer_country")?,
                customer_email: row.try_get("customer_email")?,
                customer_name: row.try_get("customer_name")?,
                currency: row.try_get("currency")?,
                total_cents: row.try_get("total_cents")?,
                items: row.try_get("items")?,
                confirmed_at: row.try_get("confirmed_at")?,
            })
        });
        self.runtime.block_on(rows.fetch_all(&mut self.connection)).context("cannot read the orders")
    }

    /// A digest of all orders, whatever their order, without the columns that depend on the order
    /// between topics.
    pub(crate) fn orders_checksum(&mut self) -> Result<String> {
        let sql = format!(
            "select coalesce(md5(string_agg(line, e'\\n' order by line collate \"C\")), '') from (
               select row(order_id, customer_id, currency, total_cents, items, confirmed_at)::text as line
                 from {}) as lines",
            self.contender.read_model()
        );
        let checksum = sqlx::query_scalar(AssertSqlSafe(sql));
        self.runtime.block_on(checksum.fetch_one(&mut self.connection)).context("cannot digest the orders")
    }

    /// How many orders were counted, and what they cost together, in cents of whatever currency.
    pub(crate) fn sales(&mut self) -> Result<(i64, i64)> {
        let sql = format!(
            "select coalesce(sum(orders), 0)::int8, coalesce(sum(total_cents), 0)::int8 from {}",
            self.contender.read_model()
        );
        let sums = sqlx::query_as(AssertSqlSafe(sql));
        self.runtime.block_on(sums.fetch_one(&mut self.connection)).context("cannot read the sales")
    }
}

/// Postgres' code for a table, or the schema that it would be in, that does not exist.
const UNDEFINED_TABLE: &str = "42P01";
