//! Dead letters: events that failed, stored with the failure.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::event::as_json;
use projector_core::generation::Generation;
use projector_core::ordering::KeyId;
use serde::{Serialize, Serializer};
use serde_json::Value as Json;

use crate::error::StoreError;
use crate::operations::{NewOperations, OperationResult};
use crate::requester::Requester;

/// Dead letters, and the operations on them.
#[async_trait]
pub trait DeadLetterStore: Send + Sync {
    /// Dead letters, oldest first, at most as many as the filter says.
    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRecord>, StoreError>;

    /// Stores an operation for each of these dead letters, for the lanes to carry out. Returns the operation of each dead
    /// letter, by the dead letter's number. A number without an operation is of a dead letter that is gone.
    async fn request(&self, operations: &NewOperations) -> Result<BTreeMap<i64, i64>, StoreError>;

    /// The results of those of these operations that are done, by their numbers.
    async fn results(&self, operations: &[i64]) -> Result<BTreeMap<i64, OperationResult>, StoreError>;

    /// Stores the result of an operation that wrote no rows.
    async fn set_result(&self, operation: i64, result: &OperationResult) -> Result<(), StoreError>;

    /// Withdraws those of these operations that no host has begun, and returns them. The others are done, or in progress.
    async fn withdraw(&self, operations: &[i64]) -> Result<Vec<i64>, StoreError>;

    /// Erases the stored events of a key: its dead letters, and the events that wait behind them. They are counted as
    /// skipped, and the key is not blocked any more. Returns how many events were erased.
    async fn erase(
        &self,
        generation: &Generation,
        key: &[u8],
        ids: &[KeyId],
        requester: &Requester,
    ) -> Result<u64, StoreError>;

    /// Discards dead letters that are older than this and behind which no event waits, and frees their keys. At most as
    /// many as one transaction may have. Returns how many were discarded.
    async fn expire(
        &self,
        generation: &Generation,
        seconds: i64,
        requester: &Requester,
    ) -> Result<u64, StoreError>;
}

/// How many dead letters expire in one transaction at most. Lanes that need their keys or counters wait for it.
pub(crate) const EXPIRED_AT_ONCE: i64 = 1_000;

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    pub projection: Option<String>,
    /// Empty: dead letters of any number.
    pub ids: Vec<i64>,
    pub kind: Option<String>,
    pub code: Option<String>,
    pub key: Option<Vec<u8>>,
    /// Whether payloads and headers are read as well.
    pub whole: bool,
    /// When the event failed first: microseconds since 1970.
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub most: i64,
}

/// A stored dead letter. Bytes that are not UTF-8 are shown as `{"hex": …}`.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterRecord {
    pub id: i64,
    pub projection: String,
    pub generation: i32,
    #[serde(flatten)]
    pub event: RecordedEvent,
    #[serde(flatten)]
    pub failure: RecordedFailure,
    #[serde(flatten)]
    pub attempt: LastAttempt,
    /// How many events of its key wait behind it. `None`: it blocks no key.
    pub parked: Option<i64>,
    #[serde(flatten)]
    pub content: RecordedContent,
}

from_row! { DeadLetterRecord { ..event, ..failure, ..attempt, ..content, id, projection, generation, parked } }

/// Which event failed.
#[derive(Debug, Clone, Serialize)]
pub struct RecordedEvent {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// The record time: milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    #[serde(serialize_with = "bytes_as_json")]
    pub key: Option<Vec<u8>>,
}

from_row! { RecordedEvent { topic, partition, offset, timestamp_ms, key } }

/// Why it failed.
#[derive(Debug, Clone, Serialize)]
pub struct RecordedFailure {
    pub kind: String,
    pub code: String,
    pub detail: String,
    /// What the database named when it refused the event's rows.
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
    /// Where in the plugin a trap was.
    pub backtrace: Option<String>,
}

from_row! {
    RecordedFailure {
        kind, code, detail, table = "db_table", column = "db_column", constraint = "db_constraint", backtrace
    }
}

/// The component in which it failed last, and how often it was tried.
#[derive(Debug, Clone, Serialize)]
pub struct LastAttempt {
    pub version: String,
    pub digest: String,
    pub attempts: i32,
    /// When the event failed first: microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub died_at: i64,
}

from_row! { LastAttempt { version, digest, attempts, died_at } }

/// The event's headers and payload. Read only with [`DeadLetterFilter::whole`].
#[derive(Debug, Clone, Serialize)]
pub struct RecordedContent {
    #[serde(skip_serializing_if = "no_headers")]
    pub headers: Json,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "bytes_as_json")]
    pub payload: Option<Vec<u8>>,
    /// Always read. Absent for a tombstone.
    pub payload_bytes: Option<i64>,
    /// The size of a value that is larger than any may be, so that only the log has it. Always read.
    pub oversize_bytes: Option<i64>,
}

from_row! { RecordedContent { headers, payload, payload_bytes, oversize_bytes } }

fn bytes_as_json<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.as_deref().map(as_json).serialize(serializer)
}

fn no_headers(headers: &Json) -> bool {
    headers.as_array().is_none_or(Vec::is_empty)
}
