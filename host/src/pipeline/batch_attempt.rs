//! Commits one batch, however many attempts that takes.
//!
//! Each attempt is one transaction: it commits the whole batch, or a shorter one from the front, or nothing. While the
//! transaction runs, the plugin already answers for the next batch. Where an attempt fails, [`recovery`](super::recovery)
//! decides what follows.

use projector_core::event::Partition;
use projector_core::failure::Blocker;
use projector_core::failure_policy::Flood;
use projector_store::Advance;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::recovery::{Next, Tries};
use super::{InFlightBatch, Run, UNANSWERED};
use crate::project::purity;
use crate::project::{self, Caller, ProjectError};
use crate::retry::RunEnd;
use crate::settle::{Attempt, Settler};

impl Run {
    /// Brings a batch to its end. Returns the next one, if the plugin has answered for it meanwhile.
    pub(super) async fn commit_batch(
        &mut self,
        mut batch: InFlightBatch,
    ) -> Result<Option<InFlightBatch>, RunEnd> {
        let mut tries = Tries::default();
        let began = Instant::now();
        loop {
            if !self.of_the_same_log(&mut batch).await? {
                return Ok(None);
            }
            let guard = self.intake.guard_revokes(&mut batch);
            if batch.deliveries.is_empty() {
                self.available_again().await;
                return Ok(None);
            }
            let (attempt, ahead) = self.attempt(&mut batch).await;
            drop(guard);
            let error = match attempt {
                Ok((advances, flood)) => {
                    // Only a commit shows that the database works: one that can be read may still refuse writes.
                    self.available_again().await;
                    self.switch.flood = flood;
                    self.committed(&batch, advances).await;
                    self.yield_to_neighbours(&batch, began.elapsed()).await;
                    return Ok(ahead);
                }
                Err(error) => error,
            };
            if let Some(ahead) = ahead {
                self.intake.buffer.put_back(ahead.deliveries);
            }
            if let Next::Leave = self.after_failure(&mut batch, error, &mut tries).await? {
                return Ok(None);
            }
        }
    }

    /// Checks that the topics are still those of the checkpoints: the events of a topic that was deleted and created
    /// again are dropped. `false`: the run was asked to stop before the brokers responded.
    async fn of_the_same_log(&mut self, batch: &mut InFlightBatch) -> Result<bool, RunEnd> {
        if let Some(foreign) = batch.foreign.take() {
            self.intake.reposition(&foreign);
            return Ok(true);
        }
        let asked = Instant::now();
        loop {
            let foreign = tokio::select! {
                foreign = self.intake.positions.foreign(&batch.deliveries) => foreign,
                () = self.stop.cancelled() => return Ok(false),
            };
            match foreign {
                Ok(foreign) => {
                    self.intake.reposition(&foreign);
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

    /// One attempt at a batch: all of it, or nothing. Meanwhile the plugin and the brokers are asked about the next one.
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
        self.intake.cut(batch, answers.len());
        self.intake.drain();
        let next = self.intake.take_batch();
        let attempted = CancellationToken::new();
        let ask_ahead = async {
            let mut next = next?;
            // A failure or timeout here is ignored: it happens again when the batch is attempted, and is handled
            // then. The end of the commit cancels this question, so slow brokers do not delay the lane.
            next.foreign = tokio::select! {
                foreign = self.intake.positions.foreign(&next.deliveries) => foreign.ok(),
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
        let mut caller = match self.switch.sampling.is_due() {
            true => Caller::keeping_calls(&self.settler.plugin),
            false => Caller::new(&self.settler.plugin),
        };
        let commit = async {
            let _attempted = attempted.clone().drop_guard();
            let checkpoint = |partition: &Partition| self.intake.positions.checkpoint(partition);
            self.settler
                .attempt(&mut caller, &batch.deliveries, &answers, &checkpoint, &self.switch.flood)
                .await
        };
        let (Attempt { events, statements, reads, made_ready, result }, mut next) =
            tokio::join!(commit, ask_ahead);
        if made_ready && result.is_ok() {
            self.ready.at = Some(Instant::now());
        }
        batch.calls = caller.into_calls();
        if let Some(next) = &mut next {
            self.intake.cut(next, next.answers.as_ref().map_or(next.deliveries.len(), Vec::len));
        }
        self.tally.statements += statements;
        self.tally.reads += reads;
        batch.answers = Some(answers);
        if events == batch.deliveries.len() {
            return (result, next);
        }
        // Put the later events back first: the buffer keeps the order.
        self.intake.buffer.put_back(next.map(|next| next.deliveries).unwrap_or_default());
        self.intake.cut(batch, events);
        (result, None)
    }

    /// Records a commit. Checks the plugin's purity, if this batch is of the sample.
    pub(super) async fn committed(&mut self, batch: &InFlightBatch, advances: Vec<Advance>) {
        self.tally.batches += 1;
        self.tally.events += batch.deliveries.len() as u64;
        self.went_over().await;
        self.intake.positions.committed(&advances);
        self.intake
            .source
            .publish_offsets(advances.into_iter().map(|advance| (advance.partition, advance.next)).collect());
        if self.switch.sampling.advance(batch.deliveries.len()) {
            let answers = batch.answers.as_deref().unwrap_or_default();
            let Settler { plugin, store, deployment, .. } = &self.settler;
            let check = || purity::check(plugin, &batch.deliveries, answers, &batch.calls);
            let found = tokio::task::block_in_place(check);
            self.tally.impure += found.len() as u64;
            if let Some(impurity) = found.first()
                && let Err(error) = store
                    .set_impure(&deployment.generation, &projector_core::event_failure::shown(impurity))
                    .await
            {
                self.backoff.missed("the report that the plugin is not pure could not be stored", &error);
            }
        }
    }
}
