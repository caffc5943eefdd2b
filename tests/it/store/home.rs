//! Where a store lives, and a way in that is not the host's.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use projector_store::{self as store, Store, StoreError};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tempfile::TempDir;

use super::settings;

/// A database of one test's own.
pub(super) enum Home {
    Postgres { url: String },
    Sqlite { directory: TempDir },
}

/// A session beside the host's.
pub(super) enum Session {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Home {
    pub(super) fn postgres() -> Result<Self> {
        let url = projector_test_servers::Postgres::shared().create_unique_database("store")?;
        Ok(Home::Postgres { url })
    }

    pub(super) fn sqlite() -> Result<Self> {
        Ok(Home::Sqlite { directory: tempfile::tempdir()? })
    }

    pub(super) async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        store::open(&settings(&self.url())).await
    }

    pub(super) fn url(&self) -> String {
        match self {
            Home::Postgres { url } => url.clone(),
            Home::Sqlite { .. } => format!("sqlite://{}", self.file().display()),
        }
    }

    pub(super) async fn session(&self) -> Result<Session> {
        Ok(match self {
            Home::Postgres { url } => Session::Postgres(PgConnection::connect(url).await?),
            Home::Sqlite { .. } => {
                let options =
                    SqliteConnectOptions::new().filename(self.file()).busy_timeout(Duration::from_secs(10));
                Session::Sqlite(options.connect().await?)
            }
        })
    }

    /// Runs statements as a person with a database client would: one for each store.
    pub(super) async fn by_hand(&self, postgres: &str, sqlite: &str) -> Result<()> {
        match self.session().await? {
            Session::Postgres(mut session) => session.execute(AssertSqlSafe(postgres)).await.map(drop)?,
            Session::Sqlite(mut session) => session.execute(AssertSqlSafe(sqlite)).await.map(drop)?,
        }
        Ok(())
    }

    fn file(&self) -> PathBuf {
        match self {
            Home::Postgres { .. } => unreachable!("only SQLite has a file"),
            Home::Sqlite { directory } => directory.path().join("store.db"),
        }
    }
}

impl Session {
    /// How many of the host's sessions wait for a lock of this type, as `pg_stat_activity` tells.
    pub(super) async fn waiting_for(&mut self, lock: &str) -> Result<i64> {
        let Session::Postgres(session) = self else { unreachable!("only Postgres shows its sessions") };
        let waiting = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and wait_event = $1",
        );
        Ok(waiting.bind(lock).fetch_one(session).await?)
    }

    /// How many of the host's sessions are at work, or have written what is neither committed nor
    /// rolled back. SQLite ends a transaction before its connection is used again.
    pub(super) async fn undecided(&mut self) -> Result<i64> {
        let Session::Postgres(session) = self else { return Ok(0) };
        let busy = "select count(*) from pg_stat_activity where datname = current_database()
                      and application_name = 'projector' and (state = 'active' or backend_xid is not null)";
        Ok(sqlx::query_scalar(busy).fetch_one(session).await?)
    }
}

/// Asks again until it is so.
pub(super) async fn wait_until<F: Future<Output = Result<bool>>>(
    what: &str,
    mut is_so: impl FnMut() -> F,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await? {
        anyhow::ensure!(Instant::now() < deadline, "it never came to be that {what}");
        tokio::task::yield_now().await;
    }
    Ok(())
}
