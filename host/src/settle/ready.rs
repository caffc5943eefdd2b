//! Tries waiting events again, and the events that are parked behind them, in their order.
//!
//! One transaction takes events that are *ready*: an event whose row was written, an event whose wait has expired, or
//! the next event behind one that is done.
//!
//! Invariant: an event whose wait has expired fails, even if its row exists by now. The wait is measured in event time,
//! so a rebuild decides in the same way, whenever it reads the events.

use std::collections::BTreeSet;

use projector_core::awaited;
use projector_core::batch::{BatchLimits, Delivery};
use projector_core::event_failure::Failure;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::failure_policy::Policy;
use projector_core::ordering::KeyId;
use projector_core::outcome::{self, Outcome};
use projector_model::Contract;
use projector_store::StoreError;
use projector_store::release::Release;
use projector_store::waiting_events::{ReadyEvent, Wait};

use super::known_failures::{Failed, KnownFailures};
use super::release::Released;
use super::stored_outcomes::StoredOutcomes;
use super::{Settler, resolve, writes};
use crate::project::{self, Answered, Caller, FirstAnswers, Keys, ProjectError};

impl Settler {
    /// Tries events that are ready: as many as fit into one transaction. If an event makes the transaction fail, this is
    /// repeated with what was learned. An error is returned if no event caused it.
    pub async fn release_ready(&self, limits: BatchLimits) -> Result<Released, ProjectError> {
        let (mut tried, mut failures) = (limits, KnownFailures::default());
        loop {
            match self.release_some_ready(tried, &failures).await {
                Ok(released) => return Ok(released),
                Err(Failed { error: blocker @ ProjectError::Blocker(_), .. }) => return Err(blocker),
                Err(Failed { error, events }) => failures.learn(error, &events, &mut tried.events)?,
            }
        }
    }

    async fn release_some_ready(
        &self,
        limits: BatchLimits,
        failures: &KnownFailures,
    ) -> Result<Released, Failed> {
        let contract = &*self.deployment.contract;
        let mut tx = self.store.begin(&self.deployment).await?;
        let ready = tx.claim_ready(limits).await?;
        if ready.is_empty() {
            return Ok(Released::Done);
        }
        let events = deliveries(&ready)?;
        let keys = ready.iter().zip(&events).flat_map(|(ready, delivery)| {
            KeyId::all_of(contract, &delivery.event).filter(move |key| *key != ready.key)
        });
        let blocked = tx.blocked(keys.collect()).await?;
        let keys = Keys { park: self.failures.policy == Policy::ParkKey, blocked, never_wait: 0 };
        let answers = self.ask_ready(&ready, &events, failures)?;
        let events = &events[..answers.len()];
        let mut caller = Caller::new(&self.plugin);
        let answered = Answered { events, answers: &answers, duplicates: &[] };
        let mut outcomes = resolve(&mut caller, &mut *tx, answered, keys, &mut 0)
            .map_err(|error| Failed::of(error, events))?;
        self.halt_before_failure(&mut outcomes, events)?;
        let events = &events[..outcomes.len()];
        let mut stored = StoredOutcomes::default();
        for (ready, outcome) in ready.iter().zip(&outcomes) {
            stored.record(ready.stored.id, &ready.partition, ready.wait.is_some(), outcome);
        }
        let mut writes = writes(events, &outcomes);
        // These events are in the store already, so they must not be inserted again. `waits_on` updates them.
        writes.parked.clear();
        for letter in &mut writes.dead {
            let position = &letter.event.position;
            let at = events.iter().position(|delivery| delivery.event.position == *position);
            letter.moved_by = at.and_then(|at| ready[at].stored.moved_by);
        }
        writes.rows = awaited::written(contract, outcome::applied(events, &outcomes));
        let StoredOutcomes { settled, waits_on, shifts } = stored;
        let (shifts, frees) = (shifts.into_iter().collect(), freed(&ready, &outcomes));
        writes.release = Some(Release { settled, waits_on, shifts, frees, ..Release::default() });
        self.check_stored_limits(&mut *tx, &writes).await?;
        tx.write(&writes).await.map_err(|error| Failed::of(error.into(), events))?;
        tx.commit().await.map_err(|error| Failed::of(error.into(), events))?;
        self.dead_letters.committed(&self.deployment.generation, &writes.dead);
        log_outcomes(contract, &outcomes);
        Ok(Released::More)
    }

    /// The plugin's first answers to ready events. An event fails without a call if its wait has expired, or if an
    /// earlier attempt has shown that it fails.
    fn ask_ready(
        &self,
        ready: &[ReadyEvent],
        events: &[Delivery],
        failures: &KnownFailures,
    ) -> Result<Vec<FirstAnswers>, ProjectError> {
        let failed = |at: usize| -> Option<Failure> {
            let known = || failures.by_position.get(&events[at].event.position).cloned();
            let expired = ready[at].wait.as_ref().filter(|wait| wait.is_over());
            expired.map(|Wait { row, .. }| awaited::wait_is_over(row)).or_else(known)
        };
        let mut answers = Vec::with_capacity(events.len());
        while answers.len() < events.len() {
            let from = answers.len();
            if let Some(failure) = failed(from) {
                answers.push(FirstAnswers::failed(failure));
                continue;
            }
            let to = (from..events.len()).find(|at| failed(*at).is_some()).unwrap_or(events.len());
            answers.extend(tokio::task::block_in_place(|| project::ask(&self.plugin, &events[from..to]))?);
            // The calls have used the limits of a batch: the other events are for the next transaction.
            if answers.len() < to {
                break;
            }
        }
        Ok(answers)
    }

    /// Ends the batch before the first event that fails, if the failure policy is to halt.
    fn halt_before_failure(
        &self,
        outcomes: &mut Vec<Outcome<'_>>,
        events: &[Delivery],
    ) -> Result<(), ProjectError> {
        if self.failures.policy != Policy::Halt {
            return Ok(());
        }
        let failed = outcomes.iter().position(|outcome| matches!(outcome, Outcome::Dead { .. }));
        outcomes.truncate(failed.unwrap_or(outcomes.len()).max(1));
        match &outcomes[..] {
            [Outcome::Dead { failure, .. }] => {
                let reason = format!(
                    "the event at {} waited for a row, and failed: {failure}. The checkpoint is beyond its offset, so `projector skip` cannot skip it. With `policy = \"dead-letter\"` or `policy = \"park-key\"` it becomes a dead letter; `projector dlq erase` deletes all stored events of its key",
                    events[0].event.position
                );
                Err(ProjectError::Blocker(Blocker::new(FailureKind::Halted, reason)))
            }
            _ => Ok(()),
        }
    }
}

fn deliveries(ready: &[ReadyEvent]) -> Result<Vec<Delivery>, StoreError> {
    let delivery = |ready: &ReadyEvent| match &ready.stored.event {
        Some(event) => Ok(Delivery { event: event.clone(), epoch: 0 }),
        None => Err(StoreError::Unusable(format!(
            "the stored event {} is of {}, and the projection does not read this topic any more: correct `[kafka.topics]`",
            ready.stored.id, ready.partition
        ))),
    };
    ready.iter().map(delivery).collect()
}

/// The keys that these events blocked and that none of them blocks any more.
fn freed(ready: &[ReadyEvent], outcomes: &[Outcome<'_>]) -> Vec<KeyId> {
    let mut keys = BTreeSet::new();
    let mut blocked = BTreeSet::new();
    for (ReadyEvent { key, .. }, outcome) in ready.iter().zip(outcomes) {
        keys.insert(*key);
        match outcome {
            Outcome::Park(under) | Outcome::Wait { line: under, .. } => blocked.extend([*under]),
            Outcome::Dead { blocks, .. } => blocked.extend(blocks),
            Outcome::Apply(_) | Outcome::Ignore { .. } => {}
        }
    }
    keys.into_iter().filter(|key| !blocked.contains(key)).collect()
}

fn log_outcomes(contract: &Contract, outcomes: &[Outcome<'_>]) {
    let count = |is: fn(&Outcome<'_>) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    tracing::info!(
        projection = contract.name(),
        applied = count(|outcome| matches!(outcome, Outcome::Apply(_))),
        ignored = count(|outcome| matches!(outcome, Outcome::Ignore { .. })),
        dead = count(|outcome| matches!(outcome, Outcome::Dead { .. })),
        waiting = count(|outcome| matches!(outcome, Outcome::Wait { .. } | Outcome::Park(_))),
        "events that waited for a row were tried again"
    );
}
