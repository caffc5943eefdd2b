//! The history of projections.

use projector_core::deployment::Origin;

use super::Session;
use crate::error::StoreError;
use crate::requester::Requester;

/// A change of a projection's generations that is done.
pub(crate) struct HistoryEntry {
    pub(crate) action: &'static str,
    pub(crate) origin: Origin,
    pub(crate) generation: Option<i32>,
}

impl HistoryEntry {
    pub(crate) async fn record<S: Session>(
        &self,
        session: &mut S,
        projection: &str,
        digest: Option<&str>,
        replaced: Option<&str>,
        requester: &Requester,
    ) -> Result<(), StoreError> {
        session
            .execute(
                "insert into projector.deployment
                   (projection, action, digest, source, asked_by, reason, asked_at, state, decided_at, generation,
                    replaced)
                 values ($1, $2, $3, $4, $5, $6, now(), 'done', now(), $7, $8)",
                &[
                    projection.into(),
                    self.action.into(),
                    digest.into(),
                    self.origin.as_str().into(),
                    requester.by.as_str().into(),
                    requester.reason.as_deref().into(),
                    self.generation.into(),
                    replaced.into(),
                ],
            )
            .await
            .map(drop)
    }
}
