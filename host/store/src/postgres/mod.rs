//! Postgres: set-wise statements over `UNNEST` arrays, several hosts at once.

mod address;
mod catch_up_lock;
mod connect;
mod dead_letters;
mod deployments;
mod diff;
mod doorway;
mod errors;
mod foreign;
mod host_tables;
mod identity;
mod ids;
mod line;
mod lock_holder;
mod lone_letters;
mod old_snapshots;
mod sessions;
mod source_topics;
mod statements;
mod tables;
mod tls;
mod transaction;
mod values;
mod waiting;
mod waits;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Row, SqlSafeStr};
use uuid::Uuid;

use super::diff::Snapshot;
use super::fault::to_text;
use super::migrations::POSTGRES;
use super::names;
use super::schema::{HOSTS_ARE_BEHIND, InProgress, LOOK, Schema, TOLD_SINCE, gate, requires};
use super::{CatchUp, CatchingUp, LockHolder, Progress, Setup, Store, StoreError, Transaction, WriteTarget};
pub use catch_up_lock::CatchUpLock;
use projector_config as config;
use projector_core::checkpoint::{Checkpoint, Identity};
use projector_core::event::Partition;
use projector_core::generation::Generation;
use projector_core::refusal::Refusal;

use errors::classify;
use sessions::{Session, Sessions, Tx};
use statements::Statements;
pub use tables::meeting;

/// The first argument of the host's advisory locks: "PRJ" in ASCII.
const ADVISORY_CLASS: i32 = 0x0050_524a;
/// That of the lock of whoever catches a generation up.
const CATCH_UP_CLASS: i32 = ADVISORY_CLASS + 1;

/// The SQL of so many deployments is kept, beside those that are used: versions come and go.
const MOST_STATEMENTS: usize = 64;

/// A generation and the digest that writes to it.
type DeploymentKey = (i64, Arc<str>);

/// Connects, and closes the connection.
pub(super) async fn check_login(settings: &config::Store) -> Result<(), StoreError> {
    use sqlx::Connection as _;
    let connected = connect::connect(settings, &Arc::default()).await?;
    // How it closes says nothing of the login.
    let _ = connected.connection.close().await;
    Ok(())
}

pub struct Postgres {
    sessions: Arc<Sessions>,
    catch_up_locks: catch_up_lock::Holder,
    id: Uuid,
    /// As it was opened.
    schema: Schema,
    /// The SQL of each deployment, built once: of those that are used, and of a few that were.
    statements: Mutex<HashMap<DeploymentKey, Arc<Statements>>>,
}

impl Postgres {
    /// Connects, and brings the host's own tables up to date.
    pub async fn open(settings: &config::Store) -> Result<Self, StoreError> {
        let sessions = Sessions::open(settings).await?;
        let mut session = sessions.session().await?;
        let mut found = schema(&mut session).await?;
        found.check_known()?;
        if !found.pending.is_empty() {
            // Of its own: it is set otherwise meanwhile.
            let mut own = sessions.own().await?;
            migrate(&mut own).await?;
            own.close().await;
            found = schema(&mut session).await?;
        }
        Self::with(sessions, session, found).await
    }

    /// Connects, and changes nothing. `None`: no host has ever run on this database.
    pub(super) async fn open_as_it_is(
        settings: &config::Store,
    ) -> Result<(Schema, Option<Self>), StoreError> {
        let sessions = Sessions::open(settings).await?;
        let mut session = sessions.session().await?;
        let mut found = schema(&mut session).await?;
        let mut progress = InProgress::default();
        while progress.goes_on(&found) {
            tokio::time::sleep(LOOK).await;
            found = schema(&mut session).await?;
        }
        if found.version.is_none() {
            drop(session);
            sessions.close().await;
            return Ok((found, None));
        }
        found.check()?;
        Ok((found.clone(), Some(Self::with(sessions, session, found).await?)))
    }

    async fn with(sessions: Arc<Sessions>, mut session: Session, schema: Schema) -> Result<Self, StoreError> {
        let id = sqlx::query_scalar("select id from projector.store")
            .fetch_one(&mut *session)
            .await
            .map_err(classify)?;
        drop(session);
        Ok(Self { sessions, catch_up_locks: Default::default(), id, schema, statements: Mutex::default() })
    }

    async fn connection(&self) -> Result<Session, StoreError> {
        self.sessions.session().await
    }

    /// Begins a transaction.
    async fn begin(&self, statement: &'static str) -> Result<Tx, StoreError> {
        self.sessions.begin(statement).await
    }

    fn statements(&self, deployment: &WriteTarget) -> Arc<Statements> {
        let mut known = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (deployment.generation.id, deployment.digest.clone());
        if known.len() >= MOST_STATEMENTS && !known.contains_key(&key) {
            // Those of a transaction in flight are used. The others are built again when they are needed.
            known.retain(|_, statements| Arc::strong_count(statements) > 1);
        }
        known
            .entry(key)
            .or_insert_with(|| Arc::new(Statements::of(&deployment.contract, &deployment.generation.schema)))
            .clone()
    }
}

/// The first argument of the lock that batches of a generation share, and whoever decides about it takes
/// alone.
const FENCE_CLASS: i32 = ADVISORY_CLASS + 3;

/// That of the lock of a generation's rows: transactions that lock them in one order share it, and one that
/// cannot has it alone.
const ROWS_CLASS: i32 = ADVISORY_CLASS + 4;

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

/// The host's own tables, in a schema of their own; hosts that start together wait for each other.
async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    if let Err(error) = make_schema(connection, "projector").await {
        // Two hosts at once: the other one made it.
        let there = schema_is_there(connection, "projector").await;
        if !matches!(there, Ok(true)) {
            return Err(error);
        }
    }
    // sqlx keeps its ledger in the first schema of the search path.
    sqlx::query("set search_path to projector").execute(&mut *connection).await.map_err(classify)?;
    let mut migrator = Migrator { ..Migrator::DEFAULT };
    // `make_schema` did this already, and without the right on the database that the statement needs even
    // where the schema is there.
    const MAKE_SCHEMA: &str = "create schema if not exists projector;";
    let migrations = POSTGRES.iter().map(|migration| {
        let sql = migration.sql.as_str();
        let gate = requires(sql).map(gate).unwrap_or_default();
        let sql = format!("{LOCK_ALL};{gate}{}", sql.replace(MAKE_SCHEMA, ""));
        Migration { sql: sqlx::AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
    });
    migrator.migrations = migrations.collect::<Vec<_>>().into();
    // Those of a newer version: this program goes on beside it.
    migrator.set_ignore_missing(true);
    let deadline = Instant::now() + MIGRATION_PATIENCE;
    let mut pause = MIGRATION_PAUSE;
    loop {
        let error = match migrator.run_direct(None, &mut *connection, false).await {
            Ok(()) => return Ok(()),
            Err(MigrateError::ExecuteMigration(error, version)) if is_gate(&error) => {
                return Err(StoreError::Setup(Setup::new(
                    format!(
                        "version {version} of the host's own tables takes away what these hosts of an older version still use: {}",
                        to_text(&error)
                    ),
                    "upgrade these hosts, or stop them",
                )));
            }
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => classify(error),
            Err(error) => {
                return Err(StoreError::Unusable(format!(
                    "the host's own tables cannot be brought up to date: {error}"
                )));
            }
        };
        let is_contended = matches!(&error, StoreError::Unavailable(outage) if outage.is_contention());
        if !is_contended {
            return Err(error);
        }
        if Instant::now() > deadline {
            return Err(lock_holder::named(connection, &["projector"], error).await);
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(MIGRATION_PAUSE_AT_MOST);
    }
}

/// Before a migration: it has all of the host's own tables before it changes the first, so that it never waits
/// for one while it has changed another. First that of the generations, which every batch reads first: whoever
/// has that one waits for no batch any more. It waits for each only half as long as it takes the database to look
/// for a deadlock: readers that hold another one of them are never its victims, and no new reader waits long.
const LOCK_ALL: &str = "
    select set_config('statement_timeout', '0', true),
      set_config('lock_timeout', least(setting::int8 / 2, 500)::text, true)
    from pg_settings where name = 'deadlock_timeout';
    do $$ declare own regclass; begin
      for own in select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'projector' and c.relkind = 'r' and c.relname <> '_sqlx_migrations'
        order by c.relname <> 'generation', c.relname
      loop execute format('lock table %s in access exclusive mode', own); end loop;
    end $$";

/// For so long a migration is tried that does not get its locks.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(30);
const MIGRATION_PAUSE: Duration = Duration::from_millis(100);
const MIGRATION_PAUSE_AT_MOST: Duration = Duration::from_secs(2);

/// Whether hosts are live that a migration has to wait for.
fn is_gate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(HOSTS_ARE_BEHIND))
}

async fn schema_is_there(connection: &mut PgConnection, schema: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar("select to_regnamespace($1) is not null")
        .bind(names::quote(schema))
        .fetch_one(connection)
        .await
        .map_err(classify)
}

/// Makes a schema, unless a DBA made it for the host. Looked for first: `create schema if not exists` needs
/// the right to create one all the same.
async fn make_schema(connection: &mut PgConnection, schema: &str) -> Result<(), StoreError> {
    let (is_there, may_create, role, database): (bool, bool, String, String) = sqlx::query_as(
        "select to_regnamespace($1) is not null, has_database_privilege(current_database(), 'create'),
           current_user::text, current_database()::text",
    )
    .bind(names::quote(schema))
    .fetch_one(&mut *connection)
    .await
    .map_err(classify)?;
    let (schema, role, database) = (names::quote(schema), names::quote(&role), names::quote(&database));
    if !is_there {
        if !may_create {
            return Err(StoreError::Setup(Setup::new(
                format!("the role {role} may not create the schema {schema} in the database {database}"),
                format!(
                    "as its owner, `grant create on database {database} to {role}`, or `create schema {schema} authorization {role}`"
                ),
            )));
        }
        let create = sqlx::AssertSqlSafe(format!("create schema {schema}"));
        return sqlx::query(create).execute(connection).await.map(drop).map_err(classify);
    }
    let (may_use, is_empty): (bool, bool) = sqlx::query_as(
        "select has_schema_privilege(n.oid, 'create') and has_schema_privilege(n.oid, 'usage'),
           not exists (select from pg_class c where c.relnamespace = n.oid)
         from pg_namespace n where n.oid = to_regnamespace($1)",
    )
    .bind(&schema)
    .fetch_one(connection)
    .await
    .map_err(classify)?;
    match (is_empty, may_use) {
        (true, true) => Ok(()),
        (true, false) => Err(StoreError::Setup(Setup::new(
            format!(
                "the role {role} may not create tables in the schema {schema} of the database {database}"
            ),
            format!("as its owner, `alter schema {schema} owner to {role}`"),
        ))),
        (false, _) => {
            let database = format!("{schema} is not empty, and Projector did not fill it");
            Err(Refusal::ForeignHome { kind: "schema", database }.into())
        }
    }
}

/// What the database has of the host's own tables. Found out by reading alone: a database that is read-only can
/// still be looked at.
async fn schema(connection: &mut PgConnection) -> Result<Schema, StoreError> {
    let (database, has_ledger): (String, bool) = sqlx::query_as(
        "select current_database()::text, to_regclass('projector._sqlx_migrations') is not null",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(classify)?;
    let database = format!("the database {}", names::quote(&database));
    if !has_ledger {
        return Ok(Schema::of(&POSTGRES, database, None, 0));
    }
    let ledger: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from projector._sqlx_migrations where success")
            .fetch_all(&mut *connection)
            .await
            .map_err(classify)?;
    let needs = match ledger.iter().any(|(version, _)| *version == TOLD_SINCE) {
        true => sqlx::query_scalar("select needs from projector.store")
            .fetch_one(connection)
            .await
            .map_err(classify)?,
        false => 0,
    };
    Ok(Schema::of(&POSTGRES, database, Some(ledger), needs))
}

/// What the database of these settings has of the host's own tables.
pub(super) async fn look_at_schema(settings: &config::Store) -> Result<Schema, StoreError> {
    let sessions = Sessions::open(settings).await?;
    let found = schema(&mut *sessions.session().await?).await;
    sessions.close().await;
    found
}

#[async_trait]
impl Store for Postgres {
    fn id(&self) -> Uuid {
        self.id
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn writers(&self) -> usize {
        self.sessions.writers()
    }

    fn heard(&self) -> Option<u64> {
        Some(self.sessions.heard())
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
        let (caught_up, building, session, offsets, offsets_of_others): (bool, bool, Option<i32>, i64, i64) =
            sqlx::query_as(
                "select g.caught_up_at is not null, g.role = 'building',
                   (select l.pid from pg_locks l where l.locktype = 'advisory' and l.granted
                     and l.database = (select oid from pg_database where datname = current_database())
                     and l.classid = $2::int4::oid and l.objid = g.id::oid and l.objsubid = 2),
                   (select coalesce(sum(next_offset), 0)::int8 from projector.checkpoint c
                     where c.generation_id = g.id),
                   (select coalesce(sum(next_offset), 0)::int8 from projector.checkpoint c
                     join projector.generation other on other.id = c.generation_id
                     where other.projection = g.projection and other.id <> g.id)
                 from projector.generation g where g.id = $1",
            )
            .bind(generation.id)
            .bind(CATCH_UP_CLASS)
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(classify)?;
        if caught_up && !(alone && building) {
            return Ok(CatchUp::Done);
        }
        let progress = |session| Progress { session, offsets, caught_up, offsets_of_others };
        if !alone {
            return Ok(CatchUp::Ours(CatchingUp { lock: None }));
        }
        if let Some(session) = session {
            return Ok(CatchUp::Theirs(progress(session)));
        }
        Ok(match self.catch_up_locks.lock(&self.sessions, generation).await? {
            lock @ Some(_) => CatchUp::Ours(CatchingUp { lock }),
            // Another one was quicker; whose it is will be seen the next time.
            None => CatchUp::Theirs(progress(0)),
        })
    }

    async fn set_caught_up(&self, generation: &Generation) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.generation set caught_up_at = now(), caught_up_in = pg_current_xact_id()
             where id = $1 and caught_up_at is null",
        )
        .bind(generation.id)
        .execute(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn analyze(&self, generation: &Generation) -> Result<(), StoreError> {
        let mut session = self.connection().await?;
        let tables: Option<String> = sqlx::query_scalar(
            "select string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by n.nspname, c.relname)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where n.nspname in ('projector', $1) and c.relkind = 'r'",
        )
        .bind(&generation.schema)
        .fetch_one(&mut *session)
        .await
        .map_err(classify)?;
        let Some(tables) = tables else { return Ok(()) };
        let analyze = sqlx::AssertSqlSafe(format!("analyze {tables}"));
        sqlx::query(analyze).execute(&mut *session).await.map(drop).map_err(classify)
    }

    async fn begin(&self, deployment: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        let statements = self.statements(deployment);
        let tx = self.begin(BEGIN).await?;
        Ok(Box::new(transaction::begin(tx, deployment, statements, false).await?))
    }

    async fn begin_read_only(&self, deployment: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        let statements = self.statements(deployment);
        let tx = self.begin(BEGIN).await?;
        Ok(Box::new(transaction::begin(tx, deployment, statements, true).await?))
    }

    async fn count_deadlock(&self, generation: &Generation) -> Result<(), StoreError> {
        sqlx::query("update projector.generation set deadlocks = deadlocks + 1 where id = $1")
            .bind(generation.id)
            .execute(&mut *self.connection().await?)
            .await
            .map(drop)
            .map_err(classify)
    }

    async fn lock_holder(&self, generation: &Generation) -> Option<LockHolder> {
        let mut session = self.connection().await.ok()?;
        lock_holder::find(&mut session, generation).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(diff::OwnSession::begin(self.sessions.own().await?).await?))
    }

    async fn close(&self) {
        self.sessions.close().await;
    }
}
