//! The transaction of a batch: what it reads, and how it begins and ends.
//!
//! Why a trait: both databases keep one promise, and the pipeline is written against this promise alone.

use std::sync::Arc;

use async_trait::async_trait;
use projector_core::batch::BatchLimits;
use projector_core::duplicate::{EventId, Known};
use projector_core::generation::Generation;
use projector_core::ordering::{Blocked, KeyId};
use projector_core::topics::TopicMapping;
use projector_model::interpret::Row;
use projector_model::{Contract, LookupCall};

use crate::error::StoreError;
use crate::release::{ClaimedOperation, LoneDeadLetter};
use crate::waiting_events::ReadyEvent;
use crate::writes::Writes;

/// Begins the transactions of batches.
#[async_trait]
pub trait BatchStore: Send + Sync {
    /// How many transactions may be open at once.
    fn writers(&self) -> usize;

    /// Begins the transaction of one batch. It checks that the target's component is the active one, that no operator
    /// paused the projection, and that the write barrier is not closed; this stays so until the end. Where the contract
    /// needs one writer, it waits for the transaction of the other writer to end.
    async fn begin(&self, target: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError>;

    /// Begins a transaction that reads rows with a component that need not be the active one. What it writes must never
    /// be committed.
    async fn begin_read_only(&self, target: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError>;

    /// Counts a transaction of the generation that the database ended because of a deadlock.
    async fn count_deadlock(&self, generation: &Generation) -> Result<(), StoreError>;

    /// Which session has the lock that a transaction has just waited for until its lock timeout. `None`: unknown.
    async fn lock_holder(&self, generation: &Generation) -> Option<LockHolder>;
}

/// The transaction of one batch. Dropped, it is rolled back.
#[async_trait]
pub trait Transaction: Send {
    /// The stored rows that each call finds, calls in the order asked. A call by the key finds the whole row, its
    /// tombstone as well, since the effect of later changes depends on the tombstone. A call by other columns finds
    /// rows without tombstones, in the order of the key; of each row, the columns that the lookup returns. The rows that
    /// were read stay as they are until the end of the transaction.
    ///
    /// All rows together weigh no more than `most_bytes`: of each lookup the first calls are answered, as many as there
    /// is room for. `None`: the call was not answered.
    async fn read(
        &mut self,
        calls: &[LookupCall],
        most_bytes: usize,
    ) -> Result<Vec<Option<Vec<Row>>>, StoreError>;

    /// Which of these ids were handled before.
    async fn known(&mut self, ids: &[EventId]) -> Result<Known, StoreError>;

    /// Whether any key of the projection was blocked when the transaction began.
    fn blocks_any(&self) -> bool;

    /// Which of these keys are blocked. They stay blocked until the end of the transaction.
    async fn blocked(&mut self, keys: Vec<KeyId>) -> Result<Blocked, StoreError>;

    /// How many dead letters the projection has, and how many events wait, behind dead letters or for rows.
    async fn failed_and_waiting(&mut self) -> Result<(i64, i64), StoreError>;

    /// Locks the dead letter of an operation until the end of the transaction, and reads it with the first of the events
    /// that wait behind it. `None`: the operation was done or withdrawn meanwhile.
    async fn claim(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError>;

    /// Locks the dead letters of these operations behind which no event waits, as many as a batch may have. An operation
    /// that another transaction has locked, that is a dry run, or that has begun already, is left out.
    async fn claim_lone_dead_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError>;

    /// Locks events that are ready to be tried: their row was written, their wait is over, or the event before them is
    /// done. Each is followed by the events that are parked behind it. They are the first of all, in order, as many as a
    /// batch may have, and stay locked until the end of the transaction.
    async fn claim_ready(&mut self, limits: BatchLimits) -> Result<Vec<ReadyEvent>, StoreError>;

    /// Whether [`write`](Self::write) made waiting events ready to be tried.
    fn made_ready(&self) -> bool;

    /// Moves the checkpoints, and writes the rows, the dead letters and the counters. Returns how many statements wrote
    /// the rows.
    async fn write(&mut self, writes: &Writes<'_>) -> Result<u64, StoreError>;

    /// `Ok`: all of it is durable. An error: none of it is, except after [`StoreError::Unavailable`], when the outcome
    /// may be unknown: the checkpoints tell.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Where a batch is written: a generation, and the component that writes to it.
#[derive(Clone)]
pub struct WriteTarget {
    pub generation: Generation,
    pub digest: Arc<str>,
    pub contract: Arc<Contract>,
    /// The physical topics of its logical topics.
    pub topics: TopicMapping,
}

/// A session of the database that has held a lock for longer than the host waits for one.
#[derive(Debug, Clone, PartialEq)]
pub struct LockHolder {
    /// The database's number of the session: in Postgres, its process id.
    pub session: i32,
    pub application: String,
    /// Its last statement.
    pub query: String,
    /// How long its transaction has been open.
    pub seconds: f64,
}
