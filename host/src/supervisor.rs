//! Keeps projections running: a reconciler for every store.
//!
//! # Theory
//!
//! A reconciler compares the desired state with the observed state, takes one small step towards the desired state, and
//! starts again.
//!
//! - **Desired** is what the store contains: its generations, the active version of each, what operators paused or
//!   stopped, and the open deployments. A file in the plugin directory is only an offer to the store. Removing the file
//!   stops nothing.
//! - **Observed** is what runs in this process: one task for each generation (`generation`), with the lanes that it
//!   prepared (`prepare`, `lanes`).
//! - **A step** starts the task of a generation that is desired and does not run, stops the task of a generation that
//!   runs and is not desired, or takes an open deployment one step further (`reconcile`).
//! - **A step may be repeated.** Each step reads the store before it acts, and the store's locks and fences reject a
//!   host that acts on an old state. So a step that failed, or whose result was lost, is retried after a backoff.
//!   Several hosts may take the same step: one succeeds, and the others find it done.
//!
//! # Invariants
//!
//! - A failure stops one projection, and no other one. A database that does not respond delays only its own projections.
//! - Every task of the host keeps running: a task that panics is reported as a blocker and restarted (`restart`).
//! - A failure that can pass by itself is retried for as long as it lasts. After any other failure, the projection waits
//!   for an operator or for another version.

mod announce;
mod auto_promote;
mod dead_letter_expiry;
mod files;
mod generation;
mod lanes;
mod memory;
mod plugin_offers;
mod prepare;
mod reconcile;
mod restart;
mod retention;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use projector_config::{self as config, Config};
use projector_kafka::KafkaAdmin;
use projector_store::{self as store, Store, StoreError, identity};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admin;
use crate::control_state::{ControlStateWatcher, HostId};
use crate::deploy::component_cache::ComponentCache;
use crate::deploy::trust::TrustPolicy;
use crate::operations::OperationError;
use crate::retry::{Backoff, Retries};
use files::Files;

/// A store and the watcher of its control state, once the store is open.
type Slot = Arc<Mutex<Option<(Arc<dyn Store>, ControlStateWatcher)>>>;

/// What all projections of a host share.
pub struct Host {
    me: HostId,
    config: Arc<Config>,
    versions: Arc<ComponentCache>,
    log: KafkaAdmin,
    /// By URL. Each store has a lock of its own, so that a database that does not respond does not delay the others.
    stores: Mutex<HashMap<String, Slot>>,
    retries: Retries,
    files: Files,
    stop: CancellationToken,
}

impl Host {
    pub fn new(config: Config, executable: PathBuf, stop: CancellationToken) -> Result<Self, OperationError> {
        let log = KafkaAdmin::open(&config.kafka)?;
        let config = Arc::new(config);
        let trust = TrustPolicy::load(&config.plugins).map_err(OperationError::Failed)?;
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self {
            me: HostId {
                id: Uuid::new_v4(),
                name: format!("{name}/{}", std::process::id()).into(),
                members: log.member_ids().clone(),
            },
            versions: Arc::new(ComponentCache::new(config.clone(), trust, executable)),
            config,
            log,
            stores: Mutex::default(),
            retries: Retries::default(),
            files: Files::default(),
            stop,
        })
    }

    /// Opens the admin API, if the configuration has one.
    pub async fn open_admin(&self) -> Result<Option<SocketAddr>, OperationError> {
        let Some(admin) = &self.config.admin else { return Ok(None) };
        let opened = admin::open(&self.config, admin.listen, self.retries.clone(), self.stop.clone()).await;
        let failed = |error| OperationError::Failed(format!("admin.listen = \"{}\": {error}", admin.listen));
        opened.map(Some).map_err(failed)
    }

    /// Runs the generations of all stores, and offers the files of the plugin directory to them, until the host
    /// stops.
    pub async fn run(self: Arc<Self>) {
        announce::starting(&self.config, &self.me.name);
        let mut tasks = JoinSet::new();
        let host = self.clone();
        tasks.spawn(self.clone().restart_on_panic("the check that the brokers respond", move || {
            let host = host.clone();
            async move { announce::brokers(&host.config, &host.log, &host.retries, &host.stop).await }
        }));
        for settings in self.config.all_stores() {
            let (host, settings) = (self.clone(), settings.clone());
            let reconcile = move || reconcile::run(host.clone(), settings.clone());
            tasks.spawn(self.clone().restart_on_panic("the reconciler of a database", reconcile));
        }
        let host = self.clone();
        tasks.spawn(
            self.clone().restart_on_panic("the watch of the plugin directory", move || host.clone().watch()),
        );
        let host = self.clone();
        let warn = move || host.clone().warn_of_unused();
        tasks.spawn(self.clone().restart_on_panic("the check for unused names", warn));
        let stop = self.stop.clone();
        let return_memory = move || memory::return_unused(stop.clone());
        tasks.spawn(self.clone().restart_on_panic("the task that returns free memory", return_memory));
        while tasks.join_next().await.is_some() {}
    }

    /// A store and the watcher of its control state. The first call opens them.
    async fn store(
        &self,
        settings: &config::Store,
    ) -> Result<(Arc<dyn Store>, ControlStateWatcher), StoreError> {
        let slot = self.stores.lock().await.entry(settings.url.to_string()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        let store = store::open(settings).await?;
        if let Err(error) = identity::confirm(&*store).await {
            store.close().await;
            return Err(error);
        }
        let backoff = Backoff::of_store(&settings.shown(), &self.retries);
        let watcher = ControlStateWatcher::open(&store, self.me.clone(), backoff).await?;
        Ok(slot.insert((store, watcher)).clone())
    }

    /// Closes all stores, which releases their connections and locks.
    pub async fn close(&self) {
        for slot in self.stores.lock().await.values() {
            if let Some((store, _)) = &*slot.lock().await {
                store.close().await;
            }
        }
    }
}
