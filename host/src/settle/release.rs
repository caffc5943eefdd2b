//! Retries or discards one dead letter on an operator's request, and then tries the events parked behind it, in order.
//!
//! Each attempt is one transaction: all of its effects are committed, or none. So a request can be repeated at any
//! time, by any host. A failed attempt shows which event is the cause: the next attempt fails this event without a
//! call, or takes fewer events.

use projector_core::awaited;
use projector_core::batch::BatchLimits;
use projector_core::checkpoint::{Checkpoint, Identity};
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::ordering::KeyId;
use projector_core::outcome::{self, Outcome};
use projector_kafka::{KafkaAdmin, LogError, Recalled};
use projector_store::StoreError;
use projector_store::operations::{OpenOperation, OperationResult};
use projector_store::release::OperationProgress;

use super::known_failures::Failed;
use super::release_attempt::{Learned, LeftInLog, ReleaseAttempt};
use super::{Settler, resolve, writes};
use crate::project::{Answered, Caller, Keys};

/// The state of a request after one transaction.
#[derive(Debug, PartialEq, Eq)]
pub enum Released {
    /// The transaction did not take all events. The request stays open, and any lane may continue it.
    More,
    /// Nothing is left to do: the result is stored, another host has carried the request out, or it was withdrawn.
    Done,
}

impl Settler {
    /// Carries out as much of a request as fits into one transaction. A value that is only in the log is read from
    /// there.
    ///
    /// Failed attempts are repeated with what was learned, until one succeeds or an error shows that no event is the
    /// cause.
    pub async fn release(
        &self,
        operation: &OpenOperation,
        limits: BatchLimits,
        log: &KafkaAdmin,
    ) -> Result<Released, StoreError> {
        let mut learned = Learned { value_bytes: log.value_bytes(), ..Learned::default() };
        let mut tried = limits;
        loop {
            let (error, events) = match self.release_some(operation, tried, &learned).await {
                Ok(Tried::Released(released)) => return Ok(released),
                Ok(Tried::InLog(left)) => {
                    // Read the value after the transaction was rolled back: the brokers may be slow, and a transaction
                    // holds locks.
                    if let Err(error) = self.recall(left.clone(), &mut learned, log).await? {
                        return self.unanswered(operation, &left, error).await;
                    }
                    continue;
                }
                Err(Failed { error, events }) => (error, events),
            };
            learned.failures.learn(error, &events, &mut tried.events)?;
        }
    }

    async fn release_some(
        &self,
        operation: &OpenOperation,
        limits: BatchLimits,
        learned: &Learned,
    ) -> Result<Tried, Failed> {
        let contract = &self.deployment.contract;
        let mut tx = self.store.begin(&self.deployment).await?;
        let Some(taken) = tx.claim(operation.id, limits).await? else {
            return Ok(Tried::Released(Released::Done));
        };
        let dry_run = taken.dry_run;
        let mut attempt = ReleaseAttempt::of(taken, limits.events)?;
        if let Some(left) = attempt.recall(learned) {
            return Ok(Tried::InLog(left));
        }
        let answers = attempt.ask(self, &learned.failures.by_position)?;
        // A parked event may belong to a line that is blocked as well: an event of its topic and key waits for a row.
        // Then the parked event moves to this line.
        let lines = attempt.events.iter().map(|delivery| KeyId::line(contract, &delivery.event));
        let lines = lines.filter(|line| Some(*line) != attempt.taken.key).collect();
        let mut lines = tx.blocked(lines).await?;
        let blocked = lines.clone();
        // `park`: parked events stay parked behind the next event that fails, even if the policy does not park any more.
        // `never_wait`: a retried dead letter does not wait for a row. While the row is missing, it fails again.
        let keys = Keys { park: true, never_wait: usize::from(attempt.retries_dead_letter), blocked };
        let mut caller = Caller::new(&self.plugin);
        let answered = Answered { events: &attempt.events, answers: &answers, duplicates: &[] };
        let outcomes = resolve(&mut caller, &mut *tx, answered, keys, &mut 0)
            .map_err(|error| Failed::of(error, &attempt.events))?;
        lines.extend(outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Wait { line, .. } if Some(*line) != attempt.taken.key => Some(*line),
            _ => None,
        }));
        let batch = &attempt.events[..outcomes.len()];
        let result = attempt.result(&outcomes, contract, &lines);
        let mut writes = writes(batch, &outcomes);
        // These events and the dead letter are in the store already, so they must not be inserted again.
        writes.parked.clear();
        if attempt.retries_dead_letter && matches!(outcomes[0], Outcome::Dead { .. }) {
            writes.dead.remove(0);
        }
        writes.rows = awaited::written(contract, outcome::applied(batch, &outcomes));
        for letter in &mut writes.dead {
            // The same key stays blocked, even if the active version puts the topic into another ordering group: the
            // other parked events are stored under this key.
            letter.blocks = attempt.taken.key.or(letter.blocks);
            letter.moved_by = attempt.moved_by(&letter.event.position);
        }
        let stuck = result.behind.is_some() || !result.is_settled();
        let frees = !stuck && result.waiting == 0;
        let progress = OperationProgress {
            operation: operation.id,
            key: attempt.taken.key,
            result: &result,
            done: stuck || frees,
        };
        let is_done = progress.done;
        let frees = attempt.taken.key.filter(|_| frees);
        writes.release = Some(attempt.release(&outcomes, progress, frees, &lines));
        tx.write(&writes).await.map_err(|error| Failed::of(error.into(), batch))?;
        match dry_run {
            true => {
                drop(tx);
                self.store.set_result(operation.id, &result).await?;
            }
            false => {
                tx.commit().await.map_err(|error| Failed::of(error.into(), batch))?;
                self.dead_letters.committed(&self.deployment.generation, &writes.dead);
            }
        }
        let (projection, action) = (contract.name(), operation.action.as_str());
        let OperationResult { outcome, applied, ignored, waiting, .. } = &result;
        tracing::info!(
            projection,
            operation = operation.id,
            action,
            dry_run,
            outcome,
            applied,
            ignored,
            waiting,
            "a dead letter was retried or discarded, as an operator requested"
        );
        Ok(Tried::Released(if is_done || dry_run { Released::Done } else { Released::More }))
    }

    /// Reads a record whose value is only in the log, into `learned`. If the log does not hold the record any more, the
    /// event fails. The inner error: the brokers did not answer.
    async fn recall(
        &self,
        left: LeftInLog,
        learned: &mut Learned,
        log: &KafkaAdmin,
    ) -> Result<Result<(), LogError>, StoreError> {
        let at = &left.position;
        let fails = |code: &str, detail: String| Failure::new(FailureKind::TooLarge, code, detail);
        if let Some(operation) = left.moved_by {
            let detail = format!(
                "its value was too large to be stored and is only in the log, at {at}; then operation {operation} moved the partition to another log, where this offset is another record"
            );
            learned.failures.by_position.insert(left.position, fails("other-log", detail));
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
                learned.recalled = Some((left.position, value));
                return Ok(Ok(()));
            }
            Recalled::TooLarge { bytes } => fails(
                "value-bytes",
                format!(
                    "its value has {bytes} bytes, more than `kafka.value-bytes`; the value is only in the log, at {at}"
                ),
            ),
            Recalled::Gone => fails(
                "gone",
                format!(
                    "its value was too large to be stored, and the log does not hold the record at {at} any more"
                ),
            ),
            Recalled::OtherLog { stored, found } => fails(
                "other-log",
                format!(
                    "its value was too large to be stored and is only in the log, at {at}; but the topic is another one now: it has topic id {} and cluster id {}, instead of {} and {}",
                    shown(&found.topic_id),
                    shown(&found.cluster_id),
                    shown(&stored.topic_id),
                    shown(&stored.cluster_id)
                ),
            ),
        };
        learned.failures.by_position.insert(left.position, failure);
        Ok(Ok(()))
    }

    /// The brokers did not answer, so it is unknown whether the log still holds a record. If the record is the dead
    /// letter itself, nothing was changed yet, and the request ends with this result. If it is an event parked behind
    /// the dead letter, the request stays open and is tried again.
    async fn unanswered(
        &self,
        operation: &OpenOperation,
        left: &LeftInLog,
        error: LogError,
    ) -> Result<Released, StoreError> {
        let detail = format!("the record at {} could not be read from the log: {error}", left.position);
        match left.is_dead_letter {
            true => {
                let failure = Failure::new(FailureKind::Brokers, "log", detail);
                self.store.set_result(operation.id, &OperationResult::failed(&failure)).await?;
                Ok(Released::Done)
            }
            false => Err(StoreError::Brokers(detail)),
        }
    }
}

fn shown(id: &Option<String>) -> &str {
    id.as_deref().unwrap_or("(unknown)")
}

/// The result of one attempt.
enum Tried {
    Released(Released),
    /// Nothing was done: this record must be read from the log first.
    InLog(LeftInLog),
}
