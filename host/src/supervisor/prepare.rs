//! Prepares a run of a generation: the active component, the topics, the starts and the consumers.
//!
//! Nothing here writes rows, so a preparation that fails is started again from the beginning. It waits while an operator
//! has paused the projection, while foreign members are in the consumer group, and while another host catches the
//! generation up.

use std::sync::Arc;
use std::time::Duration;

use projector_core::batch::BatchLimits;
use projector_core::failure::{Blocker, FailureKind, Response};
use projector_core::generation::{Generation, GenerationStatus};
use projector_core::topics::TopicMapping;
use projector_kafka::{LogError, Source};
use projector_model::{Contract, names};
use projector_store::operator::GenerationControl;
use projector_store::{Store, StoreError, WriteTarget};
use tokio_util::sync::CancellationToken;

use super::Host;
use crate::beginning::Starts;
use crate::catch_up::{self, CatchUpState};
use crate::control_state::ControlStateWatcher;
use crate::dead_letter_log::DeadLetterLog;
use crate::deploy::component_cache::VersionError;
use crate::lane;
use crate::pipeline::Pipeline;
use crate::settle::{OnTrial, Settler};

/// A generation that is ready to run.
pub(super) struct Prepared {
    pub(super) lanes: Vec<Pipeline>,
    /// Stops all lanes. A child of the generation's own token.
    pub(super) together: CancellationToken,
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
    /// The consumer group has members that are no hosts of the store.
    #[error("{0}")]
    Strangers(String),
    #[error("the host stops")]
    Stopped,
}

impl Host {
    /// Waits for as long as an operator has paused the projection. Returns its control state then.
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

    /// Prepares everything that a run needs. `crashed`: the store has a panic as this generation's blocker.
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
        let before = match &control.on_trial_against {
            // If the version before cannot run on this host, the trial runs without a comparison.
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
        // A panic stays the blocker until a run is healthy.
        if !crashed {
            store.set_blocked(generation, None).await?;
        }
        let batch = self.config.batch_of(name);
        let needs_order = catch_up::needs_order(&contract);
        // The partitions of a host that died are free after its Kafka session has timed out.
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

    /// The generation's topics in Kafka: those that it was built from. If the configuration maps them differently now,
    /// only the next generation follows.
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
            // Another host may have recorded another mapping first: what the store has counts.
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

    /// Where partitions without a checkpoint start. A generation that has begun to read runs even if the configured
    /// start is unknown.
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
}

impl PrepareError {
    pub(super) fn kind(&self) -> FailureKind {
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

    pub(super) fn may_pass(&self) -> bool {
        self.kind().response() == Response::Retry
    }
}
