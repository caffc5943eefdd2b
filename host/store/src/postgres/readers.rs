//! The readers of views, and what would make them wait or see fewer rows.

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::views::ViewSet;

use super::{Postgres, foreign, lock_holder, old_snapshots};
use crate::error::StoreError;
use crate::readers::{ReaderStore, Readers};

#[async_trait]
impl ReaderStore for Postgres {
    async fn readers(&self, views: &[ViewSet]) -> Result<Readers, StoreError> {
        foreign::readers(&mut *self.connection().await?, views).await
    }

    async fn views_are_free(&self, schemas: &[&str]) -> Result<(), StoreError> {
        lock_holder::none_in_the_way(&mut *self.connection().await?, schemas).await
    }

    async fn snapshots_are_recent(&self, generation: &Generation) -> Result<(), StoreError> {
        old_snapshots::none_is_left(&mut *self.connection().await?, generation).await
    }
}
