//! Postgres: set-wise statements over `UNNEST` arrays, several hosts at once.

mod beginnings;
mod deployments;
mod diff;
mod errors;
mod foreign;
mod ids;
mod lock_holder;
mod moves;
mod operator;
mod overview;
mod statements;
mod tables;
mod transaction;
mod values;
mod waiting;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Row};
use uuid::Uuid;

use super::diff::Snapshot;
use super::{
    CatchUp, CatchingUp, Deployment, Generation, LockHolder, Progress, Projection, Store, StoreError,
    Transaction,
};
use crate::checkpoint::{Checkpoint, Identity};
use crate::config;
use crate::duplicate::Recorded;
use crate::event::Partition;
use crate::failure::Trouble;
use errors::classify;
use statements::Statements;
use waiting::meanwhile;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/postgres");

/// The first argument of the host's advisory locks: "PRJ" in ASCII.
const ADVISORY_CLASS: i32 = 0x0050_524a;
/// That of the lock of whoever catches a generation up.
const CATCH_UP_CLASS: i32 = ADVISORY_CLASS + 1;

/// A generation and the digest that writes to it.
type DeploymentKey = (i64, Arc<str>);

pub struct Postgres {
    pool: PgPool,
    /// When and why the database did not answer last, if it did not, and whoever asks it whether it does
    /// again: one at a time, so that many projections are no storm on a database that comes back.
    down: Mutex<Option<(Instant, String)>>,
    probe: tokio::sync::Mutex<()>,
    id: Uuid,
    /// The SQL of each deployment, built once.
    statements: Mutex<HashMap<DeploymentKey, Arc<Statements>>>,
}

impl Postgres {
    /// Connects, and brings the host's own tables up to date.
    pub async fn open(settings: &config::Store) -> Result<Self, StoreError> {
        let wrong =
            |error: sqlx::Error| StoreError::Unusable(format!("the store's url cannot be used: {error}"));
        let milliseconds = |timeout: Duration| timeout.as_millis().to_string();
        let options = PgConnectOptions::from_str(&settings.url)
            .map_err(wrong)?
            .application_name("projector")
            .statement_cache_capacity(1_000)
            .log_statements(tracing::log::LevelFilter::Off)
            .log_slow_statements(tracing::log::LevelFilter::Off, Duration::from_secs(1))
            .options([
                ("statement_timeout", milliseconds(settings.statement_timeout)),
                ("lock_timeout", milliseconds(settings.lock_timeout)),
                ("idle_in_transaction_session_timeout", milliseconds(settings.idle_in_transaction_timeout)),
                ("tcp_user_timeout", milliseconds(settings.idle_in_transaction_timeout)),
                ("tcp_keepalives_idle", "10".into()),
                ("tcp_keepalives_interval", "5".into()),
                ("tcp_keepalives_count", "3".into()),
                // What is committed is durable, whatever the server's default.
                ("synchronous_commit", "on".into()),
                ("default_transaction_isolation", "read committed".into()),
                ("timezone", "UTC".into()),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(settings.connections.get())
            .acquire_timeout(Duration::from_secs(10))
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(StoreError::Unavailable)?;
        migrate(&pool).await?;
        let id =
            sqlx::query_scalar("select id from projector.store").fetch_one(&pool).await.map_err(classify)?;
        Ok(Self {
            pool,
            down: Mutex::default(),
            probe: tokio::sync::Mutex::default(),
            id,
            statements: Mutex::default(),
        })
    }

    /// A connection of the pool.
    async fn connection(&self) -> Result<PoolConnection<sqlx::Postgres>, StoreError> {
        self.one_probe(async { self.pool.acquire().await.map_err(classify) }).await
    }

    /// Begins a transaction.
    async fn begin(
        &self,
        statement: &'static str,
    ) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, StoreError> {
        self.one_probe(begin(&self.pool, statement)).await
    }

    /// Connects; while the database is down, one at a time: whoever else asks waits for what that one finds
    /// out.
    async fn one_probe<T>(
        &self,
        connect: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let down = || self.down.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut probe = None;
        if down().is_some() {
            probe = Some(self.probe.lock().await);
            match down() {
                Some((since, cause)) if since > asked => return Err(meanwhile(&cause)),
                Some(_) => {}
                None => probe = None,
            }
        }
        let connected = connect.await;
        // A pool that is all lent out is busy, and not down.
        let busy = self.pool.size() >= self.pool.options().get_max_connections();
        let cause =
            connected.as_ref().err().filter(|_| !busy).map(|error| (Instant::now(), error.to_string()));
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = cause;
        drop(probe);
        connected
    }

    fn statements(&self, deployment: &Deployment) -> Arc<Statements> {
        let mut known = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (deployment.generation.id, deployment.digest.clone());
        known
            .entry(key)
            .or_insert_with(|| Arc::new(Statements::of(&deployment.contract, &deployment.generation.schema)))
            .clone()
    }
}

/// The first argument of the lock that batches of a generation share, and whoever decides about it takes
/// alone.
const FENCE_CLASS: i32 = ADVISORY_CLASS + 3;

/// Waits for the batches in flight of these generations, and keeps others from beginning. Who waits for a
/// row's lock alone would be passed by, for ever, by those that share it.
async fn fence(connection: &mut PgConnection, generations: &[i64]) -> Result<(), StoreError> {
    sqlx::query(
        "select pg_advisory_xact_lock($1, id::int4) from (select unnest($2::int8[]) as id order by 1) as ordered",
    )
    .bind(FENCE_CLASS)
    .bind(generations)
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    Ok(())
}

const BEGIN: &str = "begin";
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read, read only";

/// Begins a transaction. sqlx does not know of one whose `begin` was dropped before the answer came,
/// and would leave it open in the pool: so it is begun where nobody drops it.
async fn begin(
    pool: &PgPool,
    statement: &'static str,
) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, StoreError> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await }).await;
    begun.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map_err(classify)
}

/// The host's own tables, in a schema of their own; hosts that start together wait for each other.
async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(classify)?;
    if is_up_to_date(&mut connection).await? {
        return Ok(());
    }
    // sqlx keeps its ledger in the first schema of the search path.
    for statement in ["create schema if not exists projector", "set search_path to projector"] {
        if let Err(error) = sqlx::query(statement).execute(&mut *connection).await {
            // Two hosts at once: the other one made it.
            let duplicate = error.as_database_error().is_some_and(|error| error.is_unique_violation());
            if !duplicate {
                return Err(classify(error));
            }
        }
    }
    let mut migrator = Migrator { ..Migrator::DEFAULT };
    migrator.migrations = MIGRATIONS.migrations.clone();
    // A host one version older still runs beside this one.
    migrator.set_ignore_missing(true);
    let migrated = migrator.run_direct(None, &mut *connection, false).await;
    sqlx::query("reset search_path").execute(&mut *connection).await.map_err(classify)?;
    migrated.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => classify(error),
        error => StoreError::Unusable(format!("the host's own tables cannot be brought up to date: {error}")),
    })
}

/// Whether there is nothing to migrate. Found out by reading alone: a database that is read-only
/// can still be looked at.
async fn is_up_to_date(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let ledger: bool = sqlx::query_scalar("select to_regclass('projector._sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await
        .map_err(classify)?;
    if !ledger {
        return Ok(false);
    }
    let done: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from projector._sqlx_migrations where success")
            .fetch_all(connection)
            .await
            .map_err(classify)?;
    let is_done = |migration: &Migration| {
        done.iter()
            .any(|(version, checksum)| *version == migration.version && **checksum == *migration.checksum)
    };
    Ok(MIGRATIONS.iter().all(is_done))
}

#[async_trait]
impl Store for Postgres {
    fn id(&self) -> Uuid {
        self.id
    }

    fn writers(&self) -> usize {
        self.pool.options().get_max_connections() as usize
    }

    async fn checkpoints(
        &self,
        generation: &Generation,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Checkpoint>>, StoreError> {
        let topics: Vec<&str> = partitions.iter().map(|partition| &*partition.topic).collect();
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.number).collect();
        let rows = sqlx::query(
            "select c.next_offset, c.topic_id, c.cluster_id
             from unnest($2::text[], $3::int4[]) with ordinality as u(topic, partition, ord)
             left join projector.checkpoint c
               on c.generation_id = $1 and c.topic = u.topic and c.partition = u.partition
             order by u.ord",
        )
        .bind(generation.id)
        .bind(topics)
        .bind(numbers)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(rows
            .iter()
            .map(|row| {
                let next_offset: Option<i64> = row.get(0);
                let identity = Identity { topic_id: row.get(1), cluster_id: row.get(2) };
                next_offset.map(|next_offset| Checkpoint { next_offset, identity })
            })
            .collect())
    }

    async fn catch_up(&self, generation: &Generation, alone: bool) -> Result<CatchUp, StoreError> {
        let (done, session, offsets): (bool, Option<i32>, i64) = sqlx::query_as(
            "select g.caught_up_at is not null,
               (select l.pid from pg_locks l where l.locktype = 'advisory' and l.granted
                 and l.database = (select oid from pg_database where datname = current_database())
                 and l.classid = $2::int4::oid and l.objid = g.id::oid and l.objsubid = 2),
               (select coalesce(sum(next_offset), 0)::int8 from projector.checkpoint c where c.generation_id = g.id)
             from projector.generation g where g.id = $1",
        )
        .bind(generation.id)
        .bind(CATCH_UP_CLASS)
        .fetch_one(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        if done {
            return Ok(CatchUp::Done);
        }
        if !alone {
            return Ok(CatchUp::Ours(CatchingUp { session: None }));
        }
        if let Some(session) = session {
            return Ok(CatchUp::Theirs(Progress { session, offsets }));
        }
        // A session of its own: it may last for hours.
        let mut session = self.pool.connect_options().connect().await.map_err(classify)?;
        let ours: bool = sqlx::query_scalar("select pg_try_advisory_lock($1, $2)")
            .bind(CATCH_UP_CLASS)
            .bind(generation.id as i32)
            .fetch_one(&mut session)
            .await
            .map_err(classify)?;
        match ours {
            true => Ok(CatchUp::Ours(CatchingUp { session: Some(session) })),
            // Another one was quicker; whose it is will be seen the next time.
            false => Ok(CatchUp::Theirs(Progress { session: 0, offsets })),
        }
    }

    async fn set_caught_up(&self, generation: &Generation) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.generation set caught_up_at = now() where id = $1 and caught_up_at is null",
        )
        .bind(generation.id)
        .execute(&mut *self.connection().await?)
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
            "update projector.checkpoint set paused = $4, paused_kind = $5
             where generation_id = $1 and topic = $2 and partition = $3 and paused is distinct from $4",
        )
        .bind(generation.id)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(trouble.map(|trouble| &*trouble.reason))
        .bind(trouble.map(|trouble| trouble.kind.as_str()))
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn set_halted(&self, generation: &Generation, trouble: Option<&Trouble>) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.generation set halted = $2, halted_kind = $3
             where id = $1 and halted is distinct from $2",
        )
        .bind(generation.id)
        .bind(trouble.map(|trouble| &*trouble.reason))
        .bind(trouble.map(|trouble| trouble.kind.as_str()))
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn begin(&self, deployment: &Deployment) -> Result<Box<dyn Transaction>, StoreError> {
        let statements = self.statements(deployment);
        let tx = self.begin(BEGIN).await?;
        Ok(Box::new(transaction::begin(tx, deployment, statements, false).await?))
    }

    async fn look(&self, deployment: &Deployment) -> Result<Box<dyn Transaction>, StoreError> {
        let statements = self.statements(deployment);
        let tx = self.begin(BEGIN).await?;
        Ok(Box::new(transaction::begin(tx, deployment, statements, true).await?))
    }

    async fn lock_holder(&self, generation: &Generation) -> Option<LockHolder> {
        lock_holder::find(&self.pool, generation).await
    }

    async fn overview(&self) -> Result<Vec<Projection>, StoreError> {
        let mut snapshot = self.begin(BEGIN_SNAPSHOT).await?;
        overview::overview(&mut snapshot).await
    }

    async fn duplicates(&self, projection: &str, most: i64) -> Result<Vec<Recorded>, StoreError> {
        let mut snapshot = self.begin(BEGIN_SNAPSHOT).await?;
        ids::duplicates(&mut snapshot, projection, most).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let options = self.pool.connect_options();
        let session = self.one_probe(async { options.connect().await.map_err(classify) }).await?;
        Ok(Box::new(diff::OwnSession::begin(session).await?))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
