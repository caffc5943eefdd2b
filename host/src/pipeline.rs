//! The path of an event: source → batch → plugin → validate → plan → store.
//!
//! Each lane of a projection runs one loop. Only this loop uses all stages; the stages do not use each other.
//!
//! # Invariants
//!
//! - A batch's rows and its checkpoints are committed in one transaction. Before this commit, a batch has no effect: it
//!   can be tried again, made smaller, or dropped and read again.
//! - A commit succeeds only if the stored checkpoints are the ones that this lane knows. If another host has moved one,
//!   nothing is written, and the lane reads on from the new checkpoint.
//! - At most one batch of a lane is in a transaction. The plugin may answer for the next batch at the same time. If the
//!   batch before it is not committed as a whole, the next batch goes back into the buffer.
//! - All other work (operators' requests, waiting events, a switch to another version) is done between two batches.

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

use crate::catch_up::CatchUpState;
use crate::control_state::ControlStateWatcher;
use crate::deploy::component_cache::ComponentCache;
use crate::project::FirstAnswers;
use crate::project::purity::Call;
use crate::retry::{Backoff, Retries, RunEnd};
use crate::settle::Settler;
use crate::start_offsets::Starts;
use catch_up_progress::CatchUpProgress;
use faults::Faults;
use intake::Intake;
use lock_watch::LockWatch;
use operator_requests::OperatorRequests;
use positions::Positions;
use ready_events::ReadyEvents;
use switch::Switch;
use throttle::Throttle;

/// How often the write barrier is read while it is not open, and how long other work waits before it tries again.
const BARRIER_INTERVAL: Duration = Duration::from_millis(100);
/// If no broker has answered a request for this time, the lane leaves the consumer group: another host, or a new
/// consumer, may reach the brokers.
const UNANSWERED: Duration = Duration::from_secs(15);

pub struct Pipeline {
    pub settler: Settler,
    pub log: KafkaAdmin,
    /// Where partitions without a checkpoint start.
    pub starts: Starts,
    /// The compiled components. The lane switches to one of them when it becomes the active version.
    pub versions: Arc<ComponentCache>,
    pub source: Source,
    pub limits: BatchLimits,
    /// The control state: what operators want.
    pub watcher: ControlStateWatcher,
    /// What is being retried, for `/v1/retrying`.
    pub retries: Retries,
    /// The state that the lanes of a generation share while it catches up. `None`: it is caught up.
    pub catching_up: Option<Arc<CatchUpState>>,
    /// Whether the generation gets more lanes when it is caught up, in a new run.
    pub more_lanes: bool,
    pub deploy: Deploy,
    /// Asks the run to end: the batch in flight is committed or abandoned.
    pub stop: CancellationToken,
}

/// What a run did, in numbers. Logged at its end.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    batches: u64,
    events: u64,
    /// Commits that were rejected because another host had moved a checkpoint (the failure kind `fenced`).
    fenced: u64,
    retries: u64,
    /// Statements that wrote the plugin's rows.
    statements: u64,
    /// Reads of stored rows for batches.
    reads: u64,
    /// Sampled events for which the plugin gave two different answers.
    impure: u64,
    /// How long the lane rested, to leave CPU time and the database to the live generation and to other projections.
    rested: Duration,
}

/// The events of the next transaction, and what is known about them before it begins.
struct InFlightBatch {
    deliveries: Vec<Delivery>,
    /// The plugin's first answers to each event. `None`: the plugin was not called yet.
    answers: Option<Vec<FirstAnswers>>,
    /// How long the calls of the plugin took.
    plugin_time: Duration,
    /// The calls with rows, if the purity of this batch is checked.
    calls: Vec<Call>,
    /// The partitions whose topic was deleted and created again since they were read. `None`: not checked yet.
    recreated: Option<Vec<Partition>>,
}

impl Pipeline {
    /// Runs until it is asked to stop (`Ok`), or cannot continue.
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
    /// Waiting events that can be tried again.
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

    /// The next batch: `ahead`, which the plugin has answered already, or one from the buffer as soon as it has events.
    /// Does all other work that is due between two batches. `None`: the run was asked to stop.
    async fn next_batch(
        &mut self,
        mut ahead: Option<InFlightBatch>,
    ) -> Result<Option<InFlightBatch>, RunEnd> {
        loop {
            self.intake.drain();
            let generation = self.settler.deployment.generation.id;
            // None: the generation was removed.
            let control = self.watcher.of(generation).ok_or(RunEnd::Switch)?;
            self.follow_control_state(&control, &mut ahead)?;
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
            self.carry_out_requests(control).await?;
            self.record_topics().await;
            self.intake.positions.start_reading(&self.intake.source).await;
            if let Some(blocker) = self.intake.positions.unanswered_for(UNANSWERED) {
                return Err(RunEnd::LeaveGroup(blocker));
            }
            self.check_caught_up(role)?;
            if let Some(batch) = ahead.take().or_else(|| self.intake.take_batch()) {
                return Ok(Some(batch));
            }
            let retry = self.next_retry();
            tokio::select! {
                incoming = self.intake.source.next(), if !self.intake.is_full() => match incoming {
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

    /// When the next retry is due, of the kind that no event or message triggers.
    fn next_retry(&self) -> Option<Instant> {
        let retry = self.intake.positions.next_try().into_iter();
        retry.chain(self.requests.retry_at).chain(self.ready.at).chain(self.intake.barrier_again).min()
    }
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
