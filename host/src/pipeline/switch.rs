//! Going over from one version to another between two batches, and its trial.

use projector_model::Contract;
use tokio::time::Instant;

use super::{InFlightBatch, Run};
use crate::catch_up::order_shows;
use crate::event::Position;
use crate::event_failure::Failure;
use crate::failure::FailureKind;
use crate::failure_policy::Flood;
use crate::plugin::Plugin;
use crate::project::purity::Sampling;
use crate::retry::RunEnd;
use crate::settle::OnTrial;
use crate::store::WriteTarget;
use crate::store::deployments::Role;
use crate::store::operator::GenerationControl;

/// Going over from one version to another.
#[derive(Default)]
pub(super) struct Switch {
    /// Since the last commit of the version before; over with the first of the next one.
    began: Option<Instant>,
    last_commit: Option<Instant>,
    /// Those that the active version committed.
    batches: u64,
    /// It is built beside a live generation.
    pub(super) beside_live: bool,
}

impl Run {
    /// Goes over to the version that is active, and heeds a hold: between two batches.
    pub(super) fn follow(
        &mut self,
        control: &GenerationControl,
        ahead: &mut Option<InFlightBatch>,
    ) -> Result<(), RunEnd> {
        self.switch.beside_live = control.role == Role::Building;
        if control.active != *self.settler.deployment.digest {
            let next = self.versions.known(&control.active).filter(|next| self.can_go_on_with(next));
            let Some(next) = next else { return Err(RunEnd::Switch) };
            self.settler.go_over_to(next);
            // What the version before was found to be says nothing of this one.
            self.sampling = Sampling::new(self.settler.plugin.limits.purity_sample);
            // It may be another one than this lane ran.
            let before = control.on_trial_against.as_deref().filter(|_| self.trial_batches > 0);
            let before = before.and_then(|digest| self.versions.known(digest));
            self.settler.on_trial = before.map(|before| OnTrial::against(&self.settler, before));
            self.switch.began = Some(self.switch.last_commit.unwrap_or_else(Instant::now));
            self.switch.batches = 0;
            self.flood = Flood::default();
            if let Some(ahead) = ahead {
                ahead.answers = None;
            }
        } else if control.on_trial_against.is_none() {
            self.settler.on_trial = None;
        }
        self.barrier = control.barrier.clone();
        if !self.barrier.is_open()
            && let Some(ahead) = ahead.take()
        {
            self.buffer.put_back(ahead.deliveries);
        }
        Ok(())
    }

    /// Whether a version can take over where another one stops, without new consumers: it knows topics
    /// by their place, and lanes by whether a batch must be the only one in flight.
    fn can_go_on_with(&self, next: &Plugin) -> bool {
        let (now, next) = (&self.settler.plugin.contract, &next.contract);
        let topics =
            |contract: &Contract| contract.topics.iter().map(|topic| topic.name.clone()).collect::<Vec<_>>();
        topics(now) == topics(next)
            && now.needs_one_writer() == next.needs_one_writer()
            && order_shows(now) == order_shows(next)
    }

    /// A batch of the active version is committed. Tells the first time, and when its trial is over.
    pub(super) async fn went_over(&mut self) {
        let now = Instant::now();
        let WriteTarget { generation, digest, contract, .. } = &self.settler.deployment;
        if let Some(began) = self.switch.began.take() {
            let gap_ms = now.duration_since(began).as_millis() as u64;
            let (projection, version) = (&*generation.projection, &*contract.descriptor.version);
            tracing::info!(projection, version, digest = &**digest, gap_ms, "went over to another version");
        }
        self.switch.last_commit = Some(now);
        self.switch.batches += 1;
        if self.settler.on_trial.is_some() && self.switch.batches >= self.trial_batches {
            match self.settler.store.pass_trial(generation, digest).await {
                Ok(()) => self.settler.on_trial = None,
                Err(error) => self.backoff.missed("that a trial is over could not be stored", &error),
            }
        }
    }

    /// Whether the version before is to be asked about an event, and was not.
    pub(super) fn is_tried_out(&self, position: &Position) -> bool {
        self.settler.on_trial.as_ref().is_some_and(|trial| trial.compared.as_ref() != Some(position))
    }

    /// A version on trial fails for a batch's first event: if the version before does not, that one is put
    /// back. The events before this one are committed, and the rows are as they left them.
    pub(super) async fn compare(&mut self, batch: &InFlightBatch, failure: &Failure) {
        let (Some(on_trial), Some(first)) = (&mut self.settler.on_trial, batch.deliveries.first()) else {
            return;
        };
        let before = &on_trial.before;
        match before.fails_for(first, &self.settler.plugin.contract).await {
            // Neither takes it: no reason to go back.
            Ok(true) => on_trial.compared = Some(first.event.position.clone()),
            Ok(false) => {
                let WriteTarget { generation, digest, .. } = &self.settler.deployment;
                let (projection, position) = (&*generation.projection, &first.event.position);
                let to = &before.deployment.digest;
                let reason =
                    format!("the event at {position} failed, and did not in the version before: {failure}");
                match before.store.revert(generation, digest, to, &reason).await {
                    // Another one is active meanwhile.
                    Ok(false) => drop(self.watcher.refresh().await),
                    Ok(true) => {
                        tracing::error!(
                            projection,
                            digest = &**digest,
                            to = &**to,
                            reason,
                            advice = "mend the version, and deploy it again",
                            "version reverted"
                        );
                        self.backoff.succeeded();
                        if let Err(error) = self.watcher.refresh().await {
                            self.backoff.missed("what is active now could not be asked", &error);
                        }
                    }
                    Err(error) => {
                        self.backoff.failed(error.kind(), &error);
                        self.backoff.wait(&self.stop).await;
                    }
                }
            }
            Err(error) => {
                let kind = FailureKind::Database;
                self.backoff.failed(kind, &format!("the version before could not be asked: {error:?}"));
                self.backoff.wait(&self.stop).await;
            }
        }
    }
}
