//! The control state of a store, as this host last read it: the status of its generations, operators' requests and open
//! deployments.
//!
//! Twice a second, one task per store writes this host's heartbeat and reads the whole state. Lanes and supervisors
//! watch the copy in memory, so the load on the database does not grow with their number.

mod unresponsive;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use projector_core::failure::{Blocker, FailureKind};
use projector_core::member_ids::MemberIds;
use projector_store::control::GenerationControl;
use projector_store::deployments::OpenDeployment;
use projector_store::{Store, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::retry::Backoff;

const INTERVAL: Duration = Duration::from_millis(500);

/// The control state of a store's projections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ControlState {
    /// By the store's key of a generation.
    pub generations: BTreeMap<i64, GenerationControl>,
    /// Open deployments.
    pub open: Vec<OpenDeployment>,
}

/// This host, as the store and the consumer groups know it.
#[derive(Debug, Clone)]
pub struct HostId {
    pub id: Uuid,
    pub name: Arc<str>,
    /// The host's member ids in consumer groups.
    pub members: MemberIds,
}

/// Watches the control state of a store.
#[derive(Clone)]
pub struct ControlStateWatcher {
    state: watch::Receiver<Arc<ControlState>>,
    publish: Arc<watch::Sender<Arc<ControlState>>>,
    store: Weak<dyn Store>,
    host: HostId,
    /// Why the store counts as unresponsive. `None`: it answers.
    unresponsive: watch::Receiver<Option<Arc<str>>>,
    /// The host has deregistered, and writes no more heartbeats.
    deregistered: Arc<AtomicBool>,
}

impl ControlStateWatcher {
    /// Reads the control state now, and then at every interval for as long as the store is used. While the store does
    /// not answer, the last state stays valid. `backoff` reports that the store does not answer.
    pub async fn open(store: &Arc<dyn Store>, host: HostId, backoff: Backoff) -> Result<Self, StoreError> {
        store.heartbeat(host.id, &host.name, &host.members.all()).await?;
        let (publish, state) = watch::channel(Arc::new(read(&**store).await?));
        let (store, publish, deregistered) = (Arc::downgrade(store), Arc::new(publish), Arc::default());
        let (report, unresponsive) = watch::channel(None);
        let (failed, failure) = watch::channel(None);
        tokio::spawn(unresponsive::watch(store.clone(), failure, report, backoff));
        let watcher = Self { state, publish, store, host, unresponsive, deregistered };
        let refresher = watcher.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                if refresher.store.strong_count() == 0 {
                    return;
                }
                // A failed read is repeated at the next interval. Each read runs in a task of its own, so that a panic
                // in it does not end the loop.
                let refresh = refresher.clone();
                let refreshed = tokio::spawn(async move { refresh.refresh().await }).await;
                failed.send_replace(match refreshed {
                    Ok(refreshed) => refreshed.err().map(|error| match &error {
                        StoreError::Unavailable(outage) => Blocker::new(outage.kind, outage),
                        error => Blocker::new(error.blocker(), error),
                    }),
                    Err(panic) => Some(Blocker::new(FailureKind::Crash, panic)),
                });
            }
        });
        Ok(watcher)
    }

    /// Writes a heartbeat and reads the control state now.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let Some(store) = self.store.upgrade() else { return Ok(()) };
        if !self.deregistered.load(Ordering::Relaxed) {
            store.heartbeat(self.host.id, &self.host.name, &self.host.members.all()).await?;
        }
        let state = read(&*store).await?;
        self.publish.send_if_modified(|known| {
            let changed = **known != state;
            *known = Arc::new(state);
            changed
        });
        Ok(())
    }

    /// Removes this host's heartbeat row. If that fails, the heartbeat expires by itself.
    pub async fn deregister(&self) {
        self.deregistered.store(true, Ordering::Relaxed);
        if let Some(store) = self.store.upgrade() {
            let _ = store.deregister(self.host.id).await;
        }
    }

    /// Waits until the store counts as unresponsive: this host cannot continue with it. Returns the reason. Cancel safe.
    pub async fn unresponsive(&mut self) -> Arc<str> {
        let reason = self.unresponsive.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// The control state as it was last read.
    pub fn state(&self) -> Arc<ControlState> {
        self.state.borrow().clone()
    }

    /// The control state of a generation as it was last read. `None` if the generation does not exist any
    /// more.
    pub fn of(&self, generation: i64) -> Option<GenerationControl> {
        self.state.borrow().generations.get(&generation).cloned()
    }

    /// Waits until the control state changes. Cancel safe.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn read(store: &dyn Store) -> Result<ControlState, StoreError> {
    let control = store.control_state().await?;
    let generations = control.into_iter().map(|control| (control.generation.id, control)).collect();
    Ok(ControlState { generations, open: store.open_deployments().await? })
}
