//! Events that waited, at an operator's request: a dead letter and those parked behind it, in order.

use std::collections::{BTreeMap, HashMap};

use projector_model::Contract;
use serde_json::{Value as Json, json};

use super::{Isolate, Settler, Slow, isolate, resolve, writes};
use crate::awaited;
use crate::batch::{BatchLimits, Delivery};
use crate::checkpoint::{Checkpoint, Identity};
use crate::event::{Event, Partition, Position};
use crate::event_failure::Failure;
use crate::failure::FailureKind;
use crate::ordering::{Blocked, KeyId};
use crate::outcome::{self, Outcome};
use crate::project::{self, Answered, Caller, FirstAnswers, Keys, ProjectError};
use crate::source::{KafkaAdmin, LogError, Recalled};
use crate::store::operator::{
    ClaimedOperation, DeadLetterAction, OpenOperation, OperationResult, Progress, Release, RetryResult,
    StoredEvent, WaitsOn,
};
use crate::store::{OutcomeCounts, StoreError, add};

/// So many changes are shown of a dry run.
const MOST_CHANGES: usize = 100;

/// How far an operation is.
#[derive(Debug, PartialEq, Eq)]
pub enum Released {
    /// More waits than one transaction takes: it keeps its place, and whoever comes next goes on with it.
    More,
    /// Its verdict is stored; or it was done by somebody else, or withdrawn.
    Done,
}

impl Settler {
    /// Does what an operator asked for, as much of it as one transaction takes. What was left in the log is
    /// read there.
    pub async fn release(
        &self,
        operation: &OpenOperation,
        limits: BatchLimits,
        log: &KafkaAdmin,
    ) -> Result<Released, StoreError> {
        let mut known = Known { value_bytes: log.value_bytes(), ..Known::default() };
        let mut tried = limits;
        loop {
            let (error, events) = match self.release_some(operation, tried, &known).await {
                Ok(Tried::Released(released)) => return Ok(released),
                Ok(Tried::InLog(left)) => {
                    // Outside the transaction: the brokers take their time.
                    if let Err(error) = self.recall(left.clone(), &mut known, log).await? {
                        return self.unanswered(operation, &left, error).await;
                    }
                    continue;
                }
                Err(Failed { error, events }) => (error, events),
            };
            known.failures.learn(error, &events, &mut tried.events)?;
        }
    }

    async fn release_some(
        &self,
        operation: &OpenOperation,
        limits: BatchLimits,
        known: &Known,
    ) -> Result<Tried, Failed> {
        let contract = &self.deployment.contract;
        let mut tx = self.store.begin(&self.deployment).await?;
        let Some(taken) = tx.take(operation.id, limits).await? else {
            return Ok(Tried::Released(Released::Done));
        };
        let dry_run = taken.dry_run;
        let mut work = Work::of(taken, limits.events)?;
        if let Some(left) = work.recall(known) {
            return Ok(Tried::InLog(left));
        }
        let answers = work.ask(self, &known.failures.of)?;
        // What waited keeps waiting behind the next one that fails, whatever the policy is by now.
        let lines = work.events.iter().map(|delivery| KeyId::line(contract, &delivery.event));
        let lines = lines.filter(|line| Some(*line) != work.taken.key).collect();
        let mut lines = tx.blocked(lines).await?;
        let blocked = lines.clone();
        let keys = Keys { park: true, impatient: usize::from(work.tries_letter), blocked };
        let mut caller = Caller::new(&self.plugin);
        let answered = Answered { events: &work.events, answers: &answers, duplicates: &[] };
        let outcomes = resolve(&mut caller, &mut *tx, answered, keys, &mut 0)
            .map_err(|error| Failed::of(error, &work.events))?;
        lines.extend(outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Wait { line, .. } if Some(*line) != work.taken.key => Some(*line),
            _ => None,
        }));
        let batch = &work.events[..outcomes.len()];
        let verdict = work.verdict(&outcomes, contract, &lines);
        let mut writes = writes(batch, &outcomes);
        // These are kept already.
        writes.parked.clear();
        if work.tries_letter && matches!(outcomes[0], Outcome::Dead { .. }) {
            writes.dead.remove(0);
        }
        writes.rows = awaited::written(contract, outcome::applied(batch, &outcomes));
        for letter in &mut writes.dead {
            // Also where the component would have it in another group.
            letter.blocks = work.taken.key.or(letter.blocks);
            letter.moved_by = work.moved_by(&letter.event.position);
        }
        let stuck = verdict.behind.is_some() || !verdict.is_settled();
        let frees = !stuck && verdict.waiting == 0;
        let progress = Progress {
            operation: operation.id,
            key: work.taken.key,
            verdict: &verdict,
            done: stuck || frees,
        };
        let is_done = progress.done;
        let frees = work.taken.key.filter(|_| frees);
        writes.release = Some(work.release(&outcomes, progress, frees, &lines));
        tx.write(&writes).await.map_err(|error| Failed::of(error.into(), batch))?;
        match dry_run {
            true => {
                drop(tx);
                self.store.answer(operation.id, &verdict).await?;
            }
            false => {
                tx.commit().await.map_err(|error| Failed::of(error.into(), batch))?;
                self.dead_letters.committed(&self.deployment.generation, &writes.dead);
            }
        }
        let (projection, action) = (contract.name(), operation.action.as_str());
        let OperationResult { outcome, applied, ignored, waiting, .. } = &verdict;
        tracing::info!(
            projection,
            operation = operation.id,
            action,
            dry_run,
            outcome,
            applied,
            ignored,
            waiting,
            "dead letter dealt with"
        );
        Ok(Tried::Released(if is_done || dry_run { Released::Done } else { Released::More }))
    }

    /// Reads a record that was left in the log. What the log does not hold fails for good.
    async fn recall(
        &self,
        left: LeftInLog,
        known: &mut Known,
        log: &KafkaAdmin,
    ) -> Result<Result<(), LogError>, StoreError> {
        let at = &left.position;
        let fails = |code: &str, detail: String| Failure::new(FailureKind::TooLarge, code, detail);
        if let Some(operation) = left.moved_by {
            let detail = format!(
                "its value was left in the log, at {at}, before operation {operation} moved the partition to another log: there, that offset is another record"
            );
            known.failures.of.insert(left.position, fails("other-log", detail));
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
                known.recalled = Some((left.position, value));
                return Ok(Ok(()));
            }
            Recalled::TooLarge { bytes } => fails(
                "value-bytes",
                format!(
                    "its value has {bytes} bytes, more than `kafka.value-bytes`; it was left in the log, at {at}"
                ),
            ),
            Recalled::Gone => fails(
                "gone",
                format!(
                    "its value was left in the log, and the log does not hold the record at {at} any more"
                ),
            ),
            Recalled::OtherLog { stored, found } => fails(
                "other-log",
                format!(
                    "its value was left in the log, at {at}, and the topic is another one now: topic id {} and cluster id {}, and not {} and {}",
                    shown(&found.topic_id),
                    shown(&found.cluster_id),
                    shown(&stored.topic_id),
                    shown(&stored.cluster_id)
                ),
            ),
        };
        known.failures.of.insert(left.position, failure);
        Ok(Ok(()))
    }

    /// The brokers did not say whether the log holds a record. The operation says so and ends, as long as it
    /// has changed nothing; otherwise it is tried again.
    async fn unanswered(
        &self,
        operation: &OpenOperation,
        left: &LeftInLog,
        error: LogError,
    ) -> Result<Released, StoreError> {
        let detail = format!("the record at {} could not be read from the log: {error}", left.position);
        match left.is_letter {
            true => {
                let failure = Failure::new(FailureKind::Brokers, "log", detail);
                self.store.answer(operation.id, &OperationResult::failed(&failure)).await?;
                Ok(Released::Done)
            }
            false => Err(StoreError::Brokers(detail)),
        }
    }
}

fn shown(id: &Option<String>) -> &str {
    id.as_deref().unwrap_or("(unknown)")
}

/// How far one try came.
enum Tried {
    Released(Released),
    /// First, this record is to be read from the log.
    InLog(LeftInLog),
}

/// A record whose value was left in the log.
#[derive(Clone)]
struct LeftInLog {
    position: Position,
    /// The operation that moved the partition to another log since.
    moved_by: Option<i64>,
    /// It is the dead letter itself, and not one of the events behind it.
    is_letter: bool,
}

/// What is known of the events from earlier tries.
#[derive(Default)]
struct Known {
    failures: LateFailures,
    /// The value of the first event, if it was left in the log.
    recalled: Option<(Position, Option<Vec<u8>>)>,
    /// What a value may weigh.
    value_bytes: usize,
}

/// Events that had waited and failed in a way that only shows when they are written, called, or read from the log.
#[derive(Default)]
pub(super) struct LateFailures {
    pub(super) of: HashMap<Position, Failure>,
    slow: Slow,
}

impl LateFailures {
    /// What is learned from a try in vain: which event is at fault, or how many to try next. An error that is nobody's
    /// event is returned.
    pub(super) fn learn(
        &mut self,
        error: ProjectError,
        events: &[Position],
        next: &mut usize,
    ) -> Result<(), StoreError> {
        match error {
            ProjectError::Store(error) => {
                let isolated = match self.slow.isolate(&error, events.len()) {
                    // What is written of an event that failed is the host's own.
                    Some(Isolate::First(_)) if self.of.contains_key(&events[0]) => return Err(error),
                    Some(isolated) => isolated,
                    None => isolate(error, events.len())?,
                };
                match isolated {
                    // It is refused although it writes no rows: trying on would change nothing.
                    Isolate::First(failure) if self.of.contains_key(&events[0]) => {
                        return Err(StoreError::Unusable(failure.to_string()));
                    }
                    Isolate::First(failure) => drop(self.of.insert(events[0].clone(), failure)),
                    Isolate::Cut(events) => *next = events.max(1),
                }
            }
            ProjectError::Timeout(position) => {
                let reason = "it ran longer than one event may";
                self.of.insert(position, Failure::new(FailureKind::Timeout, "time", reason));
            }
            ProjectError::Blocker(trouble) => return Err(StoreError::Unusable(trouble.reason)),
            // Only batches of the log are tried out.
            ProjectError::OnTrial(failure) => return Err(StoreError::Unusable(failure.to_string())),
        }
        Ok(())
    }
}

/// Why events that waited were not let go, and which.
pub(super) struct Failed {
    pub(super) error: ProjectError,
    pub(super) events: Vec<Position>,
}

impl Failed {
    pub(super) fn of(error: ProjectError, events: &[Delivery]) -> Self {
        Self { error, events: events.iter().map(|delivery| delivery.event.position.clone()).collect() }
    }
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
    taken: ClaimedOperation,
    /// The dead letter, if it is to be tried, and then those parked behind it.
    events: Vec<Delivery>,
    tries_letter: bool,
}

impl Work {
    /// An event of a topic that is read no more cannot be projected, and nothing passes it.
    fn of(mut taken: ClaimedOperation, most: usize) -> Result<Self, StoreError> {
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

    /// Takes the value of the first event, if it was left in the log; returns what is to be read there before.
    /// Only one value is held at a time: the next event that was left in the log waits for its turn.
    fn recall(&mut self, known: &Known) -> Option<LeftInLog> {
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

    /// What the plugin says of the events, up to the first that is known to fail.
    fn ask(
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

    /// What became of those parked, as far as it was tried.
    fn of_parked<'o>(&self, outcomes: &'o [Outcome<'o>]) -> &'o [Outcome<'o>] {
        &outcomes[usize::from(self.tries_letter)..]
    }

    /// What has come of the operation with these outcomes.
    fn verdict(&self, outcomes: &[Outcome<'_>], contract: &Contract, lines: &Blocked) -> OperationResult {
        let mut verdict = match (&self.taken.letter, self.taken.action) {
            _ if !self.taken.so_far.outcome.is_empty() => self.taken.so_far.clone(),
            (None, _) => OperationResult::of("gone"),
            (Some(_), DeadLetterAction::Discard) => OperationResult::of("discarded"),
            (Some(_), DeadLetterAction::Retry) => match &outcomes[0] {
                Outcome::Dead { failure, .. } => OperationResult::failed(failure),
                Outcome::Ignore { code } => {
                    OperationResult { code: Some(code.to_string()), ..OperationResult::of("ignored") }
                }
                // One that does not wait for a row.
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
                // It is the one that blocks the key from now on.
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

    /// Whether an event goes on waiting under the key that was taken. One that waits for a row, or behind such an
    /// event, leaves it for one of these lines.
    fn stays(outcome: &Outcome<'_>, lines: &Blocked) -> bool {
        match outcome {
            Outcome::Park(key) | Outcome::Wait { line: key, .. } => !lines.contains(key),
            Outcome::Apply(_) | Outcome::Ignore { .. } | Outcome::Dead { .. } => false,
        }
    }

    /// The operation that moved the partition of a parked event to another log.
    fn moved_by(&self, position: &Position) -> Option<i64> {
        let is_it = |kept: &StoredEvent| kept.event.as_ref().is_some_and(|event| event.position == *position);
        self.taken.parked.iter().find(|(kept, _)| is_it(kept)).and_then(|(kept, _)| kept.moved_by)
    }

    fn release<'v>(
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

/// What became of parked events.
#[derive(Default)]
pub(super) struct KeptEvents<'o> {
    pub(super) settled: Vec<i64>,
    pub(super) waits_on: Vec<WaitsOn<'o>>,
    pub(super) shifts: BTreeMap<Partition, OutcomeCounts>,
}

impl<'o> KeptEvents<'o> {
    /// `waited`: for a row, rather than behind another event.
    pub(super) fn became(&mut self, id: i64, partition: &Partition, waited: bool, outcome: &'o Outcome<'o>) {
        let books = self.shifts.entry(partition.clone()).or_default();
        match waited {
            true => books.waiting -= 1,
            false => books.parked -= 1,
        }
        books.count(outcome);
        match outcome {
            Outcome::Park(key) => self.waits_on.push(WaitsOn { id, key: *key, row: None }),
            Outcome::Wait { row, line } => self.waits_on.push(WaitsOn { id, key: *line, row: Some(row) }),
            Outcome::Apply(_) | Outcome::Ignore { .. } | Outcome::Dead { .. } => self.settled.push(id),
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
