//! Opens a store, by the scheme of its URL.

use std::sync::Arc;

use projector_config as config;

use crate::error::StoreError;
use crate::fault::Setup;
use crate::schema::Schema;
use crate::{Store, postgres, sqlite};

/// The database of a store.
enum Database {
    Postgres,
    Sqlite,
}

fn database(settings: &config::Store) -> Result<Database, StoreError> {
    match settings.url.split_once("://").map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Database::Postgres),
        Some("sqlite") => Ok(Database::Sqlite),
        _ => Err(StoreError::Setup(Setup::new(
            "the store's url has another scheme",
            "it begins with postgres:// or sqlite://",
        ))),
    }
}

/// Opens a store, and brings the host's own tables up to date: for a host, and for `projector migrate`.
pub async fn open(settings: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    match database(settings)? {
        Database::Postgres => Ok(Arc::new(postgres::Postgres::open(settings).await?)),
        Database::Sqlite if settings.password.is_some() => Err(StoreError::Setup(Setup::new(
            "the store has a password, and is a SQLite file",
            "leave `password` out",
        ))),
        Database::Sqlite => Ok(Arc::new(sqlite::Sqlite::open(settings).await?)),
    }
}

/// Connects to a store's database, and closes the connection. Nothing is changed. A SQLite file is not opened.
pub async fn check_login(settings: &config::Store) -> Result<(), StoreError> {
    match database(settings) {
        Ok(Database::Postgres) => postgres::check_login(settings).await,
        _ => Ok(()),
    }
}

/// Opens a store to read it, while a host may be using it. Nothing is changed.
pub async fn open_to_read(settings: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    opened(open_as_it_is(settings, true).await?)
}

/// Opens a store to store operators' requests in it, while a host may be using it. The host's own tables are not
/// migrated.
pub async fn open_to_operate(settings: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    opened(open_as_it_is(settings, false).await?)
}

/// Opens a store to read it. `None`: no host has ever run on it.
pub async fn open_if_used(settings: &config::Store) -> Result<(Schema, Option<Arc<dyn Store>>), StoreError> {
    open_as_it_is(settings, true).await
}

/// A store without projections, in memory.
pub async fn empty() -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(sqlite::Sqlite::empty().await?))
}

/// What a store's database has of the host's own tables. Nothing is changed.
pub async fn look_at_schema(settings: &config::Store) -> Result<Schema, StoreError> {
    match database(settings)? {
        Database::Postgres => postgres::look_at_schema(settings).await,
        Database::Sqlite => sqlite::look_at_schema(settings).await,
    }
}

fn opened((schema, store): (Schema, Option<Arc<dyn Store>>)) -> Result<Arc<dyn Store>, StoreError> {
    match store {
        Some(store) => Ok(store),
        None => Err(schema.unused()),
    }
}

async fn open_as_it_is(
    settings: &config::Store,
    read_only: bool,
) -> Result<(Schema, Option<Arc<dyn Store>>), StoreError> {
    match database(settings)? {
        Database::Sqlite => {
            let (schema, store) = sqlite::Sqlite::open_as_it_is(settings, read_only).await?;
            Ok((schema, store.map(|store| Arc::new(store) as Arc<dyn Store>)))
        }
        Database::Postgres => {
            let (schema, store) = postgres::Postgres::open_as_it_is(settings).await?;
            Ok((schema, store.map(|store| Arc::new(store) as Arc<dyn Store>)))
        }
    }
}
