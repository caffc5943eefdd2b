//! What tells a Postgres database from its copies.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::refusal::Refusal;
use uuid::Uuid;

use super::Postgres;
use super::errors::classify;
use crate::StoreError;
use crate::deployments::PRESENCE;
use crate::identity::{Adoption, DatabaseIdentity, Identities, KnownHost, members};

#[async_trait]
impl Identities for Postgres {
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
            let asked = sqlx::query_scalar("select system_identifier::text from pg_control_system()");
            match asked.fetch_one(&mut *session).await {
                Ok(server) => Some(server),
                // Some services that speak Postgres' protocol have none.
                Err(sqlx::Error::Database(_)) => None,
                Err(error) => return Err(classify(error)),
            }
        } else {
            None
        };
        Ok(DatabaseIdentity { server, database: Some(database), name, ..DatabaseIdentity::default() })
    }

    async fn stored_identity(&self) -> Result<Option<String>, StoreError> {
        // A database that no host of this version has migrated yet has no such column.
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
        let Adoption { from, to, identity, asked } = adoption;
        let mut tx = self.begin(super::BEGIN).await?;
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
        .bind(PRESENCE.as_secs_f64())
        .fetch_all(&mut *tx)
        .await
        .map_err(classify)?;
        if !live.is_empty() {
            return Err(Refusal::InUse { hosts: live }.into());
        }
        // They are the original's.
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
        .bind(&asked.by)
        .bind(&asked.reason)
        .execute(&mut *tx)
        .await
        .map_err(classify)?;
        tx.commit().await
    }

    async fn known_hosts(&self) -> Result<BTreeMap<Uuid, KnownHost>, StoreError> {
        let rows: Vec<(Uuid, String, bool, Option<String>)> = sqlx::query_as(
            "select id, name, seen_at > now() - $1 * interval '1 second', member_ids from projector.host",
        )
        .bind(PRESENCE.as_secs_f64())
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(classify)?;
        let host = |(id, name, is_live, ids): (Uuid, String, bool, Option<String>)| {
            (id, KnownHost { name, is_live, members: members(ids) })
        };
        Ok(rows.into_iter().map(host).collect())
    }
}
