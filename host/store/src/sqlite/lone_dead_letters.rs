//! Dead letters behind which no event waits, many in one transaction.

use projector_core::batch::BatchLimits;

use super::errors::classify;
use super::transaction::SqliteTransaction;
use crate::error::StoreError;
use crate::host_tables::release::{claim_operation, write_progress, write_retry};
use crate::release::{ClaimedOperation, LoneDeadLetter, LoneResults, OperationProgress, RetryResult};

impl SqliteTransaction {
    pub(super) async fn find_lone_dead_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError> {
        let mut lone: Vec<LoneDeadLetter> = Vec::new();
        let (one, mut bytes) = (BatchLimits { events: 1, bytes: 1 }, 0);
        for operation in operations.iter().take(limits.events.max(1)) {
            let claimed = claim_operation(&mut *self.tx, &self.target, *operation, one).await?;
            let Some(ClaimedOperation {
                action,
                dry_run: false,
                dead_letter: Some((dead_letter, partition, code)),
                key,
                parked_count: 0,
                so_far,
                ..
            }) = claimed
            else {
                continue;
            };
            if !so_far.outcome.is_empty() || lone.iter().any(|known| known.dead_letter.id == dead_letter.id) {
                continue;
            }
            if bytes >= limits.bytes.max(1) {
                break;
            }
            let value = dead_letter.event.as_ref().and_then(|event| event.value.as_ref());
            bytes += value.map_or(0, |value| value.len());
            lone.push(LoneDeadLetter { operation: *operation, action, dead_letter, partition, code, key });
        }
        Ok(lone)
    }

    pub(super) async fn write_lone_results(&mut self, lone: &LoneResults<'_>) -> Result<(), StoreError> {
        for result in &lone.results {
            match result.retry {
                RetryResult::Gone => {
                    for statement in [
                        "delete from projector_blocked_key where dead_letter_id = ?",
                        "delete from projector_dead_letter where id = ?",
                    ] {
                        let removed = sqlx::query(statement).bind(result.dead_letter);
                        removed.execute(&mut *self.tx).await.map_err(classify)?;
                    }
                }
                RetryResult::Failed(_) => {
                    write_retry(&mut *self.tx, &self.target.digest, result.dead_letter, &result.retry)
                        .await?;
                }
            }
            let progress = OperationProgress {
                operation: result.operation,
                key: result.key,
                result: &result.result,
                done: true,
            };
            write_progress(&mut *self.tx, &progress).await?;
        }
        Ok(())
    }
}
