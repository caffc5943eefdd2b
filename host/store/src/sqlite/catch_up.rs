//! The host that uses the file catches its generations up.

use async_trait::async_trait;
use projector_core::generation::Generation;

use super::errors::classify;
use super::{Sqlite, now_micros};
use crate::catch_up::{CatchUp, CatchUpStore, CatchingUp};
use crate::error::StoreError;

#[async_trait]
impl CatchUpStore for Sqlite {
    async fn catch_up(&self, generation: &Generation, alone: bool) -> Result<CatchUp, StoreError> {
        let is_done: bool = sqlx::query_scalar(
            "select caught_up_at is not null and not (?2 and role = 'building')
             from projector_generation where id = ?1",
        )
        .bind(generation.id)
        .bind(alone)
        .fetch_one(&self.pool)
        .await
        .map_err(classify)?;
        // The file has no other hosts, so no lock is needed.
        Ok(if is_done { CatchUp::Done } else { CatchUp::Ours(CatchingUp::beside_others()) })
    }

    async fn set_caught_up(&self, generation: &Generation) -> Result<(), StoreError> {
        sqlx::query(
            "update projector_generation set caught_up_at = ?2 where id = ?1 and caught_up_at is null",
        )
        .bind(generation.id)
        .bind(now_micros())
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn analyze(&self, _: &Generation) -> Result<(), StoreError> {
        // 1000 rows of each index are enough for the planner, and no writer waits long.
        let analyze = sqlx::raw_sql("pragma analysis_limit = 1000; analyze");
        analyze.execute(&self.pool).await.map(drop).map_err(classify)
    }
}
