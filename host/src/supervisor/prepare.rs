//! Prepares a run of a generation: the active component, the topics, the starts and the consumers.
//!
//! A preparation writes no rows of a read model, so one that fails is repeated from the beginning. It waits while an
//! operator has paused the projection, while foreign members are in the consumer group, and while another host builds
//! the generation alone.

use std::sync::Arc;
use std::time::Duration;

use projector_core::batch::BatchLimits;
use projector_core::failure::{Blocker, FailureKind, Response};
use projector_core::generation::{Generation, GenerationStatus};
use projector_core::topics::TopicMapping;
use projector_kafka::{LogError, Source};
use projector_model::{Contract, names};
use projector_store::control::GenerationControl;
use projector_store::{Store, StoreError, WriteTarget};
use tokio_util::sync::CancellationToken;

use super::Host;
use crate::catch_up::{self, CatchUpState};
use crate::control_state::ControlStateWatcher;
use crate::dead_letter_log::DeadLetterLog;
use crate::deploy::component_cache::VersionError;
use crate::lane;
use crate::pipeline::Pipeline;
use crate::settle::{OnTrial, Settler};
use crate::start_offsets::Starts;

/// A generation that is ready to run.
pub(super) struct Prepared {
    pub(super) lanes: Vec<Pipeline>,
    /// Stops all lanes. A child of the generation's own token.
    pub(super) stop_lanes: CancellationToken,
    pub(super) settler: Settler,
    pub(super) group: String,
    pub(super) limits: BatchLimits,
    pub(super) watcher: ControlStateWatcher,
    /// `None`: the generation is caught up.
    pub(super) catching_up: Option<Arc<CatchUpState>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the active component cannot run here: {error}")]
    Version { digest: String, error: VersionError },
    #[error("{0}")]
    Start(String),
    /// The consumer group has members that are not hosts of the store.
    #[error("{0}")]
    ForeignMembers(String),
    #[error("the host stops")]
    Stopped,
}

impl Host {
    /// Waits until the projection is not paused. Returns its control state.
    async fn wait_while_paused(
        &self,
        watcher: &mut ControlStateWatcher,
        generation: &Generation,
        stop: &CancellationToken,
    ) -> Result<GenerationControl, PrepareError> {
        let mut logged = false;
        watcher.refresh().await?;
        loop {
            let control = watcher.of(generation.id).ok_or(PrepareError::Stopped)?;
            let Some(reason) = &control.paused else { return Ok(control) };
            if !std::mem::replace(&mut logged, true) {
                let advice = FailureKind::Operator.advice();
                tracing::warn!(projection = generation.projection, reason, advice, "projection paused");
            }
            tokio::select! {
                () = watcher.changed() => {}
                () = stop.cancelled() => return Err(PrepareError::Stopped),
            }
        }
    }

    /// Prepares everything that a run needs. `crashed`: the generation's blocker in the store is a panic.
    pub(super) async fn prepare(
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
        let previous = match &control.on_trial_against {
            // If the previous version cannot run on this host, the new version runs without a comparison.
            Some(digest) if self.config.deploy_of(name).trial_batches > 0 => version(digest).await.ok(),
            _ => None,
        };
        let contract = plugin.contract.clone();
        let topics = self.topics(&**store, generation, &contract).await?;
        let starts = self.starts(&**store, generation, &topics).await?;
        let prefix = &*self.config.kafka.group_prefix;
        let group = names::consumer_group(prefix, name, generation.number, store.id());
        if let Some(reason) = self.group(&group, &**store).wait_until_none_foreign(stop).await? {
            return Err(PrepareError::ForeignMembers(reason));
        }
        // `projector status` shows a panic as the blocker until a run was healthy for a while.
        if !crashed {
            store.set_blocked(generation, None).await?;
        }
        let batch = self.config.batch_of(name);
        let needs_one_host = catch_up::needs_one_host(&contract);
        // The host that builds the generation may have died. Its partitions go to others only after its Kafka session
        // has timed out, so wait for longer than that.
        let patience = 2 * self.config.kafka.session_timeout() + Duration::from_secs(10);
        let catching_up =
            catch_up::wait_for_turn(&**store, generation, needs_one_host, patience, stop).await?;
        let catching_up = catching_up.map(|lock| Arc::new(CatchUpState::new(lock, needs_one_host)));
        if stop.is_cancelled() {
            return Err(PrepareError::Stopped);
        }
        let merging = catch_up::merging(&contract, catching_up.is_none(), batch.skew);
        let allowed = lane::count(self.config.lanes_of(name), &contract, &**store);
        if lane::need_more_connections(self.config.lanes_of(name), &contract, &**store) {
            tracing::warn!(
                projection = name,
                lanes = self.config.lanes_of(name),
                connections = self.config.store_of(name).connections.get(),
                most_lanes = store.writers() - 1,
                "the store has too few connections for the projection's lanes, so lanes wait for each other: raise the store's `connections`"
            );
        }
        let lanes = if needs_one_host && catching_up.is_some() { 1 } else { allowed };
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
        let stop_lanes = stop.child_token();
        let more_lanes = allowed > lanes;
        let failures = self.config.failures_of(name).clone();
        let dead_letters = DeadLetterLog::default();
        let mut settler =
            Settler { deployment, plugin, store: store.clone(), failures, on_trial: None, dead_letters };
        settler.on_trial = previous.map(|previous| OnTrial::against(&settler, previous));
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
                stop: stop_lanes.clone(),
            })
        });
        let lanes = lanes.collect::<Result<_, LogError>>()?;
        Ok(Prepared { lanes, stop_lanes, settler, group, limits, watcher: watcher.clone(), catching_up })
    }

    /// The physical topics that the generation was built from. If `[kafka.topics]` has changed since, only the next
    /// generation uses the change: the rows and checkpoints of this one come from the earlier topics.
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
        let mut built = of(store.generations(&generation.projection).await?);
        if let Some(unmapped) = &built
            && unmapped.layout.physical.is_empty()
        {
            store.record_mapping(generation, &unmapped.layout.mapped(&configured)).await?;
            // Another host may have recorded another mapping first: the one in the store counts.
            built = of(store.generations(&generation.projection).await?);
        }
        let Some(built) = built else { return Ok(configured) };
        for change in built.layout.remapped(&configured) {
            let (projection, number) = (&generation.projection, generation.number);
            tracing::warn!(
                projection,
                generation = number,
                advice = format!(
                    "`projector rebuild {projection}` builds a new generation from the topics of the configuration"
                ),
                "the generation continues to read the topics that it was built from: {change}"
            );
        }
        Ok(built.layout.mapping(&configured))
    }

    /// Where partitions without a checkpoint start. Refuses a start for a topic that the plugin does not read, but only
    /// before the generation has begun to read: later, a run must not fail because of it.
    async fn starts(
        &self,
        store: &dyn Store,
        generation: &Generation,
        topics: &TopicMapping,
    ) -> Result<Starts, PrepareError> {
        let starts = Starts::of(&self.config, &generation.projection, topics);
        if let Some(reason) = starts.unknown_topic()
            && store.began_with(generation).await?.is_none()
        {
            let blocker = Blocker::new(FailureKind::Start, reason);
            store.set_blocked(generation, Some(&blocker)).await?;
            return Err(PrepareError::Start(blocker.reason));
        }
        Ok(starts)
    }
}

impl PrepareError {
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            PrepareError::Store(error) => error.kind(),
            PrepareError::Start(_) => FailureKind::Start,
            PrepareError::ForeignMembers(_) => FailureKind::Copied,
            PrepareError::Log(error) => error.kind(),
            PrepareError::Stopped => FailureKind::Brokers,
            PrepareError::Version { error: VersionError::Store(error), .. } => error.kind(),
            PrepareError::Version { error, .. } if error.is_ours() => FailureKind::Machine,
            PrepareError::Version { .. } => FailureKind::Component,
        }
    }

    /// Whether a retry may succeed without another version or an operator.
    pub(super) fn may_pass(&self) -> bool {
        self.kind().response() == Response::Retry
    }
}
