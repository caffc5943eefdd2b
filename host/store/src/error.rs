//! The errors of a store, and the failure kind of each.

use projector_core::checkpoint::partitions_text;
use projector_core::event::Partition;
use projector_core::event_failure::DatabaseRefusal;
use projector_core::failure::{FailureKind, Response};
use projector_core::refusal::Refusal;
use projector_model::Rejection;

use crate::fault::{self, Outage, Setup};
use crate::write_barrier::WriteBarrier;

/// Why a store did not do what it was asked. What the host does about it is decided in the pipeline.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unreachable, full or read-only, or a lock or a deadlock ended the statement. A retry may succeed.
    #[error("{}{}", if .0.is_contention() { "" } else { "the database is not available: " }, .0)]
    Unavailable(Outage),
    /// The configuration, the database's settings or a missing right prevent the host from using the database, until a
    /// person changes that.
    #[error("{0}")]
    Setup(Setup),
    /// Another host moved these checkpoints.
    #[error("the checkpoint moved: {}", partitions_text(.0))]
    CheckpointMoved(Vec<Partition>),
    /// Another component is the active one.
    #[error("component {0} is the active one")]
    Inactive(String),
    /// An operator paused the projection.
    #[error("{0}")]
    Paused(String),
    /// The write barrier keeps batches from going beyond these offsets, or from being written at all, for some seconds.
    #[error("a write barrier is raised for a moment, while generations are compared or switched")]
    WriteBarrier(WriteBarrier),
    /// This event's changes are refused, given that the changes of the events before it are applied.
    #[error("{rejection}")]
    Rejected { event: usize, rejection: Rejection },
    /// Some event of the batch has values that the database refuses.
    #[error("the database refuses a value: {0}")]
    Data(DatabaseRefusal),
    /// The tables are not as the host made them.
    #[error("the tables were changed by hand: {0}")]
    Drift(String),
    /// A request to the brokers was needed, and they did not answer.
    #[error("{0}")]
    Brokers(String),
    /// The database is a copy of the one that the store was made in, or that one was moved.
    #[error("{0}")]
    Copied(String),
    /// The store works, and the request is not allowed in the present state.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The store itself cannot be used in its present state; the message says what to do.
    #[error("{0}")]
    Unusable(String),
}

impl StoreError {
    /// A stored row does not have what the host wrote.
    pub(crate) fn drift(error: sqlx::Error) -> Self {
        StoreError::Drift(fault::to_text(&error))
    }

    pub fn kind(&self) -> FailureKind {
        match self {
            StoreError::Unavailable(outage) => outage.kind,
            StoreError::Setup(_) => FailureKind::DatabaseSetup,
            StoreError::CheckpointMoved(_) => FailureKind::Fenced,
            StoreError::Inactive(_) => FailureKind::Superseded,
            StoreError::Paused(_) => FailureKind::Operator,
            StoreError::Rejected { .. } | StoreError::Data(_) => FailureKind::Refused,
            StoreError::Drift(_) => FailureKind::Drift,
            StoreError::WriteBarrier(_) => FailureKind::Held,
            StoreError::Brokers(_) => FailureKind::Brokers,
            StoreError::Copied(_) => FailureKind::Copied,
            StoreError::Refused(_) | StoreError::Unusable(_) => FailureKind::Store,
        }
    }

    /// The kind to show where the request is retried until a person corrects the cause: when a store is opened, or a
    /// file is offered.
    pub fn blocker(&self) -> FailureKind {
        match self.kind() {
            kind if kind.response() == Response::Retry => kind,
            _ => FailureKind::DatabaseSetup,
        }
    }
}
