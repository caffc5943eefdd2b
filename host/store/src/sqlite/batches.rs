//! Begins the transactions of batches.

use async_trait::async_trait;
use projector_core::generation::Generation;

use super::{Sqlite, transaction};
use crate::batches::{BatchStore, LockHolder, Transaction, WriteTarget};
use crate::error::StoreError;

/// One transaction writes at a time.
#[async_trait]
impl BatchStore for Sqlite {
    fn writers(&self) -> usize {
        1
    }

    async fn begin(&self, target: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(transaction::begin(&self.pool, target, false).await?))
    }

    async fn begin_read_only(&self, target: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(transaction::begin(&self.pool, target, true).await?))
    }

    async fn count_deadlock(&self, _: &Generation) -> Result<(), StoreError> {
        Ok(())
    }

    async fn lock_holder(&self, _: &Generation) -> Option<LockHolder> {
        None
    }
}
