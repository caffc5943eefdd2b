//! SQLite: one file, one host, one writer. The model's own interpreter decides what a change does.

mod errors;
mod operator;
mod overview;
mod rows;
mod tables;
mod transaction;
mod waiting;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use projector_model::Descriptor;
use rustix::fs::{FlockOperation, flock};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use uuid::Uuid;

use super::{
    CatchUp, CatchingUp, Component, Deployment, Generation, Installed, LockHolder, Projection, Store,
    StoreError, Transaction, check_layout,
};
use crate::checkpoint::{Checkpoint, Identity};
use crate::config;
use crate::event::Partition;
use crate::failure::Trouble;
use crate::store::names::{generation_schema, schema_name};
use errors::classify;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

pub struct Sqlite {
    /// One connection: writers take turns, in the order in which they asked.
    pool: SqlitePool,
    id: Uuid,
    /// Held while this host uses the file.
    _lock: Option<File>,
}

impl Sqlite {
    /// Opens the file, creating it if need be, and keeps every other host from it.
    ///
    /// Commits are in the file's write-ahead log before they are seen; after a loss of power the
    /// last ones may be gone, checkpoints and rows together, and their events are read again.
    pub async fn open(settings: &config::Store) -> Result<Self, StoreError> {
        let options = options(settings)?.create_if_missing(true);
        let lock = lock(options.get_filename())?;
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options)
            .await
            .map_err(StoreError::Unavailable)?;
        migrate(&pool).await?;
        // SQLite numbers an integer primary key on its own, whatever its default says.
        sqlx::query(
            "insert into projector_store (only_row, id, created_at) values (1, ?, ?) on conflict do nothing",
        )
        .bind(Uuid::new_v4().to_string())
        .bind(now_micros())
        .execute(&pool)
        .await
        .map_err(classify)?;
        Self::with(pool, Some(lock)).await
    }

    /// Opens a file that a host may be using, to look at it, or to ask that host for something.
    pub async fn open_beside(settings: &config::Store, read_only: bool) -> Result<Self, StoreError> {
        let options = options(settings)?.create_if_missing(false).read_only(read_only);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(StoreError::Unavailable)?;
        Self::with(pool, None).await
    }

    async fn with(pool: SqlitePool, lock: Option<File>) -> Result<Self, StoreError> {
        let id: String =
            sqlx::query_scalar("select id from projector_store").fetch_one(&pool).await.map_err(classify)?;
        let id = id.parse().map_err(|_| StoreError::Unusable(format!("the store's id {id:?} is no UUID")))?;
        Ok(Self { pool, id, _lock: lock })
    }
}

async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(classify)?;
    MIGRATIONS.run_direct(None, &mut *connection, false).await.map_err(|error| {
        StoreError::Unusable(format!("the host's own tables cannot be brought up to date: {error}"))
    })
}

fn options(settings: &config::Store) -> Result<SqliteConnectOptions, StoreError> {
    Ok(SqliteConnectOptions::from_str(&settings.url)
        .map_err(|error| StoreError::Unusable(format!("the store's url cannot be used: {error}")))?
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        .collation(rows::DECIMAL, rows::compare_decimals)
        .log_statements(tracing::log::LevelFilter::Off)
        .log_slow_statements(tracing::log::LevelFilter::Off, Duration::from_secs(1)))
}

fn lock(database: &Path) -> Result<File, StoreError> {
    let path = database.with_extension("lock");
    let unusable = |problem: String| StoreError::Unusable(format!("{}: {problem}", path.display()));
    let file = File::create(&path).map_err(|error| unusable(error.to_string()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        unusable("another host uses this database: a SQLite store belongs to one host".into())
    })?;
    Ok(file)
}

fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

#[async_trait]
impl Store for Sqlite {
    fn id(&self) -> Uuid {
        self.id
    }

    fn writers(&self) -> usize {
        1
    }

    async fn install(&self, component: &Component<'_>) -> Result<Installed, StoreError> {
        let contract = component.contract;
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(classify)?;
        let newest = sqlx::query(
            "select g.id, g.number, g.table_schema, g.active_digest, c.descriptor
             from projector_generation g join projector_component c on c.digest = g.active_digest
             where g.projection = ? order by g.number desc limit 1",
        )
        .bind(contract.name())
        .fetch_optional(&mut *tx)
        .await
        .map_err(classify)?;
        let Some(newest) = newest else {
            let generation = create(&mut tx, component).await?;
            tx.commit().await.map_err(classify)?;
            return Ok(Installed { generation, active: component.digest.to_owned() });
        };
        let generation = Generation {
            id: newest.get(0),
            projection: contract.name().to_owned(),
            number: newest.get(1),
            schema: newest.get(2),
        };
        let active: String = newest.get(3);
        let known: i64 = sqlx::query_scalar(
            "select count(*) from projector_activation where generation_id = ? and digest = ?",
        )
        .bind(generation.id)
        .bind(component.digest)
        .fetch_one(&mut *tx)
        .await
        .map_err(classify)?;
        if known > 0 {
            return Ok(Installed { generation, active });
        }
        let stored: String = newest.get(4);
        let descriptor = Descriptor::from_json(&stored).map_err(|problems| {
            StoreError::Unusable(format!("the active component's descriptor: {problems}"))
        })?;
        check_layout(&descriptor, &contract.descriptor)?;
        store_component(&mut tx, component).await?;
        sqlx::query(
            "update projector_generation set active_digest = ?, halted = null, impure = null where id = ?",
        )
        .bind(component.digest)
        .bind(generation.id)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        activate(&mut tx, generation.id, component.digest).await?;
        tx.commit().await.map_err(classify)?;
        Ok(Installed { generation, active: component.digest.to_owned() })
    }

    async fn installed(&self, projection: &str) -> Result<Option<Installed>, StoreError> {
        let newest = sqlx::query(
            "select id, number, table_schema, active_digest from projector_generation
             where projection = ? order by number desc limit 1",
        )
        .bind(projection)
        .fetch_optional(&self.pool)
        .await
        .map_err(classify)?;
        Ok(newest.map(|newest| Installed {
            generation: Generation {
                id: newest.get(0),
                projection: projection.to_owned(),
                number: newest.get(1),
                schema: newest.get(2),
            },
            active: newest.get(3),
        }))
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("select bytes from projector_component where digest = ?")
            .bind(digest)
            .fetch_optional(&self.pool)
            .await
            .map_err(classify)
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

    async fn begin_partition(
        &self,
        generation: &Generation,
        partition: &Partition,
        offset: i64,
        identity: &Identity,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "insert into projector_checkpoint
               (generation_id, topic, partition, next_offset, first_offset, topic_id, cluster_id, updated_at)
             values (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7) on conflict do nothing",
        )
        .bind(generation.id)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(offset)
        .bind(&identity.topic_id)
        .bind(&identity.cluster_id)
        .bind(now_micros())
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn catch_up(&self, generation: &Generation, _alone: bool) -> Result<CatchUp, StoreError> {
        let done: bool =
            sqlx::query_scalar("select caught_up_at is not null from projector_generation where id = ?")
                .bind(generation.id)
                .fetch_one(&self.pool)
                .await
                .map_err(classify)?;
        // The file has one host.
        Ok(if done { CatchUp::Done } else { CatchUp::Ours(CatchingUp { session: None }) })
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

    async fn set_paused(
        &self,
        generation: &Generation,
        partition: &Partition,
        trouble: Option<&Trouble>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update projector_checkpoint set paused = ?4, paused_kind = ?5
             where generation_id = ?1 and topic = ?2 and partition = ?3 and paused is not ?4",
        )
        .bind(generation.id)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(trouble.map(|trouble| &*trouble.reason))
        .bind(trouble.map(|trouble| trouble.kind.as_str()))
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn set_halted(&self, generation: &Generation, trouble: Option<&Trouble>) -> Result<(), StoreError> {
        sqlx::query(
            "update projector_generation set halted = ?2, halted_kind = ?3 where id = ?1 and halted is not ?2",
        )
        .bind(generation.id)
        .bind(trouble.map(|trouble| &*trouble.reason))
        .bind(trouble.map(|trouble| trouble.kind.as_str()))
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn begin(&self, deployment: &Deployment) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(transaction::begin(&self.pool, deployment).await?))
    }

    async fn lock_holder(&self, _: &Generation) -> Option<LockHolder> {
        None
    }

    async fn overview(&self) -> Result<Vec<Projection>, StoreError> {
        let mut snapshot = self.pool.begin().await.map_err(classify)?;
        overview::overview(&mut snapshot).await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

async fn create(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    component: &Component<'_>,
) -> Result<Generation, StoreError> {
    let contract = component.contract;
    let schema = generation_schema(contract.name(), 1);
    store_component(tx, component).await?;
    let id: i64 = sqlx::query_scalar(
        "insert into projector_generation (projection, number, revision, table_schema, active_digest, created_at)
         values (?, 1, ?, ?, ?, ?) returning id",
    )
    .bind(contract.name())
    .bind(i64::from(contract.descriptor.revision))
    .bind(&schema)
    .bind(component.digest)
    .bind(now_micros())
    .fetch_one(&mut **tx)
    .await
    .map_err(classify)?;
    activate(tx, id, component.digest).await?;
    for statement in tables::create(contract, &schema, &schema_name(contract.name())) {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut **tx).await.map_err(|error| {
            match error.to_string().contains("already exists") {
                true => StoreError::Unusable(format!(
                    "the database has a table of the projection's name already ({error}); Projector made none: rename the projection, or give it a database of its own (`store`)"
                )),
                false => classify(error),
            }
        })?;
    }
    Ok(Generation { id, projection: contract.name().to_owned(), number: 1, schema })
}

async fn store_component(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    component: &Component<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into projector_component (digest, version, bytes, descriptor, stored_at) values (?, ?, ?, ?, ?)
         on conflict do nothing",
    )
    .bind(component.digest)
    .bind(&component.contract.descriptor.version)
    .bind(component.bytes)
    .bind(component.contract.descriptor.to_json())
    .bind(now_micros())
    .execute(&mut **tx)
    .await
    .map_err(classify)?;
    Ok(())
}

async fn activate(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    generation: i64,
    digest: &str,
) -> Result<(), StoreError> {
    sqlx::query("insert into projector_activation (generation_id, digest, activated_at) values (?, ?, ?)")
        .bind(generation)
        .bind(digest)
        .bind(now_micros())
        .execute(&mut **tx)
        .await
        .map_err(classify)?;
    Ok(())
}
