//! One attempt at an operator's request on a dead letter: its events, their answers, and the result of the request.

use std::collections::HashMap;

use projector_core::batch::Delivery;
use projector_core::counters::add;
use projector_core::event::{Event, Partition, Position};
use projector_core::event_failure::Failure;
use projector_core::ordering::{Blocked, KeyId};
use projector_core::outcome::Outcome;
use projector_model::Contract;
use projector_store::StoreError;
use projector_store::operations::{DeadLetterAction, OperationResult};
use projector_store::release::{ClaimedOperation, OperationProgress, Release, RetryResult, StoredEvent};
use serde_json::{Value as Json, json};

use super::Settler;
use super::known_failures::KnownFailures;
use super::stored_outcomes::StoredOutcomes;
use crate::project::{self, FirstAnswers, ProjectError};

/// How many changes the result of a dry run shows.
const MOST_CHANGES: usize = 100;

/// A record whose value was too large to be stored with its event, so the value is only in the log.
#[derive(Clone)]
pub(super) struct LeftInLog {
    pub(super) position: Position,
    /// The operation that has since moved the partition to another log (`projector move-checkpoints`).
    pub(super) moved_by: Option<i64>,
    /// Whether this is the dead letter itself, and not an event parked behind it.
    pub(super) is_dead_letter: bool,
}

/// What earlier attempts have shown.
#[derive(Default)]
pub(super) struct Learned {
    pub(super) failures: KnownFailures,
    /// The position and the value of a record that was read from the log for the next attempt.
    pub(super) recalled: Option<(Position, Option<Vec<u8>>)>,
    /// How many bytes a value may have: `kafka.value-bytes`.
    pub(super) value_bytes: usize,
}

/// The events of a request that one transaction takes.
pub(super) struct ReleaseAttempt {
    pub(super) taken: ClaimedOperation,
    /// The dead letter, if it is retried in this attempt, and then the events parked behind it.
    pub(super) events: Vec<Delivery>,
    pub(super) retries_dead_letter: bool,
}

impl ReleaseAttempt {
    /// Chooses the events of this attempt: at most `most`. They end before an event of a topic that is not read any
    /// more: the plugin cannot be called for it, and no later event of its key may overtake it.
    pub(super) fn of(mut taken: ClaimedOperation, most: usize) -> Result<Self, StoreError> {
        let unread = |kept: &StoredEvent, partition: &Partition| {
            StoreError::Unusable(format!(
                "the stored event {} is of {partition}, and the projection does not read this topic any more: correct `[kafka.topics]`",
                kept.id
            ))
        };
        let delivery = |event: &Event| Delivery { event: event.clone(), epoch: 0 };
        let mut events = Vec::new();
        if let (DeadLetterAction::Retry, Some((kept, partition, _))) = (taken.action, &taken.dead_letter) {
            events.push(delivery(kept.event.as_ref().ok_or_else(|| unread(kept, partition))?));
        }
        let retries_dead_letter = !events.is_empty();
        taken.parked.truncate(most.max(1) - usize::from(retries_dead_letter));
        for (kept, partition) in &taken.parked {
            match &kept.event {
                Some(event) => events.push(delivery(event)),
                None if events.is_empty() => return Err(unread(kept, partition)),
                None => break,
            }
        }
        Ok(Self { taken, events, retries_dead_letter })
    }

    /// Gives the first event its value, if the value is only in the log. Returns the record to read from the log, if
    /// that was not done yet.
    ///
    /// Such values are large, so only one is in memory at a time: the attempt ends before the next event of this kind,
    /// which is the first event of the next attempt.
    pub(super) fn recall(&mut self, learned: &Learned) -> Option<LeftInLog> {
        let fits = |event: &Event| event.oversize_bytes.is_some_and(|bytes| bytes <= learned.value_bytes);
        let is_open =
            |event: &Event| fits(event) && !learned.failures.by_position.contains_key(&event.position);
        if let Some(later) = self.events.iter().skip(1).position(|delivery| is_open(&delivery.event)) {
            self.events.truncate(1 + later);
        }
        let first = self.events.first_mut().filter(|first| is_open(&first.event))?;
        if let Some((_, value)) = learned.recalled.as_ref().filter(|(at, _)| *at == first.event.position) {
            first.event.value = value.clone();
            first.event.oversize_bytes = None;
            return None;
        }
        let kept = match (&self.taken.dead_letter, self.retries_dead_letter) {
            (Some((kept, ..)), true) => Some(kept),
            _ => self.taken.parked.first().map(|(kept, _)| kept),
        };
        Some(LeftInLog {
            position: first.event.position.clone(),
            moved_by: kept.and_then(|kept| kept.moved_by),
            is_dead_letter: self.retries_dead_letter,
        })
    }

    /// The plugin's first answers to the events, up to and including the first event that is known to fail. The plugin
    /// is not called for this event. The attempt ends after it.
    pub(super) fn ask(
        &mut self,
        settler: &Settler,
        failed: &HashMap<Position, Failure>,
    ) -> Result<Vec<FirstAnswers>, ProjectError> {
        let failing = self.events.iter().position(|delivery| failed.contains_key(&delivery.event.position));
        let asked = &self.events[..failing.unwrap_or(self.events.len())];
        let mut answers = tokio::task::block_in_place(|| project::ask(&settler.plugin, asked))?;
        if let Some(at) = failing.filter(|at| *at == answers.len()) {
            answers.push(FirstAnswers::failed(failed[&self.events[at].event.position].clone()));
        }
        self.events.truncate(answers.len());
        Ok(answers)
    }

    /// The outcomes of the parked events that were tried.
    fn of_parked<'o>(&self, outcomes: &'o [Outcome<'o>]) -> &'o [Outcome<'o>] {
        &outcomes[usize::from(self.retries_dead_letter)..]
    }

    /// The result of the request after these outcomes. `lines`: the lines on which an event waits for a row.
    pub(super) fn result(
        &self,
        outcomes: &[Outcome<'_>],
        contract: &Contract,
        lines: &Blocked,
    ) -> OperationResult {
        let mut result = match (&self.taken.dead_letter, self.taken.action) {
            _ if !self.taken.so_far.outcome.is_empty() => self.taken.so_far.clone(),
            (None, _) => OperationResult::of("gone"),
            (Some(_), DeadLetterAction::Discard) => OperationResult::of("discarded"),
            (Some(_), DeadLetterAction::Retry) => match &outcomes[0] {
                Outcome::Dead { failure, .. } => OperationResult::failed(failure),
                Outcome::Ignore { code } => {
                    OperationResult { code: Some(code.to_string()), ..OperationResult::of("ignored") }
                }
                // A retried dead letter never waits for a row.
                Outcome::Apply(_) | Outcome::Park(_) | Outcome::Wait { .. } => OperationResult::of("applied"),
            },
        };
        result.waiting = self.taken.parked_count;
        for (outcome, (kept, _)) in self.of_parked(outcomes).iter().zip(&self.taken.parked) {
            result.waiting -= i64::from(!Self::stays(outcome, lines));
            match outcome {
                Outcome::Apply(_) => result.applied += 1,
                Outcome::Ignore { .. } => result.ignored += 1,
                Outcome::Dead { .. } => {
                    result.behind = kept.event.as_ref().map(|event| event.position.to_string());
                }
                // This event waits for a row under the key of the request, so it blocks the key from now on.
                Outcome::Wait { .. } if Self::stays(outcome, lines) => {
                    result.behind = kept.event.as_ref().map(|event| event.position.to_string());
                }
                Outcome::Park(_) | Outcome::Wait { .. } => {}
            }
        }
        if self.taken.dry_run {
            let events = outcomes.iter().zip(&self.events);
            let changes = events.flat_map(|(outcome, event)| changes(outcome, event, contract));
            result.changes = changes.take(MOST_CHANGES).collect();
        }
        result
    }

    /// Whether an event stays parked under the key of the request. An event that waits for a row moves to its line, and
    /// so does an event that is parked behind such an event.
    fn stays(outcome: &Outcome<'_>, lines: &Blocked) -> bool {
        match outcome {
            Outcome::Park(key) | Outcome::Wait { line: key, .. } => !lines.contains(key),
            Outcome::Apply(_) | Outcome::Ignore { .. } | Outcome::Dead { .. } => false,
        }
    }

    /// The operation that moved the partition of a parked event to another log.
    pub(super) fn moved_by(&self, position: &Position) -> Option<i64> {
        let is_event =
            |kept: &StoredEvent| kept.event.as_ref().is_some_and(|event| event.position == *position);
        self.taken.parked.iter().find(|(kept, _)| is_event(kept)).and_then(|(kept, _)| kept.moved_by)
    }

    /// What the store writes for this attempt. `frees`: the key of the request, if no event is parked under it any more.
    pub(super) fn release<'v>(
        &self,
        outcomes: &'v [Outcome<'v>],
        progress: OperationProgress<'v>,
        frees: Option<KeyId>,
        lines: &Blocked,
    ) -> Release<'v> {
        let mut stored = StoredOutcomes::default();
        let dead_letter = self.taken.dead_letter.as_ref().map(|(dead_letter, partition, code)| {
            let counts = stored.shifts.entry(partition.clone()).or_default();
            add(&mut counts.dead, code, -1);
            match self.taken.action {
                DeadLetterAction::Discard => add(&mut counts.skipped, "discarded", 1),
                DeadLetterAction::Retry => counts.count(&outcomes[0]),
            }
            match (self.taken.action, &outcomes.first()) {
                (DeadLetterAction::Retry, Some(Outcome::Dead { failure, .. })) => {
                    (dead_letter.id, RetryResult::Failed(failure))
                }
                _ => (dead_letter.id, RetryResult::Gone),
            }
        });
        for (outcome, (parked, partition)) in self.of_parked(outcomes).iter().zip(&self.taken.parked) {
            if !matches!(outcome, Outcome::Park(_)) || !Self::stays(outcome, lines) {
                stored.record(parked.id, partition, false, outcome);
            }
        }
        let StoredOutcomes { settled, waits_on, shifts } = stored;
        let (shifts, frees) = (shifts.into_iter().collect(), frees.into_iter().collect());
        Release { operation: Some(progress), dead_letter, settled, waits_on, shifts, frees }
    }
}

/// The changes that an event leads to, for the result of a dry run.
fn changes<'o>(
    outcome: &'o Outcome<'_>,
    delivery: &'o Delivery,
    contract: &'o Contract,
) -> impl Iterator<Item = Json> + 'o {
    let changes = if let Outcome::Apply(changes) = outcome { &changes[..] } else { &[] };
    changes.iter().map(|change| {
        let write = &contract.writes[usize::from(change.statement)];
        let table = &contract.tables[write.table];
        let columns = write.argument_columns().map(|column| table.columns[column].name.clone());
        let arguments = columns.zip(change.arguments.iter().map(|value| json!(value.to_string())));
        json!({
            "event": delivery.event.position.to_string(),
            "statement": write.name,
            "table": table.name,
            "arguments": arguments.collect::<serde_json::Map<_, _>>(),
        })
    })
}
