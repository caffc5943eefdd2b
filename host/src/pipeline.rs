//! The way of an event, from top to bottom: source → batch → plugin → validate → plan → store.
//!
//! One loop for each lane of a projection. It alone sees every stage; they do not see each other. A
//! batch is settled when its rows and its checkpoints are committed together; until then nothing
//! has happened.

mod positions;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::{BatchLimits, Buffer, Delivery};
use crate::duplicate::Ids;
use crate::event::Partition;
use crate::outcome::{Failure, FailureKind, Outcome};
use crate::plugin::Plugin;
use crate::project::{self, FirstAnswer, ProjectError};
use crate::retry::{Backoff, Halt, report_retry};
use crate::source::{Incoming, Log, Source};
use crate::store::{Advance, CatchingUp, DeadLetter, Deployment, Store, StoreError, Writes};
use positions::Positions;

/// Times that a batch may run out of wall time before the projection stands still.
const TIMEOUTS: u32 = 3;

pub struct Pipeline {
    pub deployment: Deployment,
    pub plugin: Plugin,
    pub store: Arc<dyn Store>,
    pub log: Log,
    pub source: Source,
    pub limits: BatchLimits,
    /// Held until the generation is caught up.
    pub catching_up: Option<CatchingUp>,
    /// Whether there are to be more lanes then, in a new run.
    pub more_lanes: bool,
    /// Asks for an end: the batch in flight is settled, or let go.
    pub stop: CancellationToken,
}

/// What a run did. Logged at its end.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    batches: u64,
    events: u64,
    /// Batches that another host's checkpoint stopped.
    fenced: u64,
    retries: u64,
    /// Statements that wrote the plugin's rows.
    statements: u64,
    /// Times that rows were read for a batch.
    reads: u64,
}

/// Events on their way, and what was asked about them ahead of their turn.
struct Batch {
    deliveries: Vec<Delivery>,
    /// What the plugin said of each.
    answers: Option<Vec<FirstAnswer>>,
    /// The partitions among theirs whose topic is another one than it was.
    foreign: Option<Vec<Partition>>,
}

impl Pipeline {
    /// Runs until it is asked to stop (`Ok`), or cannot go on.
    pub async fn run(self) -> Result<(), Halt> {
        let Self { deployment, plugin, store, log, source, limits, catching_up, more_lanes, stop } = self;
        let mut run = Run {
            positions: Positions::new(deployment.generation.clone(), store.clone(), log),
            deployment,
            plugin,
            store,
            source,
            limits,
            catching_up,
            more_lanes,
            stop,
            buffer: Buffer::default(),
            caught_up: false,
            until_caught_up: None,
            failed: None,
            tally: Tally::default(),
        };
        let result = run.run().await;
        let Tally { batches, events, fenced, retries, statements, reads } = run.tally;
        let projection = &run.deployment.generation.projection;
        tracing::info!(projection, batches, events, statements, reads, fenced, retries, "projection stopped");
        run.source.close(Duration::from_secs(5)).await;
        result
    }
}

struct Run {
    deployment: Deployment,
    plugin: Plugin,
    store: Arc<dyn Store>,
    source: Source,
    limits: BatchLimits,
    catching_up: Option<CatchingUp>,
    more_lanes: bool,
    stop: CancellationToken,
    positions: Positions,
    buffer: Buffer,
    /// All partitions were at their ends.
    caught_up: bool,
    /// Events that are to be settled before the generation counts as caught up, once all partitions
    /// were at their ends.
    until_caught_up: Option<usize>,
    /// Why the consumer cannot go on.
    failed: Option<String>,
    tally: Tally,
}

impl Run {
    async fn run(&mut self) -> Result<(), Halt> {
        let mut ahead = None;
        while let Some(batch) = self.next_batch(ahead.take()).await? {
            ahead = self.settle(batch).await?;
        }
        Ok(())
    }

    /// The batch that is projected already, or the next one, when there are events for it. `None`:
    /// it is time to stop.
    async fn next_batch(&mut self, mut ahead: Option<Batch>) -> Result<Option<Batch>, Halt> {
        loop {
            self.drain();
            if let Some(reason) = self.failed.take() {
                return Err(Halt::Restart(reason));
            }
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            self.positions.settle(&self.source).await;
            self.end_of_catching_up(&ahead).await?;
            if let Some(batch) = ahead.take().or_else(|| self.take_batch()) {
                return Ok(Some(batch));
            }
            let retry = self.positions.next_try().or_else(|| self.next_try_to_end_it());
            tokio::select! {
                incoming = self.source.next() => match incoming {
                    Some(incoming) => self.receive(incoming),
                    None => return Err(Halt::Restart("the Kafka consumer ended".into())),
                },
                () = self.stop.cancelled() => {}
                () = wait_until(retry) => {}
            }
        }
    }

    /// The generation is caught up when all that came before the end of its topics is settled. If it
    /// was this host's alone, it is everybody's then.
    async fn end_of_catching_up(&mut self, ahead: &Option<Batch>) -> Result<(), Halt> {
        if self.catching_up.is_none() || !self.caught_up || !self.positions.are_known() {
            return Ok(());
        }
        let unsettled = ahead.as_ref().map_or(0, |ahead| ahead.deliveries.len()) + self.buffer.len();
        if *self.until_caught_up.get_or_insert(unsettled) > 0 {
            return Ok(());
        }
        let projection = &self.deployment.generation.projection;
        if let Err(error) = self.store.set_caught_up(&self.deployment.generation).await {
            tracing::debug!(projection, %error, "that it is caught up could not be stored; trying on");
            return Ok(());
        }
        tracing::info!(projection, "caught up");
        self.catching_up = None;
        if self.more_lanes { Err(Halt::CaughtUp) } else { Ok(()) }
    }

    fn next_try_to_end_it(&self) -> Option<Instant> {
        (self.catching_up.is_some() && self.caught_up).then(|| Instant::now() + Duration::from_secs(1))
    }

    fn take_batch(&mut self) -> Option<Batch> {
        let deliveries = self.buffer.take(self.limits);
        (!deliveries.is_empty()).then_some(Batch { deliveries, answers: None, foreign: None })
    }

    /// Takes what has happened already, as long as there is room for it.
    fn drain(&mut self) {
        while self.buffer.len() < 2 * self.limits.events
            && let Some(incoming) = self.source.try_next()
        {
            self.receive(incoming);
        }
    }

    fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Events(deliveries) => self.buffer.extend(deliveries),
            Incoming::Granted(partitions) => {
                self.behind_again();
                self.positions.ask(partitions);
            }
            Incoming::Revoked(partitions) => {
                self.behind_again();
                for partition in &partitions {
                    self.positions.forget(partition);
                    self.buffer.forget(partition);
                }
            }
            Incoming::CaughtUp => self.caught_up = true,
            Incoming::Recheck => self.reposition(&self.source.granted()),
            Incoming::Failed(reason) => self.failed = Some(reason),
        }
    }

    /// What is read has changed: it is told anew when all of that was at its end.
    fn behind_again(&mut self) {
        self.caught_up = false;
        self.until_caught_up = None;
    }

    /// Voids what was read of these partitions, and asks again where to read on.
    fn reposition(&mut self, partitions: &[Partition]) {
        if !partitions.is_empty() {
            self.behind_again();
        }
        for partition in partitions {
            self.source.stop_reading(partition);
            self.positions.forget(partition);
            self.buffer.forget(partition);
        }
        self.positions.ask(partitions.to_vec());
    }

    /// Brings a batch to its end, however often that takes. Returns the next one, if the plugin was
    /// asked about it meanwhile.
    async fn settle(&mut self, mut batch: Batch) -> Result<Option<Batch>, Halt> {
        let mut backoff = Backoff::default();
        let mut timeouts = 0;
        loop {
            if !self.of_the_same_log(&mut batch, &mut backoff).await {
                return Ok(None);
            }
            let hold = self.source.hold(&mut batch.deliveries);
            if batch.answers.as_ref().is_some_and(|answers| answers.len() != batch.deliveries.len()) {
                batch.answers = None;
            }
            if batch.deliveries.is_empty() {
                return Ok(None);
            }
            let (attempt, ahead) = self.attempt(&mut batch).await;
            drop(hold);
            let error = match attempt {
                Ok(advances) => {
                    // Only now: a database that can be read need not be one that can be written.
                    backoff.report_end(&self.deployment.generation.projection);
                    self.committed(&batch, advances);
                    return Ok(ahead);
                }
                Err(error) => error,
            };
            if let Some(ahead) = ahead {
                self.buffer.put_back(ahead.deliveries);
            }
            match error {
                ProjectError::Store(StoreError::Unavailable(error)) => {
                    self.tally.retries += 1;
                    report_retry(&self.deployment.generation.projection, &error, &mut backoff);
                    let recovered = self.recover(&batch, &mut backoff).await;
                    if let Some(catching_up) = &mut self.catching_up
                        && !catching_up.is_held().await
                    {
                        return Err(Halt::Restart("the lock of whoever catches it up was lost".into()));
                    }
                    match recovered {
                        // Smaller every time: it may have been too much for the session's timeouts.
                        Recovered::TryAgain => self.halve(&mut batch),
                        Recovered::Committed(advances) => {
                            self.committed(&batch, advances);
                            return Ok(None);
                        }
                        Recovered::Moved(partitions) => self.fenced(&partitions),
                        Recovered::Stopped => return Ok(None),
                    }
                }
                ProjectError::Store(StoreError::CheckpointMoved(partitions)) => self.fenced(&partitions),
                ProjectError::Store(StoreError::Rejected { event: 0, rejection }) => {
                    condemn(&mut batch, &rejection.code, &rejection.detail);
                }
                // It is refused if those before it stand, and they may not: they come first.
                ProjectError::Store(StoreError::Rejected { event, .. }) => self.cut(&mut batch, event),
                ProjectError::Store(StoreError::Data(error)) => match batch.deliveries.len() {
                    1 => condemn(&mut batch, "data", &error.to_string()),
                    // Halves, until the event is found that the database refuses.
                    _ => self.halve(&mut batch),
                },
                ProjectError::Store(StoreError::Inactive(digest)) => {
                    return Err(Halt::Restart(format!("component {digest} became the active one")));
                }
                ProjectError::Store(error) => return Err(Halt::Stop(error.to_string())),
                ProjectError::Timeout(position) => {
                    timeouts += 1;
                    if timeouts == TIMEOUTS {
                        return Err(Halt::Stop(format!(
                            "the event at {position} ran out of time {TIMEOUTS} times; the machine is overloaded, or `limits.time` is too short for it"
                        )));
                    }
                    tracing::warn!(%position, "an event ran out of time; its batch is tried again");
                    backoff.wait(&self.stop).await;
                }
            }
        }
    }

    /// Makes sure that a batch is of the log that its checkpoints are about; what is not will be void.
    /// `false`: it is time to stop, and that could not be found out.
    async fn of_the_same_log(&mut self, batch: &mut Batch, backoff: &mut Backoff) -> bool {
        if let Some(foreign) = batch.foreign.take() {
            self.reposition(&foreign);
            return true;
        }
        loop {
            let foreign = tokio::select! {
                foreign = self.positions.foreign(&batch.deliveries) => foreign,
                () = self.stop.cancelled() => return false,
            };
            match foreign {
                Ok(foreign) => {
                    self.reposition(&foreign);
                    return true;
                }
                Err(error) => {
                    report_retry(&self.deployment.generation.projection, &error, backoff);
                    backoff.wait(&self.stop).await;
                }
            }
        }
    }

    /// One attempt at a batch: all of it, or nothing. Meanwhile the plugin and the brokers are asked
    /// about the next one.
    async fn attempt(&mut self, batch: &mut Batch) -> (Result<Vec<Advance>, ProjectError>, Option<Batch>) {
        let mut answers = match batch.answers.take() {
            Some(answers) => answers,
            None => match tokio::task::block_in_place(|| project::ask(&self.plugin, &batch.deliveries)) {
                Ok(answers) => answers,
                Err(error) => return (Err(error), None),
            },
        };
        self.drain();
        let next = self.take_batch();
        let attempted = CancellationToken::new();
        let ask_ahead = async {
            let mut next = next?;
            // What fails here, or runs out of time, will do so again, and be dealt with, in its turn;
            // brokers that are slow to answer keep nobody from what is committed.
            next.foreign = tokio::select! {
                foreign = self.positions.foreign(&next.deliveries) => foreign.ok(),
                () = attempted.cancelled() => None,
            };
            let plugin = self.plugin.clone();
            let asked = tokio::task::spawn_blocking(move || {
                next.answers = project::ask(&plugin, &next.deliveries).ok();
                next
            });
            Some(asked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
        };
        let (mut rest, mut statements, mut reads) = (Vec::new(), 0, 0);
        let ids = Ids::of(&self.deployment.contract, &batch.deliveries);
        let commit = async {
            let _attempted = attempted.clone().drop_guard();
            let mut tx = self.store.begin(&self.deployment).await.map_err(ProjectError::Store)?;
            let duplicates = match ids.given() {
                [] => Vec::new(),
                given => ids.duplicates(&tx.known(given).await.map_err(ProjectError::Store)?),
            };
            let outcomes = tokio::task::block_in_place(|| {
                let mut read = |calls: &[_]| {
                    reads += 1;
                    Handle::current().block_on(tx.read(calls))
                };
                project::resolve(&self.plugin, &batch.deliveries, &answers, &duplicates, &mut read)
            })?;
            rest = batch.deliveries.split_off(outcomes.len());
            let advances = self.positions.advances(&batch.deliveries, &outcomes);
            let mut writes = writes(&batch.deliveries, &outcomes, advances.clone());
            writes.ids = ids.remembered(&self.deployment.contract, &batch.deliveries, &duplicates);
            statements = tx.commit(&writes).await.map_err(ProjectError::Store)?;
            Ok(advances)
        };
        let (committed, next) = tokio::join!(commit, ask_ahead);
        self.tally.statements += statements;
        self.tally.reads += reads;
        answers.truncate(batch.deliveries.len());
        batch.answers = Some(answers);
        if rest.is_empty() {
            return (committed, next);
        }
        // These come before what was taken after them.
        self.buffer.put_back(next.map(|next| next.deliveries).unwrap_or_default());
        self.buffer.put_back(rest);
        (committed, None)
    }

    fn halve(&mut self, batch: &mut Batch) {
        self.cut(batch, batch.deliveries.len().div_ceil(2));
    }

    /// Leaves what comes after this many events for the next batch.
    fn cut(&mut self, batch: &mut Batch, events: usize) {
        self.buffer.put_back(batch.deliveries.split_off(events));
        if let Some(answers) = &mut batch.answers {
            answers.truncate(events);
        }
    }

    fn committed(&mut self, batch: &Batch, advances: Vec<Advance>) {
        self.tally.batches += 1;
        self.tally.events += batch.deliveries.len() as u64;
        if let Some(left) = &mut self.until_caught_up {
            *left = left.saturating_sub(batch.deliveries.len());
        }
        self.positions.committed(&advances);
        self.source.advise(advances.into_iter().map(|advance| (advance.partition, advance.next)).collect());
    }

    /// Another writer moved these checkpoints: what was read of them is void.
    fn fenced(&mut self, partitions: &[Partition]) {
        self.tally.fenced += 1;
        let projection = &self.deployment.generation.projection;
        let partitions_named = partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            projection,
            partitions = partitions_named,
            "fenced: another host moved the checkpoint; nothing was written, reading goes on from there"
        );
        self.reposition(partitions);
    }

    /// After the database was gone: what became of the batch, as the checkpoints tell.
    async fn recover(&mut self, batch: &Batch, backoff: &mut Backoff) -> Recovered {
        loop {
            backoff.wait(&self.stop).await;
            if self.stop.is_cancelled() {
                return Recovered::Stopped;
            }
            let advances = self.positions.advances(&batch.deliveries, &[]);
            let partitions: Vec<Partition> =
                advances.iter().map(|advance| advance.partition.clone()).collect();
            match self.store.checkpoints(&self.deployment.generation, &partitions).await {
                Err(error) => report_retry(&self.deployment.generation.projection, &error, backoff),
                Ok(checkpoints) => {
                    let at = |of: fn(&Advance) -> i64| {
                        let found =
                            checkpoints.iter().map(|found| found.as_ref().map(|found| found.next_offset));
                        found.eq(advances.iter().map(|advance| Some(of(advance))))
                    };
                    if at(|advance| advance.expected) {
                        return Recovered::TryAgain;
                    }
                    if at(|advance| advance.next) {
                        backoff.report_end(&self.deployment.generation.projection);
                        return Recovered::Committed(advances);
                    }
                    return Recovered::Moved(partitions);
                }
            }
        }
    }
}

enum Recovered {
    /// Nothing was committed.
    TryAgain,
    /// All of it was: only the answer was lost.
    Committed(Vec<Advance>),
    Moved(Vec<Partition>),
    Stopped,
}

/// The database refuses a batch's first event: it is dead, and the batch goes on without its changes.
fn condemn(batch: &mut Batch, code: &str, detail: &str) {
    if let Some(first) = batch.answers.as_mut().and_then(|answers| answers.first_mut()) {
        *first = Err(Failure::new(FailureKind::Refused, code, detail));
    }
}

fn writes<'b>(deliveries: &'b [Delivery], outcomes: &'b [Outcome<'b>], advances: Vec<Advance>) -> Writes<'b> {
    let positions = deliveries.iter().map(|delivery| &delivery.event.position).collect();
    let mut writes = Writes { advances, positions, changes: Vec::new(), dead: Vec::new(), ids: Vec::new() };
    for (at, (delivery, outcome)) in deliveries.iter().zip(outcomes).enumerate() {
        match outcome {
            Outcome::Apply(changes) => writes.changes.push((at, changes)),
            Outcome::Ignore { .. } => {}
            Outcome::Dead(failure) => writes.dead.push(DeadLetter { event: &delivery.event, failure }),
        }
    }
    writes
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
