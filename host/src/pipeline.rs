//! The path of an event, from top to bottom: source → batch → plugin → validate → plan → store.
//!
//! Each lane of a projection runs one loop, and only the loop sees every stage; the stages do not see each other.
//!
//! # Invariants
//!
//! - A batch's rows and its checkpoints are committed in one transaction. Until that commit, nothing has happened: the
//!   batch can be tried again, made smaller, or dropped and read again.
//! - A commit succeeds only from the checkpoint that this lane knows. If another host has moved it, nothing is written,
//!   and reading continues at the new checkpoint.
//! - At most one batch is in a transaction. The next one may be with the plugin meanwhile; it is void if the batch before
//!   it ends otherwise than expected.
//! - Whatever is not a batch (requests of operators, waiting events, a change of version) happens between two batches.

mod batch_attempt;
mod catch_up_progress;
mod faults;
mod intake;
mod lock_watch;
mod operator_requests;
mod positions;
mod ready_events;
mod recovery;
mod switch;
mod throttle;

use std::sync::Arc;
use std::time::Duration;

use projector_config::Deploy;
use projector_core::batch::{BatchLimits, Delivery};
use projector_core::event::Partition;
use projector_kafka::{KafkaAdmin, Source};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::beginning::Starts;
use crate::catch_up::CatchUpState;
use crate::control_state::ControlStateWatcher;
use crate::deploy::component_cache::ComponentCache;
use crate::project::FirstAnswers;
use crate::project::purity::Call;
use crate::retry::{Backoff, Retries, RunEnd};
use crate::settle::Settler;
use catch_up_progress::CatchUpProgress;
use faults::Faults;
use intake::Intake;
use lock_watch::LockWatch;
use operator_requests::OperatorRequests;
use positions::Positions;
use ready_events::ReadyEvents;
use switch::Switch;
use throttle::Throttle;

/// How often the write barrier is checked while it is not open, and how long other work waits for it.
const BARRIER_INTERVAL: Duration = Duration::from_millis(100);
/// How long the brokers may leave all questions unanswered before this lane leaves the group. Another host, or a new
/// consumer, may reach them.
const UNANSWERED: Duration = Duration::from_secs(15);

pub struct Pipeline {
    pub settler: Settler,
    pub log: KafkaAdmin,
    /// Where partitions without a checkpoint start.
    pub starts: Starts,
    /// The compiled components: one of them may become the active one.
    pub versions: Arc<ComponentCache>,
    pub source: Source,
    pub limits: BatchLimits,
    /// The control state: what operators want.
    pub watcher: ControlStateWatcher,
    /// Failures that are being retried, for the status.
    pub retries: Retries,
    /// Of a generation that is catching up. Its lanes share it.
    pub catching_up: Option<Arc<CatchUpState>>,
    /// Whether the generation gets more lanes when it is caught up, in a new run.
    pub more_lanes: bool,
    pub deploy: Deploy,
    /// Asks the run to end: the batch in flight is committed or abandoned.
    pub stop: CancellationToken,
}

/// What a run did. Logged at its end.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    batches: u64,
    events: u64,
    /// Batches that were not committed because another host had moved a checkpoint.
    fenced: u64,
    retries: u64,
    /// Statements that wrote the plugin's rows.
    statements: u64,
    /// Times that rows were read for a batch.
    reads: u64,
    /// Sampled events for which the plugin gave two different answers.
    impure: u64,
    /// How long the lane rested, to leave the machine to the live generation and to other projections.
    rested: Duration,
}

/// Events of one transaction, and what is known of them before it begins.
struct InFlightBatch {
    deliveries: Vec<Delivery>,
    /// The plugin's answer to each event. `None`: not asked yet.
    answers: Option<Vec<FirstAnswers>>,
    /// How long the plugin took.
    asked: Duration,
    /// The calls with rows, if the purity of this batch is checked.
    calls: Vec<Call>,
    /// The partitions whose topic was deleted and created again. `None`: not checked yet.
    foreign: Option<Vec<Partition>>,
}

impl Pipeline {
    /// Runs until it is asked to stop (`Ok`), or cannot go on.
    pub async fn run(self) -> Result<(), RunEnd> {
        let mut run = Run::new(self);
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
        run.intake.source.close(Duration::from_secs(5)).await;
        result
    }
}

/// The state of a lane's loop.
struct Run {
    /// Writes the batches.
    settler: Settler,
    watcher: ControlStateWatcher,
    /// What is read and not committed yet.
    intake: Intake,
    requests: OperatorRequests,
    /// Waiting events whose row has come.
    ready: ReadyEvents,
    switch: Switch,
    throttle: Throttle,
    catch_up: CatchUpProgress,
    lock_watch: LockWatch,
    backoff: Backoff,
    stop: CancellationToken,
    tally: Tally,
}

impl Run {
    fn new(pipeline: Pipeline) -> Self {
        let Pipeline {
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
        } = pipeline;
        let generation = settler.deployment.generation.clone();
        let topics = settler.deployment.topics.clone();
        let faults = Faults::new(generation.clone(), settler.store.clone(), &retries, topics);
        let backoff = Backoff::new(&generation.projection, &retries);
        let resumes = watcher.of(generation.id).map(|control| control.resumes);
        let positions = Positions::new(generation, settler.store.clone(), log, starts, &retries);
        Self {
            intake: Intake::new(source, limits, positions, faults),
            requests: OperatorRequests::new(resumes),
            ready: ReadyEvents::default(),
            switch: Switch::new(versions, deploy.trial_batches, settler.plugin.limits.purity_sample),
            throttle: Throttle::new(deploy.rebuild_share),
            catch_up: CatchUpProgress::new(catching_up, more_lanes),
            lock_watch: LockWatch::default(),
            tally: Tally::default(),
            settler,
            watcher,
            backoff,
            stop,
        }
    }

    fn name(&self) -> &str {
        &self.settler.deployment.generation.projection
    }

    async fn run(&mut self) -> Result<(), RunEnd> {
        let mut ahead = None;
        while let Some(batch) = self.next_batch(ahead.take()).await? {
            ahead = self.commit_batch(batch).await?;
        }
        Ok(())
    }

    /// The batch that the plugin has answered already, or else the next one, as soon as there are events for it. Does
    /// everything else that is due between two batches. `None`: the run was asked to stop.
    async fn next_batch(
        &mut self,
        mut ahead: Option<InFlightBatch>,
    ) -> Result<Option<InFlightBatch>, RunEnd> {
        loop {
            self.intake.drain();
            let generation = self.settler.deployment.generation.id;
            // None: the generation was removed.
            let control = self.watcher.of(generation).ok_or(RunEnd::Switch)?;
            self.follow(&control, &mut ahead)?;
            if let Some(ended) = self.intake.ended.take() {
                return Err(ended);
            }
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            self.refresh_barrier().await;
            self.intake.faults.store().await;
            self.release_ready(control.any_ready).await?;
            let role = control.role;
            self.serve(control).await?;
            self.record_topics().await;
            self.intake.positions.start_reading(&self.intake.source).await;
            if let Some(trouble) = self.intake.positions.unanswered_for(UNANSWERED) {
                return Err(RunEnd::GivesUp(trouble));
            }
            self.check_caught_up(role)?;
            if let Some(batch) = ahead.take().or_else(|| self.intake.take_batch()) {
                return Ok(Some(batch));
            }
            let retry = self.next_retry();
            tokio::select! {
                incoming = self.intake.source.next(), if !self.intake.is_crowded() => match incoming {
                    Some(incoming) => self.intake.receive(incoming),
                    None => return Err(RunEnd::Restart("the Kafka consumer ended".into())),
                },
                () = self.watcher.changed() => {}
                () = self.intake.positions.answered() => {}
                () = self.stop.cancelled() => {}
                () = self.catch_up.caught_up() => {}
                () = wait_until(retry) => {}
            }
        }
    }

    /// When something is to be tried again that no event announces.
    fn next_retry(&self) -> Option<Instant> {
        let retry = self.intake.positions.next_try().into_iter();
        retry.chain(self.requests.again).chain(self.ready.at).chain(self.intake.barrier_again).min()
    }
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
