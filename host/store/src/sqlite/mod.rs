//! SQLite: one file, one host, one writer. The model's own interpreter decides what a change does.
//!
//! Invariant: a lock file keeps every other host from the database. Commands may read it and store operators' requests in it
//! beside the host.

mod batches;
mod catch_up;
mod dead_letters;
mod diff;
mod documents;
mod errors;
mod event_ids;
mod foreign;
mod generation_tables;
mod host_tables;
mod identity;
mod lone_dead_letters;
mod parking;
mod readers;
mod release;
mod rows;
mod source_topics;
mod tables;
mod transaction;
mod waiting_events;

use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use projector_config as config;
use projector_core::instant::now_micros;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use uuid::Uuid;

use crate::Store;
use crate::diff::Snapshot;
use crate::error::StoreError;
use crate::fault::{Outage, Setup};
use crate::migrations::SQLITE;
use crate::schema::{InProgress, NEEDS_SINCE, POLL_INTERVAL, Schema, requires};
use errors::classify;

/// A transaction that writes. Dropped, it is rolled back.
type Tx = sqlx::Transaction<'static, sqlx::Sqlite>;

pub struct Sqlite {
    /// One connection, so that transactions run one after the other, in the order of their requests.
    pool: SqlitePool,
    id: Uuid,
    /// As it was when the store was opened.
    schema: Schema,
    /// Locked while this host uses the database.
    _lock: Option<File>,
}

impl Sqlite {
    /// Opens the file, or creates it, and keeps every other host from using it.
    ///
    /// A commit is in the write-ahead log before any reader sees it. After a power failure the last commits may be lost,
    /// checkpoints and rows together: their events are read again.
    pub async fn open(settings: &config::Store) -> Result<Self, StoreError> {
        let options = options(settings)?.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let file = options.get_filename().to_owned();
        let lock = lock(&file)?;
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options)
            .await
            .map_err(classify)?;
        let mut found = schema(&pool, &file).await?;
        found.check_known()?;
        if !found.pending.is_empty() {
            migrate(&pool).await?;
            found = schema(&pool, &file).await?;
        }
        // `only_row` is set here, because SQLite ignores the default of an integer primary key.
        sqlx::query(
            "insert into projector_store (only_row, id, created_at) values (1, ?, ?) on conflict do nothing",
        )
        .bind(Uuid::new_v4().to_string())
        .bind(now_micros())
        .execute(&pool)
        .await
        .map_err(classify)?;
        Self::with(pool, found, Some(lock)).await
    }

    /// Opens a file that a host may be using, to read it, or to store operators' requests. Nothing is migrated. `None`: no
    /// host has ever used this file.
    pub(super) async fn open_as_it_is(
        settings: &config::Store,
        read_only: bool,
    ) -> Result<(Schema, Option<Self>), StoreError> {
        let file = options(settings)?.get_filename().to_owned();
        let Some((mut found, pool)) = open_existing(settings, read_only).await? else {
            return Ok((unused(&file), None));
        };
        let mut progress = InProgress::default();
        while progress.continues(&found) {
            tokio::time::sleep(POLL_INTERVAL).await;
            found = schema(&pool, &file).await?;
        }
        if found.version.is_none() {
            return Ok((found, None));
        }
        found.check()?;
        Ok((found.clone(), Some(Self::with(pool, found, None).await?)))
    }

    /// A store without projections, in memory: it has the tables of a database on which no host has ever run.
    pub(super) async fn empty() -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().in_memory(true).shared_cache(false);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // The database ends with its connection.
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        migrate(&pool).await?;
        let schema = schema(&pool, Path::new("in memory")).await?;
        Ok(Self { pool, id: Uuid::new_v4(), schema, _lock: None })
    }

    async fn with(pool: SqlitePool, schema: Schema, lock: Option<File>) -> Result<Self, StoreError> {
        let id: String =
            sqlx::query_scalar("select id from projector_store").fetch_one(&pool).await.map_err(classify)?;
        let id = id.parse().map_err(|_| StoreError::Unusable(format!("the store's id {id:?} is no UUID")))?;
        Ok(Self { pool, id, schema, _lock: lock })
    }
}

impl Sqlite {
    /// Begins a transaction that writes. It waits until no other transaction writes.
    async fn immediate(&self) -> Result<Tx, StoreError> {
        self.pool.begin_with("begin immediate").await.map_err(classify)
    }
}

/// Opens a file without creating or changing it. `None`: it does not exist, or is empty.
async fn open_existing(
    settings: &config::Store,
    read_only: bool,
) -> Result<Option<(Schema, SqlitePool)>, StoreError> {
    let options = options(settings)?.create_if_missing(false).read_only(read_only);
    let file = options.get_filename().to_owned();
    // All other errors are left to SQLite.
    let is_nothing = match std::fs::metadata(&file) {
        Ok(metadata) => metadata.len() == 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_nothing {
        return Ok(None);
    }
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .map_err(|error| StoreError::Unavailable(error.into()))?;
    Ok(Some((schema(&pool, &file).await?, pool)))
}

/// What the SQLite file of these settings has of the host's own tables.
pub(super) async fn look_at_schema(settings: &config::Store) -> Result<Schema, StoreError> {
    match open_existing(settings, true).await? {
        Some((found, pool)) => {
            pool.close().await;
            Ok(found)
        }
        None => Ok(unused(options(settings)?.get_filename())),
    }
}

fn unused(file: &Path) -> Schema {
    Schema::of(&SQLITE, named(file), None, 0)
}

fn named(file: &Path) -> String {
    format!("the SQLite file {}", file.display())
}

async fn schema(pool: &SqlitePool, file: &Path) -> Result<Schema, StoreError> {
    let has_ledger: bool = sqlx::query_scalar(
        "select exists (select 1 from sqlite_master where type = 'table' and name = '_sqlx_migrations')",
    )
    .fetch_one(pool)
    .await
    .map_err(classify)?;
    if !has_ledger {
        return Ok(unused(file));
    }
    let ledger: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from _sqlx_migrations where success")
            .fetch_all(pool)
            .await
            .map_err(classify)?;
    let has_needs = ledger.iter().any(|(version, _)| *version == NEEDS_SINCE);
    let needs: Option<i64> = match has_needs {
        true => sqlx::query_scalar("select needs from projector_store")
            .fetch_optional(pool)
            .await
            .map_err(classify)?,
        false => None,
    };
    Ok(Schema::of(&SQLITE, named(file), Some(ledger), needs.unwrap_or_default()))
}

async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(classify)?;
    let mut migrator = Migrator { migrations: SQLITE.migrations.clone(), ..Migrator::DEFAULT };
    // The ledger may have migrations of a newer version, whose place this program takes again.
    migrator.set_ignore_missing(true);
    migrator.run_direct(None, &mut *connection, false).await.map_err(|error| {
        StoreError::Unusable(format!("the host's own tables cannot be brought up to date: {error}"))
    })?;
    // Only one host uses the file, so there is no other host that must know these migrations.
    let needs = SQLITE.iter().filter_map(|migration| requires(migration.sql.as_str())).max();
    sqlx::query("update projector_store set needs = max(needs, ?)")
        .bind(needs.unwrap_or_default())
        .execute(&mut *connection)
        .await
        .map_err(classify)?;
    Ok(())
}

fn options(settings: &config::Store) -> Result<SqliteConnectOptions, StoreError> {
    Ok(SqliteConnectOptions::from_str(&settings.url)
        .map_err(|error| {
            StoreError::Setup(Setup::new(format!("the store's url cannot be used: {error}"), "correct it"))
        })?
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        .collation(rows::DECIMAL, rows::compare_decimals)
        .collation(documents::DOCUMENT, documents::compare_documents)
        .log_statements(tracing::log::LevelFilter::Off)
        .log_slow_statements(tracing::log::LevelFilter::Off, Duration::from_secs(1)))
}

fn lock(database: &Path) -> Result<File, StoreError> {
    let path = database.with_extension("lock");
    let unusable = |problem: String| StoreError::Unusable(format!("{}: {problem}", path.display()));
    let file = File::create(&path).map_err(|error| unusable(error.to_string()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        // The other host may be stopping, so this is retried.
        Err(Errno::WOULDBLOCK) => Err(StoreError::Unavailable(Outage::new(format!(
            "{}: another host uses this database, and a SQLite store can have only one host: this host waits until the other one ends",
            path.display()
        )))),
        Err(error) => Err(unusable(error.to_string())),
    }
}

#[async_trait]
impl Store for Sqlite {
    fn id(&self) -> Uuid {
        self.id
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn answer_count(&self) -> Option<u64> {
        None
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let options = (*self.pool.connect_options()).clone().read_only(true);
        Ok(Box::new(diff::ConnectionSnapshot::begin(options.connect().await.map_err(classify)?).await?))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
