//! Brings the host's own tables up to date, and reads which migrations they have.

use std::time::{Duration, Instant};

use projector_core::refusal::Refusal;
use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::postgres::PgConnection;

use super::errors::classify;
use super::lock_holder;
use crate::error::StoreError;
use crate::fault::{Setup, to_text};
use crate::migrations::POSTGRES;
use crate::names;
use crate::schema::{HOSTS_ARE_BEHIND, NEEDS_SINCE, Schema, gate, requires};

/// Carries out all migrations that are pending, in the schema `projector`. Hosts that start together wait for each other.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    if let Err(error) = make_schema(connection, "projector").await {
        // Another host may have created the schema at the same time.
        let exists = schema_exists(connection, "projector").await;
        if !matches!(exists, Ok(true)) {
            return Err(error);
        }
    }
    // sqlx keeps its ledger in the first schema of the search path.
    sqlx::query("set search_path to projector").execute(&mut *connection).await.map_err(classify)?;
    let mut migrator = Migrator { ..Migrator::DEFAULT };
    // `make_schema` did this already. This statement needs a right on the database even where the schema exists.
    const MAKE_SCHEMA: &str = "create schema if not exists projector;";
    let migrations = POSTGRES.iter().map(|migration| {
        let sql = migration.sql.as_str();
        let gate = requires(sql).map(gate).unwrap_or_default();
        let sql = format!("{LOCK_ALL};{gate}{}", sql.replace(MAKE_SCHEMA, ""));
        Migration { sql: sqlx::AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
    });
    migrator.migrations = migrations.collect::<Vec<_>>().into();
    // The ledger may have migrations of a newer version, beside which this program continues.
    migrator.set_ignore_missing(true);
    let deadline = Instant::now() + MIGRATION_PATIENCE;
    let mut pause = MIGRATION_PAUSE;
    loop {
        let error = match migrator.run_direct(None, &mut *connection, false).await {
            Ok(()) => return Ok(()),
            Err(MigrateError::ExecuteMigration(error, version)) if is_gate(&error) => {
                return Err(StoreError::Setup(Setup::new(
                    format!(
                        "migration {version} of the host's own tables removes something that these hosts of an older version still use: {}",
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

/// Runs before a migration, in its transaction: locks all of the host's own tables before the migration changes the first
/// of them, so that it never waits for one table while it has changed another. The table of the generations comes first,
/// because every batch reads it first: after that, no batch is in flight. Each wait for a lock ends after half of the
/// deadlock timeout, or after 500 ms: so the database never ends a reader's transaction because of a deadlock with the
/// migration, and no new reader waits long behind it.
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

/// How long a migration that does not get its locks is retried.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(30);

/// The first pause between two attempts, which doubles up to the longest.
const MIGRATION_PAUSE: Duration = Duration::from_millis(100);
const MIGRATION_PAUSE_AT_MOST: Duration = Duration::from_secs(2);

/// Whether live hosts of an older version keep the migration from running.
fn is_gate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(HOSTS_ARE_BEHIND))
}

async fn schema_exists(connection: &mut PgConnection, schema: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar("select to_regnamespace($1) is not null")
        .bind(names::quote(schema))
        .fetch_one(connection)
        .await
        .map_err(classify)
}

/// Creates a schema, unless a DBA created it for the host. Refused if the schema has tables already.
///
/// `create schema if not exists` would need the right to create schemas even where the schema exists.
pub(super) async fn make_schema(connection: &mut PgConnection, schema: &str) -> Result<(), StoreError> {
    let (exists, may_create, role, database): (bool, bool, String, String) = sqlx::query_as(
        "select to_regnamespace($1) is not null, has_database_privilege(current_database(), 'create'),
           current_user::text, current_database()::text",
    )
    .bind(names::quote(schema))
    .fetch_one(&mut *connection)
    .await
    .map_err(classify)?;
    let (schema, role, database) = (names::quote(schema), names::quote(&role), names::quote(&database));
    if !exists {
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

/// What the database has of the host's own tables. Only reads, so that a read-only database can be used as well.
pub(super) async fn schema(connection: &mut PgConnection) -> Result<Schema, StoreError> {
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
    let needs = match ledger.iter().any(|(version, _)| *version == NEEDS_SINCE) {
        true => sqlx::query_scalar("select needs from projector.store")
            .fetch_one(connection)
            .await
            .map_err(classify)?,
        false => 0,
    };
    Ok(Schema::of(&POSTGRES, database, Some(ledger), needs))
}
