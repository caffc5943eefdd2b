//! Carries out operators' requests, between two batches.
//!
//! Every lane reads all requests, and carries out those for the partitions that it owns. The store accepts each request
//! once: carrying out a request that is done already changes nothing. A request that fails stays in the store, and is
//! tried again after a pause.

use projector_kafka::TopicsChange;
use projector_store::StoreError;
use projector_store::control::GenerationControl;
use projector_store::operations::OpenOperation;
use tokio::time::Instant;

use super::{BARRIER_INTERVAL, Run};
use crate::retry::RunEnd;
use crate::settle::Released;

pub(super) struct OperatorRequests {
    /// The resume counter when it was last read. A change means that an operator called `projector resume`.
    resumes: Option<i64>,
    /// Requests that are done, as long as the control state still lists them.
    done: Vec<i64>,
    /// When to continue with the open requests. `None`: at once.
    pub(super) retry_at: Option<Instant>,
}

impl OperatorRequests {
    pub(super) fn new(resumes: Option<i64>) -> Self {
        Self { resumes, done: Vec::new(), retry_at: None }
    }
}

impl Run {
    /// Reads the write barrier often while it is not open: it lasts only for a moment, and this lane learns from the
    /// store when it opens.
    pub(super) async fn refresh_barrier(&mut self) {
        let due = self.intake.barrier_again.is_some_and(|at| at <= Instant::now());
        if self.intake.barrier.is_open() {
            self.intake.barrier_again = None;
        } else if due || self.intake.barrier_again.is_none() {
            self.intake.barrier_again = Some(Instant::now() + BARRIER_INTERVAL);
        }
        if !self.intake.barrier.is_open()
            && due
            && let Err(error) = self.watcher.refresh().await
        {
            self.backoff.warn("the write barrier could not be read", &error);
        }
    }

    /// Stores which topics match the patterns now. No other work depends on this, so a failure is only logged, and this
    /// is tried again before the next batch.
    pub(super) async fn record_topics(&mut self) {
        let Some(TopicsChange { read, left }) = &self.intake.topics else { return };
        let generation = &self.settler.deployment.generation;
        match self.settler.store.record_topics(generation, read, left).await {
            Ok(()) => self.intake.topics = None,
            Err(error) => self.backoff.warn("the topics that match the patterns could not be stored", &error),
        }
    }

    /// Pauses or resumes, and carries out open requests.
    pub(super) async fn carry_out_requests(&mut self, control: GenerationControl) -> Result<(), RunEnd> {
        if let Some(reason) = control.paused {
            return Err(RunEnd::Paused(reason));
        }
        if self.requests.resumes != Some(control.resumes) {
            self.requests.resumes = Some(control.resumes);
            // An operator has called `projector resume`: the cause of a paused partition may be gone, so find out the
            // positions of all partitions again.
            self.intake.reposition(&self.intake.source.granted());
        }
        if control.open.is_empty() || !self.intake.barrier.is_open() {
            self.requests.done.clear();
            return Ok(());
        }
        self.requests.done.retain(|id| control.open.iter().any(|operation| operation.id == *id));
        if self.requests.retry_at.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        self.requests.retry_at = None;
        let granted = self.intake.source.granted();
        let topics = &self.settler.deployment.topics;
        // An event that was backfilled from a file has a partition that Kafka does not assign to any host. So any lane
        // may carry out its requests, and the store accepts the first one.
        let is_ours = |operation: &&OpenOperation| {
            (granted.contains(&operation.partition) || !topics.reads(&operation.partition.topic))
                && !self.requests.done.contains(&operation.id)
        };
        let ours: Vec<&OpenOperation> = control.open.iter().filter(is_ours).collect();
        if ours.is_empty() {
            return Ok(());
        }
        if ours.len() > 1 {
            let ids: Vec<i64> = ours.iter().map(|operation| operation.id).collect();
            match self.settler.release_many(&ids, self.intake.limits).await {
                Ok(done) => self.requests.done.extend(done),
                Err(error) => return self.operation_failed(error).await,
            }
        }
        for operation in ours {
            if !self.requests.done.contains(&operation.id) {
                self.release(operation).await?;
            }
        }
        // The control state lists a limited number of requests: read the next ones now.
        if let Err(error) = self.watcher.refresh().await {
            self.backoff.warn("the next requests of operators could not be read", &error);
        }
        Ok(())
    }

    /// Carries out a request on a dead letter: as much of it as fits into one transaction.
    async fn release(&mut self, operation: &OpenOperation) -> Result<(), RunEnd> {
        match self.settler.release(operation, self.intake.limits, self.intake.positions.log()).await {
            Ok(Released::More) => self.requests.retry_at = Some(Instant::now()),
            Ok(Released::Done) => self.requests.done.push(operation.id),
            Err(error) => self.operation_failed(error).await?,
        }
        Ok(())
    }

    /// After a failure: the request stays open, and is tried again after a pause. An error ends the run.
    async fn operation_failed(&mut self, error: StoreError) -> Result<(), RunEnd> {
        let what = "an operator's request could not be carried out";
        self.requests.retry_at = Some(Instant::now() + self.pause_after(what, error).await?);
        Ok(())
    }
}
