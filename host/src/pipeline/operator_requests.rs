//! Carries out what operators ask for, between two batches.
//!
//! Every lane sees every request, and carries out those for the partitions that it owns. The store accepts each request
//! once, so a request that was carried out and is seen again changes nothing. A request that fails stays in the store and
//! is tried again after a pause.

use projector_kafka::TopicsChange;
use projector_store::StoreError;
use projector_store::operator::{GenerationControl, OpenOperation};
use tokio::time::Instant;

use super::{BARRIER_INTERVAL, Run};
use crate::retry::RunEnd;
use crate::settle::Released;

pub(super) struct OperatorRequests {
    /// The resume counter when it was last read. A change means that an operator called `projector resume`.
    resumes: Option<i64>,
    /// Requests that are done, as long as the watcher still shows them.
    served: Vec<i64>,
    /// When to go on with open requests.
    pub(super) again: Option<Instant>,
}

impl OperatorRequests {
    pub(super) fn new(resumes: Option<i64>) -> Self {
        Self { resumes, served: Vec::new(), again: None }
    }
}

impl Run {
    /// Checks the write barrier often while it is not open: it is short, and only the store tells when it opens.
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
            self.backoff.missed("the write barrier could not be read", &error);
        }
    }

    /// Records which topics match. No other work depends on it: if it fails, it is tried again before the next batch.
    pub(super) async fn record_topics(&mut self) {
        let Some(TopicsChange { read, left }) = &self.intake.topics else { return };
        let generation = &self.settler.deployment.generation;
        match self.settler.store.record_topics(generation, read, left).await {
            Ok(()) => self.intake.topics = None,
            Err(error) => self.backoff.missed("the topics that match could not be recorded", &error),
        }
    }

    /// Does what operators want: pauses, resumes, and carries out open requests.
    pub(super) async fn serve(&mut self, control: GenerationControl) -> Result<(), RunEnd> {
        if let Some(reason) = control.paused {
            return Err(RunEnd::Paused(reason));
        }
        if self.requests.resumes != Some(control.resumes) {
            self.requests.resumes = Some(control.resumes);
            // The projection was resumed: try paused partitions again.
            self.intake.reposition(&self.intake.source.granted());
        }
        if control.open.is_empty() || !self.intake.barrier.is_open() {
            self.requests.served.clear();
            return Ok(());
        }
        self.requests.served.retain(|id| control.open.iter().any(|operation| operation.id == *id));
        if self.requests.again.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        self.requests.again = None;
        let granted = self.intake.source.granted();
        let topics = &self.settler.deployment.topics;
        // The partition of a backfill's file is granted to no host: any lane may carry its requests out, and
        // the store lets the first one do so.
        let is_ours = |operation: &&OpenOperation| {
            (granted.contains(&operation.partition) || !topics.reads(&operation.partition.topic))
                && !self.requests.served.contains(&operation.id)
        };
        let ours: Vec<&OpenOperation> = control.open.iter().filter(is_ours).collect();
        if ours.is_empty() {
            return Ok(());
        }
        if ours.len() > 1 {
            let ids: Vec<i64> = ours.iter().map(|operation| operation.id).collect();
            match self.settler.release_lone_letters(&ids, self.intake.limits).await {
                Ok(done) => self.requests.served.extend(done),
                Err(error) => return self.operation_failed(error).await,
            }
        }
        for operation in ours {
            if !self.requests.served.contains(&operation.id) {
                self.release(operation).await?;
            }
        }
        // The watcher shows a limited number of requests at once: read the next ones now.
        if let Err(error) = self.watcher.refresh().await {
            self.backoff.missed("the next requests of operators could not be read", &error);
        }
        Ok(())
    }

    /// Carries out a request on dead letters: as much of it as fits into one transaction.
    async fn release(&mut self, operation: &OpenOperation) -> Result<(), RunEnd> {
        match self.settler.release(operation, self.intake.limits, self.intake.positions.log()).await {
            Ok(Released::More) => self.requests.again = Some(Instant::now()),
            Ok(Released::Done) => self.requests.served.push(operation.id),
            Err(error) => self.operation_failed(error).await?,
        }
        Ok(())
    }

    /// The request stays open, and is tried again after a pause.
    async fn operation_failed(&mut self, error: StoreError) -> Result<(), RunEnd> {
        let what = "a request of an operator could not be carried out";
        self.requests.again = Some(Instant::now() + self.pause_after(what, error).await?);
        Ok(())
    }
}
