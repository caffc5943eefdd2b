//! Dead letters that no event waits behind, many in one transaction.

use projector_core::batch::BatchLimits;

use super::errors::classify;
use super::now_micros;
use super::transaction::SqliteTransaction;
use crate::StoreError;
use crate::operator::{ClaimedOperation, LoneDeadLetter, LoneResults, RetryResult};

impl SqliteTransaction {
    pub(super) async fn find_lone_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError> {
        let mut lone: Vec<LoneDeadLetter> = Vec::new();
        let (one, mut bytes) = (BatchLimits { events: 1, bytes: 1 }, 0);
        for operation in operations.iter().take(limits.events.max(1)) {
            let taken = self.take_waiting(*operation, one).await?;
            let Some(ClaimedOperation {
                action,
                dry_run: false,
                letter: Some(letter),
                key,
                parked_count: 0,
                so_far,
                ..
            }) = taken
            else {
                continue;
            };
            let (letter, partition, code) = letter;
            if !so_far.outcome.is_empty() || lone.iter().any(|known| known.letter.id == letter.id) {
                continue;
            }
            if bytes >= limits.bytes.max(1) {
                break;
            }
            bytes +=
                letter.event.as_ref().and_then(|event| event.value.as_ref()).map_or(0, |value| value.len());
            lone.push(LoneDeadLetter { operation: *operation, action, letter, partition, code, key });
        }
        Ok(lone)
    }

    pub(super) async fn settle_lone_letters(&mut self, lone: &LoneResults<'_>) -> Result<(), StoreError> {
        for result in &lone.results {
            match result.fate {
                RetryResult::Gone => {
                    for statement in [
                        "delete from projector_blocked_key where dead_letter_id = ?",
                        "delete from projector_dead_letter where id = ?",
                    ] {
                        let gone = sqlx::query(statement).bind(result.letter);
                        gone.execute(&mut *self.tx).await.map_err(classify)?;
                    }
                }
                RetryResult::Failed(failure) => self.failed_again(result.letter, failure).await?,
            }
            sqlx::query(
                "update projector_operation set verdict = ?2, key_id = ?3, done_at = ?4 where id = ?1",
            )
            .bind(result.operation)
            .bind(serde_json::to_string(&result.verdict).expect("a verdict is plain data"))
            .bind(result.key.as_ref().map(|key| &key.0[..]))
            .bind(now_micros())
            .execute(&mut *self.tx)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }
}
