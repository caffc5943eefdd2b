//! The events of one try at an operator's request, and the result that they lead to.

use std::collections::HashMap;

use projector_core::batch::Delivery;
use projector_core::counters::add;
use projector_core::event::{Event, Partition, Position};
use projector_core::event_failure::Failure;
use projector_core::ordering::{Blocked, KeyId};
use projector_core::outcome::Outcome;
use projector_model::Contract;
use projector_store::StoreError;
use projector_store::operator::{
    ClaimedOperation, DeadLetterAction, OperationResult, Progress, Release, RetryResult, StoredEvent,
};
use serde_json::{Value as Json, json};

use super::Settler;
use super::kept_events::KeptEvents;
use super::late_failures::LateFailures;
use crate::project::{self, FirstAnswers, ProjectError};

/// How many changes the result of a dry run shows.
const MOST_CHANGES: usize = 100;

/// A record whose value was left in the log.
#[derive(Clone)]
pub(super) struct LeftInLog {
    pub(super) position: Position,
    /// The operation that moved the partition to another log afterwards.
    pub(super) moved_by: Option<i64>,
    /// Whether this is the dead letter itself, and not an event parked behind it.
    pub(super) is_letter: bool,
}

/// What earlier tries have found out.
#[derive(Default)]
pub(super) struct Known {
    pub(super) failures: LateFailures,
    /// The value of the first event, if it was left in the log.
    pub(super) recalled: Option<(Position, Option<Vec<u8>>)>,
    /// How many bytes a value may have.
    pub(super) value_bytes: usize,
}

/// The events of a request that one transaction takes.
pub(super) struct Work {
    pub(super) taken: ClaimedOperation,
    /// The dead letter, if it is to be tried, and then those parked behind it.
    pub(super) events: Vec<Delivery>,
    pub(super) tries_letter: bool,
}

impl Work {
    /// An event of a topic that is not read any more cannot be projected, and no later event may overtake it.
    pub(super) fn of(mut taken: ClaimedOperation, most: usize) -> Result<Self, StoreError> {
        let unread = |kept: &StoredEvent, partition: &Partition| {
            StoreError::Unusable(format!(
                "event {} waits, of {partition}, which is not among the topics that are read: see `kafka.topics`",
                kept.id
            ))
        };
        let delivery = |event: &Event| Delivery { event: event.clone(), epoch: 0 };
        let mut events = Vec::new();
        if let (DeadLetterAction::Retry, Some((kept, partition, _))) = (taken.action, &taken.letter) {
            events.push(delivery(kept.event.as_ref().ok_or_else(|| unread(kept, partition))?));
        }
        let tries_letter = !events.is_empty();
        taken.parked.truncate(most.max(1) - usize::from(tries_letter));
        for (kept, partition) in &taken.parked {
            match &kept.event {
                Some(event) => events.push(delivery(event)),
                None if events.is_empty() => return Err(unread(kept, partition)),
                None => break,
            }
        }
        Ok(Self { taken, events, tries_letter })
    }

    /// Gives the first event its value, if the value was left in the log. Returns the record that must be read first.
    /// Only one such value is in memory at a time: the next event whose value is in the log begins the next try.
    pub(super) fn recall(&mut self, known: &Known) -> Option<LeftInLog> {
        let fits = |event: &Event| event.oversize_bytes.is_some_and(|bytes| bytes <= known.value_bytes);
        let is_open = |event: &Event| fits(event) && !known.failures.of.contains_key(&event.position);
        if let Some(later) = self.events.iter().skip(1).position(|delivery| is_open(&delivery.event)) {
            self.events.truncate(1 + later);
        }
        let first = self.events.first_mut().filter(|first| is_open(&first.event))?;
        if let Some((_, value)) = known.recalled.as_ref().filter(|(at, _)| *at == first.event.position) {
            first.event.value = value.clone();
            first.event.oversize_bytes = None;
            return None;
        }
        let kept = match (&self.taken.letter, self.tries_letter) {
            (Some((kept, ..)), true) => Some(kept),
            _ => self.taken.parked.first().map(|(kept, _)| kept),
        };
        Some(LeftInLog {
            position: first.event.position.clone(),
            moved_by: kept.and_then(|kept| kept.moved_by),
            is_letter: self.tries_letter,
        })
    }

    /// The plugin's answers to the events, up to the first one that is known to fail.
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

    /// The outcomes of the parked events, as far as they were tried.
    fn of_parked<'o>(&self, outcomes: &'o [Outcome<'o>]) -> &'o [Outcome<'o>] {
        &outcomes[usize::from(self.tries_letter)..]
    }

    /// The result of the request after these outcomes.
    pub(super) fn verdict(
        &self,
        outcomes: &[Outcome<'_>],
        contract: &Contract,
        lines: &Blocked,
    ) -> OperationResult {
        let mut verdict = match (&self.taken.letter, self.taken.action) {
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
        verdict.waiting = self.taken.parked_count;
        for (outcome, (kept, _)) in self.of_parked(outcomes).iter().zip(&self.taken.parked) {
            verdict.waiting -= i64::from(!Self::stays(outcome, lines));
            match outcome {
                Outcome::Apply(_) => verdict.applied += 1,
                Outcome::Ignore { .. } => verdict.ignored += 1,
                Outcome::Dead { .. } => {
                    verdict.behind = kept.event.as_ref().map(|event| event.position.to_string());
                }
                // This event blocks the key from now on.
                Outcome::Wait { .. } if Self::stays(outcome, lines) => {
                    verdict.behind = kept.event.as_ref().map(|event| event.position.to_string());
                }
                Outcome::Park(_) | Outcome::Wait { .. } => {}
            }
        }
        if self.taken.dry_run {
            let events = outcomes.iter().zip(&self.events);
            let changes = events.flat_map(|(outcome, event)| changes(outcome, event, contract));
            verdict.changes = changes.take(MOST_CHANGES).collect();
        }
        verdict
    }

    /// Whether an event stays parked under the key of the request. An event that waits for a row, or behind such an
    /// event, moves to one of these lines.
    fn stays(outcome: &Outcome<'_>, lines: &Blocked) -> bool {
        match outcome {
            Outcome::Park(key) | Outcome::Wait { line: key, .. } => !lines.contains(key),
            Outcome::Apply(_) | Outcome::Ignore { .. } | Outcome::Dead { .. } => false,
        }
    }

    /// The operation that moved the partition of a parked event to another log.
    pub(super) fn moved_by(&self, position: &Position) -> Option<i64> {
        let is_it = |kept: &StoredEvent| kept.event.as_ref().is_some_and(|event| event.position == *position);
        self.taken.parked.iter().find(|(kept, _)| is_it(kept)).and_then(|(kept, _)| kept.moved_by)
    }

    pub(super) fn release<'v>(
        &self,
        outcomes: &'v [Outcome<'v>],
        progress: Progress<'v>,
        frees: Option<KeyId>,
        lines: &Blocked,
    ) -> Release<'v> {
        let mut kept = KeptEvents::default();
        let letter = self.taken.letter.as_ref().map(|(letter, partition, code)| {
            let books = kept.shifts.entry(partition.clone()).or_default();
            add(&mut books.dead, code, -1);
            match self.taken.action {
                DeadLetterAction::Discard => add(&mut books.skipped, "discarded", 1),
                DeadLetterAction::Retry => books.count(&outcomes[0]),
            }
            match (self.taken.action, &outcomes.first()) {
                (DeadLetterAction::Retry, Some(Outcome::Dead { failure, .. })) => {
                    (letter.id, RetryResult::Failed(failure))
                }
                _ => (letter.id, RetryResult::Gone),
            }
        });
        for (outcome, (parked, partition)) in self.of_parked(outcomes).iter().zip(&self.taken.parked) {
            if !matches!(outcome, Outcome::Park(_)) || !Self::stays(outcome, lines) {
                kept.became(parked.id, partition, false, outcome);
            }
        }
        let KeptEvents { settled, waits_on, shifts } = kept;
        let (shifts, frees) = (shifts.into_iter().collect(), frees.into_iter().collect());
        Release { operation: Some(progress), letter, settled, waits_on, shifts, frees }
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
