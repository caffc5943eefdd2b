//! Generations of a projection: how they are created, changed, shown to readers and removed.

use std::time::Duration;

use async_trait::async_trait;
use projector_core::checkpoint::Offsets;
use projector_core::deployment::Origin;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::layout::Offered;
use projector_core::views::{self, ViewSet};
use serde::Serialize;
use uuid::Uuid;

use crate::error::StoreError;
use crate::requester::Requester;

/// The generations of a store.
#[async_trait]
pub trait GenerationStore: Send + Sync {
    /// A projection's generations, oldest first.
    async fn generations(&self, projection: &str) -> Result<Vec<GenerationStatus>, StoreError>;

    /// Carries an open deployment out: additions to tables in use, which may have been made by an earlier attempt; then
    /// all the rest in one transaction. `None`: another host does so, or did.
    async fn activate(&self, deployment: i64, offered: Offered<'_>) -> Result<Option<Installed>, StoreError>;

    /// Refuses a deployment that was begun, and removes what was added for it to tables in use, as far as that is
    /// possible now.
    async fn give_up(&self, deployment: i64, offered: Offered<'_>, result: &str) -> Result<(), StoreError>;

    /// Activates the component that was active before. `false`: `from` is not the active component any more.
    async fn revert(
        &self,
        generation: &Generation,
        from: &str,
        to: &str,
        reason: &str,
    ) -> Result<bool, StoreError>;

    /// Keeps batches of these generations from going beyond `up_to`, or from being written at all, for no longer than
    /// `time`. When this returns, every batch in flight knows of the barrier. `false`: another owner has raised a barrier
    /// in one of the generations.
    async fn raise_barrier(
        &self,
        generations: &[i64],
        owner: Uuid,
        up_to: Option<&Offsets>,
        time: Duration,
    ) -> Result<bool, StoreError>;

    /// Opens the barrier again, if this owner raised it.
    async fn release_barrier(&self, generations: &[i64], owner: Uuid) -> Result<(), StoreError>;

    /// Shows a generation to readers instead of the live one, which becomes warm. All or nothing. Refused where readers
    /// would see older rows of one of these topics, which the generation reads.
    async fn promote(
        &self,
        generation: &Generation,
        topics: &[String],
        origin: Origin,
        requester: &Requester,
    ) -> Result<Promoted, StoreError>;

    /// Removes a generation that is not live, its rows and its views. Refused where its schemas contain foreign objects,
    /// or foreign objects depend on its tables and views.
    async fn retire(
        &self,
        generation: &Generation,
        origin: Origin,
        requester: &Requester,
    ) -> Result<(), StoreError>;

    /// Removes views of one schema (Postgres) or prefix (SQLite) that do not show all of their generation. Refused as
    /// `retire` is.
    async fn retire_views(
        &self,
        projection: &str,
        schema: &str,
        requester: &Requester,
    ) -> Result<(), StoreError>;

    /// Removes a stopped projection, its rows and its views. Its history stays. Refused as `retire` is.
    async fn drop_projection(&self, projection: &str, requester: &Requester) -> Result<(), StoreError>;
}

/// A component that was activated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The generation in which it is active.
    pub generation: Generation,
    /// The generation's role for readers.
    pub role: Role,
    /// The component's digest.
    pub active: String,
}

/// What a promotion did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promoted {
    /// The schema, or prefix, of the views that show all of the generation.
    pub readers: String,
    /// Whether readers of the generation before use these views already.
    pub replaced: bool,
    /// Schemas, or prefixes, of all views that showed the generation before, and show this generation now.
    pub moved: Vec<String>,
}

impl Promoted {
    /// `moved`: views that showed the generation before; `views`: all views of the generation now.
    pub(crate) fn new(generation: &GenerationStatus, moved: &[ViewSet], views: &[ViewSet]) -> Self {
        let readers = views::newest(views, &generation.layout).map(|newest| newest.schema.clone());
        let readers = readers.unwrap_or_default();
        let moved: Vec<String> = moved.iter().map(|set| set.schema.clone()).collect();
        Self { replaced: moved.contains(&readers), readers, moved }
    }
}
