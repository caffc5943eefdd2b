//! The release of stored events: an operation on a dead letter is claimed, and its result is written.
//!
//! Invariant: locks are taken in one order: the operation, the key, the dead letter. A transaction that parks an event
//! locks its key first as well, so no two transactions wait for each other.

use projector_core::batch::BatchLimits;

use super::Session;
use super::stored_events::{DeadLetterRow, OpenOperationRow, StoredEventRow, key_id};
use crate::batches::WriteTarget;
use crate::error::StoreError;
use crate::operations::{DeadLetterAction, OperationResult};
use crate::release::{ClaimedOperation, OperationProgress, RetryResult};

/// Locks an open operation, the key that its dead letter blocks, and the dead letter, until the end of the transaction.
/// `None`: the operation is done, withdrawn, or unknown.
pub(crate) async fn claim_operation<S: Session>(
    session: &mut S,
    target: &WriteTarget,
    operation: i64,
    limits: BatchLimits,
) -> Result<Option<ClaimedOperation>, StoreError> {
    let (generation, lock) = (target.generation.id, S::FOR_UPDATE);
    let open: Option<OpenOperationRow> = session
        .row(
            &format!(
                "select action, dry_run, dead_letter_id, key_id, cast(verdict as text) from projector.operation
                 where id = $1 and generation_id = $2 and done_at is null {lock}"
            ),
            &[operation.into(), generation.into()],
        )
        .await?;
    let Some((action, dry_run, dead_letter_id, key, so_far)) = open else { return Ok(None) };
    let Some(action) = DeadLetterAction::from_word(&action) else { return Ok(None) };
    let key = match lock_key_of(session, dead_letter_id).await? {
        None => lock_released_key(session, generation, key.as_deref()).await?,
        blocked => blocked,
    };
    let dead_letter: Option<DeadLetterRow> = session
        .row(
            &format!(
                "select id, topic, partition, \"offset\", coalesce(timestamp_ms, {}) as timestamp_ms, key, payload,
                   cast(headers as text) as headers, oversize_bytes, moved_by, topic_name, code
                 from projector.dead_letter where generation_id = $1 and id = $2 {lock}",
                S::millis("recorded_at")
            ),
            &[generation.into(), dead_letter_id.into()],
        )
        .await?;
    let dead_letter = dead_letter.map(|DeadLetterRow { event, code }| {
        let (stored, partition) = event.stored(&target.topics);
        (stored, partition, code)
    });
    let (mut parked, mut parked_count) = (Vec::new(), 0);
    if let Some(key) = key.as_deref() {
        let rows: Vec<StoredEventRow> = session
            .rows(
                "select id, topic, partition, \"offset\", timestamp_ms, key, payload, cast(headers as text) as headers,
                   oversize_bytes, moved_by, topic_name
                 from (select *, coalesce(sum(coalesce(length(payload), 0)) over (
                         order by id rows between unbounded preceding and 1 preceding), 0) as before
                       from (select * from projector.parked where generation_id = $1 and key_id = $2
                             order by id limit $3) as first) as p
                 where before < $4 order by id",
                &[
                    generation.into(),
                    Some(key).into(),
                    (limits.events.max(1) as i64).into(),
                    (limits.bytes.max(1) as i64).into(),
                ],
            )
            .await?;
        parked = rows.into_iter().map(|row| row.stored(&target.topics)).collect();
        let count: Option<(i64,)> = session
            .row(
                "select count(*) from projector.parked where generation_id = $1 and key_id = $2",
                &[generation.into(), Some(key).into()],
            )
            .await?;
        parked_count = count.map_or(0, |(count,)| count);
    }
    let so_far =
        so_far.and_then(|json| serde_json::from_str::<OperationResult>(&json).ok()).unwrap_or_default();
    let key = key.as_deref().and_then(key_id);
    Ok(Some(ClaimedOperation { action, dry_run, dead_letter, key, parked, parked_count, so_far }))
}

/// Locks the key that a dead letter blocks.
async fn lock_key_of<S: Session>(
    session: &mut S,
    dead_letter: Option<i64>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = format!("select key_id from projector.blocked_key where dead_letter_id = $1 {}", S::FOR_UPDATE);
    let key: Option<(Vec<u8>,)> = session.row(&sql, &[dead_letter.into()]).await?;
    Ok(key.map(|(key,)| key))
}

/// Locks a key that is blocked without a dead letter at the moment, because the event that blocked it was released.
async fn lock_released_key<S: Session>(
    session: &mut S,
    generation: i64,
    key: Option<&[u8]>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = format!(
        "select key_id from projector.blocked_key
         where generation_id = $1 and key_id = $2 and dead_letter_id is null {}",
        S::FOR_UPDATE
    );
    let key: Option<(Vec<u8>,)> = session.row(&sql, &[generation.into(), key.into()]).await?;
    Ok(key.map(|(key,)| key))
}

/// Writes what a retry or a discard did to a dead letter. `digest`: the component that was called.
pub(crate) async fn write_retry<S: Session>(
    session: &mut S,
    digest: &str,
    dead_letter: i64,
    retry: &RetryResult<'_>,
) -> Result<(), StoreError> {
    let failure = match retry {
        RetryResult::Failed(failure) => failure,
        RetryResult::Gone => {
            for statement in [
                "update projector.blocked_key set dead_letter_id = null where dead_letter_id = $1",
                "delete from projector.dead_letter where id = $1",
            ] {
                session.execute(statement, &[dead_letter.into()]).await?;
            }
            return Ok(());
        }
    };
    let refusal = failure.refusal.as_deref();
    session
        .execute(
            "update projector.dead_letter set digest = $2, kind = $3, code = $4, detail = $5, backtrace = $6,
               db_table = $7, db_column = $8, db_constraint = $9, attempts = attempts + 1 where id = $1",
            &[
                dead_letter.into(),
                digest.into(),
                failure.kind.as_str().into(),
                failure.code.as_str().into(),
                failure.detail.as_str().into(),
                failure.backtrace.as_deref().into(),
                refusal.and_then(|refusal| refusal.table.as_deref()).into(),
                refusal.and_then(|refusal| refusal.column.as_deref()).into(),
                refusal.and_then(|refusal| refusal.constraint.as_deref()).into(),
            ],
        )
        .await
        .map(drop)
}

/// Writes how far an operation is.
pub(crate) async fn write_progress<S: Session>(
    session: &mut S,
    progress: &OperationProgress<'_>,
) -> Result<(), StoreError> {
    let result = serde_json::to_string(progress.result).expect("a result is plain data");
    let key = progress.key.as_ref().map(|key| &key.0[..]);
    session
        .execute(
            &format!(
                "update projector.operation set verdict = {}, key_id = $3,
                   done_at = case when $4 then now() end where id = $1",
                S::document("$2")
            ),
            &[progress.operation.into(), result.into(), key.into(), progress.done.into()],
        )
        .await
        .map(drop)
}
