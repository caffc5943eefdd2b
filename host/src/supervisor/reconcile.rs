//! The reconciler of one store: starts and stops its generations, and carries out its deployments.
//!
//! Each turn of the loop reads the control state, starts the generations that are desired and do not run, stops those
//! that run and are not desired, and takes every open deployment one step further. Then it waits until something
//! changes. A turn may be repeated at any time: where the desired state is reached, it does nothing.

use std::collections::HashMap;
use std::sync::Arc;

use projector_config as config;
use projector_core::failure::FailureKind;
use projector_store::control::GenerationControl;
use projector_store::deployments::OpenDeployment;
use projector_store::{Store, StoreError};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Host;
use super::restart::crash_text;
use super::{announce, retention};
use crate::control_state::{ControlState, ControlStateWatcher};
use crate::deploy::rollout;
use crate::retry::Backoff;

/// The result of a deployment's step: whether it changed something, or its error. The outer error: the message of a
/// panic.
type Advanced = Result<Result<bool, StoreError>, String>;

struct Reconciler {
    host: Arc<Host>,
    settings: config::Store,
    store: Arc<dyn Store>,
    watcher: ControlStateWatcher,
    /// Tasks of generations, and the task that removes old data.
    tasks: JoinSet<()>,
    /// Which generation a task runs.
    generation_of: HashMap<Id, i64>,
    /// Stops the task of a generation that runs, by the generation's id.
    running: HashMap<i64, CancellationToken>,
    /// One step of each open deployment.
    steps: JoinSet<Advanced>,
    /// Which deployment a step belongs to.
    deployment_of: HashMap<Id, i64>,
    attempts: Arc<rollout::Attempts>,
    /// The backoffs for steps that failed, and for steps that panicked.
    failed: Backoff,
    crashed: Backoff,
}

/// Reconciles one store until the host stops.
pub(super) async fn run(host: Arc<Host>, settings: config::Store) {
    let Some((store, watcher)) = host.open(&settings).await else { return };
    announce::database(&settings, &*store).await;
    let mut reconciler = Reconciler {
        failed: Backoff::of_store(&settings.shown(), &host.retries),
        crashed: Backoff::new("", &host.retries),
        host,
        settings,
        store,
        watcher,
        tasks: JoinSet::new(),
        generation_of: HashMap::new(),
        running: HashMap::new(),
        steps: JoinSet::new(),
        deployment_of: HashMap::new(),
        attempts: Arc::default(),
    };
    reconciler.remove_old_data();
    while !reconciler.host.stop.is_cancelled() {
        let desired = reconciler.watcher.state();
        reconciler.start_desired(&desired);
        reconciler.stop_others(&desired);
        reconciler.advance_deployments(&desired);
        reconciler.wait().await;
    }
    while reconciler.tasks.join_next().await.is_some() {}
    reconciler.watcher.deregister().await;
}

impl Host {
    /// Opens a store. Retries until this succeeds. `None`: the host stops.
    async fn open(&self, settings: &config::Store) -> Option<(Arc<dyn Store>, ControlStateWatcher)> {
        let mut backoff = Backoff::of_store(&settings.shown(), &self.retries);
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            match self.store(settings).await {
                Ok(opened) => {
                    backoff.succeeded();
                    return Some(opened);
                }
                Err(error) => {
                    backoff.failed(error.blocker(), &error);
                    backoff.wait(&self.stop).await;
                }
            }
        }
    }
}

impl Reconciler {
    fn remove_old_data(&mut self) {
        let (host, settings, store) = (self.host.clone(), self.settings.clone(), self.store.clone());
        let remove = move || {
            let (host, settings, store) = (host.clone(), settings.clone(), store.clone());
            async move {
                retention::remove_old_data(&host.config, &settings, &*store, &host.retries, &host.stop).await;
            }
        };
        self.tasks.spawn(self.host.clone().restart_on_panic("the removal of old data", remove));
    }

    /// Whether this host must run a generation of this store: it is not stopped, and the configuration puts its
    /// projection into this store.
    fn is_desired(&self, control: &GenerationControl) -> bool {
        let own = self.host.config.store_of(&control.generation.projection);
        !control.stopped && *own.url == *self.settings.url
    }

    fn start_desired(&mut self, desired: &ControlState) {
        for (id, control) in &desired.generations {
            if !self.is_desired(control) || self.running.contains_key(id) {
                continue;
            }
            let stop = self.host.stop.child_token();
            let (host, generation) = (self.host.clone(), control.generation.clone());
            let (store, watcher) = (self.store.clone(), self.watcher.clone());
            let task = self.tasks.spawn(host.supervise_and_restart(store, watcher, generation, stop.clone()));
            self.generation_of.insert(task.id(), *id);
            self.running.insert(*id, stop);
        }
    }

    /// Asks the tasks of other generations to end. A task stays in `running` until it has ended, so that a generation
    /// never has two tasks.
    fn stop_others(&self, desired: &ControlState) {
        for (id, stop) in &self.running {
            if !desired.generations.get(id).is_some_and(|control| self.is_desired(control)) {
                stop.cancel();
            }
        }
    }

    /// Starts one step of each open deployment that has none under way.
    fn advance_deployments(&mut self, desired: &ControlState) {
        self.attempts.retain(&desired.open);
        for open in &desired.open {
            if self.deployment_of.values().any(|id| *id == open.id) {
                continue;
            }
            let step = self.step(open.clone());
            let task = self.steps.spawn(step);
            self.deployment_of.insert(task.id(), open.id);
        }
    }

    /// One step of a deployment. It runs in a task of its own, so that a panic becomes an error.
    fn step(&self, open: OpenDeployment) -> impl Future<Output = Advanced> + Send + 'static {
        let (store, versions, me) = (self.store.clone(), self.host.versions.clone(), self.host.me.id);
        let (id, attempts, tried) = (open.id, self.attempts.clone(), self.attempts.clone());
        async move {
            let advancing = async move { rollout::advance(&store, &versions, me, &open, &tried).await };
            let advanced = tokio::spawn(advancing).await.map_err(crash_text);
            if !matches!(advanced, Ok(Ok(true))) {
                // The step failed, or it must wait for other hosts or for locks that writers hold. Pause before the next
                // attempt, so that attempts do not keep taking these locks from the writers.
                tokio::time::sleep(attempts.pause(id)).await;
            }
            advanced
        }
    }

    /// Waits until the control state changes, or a task or a step ends.
    async fn wait(&mut self) {
        tokio::select! {
            () = self.watcher.changed() => {}
            Some(ended) = self.tasks.join_next_with_id() => {
                let task = match ended {
                    Ok((task, ())) => task,
                    Err(error) => error.id(),
                };
                // The next turn starts the generation again, if it is still desired.
                if let Some(id) = self.generation_of.remove(&task) {
                    self.running.remove(&id);
                }
            }
            Some(ended) = self.steps.join_next_with_id() => {
                let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
                self.deployment_of.remove(&task);
                if let Ok((_, advanced)) = ended {
                    self.advanced(advanced).await;
                }
            }
            () = self.host.stop.cancelled() => {}
        }
    }

    async fn advanced(&mut self, advanced: Advanced) {
        match advanced {
            Ok(Ok(true)) => {
                self.crashed.succeeded();
                self.failed.succeeded();
                // Read the change now. If this fails, the watcher reads it at its next interval.
                drop(self.watcher.refresh().await);
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                let reason = format!("a deployment could not be carried out: {error}");
                self.failed.failed(error.kind(), &reason);
            }
            Err(panic) => {
                let reason = format!("a deployment's task panicked: {panic}");
                self.crashed.failed(FailureKind::Crash, &reason);
            }
        }
        self.host.versions.trim();
    }
}
