//! Runs the lanes of a prepared generation to their end, with the tasks that accompany them.
//!
//! The lanes are members of the generation's consumer group. While they are members, no other host gets their
//! partitions. So they leave the group when this host cannot use the partitions: when the store does not respond, or
//! when the group has members that use another database. A batch in flight is then abandoned; the checkpoints tell
//! whether it was committed.

use std::time::Duration;

use projector_core::batch::BatchLimits;
use projector_core::failure::{Blocker, FailureKind};
use projector_store::Store;
use projector_store::operator::OpenOperation;
use tokio_util::sync::CancellationToken;

use super::Host;
use super::prepare::Prepared;
use crate::catch_up;
use crate::control_state::ControlStateWatcher;
use crate::event_ids;
use crate::lane;
use crate::pipeline::Pipeline;
use crate::retry::{Backoff, RunEnd};
use crate::settle::{Released, Settler};
use crate::strangers;
use crate::wait_ages;

/// How long the lanes of a projection may take to end when they must leave the consumer group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

const ENDLESS: &str = "it runs for as long as the projection";

impl Host {
    /// A consumer group, and the store whose hosts are expected to be its members.
    pub(super) fn members_of<'a>(&'a self, group: &'a str, store: &'a dyn Store) -> strangers::Group<'a> {
        let session = self.config.kafka.session_timeout();
        strangers::Group { name: group, store, log: &self.log, session }
    }

    /// Runs the lanes until the run ends. A run that is blocked stays so until an operator resumes it.
    pub(super) async fn run_lanes(&self, prepared: Prepared, stop: &CancellationToken) -> Result<(), RunEnd> {
        let Prepared { lanes, together, settler, group, limits, watcher, catching_up } = prepared;
        let members = self.members_of(&group, &*settler.store);
        let promoting = watcher.clone();
        let active = || {
            let control = promoting.of(settler.deployment.generation.id)?;
            Some(self.versions.known(&control.active)?.contract)
        };
        let on = async {
            let ended = Self::run_until_left(lanes, &together, &mut watcher.clone(), &members).await;
            if let Err(RunEnd::Stop(trouble)) = &ended {
                self.stand_still(&settler, limits, watcher, trouble, stop).await;
            }
            ended
        };
        // These tasks run beside the lanes and end with them.
        let ended = tokio::select! {
            ended = on => ended,
            never = settler.dead_letters.keep_summing_up(&settler.deployment.generation) => match never {},
            () = self.expire(&settler) => unreachable!("{ENDLESS}"),
            () = self.auto_promote(&settler, &promoting) => unreachable!("{ENDLESS}"),
            () = catch_up::follow(&settler.deployment, &*settler.store, &self.log, &self.retries, catching_up) => {
                unreachable!("{ENDLESS}")
            }
            () = event_ids::keep_forgetting(&settler.deployment, &*settler.store, &self.log, &self.retries, &active) => {
                unreachable!("{ENDLESS}")
            }
            () = wait_ages::keep_ending(&settler.deployment, &*settler.store, &self.log, &self.retries, &active) => {
                unreachable!("{ENDLESS}")
            }
        };
        settler.dead_letters.sum_up(&settler.deployment.generation);
        ended
    }

    /// Runs the lanes until they end, or must leave the consumer group.
    async fn run_until_left(
        lanes: Vec<Pipeline>,
        together: &CancellationToken,
        watcher: &mut ControlStateWatcher,
        members: &strangers::Group<'_>,
    ) -> Result<(), RunEnd> {
        let lanes = lane::run(lanes, together);
        tokio::pin!(lanes);
        let trouble = tokio::select! {
            ended = &mut lanes => return ended,
            reason = watcher.silent() => Blocker::new(FailureKind::Database, reason),
            reason = members.joined_by_strangers() => Blocker::new(FailureKind::Copied, reason),
        };
        together.cancel();
        // A batch that is in flight after the timeout is abandoned: the checkpoints tell whether it was committed.
        match tokio::time::timeout(LEAVE_TIMEOUT, lanes).await {
            Ok(Err(stopped @ RunEnd::Stop(_))) => Err(stopped),
            _ => Err(RunEnd::GivesUp(trouble)),
        }
    }

    /// Waits until an operator resumes the projection, or another version becomes active. Meanwhile operations on dead
    /// letters are carried out: they may remove the cause.
    async fn stand_still(
        &self,
        settler: &Settler,
        limits: BatchLimits,
        mut watcher: ControlStateWatcher,
        trouble: &Blocker,
        stop: &CancellationToken,
    ) {
        let (store, generation) = (&settler.store, &settler.deployment.generation);
        let name = &generation.projection;
        let resumes = watcher.of(generation.id).map(|control| control.resumes);
        let Blocker { kind, reason } = trouble;
        tracing::error!(projection = name, %kind, reason, advice = kind.advice(), "projection stands still");
        let mut backoff = Backoff::new(name, &self.retries);
        while let Err(error) = store.set_blocked(generation, Some(trouble)).await
            && !stop.is_cancelled()
        {
            backoff.failed(error.kind(), &error);
            backoff.wait(stop).await;
        }
        backoff.succeeded();
        let mut served = Vec::new();
        while !stop.is_cancelled() {
            let Some(control) = watcher.of(generation.id) else { return };
            if Some(control.resumes) != resumes || control.active != *settler.deployment.digest {
                return;
            }
            // The other lanes and hosts that are blocked do the same. The store lets one of them carry an operation out.
            let open: Vec<&OpenOperation> =
                control.open.iter().filter(|operation| !served.contains(&operation.id)).collect();
            let Some(first) = open.first() else {
                tokio::select! {
                    () = watcher.changed() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            };
            let ids: Vec<i64> = open.iter().map(|operation| operation.id).collect();
            let done = match ids.len() {
                1 => Ok(Vec::new()),
                _ => settler.release_lone_letters(&ids, limits).await,
            };
            let done = match done {
                Ok(done) if done.is_empty() => {
                    settler.release(first, limits, &self.log).await.map(|released| match released {
                        Released::More => Vec::new(),
                        Released::Done => vec![first.id],
                    })
                }
                done => done,
            };
            match done {
                Ok(done) => {
                    served.extend(done);
                    if let Err(error) = watcher.refresh().await {
                        backoff.missed("the next requests of operators could not be read", &error);
                    }
                }
                Err(error) => {
                    backoff.failed(error.kind(), &error);
                    backoff.wait(stop).await;
                }
            }
        }
    }
}
