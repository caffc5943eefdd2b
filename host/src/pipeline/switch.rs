//! Switches to another version between two batches, and carries out its trial.
//!
//! If the new version reads the same topics in the same way, the lane keeps its consumer. Otherwise the run ends, and a
//! new run starts with the new version.
//!
//! While a version is on trial, an event that fails in it is also passed to the previous version. If it does not fail
//! there, the new version is reverted: the previous version becomes the active one again.

use std::sync::Arc;

use projector_core::event::Position;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::failure_policy::Flood;
use projector_core::generation::Role;
use projector_model::Contract;
use projector_sandbox::Plugin;
use projector_store::WriteTarget;
use projector_store::control::GenerationControl;
use tokio::time::Instant;

use super::recovery::Next;
use super::{InFlightBatch, Run};
use crate::catch_up::depends_on_order;
use crate::deploy::component_cache::ComponentCache;
use crate::project::purity::Sampling;
use crate::retry::RunEnd;
use crate::settle::OnTrial;

/// The last switch of the version, and what is known about the active version since then.
pub(super) struct Switch {
    /// The compiled components.
    versions: Arc<ComponentCache>,
    /// A version is on trial for this many batches. 0: there are no trials.
    trial_batches: u64,
    /// The last commit of the previous version. `None` when the active version has committed a batch.
    switched_at: Option<Instant>,
    last_commit: Option<Instant>,
    /// Batches that the active version has committed.
    batches: u64,
    /// Which batches are checked for whether the plugin is a pure function.
    pub(super) sampling: Sampling,
    /// The failures among the last events.
    pub(super) flood: Flood,
}

impl Switch {
    pub(super) fn new(versions: Arc<ComponentCache>, trial_batches: u64, purity_sample: f64) -> Self {
        Self {
            versions,
            trial_batches,
            switched_at: None,
            last_commit: None,
            batches: 0,
            sampling: Sampling::new(purity_sample),
            flood: Flood::default(),
        }
    }
}

impl Run {
    /// Follows the control state: switches to the active version, and uses the present write barrier. Call only between
    /// two batches. An error ends the run: the lane cannot switch to the active version.
    pub(super) fn follow_control_state(
        &mut self,
        control: &GenerationControl,
        ahead: &mut Option<InFlightBatch>,
    ) -> Result<(), RunEnd> {
        self.throttle.beside_live = control.role == Role::Building;
        if control.active != *self.settler.deployment.digest {
            let next = self.switch.versions.known(&control.active).filter(|next| self.can_switch_to(next));
            let Some(next) = next else { return Err(RunEnd::Switch) };
            self.settler.switch_to(next);
            // The sampled batches of the previous version show nothing about this one.
            self.switch.sampling = Sampling::new(self.settler.plugin.limits.purity_sample);
            // The version to compare with comes from the store: it may be another one than this lane ran last.
            let previous = control.on_trial_against.as_deref().filter(|_| self.switch.trial_batches > 0);
            let previous = previous.and_then(|digest| self.switch.versions.known(digest));
            self.settler.on_trial = previous.map(|previous| OnTrial::against(&self.settler, previous));
            self.switch.switched_at = Some(self.switch.last_commit.unwrap_or_else(Instant::now));
            self.switch.batches = 0;
            self.switch.flood = Flood::default();
            if let Some(ahead) = ahead {
                // The previous version has answered for this batch: call the new version instead.
                ahead.answers = None;
            }
        } else if control.on_trial_against.is_none() {
            self.settler.on_trial = None;
        }
        // A batch that was taken before the barrier closed may have events beyond it: put them back, and take a batch
        // again.
        self.intake.barrier = control.barrier.clone();
        if !self.intake.barrier.is_open()
            && let Some(ahead) = ahead.take()
        {
            self.intake.buffer.put_back(ahead.deliveries);
        }
        Ok(())
    }

    /// Whether the lane can run a version with its present consumer: it declares the same topics in the same order,
    /// needs the same number of writers, and merges partitions in the same way.
    fn can_switch_to(&self, next: &Plugin) -> bool {
        let (now, next) = (&self.settler.plugin.contract, &next.contract);
        let topics =
            |contract: &Contract| contract.topics.iter().map(|topic| topic.name.clone()).collect::<Vec<_>>();
        topics(now) == topics(next)
            && now.needs_one_writer() == next.needs_one_writer()
            && depends_on_order(now) == depends_on_order(next)
    }

    /// Counts a commit of the active version. Logs the first one after a switch, and ends the trial after the last one.
    pub(super) async fn count_version_commit(&mut self) {
        let now = Instant::now();
        let WriteTarget { generation, digest, contract, .. } = &self.settler.deployment;
        if let Some(switched_at) = self.switch.switched_at.take() {
            let gap_ms = now.duration_since(switched_at).as_millis() as u64;
            let (projection, version) = (&*generation.projection, &*contract.descriptor.version);
            tracing::info!(projection, version, digest = &**digest, gap_ms, "switched to another version");
        }
        self.switch.last_commit = Some(now);
        self.switch.batches += 1;
        if self.settler.on_trial.is_some() && self.switch.batches >= self.switch.trial_batches {
            match self.settler.store.pass_trial(generation, digest).await {
                Ok(()) => self.settler.on_trial = None,
                Err(error) => self.backoff.warn("the end of the version's trial could not be stored", &error),
            }
        }
    }

    /// Whether the version is on trial, and the previous version was not called for this event yet.
    pub(super) fn can_compare(&self, position: &Position) -> bool {
        self.settler.on_trial.as_ref().is_some_and(|trial| trial.compared.as_ref() != Some(position))
    }

    /// The version on trial has failed for a batch's first event: calls the previous version for the same event, and
    /// reverts to it if it does not fail. The events before this one are committed, so both versions see the same rows.
    /// If the store fails, this returns after a pause, and the attempt at the batch is repeated.
    ///
    /// If another version is active then, the events go back into the buffer, for this version.
    pub(super) async fn compare_with_previous(
        &mut self,
        batch: &mut InFlightBatch,
        failure: &Failure,
    ) -> Next {
        let (Some(on_trial), Some(first)) = (&mut self.settler.on_trial, batch.deliveries.first()) else {
            return Next::TryAgain;
        };
        let previous = &on_trial.previous;
        let other_is_active = match previous.fails_for(first, &self.settler.plugin.contract).await {
            // Both versions fail, so this is no reason to revert. From now on, the failure policy decides about this
            // event.
            Ok(true) => {
                on_trial.compared = Some(first.event.position.clone());
                false
            }
            Ok(false) => {
                let WriteTarget { generation, digest, .. } = &self.settler.deployment;
                let (projection, position) = (&*generation.projection, &first.event.position);
                let to = &previous.deployment.digest;
                let reason = format!(
                    "the event at {position} failed, and does not fail in the previous version: {failure}"
                );
                match previous.store.revert(generation, digest, to, &reason).await {
                    // Another version became active in the meantime.
                    Ok(false) => {
                        drop(self.watcher.refresh().await);
                        true
                    }
                    Ok(true) => {
                        tracing::error!(
                            projection,
                            digest = &**digest,
                            to = &**to,
                            reason,
                            advice = "correct the plugin, and deploy it again",
                            "version reverted"
                        );
                        self.backoff.succeeded();
                        if let Err(error) = self.watcher.refresh().await {
                            self.backoff.warn("the active version could not be read", &error);
                        }
                        true
                    }
                    Err(error) => {
                        self.backoff.failed(error.kind(), &error);
                        self.backoff.wait(&self.stop).await;
                        false
                    }
                }
            }
            Err(error) => {
                let kind = FailureKind::Database;
                self.backoff.failed(kind, &format!("the previous version could not be called: {error:?}"));
                self.backoff.wait(&self.stop).await;
                false
            }
        };
        if !other_is_active {
            return Next::TryAgain;
        }
        self.intake.put_back(batch);
        Next::Leave
    }
}
