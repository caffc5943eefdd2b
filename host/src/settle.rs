//! One batch in one transaction: of the log, or of events that had waited.
//!
//! Begin → what of it waits → the rows that it asks for → outcomes → rows, dead letters, parked events and
//! checkpoints → commit. Only `release` asks Kafka: for a value that was left in the log.

mod kept_events;
mod late_failures;
mod lone_letters;
mod ready;
mod release;
mod work;

pub use release::Released;

use std::collections::BTreeMap;
use std::sync::Arc;

use projector_model::Contract;
use tokio::runtime::Handle;

use crate::awaited;
use crate::batch::Delivery;
use crate::dead_letter_log::DeadLetterLog;
use crate::duplicate::{Ids, Known, record_times};
use crate::event::{Partition, Position};
use crate::event_failure::Failure;
use crate::failure::{Blocker, FailureKind};
use crate::failure_policy::{Failures, Flood, Policy};
use crate::ordering::KeyId;
use crate::outcome::{self, Outcome};
use crate::plugin::Plugin;
use crate::project::{self, Answered, Caller, FirstAnswers, Keys, ProjectError};
use crate::store::{
    Advance, DeadLetter, OutcomeCounts, Parked, Store, StoreError, Transaction, WriteTarget, Writes,
};

/// What a lane writes with.
#[derive(Clone)]
pub struct Settler {
    pub deployment: WriteTarget,
    pub plugin: Plugin,
    pub store: Arc<dyn Store>,
    pub failures: Failures,
    /// The version before, while this one is on trial.
    pub on_trial: Option<OnTrial>,
    pub dead_letters: DeadLetterLog,
}

/// A version that follows another one is on trial: where it fails for an event, that one is asked as well.
#[derive(Clone)]
pub struct OnTrial {
    pub before: Arc<Before>,
    /// The event for which both fail.
    pub compared: Option<Position>,
}

/// The version that was active before. It writes nothing.
pub struct Before {
    pub deployment: WriteTarget,
    pub store: Arc<dyn Store>,
    plugin: Plugin,
}

impl OnTrial {
    pub fn against(settler: &Settler, plugin: Plugin) -> Self {
        let deployment = WriteTarget {
            digest: plugin.digest.as_str().into(),
            contract: plugin.contract.clone(),
            ..settler.deployment.clone()
        };
        let before = Before { deployment, store: settler.store.clone(), plugin };
        Self { before: Arc::new(before), compared: None }
    }
}

impl Before {
    /// Whether the version before fails for an event as well, with the rows as they are committed: in its
    /// own answer, or because the database refuses what it writes. Topics are told by `contract`.
    pub async fn fails_for(&self, delivery: &Delivery, contract: &Contract) -> Result<bool, ProjectError> {
        let mut delivery = delivery.clone();
        let event = &mut delivery.event;
        let place = |topic: u16| {
            let name = &contract.topics[usize::from(topic)].name;
            let at = self.plugin.contract.topics.iter().position(|known| known.name == *name);
            at.map(|at| at as u16)
        };
        // Those that this version does not read do not fail in it.
        let mut known = (0..event.topic_count()).filter_map(|nth| place(event.nth_topic(nth)));
        let Some(first) = known.next() else { return Ok(true) };
        (event.also, event.topic) = (known.collect(), first);
        let batch = [delivery];
        // What runs out of time fails as well.
        let answers = match tokio::task::block_in_place(|| project::ask(&self.plugin, &batch)) {
            Err(ProjectError::Timeout(_)) => return Ok(true),
            answers => answers?,
        };
        let mut tx = self.store.begin_read_only(&self.deployment).await?;
        let mut caller = Caller::new(&self.plugin);
        let answered = Answered { events: &batch, answers: &answers, duplicates: &[] };
        let outcomes = resolve(&mut caller, &mut *tx, answered, Keys::default(), &mut 0);
        let outcomes = match outcomes {
            Err(ProjectError::Timeout(_)) => return Ok(true),
            Err(ProjectError::Store(error)) if error.kind() == FailureKind::Slow => return Ok(true),
            outcomes => outcomes?,
        };
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Dead { .. })) {
            return Ok(true);
        }
        // Dropped, and so never committed.
        match tx.write(&writes(&batch, &outcomes)).await {
            Ok(_) => Ok(false),
            Err(StoreError::Rejected { .. } | StoreError::Data(_)) => Ok(true),
            // As what runs out of time.
            Err(error) if error.kind() == FailureKind::Slow => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// One attempt at a batch.
pub struct Attempt {
    /// How many of its first events it was about: the others are for the next batch. What became of them
    /// is `result`.
    pub events: usize,
    /// Statements that wrote rows, and times that rows were read.
    pub statements: u64,
    pub reads: u64,
    /// Whether it wrote a row that events wait for: they are to be tried.
    pub made_ready: bool,
    /// All of these events, or nothing; and the tide of failures after them.
    pub result: Result<(Vec<Advance>, Flood), ProjectError>,
}

impl Settler {
    /// From the next batch on, another version.
    pub fn go_over_to(&mut self, plugin: Plugin) {
        self.deployment.digest = plugin.digest.as_str().into();
        self.deployment.contract = plugin.contract.clone();
        self.plugin = plugin;
    }

    /// Settles the first events of a batch: all that can be, in one transaction. `answers`: what the
    /// plugin said of each. `checkpoint`: where each partition's is.
    pub async fn attempt(
        &self,
        caller: &mut Caller<'_>,
        batch: &[Delivery],
        answers: &[FirstAnswers],
        checkpoint: &(dyn Fn(&Partition) -> i64 + Sync),
        flood: &Flood,
    ) -> Attempt {
        let mut attempt = Attempt {
            events: batch.len(),
            statements: 0,
            reads: 0,
            made_ready: false,
            result: Ok(Default::default()),
        };
        let batch = Answered { events: batch, answers, duplicates: &[] };
        attempt.result = self.commit(caller, batch, checkpoint, flood, &mut attempt).await;
        attempt
    }

    async fn commit(
        &self,
        caller: &mut Caller<'_>,
        answered: Answered<'_, '_>,
        checkpoint: &(dyn Fn(&Partition) -> i64 + Sync),
        flood: &Flood,
        attempt: &mut Attempt,
    ) -> Result<(Vec<Advance>, Flood), ProjectError> {
        let contract = &*self.deployment.contract;
        let batch = answered.events;
        let ids = Ids::of(contract, batch);
        let mut tx = self.store.begin(&self.deployment).await?;
        let park = self.failures.policy == Policy::ParkKey;
        let mut keys = Keys { park, ..Keys::default() };
        if tx.blocks_any() {
            let of_batch = batch.iter().flat_map(|delivery| KeyId::all_of(contract, &delivery.event));
            keys.blocked = tx.blocked(of_batch.collect()).await?;
        }
        let known = match ids.given() {
            [] => Known::default(),
            given => tx.known(given).await?,
        };
        let duplicates = ids.duplicates(&known);
        let answered = Answered { duplicates: &duplicates, ..answered };
        let mut outcomes = resolve(caller, &mut *tx, answered, keys, &mut attempt.reads)?;
        self.try_out(&mut outcomes, batch)?;
        let flood = self.hold_back(&mut outcomes, batch, flood)?;
        attempt.events = outcomes.len();
        let batch = &batch[..outcomes.len()];
        let advances = advances(batch, &outcomes, checkpoint);
        let mut writes = writes(batch, &outcomes);
        writes.advances = advances.clone();
        writes.ids = ids.remembered(batch, &duplicates);
        writes.record_times = record_times(contract, batch);
        writes.duplicates = ids.ignored(batch, &duplicates, &known);
        writes.without_id = ids.without(contract, batch);
        if tx.blocks_any() || outcomes.iter().any(|outcome| matches!(outcome, Outcome::Wait { .. })) {
            writes.rows = awaited::written(contract, outcome::applied(batch, &outcomes));
        }
        self.check_room(&mut *tx, &writes).await?;
        attempt.statements = tx.write(&writes).await?;
        attempt.made_ready = tx.made_ready();
        tx.commit().await?;
        self.dead_letters.committed(&self.deployment.generation, &writes.dead);
        Ok((advances, flood))
    }

    /// On trial, an event that fails is for the version before to look at, when those before it are settled.
    fn try_out(&self, outcomes: &mut Vec<Outcome<'_>>, batch: &[Delivery]) -> Result<(), ProjectError> {
        let Some(on_trial) = &self.on_trial else { return Ok(()) };
        let is_new = |(at, outcome): (usize, &Outcome<'_>)| {
            let compared = on_trial.compared.as_ref() == Some(&batch[at].event.position);
            matches!(outcome, Outcome::Dead { .. }) && !compared
        };
        let Some(at) = outcomes.iter().enumerate().position(is_new) else { return Ok(()) };
        match &outcomes[at] {
            Outcome::Dead { failure, .. } if at == 0 => {
                Err(ProjectError::OnTrial(failure.clone().into_owned()))
            }
            _ => {
                outcomes.truncate(at);
                Ok(())
            }
        }
    }

    /// Leaves the first event that is not to be settled, and all after it, to a person: those before it
    /// are settled first.
    fn hold_back(
        &self,
        outcomes: &mut Vec<Outcome<'_>>,
        batch: &[Delivery],
        flood: &Flood,
    ) -> Result<Flood, ProjectError> {
        if self.failures.policy == Policy::Halt {
            let failed = outcomes.iter().position(|outcome| matches!(outcome, Outcome::Dead { .. }));
            outcomes.truncate(failed.unwrap_or(outcomes.len()).max(1));
            if let [Outcome::Dead { failure, .. }] = &outcomes[..] {
                let reason = format!("the event at {} failed: {failure}", batch[0].event.position);
                return Err(ProjectError::Blocker(Blocker::new(FailureKind::Halted, reason)));
            }
        }
        let (admitted, after) = flood.admit(&self.failures, outcomes);
        if let (0, Some(Outcome::Dead { failure, .. })) = (admitted, outcomes.first()) {
            let next = format!("{}, {failure}", batch[0].event.position);
            return Err(ProjectError::Blocker(after.trouble(&self.failures, &next)));
        }
        outcomes.truncate(admitted);
        Ok(after)
    }

    /// Whether there is room for what a batch adds to those that wait.
    async fn check_room(&self, tx: &mut dyn Transaction, writes: &Writes<'_>) -> Result<(), ProjectError> {
        if writes.dead.is_empty() && writes.parked.is_empty() {
            return Ok(());
        }
        let (dead, parked) = tx.waiting().await?;
        let (dead, parked) = (dead + writes.dead.len() as i64, parked + writes.parked.len() as i64);
        self.failures.check_room(dead, parked).map_err(ProjectError::Blocker)
    }
}

/// Brings events to their outcomes, with rows as the transaction sees them.
fn resolve<'a>(
    caller: &mut Caller<'_>,
    tx: &mut dyn Transaction,
    batch: Answered<'a, '_>,
    keys: Keys,
    reads: &mut u64,
) -> Result<Vec<Outcome<'a>>, ProjectError> {
    tokio::task::block_in_place(|| {
        let mut read = |calls: &[_], most_bytes: usize| {
            *reads += 1;
            Handle::current().block_on(tx.read(calls, most_bytes))
        };
        project::resolve(caller, batch, keys, &mut read)
    })
}

/// How a batch moves the checkpoints, and what became of its events, if that is known.
pub fn advances(
    batch: &[Delivery],
    outcomes: &[Outcome<'_>],
    checkpoint: &(dyn Fn(&Partition) -> i64 + Sync),
) -> Vec<Advance> {
    let mut advances: BTreeMap<&Partition, Advance> = BTreeMap::new();
    for (at, delivery) in batch.iter().enumerate() {
        let position = &delivery.event.position;
        let advance = advances.entry(&position.partition).or_insert_with(|| Advance {
            partition: position.partition.clone(),
            expected: checkpoint(&position.partition),
            next: 0,
            books: OutcomeCounts::default(),
        });
        advance.next = position.offset + 1;
        if let Some(outcome) = outcomes.get(at) {
            advance.books.count(outcome);
        }
    }
    advances.into_values().collect()
}

fn writes<'b>(batch: &'b [Delivery], outcomes: &'b [Outcome<'b>]) -> Writes<'b> {
    let positions = batch.iter().map(|delivery| &delivery.event.position).collect();
    let mut writes = Writes { positions, ..Writes::default() };
    for (at, (Delivery { event, .. }, outcome)) in batch.iter().zip(outcomes).enumerate() {
        match outcome {
            Outcome::Apply(changes) => writes.changes.push((at, changes)),
            Outcome::Ignore { .. } => {}
            Outcome::Park(key) => writes.parked.push(Parked { event, key: *key, row: None }),
            Outcome::Wait { row, line } => {
                writes.parked.push(Parked { event, key: *line, row: Some(row) });
            }
            Outcome::Dead { failure, blocks } => {
                writes.dead.push(DeadLetter { event, failure, blocks: *blocks, moved_by: None });
            }
        }
    }
    writes
}

/// What follows when the database refuses something of a batch.
#[derive(Debug)]
pub enum Isolate {
    /// The first event is refused on committed rows: it failed.
    First(Failure),
    /// Only so many of the first events are to be tried, in a transaction of their own.
    Cut(usize),
}

/// Times that a statement of one event may run too long before that is the event's fault.
const SLOW_TRIES: u32 = 3;

/// Statements that ran longer than they may, in one try after the other.
#[derive(Debug, Default)]
pub struct Slow {
    tries: u32,
}

impl Slow {
    /// What follows when a statement for so many events ran too long: fewer are tried, and at last the first
    /// alone, which fails after some tries, since the database did other things meanwhile. `None`: another error.
    pub fn isolate(&mut self, error: &StoreError, events: usize) -> Option<Isolate> {
        let StoreError::Unavailable(outage) = error else { return None };
        if outage.kind != FailureKind::Slow || events == 0 {
            return None;
        }
        if events > 1 {
            return Some(Isolate::Cut(events.div_ceil(2)));
        }
        self.tries += 1;
        if self.tries < SLOW_TRIES {
            return Some(Isolate::Cut(1));
        }
        self.tries = 0;
        let detail = format!("{SLOW_TRIES} times, for this event alone: {outage}");
        Some(Isolate::First(Failure::new(FailureKind::TooSlow, "statement-timeout", detail)))
    }
}

/// How to find the event that is at fault, in a batch of so many: one that is refused is refused given the
/// events before it, and they may not stand; where the database does not say which, halves lead to it.
pub fn isolate(error: StoreError, events: usize) -> Result<Isolate, StoreError> {
    match error {
        error if events == 0 => Err(error),
        StoreError::Rejected { event: 0, rejection } => {
            Ok(Isolate::First(Failure::new(FailureKind::Refused, &rejection.code, rejection.detail)))
        }
        StoreError::Rejected { event, .. } => Ok(Isolate::Cut(event)),
        StoreError::Data(refusal) if events == 1 => Ok(Isolate::First(Failure::refused(refusal))),
        StoreError::Data(_) => Ok(Isolate::Cut(events.div_ceil(2))),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Outage;

    #[test]
    fn a_slow_statement_is_an_events_fault_only_alone_and_after_some_tries() {
        let of_kind = |kind| StoreError::Unavailable(Outage { kind, message: "canceled".into() });
        let (mut slow, error) = (Slow::default(), of_kind(FailureKind::Slow));
        assert!(slow.isolate(&of_kind(FailureKind::Database), 1).is_none());
        assert!(matches!(slow.isolate(&error, 5), Some(Isolate::Cut(3))));
        for _ in 1..SLOW_TRIES {
            assert!(matches!(slow.isolate(&error, 1), Some(Isolate::Cut(1))));
        }
        let Some(Isolate::First(failure)) = slow.isolate(&error, 1) else { panic!("it is not the event's") };
        assert_eq!((failure.kind, &*failure.code), (FailureKind::TooSlow, "statement-timeout"));
    }
}
