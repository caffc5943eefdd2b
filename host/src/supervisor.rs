//! The life of each generation: run, run again when that can help, stopped when it cannot. One
//! projection's trouble is not another's.
//!
//! What runs is what the stores say. Files in the plugin directory are offered to them; one that vanishes
//! stops nothing.

mod announce;
mod files;
mod memory;
mod retention;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use projector_model::{Contract, names, order};
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admin;
use crate::batch::BatchLimits;
use crate::beginning::Starts;
use crate::catch_up::{self, CatchUpState};
use crate::config::{self, Config};
use crate::control_state::{ControlStateWatcher, HostId};
use crate::dead_letter_log::DeadLetterLog;
use crate::deploy::component_cache::{ComponentCache, VersionError};
use crate::deploy::promote::{self, Ask, OldSnapshots, PromoteError, Promotion};
use crate::deploy::reach::Gaps;
use crate::deploy::rollout;
use crate::deploy::trust::{Signer, TrustPolicy};
use crate::deploy::watch::{File, Watch};
use crate::event_ids;
use crate::failpoint;
use crate::failure::{Blocker, FailureKind, Response, panic_text};
use crate::lane;
use crate::operations::OperationError;
use crate::operations::unused::unused;
use crate::pipeline::Pipeline;
use crate::plugin::Plugin;
use crate::retry::{Backoff, Retries, RunEnd};
use crate::settle::{OnTrial, Released, Settler};
use crate::source::{KafkaAdmin, LogError, Source};
use crate::store::deployments::{DeploymentAction, GenerationStatus, Origin, Proposal, Proposed, Role};
use crate::store::identity;
use crate::store::operator::{GenerationControl, OpenOperation, Requester};
use crate::store::{self, Component, Generation, Store, StoreError, WriteTarget};
use crate::strangers;
use crate::topics::TopicMapping;
use crate::wait_ages;
use files::Files;

/// A run that goes on for so long is well: what ended the one before is over.
const SETTLED: Duration = Duration::from_secs(10);
/// How long the lanes of a projection may take to end, once its store is silent.
const LETTING_GO: Duration = Duration::from_secs(10);
/// So long after the start, plugins that were there are taken to be loaded.
const LOADED: Duration = Duration::from_secs(10);
/// How often dead letters that are too old are looked for.
const EXPIRY: Duration = Duration::from_secs(60);
/// How often it is tried to promote a generation that is to be promoted by itself.
const PROMOTION: Duration = Duration::from_secs(2);
const PROMOTION_AT_MOST: Duration = Duration::from_secs(300);

/// A store, once it could be opened, and what is wanted of its projections.
type Slot = Arc<Mutex<Option<(Arc<dyn Store>, ControlStateWatcher)>>>;

/// What all projections of a host share.
pub struct Host {
    me: HostId,
    config: Arc<Config>,
    versions: Arc<ComponentCache>,
    log: KafkaAdmin,
    /// By URL; a database that does not answer keeps nobody from another.
    stores: Mutex<HashMap<String, Slot>>,
    retries: Retries,
    files: Files,
    stop: CancellationToken,
}

/// A generation that is ready to run.
struct Prepared {
    lanes: Vec<Pipeline>,
    /// Stops all lanes; a child of the generation's own.
    together: CancellationToken,
    settler: Settler,
    group: String,
    limits: BatchLimits,
    watcher: ControlStateWatcher,
    /// `None`: the generation is caught up.
    catching_up: Option<Arc<CatchUpState>>,
}

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the active component cannot run here: {error}")]
    Version { digest: String, error: VersionError },
    #[error("{0}")]
    Start(String),
    /// The consumer group has members that are no hosts of the store.
    #[error("{0}")]
    Strangers(String),
    #[error("the host stops")]
    Stopped,
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

    /// Listens for operators, where the configuration says so.
    pub async fn open_admin(&self) -> Result<Option<SocketAddr>, OperationError> {
        let Some(admin) = &self.config.admin else { return Ok(None) };
        let opened = admin::open(&self.config, admin.listen, self.retries.clone(), self.stop.clone()).await;
        let failed = |error| OperationError::Failed(format!("admin.listen = \"{}\": {error}", admin.listen));
        opened.map(Some).map_err(failed)
    }

    /// Runs what the stores say, and offers them what is in the plugin directory, until the host stops.
    pub async fn run(self: Arc<Self>) {
        announce::starting(&self.config, &self.me.name);
        let mut tasks = JoinSet::new();
        let host = self.clone();
        tasks.spawn(self.clone().unbroken("the first question to the brokers", move || {
            let host = host.clone();
            async move { announce::brokers(&host.config, &host.log, &host.retries, &host.stop).await }
        }));
        for settings in self.config.all_stores() {
            let (host, settings) = (self.clone(), settings.clone());
            let keep = move || host.clone().keep(settings.clone());
            tasks.spawn(self.clone().unbroken("the task of a database", keep));
        }
        let host = self.clone();
        tasks.spawn(self.clone().unbroken("the watch of the plugin directory", move || host.clone().watch()));
        let host = self.clone();
        let warn = move || host.clone().warn_of_unused();
        tasks.spawn(self.clone().unbroken("the look for names that have no effect", warn));
        let stop = self.stop.clone();
        let give_back = move || memory::give_back(stop.clone());
        tasks.spawn(self.clone().unbroken("the task that gives memory back", give_back));
        while tasks.join_next().await.is_some() {}
    }

    /// Runs a task to its end. One that panics is shown as a blocker, and begun again after a wait, for as
    /// long as it takes: no task of the host disappears.
    async fn unbroken<F>(self: Arc<Self>, what: &'static str, mut begin: impl FnMut() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = Backoff::new("", &self.retries);
        loop {
            let mut task = AbortOnDrop(tokio::spawn(begin()));
            let Err(error) = task.outlast(&mut backoff).await else { return };
            if self.stop.is_cancelled() {
                return;
            }
            backoff.failed(FailureKind::Crash, &format!("{what} panicked: {}", crash_text(error)));
            backoff.wait(&self.stop).await;
        }
    }

    /// Warns, once, of names in the configuration that nothing has: when the plugins that are there at the
    /// start had time to be loaded, and all databases answer.
    async fn warn_of_unused(self: Arc<Self>) {
        let warnings = loop {
            tokio::select! {
                () = tokio::time::sleep(LOADED) => {}
                () = self.stop.cancelled() => return,
            }
            let offered = self.files.projections().into_iter();
            let known = offered.map(|name| (name, BTreeSet::new())).collect();
            if let Some(warnings) = unused(&self.config, known).await {
                break warnings;
            }
        };
        for warning in warnings {
            tracing::warn!(warning, "a name in the configuration has no effect");
        }
    }

    /// Offers each file of the plugin directory, once it is whole.
    async fn watch(self: Arc<Self>) {
        let plugins = &self.config.plugins;
        let most_bytes = self.config.most_component_bytes();
        let mut watch = Watch::open(&plugins.directory, plugins.rescan, most_bytes);
        let mut offers = JoinSet::new();
        loop {
            tokio::select! {
                file = watch.next() => {
                    // One after the other compiles; the rest is waiting.
                    let loaded = self.clone().load(file).await;
                    if let Some((file, plugin, signer)) = loaded {
                        offers.spawn(self.clone().offer(file, plugin, signer));
                    }
                }
                Some(offered) = offers.join_next() => {
                    if let Err(error) = offered {
                        let reason = crash_text(error);
                        let advice = FailureKind::Crash.advice();
                        tracing::error!(reason, advice, "offering a plugin panicked; copy its file again");
                    }
                }
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Checks who vouches for a file, and compiles and checks it. One that is no plugin stops nobody else.
    async fn load(self: Arc<Self>, file: File) -> Option<(File, Plugin, Signer)> {
        let path = file.path.display().to_string();
        let mut backoff = Backoff::new(&path, &self.retries);
        let mut next = file;
        let loaded = loop {
            let (host, file) = (self.clone(), next);
            let loading = tokio::task::spawn_blocking(move || {
                let loaded = host.versions.load(&file.path, &file.bytes, file.signature.as_deref());
                (file, loaded)
            });
            match loading.await {
                Ok((file, Err(error))) if error.is_ours() && !self.stop.is_cancelled() => {
                    backoff.failed(FailureKind::Machine, &error);
                    backoff.wait(&self.stop).await;
                    next = file;
                }
                loaded => break loaded,
            }
        };
        match loaded {
            Ok((file, Ok((plugin, signer)))) => Some((file, plugin, signer)),
            Ok((file, Err(error))) => {
                self.files.refuse(&file.path);
                let (reason, advice) = (crate::event_failure::shown(&error), FailureKind::Component.advice());
                tracing::error!(file = path, reason, advice, "plugin refused");
                None
            }
            Err(error) => {
                let (reason, advice) = (crash_text(error), FailureKind::Crash.advice());
                tracing::error!(file = path, reason, advice, "plugin refused: loading it panicked");
                None
            }
        }
    }

    /// Asks the projection's store for a file's component to be the active one.
    async fn offer(self: Arc<Self>, file: File, plugin: Plugin, signer: Signer) {
        let contract = &plugin.contract;
        let (name, path) = (contract.name(), file.path.display().to_string());
        let refused = |reason: String| {
            self.files.refuse(&file.path);
            let advice = FailureKind::Component.advice();
            tracing::error!(projection = name, file = path, reason, advice, "plugin refused");
        };
        let _turn = self.files.turn(&file.path, name).await;
        if let Some(owner) = self.files.other_owner(&file.path, name) {
            return refused(format!(
                "the file {} holds projection {name} already: remove one of the two files, and copy the other one again",
                owner.display()
            ));
        }
        for dependence in order::unsettled(contract) {
            tracing::warn!(
                projection = name,
                column = format!("{}.{}", dependence.table, dependence.column),
                sources = dependence.sources.join(", "),
                "the column depends on the order between partitions: {}",
                dependence.remedy
            );
        }
        for rejection in order::rejections(contract) {
            tracing::warn!(
                projection = name,
                topic = rejection.topic,
                by = rejection.by,
                table = rejection.table,
                sources = rejection.sources.join(", "),
                "{} by the order between partitions: {}",
                if rejection.certain { "events are rejected" } else { "events may be rejected" },
                rejection.remedy
            );
        }
        let component = Component {
            digest: &plugin.digest,
            bytes: &file.bytes,
            contract,
            signature: file.signature.as_deref(),
        };
        let proposal = Proposal {
            component,
            action: DeploymentAction::Deploy,
            origin: Origin::Directory,
            asked: Requester::host(Some(path.clone())),
            signer: &signer,
        };
        let mut backoff = Backoff::new(name, &self.retries);
        while !self.stop.is_cancelled() {
            let proposed = async {
                let (store, watcher) = self.store(self.config.store_of(name)).await?;
                let proposed = store.propose(&proposal).await?;
                watcher.refresh().await?;
                Ok::<_, StoreError>((store.standings(name).await?, proposed))
            };
            match proposed.await {
                Ok((_, Proposed::Open(_) | Proposed::Active)) => {
                    self.files.accept(&file.path, name);
                    return;
                }
                Ok((standings, Proposed::Had)) => {
                    self.files.accept(&file.path, name);
                    let newest = standings.iter().rfind(|standing| standing.role != Role::Warm);
                    let active = newest.map_or("none", |newest| &newest.active);
                    tracing::warn!(
                        projection = name,
                        file = path,
                        digest = plugin.digest,
                        active,
                        "the component in the directory is not the active one, which runs from the store: the projection had it before, and only `projector deploy` brings it back"
                    );
                    return;
                }
                Ok((_, Proposed::Foreign(reason))) => return refused(reason),
                // The store's trouble is not the plugin's.
                Err(error) => {
                    backoff.failed(error.blocker(), &error);
                    backoff.wait(&self.stop).await;
                }
            }
        }
    }

    /// Runs the generations of one store, and does what is to be done for its deployments.
    async fn keep(self: Arc<Self>, settings: config::Store) {
        let mut backoff = Backoff::of_store(&settings.shown(), &self.retries);
        let (store, mut watcher) = loop {
            if self.stop.is_cancelled() {
                return;
            }
            match self.store(&settings).await {
                Ok(opened) => break opened,
                Err(error) => {
                    backoff.failed(error.blocker(), &error);
                    backoff.wait(&self.stop).await;
                }
            }
        };
        backoff.succeeded();
        announce::database(&settings, &*store).await;
        let mut deploying = Backoff::of_store(&settings.shown(), &self.retries);
        // What stops the task of each generation that runs.
        let mut running: HashMap<i64, CancellationToken> = HashMap::new();
        let mut tasks: JoinSet<()> = JoinSet::new();
        tasks.spawn(self.clone().unbroken("the task that removes what is old", {
            let (host, settings, store) = (self.clone(), settings.clone(), store.clone());
            move || {
                let (host, settings, store) = (host.clone(), settings.clone(), store.clone());
                async move {
                    retention::keep_tidy(&host.config, &settings, &*store, &host.retries, &host.stop).await
                }
            }
        }));
        let mut rollouts: JoinSet<Result<Result<bool, StoreError>, String>> = JoinSet::new();
        let attempts = Arc::new(rollout::Attempts::default());
        let mut crashed = Backoff::new("", &self.retries);
        // Which generation or deployment a task is about.
        let (mut task_of, mut under_way) = (HashMap::new(), HashMap::new());
        while !self.stop.is_cancelled() {
            let state = watcher.state();
            let wanted = |control: &GenerationControl| {
                let own = self.config.store_of(&control.generation.projection);
                !control.stopped && *own.url == *settings.url
            };
            for (id, control) in state.generations.iter().filter(|(_, control)| wanted(control)) {
                running.entry(*id).or_insert_with(|| {
                    let stop = self.stop.child_token();
                    let (host, id, generation) = (self.clone(), *id, control.generation.clone());
                    let (store, watcher, token) = (store.clone(), watcher.clone(), stop.clone());
                    let task = tasks.spawn(host.supervise_unbroken(store, watcher, generation, token));
                    task_of.insert(task.id(), id);
                    stop
                });
            }
            for (id, stop) in &running {
                if !state.generations.get(id).is_some_and(wanted) {
                    stop.cancel();
                }
            }
            attempts.retain(&state.open);
            for open in &state.open {
                if under_way.values().any(|id| *id == open.id) {
                    continue;
                }
                let id = open.id;
                let (store, versions, open, me) =
                    (store.clone(), self.versions.clone(), open.clone(), self.me.id);
                let (attempts, tried) = (attempts.clone(), attempts.clone());
                let task = rollouts.spawn(async move {
                    let advancing =
                        async move { rollout::advance(&store, &versions, me, &open, &tried).await };
                    let advanced = tokio::spawn(advancing).await.map_err(crash_text);
                    if !matches!(advanced, Ok(Ok(true))) {
                        // What it waits for takes its time, and those that write want their locks meanwhile.
                        tokio::time::sleep(attempts.rest(id)).await;
                    }
                    advanced
                });
                under_way.insert(task.id(), id);
            }
            tokio::select! {
                () = watcher.changed() => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(error) => error.id(),
                    };
                    if let Some(id) = task_of.remove(&task) {
                        running.remove(&id);
                    }
                }
                Some(advanced) = rollouts.join_next_with_id() => {
                    let task = advanced.as_ref().map_or_else(tokio::task::JoinError::id, |(task, _)| *task);
                    under_way.remove(&task);
                    if let Ok((_, advanced)) = advanced {
                        match advanced {
                            Ok(Ok(true)) => {
                                crashed.succeeded();
                                deploying.succeeded();
                                drop(watcher.refresh().await);
                            }
                            Ok(Ok(false)) => {}
                            Ok(Err(error)) => {
                                let reason = format!("a deployment could not be carried out: {error}");
                                deploying.failed(error.kind(), &reason);
                            }
                            Err(said) => {
                                crashed.failed(FailureKind::Crash, &format!("a deployment's task panicked: {said}"));
                            }
                        }
                        self.versions.trim();
                    }
                }
                () = self.stop.cancelled() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
        watcher.deregister().await;
    }

    /// Keeps one generation running until it is stopped. A panic is its blocker, and it runs again after a
    /// wait.
    async fn supervise_unbroken(
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
            let Err(error) = task.outlast(&mut backoff).await else { return };
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

    /// Keeps a crash for `status`, until a run has gone well for a while.
    async fn show_crash(&self, store: &dyn Store, generation: &Generation, reason: String) {
        let trouble = Blocker::new(FailureKind::Crash, reason);
        if let Err(error) = store.set_blocked(generation, Some(&trouble)).await {
            self.retries.missed(&generation.projection, "the panic is not shown by `status`", &error);
        }
    }

    /// `crashed`: the store shows a panic as what it stands still for.
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
                        () = tokio::time::sleep(SETTLED) => {
                            restarts.succeeded();
                            if std::mem::take(&mut crashed)
                                && let Err(error) = store.set_blocked(&generation, None).await
                            {
                                let what = "`status` still shows the panic that is over";
                                self.retries.missed(name, what, &error);
                            }
                            lanes.await
                        }
                    };
                    match ended {
                        Ok(()) => return,
                        // Whatever it waits for, it waits in its preparation.
                        Err(RunEnd::CaughtUp | RunEnd::Paused(_) | RunEnd::Switch | RunEnd::Stop(_)) => {}
                        Err(RunEnd::GivesUp(Blocker { kind, reason })) => {
                            tracing::warn!(
                                projection = name, %kind, reason,
                                "projection gives its partitions up, for other hosts; it takes some again once this host gets on"
                            );
                            match kind {
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
                        Err(RunEnd::Crashed(said)) => {
                            let reason = format!("a task of this projection panicked: {said}");
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
                    // Another version may be another matter.
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

    /// Keeps for `status` what a projection waits for. Where even that cannot be stored, the log tells.
    async fn show(&self, store: &dyn Store, generation: &Generation, trouble: &Blocker) {
        if let Err(error) = store.set_blocked(generation, Some(trouble)).await {
            let what = "`status` does not show what the projection waits for";
            self.retries.missed(&generation.projection, what, &error);
        }
    }

    /// A consumer group, and the store whose hosts are to be its members.
    fn members_of<'a>(&'a self, group: &'a str, store: &'a dyn Store) -> strangers::Group<'a> {
        let session = self.config.kafka.session_timeout();
        strangers::Group { name: group, store, log: &self.log, session }
    }

    /// Before a group is joined again that was left because they did not.
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

    /// Runs a projection's lanes to their end. One that stands still does so until somebody says "go on".
    async fn run_lanes(&self, prepared: Prepared, stop: &CancellationToken) -> Result<(), RunEnd> {
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
        let ended = tokio::select! {
            ended = on => ended,
            never = settler.dead_letters.keep_summing_up(&settler.deployment.generation) => match never {},
            () = self.expire(&settler) => unreachable!("it goes on for as long as the projection"),
            () = self.promote(&settler, &promoting) => unreachable!("it goes on for as long as the projection"),
            () = catch_up::follow(&settler.deployment, &*settler.store, &self.log, &self.retries, catching_up) => {
                unreachable!("it goes on for as long as the projection")
            }
            () = event_ids::keep_forgetting(&settler.deployment, &*settler.store, &self.log, &self.retries, &active) => {
                unreachable!("it goes on for as long as the projection")
            }
            () = wait_ages::keep_ending(&settler.deployment, &*settler.store, &self.log, &self.retries, &active) => {
                unreachable!("it goes on for as long as the projection")
            }
        };
        settler.dead_letters.sum_up(&settler.deployment.generation);
        ended
    }

    /// Members of a group keep its partitions from others: they leave once their store is silent, or the group has
    /// members of another database.
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
        // What is in flight after that is let go: the checkpoints tell whether it was committed.
        match tokio::time::timeout(LETTING_GO, lanes).await {
            Ok(Err(stopped @ RunEnd::Stop(_))) => Err(stopped),
            _ => Err(RunEnd::GivesUp(trouble)),
        }
    }

    /// Until somebody says "go on", or another version becomes the active one. Dead letters are dealt with
    /// meanwhile: they may be what is the matter.
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
            // Whoever else stands still does so as well, and one of them does it.
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
                        backoff.missed("what is asked for next could not be found out", &error);
                    }
                }
                Err(error) => {
                    backoff.failed(error.kind(), &error);
                    backoff.wait(stop).await;
                }
            }
        }
    }

    /// Shows a generation that is built to readers, as soon as the platform's configuration says so.
    async fn promote(&self, settler: &Settler, watcher: &ControlStateWatcher) {
        let (store, generation) = (&settler.store, &settler.deployment.generation);
        let name = &*generation.projection;
        let ask = match self.config.deploy_of(name).promote {
            config::Promote::Manual => return std::future::pending().await,
            config::Promote::WhenFresh => Ask::Fresh,
            config::Promote::WhenEqual => Ask::Equal,
        };
        let mut told = String::new();
        let mut pause = PROMOTION;
        loop {
            tokio::time::sleep(pause).await;
            if watcher.of(generation.id).is_none_or(|control| control.role != Role::Building) {
                continue;
            }
            let standings = match store.standings(name).await {
                Ok(standings) => standings,
                Err(error) => {
                    self.retries.missed(name, "whether to promote could not be found out", &error);
                    continue;
                }
            };
            let of = |role| standings.iter().find(|standing| standing.role == role);
            let (Some(live), Some(new)) = (of(Role::Live), of(Role::Building)) else { continue };
            if new.generation.id != generation.id || !new.caught_up {
                continue;
            }
            let promoted = match ask == Ask::Equal && !promote::is_comparable(new) {
                true => Err(PromoteError::Refused(format!(
                    "`promote = \"when-equal\"` is not for {name}: its rows depend on the order between partitions, so that two builds of them differ; `projector promote` is for a person"
                ))),
                false => {
                    let asked = Requester::host(None);
                    let whose = (Origin::Host, &asked);
                    let terms = (ask, OldSnapshots::Refuse, Gaps::Refuse);
                    promote::promote(&self.config, &**store, &self.log, (live, new), terms, whose).await
                }
            };
            match promoted {
                Ok(Promotion { generation, before, held_ms, move_readers, .. }) => {
                    tracing::info!(projection = name, generation, before, held_ms, "generation promoted");
                    if let Some(readers) = move_readers.filter(|readers| readers.must_move) {
                        let what = readers.to_lines().join("\n");
                        tracing::warn!(
                            projection = name,
                            generation,
                            what,
                            "readers must change to new views"
                        );
                    }
                }
                Err(error) => {
                    // Trying holds the live one for a moment.
                    pause = (2 * pause).min(PROMOTION_AT_MOST);
                    let reason = error.to_string();
                    if reason != told {
                        tracing::warn!(projection = name, reason, "not promoted; it is tried again");
                        told = reason;
                    }
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
        let retained = humantime_serde::re::humantime::format_duration(retention);
        let asked = Requester::host(Some(format!("retention of {retained}")));
        let mut backoff = Backoff::new(&generation.projection, &self.retries);
        loop {
            match store.expire(generation, retention.as_secs() as i64, &asked).await {
                Ok(0) => {
                    backoff.succeeded();
                    tokio::time::sleep(EXPIRY).await;
                }
                // There may be more of them.
                Ok(letters) => {
                    backoff.succeeded();
                    tracing::info!(
                        projection = generation.projection,
                        letters,
                        "dead letters discarded by their age"
                    );
                }
                Err(error) => {
                    let reason = format!("old dead letters could not be discarded: {error}");
                    backoff.failed(error.kind(), &reason);
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
    }

    /// Waits for as long as an operator has paused a projection. Returns how it stands then.
    async fn wait_while_paused(
        &self,
        watcher: &mut ControlStateWatcher,
        generation: &Generation,
        stop: &CancellationToken,
    ) -> Result<GenerationControl, PrepareError> {
        let mut told = false;
        watcher.refresh().await?;
        loop {
            let control = watcher.of(generation.id).ok_or(PrepareError::Stopped)?;
            let Some(reason) = &control.paused else { return Ok(control) };
            if !std::mem::replace(&mut told, true) {
                let advice = FailureKind::Operator.advice();
                tracing::warn!(projection = generation.projection, reason, advice, "projection paused");
            }
            tokio::select! {
                () = watcher.changed() => {}
                () = stop.cancelled() => return Err(PrepareError::Stopped),
            }
        }
    }

    /// Everything that a run needs: the active component, and the one before while it is on trial; the
    /// consumers.
    async fn prepare(
        &self,
        store: &Arc<dyn Store>,
        watcher: &mut ControlStateWatcher,
        generation: &Generation,
        stop: &CancellationToken,
        crashed: bool,
    ) -> Result<Prepared, PrepareError> {
        let name = &*generation.projection;
        let control = self.wait_while_paused(watcher, generation, stop).await?;
        let active = &*control.active;
        let version = |digest| self.versions.of(&**store, name, digest);
        let refused = |error| PrepareError::Version { digest: active.to_owned(), error };
        let plugin = version(active).await.map_err(refused)?;
        let before = match &control.on_trial_against {
            // If that one cannot run here, nothing is compared.
            Some(digest) if self.config.deploy_of(name).trial_batches > 0 => version(digest).await.ok(),
            _ => None,
        };
        let contract = plugin.contract.clone();
        let topics = self.topics(&**store, generation, &contract).await?;
        let starts = self.starts(&**store, generation, &topics).await?;
        let prefix = &*self.config.kafka.group_prefix;
        let group = names::consumer_group(prefix, name, generation.number, store.id());
        if let Some(reason) = self.members_of(&group, &**store).until_no_strangers(stop).await? {
            return Err(PrepareError::Strangers(reason));
        }
        // A panic is shown until a run has gone well for a while.
        if !crashed {
            store.set_blocked(generation, None).await?;
        }
        let batch = self.config.batch_of(name);
        let needs_order = catch_up::needs_order(&contract);
        // A host that died gives its partitions back after its session.
        let patience = 2 * self.config.kafka.session_timeout() + Duration::from_secs(10);
        let catching_up = catch_up::turn(&**store, generation, needs_order, patience, stop).await?;
        let catching_up = catching_up.map(|lock| Arc::new(CatchUpState::new(lock, needs_order)));
        if stop.is_cancelled() {
            return Err(PrepareError::Stopped);
        }
        let merging = catch_up::merging(&contract, catching_up.is_none(), batch.skew);
        let allowed = lane::count(self.config.lanes_of(name), &contract, &**store);
        if lane::are_short_of_connections(self.config.lanes_of(name), &contract, &**store) {
            tracing::warn!(
                projection = name,
                lanes = self.config.lanes_of(name),
                connections = self.config.store_of(name).connections.get(),
                most_lanes = store.writers() - 1,
                "the store has too few connections for the projection's lanes, which wait for each other: raise its `connections`"
            );
        }
        let lanes = if needs_order && catching_up.is_some() { 1 } else { allowed };
        tracing::info!(
            projection = name,
            generation = generation.number,
            digest = active,
            group,
            lanes,
            "projection runs"
        );
        let deployment = WriteTarget {
            generation: generation.clone(),
            digest: active.into(),
            contract,
            topics: topics.clone(),
        };
        let together = stop.child_token();
        let more_lanes = allowed > lanes;
        let failures = self.config.failures_of(name).clone();
        let dead_letters = DeadLetterLog::default();
        let mut settler =
            Settler { deployment, plugin, store: store.clone(), failures, on_trial: None, dead_letters };
        settler.on_trial = before.map(|before| OnTrial::against(&settler, before));
        let limits = batch.limits();
        let lanes = (0..lanes).map(|_| {
            let source = Source::open(&group, topics.clone(), merging, self.log.clone())?;
            Ok(Pipeline {
                settler: settler.clone(),
                log: self.log.clone(),
                starts: starts.clone(),
                versions: self.versions.clone(),
                source,
                limits,
                watcher: watcher.clone(),
                retries: self.retries.clone(),
                catching_up: catching_up.clone(),
                more_lanes,
                deploy: self.config.deploy_of(name).clone(),
                stop: together.clone(),
            })
        });
        let lanes = lanes.collect::<Result<_, LogError>>()?;
        Ok(Prepared { lanes, together, settler, group, limits, watcher: watcher.clone(), catching_up })
    }

    /// What a generation's topics are in the log: as it was built. If the configuration says otherwise by now,
    /// that is for the next generation.
    async fn topics(
        &self,
        store: &dyn Store,
        generation: &Generation,
        contract: &Contract,
    ) -> Result<TopicMapping, PrepareError> {
        let configured = self.versions.topics(contract).map_err(|error| PrepareError::Version {
            digest: String::new(),
            error: VersionError::Load(error.into()),
        })?;
        let of = |standings: Vec<GenerationStatus>| {
            standings.into_iter().find(|standing| standing.generation.id == generation.id)
        };
        let mut built = of(store.standings(&generation.projection).await?);
        if let Some(unmapped) = &built
            && unmapped.layout.physical.is_empty()
        {
            store.record_mapping(generation, &unmapped.layout.mapped(&configured)).await?;
            // Another host may have been quicker.
            built = of(store.standings(&generation.projection).await?);
        }
        let Some(built) = built else { return Ok(configured) };
        for change in built.layout.remapped(&configured) {
            let (projection, number) = (&generation.projection, generation.number);
            tracing::warn!(
                projection,
                generation = number,
                advice = format!(
                    "`projector rebuild {projection}` builds a generation of what the configuration says"
                ),
                "the generation goes on reading what it is built from: {change}"
            );
        }
        Ok(built.layout.mapping(&configured))
    }

    /// Where partitions begin that have no checkpoint. A generation that has begun runs whatever is configured.
    async fn starts(
        &self,
        store: &dyn Store,
        generation: &Generation,
        topics: &TopicMapping,
    ) -> Result<Starts, PrepareError> {
        let starts = Starts::of(&self.config, &generation.projection, topics);
        if let Some(reason) = starts.unknown()
            && store.began_with(generation).await?.is_none()
        {
            let trouble = Blocker::new(FailureKind::Start, reason);
            store.set_blocked(generation, Some(&trouble)).await?;
            return Err(PrepareError::Start(trouble.reason));
        }
        Ok(starts)
    }

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

    /// Gives every store's connections and locks back.
    pub async fn close(&self) {
        for slot in self.stores.lock().await.values() {
            if let Some((store, _)) = &*slot.lock().await {
                store.close().await;
            }
        }
    }
}

/// A task that does not outlive who waits for it.
struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    /// Waits for the task's end. When it has run for a while, what ended the one before is over.
    async fn outlast(&mut self, backoff: &mut Backoff) -> Result<(), JoinError> {
        tokio::select! {
            ended = &mut self.0 => return ended,
            () = tokio::time::sleep(SETTLED) => backoff.succeeded(),
        }
        (&mut self.0).await
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a task that panicked said.
fn crash_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic_text(&*panic),
        Err(error) => error.to_string(),
    }
}

impl PrepareError {
    fn kind(&self) -> FailureKind {
        match self {
            PrepareError::Store(error) => error.kind(),
            PrepareError::Start(_) => FailureKind::Start,
            PrepareError::Strangers(_) => FailureKind::Copied,
            PrepareError::Log(error) => error.kind(),
            PrepareError::Stopped => FailureKind::Brokers,
            PrepareError::Version { error: VersionError::Store(error), .. } => error.kind(),
            PrepareError::Version { error, .. } if error.is_ours() => FailureKind::Machine,
            PrepareError::Version { .. } => FailureKind::Component,
        }
    }

    fn may_pass(&self) -> bool {
        self.kind().response() == Response::Retry
    }
}
