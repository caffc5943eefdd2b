//! What the databases do in different ways when a generation gets, changes or loses its tables and views.
//!
//! [`generations`](super::generations) and [`rollout`](super::rollout) decide what happens and in which order, and write
//! the host's own tables. This trait has the statements for the tables of projections.

use std::time::Duration;

use async_trait::async_trait;
use projector_core::failure::FailureKind;
use projector_core::generation::GenerationStatus;
use projector_core::layout::{Layout, Offered, Step};
use projector_core::rollout_target::RolloutTarget;
use projector_core::views::{View, ViewSet};
use projector_model::Contract;

use super::Database;
use crate::error::StoreError;

/// Tables of a generation: their layout, and their schema (Postgres) or prefix (SQLite).
#[derive(Clone, Copy)]
pub(crate) struct LaidTables<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) schema: &'a str,
}

impl<'a> LaidTables<'a> {
    pub(crate) fn of(generation: &'a GenerationStatus) -> Self {
        Self { layout: &generation.layout, schema: &generation.generation.schema }
    }
}

/// What is removed.
#[derive(Clone, Copy)]
pub(crate) enum Removal<'a> {
    /// A generation, with its rows and its views.
    Generation(&'a GenerationStatus),
    /// Some views of a generation.
    Views(&'a ViewSet),
}

#[async_trait]
pub(crate) trait GenerationTables: Database {
    /// The right to carry out a projection's deployments, which one host has at a time.
    type Turn: Send;
    /// A removal that may go ahead.
    type Checked: Send;

    /// `None`: another host carries out a deployment of this projection.
    async fn take_turn(&self, projection: &str) -> Result<Option<Self::Turn>, StoreError>;

    async fn end_turn(turn: Self::Turn);

    /// Makes the additions to tables in use that cannot be a part of the transaction that activates the component.
    /// Returns the target for which they were made. `None`: there are none, or the deployment is not open any more.
    async fn add_before(
        &self,
        turn: &mut Self::Turn,
        deployment: i64,
        offered: Offered<'_>,
    ) -> Result<Option<RolloutTarget>, StoreError>;

    /// Makes an addition that is a part of that transaction.
    async fn add_within(
        transaction: &mut Self::Connection,
        step: &Step,
        contract: &Contract,
        schema: &str,
    ) -> Result<(), StoreError>;

    /// Removes what [`add_before`](Self::add_before) added for a deployment that is still open. A failure is logged: the
    /// additions are unused, and the next deployment replaces them.
    async fn take_back(&self, deployment: i64, offered: Offered<'_>) -> Result<(), StoreError>;

    async fn create_tables(
        transaction: &mut Self::Connection,
        contract: &Contract,
        schema: &str,
    ) -> Result<(), StoreError>;

    /// Creates views. `like`: views whose rights and options the new views get.
    async fn create_views(
        transaction: &mut Self::Connection,
        set: &ViewSet,
        tables: LaidTables<'_>,
        like: Option<&ViewSet>,
    ) -> Result<(), StoreError>;

    /// Creates views in a schema, or under a prefix, that has views already.
    async fn add_views(
        transaction: &mut Self::Connection,
        schema: &str,
        views: &[View],
        tables: LaidTables<'_>,
    ) -> Result<(), StoreError>;

    /// Replaces views by views of the same columns that show these tables.
    async fn replace_views(
        transaction: &mut Self::Connection,
        sets: &[ViewSet],
        tables: LaidTables<'_>,
    ) -> Result<(), StoreError>;

    /// Refuses a removal that would remove or break foreign objects.
    async fn check_removal(
        transaction: &mut Self::Connection,
        removal: Removal<'_>,
    ) -> Result<Self::Checked, StoreError>;

    /// Removes tables and views.
    async fn remove(transaction: &mut Self::Connection, checked: Self::Checked) -> Result<(), StoreError>;

    /// Ends the transaction's waits for locks after this time.
    async fn limit_lock_waits(transaction: &mut Self::Connection, time: Duration) -> Result<(), StoreError>;

    /// Adds to an error about a lock which session has that lock, if that can be found out.
    async fn with_lock_holder(&self, projection: &str, error: StoreError) -> StoreError;

    /// The result of a change of tables or views that readers may use, with the lock's holder in an error about a lock.
    async fn naming_lock_holder<T: Send>(
        &self,
        projection: &str,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match result {
            Err(error) if error.kind() == FailureKind::Locked => {
                Err(self.with_lock_holder(projection, error).await)
            }
            result => result,
        }
    }
}
