//! How generations stand and what operators want, as the lanes and supervisors of this host hear of it:
//! the store is asked for all of it together, twice a second. With the same breath it is told that this
//! host is there.

mod silence;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use crate::failure::{Blocker, FailureKind};
use crate::member_ids::MemberIds;
use crate::retry::Backoff;
use crate::store::deployments::OpenDeployment;
use crate::store::operator::GenerationControl;
use crate::store::{Store, StoreError};

const INTERVAL: Duration = Duration::from_millis(500);

/// What is wanted of a store's projections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ControlState {
    /// By the store's key of a generation.
    pub generations: BTreeMap<i64, GenerationControl>,
    /// What is to be deployed.
    pub open: Vec<OpenDeployment>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct HostId {
    pub id: Uuid,
    pub name: Arc<str>,
    /// What it is in consumer groups.
    pub members: MemberIds,
}

/// Hears what is wanted of a store's projections.
#[derive(Clone)]
pub struct ControlStateWatcher {
    state: watch::Receiver<Arc<ControlState>>,
    heard: Arc<watch::Sender<Arc<ControlState>>>,
    store: Weak<dyn Store>,
    host: HostId,
    /// What the store's silence is called, while it lasts.
    silent: watch::Receiver<Option<Arc<str>>>,
    /// It was said that this host leaves.
    left: Arc<AtomicBool>,
}

impl ControlStateWatcher {
    /// Asks, and begins to ask again and again, for as long as the store is used. A store that does not
    /// answer is asked again; what was heard last holds until then. `backoff` tells of one that falls silent.
    pub async fn open(store: &Arc<dyn Store>, host: HostId, backoff: Backoff) -> Result<Self, StoreError> {
        store.heartbeat(host.id, &host.name, &host.members.all()).await?;
        let (heard, state) = watch::channel(Arc::new(ask(&**store).await?));
        let (store, left) = (Arc::downgrade(store), Arc::default());
        let (tell, silent) = watch::channel(None);
        let (failed, failure) = watch::channel(None);
        tokio::spawn(silence::watch(store.clone(), failure, tell, backoff));
        let watcher = Self { state, heard: Arc::new(heard), store, host, silent, left };
        let asking = watcher.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                if asking.store.strong_count() == 0 {
                    return;
                }
                // What fails now is asked for again. One question that panics is not the last one.
                let question = asking.clone();
                let answer = tokio::spawn(async move { question.refresh().await }).await;
                failed.send_replace(match answer {
                    Ok(answer) => answer.err().map(|error| match &error {
                        StoreError::Unavailable(outage) => Blocker::new(outage.kind, outage),
                        error => Blocker::new(error.blocker(), error),
                    }),
                    Err(panic) => Some(Blocker::new(FailureKind::Crash, panic)),
                });
            }
        });
        Ok(watcher)
    }

    /// Asks now.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let Some(store) = self.store.upgrade() else { return Ok(()) };
        if !self.left.load(Ordering::Relaxed) {
            store.heartbeat(self.host.id, &self.host.name, &self.host.members.all()).await?;
        }
        let state = ask(&*store).await?;
        self.heard.send_if_modified(|known| {
            let changed = **known != state;
            *known = Arc::new(state);
            changed
        });
        Ok(())
    }

    /// Says that this host is there no more. What fails here expires.
    pub async fn deregister(&self) {
        self.left.store(true, Ordering::Relaxed);
        if let Some(store) = self.store.upgrade() {
            let _ = store.deregister(self.host.id).await;
        }
    }

    /// Waits until the store is silent: this host cannot get on with it. Returns what is the matter. Cancel
    /// safe.
    pub async fn silent(&mut self) -> Arc<str> {
        let reason = self.silent.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// As it was heard last.
    pub fn state(&self) -> Arc<ControlState> {
        self.state.borrow().clone()
    }

    /// What is wanted of a generation, as it was heard last. `None`: it is gone.
    pub fn of(&self, generation: i64) -> Option<GenerationControl> {
        self.state.borrow().generations.get(&generation).cloned()
    }

    /// Waits until something else is wanted. Cancel safe.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn ask(store: &dyn Store) -> Result<ControlState, StoreError> {
    let control = store.control_state().await?;
    let generations = control.into_iter().map(|control| (control.generation.id, control)).collect();
    Ok(ControlState { generations, open: store.open_deployments().await? })
}
