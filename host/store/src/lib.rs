//! The stores: databases for read models, in which rows and checkpoints change together or not at all.
//!
//! Two databases keep one promise. Postgres writes a batch as few statements over sets of rows. SQLite uses the model's
//! own interpreter. A change that one database refuses, the other refuses as well.
//!
//! A [`Store`] is the sum of its capabilities, one trait for each. [`postgres`] and [`sqlite`] implement them; the SQL for
//! the host's own tables is written once, in `host_tables`. The words are in the book's glossary (`docs/src/glossary.md`).

#[macro_use]
mod row;

mod error;
mod fault;
mod names;
mod requester;
mod write_barrier;

// The way of a batch.
mod batches;
mod catch_up;
pub mod checkpoints;
pub mod event_ids;
mod lookup_rows;
pub mod release;
pub mod source_topics;
pub mod waiting_events;
mod writes;

// The work of an operator.
pub mod control;
pub mod dead_letters;
pub mod moves;
pub mod operations;
pub mod status;

// The life of a deployment.
mod compare;
pub mod deployments;
pub mod diff;
mod foreign;
pub mod generations;
pub mod readers;
pub mod retention;

// The databases.
mod host_tables;
pub mod hosts;
pub mod identity;
pub mod migrations;
mod open;
pub mod postgres;
pub mod schema;
pub mod sqlite;

use async_trait::async_trait;
use uuid::Uuid;

pub use batches::{BatchStore, LockHolder, Transaction, WriteTarget};
pub use catch_up::{CatchUp, CatchUpProgress, CatchUpStore, CatchingUp};
pub use checkpoints::CheckpointStore;
pub use control::ControlStore;
pub use dead_letters::DeadLetterStore;
pub use deployments::{Component, DeploymentStore};
pub use error::StoreError;
pub use event_ids::EventIdStore;
pub use fault::{Outage, Setup};
pub use generations::{GenerationStore, Installed};
pub use hosts::HostStore;
pub use identity::IdentityStore;
pub use moves::MoveStore;
pub use open::{check_login, empty, look_at_schema, open, open_if_used, open_to_operate, open_to_read};
pub use readers::ReaderStore;
pub use requester::Requester;
pub use retention::RetentionStore;
pub use source_topics::SourceTopicStore;
pub use status::{PartitionState, Projection, StatementCount, StatusStore, WaitingEvent};
pub use waiting_events::WaitingEventStore;
pub use write_barrier::WriteBarrier;
pub use writes::{Advance, DeadLetter, Parked, Writes};

use diff::Snapshot;
use schema::Schema;

/// A database for read models, with the host's own tables.
///
/// Every method may be called again after [`StoreError::Unavailable`].
#[async_trait]
pub trait Store:
    BatchStore
    + CatchUpStore
    + CheckpointStore
    + ControlStore
    + DeadLetterStore
    + DeploymentStore
    + EventIdStore
    + GenerationStore
    + HostStore
    + IdentityStore
    + MoveStore
    + ReaderStore
    + RetentionStore
    + SourceTopicStore
    + StatusStore
    + WaitingEventStore
{
    /// The id that was created with this store.
    fn id(&self) -> Uuid;

    /// The state of the host's own tables when the store was opened.
    fn schema(&self) -> &Schema;

    /// Changes whenever the database answers. `None`: the database is in this process and cannot fall silent.
    fn answer_count(&self) -> Option<u64>;

    /// The store as it is committed now, to read checkpoints and to compare generations. The snapshot has a connection of
    /// its own, so it waits for no other work, and no other work waits for it.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Closes connections and releases locks.
    async fn close(&self);
}
