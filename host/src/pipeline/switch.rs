//! Changes from one version to another, between two batches, and tries the new version out.
//!
//! The lane keeps its consumer and its transaction order if the new version reads the same topics in the same way.
//! Otherwise the run ends, and a new run has the new version. While a version is on trial, an event that fails in it is
//! also given to the version before; if it does not fail there, the version before is activated again.

use std::sync::Arc;

use projector_core::event::Position;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::failure_policy::Flood;
use projector_core::generation::Role;
use projector_model::Contract;
use projector_sandbox::Plugin;
use projector_store::WriteTarget;
use projector_store::operator::GenerationControl;
use tokio::time::Instant;

use super::{InFlightBatch, Run};
use crate::catch_up::order_shows;
use crate::deploy::component_cache::ComponentCache;
use crate::project::purity::Sampling;
use crate::retry::RunEnd;
use crate::settle::OnTrial;

/// The change to the active version, and what is known of that version.
pub(super) struct Switch {
    /// The compiled components.
    versions: Arc<ComponentCache>,
    /// For how many batches a version is on trial.
    trial_batches: u64,
    /// The last commit of the version before. `None` once the active version has committed.
    began: Option<Instant>,
    last_commit: Option<Instant>,
    /// Batches that the active version has committed.
    batches: u64,
    /// Which batches are checked for the plugin's purity.
    pub(super) sampling: Sampling,
    /// The failures among the last events.
    pub(super) flood: Flood,
}

impl Switch {
    pub(super) fn new(versions: Arc<ComponentCache>, trial_batches: u64, purity_sample: f64) -> Self {
        Self {
            versions,
            trial_batches,
            began: None,
            last_commit: None,
            batches: 0,
            sampling: Sampling::new(purity_sample),
            flood: Flood::default(),
        }
    }
}

impl Run {
    /// Follows the control state: changes to the active version, and takes the write barrier over. Only between two
    /// batches.
    pub(super) fn follow(
        &mut self,
        control: &GenerationControl,
        ahead: &mut Option<InFlightBatch>,
    ) -> Result<(), RunEnd> {
        self.throttle.beside_live = control.role == Role::Building;
        if control.active != *self.settler.deployment.digest {
            let next = self.switch.versions.known(&control.active).filter(|next| self.can_go_on_with(next));
            let Some(next) = next else { return Err(RunEnd::Switch) };
            self.settler.go_over_to(next);
            // The samples of the version before say nothing about this one.
            self.switch.sampling = Sampling::new(self.settler.plugin.limits.purity_sample);
            // The version to compare with may be another one than this lane ran last.
            let before = control.on_trial_against.as_deref().filter(|_| self.switch.trial_batches > 0);
            let before = before.and_then(|digest| self.switch.versions.known(digest));
            self.settler.on_trial = before.map(|before| OnTrial::against(&self.settler, before));
            self.switch.began = Some(self.switch.last_commit.unwrap_or_else(Instant::now));
            self.switch.batches = 0;
            self.switch.flood = Flood::default();
            if let Some(ahead) = ahead {
                ahead.answers = None;
            }
        } else if control.on_trial_against.is_none() {
            self.settler.on_trial = None;
        }
        self.intake.barrier = control.barrier.clone();
        if !self.intake.barrier.is_open()
            && let Some(ahead) = ahead.take()
        {
            self.intake.buffer.put_back(ahead.deliveries);
        }
        Ok(())
    }

    /// Whether a version can continue with the same consumers: the topics have the same places, and the same lanes may
    /// write side by side.
    fn can_go_on_with(&self, next: &Plugin) -> bool {
        let (now, next) = (&self.settler.plugin.contract, &next.contract);
        let topics =
            |contract: &Contract| contract.topics.iter().map(|topic| topic.name.clone()).collect::<Vec<_>>();
        topics(now) == topics(next)
            && now.needs_one_writer() == next.needs_one_writer()
            && order_shows(now) == order_shows(next)
    }

    /// Counts a commit of the active version: logs the first one, and ends the trial after the last one.
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
        if self.settler.on_trial.is_some() && self.switch.batches >= self.switch.trial_batches {
            match self.settler.store.pass_trial(generation, digest).await {
                Ok(()) => self.settler.on_trial = None,
                Err(error) => {
                    self.backoff.missed("the end of the version's trial could not be stored", &error)
                }
            }
        }
    }

    /// Whether the version before can be asked about an event, and was not asked yet.
    pub(super) fn is_tried_out(&self, position: &Position) -> bool {
        self.settler.on_trial.as_ref().is_some_and(|trial| trial.compared.as_ref() != Some(position))
    }

    /// The version on trial failed for a batch's first event: activates the version before again, if that one does not
    /// fail. The events before this one are committed, so both versions see the same rows.
    pub(super) async fn compare(&mut self, batch: &InFlightBatch, failure: &Failure) {
        let (Some(on_trial), Some(first)) = (&mut self.settler.on_trial, batch.deliveries.first()) else {
            return;
        };
        let before = &on_trial.before;
        match before.fails_for(first, &self.settler.plugin.contract).await {
            // Both fail: no reason to revert.
            Ok(true) => on_trial.compared = Some(first.event.position.clone()),
            Ok(false) => {
                let WriteTarget { generation, digest, .. } = &self.settler.deployment;
                let (projection, position) = (&*generation.projection, &first.event.position);
                let to = &before.deployment.digest;
                let reason =
                    format!("the event at {position} failed, and did not in the version before: {failure}");
                match before.store.revert(generation, digest, to, &reason).await {
                    // Another version became active meanwhile.
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
                            self.backoff.missed("the active version could not be read", &error);
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
                self.backoff.failed(kind, &format!("the version before could not be tried: {error:?}"));
                self.backoff.wait(&self.stop).await;
            }
        }
    }
}
