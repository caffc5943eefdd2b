//! Commits one batch in one transaction: new events of the log, or stored events.
//!
//! Begin → which keys are blocked → the rows that events ask for → outcomes → rows, dead letters, parked events and
//! checkpoints → commit. If a step fails, nothing is written, and the caller decides what follows: a retry, fewer events
//! ([`Isolate`]), or the end of the run. Only `release` asks Kafka: for a value that was left in the log.

mod kept_events;
mod late_failures;
mod lone_letters;
mod ready;
mod release;
mod work;

pub use release::Released;

use std::collections::BTreeMap;
use std::sync::Arc;

use projector_core::awaited;
use projector_core::batch::Delivery;
use projector_core::counters::OutcomeCounts;
use projector_core::duplicate::{Ids, Known, record_times};
use projector_core::event::{Partition, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::failure_policy::{Failures, Flood, Policy};
use projector_core::ordering::KeyId;
use projector_core::outcome::{self, Outcome};
use projector_model::Contract;
use projector_sandbox::Plugin;
use projector_store::{Advance, DeadLetter, Parked, Store, StoreError, Transaction, WriteTarget, Writes};
use tokio::runtime::Handle;

use crate::dead_letter_log::DeadLetterLog;
use crate::project::{self, Answered, Caller, FirstAnswers, Keys, ProjectError};

/// What a lane needs to commit batches.
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

/// The trial of a version: if it fails for an event, the version before is tried with that event as well.
#[derive(Clone)]
pub struct OnTrial {
    pub before: Arc<Before>,
    /// The event for which both versions fail.
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
    /// Whether the version before fails for an event as well, with the committed rows: its answer is a failure, or the
    /// database rejects what it writes. Nothing is committed. `contract` is the one of the event's topic numbers.
    pub async fn fails_for(&self, delivery: &Delivery, contract: &Contract) -> Result<bool, ProjectError> {
        let mut delivery = delivery.clone();
        let event = &mut delivery.event;
        let place = |topic: u16| {
            let name = &contract.topics[usize::from(topic)].name;
            let at = self.plugin.contract.topics.iter().position(|known| known.name == *name);
            at.map(|at| at as u16)
        };
        // Topics that the version before does not read are left out.
        let mut known = (0..event.topic_count()).filter_map(|nth| place(event.nth_topic(nth)));
        let Some(first) = known.next() else { return Ok(true) };
        (event.also, event.topic) = (known.collect(), first);
        let batch = [delivery];
        // A timeout counts as a failure.
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
        // The transaction is dropped and never committed.
        match tx.write(&writes(&batch, &outcomes)).await {
            Ok(_) => Ok(false),
            Err(StoreError::Rejected { .. } | StoreError::Data(_)) => Ok(true),
            // A slow statement counts as a failure, as a timeout does.
            Err(error) if error.kind() == FailureKind::Slow => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// One attempt at a batch.
pub struct Attempt {
    /// How many of the first events the attempt was about. The others are for the next batch.
    pub events: usize,
    /// How many statements wrote rows, and how many times rows were read.
    pub statements: u64,
    pub reads: u64,
    /// Whether it wrote a row that events wait for. These events can be tried now.
    pub made_ready: bool,
    /// All of these events were committed, or none. With the failures among the last events, for the flood check.
    pub result: Result<(Vec<Advance>, Flood), ProjectError>,
}

impl Settler {
    /// Changes to another version, from the next batch on.
    pub fn go_over_to(&mut self, plugin: Plugin) {
        self.deployment.digest = plugin.digest.as_str().into();
        self.deployment.contract = plugin.contract.clone();
        self.plugin = plugin;
    }

    /// Commits the first events of a batch: as many as fit into one transaction. `answers`: the plugin's answer to each
    /// event. `checkpoint`: the checkpoint of a partition.
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

    /// While a version is on trial, an event that fails is not committed: the events before it are committed first, and
    /// then the version before is tried with it.
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

    /// Ends the batch before the first event that an operator must decide about, because of the failure policy or a flood
    /// of failures. If that is the first event, the projection is blocked.
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
            return Err(ProjectError::Blocker(after.blocker(&self.failures, &next)));
        }
        outcomes.truncate(admitted);
        Ok(after)
    }

    /// Checks that the dead letters and parked events of a batch do not exceed their limits.
    async fn check_room(&self, tx: &mut dyn Transaction, writes: &Writes<'_>) -> Result<(), ProjectError> {
        if writes.dead.is_empty() && writes.parked.is_empty() {
            return Ok(());
        }
        let (dead, parked) = tx.waiting().await?;
        let (dead, parked) = (dead + writes.dead.len() as i64, parked + writes.parked.len() as i64);
        self.failures.check_room(dead, parked).map_err(ProjectError::Blocker)
    }
}

/// Decides the outcomes of events, with rows as the transaction sees them.
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

/// How a batch moves the checkpoints, and the counts of its outcomes, as far as they are known.
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

/// What follows when the database rejects something of a batch.
#[derive(Debug)]
pub enum Isolate {
    /// The first event is rejected with committed rows: the event has failed.
    First(Failure),
    /// Try only so many of the first events, in a transaction of their own.
    Cut(usize),
}

/// How many times a statement of one event may be too slow before the event fails.
const SLOW_TRIES: u32 = 3;

/// Counts tries in a row in which a statement was too slow.
#[derive(Debug, Default)]
pub struct Slow {
    tries: u32,
}

impl Slow {
    /// What follows when a statement for so many events was too slow: fewer events are tried, and in the end the first one
    /// alone. It fails only after several tries, because the database may have been busy. `None`: another error.
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

/// Finds the event that caused an error, in a batch of so many events. A rejection depends on the events before it, so
/// these are committed first. If the database does not tell which event it was, the batch is halved until one is left.
/// Returns an error that no event has caused.
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
    use projector_store::Outage;

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
