//! Retries or discards many dead letters in one transaction: those that have no event parked behind them.
//!
//! If the transaction fails because of an event, each half is tried in a transaction of its own. A single dead letter that
//! fails so is left to [`Settler::release`], and so is everything that needs more: events parked behind a dead letter, a
//! dry run, a value that was left in the log.

use std::collections::{BTreeMap, BTreeSet};

use projector_core::awaited;
use projector_core::batch::{BatchLimits, Delivery};
use projector_core::counters::{OutcomeCounts, add};
use projector_core::event::Partition;
use projector_core::ordering::KeyId;
use projector_core::outcome::{self, Outcome};
use projector_model::Contract;
use projector_store::StoreError;
use projector_store::operator::{
    DeadLetterAction, LoneDeadLetter, LoneResult, LoneResults, OperationResult, RetryResult,
};

use super::{Settler, resolve, writes};
use crate::project::{self, Answered, Caller, Keys, ProjectError};

/// The result of one try.
enum Tried {
    /// These operations are done.
    Done(Vec<i64>),
    /// One of the events is at fault. It is unknown which.
    Refused,
}

impl Settler {
    /// Carries out operations on dead letters that have no event parked behind them, in few transactions. Returns which
    /// operations are done.
    pub async fn release_lone_letters(
        &self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<i64>, StoreError> {
        let mut done = Vec::new();
        let mut open: Vec<Vec<i64>> =
            operations.chunks(limits.events.max(1)).rev().map(<[i64]>::to_vec).collect();
        while let Some(some) = open.pop() {
            match self.try_lone_letters(&some, limits).await? {
                Tried::Refused if some.len() > 1 => {
                    let (first, second) = some.split_at(some.len() / 2);
                    open.extend([second.to_vec(), first.to_vec()]);
                }
                Tried::Refused => {}
                Tried::Done(settled) => {
                    // The operations that did not fit into the transaction.
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

    async fn try_lone_letters(&self, operations: &[i64], limits: BatchLimits) -> Result<Tried, StoreError> {
        let contract = &*self.deployment.contract;
        let mut tx = self.store.begin(&self.deployment).await?;
        let (discarded, retried) = chosen(tx.take_lone_letters(operations, limits).await?, contract);
        let delivery =
            |lone: &LoneDeadLetter| lone.letter.event.clone().map(|event| Delivery { event, epoch: 0 });
        let batch: Vec<Delivery> = retried.iter().filter_map(delivery).collect();
        let answers = match tokio::task::block_in_place(|| project::ask(&self.plugin, &batch)) {
            Ok(answers) => answers,
            Err(error) => return refused(error),
        };
        let batch = &batch[..answers.len()];
        let mut caller = Caller::new(&self.plugin);
        let keys = Keys { park: true, impatient: batch.len(), ..Keys::default() };
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
        let failed = lone.results.iter().filter(|result| !result.verdict.is_settled()).count();
        let mut writes = writes(&batch[..outcomes.len()], &outcomes);
        // The store has these dead letters already.
        writes.dead.clear();
        writes.rows = awaited::written(contract, outcome::applied(batch, &outcomes));
        writes.lone = Some(lone);
        match tx.write(&writes).await {
            Err(error) => return refused(error.into()),
            Ok(_) => tx.commit().await?,
        }
        let letters = done.len();
        tracing::info!(projection = contract.name(), letters, failed, "dead letters dealt with");
        Ok(Tried::Done(done))
    }
}

/// Whether an event may have caused the error. Returns any other error.
fn refused(error: ProjectError) -> Result<Tried, StoreError> {
    match error {
        ProjectError::Store(error @ (StoreError::Rejected { .. } | StoreError::Data(_))) => {
            tracing::debug!(%error, "a set of dead letters is tried in halves");
            Ok(Tried::Refused)
        }
        ProjectError::Store(error) => Err(error),
        ProjectError::Timeout(_) | ProjectError::OnTrial(_) | ProjectError::Blocker(_) => Ok(Tried::Refused),
    }
}

/// The dead letters to discard, and those to retry: at most one of each key, since a failure would park the next one; and
/// none whose value was left in the log, or whose topic is not read any more.
fn chosen(taken: Vec<LoneDeadLetter>, contract: &Contract) -> (Vec<LoneDeadLetter>, Vec<LoneDeadLetter>) {
    let mut keys: BTreeSet<KeyId> = BTreeSet::new();
    let (discarded, retried): (Vec<_>, Vec<_>) =
        taken.into_iter().partition(|lone| lone.action == DeadLetterAction::Discard);
    let fits = |lone: &LoneDeadLetter| {
        let Some(event) = lone.letter.event.as_ref().filter(|event| event.oversize_bytes.is_none()) else {
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
        add(&mut counted_no_more(lone, &mut shifts).skipped, "discarded", 1);
        results.push(result(lone, RetryResult::Gone, OperationResult::of("discarded")));
    }
    for (lone, outcome) in retried {
        let (fate, verdict) = match outcome {
            Outcome::Dead { failure, .. } => (RetryResult::Failed(failure), OperationResult::failed(failure)),
            Outcome::Ignore { code } => (
                RetryResult::Gone,
                OperationResult { code: Some(code.to_string()), ..OperationResult::of("ignored") },
            ),
            Outcome::Apply(_) => (RetryResult::Gone, OperationResult::of("applied")),
            // Not expected: the event is the only one of its key, and may not wait for a row.
            Outcome::Park(_) | Outcome::Wait { .. } => continue,
        };
        counted_no_more(lone, &mut shifts).count(outcome);
        results.push(result(lone, fate, verdict));
    }
    LoneResults { results, shifts: shifts.into_iter().collect() }
}

/// The counts of a dead letter's partition, without the dead letter.
fn counted_no_more<'s>(
    lone: &LoneDeadLetter,
    shifts: &'s mut BTreeMap<Partition, OutcomeCounts>,
) -> &'s mut OutcomeCounts {
    let books = shifts.entry(lone.partition.clone()).or_default();
    add(&mut books.dead, &lone.code, -1);
    books
}

fn result<'o>(lone: &LoneDeadLetter, fate: RetryResult<'o>, verdict: OperationResult) -> LoneResult<'o> {
    LoneResult { operation: lone.operation, letter: lone.letter.id, key: lone.key, fate, verdict }
}
