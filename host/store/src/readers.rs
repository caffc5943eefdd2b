//! The readers of a generation's views.

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::views::ViewSet;
use serde::Serialize;

use crate::error::StoreError;

/// What is known of readers, and whether views can be replaced without harm to them.
#[async_trait]
pub trait ReaderStore: Send + Sync {
    /// The readers of these views: roles with rights, and objects that the host did not make.
    async fn readers(&self, views: &[ViewSet]) -> Result<Readers, StoreError>;

    /// An error that names the session, if an old transaction has a lock on views of these schemas. Replacing the views
    /// would wait for that lock, and new readers would wait behind it. Asking makes no reader wait.
    async fn views_are_free(&self, schemas: &[&str]) -> Result<(), StoreError>;

    /// An error that names the sessions of readers that have a snapshot from before the generation was complete. If its
    /// views were replaced now, such a reader would see fewer rows than before.
    async fn snapshots_are_recent(&self, generation: &Generation) -> Result<(), StoreError>;
}

/// The readers of views. They must be informed when these views are no longer the newest ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Readers {
    /// The schemas (Postgres), or the prefixes (SQLite), of the views.
    pub schema: String,
    /// Rights that roles have on the views, as `select on counts.seen to reporting`. SQLite has none.
    pub grants: Vec<String>,
    /// Objects that the host did not make, and that depend on the views.
    pub dependants: Vec<String>,
}
