//! The control state: what operators want of each generation, and how it stands.

use async_trait::async_trait;
use projector_core::event::Partition;
use projector_core::generation::{Generation, Role};
use projector_core::refusal::Refusal;
use serde::Serialize;

use crate::error::StoreError;
use crate::operations::{OpenOperation, Operation};
use crate::requester::Requester;
use crate::write_barrier::WriteBarrier;

/// The control state, which every host reads twice a second, and the requests that are done at once.
#[async_trait]
pub trait ControlStore: Send + Sync {
    /// The control state of each generation.
    async fn control_state(&self) -> Result<Vec<GenerationControl>, StoreError>;

    /// Pauses a generation, or resumes it. When this returns, every batch in flight knows of it.
    async fn set_running(
        &self,
        generation: &Generation,
        resume: bool,
        requester: &Requester,
    ) -> Result<(), StoreError>;

    /// Moves a checkpoint forward over events that are not to be read. They are counted as skipped. Returns where the
    /// checkpoint was; an error if it was not before `to`.
    async fn skip(
        &self,
        generation: &Generation,
        partition: &Partition,
        to: i64,
        requester: &Requester,
    ) -> Result<Skipped, StoreError>;

    /// Stores the last time that the plugin gave two different answers to the same event.
    async fn set_impure(&self, generation: &Generation, report: &str) -> Result<(), StoreError>;

    /// The operations of a projection, or of all projections, newest first.
    async fn operations(&self, projection: Option<&str>, most: i64) -> Result<Vec<Operation>, StoreError>;
}

/// How many open operations of a partition the control state has at most. All hosts read it twice a second.
pub(crate) const OPEN_OPERATIONS: i64 = 500;

/// The control state of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationControl {
    pub generation: Generation,
    pub role: Role,
    /// The digest of the active component.
    pub active: String,
    /// While the active component is on trial: the digest of the component before it.
    pub on_trial_against: Option<String>,
    /// No host runs it.
    pub stopped: bool,
    /// Why no batch may be written.
    pub paused: Option<String>,
    /// Changes with every `projector resume`.
    pub resumes: i64,
    /// Up to where its batches may write at the moment.
    pub barrier: WriteBarrier,
    /// Whether waiting events are ready to be tried.
    pub any_ready: bool,
    /// What lanes are to do, in order: the first 500 operations of each partition.
    pub open: Vec<OpenOperation>,
}

/// Where a checkpoint was, and is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub from: i64,
    pub to: i64,
}

impl Skipped {
    /// Refuses to move a checkpoint back, or one that does not exist.
    pub(crate) fn over(partition: &Partition, from: Option<i64>, to: i64) -> Result<Self, Refusal> {
        match from {
            None => Err(Refusal::NoCheckpoint(partition.clone())),
            Some(from) if from >= to => Err(Refusal::NotAhead { partition: partition.clone(), from, to }),
            Some(from) => Ok(Self { from, to }),
        }
    }
}
