//! Postgres: set-wise statements over `UNNEST` arrays, several hosts at once.

mod additions;
mod address;
mod batches;
mod catch_up;
mod connect;
mod connection_monitor;
mod dead_letters;
mod diff;
mod errors;
mod event_ids;
mod foreign;
mod generation_tables;
mod host_tables;
mod identity;
mod local_socket;
mod lock_holder;
mod locks;
mod lone_dead_letters;
mod migrate;
mod old_snapshots;
mod parking;
mod readers;
mod refusals;
mod release;
mod sessions;
mod source_topics;
mod statements;
mod tables;
mod tls;
mod transaction;
mod values;
mod views;
mod waiting_events;

use std::sync::Arc;

use async_trait::async_trait;
use projector_config as config;
use uuid::Uuid;

use batches::StatementCache;
use catch_up::CatchUpLocks;
use errors::classify;
use migrate::{migrate, schema};
use sessions::{Session, Sessions, Tx};
pub use tables::name_collision;

use crate::Store;
use crate::diff::Snapshot;
use crate::error::StoreError;
use crate::schema::{InProgress, POLL_INTERVAL, Schema};

const BEGIN: &str = "begin";
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read, read only";

pub struct Postgres {
    sessions: Arc<Sessions>,
    catch_up_locks: CatchUpLocks,
    id: Uuid,
    /// As it was when the store was opened.
    schema: Schema,
    statements: StatementCache,
}

impl Postgres {
    /// Connects, and brings the host's own tables up to date.
    pub async fn open(settings: &config::Store) -> Result<Self, StoreError> {
        let sessions = Sessions::open(settings).await?;
        let mut session = sessions.session().await?;
        let mut found = schema(&mut session).await?;
        found.check_known()?;
        if !found.pending.is_empty() {
            // A dedicated session, because a migration changes the session's settings.
            let mut dedicated = sessions.dedicated().await?;
            migrate(&mut dedicated).await?;
            dedicated.close().await;
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
        while progress.continues(&found) {
            tokio::time::sleep(POLL_INTERVAL).await;
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
        let (catch_up_locks, statements) = (CatchUpLocks::default(), StatementCache::default());
        Ok(Self { sessions, catch_up_locks, id, schema, statements })
    }

    async fn connection(&self) -> Result<Session, StoreError> {
        self.sessions.session().await
    }

    /// Begins a transaction.
    async fn begin_session(&self, statement: &'static str) -> Result<Tx, StoreError> {
        self.sessions.begin(statement).await
    }
}

/// Connects, and closes the connection.
pub(super) async fn check_login(settings: &config::Store) -> Result<(), StoreError> {
    use sqlx::Connection as _;
    let connected = connect::connect(settings, &Arc::default()).await?;
    // An error when the connection closes says nothing about the login.
    let _ = connected.connection.close().await;
    Ok(())
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

    fn answer_count(&self) -> Option<u64> {
        Some(self.sessions.answer_count())
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(diff::SessionSnapshot::begin(self.sessions.dedicated().await?).await?))
    }

    async fn close(&self) {
        self.sessions.close().await;
    }
}
