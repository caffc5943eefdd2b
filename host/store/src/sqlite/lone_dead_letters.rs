//! Dead letters behind which no event waits, many in one transaction.

use projector_core::batch::BatchLimits;

use super::errors::classify;
use super::now_micros;
use super::transaction::SqliteTransaction;
use crate::error::StoreError;
use crate::release::{ClaimedOperation, LoneDeadLetter, LoneResults, RetryResult};

impl SqliteTransaction {
    pub(super) async fn find_lone_dead_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError> {
        let mut lone: Vec<LoneDeadLetter> = Vec::new();
        let (one, mut bytes) = (BatchLimits { events: 1, bytes: 1 }, 0);
        for operation in operations.iter().take(limits.events.max(1)) {
            let claimed = self.claim_operation(*operation, one).await?;
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
                RetryResult::Failed(failure) => self.failed_again(result.dead_letter, failure).await?,
            }
            sqlx::query(
                "update projector_operation set verdict = ?2, key_id = ?3, done_at = ?4 where id = ?1",
            )
            .bind(result.operation)
            .bind(serde_json::to_string(&result.result).expect("a result is plain data"))
            .bind(result.key.as_ref().map(|key| &key.0[..]))
            .bind(now_micros())
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }
}
