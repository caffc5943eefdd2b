//! A session with a Postgres that stays open: what it locks stays locked, and it takes a place.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::runtime::Runtime;

/// What it began is rolled back when it is dropped.
pub(crate) struct Session {
    connection: PgConnection,
    runtime: Runtime,
}

impl Session {
    /// An error is the server's: it has no place for one more, say.
    pub(crate) fn open(url: &str) -> Result<Session, sqlx::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(PgConnection::connect(url))?;
        Ok(Session { connection, runtime })
    }

    /// Runs one statement; returns the first column of its rows, which must be text.
    pub(crate) fn run(&mut self, sql: &str) -> Vec<String> {
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.connection);
        self.runtime.block_on(rows).unwrap().iter().map(|row| row.get(0)).collect()
    }
}
