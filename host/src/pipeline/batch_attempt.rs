//! Commits one batch, in as many attempts as needed.
//!
//! Each attempt is one transaction: it commits the whole batch, or a shorter one from its front, or nothing. While the
//! transaction runs, the plugin already answers for the next batch. After a failed attempt,
//! [`recovery`](super::recovery) decides what follows.

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
    /// Tries a batch until it is committed, or until its events must be read again. Returns the next batch, if the
    /// plugin has answered for it in the meantime.
    pub(super) async fn commit_batch(
        &mut self,
        mut batch: InFlightBatch,
    ) -> Result<Option<InFlightBatch>, RunEnd> {
        let mut tries = Tries::default();
        let began = Instant::now();
        loop {
            if !self.drop_recreated(&mut batch).await? {
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
                    // Only a commit shows that the database works. A read may succeed while the database refuses writes.
                    self.available_again().await;
                    self.switch.flood = flood;
                    self.committed(&batch, advances).await;
                    self.rest_after(&batch, began.elapsed()).await;
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

    /// Drops the events of topics that were deleted and created again: the checkpoints do not belong to the new topic.
    /// Retries until the brokers respond. `false`: the run was asked to stop before that. An error: the brokers did not
    /// respond for [`UNANSWERED`], so the lane leaves the group.
    async fn drop_recreated(&mut self, batch: &mut InFlightBatch) -> Result<bool, RunEnd> {
        if let Some(recreated) = batch.recreated.take() {
            self.intake.reposition(&recreated);
            return Ok(true);
        }
        let asked = Instant::now();
        loop {
            let recreated = tokio::select! {
                recreated = self.intake.positions.recreated(&batch.deliveries) => recreated,
                () = self.stop.cancelled() => return Ok(false),
            };
            match recreated {
                Ok(recreated) => {
                    self.intake.reposition(&recreated);
                    return Ok(true);
                }
                Err(error) if asked.elapsed() > UNANSWERED => {
                    return Err(RunEnd::LeaveGroup(Blocker::new(error.kind(), &error)));
                }
                Err(error) => {
                    self.backoff.failed(error.kind(), &error);
                    self.backoff.wait(&self.stop).await;
                }
            }
        }
    }

    /// One attempt to commit a batch. At the same time, the plugin and the brokers are asked about the next batch,
    /// which is returned. The batch is shortened to the events that the attempt took; the others go back into the
    /// buffer.
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
                batch.plugin_time = began.elapsed();
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
            // An error or a timeout of the plugin is ignored here: it happens again in the attempt at this batch, and is
            // handled there. The end of the commit cancels the request to the brokers, so slow brokers do not delay the
            // lane.
            next.recreated = tokio::select! {
                recreated = self.intake.positions.recreated(&next.deliveries) => recreated.ok(),
                () = attempted.cancelled() => None,
            };
            let plugin = self.settler.plugin.clone();
            let asked = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                next.answers = project::ask(&plugin, &next.deliveries).ok();
                next.plugin_time = began.elapsed();
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
        // Put the events of the next batch back first, and then the rest of this one: so the buffer keeps the order.
        self.intake.buffer.put_back(next.map(|next| next.deliveries).unwrap_or_default());
        self.intake.cut(batch, events);
        (result, None)
    }

    /// Records a commit. Checks the plugin's purity if this batch is in the sample.
    pub(super) async fn committed(&mut self, batch: &InFlightBatch, advances: Vec<Advance>) {
        self.tally.batches += 1;
        self.tally.events += batch.deliveries.len() as u64;
        self.count_version_commit().await;
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
                let what = "the report that the plugin is not a pure function could not be stored";
                self.backoff.warn(what, &error);
            }
        }
    }
}
