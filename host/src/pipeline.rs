//! The way of an event, from top to bottom: source → batch → plugin → validate → plan → store.
//!
//! One loop for each lane of a projection. It alone sees every stage; they do not see each other. A
//! batch is settled when its rows and its checkpoints are committed together; until then nothing
//! has happened.

mod faults;
mod positions;
mod switch;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::{BatchLimits, Buffer, Delivery};
use crate::beginning::Starts;
use crate::catch_up::CatchUpState;
use crate::config::Deploy;
use crate::control_state::ControlStateWatcher;
use crate::deploy::component_cache::ComponentCache;
use crate::event::Partition;
use crate::event_failure::Failure;
use crate::failure::{Blocker, FailureKind, Response};
use crate::failure_policy::Flood;
use crate::project::purity::{self, Call, Sampling};
use crate::project::{self, Caller, FirstAnswers, ProjectError};
use crate::retry::{Backoff, Retries, RunEnd};
use crate::settle::{self, Attempt, Isolate, Released, Settler, Slow, isolate};
use crate::source::{Incoming, KafkaAdmin, RevokeGuard, Source, Subject, TopicsChange};
use crate::store::deployments::{Role, WriteBarrier};
use crate::store::operator::{GenerationControl, OpenOperation};
use crate::store::{Advance, LockHolder, StoreError, WriteTarget};
use faults::Faults;
use positions::Positions;
use switch::Switch;

/// Times that a batch may run out of wall time before the projection stands still.
const TIMEOUTS: u32 = 3;
/// After a batch in which the plugin broke its limits.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Times that a batch may wait for a lock in vain before the status tells.
const LOCK_TIMEOUTS: u32 = 3;
/// How long what operators asked for waits while it is held.
const BARRIER_LOOK: Duration = Duration::from_millis(100);
/// What the watcher says is no older than this.
const READY_LOOK: Duration = Duration::from_secs(1);
/// How long the brokers may leave all questions unanswered before the group is left: another host may be
/// better off, or a new consumer.
const UNANSWERED: Duration = Duration::from_secs(15);
/// So many batches may wait while it is held at some offsets.
const HELD_BATCHES: usize = 16;

pub struct Pipeline {
    pub settler: Settler,
    pub log: KafkaAdmin,
    /// Where partitions begin that have no checkpoint.
    pub starts: Starts,
    /// Where a version is found that becomes the active one.
    pub versions: Arc<ComponentCache>,
    pub source: Source,
    pub limits: BatchLimits,
    /// What operators want.
    pub watcher: ControlStateWatcher,
    /// What is being tried again.
    pub retries: Retries,
    /// Of a generation that is being caught up: shared by its lanes.
    pub catching_up: Option<Arc<CatchUpState>>,
    /// Whether there are to be more lanes then, in a new run.
    pub more_lanes: bool,
    pub deploy: Deploy,
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
    /// Events of the sample that the plugin did not answer twice alike.
    impure: u64,
    /// How long it paused so that the live generation and other projections had the machine.
    rested: Duration,
}

/// Events on their way, and what was asked about them ahead of their turn.
struct InFlightBatch {
    deliveries: Vec<Delivery>,
    /// What the plugin said of each.
    answers: Option<Vec<FirstAnswers>>,
    /// How long that took.
    asked: Duration,
    /// The calls with rows, of a batch of the sample.
    calls: Vec<Call>,
    /// The partitions among theirs whose topic is another one than it was.
    foreign: Option<Vec<Partition>>,
}

impl Pipeline {
    /// Runs until it is asked to stop (`Ok`), or cannot go on.
    pub async fn run(self) -> Result<(), RunEnd> {
        let Self {
            settler,
            log,
            starts,
            versions,
            source,
            limits,
            watcher,
            retries,
            catching_up,
            more_lanes,
            deploy,
            stop,
        } = self;
        let generation = settler.deployment.generation.clone();
        let topics = settler.deployment.topics.clone();
        let faults = Faults::new(generation.clone(), settler.store.clone(), &retries, topics);
        let mut run = Run {
            faults,
            resumes: watcher.of(generation.id).map(|control| control.resumes),
            versions,
            backoff: Backoff::new(&generation.projection, &retries),
            sampling: Sampling::new(settler.plugin.limits.purity_sample),
            positions: Positions::new(generation, settler.store.clone(), log, starts, &retries),
            settler,
            source,
            limits,
            watcher,
            lock_timeouts: 0,
            shows_trouble: false,
            operations_again: None,
            served: Vec::new(),
            ready_at: None,
            none_ready_at: None,
            flood: Flood::default(),
            trial_batches: deploy.trial_batches,
            rebuild_share: deploy.rebuild_share,
            barrier: WriteBarrier::Open,
            barrier_look: None,
            switch: Switch::default(),
            catching_up,
            is_near_the_end: false,
            more_lanes,
            stop,
            buffer: Buffer::default(),
            topics: None,
            failed: None,
            tally: Tally::default(),
        };
        let result = run.run().await;
        let Tally { batches, events, fenced, retries, statements, reads, impure, rested } = run.tally;
        let (projection, generation) = (run.name(), run.settler.deployment.generation.number);
        tracing::info!(
            projection,
            generation,
            batches,
            events,
            statements,
            reads,
            fenced,
            retries,
            impure,
            rested_ms = rested.as_millis() as u64,
            "projection stopped"
        );
        run.source.close(Duration::from_secs(5)).await;
        result
    }
}

struct Run {
    settler: Settler,
    source: Source,
    limits: BatchLimits,
    watcher: ControlStateWatcher,
    backoff: Backoff,
    /// In a row.
    lock_timeouts: u32,
    /// The status says why it does not go on, though it tries.
    shows_trouble: bool,
    /// When to go on with what operators asked for.
    operations_again: Option<Instant>,
    /// What they asked for, and is done.
    served: Vec<i64>,
    /// When to try events that had waited, and are ready.
    ready_at: Option<Instant>,
    /// When there were none last: what the watcher says may be older.
    none_ready_at: Option<Instant>,
    /// How often operators had said "go on".
    resumes: Option<i64>,
    versions: Arc<ComponentCache>,
    /// Failures among the last events.
    flood: Flood,
    /// Batches for which a version is on trial still.
    trial_batches: u64,
    rebuild_share: f64,
    /// No batch goes beyond these offsets for now, or none is written at all.
    barrier: WriteBarrier,
    /// When to look whether it is still held.
    barrier_look: Option<Instant>,
    switch: Switch,
    catching_up: Option<Arc<CatchUpState>>,
    /// It is caught up, and its source knows it.
    is_near_the_end: bool,
    more_lanes: bool,
    stop: CancellationToken,
    positions: Positions,
    faults: Faults,
    buffer: Buffer,
    /// Which batches are held against the plugin's promise to be pure.
    sampling: Sampling,
    /// The topics that match now, and those that left: to be recorded.
    topics: Option<TopicsChange>,
    /// Why the consumer cannot go on.
    failed: Option<RunEnd>,
    tally: Tally,
}

impl Run {
    fn name(&self) -> &str {
        &self.settler.deployment.generation.projection
    }

    async fn run(&mut self) -> Result<(), RunEnd> {
        let mut ahead = None;
        while let Some(batch) = self.next_batch(ahead.take()).await? {
            ahead = self.settle(batch).await?;
        }
        Ok(())
    }

    /// The batch that is projected already, or the next one, when there are events for it. `None`:
    /// it is time to stop.
    async fn next_batch(
        &mut self,
        mut ahead: Option<InFlightBatch>,
    ) -> Result<Option<InFlightBatch>, RunEnd> {
        loop {
            self.drain();
            let generation = self.settler.deployment.generation.id;
            // None: it is gone.
            let control = self.watcher.of(generation).ok_or(RunEnd::Switch)?;
            self.follow(&control, &mut ahead)?;
            if let Some(ended) = self.failed.take() {
                return Err(ended);
            }
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            self.look_at_barrier().await;
            self.faults.store().await;
            self.release_ready(control.any_ready).await?;
            let role = control.role;
            self.serve(control).await?;
            self.record_topics().await;
            self.positions.settle(&self.source).await;
            if let Some(trouble) = self.positions.unanswered_for(UNANSWERED) {
                return Err(RunEnd::GivesUp(trouble));
            }
            self.end_of_catching_up(role)?;
            if let Some(batch) = ahead.take().or_else(|| self.take_batch()) {
                return Ok(Some(batch));
            }
            let retry = self.positions.next_try().into_iter();
            let retry =
                retry.chain(self.operations_again).chain(self.ready_at).chain(self.barrier_look).min();
            let catching_up = self.catching_up.as_deref();
            tokio::select! {
                incoming = self.source.next(), if !self.is_crowded() => match incoming {
                    Some(incoming) => self.receive(incoming),
                    None => return Err(RunEnd::Restart("the Kafka consumer ended".into())),
                },
                () = self.watcher.changed() => {}
                () = self.positions.answered() => {}
                () = self.stop.cancelled() => {}
                () = end_of(catching_up) => {}
                () = wait_until(retry) => {}
            }
        }
    }

    /// Asks the store often whether the barrier has changed: it is short, and only the store tells of it.
    async fn look_at_barrier(&mut self) {
        let due = self.barrier_look.is_some_and(|at| at <= Instant::now());
        if self.barrier.is_open() {
            self.barrier_look = None;
        } else if due || self.barrier_look.is_none() {
            self.barrier_look = Some(Instant::now() + BARRIER_LOOK);
        }
        if !self.barrier.is_open()
            && due
            && let Err(error) = self.watcher.refresh().await
        {
            self.backoff.missed("whether it is still held could not be found out", &error);
        }
    }

    /// Records which topics match. Nothing depends on it: if it fails, it is done with the next batch.
    async fn record_topics(&mut self) {
        let Some(TopicsChange { read, left }) = &self.topics else { return };
        let generation = &self.settler.deployment.generation;
        match self.settler.store.record_topics(generation, read, left).await {
            Ok(()) => self.topics = None,
            Err(error) => self.backoff.missed("the topics that match could not be recorded", &error),
        }
    }

    /// Does what operators want, between two batches.
    async fn serve(&mut self, control: GenerationControl) -> Result<(), RunEnd> {
        if let Some(reason) = control.paused {
            return Err(RunEnd::Paused(reason));
        }
        if self.resumes != Some(control.resumes) {
            self.resumes = Some(control.resumes);
            // Partitions that were paused may be read again.
            self.reposition(&self.source.granted());
        }
        if control.open.is_empty() || !self.barrier.is_open() {
            self.served.clear();
            return Ok(());
        }
        self.served.retain(|id| control.open.iter().any(|operation| operation.id == *id));
        if self.operations_again.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        self.operations_again = None;
        let granted = self.source.granted();
        let topics = &self.settler.deployment.topics;
        // A file is granted to nobody: whoever comes first does it.
        let is_ours = |operation: &&OpenOperation| {
            (granted.contains(&operation.partition) || !topics.reads(&operation.partition.topic))
                && !self.served.contains(&operation.id)
        };
        let ours: Vec<&OpenOperation> = control.open.iter().filter(is_ours).collect();
        if ours.is_empty() {
            return Ok(());
        }
        if ours.len() > 1 {
            let ids: Vec<i64> = ours.iter().map(|operation| operation.id).collect();
            match self.settler.release_lone_letters(&ids, self.limits).await {
                Ok(done) => self.served.extend(done),
                Err(error) => return self.operation_failed(error).await,
            }
        }
        for operation in ours {
            if !self.served.contains(&operation.id) {
                self.release(operation).await?;
            }
        }
        // Only so many are heard of at once.
        if let Err(error) = self.watcher.refresh().await {
            self.backoff.missed("what is asked for next could not be found out", &error);
        }
        Ok(())
    }

    /// Lets go what waits, as an operator asked for: as much as one transaction takes.
    async fn release(&mut self, operation: &OpenOperation) -> Result<(), RunEnd> {
        match self.settler.release(operation, self.limits, self.positions.log()).await {
            Ok(Released::More) => self.operations_again = Some(Instant::now()),
            Ok(Released::Done) => self.served.push(operation.id),
            Err(error) => self.operation_failed(error).await?,
        }
        Ok(())
    }

    /// What was asked for stays so, and is done when it can be.
    async fn operation_failed(&mut self, error: StoreError) -> Result<(), RunEnd> {
        let what = "what an operator asked for could not be done";
        self.operations_again = Some(Instant::now() + self.pause_after(what, error).await?);
        Ok(())
    }

    /// Tries events that had waited for rows, as many as one transaction takes, once it is known that some are ready.
    async fn release_ready(&mut self, any_ready: bool) -> Result<(), RunEnd> {
        if !self.barrier.is_open() {
            // It would write rows that are compared.
            self.ready_at = self.ready_at.map(|_| Instant::now() + BARRIER_LOOK);
            return Ok(());
        }
        if any_ready && self.ready_at.is_none() {
            let said = self.none_ready_at.map(|at| at + READY_LOOK);
            self.ready_at = Some(said.unwrap_or_else(Instant::now));
        }
        if self.ready_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        match self.settler.release_ready(self.limits).await {
            Ok(Released::More) => self.ready_at = Some(Instant::now()),
            Ok(Released::Done) => (self.ready_at, self.none_ready_at) = (None, Some(Instant::now())),
            Err(ProjectError::Blocker(trouble)) => return Err(RunEnd::Stop(trouble)),
            Err(ProjectError::Store(error)) => {
                let what = "events that had waited could not be tried";
                self.ready_at = Some(Instant::now() + self.pause_after(what, error).await?);
            }
            // What runs out of time is dealt with, and only batches of the log are tried out.
            Err(ProjectError::Timeout(_) | ProjectError::OnTrial(_)) => {
                self.ready_at = Some(Instant::now() + READY_LOOK);
            }
        }
        Ok(())
    }

    /// How long to wait before what could not be done between two batches is tried again.
    async fn pause_after(&mut self, what: &'static str, error: StoreError) -> Result<Duration, RunEnd> {
        match error {
            error if error.kind().response() == Response::Retry => {
                self.backoff.missed(what, &error);
                self.count_deadlock(&error).await;
                Ok(Duration::from_secs(1))
            }
            // What is active or held now is heard of soon.
            StoreError::Inactive(_) | StoreError::Held(_) => Ok(BARRIER_LOOK),
            error => Err(halt(error)),
        }
    }

    /// Once the generation is caught up, and no longer built, it is not this host's alone, and may have more lanes.
    fn end_of_catching_up(&mut self, role: Role) -> Result<(), RunEnd> {
        match &self.catching_up {
            Some(state) if state.is_over(role) => self.catching_up = None,
            Some(state) if state.is_caught_up() && !self.is_near_the_end => {
                self.is_near_the_end = true;
                self.source.near_the_end();
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.source.caught_up();
        if self.more_lanes { Err(RunEnd::CaughtUp) } else { Ok(()) }
    }

    fn take_batch(&mut self) -> Option<InFlightBatch> {
        let deliveries = match &self.barrier {
            WriteBarrier::Open => self.buffer.take(self.limits),
            WriteBarrier::Closed => Vec::new(),
            WriteBarrier::UpTo(at) => self.buffer.take_within(self.limits, at),
        };
        (!deliveries.is_empty()).then_some(InFlightBatch {
            deliveries,
            answers: None,
            asked: Duration::ZERO,
            calls: Vec::new(),
            foreign: None,
        })
    }

    /// Takes what has happened already, as long as there is room for it.
    fn drain(&mut self) {
        while !self.is_crowded()
            && let Some(incoming) = self.source.try_next()
        {
            self.receive(incoming);
        }
    }

    /// Whether what waits is enough. While it is held at some offsets, those of one partition may lie
    /// behind many of another one.
    fn is_crowded(&self) -> bool {
        let BatchLimits { events, bytes } = self.limits;
        let limits = match &self.barrier {
            WriteBarrier::UpTo(_) => {
                BatchLimits { events: HELD_BATCHES * events, bytes: HELD_BATCHES * bytes }
            }
            _ => self.limits,
        };
        self.buffer.is_full(limits)
    }

    fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Events(deliveries) => self.buffer.extend(deliveries),
            Incoming::Granted(partitions) => self.positions.ask(partitions),
            Incoming::Revoked(partitions) => {
                for partition in &partitions {
                    self.positions.forget(partition);
                    self.buffer.forget(partition);
                    self.faults.forget(&Subject::Partition(partition.clone()));
                }
            }
            Incoming::Recheck => self.reposition(&self.source.granted()),
            Incoming::Topics(change) => self.topics = Some(change),
            Incoming::Fault { subject, fault } => self.faults.told(subject, fault),
            Incoming::Failed(reason) => self.failed = Some(RunEnd::Restart(reason)),
            Incoming::Panicked(said) => {
                self.failed = Some(RunEnd::Crashed(format!("the poll thread: {said}")))
            }
        }
    }

    /// Voids what was read of these partitions, and asks again where to read on.
    fn reposition(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.source.stop_reading(partition);
            self.positions.forget(partition);
            self.buffer.forget(partition);
        }
        self.positions.ask(partitions.to_vec());
    }

    /// Brings a batch to its end, however often that takes. Returns the next one, if the plugin was
    /// asked about it meanwhile.
    async fn settle(&mut self, mut batch: InFlightBatch) -> Result<Option<InFlightBatch>, RunEnd> {
        let (mut timeouts, mut slow) = (0, Slow::default());
        let began = Instant::now();
        loop {
            if !self.of_the_same_log(&mut batch).await? {
                return Ok(None);
            }
            let guard = self.guard_revokes(&mut batch);
            if batch.deliveries.is_empty() {
                self.available_again().await;
                return Ok(None);
            }
            let (attempt, ahead) = self.attempt(&mut batch).await;
            drop(guard);
            let half = batch.deliveries.len().div_ceil(2);
            let error = match attempt {
                Ok((advances, flood)) => {
                    // Only now: a database that can be read need not be one that can be written.
                    self.available_again().await;
                    self.flood = flood;
                    self.committed(&batch, advances).await;
                    self.yield_to_neighbours(&batch, began.elapsed()).await;
                    return Ok(ahead);
                }
                Err(error) => error,
            };
            if let Some(ahead) = ahead {
                self.buffer.put_back(ahead.deliveries);
            }
            match error {
                ProjectError::Store(error) => match error.kind().response() {
                    Response::Retry => {
                        self.tally.retries += 1;
                        self.backoff.failed(error.kind(), &error);
                        self.name_lock_holder(&error).await;
                        self.count_deadlock(&error).await;
                        if error.kind() == FailureKind::DatabaseSetup {
                            self.show_trouble(Blocker::new(FailureKind::DatabaseSetup, &error)).await;
                        }
                        let recovered = self.recover(&mut batch).await;
                        if let Some(catching_up) = &self.catching_up
                            && !catching_up.is_held().await
                        {
                            return Err(RunEnd::Restart("the lock of whoever catches it up was lost".into()));
                        }
                        match recovered {
                            // Smaller every time: it may have been too much for the session's timeouts. The
                            // database answers, so what one event asks of it may be the matter.
                            Recovered::TryAgain => {
                                let tried = batch.deliveries.len();
                                match (slow.isolate(&error, tried), batch.answers.as_deref_mut()) {
                                    (Some(Isolate::First(failure)), Some([first, ..]))
                                        if first.failure().is_none() =>
                                    {
                                        *first = FirstAnswers::failed(failure);
                                    }
                                    _ => self.cut(&mut batch, half.min(tried)),
                                }
                            }
                            Recovered::Committed(advances) => {
                                self.available_again().await;
                                self.committed(&batch, advances).await;
                                return Ok(None);
                            }
                            Recovered::Moved(partitions) => self.fenced(&partitions),
                            Recovered::Stopped => return Ok(None),
                        }
                    }
                    Response::Policy => match isolate(error, batch.deliveries.len()).map_err(halt)? {
                        Isolate::First(failure) => match batch.answers.as_deref_mut() {
                            // It is refused although it writes no rows: trying on would change nothing.
                            Some([first, ..]) if first.failure().is_none() => {
                                *first = FirstAnswers::failed(failure);
                            }
                            _ => return Err(RunEnd::Stop(Blocker::new(FailureKind::Store, failure))),
                        },
                        Isolate::Cut(events) => self.cut(&mut batch, events),
                    },
                    Response::Reposition | Response::Pause | Response::Refuse => match error {
                        StoreError::CheckpointMoved(partitions) => self.fenced(&partitions),
                        // What is active or held now is heard at once, and heeded before the next batch.
                        StoreError::Inactive(_) | StoreError::Held(_) => {
                            self.buffer.put_back(std::mem::take(&mut batch.deliveries));
                            if let Err(error) = self.watcher.refresh().await {
                                self.backoff.failed(error.kind(), &error);
                                self.backoff.wait(&self.stop).await;
                            }
                            return Ok(None);
                        }
                        error => return Err(halt(error)),
                    },
                },
                ProjectError::OnTrial(failure) => self.compare(&batch, &failure).await,
                ProjectError::Blocker(trouble) => return Err(RunEnd::Stop(trouble)),
                ProjectError::Timeout(position) => {
                    timeouts += 1;
                    if timeouts == TIMEOUTS && self.is_tried_out(&position) {
                        // Those before it are settled first.
                        let at = batch.deliveries.iter().position(|next| next.event.position == position);
                        match at.unwrap_or_default() {
                            0 => {
                                let words = "it runs longer than one event may";
                                let failure = Failure::new(FailureKind::Timeout, "time", words);
                                self.compare(&batch, &failure).await;
                            }
                            events => self.cut(&mut batch, events),
                        }
                        timeouts -= 1;
                        continue;
                    }
                    if timeouts == TIMEOUTS {
                        let reason = format!("the event at {position} ran out of time {TIMEOUTS} times");
                        return Err(RunEnd::Stop(Blocker::new(FailureKind::Timeout, reason)));
                    }
                    tracing::warn!(%position, "an event ran out of time; its batch is tried again");
                    self.backoff.wait(&self.stop).await;
                }
            }
        }
    }

    /// Makes sure that a batch is of the log that its checkpoints are about; what is not will be void.
    /// `false`: it is time to stop, and that could not be found out.
    async fn of_the_same_log(&mut self, batch: &mut InFlightBatch) -> Result<bool, RunEnd> {
        if let Some(foreign) = batch.foreign.take() {
            self.reposition(&foreign);
            return Ok(true);
        }
        let asked = Instant::now();
        loop {
            let foreign = tokio::select! {
                foreign = self.positions.foreign(&batch.deliveries) => foreign,
                () = self.stop.cancelled() => return Ok(false),
            };
            match foreign {
                Ok(foreign) => {
                    self.reposition(&foreign);
                    return Ok(true);
                }
                Err(error) if asked.elapsed() > UNANSWERED => {
                    return Err(RunEnd::GivesUp(Blocker::new(error.kind(), &error)));
                }
                Err(error) => {
                    self.backoff.failed(error.kind(), &error);
                    self.backoff.wait(&self.stop).await;
                }
            }
        }
    }

    /// One attempt at a batch: all of it, or nothing. Meanwhile the plugin and the brokers are asked
    /// about the next one.
    async fn attempt(
        &mut self,
        batch: &mut InFlightBatch,
    ) -> (Result<(Vec<Advance>, Flood), ProjectError>, Option<InFlightBatch>) {
        let plugin = &self.settler.plugin;
        let answers = match batch.answers.take() {
            Some(answers) => answers,
            None => {
                let began = Instant::now();
                let answers = tokio::task::block_in_place(|| project::ask(plugin, &batch.deliveries));
                batch.asked = began.elapsed();
                match answers {
                    Ok(answers) => answers,
                    Err(error) => return (Err(error), None),
                }
            }
        };
        self.cut(batch, answers.len());
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
            let plugin = self.settler.plugin.clone();
            let asked = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                next.answers = project::ask(&plugin, &next.deliveries).ok();
                next.asked = began.elapsed();
                next
            });
            Some(asked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
        };
        let mut caller = match self.sampling.is_due() {
            true => Caller::keeping_calls(&self.settler.plugin),
            false => Caller::new(&self.settler.plugin),
        };
        let commit = async {
            let _attempted = attempted.clone().drop_guard();
            let checkpoint = |partition: &Partition| self.positions.checkpoint(partition);
            self.settler.attempt(&mut caller, &batch.deliveries, &answers, &checkpoint, &self.flood).await
        };
        let (Attempt { events, statements, reads, made_ready, result }, mut next) =
            tokio::join!(commit, ask_ahead);
        if made_ready && result.is_ok() {
            self.ready_at = Some(Instant::now());
        }
        batch.calls = caller.into_calls();
        if let Some(next) = &mut next {
            self.cut(next, next.answers.as_ref().map_or(next.deliveries.len(), Vec::len));
        }
        self.tally.statements += statements;
        self.tally.reads += reads;
        batch.answers = Some(answers);
        if events == batch.deliveries.len() {
            return (result, next);
        }
        // These come before what was taken after them.
        self.buffer.put_back(next.map(|next| next.deliveries).unwrap_or_default());
        self.cut(batch, events);
        (result, None)
    }

    /// Leaves what comes after this many events for the next batch.
    fn cut(&mut self, batch: &mut InFlightBatch, events: usize) {
        self.buffer.put_back(batch.deliveries.split_off(events));
        if let Some(answers) = &mut batch.answers {
            answers.truncate(events);
        }
    }

    async fn committed(&mut self, batch: &InFlightBatch, advances: Vec<Advance>) {
        self.tally.batches += 1;
        self.tally.events += batch.deliveries.len() as u64;
        self.went_over().await;
        self.positions.committed(&advances);
        self.source.advise(advances.into_iter().map(|advance| (advance.partition, advance.next)).collect());
        if self.sampling.advance(batch.deliveries.len()) {
            let answers = batch.answers.as_deref().unwrap_or_default();
            let Settler { plugin, store, deployment, .. } = &self.settler;
            let check = || purity::check(plugin, &batch.deliveries, answers, &batch.calls);
            let found = tokio::task::block_in_place(check);
            self.tally.impure += found.len() as u64;
            if let Some(impurity) = found.first()
                && let Err(error) =
                    store.set_impure(&deployment.generation, &crate::event_failure::shown(impurity)).await
            {
                self.backoff.missed("that the plugin is not pure could not be stored", &error);
            }
        }
    }

    /// A plugin that breaks its limits uses a machine that others share. So its projection rests for some
    /// time after each batch in which it did: it has a quarter of a core at most. A generation that is built
    /// beside the live one rests for its share as well, until it has caught up.
    async fn yield_to_neighbours(&mut self, batch: &InFlightBatch, took: Duration) {
        let is_behind = self.catching_up.as_ref().is_some_and(|state| !state.is_caught_up());
        if self.switch.beside_live && is_behind && self.rebuild_share < 1.0 {
            self.rest(took.mul_f64(1.0 / self.rebuild_share.max(0.01) - 1.0)).await;
        }
        let broke_limits = |answers: &FirstAnswers| {
            answers.failure().is_some_and(|failure| failure.kind == FailureKind::Limit)
        };
        if batch.answers.iter().flatten().any(broke_limits) {
            self.rest(3 * batch.asked).await;
        }
    }

    async fn rest(&mut self, wanted: Duration) {
        let began = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(wanted.min(LONGEST_REST)) => {}
            () = self.stop.cancelled() => {}
        }
        self.tally.rested += began.elapsed();
    }

    /// Another writer moved these checkpoints: what was read of them is void.
    fn fenced(&mut self, partitions: &[Partition]) {
        self.tally.fenced += 1;
        let projection = self.settler.deployment.generation.projection.clone();
        let partitions_named = partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            projection,
            partitions = partitions_named,
            "fenced: another host moved the checkpoint; nothing was written, reading goes on from there"
        );
        self.reposition(partitions);
    }

    /// Says who is in the way, when a lock was waited for in vain: in the log, and if that happens again
    /// and again, in the status. It is tried on meanwhile.
    async fn name_lock_holder(&mut self, error: &StoreError) {
        if error.kind() != FailureKind::Locked {
            return;
        }
        self.lock_timeouts += 1;
        let Settler { store, deployment: WriteTarget { generation, .. }, .. } = &self.settler;
        let held = match store.lock_holder(generation).await {
            None => "a lock is held by a session that could not be found out".to_owned(),
            Some(LockHolder { session, application, query, seconds }) => {
                let projection = &generation.projection;
                let said = "another session holds the lock";
                let transaction_ms = (seconds * 1_000.0) as u64;
                tracing::warn!(projection, session, application, query, transaction_ms, "{said}");
                format!("{said}: {session} ({application:?}), in a transaction of {seconds:.0} s: {query}")
            }
        };
        if self.lock_timeouts >= LOCK_TIMEOUTS {
            self.show_trouble(Blocker::new(FailureKind::Locked, held)).await;
        }
    }

    async fn count_deadlock(&self, error: &StoreError) {
        if error.kind() != FailureKind::Deadlock {
            return;
        }
        let Settler { store, deployment, .. } = &self.settler;
        if let Err(error) = store.count_deadlock(&deployment.generation).await {
            self.backoff.missed("a deadlock could not be counted", &error);
        }
    }

    /// In the status, until it goes on.
    async fn show_trouble(&mut self, trouble: Blocker) {
        self.shows_trouble = true;
        let Settler { store, deployment, .. } = &self.settler;
        if let Err(error) = store.set_blocked(&deployment.generation, Some(&trouble)).await {
            self.backoff.missed("why it does not go on could not be stored", &error);
        }
    }

    /// What was tried again works.
    async fn available_again(&mut self) {
        self.backoff.succeeded();
        self.lock_timeouts = 0;
        if std::mem::take(&mut self.shows_trouble) {
            let Settler { store, deployment, .. } = &self.settler;
            if let Err(error) = store.set_blocked(&deployment.generation, None).await {
                self.backoff.missed("that it goes on could not be stored", &error);
            }
        }
    }

    /// After the database was gone: what became of the batch, as the checkpoints tell.
    async fn recover(&mut self, batch: &mut InFlightBatch) -> Recovered {
        loop {
            self.backoff.wait(&self.stop).await;
            if self.stop.is_cancelled() {
                return Recovered::Stopped;
            }
            let asked: Vec<Partition> =
                self.advances(batch).into_iter().map(|advance| advance.partition).collect();
            let found = tokio::select! {
                found = self.settler.store.checkpoints(&self.settler.deployment.generation, &asked) => found,
                () = self.stop.cancelled() => return Recovered::Stopped,
            };
            match found {
                Err(error) => self.backoff.failed(error.kind(), &error),
                Ok(found) => {
                    // What was given back meanwhile is another host's business. The rest was this host's
                    // when it was asked about.
                    let events = batch.deliveries.len();
                    drop(self.guard_revokes(batch));
                    if batch.deliveries.len() < events {
                        let (projection, void) = (self.name(), events - batch.deliveries.len());
                        tracing::warn!(
                            projection,
                            void,
                            "void: partitions were given to another host before their events could be written"
                        );
                    }
                    let advances = self.advances(batch);
                    let at = |of: fn(&Advance) -> i64| {
                        advances.iter().all(|advance| {
                            let place = asked.iter().position(|partition| *partition == advance.partition);
                            let checkpoint = place.and_then(|place| found[place].as_ref());
                            checkpoint.is_some_and(|checkpoint| checkpoint.next_offset == of(advance))
                        })
                    };
                    if at(|advance| advance.expected) {
                        return Recovered::TryAgain;
                    }
                    if at(|advance| advance.next) {
                        return Recovered::Committed(advances);
                    }
                    return Recovered::Moved(advances.into_iter().map(|advance| advance.partition).collect());
                }
            }
        }
    }

    /// Drops from a batch what is void, and keeps the rest until the guard is dropped.
    fn guard_revokes(&self, batch: &mut InFlightBatch) -> RevokeGuard {
        let events = batch.deliveries.len();
        let guard = self.source.guard_revokes(&mut batch.deliveries);
        if batch.deliveries.len() != events {
            batch.answers = None;
        }
        guard
    }

    /// How a batch would move the checkpoints.
    fn advances(&self, batch: &InFlightBatch) -> Vec<Advance> {
        let checkpoint = |partition: &Partition| self.positions.checkpoint(partition);
        settle::advances(&batch.deliveries, &[], &checkpoint)
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

/// What a store's error that is nobody's event means for the run.
fn halt(error: StoreError) -> RunEnd {
    match error {
        StoreError::Inactive(_) | StoreError::Held(_) => RunEnd::Switch,
        StoreError::Paused(reason) => RunEnd::Paused(reason),
        error => RunEnd::Stop(Blocker::new(error.kind(), error)),
    }
}

/// Waits until a generation is caught up, if it is not yet.
async fn end_of(catching_up: Option<&CatchUpState>) {
    match catching_up {
        Some(state) if !state.is_caught_up() => state.caught_up().await,
        _ => std::future::pending().await,
    }
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
