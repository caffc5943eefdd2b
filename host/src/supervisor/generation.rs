//! Keeps one generation running: prepare a run, run, and start again, until the generation is stopped.
//!
//! The end of a run ([`RunEnd`]) decides what follows: another run at once, another run after a backoff, or no run
//! until an operator or another version changes something. If a retry cannot help, this task waits outside of the
//! consumer group, and so has no partitions.

use std::sync::Arc;

use projector_core::failpoint;
use projector_core::failure::{Blocker, FailureKind};
use projector_core::generation::Generation;
use projector_store::Store;
use tokio_util::sync::CancellationToken;

use super::Host;
use super::prepare::PrepareError;
use super::restart::{AbortOnDrop, HEALTHY_AFTER, crash_text};
use crate::control_state::ControlStateWatcher;
use crate::retry::{Backoff, RunEnd};

impl Host {
    /// Keeps one generation running until it is stopped. If its task panics, the panic is stored as the generation's
    /// blocker, and the task is restarted after a backoff.
    pub(super) async fn supervise_and_restart(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        watcher: ControlStateWatcher,
        generation: Generation,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::new(&generation.projection, &self.retries);
        let mut crashed = false;
        loop {
            let (host, own) = (self.clone(), store.clone());
            let supervised = host.supervise(own, watcher.clone(), generation.clone(), stop.clone(), crashed);
            let mut task = AbortOnDrop(tokio::spawn(supervised));
            let Err(error) = task.wait_for_end(&mut backoff).await else { return };
            crashed = true;
            if stop.is_cancelled() {
                return;
            }
            let reason = format!("the projection's task panicked: {}", crash_text(error));
            backoff.failed(FailureKind::Crash, &reason);
            self.show_crash(&*store, &generation, reason).await;
            backoff.wait(&stop).await;
        }
    }

    /// Stores a panic as the generation's blocker, until a run is healthy.
    async fn show_crash(&self, store: &dyn Store, generation: &Generation, reason: String) {
        let blocker = Blocker::new(FailureKind::Crash, reason);
        if let Err(error) = store.set_blocked(generation, Some(&blocker)).await {
            let what = "the panic could not be stored, so `projector status` does not show it";
            self.retries.warn(&generation.projection, what, &error);
        }
    }

    /// Prepares and runs the generation, again and again. `crashed`: the generation's blocker in the store is a panic.
    async fn supervise(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        mut watcher: ControlStateWatcher,
        generation: Generation,
        stop: CancellationToken,
        mut crashed: bool,
    ) {
        let name = &*generation.projection;
        failpoint::reached(failpoint::SUPERVISE, name);
        let mut backoff = Backoff::new(name, &self.retries);
        let mut restarts = Backoff::new(name, &self.retries);
        while !stop.is_cancelled() {
            match self.prepare(&store, &mut watcher, &generation, &stop, crashed).await {
                Ok(prepared) => {
                    backoff.succeeded();
                    let lanes = self.run_lanes(prepared, &stop);
                    tokio::pin!(lanes);
                    let ended = tokio::select! {
                        ended = &mut lanes => ended,
                        () = tokio::time::sleep(HEALTHY_AFTER) => {
                            restarts.succeeded();
                            if std::mem::take(&mut crashed)
                                && let Err(error) = store.set_blocked(&generation, None).await
                            {
                                let what = "`projector status` still shows a panic after a healthy restart";
                                self.retries.warn(name, what, &error);
                            }
                            lanes.await
                        }
                    };
                    match ended {
                        Ok(()) => return,
                        // The next preparation waits for an operator or another version, where this is needed.
                        Err(RunEnd::CaughtUp | RunEnd::Paused(_) | RunEnd::Switch | RunEnd::Stop(_)) => {}
                        Err(RunEnd::LeaveGroup(Blocker { kind, reason })) => {
                            tracing::warn!(
                                projection = name, %kind, reason,
                                "this host leaves the projection's consumer group, so that other hosts get its partitions; it joins again when it can make progress"
                            );
                            match kind {
                                // The next preparation waits until the database answers.
                                FailureKind::Database => {}
                                FailureKind::Copied => {
                                    backoff.failed(kind, &reason);
                                    self.show(&*store, &generation, &Blocker { kind, reason }).await;
                                }
                                _ => self.until_brokers_answer(&mut backoff, &stop).await,
                            }
                        }
                        Err(RunEnd::Restart(reason)) => {
                            tracing::warn!(projection = name, reason, "projection starts again");
                            restarts.failed(FailureKind::Brokers, &reason);
                            restarts.wait(&stop).await;
                        }
                        Err(RunEnd::Crashed(message)) => {
                            let reason = format!("a task of this projection panicked: {message}");
                            restarts.failed(FailureKind::Crash, &reason);
                            crashed = true;
                            self.show_crash(&*store, &generation, reason).await;
                            restarts.wait(&stop).await;
                        }
                    }
                }
                Err(PrepareError::Stopped) => return,
                Err(error) if error.may_pass() => {
                    backoff.failed(error.kind(), &error);
                    if matches!(error.kind(), FailureKind::DatabaseSetup | FailureKind::Copied) {
                        self.show(&*store, &generation, &Blocker::new(error.kind(), &error)).await;
                    }
                    backoff.wait(&stop).await;
                }
                Err(error) => {
                    let (kind, advice) = (error.kind(), error.kind().advice());
                    tracing::error!(projection = name, %error, %kind, advice, "projection refused");
                    // A retry with the same version would fail again: wait until another version is active.
                    let tried = match error {
                        PrepareError::Version { digest, .. } => Some(digest),
                        _ => watcher.of(generation.id).map(|control| control.active),
                    };
                    while !stop.is_cancelled()
                        && watcher.of(generation.id).map(|control| control.active) == tried
                    {
                        tokio::select! {
                            () = watcher.changed() => {}
                            () = stop.cancelled() => {}
                        }
                    }
                }
            }
        }
    }

    /// Stores why the projection does not run, for `projector status`. If the store fails too, this is only logged.
    async fn show(&self, store: &dyn Store, generation: &Generation, blocker: &Blocker) {
        if let Err(error) = store.set_blocked(generation, Some(blocker)).await {
            let what = "the blocker could not be stored, so `projector status` does not show it";
            self.retries.warn(&generation.projection, what, &error);
        }
    }

    /// Waits until the brokers respond: the lanes have left the group because the brokers did not respond.
    async fn until_brokers_answer(&self, backoff: &mut Backoff, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let asked = tokio::select! {
                asked = self.log.cluster_id() => asked,
                () = stop.cancelled() => return,
            };
            let Err(error) = asked else { return backoff.succeeded() };
            backoff.failed(error.kind(), &error);
            backoff.wait(stop).await;
        }
    }
}
