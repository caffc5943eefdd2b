//! Begins the transactions of batches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use projector_core::generation::Generation;

use super::errors::classify;
use super::statements::Statements;
use super::{BEGIN, Postgres, lock_holder, transaction};
use crate::batches::{BatchStore, LockHolder, Transaction, WriteTarget};
use crate::error::StoreError;

/// How many components have their statements kept, beside those that are in use. Versions come and go.
const MOST_STATEMENTS: usize = 64;

/// A generation's id, and the digest of a component.
type StatementKey = (i64, Arc<str>);

/// The statements of each component in each generation, built once.
#[derive(Default)]
pub(super) struct StatementCache(Mutex<HashMap<StatementKey, Arc<Statements>>>);

impl StatementCache {
    fn get(&self, target: &WriteTarget) -> Arc<Statements> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.generation.id, target.digest.clone());
        if known.len() >= MOST_STATEMENTS && !known.contains_key(&key) {
            // A transaction in flight uses its statements. All others are built again when they are needed.
            known.retain(|_, statements| Arc::strong_count(statements) > 1);
        }
        known
            .entry(key)
            .or_insert_with(|| Arc::new(Statements::of(&target.contract, &target.generation.schema)))
            .clone()
    }
}

#[async_trait]
impl BatchStore for Postgres {
    fn writers(&self) -> usize {
        self.sessions.writers()
    }

    async fn begin(&self, target: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        let statements = self.statements.get(target);
        let tx = self.begin_session(BEGIN).await?;
        Ok(Box::new(transaction::begin(tx, target, statements, false).await?))
    }

    async fn begin_read_only(&self, target: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError> {
        let statements = self.statements.get(target);
        let tx = self.begin_session(BEGIN).await?;
        Ok(Box::new(transaction::begin(tx, target, statements, true).await?))
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
}
