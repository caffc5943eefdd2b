//! Retries or discards many dead letters in one transaction. Only for *lone* dead letters: no event is parked behind
//! them.
//!
//! If the transaction fails because of an event, each half is tried in a transaction of its own, until the cause is
//! alone. [`Settler::release`] carries out what is left: a dead letter that makes its transaction fail even alone, one
//! with events parked behind it, a dry run, and one whose value is only in the log.

use std::collections::{BTreeMap, BTreeSet};

use projector_core::awaited;
use projector_core::batch::{BatchLimits, Delivery};
use projector_core::counters::{OutcomeCounts, add};
use projector_core::event::Partition;
use projector_core::ordering::KeyId;
use projector_core::outcome::{self, Outcome};
use projector_model::Contract;
use projector_store::StoreError;
use projector_store::operations::{DeadLetterAction, OperationResult};
use projector_store::release::{LoneDeadLetter, LoneResult, LoneResults, RetryResult};

use super::{Settler, resolve, writes};
use crate::project::{self, Answered, Caller, Keys, ProjectError};

/// The result of one attempt.
enum Tried {
    /// These operations are done.
    Done(Vec<i64>),
    /// One of the events made the transaction fail. It is unknown which one.
    Refused,
}

impl Settler {
    /// Carries out the operations on lone dead letters, in as few transactions as possible. Returns which operations are
    /// done; the others are for [`Settler::release`].
    pub async fn release_many(
        &self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<i64>, StoreError> {
        let mut done = Vec::new();
        let mut open: Vec<Vec<i64>> =
            operations.chunks(limits.events.max(1)).rev().map(<[i64]>::to_vec).collect();
        while let Some(some) = open.pop() {
            match self.try_together(&some, limits).await? {
                Tried::Refused if some.len() > 1 => {
                    let (first, second) = some.split_at(some.len() / 2);
                    open.extend([second.to_vec(), first.to_vec()]);
                }
                Tried::Refused => {}
                Tried::Done(settled) => {
                    // Operations that did not fit into this transaction are tried in the next one. If nothing was done,
                    // another attempt would end in the same way.
                    let rest: Vec<i64> = some.into_iter().filter(|id| !settled.contains(id)).collect();
                    if !settled.is_empty() && !rest.is_empty() {
                        open.push(rest);
                    }
                    done.extend(settled);
                }
            }
        }
        Ok(done)
    }

    async fn try_together(&self, operations: &[i64], limits: BatchLimits) -> Result<Tried, StoreError> {
        let contract = &*self.deployment.contract;
        let mut tx = self.store.begin(&self.deployment).await?;
        let (discarded, retried) = chosen(tx.claim_lone_dead_letters(operations, limits).await?, contract);
        let delivery =
            |lone: &LoneDeadLetter| lone.dead_letter.event.clone().map(|event| Delivery { event, epoch: 0 });
        let batch: Vec<Delivery> = retried.iter().filter_map(delivery).collect();
        let answers = match tokio::task::block_in_place(|| project::ask(&self.plugin, &batch)) {
            Ok(answers) => answers,
            Err(error) => return refused(error),
        };
        let batch = &batch[..answers.len()];
        let mut caller = Caller::new(&self.plugin);
        let keys = Keys { park: true, never_wait: batch.len(), ..Keys::default() };
        let answered = Answered { events: batch, answers: &answers, duplicates: &[] };
        let outcomes = match resolve(&mut caller, &mut *tx, answered, keys, &mut 0) {
            Ok(outcomes) => outcomes,
            Err(error) => return refused(error),
        };
        let lone = results(&discarded, retried.iter().zip(&outcomes));
        if lone.results.is_empty() {
            return Ok(Tried::Done(Vec::new()));
        }
        let done: Vec<i64> = lone.results.iter().map(|result| result.operation).collect();
        let failed = lone.results.iter().filter(|result| !result.result.is_settled()).count();
        let mut writes = writes(&batch[..outcomes.len()], &outcomes);
        // These dead letters are in the store already, so they must not be inserted again.
        writes.dead.clear();
        writes.rows = awaited::written(contract, outcome::applied(batch, &outcomes));
        writes.lone = Some(lone);
        match tx.write(&writes).await {
            Err(error) => return refused(error.into()),
            Ok(_) => tx.commit().await?,
        }
        let dead_letters = done.len();
        tracing::info!(
            projection = contract.name(),
            dead_letters,
            failed,
            "dead letters were retried or discarded, as an operator requested"
        );
        Ok(Tried::Done(done))
    }
}

/// Whether an event may have caused the error: [`Tried::Refused`]. Any other error is returned.
fn refused(error: ProjectError) -> Result<Tried, StoreError> {
    match error {
        ProjectError::Store(error @ (StoreError::Rejected { .. } | StoreError::Data(_))) => {
            tracing::debug!(%error, "the database rejected the rows of a set of dead letters; the host tries each half alone");
            Ok(Tried::Refused)
        }
        ProjectError::Store(error) => Err(error),
        ProjectError::Timeout(_) | ProjectError::OnTrial(_) | ProjectError::Blocker(_) => Ok(Tried::Refused),
    }
}

/// Splits the dead letters into those to discard and those to retry together.
///
/// At most one of each key is retried here, since its failure would park the next one. A dead letter whose value is only
/// in the log, or whose topic is not read any more, is left out.
fn chosen(taken: Vec<LoneDeadLetter>, contract: &Contract) -> (Vec<LoneDeadLetter>, Vec<LoneDeadLetter>) {
    let mut keys: BTreeSet<KeyId> = BTreeSet::new();
    let (discarded, retried): (Vec<_>, Vec<_>) =
        taken.into_iter().partition(|lone| lone.action == DeadLetterAction::Discard);
    let fits = |lone: &LoneDeadLetter| {
        let Some(event) = lone.dead_letter.event.as_ref().filter(|event| event.oversize_bytes.is_none())
        else {
            return false;
        };
        KeyId::of(contract, event).is_none_or(|key| keys.insert(key))
    };
    (discarded, retried.into_iter().filter(fits).collect())
}

fn results<'o>(
    discarded: &[LoneDeadLetter],
    retried: impl Iterator<Item = (&'o LoneDeadLetter, &'o Outcome<'o>)>,
) -> LoneResults<'o> {
    let mut shifts: BTreeMap<Partition, OutcomeCounts> = BTreeMap::new();
    let mut results = Vec::new();
    for lone in discarded {
        add(&mut without_dead_letter(lone, &mut shifts).skipped, "discarded", 1);
        results.push(result(lone, RetryResult::Gone, OperationResult::of("discarded")));
    }
    for (lone, outcome) in retried {
        let (retry, stored) = match outcome {
            Outcome::Dead { failure, .. } => (RetryResult::Failed(failure), OperationResult::failed(failure)),
            Outcome::Ignore { code } => (
                RetryResult::Gone,
                OperationResult { code: Some(code.to_string()), ..OperationResult::of("ignored") },
            ),
            Outcome::Apply(_) => (RetryResult::Gone, OperationResult::of("applied")),
            // Not expected: the event is the only one of its key, and a retried dead letter does not wait for a row.
            Outcome::Park(_) | Outcome::Wait { .. } => continue,
        };
        without_dead_letter(lone, &mut shifts).count(outcome);
        results.push(result(lone, retry, stored));
    }
    LoneResults { results, shifts: shifts.into_iter().collect() }
}

/// Subtracts a dead letter from the counters of its partition, and returns the counters.
fn without_dead_letter<'s>(
    lone: &LoneDeadLetter,
    shifts: &'s mut BTreeMap<Partition, OutcomeCounts>,
) -> &'s mut OutcomeCounts {
    let counts = shifts.entry(lone.partition.clone()).or_default();
    add(&mut counts.dead, &lone.code, -1);
    counts
}

fn result<'o>(lone: &LoneDeadLetter, retry: RetryResult<'o>, result: OperationResult) -> LoneResult<'o> {
    let (operation, dead_letter, key) = (lone.operation, lone.dead_letter.id, lone.key);
    LoneResult { operation, dead_letter, key, retry, result }
}
