//! The life of each projection: installed, run, restarted when that can help, stopped when it
//! cannot. One projection's trouble is not another's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use projector_model::order;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::catch_up;
use crate::config::{self, Config};
use crate::lane;
use crate::pipeline::Pipeline;
use crate::plugin::{Engine, LoadError, Plugin, compile::Compiler};
use crate::retry::{Backoff, Halt, report_retry};
use crate::source::{Log, LogError, Merging, Source};
use crate::store::{self, Component, Deployment, Generation, Installed, Store, StoreError};

/// A store, once it could be opened.
type Slot = Arc<Mutex<Option<Arc<dyn Store>>>>;

/// What all projections of a host share.
pub struct Host {
    config: Config,
    engine: Engine,
    /// The host's own executable, which compiles components in a process of its own.
    executable: PathBuf,
    log: Log,
    /// By URL; a database that does not answer keeps nobody from another.
    stores: Mutex<HashMap<String, Slot>>,
    stop: CancellationToken,
}

/// A component that was read from the plugin directory and checked.
pub struct Offered {
    pub file: PathBuf,
    pub bytes: Vec<u8>,
    pub plugin: Plugin,
}

/// A projection that is ready to run.
struct Prepared {
    lanes: Vec<Pipeline>,
    /// Stops all lanes; a child of the host's own.
    together: CancellationToken,
    store: Arc<dyn Store>,
    generation: Generation,
}

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the active component cannot run here: {0}")]
    Load(#[from] LoadError),
    #[error("the host stops")]
    Stopped,
}

impl Host {
    pub fn new(config: Config, executable: PathBuf, stop: CancellationToken) -> Result<Self, LogError> {
        let engine = Engine::new().expect("this executable's own engine settings are sound");
        let log = Log::open(&config.kafka)?;
        Ok(Self { config, engine, executable, log, stores: Mutex::default(), stop })
    }

    /// Compiles and checks a component. Blocks.
    pub fn load(&self, bytes: &[u8]) -> Result<Plugin, LoadError> {
        load(&self.engine, &self.executable, &self.config, bytes)
    }

    /// Keeps one projection running until the host stops, or the projection must stand still.
    pub async fn supervise(self: Arc<Self>, offered: Offered) {
        let name = offered.plugin.contract.name().to_owned();
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            let halt = match self.prepare(&offered).await {
                Ok(Prepared { lanes, together, store, generation }) => {
                    match lane::run(lanes, &together).await {
                        Ok(()) => return,
                        Err(Halt::Stop(reason)) => {
                            tracing::error!(
                                projection = name,
                                reason,
                                "projection stands still until the host is started again"
                            );
                            if let Err(error) = store.set_halted(&generation, Some(&reason)).await {
                                tracing::warn!(projection = name, %error, "that it stands still could not be stored");
                            }
                            return;
                        }
                        Err(Halt::CaughtUp) => continue,
                        Err(restart) => restart,
                    }
                }
                Err(PrepareError::Stopped) => return,
                Err(error) if error.may_pass() => {
                    report_retry(&name, &error, &mut backoff);
                    backoff.wait(&self.stop).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(projection = name, file = %offered.file.display(), %error, "projection refused");
                    return;
                }
            };
            tracing::warn!(projection = name, reason = %halt, "projection starts again");
            backoff.wait(&self.stop).await;
        }
    }

    /// Everything that a run needs: the store, the generation, the active component, the consumers.
    async fn prepare(&self, offered: &Offered) -> Result<Prepared, PrepareError> {
        let name = offered.plugin.contract.name();
        let store = self.store(self.config.store_of(name)).await?;
        let component = Component {
            digest: &offered.plugin.digest,
            bytes: &offered.bytes,
            contract: &offered.plugin.contract,
        };
        let installed = match store.install(&component).await {
            // The version that made the tables goes on.
            Err(StoreError::Layout(reason)) => {
                tracing::error!(projection = name, file = %offered.file.display(), reason, "plugin refused");
                store.installed(name).await?.ok_or(StoreError::Layout(reason))?
            }
            installed => installed?,
        };
        let plugin = self.active(&*store, offered, &installed).await?;
        let Installed { generation, active } = installed;
        store.set_halted(&generation, None).await?;
        let contract = plugin.contract.clone();
        let topics: Vec<Arc<str>> =
            contract.topics.iter().map(|topic| self.config.physical_topic(&topic.name).into()).collect();
        let group =
            format!("{}.{name}.g{}.{}", &*self.config.kafka.group_prefix, generation.number, store.id());
        let batch = self.config.batch_of(name);
        let order_shows = !order::unsettled(&contract).is_empty();
        // A host that died gives its partitions back after its session.
        let patience = 2 * self.config.kafka.session_timeout() + Duration::from_secs(10);
        let mut catching_up = catch_up::turn(&*store, &generation, order_shows, patience, &self.stop).await?;
        if self.stop.is_cancelled() {
            return Err(PrepareError::Stopped);
        }
        let merging = match (order_shows, &catching_up) {
            (true, _) => Merging::Always { skew: batch.skew },
            (false, Some(_)) => Merging::UntilCaughtUp { skew: batch.skew },
            (false, None) => Merging::Never,
        };
        let allowed = lane::count(self.config.lanes_of(name), &contract, &*store);
        let lanes = if order_shows && catching_up.is_some() { 1 } else { allowed };
        tracing::info!(
            projection = name,
            generation = generation.number,
            digest = active,
            group,
            lanes,
            "projection runs"
        );
        let deployment = Deployment { generation: generation.clone(), digest: active.into(), contract };
        let together = self.stop.child_token();
        let more_lanes = allowed > lanes;
        let lanes = (0..lanes).map(|_| {
            let source = Source::open(&self.config.kafka, &group, topics.clone(), merging, self.log.clone())?;
            Ok(Pipeline {
                deployment: deployment.clone(),
                plugin: plugin.clone(),
                store: store.clone(),
                log: self.log.clone(),
                source,
                limits: batch.limits(),
                catching_up: catching_up.take(),
                more_lanes,
                stop: together.clone(),
            })
        });
        let lanes = lanes.collect::<Result<_, LogError>>()?;
        Ok(Prepared { lanes, together, store, generation })
    }

    /// The component that is active, which may be another than the one in the directory.
    async fn active(
        &self,
        store: &dyn Store,
        offered: &Offered,
        installed: &Installed,
    ) -> Result<Plugin, PrepareError> {
        if installed.active == offered.plugin.digest {
            return Ok(offered.plugin.clone());
        }
        tracing::warn!(
            projection = offered.plugin.contract.name(),
            file = %offered.file.display(),
            digest = offered.plugin.digest,
            active = installed.active,
            "the component in the directory is not the active one, which runs from the store: it was superseded or refused"
        );
        let bytes = store.component(&installed.active).await?.ok_or_else(|| {
            StoreError::Unusable(format!("the active component {} is not in the store", installed.active))
        })?;
        Ok(tokio::task::block_in_place(|| self.load(&bytes))?)
    }

    async fn store(&self, settings: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
        let slot = self.stores.lock().await.entry(settings.url.to_string()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(store) = &*slot {
            return Ok(store.clone());
        }
        let store = store::open(settings).await?;
        *slot = Some(store.clone());
        Ok(store)
    }

    /// Gives every store's connections and locks back.
    pub async fn close(&self) {
        for slot in self.stores.lock().await.values() {
            if let Some(store) = &*slot.lock().await {
                store.close().await;
            }
        }
    }
}

impl PrepareError {
    fn may_pass(&self) -> bool {
        match self {
            PrepareError::Store(error) => matches!(error, StoreError::Unavailable(_)),
            PrepareError::Log(_) => true,
            PrepareError::Load(error) => error.is_ours(),
            PrepareError::Stopped => false,
        }
    }
}

/// Compiles and checks a component under a configuration's limits. Blocks.
pub fn load(
    engine: &Engine,
    executable: &std::path::Path,
    config: &Config,
    bytes: &[u8],
) -> Result<Plugin, LoadError> {
    let compiler = Compiler {
        executable: executable.to_owned(),
        time: config.limits.compile_time,
        memory_bytes: config.limits.compile_memory_bytes,
    };
    let plugin = Plugin::load(engine, &compiler, &config.limits, bytes)?;
    let own = config.limits_of(plugin.contract.name());
    Ok(plugin.with_limits(own))
}
