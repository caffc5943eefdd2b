//! Events that waited, at an operator's request: a dead letter and those parked behind it, in order.

use std::collections::{BTreeMap, HashMap};

use projector_model::Contract;
use serde_json::{Value as Json, json};

use super::{Isolate, Settler, isolate, writes};
use crate::batch::Delivery;
use crate::event::{Event, Partition, Position};
use crate::failure::FailureKind;
use crate::outcome::{Failure, Outcome};
use crate::project::{self, Caller, Keys, ProjectError};
use crate::store::operator::{Action, Fate, Open, Release, Taken, Verdict};
use crate::store::{Books, StoreError, add};

impl Settler {
    /// Does what an operator asked for, in transactions of at most so many events: what waits longer keeps
    /// its place, and whoever comes next goes on with it. `None`: it was done or withdrawn meanwhile.
    pub async fn release(&self, operation: &Open, most: usize) -> Result<Option<Verdict>, ProjectError> {
        // What the database refused, on committed rows.
        let mut refused: HashMap<Position, Failure> = HashMap::new();
        let mut tried = most;
        loop {
            match self.release_some(operation, tried.max(1), &refused).await {
                Ok(Step::Gone) => return Ok(None),
                Ok(Step::Done(verdict)) => return Ok(Some(verdict)),
                Ok(Step::More) => tried = most,
                Err(Failed { error: ProjectError::Store(error), events }) => {
                    match isolate(error, events.len())? {
                        Isolate::First(failure) => drop(refused.insert(events[0].clone(), failure)),
                        Isolate::Cut(events) => tried = events,
                    }
                }
                Err(Failed { error, .. }) => return Err(error),
            }
        }
    }

    async fn release_some(
        &self,
        operation: &Open,
        most: usize,
        refused: &HashMap<Position, Failure>,
    ) -> Result<Step, Failed> {
        let contract = &self.deployment.contract;
        let mut tx = self.store.begin(&self.deployment).await?;
        let Some(taken) = tx.take(operation.id, most).await? else { return Ok(Step::Gone) };
        let mut work = Work::of(taken, operation.action, most);
        if let Some(verdict) = work.impossible(contract) {
            drop(tx);
            self.store.answer(operation.id, &verdict).await?;
            return Ok(Step::Done(verdict));
        }
        let mut answers = tokio::task::block_in_place(|| project::ask(&self.plugin, &work.events))?;
        work.events.truncate(answers.len());
        for (delivery, answer) in work.events.iter().zip(&mut answers) {
            if let Some(failure) = refused.get(&delivery.event.position) {
                *answer = Err(failure.clone());
            }
        }
        // What waited keeps waiting behind the next one that fails, whatever the policy is by now.
        let keys = Keys { park: true, ..Keys::default() };
        let mut caller = Caller::new(&self.plugin);
        let outcomes = self.resolve(&mut caller, &mut *tx, &work.events, &answers, &[], keys, &mut 0)?;
        let batch = &work.events[..outcomes.len()];
        let verdict = work.verdict(&outcomes, operation.dry_run, contract);
        let mut writes = writes(batch, &outcomes);
        // These are kept already.
        writes.parked.clear();
        if work.tries_letter && matches!(outcomes[0], Outcome::Dead { .. }) {
            writes.dead.remove(0);
        }
        let stuck = verdict.behind.is_some() || !verdict.is_settled();
        let frees = !stuck && verdict.waiting == 0;
        writes.release = Some(work.release(operation, &outcomes, &verdict, frees, stuck || frees));
        let failed = |error: StoreError| Failed {
            error: error.into(),
            events: batch.iter().map(|delivery| delivery.event.position.clone()).collect(),
        };
        tx.write(&writes).await.map_err(failed)?;
        if operation.dry_run {
            drop(tx);
            self.store.answer(operation.id, &verdict).await?;
            return Ok(Step::Done(verdict));
        }
        tx.commit().await.map_err(failed)?;
        Ok(if stuck || frees { Step::Done(verdict) } else { Step::More })
    }
}

enum Step {
    Gone,
    More,
    Done(Verdict),
}

/// Why events that waited were not let go, and which.
struct Failed {
    error: ProjectError,
    events: Vec<Position>,
}

impl From<ProjectError> for Failed {
    fn from(error: ProjectError) -> Self {
        Self { error, events: Vec::new() }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        ProjectError::from(error).into()
    }
}

/// What one transaction takes of what waits.
struct Work {
    taken: Taken,
    action: Action,
    /// The dead letter, if it is to be tried, and then those parked behind it.
    events: Vec<Delivery>,
    tries_letter: bool,
}

impl Work {
    fn of(mut taken: Taken, action: Action, most: usize) -> Self {
        let delivery = |event: &Event| Delivery { event: event.clone(), epoch: 0 };
        let letter = taken.letter.as_ref().and_then(|(kept, ..)| kept.event.as_ref());
        let letter = letter.filter(|_| action == Action::Retry).map(delivery);
        let tries_letter = letter.is_some();
        taken.parked.truncate(most - usize::from(tries_letter));
        let parked = taken.parked.iter().filter_map(|kept| kept.event.as_ref()).map(delivery);
        let events = letter.into_iter().chain(parked).collect();
        Self { taken, action, events, tries_letter }
    }

    /// An event of a topic that the component reads no more cannot be projected, and nothing passes it.
    fn impossible(&self, contract: &Contract) -> Option<Verdict> {
        let letter =
            self.taken.letter.as_ref().map(|(kept, ..)| kept).filter(|_| self.action == Action::Retry);
        letter.into_iter().chain(&self.taken.parked).any(|kept| kept.event.is_none()).then(|| {
            let detail = format!("version {} does not read its topic", contract.descriptor.version);
            Verdict { detail: Some(detail), ..Verdict::of(FailureKind::Invalid.as_str()) }
        })
    }

    /// What became of those parked, as far as it was tried.
    fn of_parked<'o>(&self, outcomes: &'o [Outcome<'o>]) -> &'o [Outcome<'o>] {
        &outcomes[usize::from(self.tries_letter)..]
    }

    /// What has come of the operation with these outcomes.
    fn verdict(&self, outcomes: &[Outcome<'_>], dry_run: bool, contract: &Contract) -> Verdict {
        let mut verdict = match (&self.taken.letter, self.action) {
            _ if !self.taken.so_far.outcome.is_empty() => self.taken.so_far.clone(),
            (None, _) => Verdict::of("gone"),
            (Some(_), Action::Discard) => Verdict::of("discarded"),
            (Some(_), Action::Retry) => match &outcomes[0] {
                Outcome::Dead { failure, .. } => Verdict::failed(failure),
                Outcome::Ignore { code } => {
                    Verdict { code: Some(code.to_string()), ..Verdict::of("ignored") }
                }
                Outcome::Apply(_) | Outcome::Park(_) => Verdict::of("applied"),
            },
        };
        verdict.waiting = self.taken.parked_count;
        for (outcome, kept) in self.of_parked(outcomes).iter().zip(&self.taken.parked) {
            verdict.waiting -= i64::from(!matches!(outcome, Outcome::Park(_)));
            match outcome {
                Outcome::Apply(_) => verdict.applied += 1,
                Outcome::Ignore { .. } => verdict.ignored += 1,
                Outcome::Dead { .. } => {
                    verdict.behind = kept.event.as_ref().map(|event| event.position.to_string());
                }
                Outcome::Park(_) => {}
            }
        }
        if dry_run {
            let events = outcomes.iter().zip(&self.events);
            verdict.changes = events.flat_map(|(outcome, event)| changes(outcome, event, contract)).collect();
        }
        verdict
    }

    fn release<'v>(
        &self,
        operation: &Open,
        outcomes: &'v [Outcome<'v>],
        verdict: &'v Verdict,
        frees: bool,
        done: bool,
    ) -> Release<'v> {
        let mut shifts: BTreeMap<Partition, Books> = BTreeMap::new();
        let letter = self.taken.letter.as_ref().map(|(kept, partition, code)| {
            let books = shifts.entry(partition.clone()).or_default();
            add(&mut books.dead, code, -1);
            match self.action {
                Action::Discard => add(&mut books.skipped, "discarded", 1),
                Action::Retry => books.count(&outcomes[0]),
            }
            match (self.action, &outcomes.first()) {
                (Action::Retry, Some(Outcome::Dead { failure, .. })) => (kept.id, Fate::Failed(failure)),
                _ => (kept.id, Fate::Gone),
            }
        });
        let mut settled = Vec::new();
        for (outcome, kept) in self.of_parked(outcomes).iter().zip(&self.taken.parked) {
            if let (false, Some(event)) = (matches!(outcome, Outcome::Park(_)), &kept.event) {
                let books = shifts.entry(event.position.partition.clone()).or_default();
                books.parked -= 1;
                books.count(outcome);
                settled.push(kept.id);
            }
        }
        let shifts = shifts.into_iter().collect();
        Release {
            operation: operation.id,
            key: self.taken.key,
            letter,
            settled,
            shifts,
            frees,
            verdict,
            done,
        }
    }
}

/// The changes that an event leads to, for a person.
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
