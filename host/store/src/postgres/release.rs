//! Writes what a batch of stored events did to them.

use super::errors::classify;
use super::transaction::PostgresTransaction;
use crate::error::StoreError;
use crate::host_tables::release::{write_progress, write_retry};
use crate::release::Release;

impl PostgresTransaction {
    pub(super) async fn release(&mut self, release: &Release<'_>) -> Result<(), StoreError> {
        if let Some((id, retry)) = &release.dead_letter {
            write_retry(&mut *self.tx, &self.target.digest, *id, retry).await?;
        }
        if !release.settled.is_empty() {
            sqlx::query("delete from projector.parked where id = any($1)")
                .bind(&release.settled)
                .execute(&mut *self.tx)
                .await
                .map_err(classify)?;
        }
        self.wait_on(&release.waits_on).await?;
        self.free(&release.frees).await?;
        match &release.operation {
            Some(progress) => write_progress(&mut *self.tx, progress).await,
            None => Ok(()),
        }
    }
}
