//! The life of each projection: installed, run, restarted when that can help, stopped when it
//! cannot. One projection's trouble is not another's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use projector_model::order;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::batch::BatchLimits;
use crate::catch_up;
use crate::config::{self, Config};
use crate::failure::{FailureKind, Response, Trouble};
use crate::lane;
use crate::operations::OperationError;
use crate::pipeline::Pipeline;
use crate::plugin::{Engine, LoadError, Plugin, compile::Compiler};
use crate::retry::{Backoff, Halt, Retries};
use crate::settle::{Released, Settler};
use crate::source::{Log, LogError, Merging, Source};
use crate::store::operator::Asked;
use crate::store::{self, Component, Deployment, Generation, Installed, Store, StoreError};
use crate::wishes::Board;

/// A run that ends after so long says nothing about the next one.
const SETTLED: Duration = Duration::from_secs(60);
/// How often dead letters that are too old are looked for.
const EXPIRY: Duration = Duration::from_secs(60);

/// A store, once it could be opened, and what operators want of its projections.
type Slot = Arc<Mutex<Option<(Arc<dyn Store>, Board)>>>;

/// What all projections of a host share.
pub struct Host {
    config: Config,
    engines: Engines,
    /// The host's own executable, which compiles components in a process of its own.
    executable: PathBuf,
    log: Log,
    /// By URL; a database that does not answer keeps nobody from another.
    stores: Mutex<HashMap<String, Slot>>,
    retries: Retries,
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
    settler: Settler,
    limits: BatchLimits,
    board: Board,
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
        let log = Log::open(&config.kafka)?;
        Ok(Self {
            config,
            engines: Engines::default(),
            executable,
            log,
            stores: Mutex::default(),
            retries: Retries::default(),
            stop,
        })
    }

    /// Listens for operators, where the configuration says so.
    pub async fn open_admin(&self) -> Result<Option<SocketAddr>, OperationError> {
        let Some(admin) = &self.config.admin else { return Ok(None) };
        let opened = admin::open(&self.config, admin.listen, self.retries.clone(), self.stop.clone()).await;
        let failed = |error| OperationError::Failed(format!("admin.listen = \"{}\": {error}", admin.listen));
        opened.map(Some).map_err(failed)
    }

    /// Compiles and checks a component. Blocks.
    pub fn load(&self, file: &Path, bytes: &[u8]) -> Result<Plugin, LoadError> {
        load(&self.engines, &self.executable, &self.config, file, bytes)
    }

    /// Keeps one projection running until the host stops, or the projection must stand still.
    pub async fn supervise(self: Arc<Self>, offered: Offered) {
        let name = offered.plugin.contract.name().to_owned();
        let mut backoff = Backoff::new(&name, &self.retries);
        let mut restarts = Backoff::new(&name, &self.retries);
        while !self.stop.is_cancelled() {
            match self.prepare(&offered).await {
                Ok(prepared) => {
                    backoff.succeeded();
                    let began = Instant::now();
                    match self.run(prepared).await {
                        Ok(()) => return,
                        // Whatever it waits for, it waits in its preparation.
                        Err(Halt::CaughtUp | Halt::Paused(_) | Halt::Stop(_)) => {}
                        Err(Halt::Restart(reason)) => {
                            tracing::warn!(projection = name, reason, "projection starts again");
                            if began.elapsed() > SETTLED {
                                restarts.succeeded();
                            }
                            restarts.wait(&self.stop).await;
                        }
                    }
                }
                Err(PrepareError::Stopped) => return,
                Err(error) if error.may_pass() => {
                    backoff.failed(error.kind(), &error);
                    backoff.wait(&self.stop).await;
                }
                Err(error) => {
                    let (kind, advice) = (error.kind(), error.kind().advice());
                    tracing::error!(projection = name, file = %offered.file.display(), %error, %kind, advice, "projection refused");
                    return;
                }
            }
        }
    }

    /// Runs a projection's lanes to their end. One that stands still does so until somebody says "go on".
    async fn run(&self, prepared: Prepared) -> Result<(), Halt> {
        let Prepared { lanes, together, settler, limits, board } = prepared;
        let on = async {
            let ended = lane::run(lanes, &together).await;
            if let Err(Halt::Stop(trouble)) = &ended {
                self.stand_still(&settler, limits, board, trouble).await;
            }
            ended
        };
        tokio::select! {
            ended = on => ended,
            () = self.expire(&settler) => unreachable!("it goes on for as long as the projection"),
        }
    }

    /// Until somebody says "go on". Dead letters are dealt with meanwhile: they may be what is the matter.
    async fn stand_still(&self, settler: &Settler, limits: BatchLimits, mut board: Board, trouble: &Trouble) {
        let (store, generation) = (&settler.store, &settler.deployment.generation);
        let (name, resumes) = (&generation.projection, board.of(generation.id).resumes);
        let Trouble { kind, reason } = trouble;
        tracing::error!(projection = name, %kind, reason, advice = kind.advice(), "projection stands still");
        let mut backoff = Backoff::new(name, &self.retries);
        while let Err(error) = store.set_halted(generation, Some(trouble)).await
            && !self.stop.is_cancelled()
        {
            backoff.failed(error.kind(), &error);
            backoff.wait(&self.stop).await;
        }
        backoff.succeeded();
        let mut served = Vec::new();
        while !self.stop.is_cancelled() {
            let wishes = board.of(generation.id);
            if wishes.resumes != resumes {
                return;
            }
            // Whoever else stands still does so as well, and one of them does it.
            let open = wishes.open.iter().find(|operation| !served.contains(&operation.id));
            let Some(operation) = open else {
                tokio::select! {
                    () = board.changed() => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            };
            match settler.release(operation, limits).await {
                Ok(Released::More) => {}
                Ok(Released::Done) => served.push(operation.id),
                Err(error) => {
                    backoff.failed(error.kind(), &error);
                    backoff.wait(&self.stop).await;
                }
            }
        }
    }

    /// Discards dead letters that are too old, now and then.
    async fn expire(&self, settler: &Settler) {
        let (store, generation) = (&settler.store, &settler.deployment.generation);
        let Some(retention) = self.config.failures_of(&generation.projection).retention else {
            return std::future::pending().await;
        };
        let asked = Asked {
            by: "the host".into(),
            reason: Some(format!(
                "retention of {}",
                humantime_serde::re::humantime::format_duration(retention)
            )),
        };
        loop {
            match store.expire(generation, retention.as_secs() as i64, &asked).await {
                Ok(0) => {}
                Ok(letters) => {
                    tracing::info!(
                        projection = generation.projection,
                        letters,
                        "dead letters discarded by their age"
                    );
                }
                Err(error) => {
                    tracing::debug!(projection = generation.projection, %error, "to be tried again")
                }
            }
            tokio::time::sleep(EXPIRY).await;
        }
    }

    /// Waits for as long as an operator has paused a projection.
    async fn wait_while_paused(
        &self,
        store: &dyn Store,
        board: &mut Board,
        generation: &Generation,
    ) -> Result<(), PrepareError> {
        let mut told = false;
        loop {
            let wishes = store.wishes().await?;
            let paused = wishes
                .into_iter()
                .find(|wishes| wishes.generation == generation.id)
                .and_then(|wishes| wishes.paused);
            let Some(reason) = paused else { return Ok(()) };
            if !std::mem::replace(&mut told, true) {
                let advice = FailureKind::Operator.advice();
                tracing::warn!(projection = generation.projection, reason, advice, "projection paused");
            }
            tokio::select! {
                () = board.changed() => {}
                () = self.stop.cancelled() => return Err(PrepareError::Stopped),
            }
        }
    }

    /// Everything that a run needs: the store, the generation, the active component, the consumers.
    async fn prepare(&self, offered: &Offered) -> Result<Prepared, PrepareError> {
        let name = offered.plugin.contract.name();
        let (store, mut board) = self.store(self.config.store_of(name)).await?;
        let component = Component {
            digest: &offered.plugin.digest,
            bytes: &offered.bytes,
            contract: &offered.plugin.contract,
        };
        let installed = match store.install(&component).await {
            // The version that made the tables goes on.
            Err(StoreError::Layout(reason)) => {
                let advice = FailureKind::Layout.advice();
                tracing::error!(projection = name, file = %offered.file.display(), reason, advice, "plugin refused");
                store.installed(name).await?.ok_or(StoreError::Layout(reason))?
            }
            installed => installed?,
        };
        let plugin = self.active(&*store, offered, &installed).await?;
        let Installed { generation, active } = installed;
        self.wait_while_paused(&*store, &mut board, &generation).await?;
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
        let deployment = Deployment {
            generation: generation.clone(),
            digest: active.into(),
            contract,
            topics: topics.clone(),
        };
        let together = self.stop.child_token();
        let more_lanes = allowed > lanes;
        let failures = self.config.failures_of(name).clone();
        let settler = Settler { deployment, plugin, store, failures };
        let limits = batch.limits();
        let lanes = (0..lanes).map(|_| {
            let source = Source::open(&self.config.kafka, &group, topics.clone(), merging, self.log.clone())?;
            Ok(Pipeline {
                settler: settler.clone(),
                log: self.log.clone(),
                source,
                limits,
                board: board.clone(),
                retries: self.retries.clone(),
                catching_up: catching_up.take(),
                more_lanes,
                stop: together.clone(),
            })
        });
        let lanes = lanes.collect::<Result<_, LogError>>()?;
        Ok(Prepared { lanes, together, settler, limits, board })
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
        Ok(tokio::task::block_in_place(|| self.load(Path::new(offered.plugin.contract.name()), &bytes))?)
    }

    async fn store(&self, settings: &config::Store) -> Result<(Arc<dyn Store>, Board), StoreError> {
        let slot = self.stores.lock().await.entry(settings.url.to_string()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        let store = store::open(settings).await?;
        let board = Board::open(&store).await?;
        Ok(slot.insert((store, board)).clone())
    }

    /// Gives every store's connections and locks back.
    pub async fn close(&self) {
        for slot in self.stores.lock().await.values() {
            if let Some((store, _)) = &*slot.lock().await {
                store.close().await;
            }
        }
    }
}

impl PrepareError {
    fn kind(&self) -> FailureKind {
        match self {
            PrepareError::Store(error) => error.kind(),
            PrepareError::Log(_) | PrepareError::Stopped => FailureKind::Brokers,
            PrepareError::Load(error) if error.is_ours() => FailureKind::Machine,
            PrepareError::Load(_) => FailureKind::Component,
        }
    }

    fn may_pass(&self) -> bool {
        self.kind().response() == Response::Retry
    }
}

/// Compiles and checks a component under the limits of its projection. Blocks.
///
/// Which projection that is, is only known when it is described. Until then, it is the one that the file
/// is named for; if it turns out to be another one with limits of its own, all of it is done again.
fn load(
    engines: &Engines,
    executable: &Path,
    config: &Config,
    file: &Path,
    bytes: &[u8],
) -> Result<Plugin, LoadError> {
    let under = |limits: &config::Limits| {
        let compiler = Compiler {
            executable: executable.to_owned(),
            time: limits.compile_time,
            memory_bytes: limits.compile_memory_bytes,
        };
        Plugin::load(&engines.of(limits.stack_bytes), &compiler, limits, bytes)
    };
    let supposed = config.limits_of(file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default());
    let plugin = under(supposed)?;
    let name = plugin.contract.name();
    if let Some(topic) = plugin.contract.topics.iter().find(|topic| !config.may_read(name, &topic.name)) {
        return Err(LoadError::NotGranted { projection: name.to_owned(), topic: topic.name.clone() });
    }
    let own = config.limits_of(name);
    if std::ptr::eq(own, supposed) { Ok(plugin) } else { under(own) }
}

/// An engine for each size of stack.
#[derive(Default)]
struct Engines(std::sync::Mutex<HashMap<usize, Engine>>);

impl Engines {
    fn of(&self, stack_bytes: usize) -> Engine {
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Engine::new(stack_bytes).expect("this executable's own engine settings are sound");
        engines.entry(stack_bytes).or_insert_with(new).clone()
    }
}
