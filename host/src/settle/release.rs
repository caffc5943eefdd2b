//! Retries or discards a dead letter on request of an operator, with the events that are parked behind it, in order.
//!
//! Each try is one transaction: all of its effects are committed, or none. A try that fails teaches which event is at
//! fault, and the next try has that event fail, or is smaller. So a request can be tried again at any time.

use projector_core::awaited;
use projector_core::batch::BatchLimits;
use projector_core::checkpoint::{Checkpoint, Identity};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_core::outcome::{self, Outcome};
use projector_kafka::{KafkaAdmin, LogError, Recalled};
use projector_store::StoreError;
use projector_store::operator::{OpenOperation, OperationResult, Progress};

use super::late_failures::Failed;
use super::work::{Known, LeftInLog, Work};
use super::{Settler, resolve, writes};
use crate::project::{Answered, Caller, Keys};

/// How far a request is.
#[derive(Debug, PartialEq, Eq)]
pub enum Released {
    /// One transaction did not take all events. The request stays open, and any lane may continue it.
    More,
    /// Its result is stored, or it was done by another host, or withdrawn.
    Done,
}

impl Settler {
    /// Carries out a request: as much of it as one transaction takes. Values that were left in the log are read from
    /// there.
    pub async fn release(
        &self,
        operation: &OpenOperation,
        limits: BatchLimits,
        log: &KafkaAdmin,
    ) -> Result<Released, StoreError> {
        let mut known = Known { value_bytes: log.value_bytes(), ..Known::default() };
        let mut tried = limits;
        loop {
            let (error, events) = match self.release_some(operation, tried, &known).await {
                Ok(Tried::Released(released)) => return Ok(released),
                Ok(Tried::InLog(left)) => {
                    // Read outside of the transaction: the brokers may be slow, and the transaction holds locks.
                    if let Err(error) = self.recall(left.clone(), &mut known, log).await? {
                        return self.unanswered(operation, &left, error).await;
                    }
                    continue;
                }
                Err(Failed { error, events }) => (error, events),
            };
            known.failures.learn(error, &events, &mut tried.events)?;
        }
    }

    async fn release_some(
        &self,
        operation: &OpenOperation,
        limits: BatchLimits,
        known: &Known,
    ) -> Result<Tried, Failed> {
        let contract = &self.deployment.contract;
        let mut tx = self.store.begin(&self.deployment).await?;
        let Some(taken) = tx.take(operation.id, limits).await? else {
            return Ok(Tried::Released(Released::Done));
        };
        let dry_run = taken.dry_run;
        let mut work = Work::of(taken, limits.events)?;
        if let Some(left) = work.recall(known) {
            return Ok(Tried::InLog(left));
        }
        let answers = work.ask(self, &known.failures.of)?;
        // Parked events stay parked behind the next one that fails, even if the policy does not park any more.
        let lines = work.events.iter().map(|delivery| KeyId::line(contract, &delivery.event));
        let lines = lines.filter(|line| Some(*line) != work.taken.key).collect();
        let mut lines = tx.blocked(lines).await?;
        let blocked = lines.clone();
        let keys = Keys { park: true, impatient: usize::from(work.tries_letter), blocked };
        let mut caller = Caller::new(&self.plugin);
        let answered = Answered { events: &work.events, answers: &answers, duplicates: &[] };
        let outcomes = resolve(&mut caller, &mut *tx, answered, keys, &mut 0)
            .map_err(|error| Failed::of(error, &work.events))?;
        lines.extend(outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Wait { line, .. } if Some(*line) != work.taken.key => Some(*line),
            _ => None,
        }));
        let batch = &work.events[..outcomes.len()];
        let verdict = work.verdict(&outcomes, contract, &lines);
        let mut writes = writes(batch, &outcomes);
        // The store has these events already.
        writes.parked.clear();
        if work.tries_letter && matches!(outcomes[0], Outcome::Dead { .. }) {
            writes.dead.remove(0);
        }
        writes.rows = awaited::written(contract, outcome::applied(batch, &outcomes));
        for letter in &mut writes.dead {
            // The same key stays blocked, even if the active version has the topic in another ordering group.
            letter.blocks = work.taken.key.or(letter.blocks);
            letter.moved_by = work.moved_by(&letter.event.position);
        }
        let stuck = verdict.behind.is_some() || !verdict.is_settled();
        let frees = !stuck && verdict.waiting == 0;
        let progress = Progress {
            operation: operation.id,
            key: work.taken.key,
            verdict: &verdict,
            done: stuck || frees,
        };
        let is_done = progress.done;
        let frees = work.taken.key.filter(|_| frees);
        writes.release = Some(work.release(&outcomes, progress, frees, &lines));
        tx.write(&writes).await.map_err(|error| Failed::of(error.into(), batch))?;
        match dry_run {
            true => {
                drop(tx);
                self.store.answer(operation.id, &verdict).await?;
            }
            false => {
                tx.commit().await.map_err(|error| Failed::of(error.into(), batch))?;
                self.dead_letters.committed(&self.deployment.generation, &writes.dead);
            }
        }
        let (projection, action) = (contract.name(), operation.action.as_str());
        let OperationResult { outcome, applied, ignored, waiting, .. } = &verdict;
        tracing::info!(
            projection,
            operation = operation.id,
            action,
            dry_run,
            outcome,
            applied,
            ignored,
            waiting,
            "dead letter dealt with"
        );
        Ok(Tried::Released(if is_done || dry_run { Released::Done } else { Released::More }))
    }

    /// Reads a record that was left in the log. A record that the log does not have any more fails for good.
    async fn recall(
        &self,
        left: LeftInLog,
        known: &mut Known,
        log: &KafkaAdmin,
    ) -> Result<Result<(), LogError>, StoreError> {
        let at = &left.position;
        let fails = |code: &str, detail: String| Failure::new(FailureKind::TooLarge, code, detail);
        if let Some(operation) = left.moved_by {
            let detail = format!(
                "its value was left in the log, at {at}, before operation {operation} moved the partition to another log: there, that offset is another record"
            );
            known.failures.of.insert(left.position, fails("other-log", detail));
            return Ok(Ok(()));
        }
        let partitions = std::slice::from_ref(&at.partition);
        let checkpoints = self.store.checkpoints(&self.deployment.generation, partitions).await?;
        let stored = checkpoints
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(|| Checkpoint { next_offset: 0, identity: Identity::default() });
        let recalled = match log.recall(at.clone(), stored.identity).await {
            Ok(recalled) => recalled,
            Err(error) => return Ok(Err(error)),
        };
        let failure = match recalled {
            Recalled::Value(value) => {
                known.recalled = Some((left.position, value));
                return Ok(Ok(()));
            }
            Recalled::TooLarge { bytes } => fails(
                "value-bytes",
                format!(
                    "its value has {bytes} bytes, more than `kafka.value-bytes`; it was left in the log, at {at}"
                ),
            ),
            Recalled::Gone => fails(
                "gone",
                format!(
                    "its value was left in the log, and the log does not hold the record at {at} any more"
                ),
            ),
            Recalled::OtherLog { stored, found } => fails(
                "other-log",
                format!(
                    "its value was left in the log, at {at}, and the topic is another one now: topic id {} and cluster id {}, and not {} and {}",
                    shown(&found.topic_id),
                    shown(&found.cluster_id),
                    shown(&stored.topic_id),
                    shown(&stored.cluster_id)
                ),
            ),
        };
        known.failures.of.insert(left.position, failure);
        Ok(Ok(()))
    }

    /// The brokers did not tell whether the log has a record. A request that has changed nothing ends with that result.
    /// Otherwise it is tried again.
    async fn unanswered(
        &self,
        operation: &OpenOperation,
        left: &LeftInLog,
        error: LogError,
    ) -> Result<Released, StoreError> {
        let detail = format!("the record at {} could not be read from the log: {error}", left.position);
        match left.is_letter {
            true => {
                let failure = Failure::new(FailureKind::Brokers, "log", detail);
                self.store.answer(operation.id, &OperationResult::failed(&failure)).await?;
                Ok(Released::Done)
            }
            false => Err(StoreError::Brokers(detail)),
        }
    }
}

fn shown(id: &Option<String>) -> &str {
    id.as_deref().unwrap_or("(unknown)")
}

/// The result of one try.
enum Tried {
    Released(Released),
    /// This record must be read from the log first.
    InLog(LeftInLog),
}
