//! The release of stored events: dead letters that are retried or discarded, and waiting events that are ready.

use projector_core::awaited::AwaitedRow;
use projector_core::counters::OutcomeCounts;
use projector_core::event::{Event, Partition};
use projector_core::event_failure::Failure;
use projector_core::ordering::KeyId;

use crate::operations::{DeadLetterAction, OperationResult};

/// A dead letter or a parked event, as it is stored.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub id: i64,
    /// `None`: it cannot be projected, because the component does not read its topic any more.
    pub event: Option<Event>,
    /// The operation that moved the partition to another log: the offset belongs to the log before it.
    pub moved_by: Option<i64>,
}

/// An operation on a dead letter, which this transaction has locked.
#[derive(Debug, Clone)]
pub struct ClaimedOperation {
    /// As it is stored: the control state that the lane read may be older.
    pub action: DeadLetterAction,
    pub dry_run: bool,
    /// The dead letter, and the code by which it is counted. `None`: it is gone.
    pub dead_letter: Option<(StoredEvent, Partition, String)>,
    /// The key that it blocks.
    pub key: Option<KeyId>,
    /// The first of the events that wait behind it.
    pub parked: Vec<(StoredEvent, Partition)>,
    /// How many events wait behind it in all.
    pub parked_count: i64,
    /// The result so far.
    pub so_far: OperationResult,
}

/// What a batch of stored events does to them.
#[derive(Default)]
pub struct Release<'a> {
    /// The operation that the batch is for. `None`: the events were ready by themselves.
    pub operation: Option<OperationProgress<'a>>,
    /// The dead letter that was tried, and the result.
    pub dead_letter: Option<(i64, RetryResult<'a>)>,
    /// Parked events that do not wait any more.
    pub settled: Vec<i64>,
    /// Parked events that continue to wait, otherwise than before.
    pub waits_on: Vec<WaitsOn<'a>>,
    /// How the counters change.
    pub shifts: Vec<(Partition, OutcomeCounts)>,
    /// Keys that none of these events blocks any more. If other events are parked under such a key, the first of them is
    /// ready; otherwise the key is free.
    pub frees: Vec<KeyId>,
}

/// How far an operation is.
pub struct OperationProgress<'a> {
    pub operation: i64,
    pub key: Option<KeyId>,
    /// The result so far.
    pub result: &'a OperationResult,
    pub done: bool,
}

/// A parked event that was tried, and continues to wait.
pub struct WaitsOn<'a> {
    pub id: i64,
    /// The key under which it is parked now: the key of an earlier event; or, if it waits for a row, its
    /// [line](KeyId::line), which it blocks.
    pub key: KeyId,
    pub row: Option<&'a AwaitedRow>,
}

/// The result of a dead letter that was tried again.
pub enum RetryResult<'a> {
    /// It is not a dead letter any more.
    Gone,
    /// It failed again.
    Failed(&'a Failure),
}

/// A dead letter behind which no event waits, and the operation on it. Both are locked until the end of the transaction.
#[derive(Debug, Clone)]
pub struct LoneDeadLetter {
    pub operation: i64,
    pub action: DeadLetterAction,
    pub dead_letter: StoredEvent,
    pub partition: Partition,
    /// The code by which it is counted.
    pub code: String,
    /// The key that it blocks.
    pub key: Option<KeyId>,
}

/// The results of operations on such dead letters.
pub struct LoneResults<'a> {
    pub results: Vec<LoneResult<'a>>,
    /// How the counters change.
    pub shifts: Vec<(Partition, OutcomeCounts)>,
}

/// The result of one of them. If the dead letter is gone, its key is not blocked any more.
pub struct LoneResult<'a> {
    pub operation: i64,
    pub dead_letter: i64,
    pub key: Option<KeyId>,
    pub retry: RetryResult<'a>,
    pub result: OperationResult,
}
