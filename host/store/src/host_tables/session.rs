//! What the statements for the host's own tables need from a database.

use std::ops::DerefMut;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::error::StoreError;
use crate::schema::Schema;

/// A connection to one of the databases.
///
/// Statements have the parameters `$1`, `$2` and so on. Both `execute` and `rows` translate the names of the host's own
/// tables, and `now()`.
#[async_trait]
pub(crate) trait Session: Send {
    /// Runs a statement. Returns how many rows it wrote.
    async fn execute(&mut self, sql: &str, arguments: &[Argument]) -> Result<u64, StoreError>;

    /// Runs a statement that returns rows.
    async fn rows<T: Stored>(&mut self, sql: &str, arguments: &[Argument]) -> Result<Vec<T>, StoreError>;

    /// The first row that a statement returns, if there is one.
    async fn row<T: Stored>(&mut self, sql: &str, arguments: &[Argument]) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, arguments).await?.into_iter().next())
    }

    /// The clause that locks the rows of a query until the end of the transaction.
    const FOR_UPDATE: &'static str;

    /// The expression for the id of a generation that is inserted.
    const NEXT_GENERATION_ID: &'static str;

    /// The expression for a parameter that is a JSON document.
    fn document(parameter: &str) -> String;

    /// How many items a JSON array has.
    fn array_length(document: &str) -> String;

    /// Whether a plugin's descriptor has a table with lineage.
    fn has_lineage(descriptor: &str) -> String;

    /// Whether waiting events of a generation are ready. The expression matches the database's index for this.
    fn any_ready(generation: &str) -> String;

    /// Whether a value is in the list that is a parameter.
    fn is_one_of(value: &str, parameter: &str) -> String;

    /// A time, as microseconds since 1970.
    fn micros(time: &str) -> String;

    /// A time, as milliseconds since 1970.
    fn millis(time: &str) -> String;

    /// The whole seconds since a time.
    fn seconds_since(time: &str) -> String;

    /// The time this many seconds ago.
    fn seconds_ago(seconds: &str) -> String;

    /// The time in this many microseconds from now.
    fn micros_from_now(micros: &str) -> String;
}

/// A row that can be read from both databases.
pub(crate) trait Stored:
    Send + Unpin + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow>
{
}

impl<T> Stored for T where T: Send + Unpin + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> {}

/// A database with the host's own tables.
#[async_trait]
pub(crate) trait Database: Send + Sync {
    type Connection: Session;
    type Acquired: DerefMut<Target = Self::Connection> + Send;
    type Transaction: DerefMut<Target = Self::Connection> + Send;

    /// A connection outside a transaction.
    async fn acquire(&self) -> Result<Self::Acquired, StoreError>;

    /// Begins a transaction that only reads. All its queries see the database as it was at one moment.
    async fn read_only(&self) -> Result<Self::Transaction, StoreError>;

    /// Begins a transaction that writes. Dropped, it is rolled back.
    async fn transaction(&self) -> Result<Self::Transaction, StoreError>;

    /// The newest migration that this program knows.
    fn known_migration(&self) -> i64;

    /// The state of the host's own tables now.
    async fn current_schema(&self) -> Result<Schema, StoreError>;

    /// Begins a transaction that decides about a projection's name: about its deployments, its generations and its views.
    /// It waits for other such transactions.
    async fn decide(&self, projection: &str) -> Result<Self::Transaction, StoreError>;

    /// Waits until no batch of these generations is in flight. No batch of them begins before the end of the transaction.
    async fn fence(transaction: &mut Self::Connection, generations: &[i64]) -> Result<(), StoreError>;

    /// After an error the outcome may be unknown.
    async fn commit(transaction: Self::Transaction) -> Result<(), StoreError>;
}

/// The value of a statement's parameter.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    Boolean(bool),
    Int4(Option<i32>),
    Int8(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    /// Microseconds since 1970.
    Time(Option<i64>),
    Uuid(Uuid),
    Int8s(Vec<i64>),
    Texts(Vec<String>),
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Argument::Boolean(value)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Argument::Int4(Some(value))
    }
}

impl From<Option<i32>> for Argument {
    fn from(value: Option<i32>) -> Self {
        Argument::Int4(value)
    }
}

impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Argument::Int8(Some(value))
    }
}

impl From<Option<i64>> for Argument {
    fn from(value: Option<i64>) -> Self {
        Argument::Int8(value)
    }
}

impl From<&str> for Argument {
    fn from(value: &str) -> Self {
        Argument::Text(Some(value.to_owned()))
    }
}

impl From<String> for Argument {
    fn from(value: String) -> Self {
        Argument::Text(Some(value))
    }
}

impl From<Option<&str>> for Argument {
    fn from(value: Option<&str>) -> Self {
        Argument::Text(value.map(str::to_owned))
    }
}

impl From<Option<&[u8]>> for Argument {
    fn from(value: Option<&[u8]>) -> Self {
        Argument::Bytes(value.map(<[u8]>::to_vec))
    }
}

impl From<&[i64]> for Argument {
    fn from(values: &[i64]) -> Self {
        Argument::Int8s(values.to_vec())
    }
}

impl From<Uuid> for Argument {
    fn from(value: Uuid) -> Self {
        Argument::Uuid(value)
    }
}

impl From<&[String]> for Argument {
    fn from(values: &[String]) -> Self {
        Argument::Texts(values.to_vec())
    }
}
