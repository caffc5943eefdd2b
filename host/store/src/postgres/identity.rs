//! What tells a Postgres database from its copies.

use async_trait::async_trait;
use projector_core::refusal::Refusal;
use uuid::Uuid;

use super::errors::classify;
use super::{BEGIN, Postgres};
use crate::error::StoreError;
use crate::hosts::HEARTBEAT_TIMEOUT;
use crate::identity::{Adoption, DatabaseIdentity, IdentityStore};

#[async_trait]
impl IdentityStore for Postgres {
    async fn found_identity(&self) -> Result<DatabaseIdentity, StoreError> {
        let mut session = self.connection().await?;
        let (database, name, may_ask): (String, String, bool) = sqlx::query_as(
            "select d.oid::text, d.datname::text,
               coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'execute'), false)
             from pg_database d where d.datname = current_database()",
        )
        .fetch_one(&mut *session)
        .await
        .map_err(classify)?;
        let server = if may_ask {
            let query = sqlx::query_scalar("select system_identifier::text from pg_control_system()");
            match query.fetch_one(&mut *session).await {
                Ok(server) => Some(server),
                // Some services that are compatible with Postgres have no system identifier.
                Err(sqlx::Error::Database(_)) => None,
                Err(error) => return Err(classify(error)),
            }
        } else {
            None
        };
        Ok(DatabaseIdentity { server, database: Some(database), name, ..DatabaseIdentity::default() })
    }

    async fn stored_identity(&self) -> Result<Option<String>, StoreError> {
        // Before the migration that adds it, the table has no such column.
        sqlx::query_scalar("select to_jsonb(store) ->> 'database_identity' from projector.store")
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(classify)
    }

    async fn store_identity(
        &self,
        before: Option<&str>,
        identity: &DatabaseIdentity,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update projector.store set database_identity = $2 where database_identity is not distinct from $1",
        )
        .bind(before)
        .bind(identity.to_json())
        .execute(&mut *self.connection().await?)
        .await
        .map(drop)
        .map_err(classify)
    }

    async fn adopt(&self, adoption: &Adoption<'_>) -> Result<(), StoreError> {
        let Adoption { from, to, identity, requester } = adoption;
        let mut tx = self.begin_session(BEGIN).await?;
        let (id, before): (Uuid, Option<String>) =
            sqlx::query_as("select id, database_identity from projector.store for update")
                .fetch_one(&mut *tx)
                .await
                .map_err(classify)?;
        if id != *from {
            return Err(Refusal::AdoptedMeanwhile.into());
        }
        let live: Vec<String> = sqlx::query_scalar(
            "select name from projector.host where seen_at > now() - $1 * interval '1 second' order by name",
        )
        .bind(HEARTBEAT_TIMEOUT.as_secs_f64())
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if !live.is_empty() {
            return Err(Refusal::InUse { hosts: live }.into());
        }
        // The hosts are those of the original database.
        sqlx::query("delete from projector.host").execute(&mut *tx).await.map_err(classify)?;
        sqlx::query("update projector.store set id = $1, database_identity = $2")
            .bind(to)
            .bind(identity.to_json())
            .execute(&mut *tx)
            .await
            .map_err(classify)?;
        sqlx::query(
            "insert into projector.adoption
               (former_id, new_id, former_identity, database_identity, asked_by, reason)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(from)
        .bind(to)
        .bind(before)
        .bind(identity.to_json())
        .bind(&requester.by)
        .bind(&requester.reason)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        tx.commit().await
    }
}
