//! What distinguishes a SQLite file from its copies.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use projector_core::refusal::Refusal;

use super::errors::classify;
use super::{Sqlite, now_micros};
use crate::error::StoreError;
use crate::hosts::HEARTBEAT_TIMEOUT;
use crate::identity::{Adoption, DatabaseIdentity, IdentityStore};

#[async_trait]
impl IdentityStore for Sqlite {
    async fn found_identity(&self) -> Result<DatabaseIdentity, StoreError> {
        Ok(of_file(self.pool.connect_options().get_filename()))
    }

    async fn stored_identity(&self) -> Result<Option<String>, StoreError> {
        // Before the migration that adds it, the table has no such column.
        let has_column: bool = sqlx::query_scalar(
            "select exists (select 1 from pragma_table_info('projector_store') where name = 'database_identity')",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(classify)?;
        if !has_column {
            return Ok(None);
        }
        sqlx::query_scalar("select database_identity from projector_store")
            .fetch_one(&self.pool)
            .await
            .map_err(classify)
    }

    async fn store_identity(
        &self,
        before: Option<&str>,
        identity: &DatabaseIdentity,
    ) -> Result<(), StoreError> {
        sqlx::query("update projector_store set database_identity = ?2 where database_identity is ?1")
            .bind(before)
            .bind(identity.to_json())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(classify)
    }

    async fn adopt(&self, adoption: &Adoption<'_>) -> Result<(), StoreError> {
        let Adoption { from, to, identity, requester } = adoption;
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(classify)?;
        let (id, before): (String, Option<String>) =
            sqlx::query_as("select id, database_identity from projector_store")
                .fetch_one(&mut *tx)
                .await
                .map_err(classify)?;
        if id != from.to_string() {
            return Err(Refusal::AdoptedMeanwhile.into());
        }
        let live: Vec<String> = sqlx::query_scalar(
            "select name from projector_host
             where seen_at > cast(unixepoch('subsec') * 1000000 as integer) - ?1 order by name",
        )
        .bind(HEARTBEAT_TIMEOUT.as_micros() as i64)
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if !live.is_empty() {
            return Err(Refusal::InUse { hosts: live }.into());
        }
        // The hosts are those of the original file.
        sqlx::query("delete from projector_host").execute(&mut *tx).await.map_err(classify)?;
        sqlx::query("update projector_store set id = ?1, database_identity = ?2")
            .bind(to.to_string())
            .bind(identity.to_json())
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        sqlx::query(
            "insert into projector_adoption
               (former_id, new_id, former_identity, database_identity, asked_by, reason, adopted_at)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(from.to_string())
        .bind(to.to_string())
        .bind(before)
        .bind(identity.to_json())
        .bind(&requester.by)
        .bind(&requester.reason)
        .bind(now_micros())
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        tx.commit().await.map_err(classify)
    }
}

/// A copy has another creation time, on every file system. A file that is moved or mounted elsewhere keeps it. Where the file
/// system does not store the creation time, the inode is used instead.
fn of_file(file: &Path) -> DatabaseIdentity {
    let metadata = std::fs::metadata(file).ok();
    let born = metadata.as_ref().and_then(|metadata| metadata.created().ok());
    let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    DatabaseIdentity {
        born: born.map(|born| born.as_nanos().to_string()),
        inode: metadata.map(|metadata| metadata.ino().to_string()),
        name: file.display().to_string(),
        ..DatabaseIdentity::default()
    }
}
