//! Writes what a batch of stored events did to them.

use super::errors::classify;
use super::transaction::SqliteTransaction;
use crate::error::StoreError;
use crate::host_tables::release::{write_progress, write_retry};
use crate::release::Release;

impl SqliteTransaction {
    pub(super) async fn release(&mut self, release: &Release<'_>) -> Result<(), StoreError> {
        if let Some((id, retry)) = &release.dead_letter {
            write_retry(&mut *self.tx, &self.target.digest, *id, retry).await?;
        }
        for id in &release.settled {
            sqlx::query("delete from projector_parked where id = ?")
                .bind(id)
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
