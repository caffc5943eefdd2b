//! The readers of views.

use async_trait::async_trait;
use projector_core::generation::Generation;
use projector_core::views::ViewSet;

use super::errors::classify;
use super::{Sqlite, foreign};
use crate::error::StoreError;
use crate::readers::{ReaderStore, Readers};

#[async_trait]
impl ReaderStore for Sqlite {
    async fn readers(&self, views: &[ViewSet]) -> Result<Readers, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(classify)?;
        foreign::readers(&mut connection, views).await
    }

    /// A reader does not keep a view from being replaced.
    async fn views_are_free(&self, _: &[&str]) -> Result<(), StoreError> {
        Ok(())
    }

    /// A reader's snapshot includes the definitions of the views.
    async fn snapshots_are_recent(&self, _: &Generation) -> Result<(), StoreError> {
        Ok(())
    }
}
