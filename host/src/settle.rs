//! Commits one batch of events in one transaction of the store.
//!
//! The events are new ones from the log, or stored ones: dead letters, parked events and waiting events.
//!
//! The steps: begin → read which keys are blocked → read the rows that events ask for → decide the outcomes → write
//! rows, dead letters, parked events and checkpoints → commit. If a step fails, nothing is written, and the caller
//! decides what follows: a retry, a smaller batch ([`Isolate`]), or the end of the run.
//!
//! Only `release` sends requests to Kafka: it reads a value that was too large to be stored with its event.

mod known_failures;
mod ready;
mod release;
mod release_attempt;
mod release_many;
mod stored_outcomes;

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
    /// The previous version, while the active one is on trial.
    pub on_trial: Option<OnTrial>,
    pub dead_letters: DeadLetterLog,
}

/// The trial of the active version: if it fails for an event, the host calls the previous version with the same event.
#[derive(Clone)]
pub struct OnTrial {
    pub previous: Arc<PreviousVersion>,
    /// The last event for which both versions failed. The host does not call the previous version for it again.
    pub compared: Option<Position>,
}

/// The version that was active before the one on trial. It is only called for comparison: nothing that it returns is
/// committed.
pub struct PreviousVersion {
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
        let previous = PreviousVersion { deployment, store: settler.store.clone(), plugin };
        Self { previous: Arc::new(previous), compared: None }
    }
}

impl PreviousVersion {
    /// Whether the previous version fails for an event too, given the rows that are committed now. It fails if its
    /// answer is a failure, if it exceeds a time limit, or if the database rejects its changes. Nothing is committed.
    ///
    /// `contract`: the contract of the version on trial. The topic numbers in the event belong to this contract.
    pub async fn fails_for(&self, delivery: &Delivery, contract: &Contract) -> Result<bool, ProjectError> {
        let mut delivery = delivery.clone();
        let event = &mut delivery.event;
        let place = |topic: u16| {
            let name = &contract.topics[usize::from(topic)].name;
            let at = self.plugin.contract.topics.iter().position(|known| known.name == *name);
            at.map(|at| at as u16)
        };
        // Of the event's logical topics, keep those that the previous version reads too. If it reads none of them, it
        // could never have handled this event. Then the failure is no reason to revert the new version, so the answer
        // is the same as for an event that fails in both versions.
        let mut known = (0..event.topic_count()).filter_map(|nth| place(event.nth_topic(nth)));
        let Some(first) = known.next() else { return Ok(true) };
        (event.also, event.topic) = (known.collect(), first);
        let batch = [delivery];
        // A timeout counts as a failure: the previous version cannot handle the event either.
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
        // Writing shows whether the database accepts the changes. The transaction is dropped here without a commit.
        match tx.write(&writes(&batch, &outcomes)).await {
            Ok(_) => Ok(false),
            Err(StoreError::Rejected { .. } | StoreError::Data(_)) => Ok(true),
            // A slow statement counts as a failure, as a timeout does.
            Err(error) if error.kind() == FailureKind::Slow => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// The result of one attempt to commit a batch.
pub struct Attempt {
    /// The attempt took this many events from the front of the batch. The others are for the next batch.
    pub events: usize,
    /// How many statements wrote rows, and how many times rows were read.
    pub statements: u64,
    pub reads: u64,
    /// Whether the attempt wrote a row that stored events wait for. These events can be tried now.
    pub made_ready: bool,
    /// `Ok`: all of these events were committed. `Err`: none was. The [`Flood`] counts the failures among the last
    /// events.
    pub result: Result<(Vec<Advance>, Flood), ProjectError>,
}

impl Settler {
    /// Switches to another version, from the next batch on.
    pub fn switch_to(&mut self, plugin: Plugin) {
        self.deployment.digest = plugin.digest.as_str().into();
        self.deployment.contract = plugin.contract.clone();
        self.plugin = plugin;
    }

    /// Commits events from the front of a batch: as many as fit into one transaction. `answers`: the plugin's first
    /// answer to each event. `checkpoint`: the stored checkpoint of a partition, as this lane knows it.
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
        self.cut_before_trial_failure(&mut outcomes, batch)?;
        let flood = self.cut_before_halt(&mut outcomes, batch, flood)?;
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
        self.check_stored_limits(&mut *tx, &writes).await?;
        attempt.statements = tx.write(&writes).await?;
        attempt.made_ready = tx.made_ready();
        tx.commit().await?;
        self.dead_letters.committed(&self.deployment.generation, &writes.dead);
        Ok((advances, flood))
    }

    /// While a version is on trial, ends the batch before the first event that fails.
    ///
    /// The events before the failed one are committed first. The next attempt then begins with the failed event and
    /// returns [`ProjectError::OnTrial`], and the caller calls the previous version with the same event and the same
    /// committed rows. An event for which both versions failed is not cut off again.
    fn cut_before_trial_failure(
        &self,
        outcomes: &mut Vec<Outcome<'_>>,
        batch: &[Delivery],
    ) -> Result<(), ProjectError> {
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

    /// Ends the batch before the first event that an operator must decide about: a failed event with the policy `halt`,
    /// or the failure that makes a flood. The events before it are committed. If it is the first event of the batch,
    /// the projection is blocked.
    fn cut_before_halt(
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

    /// Blocks the projection if this batch would store more dead letters or parked events than `[failures]` allows.
    async fn check_stored_limits(
        &self,
        tx: &mut dyn Transaction,
        writes: &Writes<'_>,
    ) -> Result<(), ProjectError> {
        if writes.dead.is_empty() && writes.parked.is_empty() {
            return Ok(());
        }
        let (dead, parked) = tx.failed_and_waiting().await?;
        let (dead, parked) = (dead + writes.dead.len() as i64, parked + writes.parked.len() as i64);
        self.failures.check_room(dead, parked).map_err(ProjectError::Blocker)
    }
}

/// Decides the outcomes of events, with the rows that the transaction sees. Blocks this thread: the plugin runs on it.
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

/// How a batch moves the checkpoint of each partition, with the counts of its outcomes. `outcomes` may have fewer
/// entries than the batch: the other events are not counted yet.
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
            counts: OutcomeCounts::default(),
        });
        advance.next = position.offset + 1;
        if let Some(outcome) = outcomes.get(at) {
            advance.counts.count(outcome);
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

/// What to do after the database has rejected a batch.
#[derive(Debug)]
pub enum Isolate {
    /// The first event is the cause: all events before it are committed. The event has failed.
    First(Failure),
    /// Try this many events from the front of the batch, in a transaction of their own.
    Cut(usize),
}

/// An event fails if its statement exceeds the statement timeout this many times, with no other event in the batch.
const SLOW_TRIES: u32 = 3;

/// Counts how many times in a row a statement for one event alone exceeded the statement timeout.
#[derive(Debug, Default)]
pub struct SlowTries {
    tries: u32,
}

impl SlowTries {
    /// What to do after a statement exceeded the statement timeout. `events`: how many events the batch had.
    ///
    /// The batch is halved, until it has one event. A timeout of one event alone is not yet the event's fault: the
    /// database may be busy. So the event is tried alone three times before it fails. `None`: the error is not
    /// a statement timeout.
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
        let detail = format!("its statement was too slow {SLOW_TRIES} times, without other events: {outage}");
        Some(Isolate::First(Failure::new(FailureKind::TooSlow, "statement-timeout", detail)))
    }
}

/// Finds the event that caused an error, in a batch of `events` events.
///
/// Whether the database rejects an event depends on the rows that the events before it wrote. So these are committed
/// first, and the event is tried again as the first of its batch. If the database does not report which event it
/// rejected, the batch is halved until one event is left. An error that no event caused is returned as it is.
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
        let (mut slow, error) = (SlowTries::default(), of_kind(FailureKind::Slow));
        assert!(slow.isolate(&of_kind(FailureKind::Database), 1).is_none());
        assert!(matches!(slow.isolate(&error, 5), Some(Isolate::Cut(3))));
        for _ in 1..SLOW_TRIES {
            assert!(matches!(slow.isolate(&error, 1), Some(Isolate::Cut(1))));
        }
        let Some(Isolate::First(failure)) = slow.isolate(&error, 1) else { panic!("the event did not fail") };
        assert_eq!((failure.kind, &*failure.code), (FailureKind::TooSlow, "statement-timeout"));
    }
}
