//! Waiting events, where both databases use the same statements.

use super::Session;
use crate::error::StoreError;
use crate::waiting_events::IN_TIME;

/// Makes all waiting events of a generation ready: another component may not need the rows that they wait for.
pub(super) async fn retry_waiting<S: Session>(session: &mut S, generation: i64) -> Result<(), StoreError> {
    session
        .execute(
            "update projector.parked set ready_ms = $2
             where generation_id = $1 and waits_for is not null and ready_ms is null",
            &[generation.into(), IN_TIME.into()],
        )
        .await
        .map(drop)
}
