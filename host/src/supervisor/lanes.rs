//! Runs the lanes of a prepared generation to their end, and the tasks beside them.
//!
//! The lanes are members of the generation's consumer group. While they are members, no other host gets their
//! partitions. So they leave the group when this host cannot use the partitions: when the store does not respond, or
//! when the group has foreign members, which use another database. A batch in flight is then abandoned. The checkpoints
//! show later whether it was committed.

use std::time::Duration;

use projector_core::batch::BatchLimits;
use projector_core::failure::{Blocker, FailureKind};
use projector_store::Store;
use projector_store::operations::OpenOperation;
use tokio_util::sync::CancellationToken;

use super::Host;
use super::prepare::Prepared;
use crate::catch_up;
use crate::control_state::ControlStateWatcher;
use crate::event_ids;
use crate::foreign_members;
use crate::lane;
use crate::pipeline::Pipeline;
use crate::retry::{Backoff, RunEnd};
use crate::settle::{Released, Settler};
use crate::wait_expiry;

/// How long the lanes of a projection may take to end when they must leave the consumer group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

const NEVER_ENDS: &str = "this task never ends";

impl Host {
    /// A consumer group, and the store whose hosts may be its members.
    pub(super) fn group<'a>(&'a self, group: &'a str, store: &'a dyn Store) -> foreign_members::Group<'a> {
        let session = self.config.kafka.session_timeout();
        foreign_members::Group { name: group, store, log: &self.log, session }
    }

    /// Runs the lanes until the run ends. If the run is blocked, waits until an operator resumes the projection or
    /// another version becomes active.
    pub(super) async fn run_lanes(&self, prepared: Prepared, stop: &CancellationToken) -> Result<(), RunEnd> {
        let Prepared { lanes, stop_lanes, settler, group, limits, watcher, catching_up } = prepared;
        let group = self.group(&group, &*settler.store);
        let promoting = watcher.clone();
        let active = || {
            let control = promoting.of(settler.deployment.generation.id)?;
            Some(self.versions.known(&control.active)?.contract)
        };
        let on = async {
            let ended = Self::run_in_group(lanes, &stop_lanes, &mut watcher.clone(), &group).await;
            if let Err(RunEnd::Stop(blocker)) = &ended {
                self.wait_while_blocked(&settler, limits, watcher, blocker, stop).await;
            }
            ended
        };
        // These tasks run beside the lanes and end with them.
        let ended = tokio::select! {
            ended = on => ended,
            never = settler.dead_letters.log_more_at_intervals(&settler.deployment.generation) => match never {},
            () = self.expire_dead_letters(&settler) => unreachable!("{NEVER_ENDS}"),
            () = self.auto_promote(&settler, &promoting) => unreachable!("{NEVER_ENDS}"),
            () = catch_up::watch(&settler.deployment, &*settler.store, &self.log, &self.retries, catching_up) => {
                unreachable!("{NEVER_ENDS}")
            }
            () = event_ids::delete_old_ids(&settler.deployment, &*settler.store, &self.log, &self.retries, &active) => {
                unreachable!("{NEVER_ENDS}")
            }
            () = wait_expiry::expire_waits(&settler.deployment, &*settler.store, &self.log, &self.retries, &active) => {
                unreachable!("{NEVER_ENDS}")
            }
        };
        settler.dead_letters.log_more(&settler.deployment.generation);
        ended
    }

    /// Runs the lanes until they end, or must leave the consumer group.
    async fn run_in_group(
        lanes: Vec<Pipeline>,
        stop_lanes: &CancellationToken,
        watcher: &mut ControlStateWatcher,
        group: &foreign_members::Group<'_>,
    ) -> Result<(), RunEnd> {
        let lanes = lane::run(lanes, stop_lanes);
        tokio::pin!(lanes);
        let blocker = tokio::select! {
            ended = &mut lanes => return ended,
            reason = watcher.unresponsive() => Blocker::new(FailureKind::Database, reason),
            reason = group.wait_for_foreign() => Blocker::new(FailureKind::Copied, reason),
        };
        stop_lanes.cancel();
        // Do not wait longer than the timeout: a batch that is still in flight is abandoned, and the checkpoints show
        // later whether it was committed.
        match tokio::time::timeout(LEAVE_TIMEOUT, lanes).await {
            Ok(Err(stopped @ RunEnd::Stop(_))) => Err(stopped),
            _ => Err(RunEnd::LeaveGroup(blocker)),
        }
    }

    /// Waits until an operator resumes the projection, or another version becomes active. The lanes have ended.
    /// Operations on dead letters are still carried out here: they may remove the cause.
    async fn wait_while_blocked(
        &self,
        settler: &Settler,
        limits: BatchLimits,
        mut watcher: ControlStateWatcher,
        blocker: &Blocker,
        stop: &CancellationToken,
    ) {
        let (store, generation) = (&settler.store, &settler.deployment.generation);
        let name = &generation.projection;
        let resumes = watcher.of(generation.id).map(|control| control.resumes);
        let Blocker { kind, reason } = blocker;
        tracing::error!(
            projection = name, %kind, reason, advice = kind.advice(),
            "projection is blocked until an operator resumes it, or another version becomes active"
        );
        let mut backoff = Backoff::new(name, &self.retries);
        while let Err(error) = store.set_blocked(generation, Some(blocker)).await
            && !stop.is_cancelled()
        {
            backoff.failed(error.kind(), &error);
            backoff.wait(stop).await;
        }
        backoff.succeeded();
        // Operations that are done, in case the control state still lists them.
        let mut done_here = Vec::new();
        while !stop.is_cancelled() {
            let Some(control) = watcher.of(generation.id) else { return };
            if Some(control.resumes) != resumes || control.active != *settler.deployment.digest {
                return;
            }
            // Other hosts with this projection do the same. The store lets one of them carry out each operation.
            let open: Vec<&OpenOperation> =
                control.open.iter().filter(|operation| !done_here.contains(&operation.id)).collect();
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
                _ => settler.release_many(&ids, limits).await,
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
                    done_here.extend(done);
                    if let Err(error) = watcher.refresh().await {
                        backoff.warn("the next requests of operators could not be read", &error);
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
