//! Generations in the host's own tables: how they are changed, shown to readers and removed.

use std::time::Duration;

use async_trait::async_trait;
use projector_core::checkpoint::Offsets;
use projector_core::deployment::Origin;
use projector_core::failpoint;
use projector_core::generation::{Generation, GenerationStatus};
use projector_core::layout::Offered;
use uuid::Uuid;

use super::generation_rows::generations;
use super::generation_tables::GenerationTables;
use super::history::HistoryEntry;
use super::waiting_events::retry_waiting;
use super::{Session, promotion, removal, rollout, write_barrier};
use crate::deployments::DeploymentStore;
use crate::error::StoreError;
use crate::generations::{GenerationStore, Installed, Promoted};
use crate::requester::Requester;

#[async_trait]
impl<D: GenerationTables> GenerationStore for D {
    async fn generations(&self, projection: &str) -> Result<Vec<GenerationStatus>, StoreError> {
        generations(&mut *self.acquire().await?, projection).await
    }

    async fn activate(&self, deployment: i64, offered: Offered<'_>) -> Result<Option<Installed>, StoreError> {
        let name = offered.contract.name();
        let Some(mut turn) = self.take_turn(name).await? else { return Ok(None) };
        let activated = rollout::carry_out(self, &mut turn, deployment, offered).await;
        D::end_turn(turn).await;
        self.naming_lock_holder(name, activated).await
    }

    async fn give_up(&self, deployment: i64, offered: Offered<'_>, result: &str) -> Result<(), StoreError> {
        self.take_back(deployment, offered).await?;
        self.refuse(deployment, result).await
    }

    async fn revert(
        &self,
        generation: &Generation,
        from: &str,
        to: &str,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.decide(&generation.projection).await?;
        D::fence(&mut tx, &[generation.id]).await?;
        let reverted = tx
            .execute(
                "update projector.generation set active_digest = $3, halted = null, halted_kind = null, impure = null
                 where id = $1 and active_digest = $2",
                &[generation.id.into(), from.into(), to.into()],
            )
            .await?;
        if reverted == 0 {
            return Ok(false);
        }
        retry_waiting(&mut *tx, generation.id).await?;
        let entry =
            HistoryEntry { action: "revert", origin: Origin::Host, generation: Some(generation.number) };
        let requester = Requester::host(Some(reason.to_owned()));
        entry.record(&mut *tx, &generation.projection, Some(to), Some(from), &requester).await?;
        D::commit(tx).await?;
        failpoint::reached(failpoint::AFTER_REVERT, &generation.projection);
        Ok(true)
    }

    async fn raise_barrier(
        &self,
        generations: &[i64],
        owner: Uuid,
        up_to: Option<&Offsets>,
        time: Duration,
    ) -> Result<bool, StoreError> {
        let mut tx = self.transaction().await?;
        // While this transaction waits for the batches in flight, no other batch begins: the barrier's time runs already.
        D::limit_lock_waits(&mut tx, time / 2).await?;
        D::fence(&mut tx, generations).await?;
        if !write_barrier::raise(&mut *tx, generations, owner, (up_to, time)).await? {
            return Ok(false);
        }
        D::commit(tx).await?;
        Ok(true)
    }

    async fn release_barrier(&self, generations: &[i64], owner: Uuid) -> Result<(), StoreError> {
        // No fence: batches do not lock the generation's row, and none has to end first.
        let mut tx = self.transaction().await?;
        write_barrier::release(&mut *tx, generations, owner).await?;
        D::commit(tx).await
    }

    async fn promote(
        &self,
        generation: &Generation,
        topics: &[String],
        origin: Origin,
        requester: &Requester,
    ) -> Result<Promoted, StoreError> {
        let promoted = promotion::promote(self, (generation, topics), origin, requester).await;
        self.naming_lock_holder(&generation.projection, promoted).await
    }

    async fn retire(
        &self,
        generation: &Generation,
        origin: Origin,
        requester: &Requester,
    ) -> Result<(), StoreError> {
        let retired = removal::retire(self, generation, origin, requester).await;
        self.naming_lock_holder(&generation.projection, retired).await
    }

    async fn retire_views(
        &self,
        projection: &str,
        schema: &str,
        requester: &Requester,
    ) -> Result<(), StoreError> {
        let retired = removal::retire_views(self, projection, schema, requester).await;
        self.naming_lock_holder(projection, retired).await
    }

    async fn drop_projection(&self, projection: &str, requester: &Requester) -> Result<(), StoreError> {
        let dropped = removal::drop_projection(self, projection, requester).await;
        self.naming_lock_holder(projection, dropped).await
    }
}
