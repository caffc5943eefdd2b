//! SQLite: one file, one host, one writer. The model's own interpreter decides what a change does.

mod dead_letters;
mod deployments;
mod diff;
mod documents;
mod errors;
mod foreign;
mod host_tables;
mod identity;
mod ids;
mod lone_letters;
mod rows;
mod source_topics;
mod tables;
mod transaction;
mod waiting;
mod waits;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use projector_config as config;
use projector_core::checkpoint::{Checkpoint, Identity};
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_core::instant::now_micros;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row};
use uuid::Uuid;

use super::diff::Snapshot;
use super::migrations::SQLITE;
use super::schema::{InProgress, LOOK, Schema, TOLD_SINCE, requires};
use super::{CatchUp, CatchingUp, LockHolder, Outage, Setup, Store, StoreError, Transaction, WriteTarget};
use errors::classify;

pub struct Sqlite {
    /// One connection: writers take turns, in the order in which they asked.
    pool: SqlitePool,
    id: Uuid,
    /// As it was opened.
    schema: Schema,
    /// Held while this host uses the file.
    _lock: Option<File>,
}

impl Sqlite {
    /// Opens the file, creating it if need be, and keeps every other host from it.
    ///
    /// Commits are in the file's write-ahead log before they are seen; after a loss of power the
    /// last ones may be gone, checkpoints and rows together, and their events are read again.
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
        // SQLite numbers an integer primary key on its own, whatever its default says.
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

    /// Opens a file that a host may be using, to look at it, or to ask that host for something. It changes
    /// nothing. `None`: no host has ever used this file.
    pub(super) async fn open_as_it_is(
        settings: &config::Store,
        read_only: bool,
    ) -> Result<(Schema, Option<Self>), StoreError> {
        let file = options(settings)?.get_filename().to_owned();
        let Some((mut found, pool)) = look(settings, read_only).await? else {
            return Ok((unused(&file), None));
        };
        let mut progress = InProgress::default();
        while progress.goes_on(&found) {
            tokio::time::sleep(LOOK).await;
            found = schema(&pool, &file).await?;
        }
        if found.version.is_none() {
            return Ok((found, None));
        }
        found.check()?;
        Ok((found.clone(), Some(Self::with(pool, found, None).await?)))
    }

    /// A store without projections, which is kept nowhere: what a database is on which no host ever ran.
    pub(super) async fn empty() -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().in_memory(true).shared_cache(false);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // The database is gone with its connection.
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

/// Opens a file without making or changing it. `None`: it does not exist, or is empty.
async fn look(settings: &config::Store, read_only: bool) -> Result<Option<(Schema, SqlitePool)>, StoreError> {
    let options = options(settings)?.create_if_missing(false).read_only(read_only);
    let file = options.get_filename().to_owned();
    // What else is wrong with it, SQLite says.
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

/// What the file of these settings has of the host's own tables.
pub(super) async fn look_at_schema(settings: &config::Store) -> Result<Schema, StoreError> {
    match look(settings, true).await? {
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
    let told = ledger.iter().any(|(version, _)| *version == TOLD_SINCE);
    let needs: Option<i64> = match told {
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
    // Those of a newer version: this program may take its place again.
    migrator.set_ignore_missing(true);
    migrator.run_direct(None, &mut *connection, false).await.map_err(|error| {
        StoreError::Unusable(format!("the host's own tables cannot be brought up to date: {error}"))
    })?;
    // Only one host uses the file, so none has to be waited for.
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
        // It may be stopping.
        Err(Errno::WOULDBLOCK) => Err(StoreError::Unavailable(Outage::new(format!(
            "{}: another host uses this database, and a SQLite store belongs to one host: this one waits for its end",
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

    fn writers(&self) -> usize {
        1
    }

    fn heard(&self) -> Option<u64> {
        None
    }

    async fn checkpoints(
        &self,
        generation: &Generation,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Checkpoint>>, StoreError> {
        let rows = sqlx::query(
            "select topic, partition, next_offset, topic_id, cluster_id from projector_checkpoint where generation_id = ?",
        )
        .bind(generation.id)
        .fetch_all(&self.pool)
        .await
        .map_err(classify)?;
        let known: BTreeMap<(String, i32), Checkpoint> = rows
            .iter()
            .map(|row| {
                let identity = Identity { topic_id: row.get(3), cluster_id: row.get(4) };
                ((row.get(0), row.get(1)), Checkpoint { next_offset: row.get(2), identity })
            })
            .collect();
        Ok(partitions
            .iter()
            .map(|partition| known.get(&(partition.topic.to_string(), partition.number)).cloned())
            .collect())
    }

    async fn catch_up(&self, generation: &Generation, alone: bool) -> Result<CatchUp, StoreError> {
        let done: bool = sqlx::query_scalar(
            "select caught_up_at is not null and not (?2 and role = 'building')
             from projector_generation where id = ?1",
        )
        .bind(generation.id)
        .bind(alone)
        .fetch_one(&self.pool)
        .await
        .map_err(classify)?;
        // The file has one host.
        Ok(if done { CatchUp::Done } else { CatchUp::Ours(CatchingUp { lock: None }) })
    }

    async fn set_caught_up(&self, generation: &Generation) -> Result<(), StoreError> {
        sqlx::query(
            "update projector_generation set caught_up_at = ?2 where id = ?1 and caught_up_at is null",
        )
        .bind(generation.id)
        .bind(now_micros())
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn analyze(&self, _: &Generation) -> Result<(), StoreError> {
        // So many rows of each index are enough, and no writer waits for long.
        let analyze = sqlx::raw_sql("pragma analysis_limit = 1000; analyze");
        analyze.execute(&self.pool).await.map(drop).map_err(classify)
    }

    async fn begin(&self, deployment: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(transaction::begin(&self.pool, deployment, false).await?))
    }

    async fn begin_read_only(&self, deployment: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(transaction::begin(&self.pool, deployment, true).await?))
    }

    async fn count_deadlock(&self, _: &Generation) -> Result<(), StoreError> {
        // One writes at a time.
        Ok(())
    }

    async fn lock_holder(&self, _: &Generation) -> Option<LockHolder> {
        None
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let options = (*self.pool.connect_options()).clone().read_only(true);
        Ok(Box::new(diff::OwnConnection::begin(options.connect().await.map_err(classify)?).await?))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
