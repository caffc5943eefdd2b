//! What an operator sees of a store, and asks of it.
//!
//! Whatever writes a projection's rows is an [operation](NewOperations) that is stored, and done by the
//! lane that is granted its partition, between two batches. The rest is done at once. Both are kept:
//! who asked for what, when and why, and what came of it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use projector_core::refusal::Refusal;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

use super::StoreError;
pub use super::requester::Requester;
use crate::write_barrier::WriteBarrier;
use projector_core::awaited::AwaitedRow;
use projector_core::counters::{OutcomeCounts, add};
use projector_core::event::{Event, Header, Partition, Position, as_json};
use projector_core::event_failure::Failure;
use projector_core::generation::{Generation, Role};
use projector_core::ordering::KeyId;
use projector_core::topics::TopicMapping;

/// How generations are to run.
#[async_trait]
pub trait ControlStore: Send + Sync {
    /// How each generation stands now, and what operators want of it.
    async fn control_state(&self) -> Result<Vec<GenerationControl>, StoreError>;

    /// Pauses a projection, or lets it go on. When this returns, no batch is in flight that does not
    /// know of it.
    async fn set_running(
        &self,
        generation: &Generation,
        go_on: bool,
        asked: &Requester,
    ) -> Result<(), StoreError>;

    /// Moves a checkpoint forward over events that are not to be read: they are counted as skipped.
    /// Returns where it was; an error if that is not before `to`.
    async fn skip(
        &self,
        generation: &Generation,
        partition: &Partition,
        to: i64,
        asked: &Requester,
    ) -> Result<Skipped, StoreError>;

    /// The last plugin's answer that was not the first one's.
    async fn set_impure(&self, generation: &Generation, report: &str) -> Result<(), StoreError>;

    /// What was asked for, newest first.
    async fn operations(&self, projection: Option<&str>, most: i64) -> Result<Vec<Operation>, StoreError>;
}

/// Events that failed, and what is asked for about them.
#[async_trait]
pub trait DeadLetterStore: Send + Sync {
    /// Dead letters, oldest first; no more than asked.
    async fn dead_letters(&self, filter: &Filter) -> Result<Vec<DeadLetterRecord>, StoreError>;

    /// Asks for something that lanes do, for all of these dead letters together. Returns each one's operation, by
    /// its own number; one that is missing is gone.
    async fn ask(&self, asked: &NewOperations) -> Result<BTreeMap<i64, i64>, StoreError>;

    /// What came of those of these operations that are done, by their numbers.
    async fn verdicts(&self, operations: &[i64]) -> Result<BTreeMap<i64, OperationResult>, StoreError>;

    /// Says what came of an operation that wrote nothing.
    async fn answer(&self, operation: i64, verdict: &OperationResult) -> Result<(), StoreError>;

    /// Takes those of these operations back that no host has begun, and returns them. The others are done, or under
    /// way.
    async fn withdraw(&self, operations: &[i64]) -> Result<Vec<i64>, StoreError>;

    /// Forgets everything that is kept of a key's failed and waiting events; they are counted as skipped,
    /// and the key is free. Returns how many those were.
    async fn erase(
        &self,
        generation: &Generation,
        key: &[u8],
        ids: &[KeyId],
        asked: &Requester,
    ) -> Result<u64, StoreError>;

    /// Discards dead letters that are older and that no parked event waits behind, and frees their keys: so
    /// many of them as one transaction takes. Returns how many those were.
    async fn expire(
        &self,
        generation: &Generation,
        seconds: i64,
        asked: &Requester,
    ) -> Result<u64, StoreError>;
}

/// So many dead letters expire in one transaction: writers that want their keys or counters wait for it.
pub(super) const EXPIRED_AT_ONCE: i64 = 1_000;

/// So many open operations of a partition are heard of at once: all hosts ask twice a second.
pub(super) const HEARD_AT_ONCE: i64 = 500;

/// How a generation stands, and what operators want of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationControl {
    pub generation: Generation,
    pub role: Role,
    /// The digest of the active component.
    pub active: String,
    /// While that is on trial: the digest of the one before.
    pub on_trial_against: Option<String>,
    /// No host is to run it.
    pub stopped: bool,
    /// Why it is not to write.
    pub paused: Option<String>,
    /// Changes whenever somebody says "go on".
    pub resumes: i64,
    /// Up to where its batches may write at the moment.
    pub barrier: WriteBarrier,
    /// Whether events that had waited are to be tried.
    pub any_ready: bool,
    /// What lanes are to do, in order: the first `HEARD_AT_ONCE` of each partition.
    pub open: Vec<OpenOperation>,
}

/// An operation that is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOperation {
    pub id: i64,
    pub action: DeadLetterAction,
    /// Whoever is granted it, does it.
    pub partition: Partition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterAction {
    /// Projects a dead letter again, and what waits behind it if that goes well.
    Retry,
    /// Drops a dead letter, and projects what waits behind it.
    Discard,
}

impl DeadLetterAction {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        [DeadLetterAction::Retry, DeadLetterAction::Discard]
            .into_iter()
            .find(|action| action.as_str() == word)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            DeadLetterAction::Retry => "retry",
            DeadLetterAction::Discard => "discard",
        }
    }
}

/// The same for each of some dead letters.
#[derive(Debug, Clone)]
pub struct NewOperations {
    pub action: DeadLetterAction,
    pub dead_letters: Vec<i64>,
    pub dry_run: bool,
    pub asked: Requester,
}

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub projection: Option<String>,
    /// Empty: whatever their numbers.
    pub ids: Vec<i64>,
    pub kind: Option<String>,
    pub code: Option<String>,
    pub key: Option<Vec<u8>>,
    /// Whether payloads and headers are wanted.
    pub whole: bool,
    /// Microseconds since 1970: when it died.
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub most: i64,
}

/// A dead letter as it is kept. Bytes that are no UTF-8 are shown as `{"hex": …}`.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterRecord {
    pub id: i64,
    pub projection: String,
    pub generation: i32,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970: the record's own time.
    pub timestamp_ms: Option<i64>,
    #[serde(serialize_with = "bytes_as_json")]
    pub key: Option<Vec<u8>>,
    pub kind: String,
    pub code: String,
    pub detail: String,
    /// What the database said that refused it.
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
    /// Where in the plugin a trap was.
    pub backtrace: Option<String>,
    /// The component that it failed in last.
    pub version: String,
    pub digest: String,
    pub attempts: i32,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub died_at: i64,
    /// Events of its key that wait behind it; `None`: none would.
    pub parked: Option<i64>,
    /// Of the whole of it only, as is the payload.
    #[serde(skip_serializing_if = "no_headers")]
    pub headers: Json,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "bytes_as_json")]
    pub payload: Option<Vec<u8>>,
    /// Absent for a tombstone.
    pub payload_bytes: Option<i64>,
    /// What the value weighs that was left in the log, because it is larger than any may be.
    pub oversize_bytes: Option<i64>,
}

from_row! {
    DeadLetterRecord {
        id, projection, generation, topic, partition, offset, timestamp_ms, key, kind, code, detail,
        table = "db_table", column = "db_column", constraint = "db_constraint", backtrace, version, digest,
        attempts, died_at, parked, headers, payload, payload_bytes, oversize_bytes
    }
}

fn bytes_as_json<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.as_deref().map(as_json).serialize(serializer)
}

fn no_headers(headers: &Json) -> bool {
    headers.as_array().is_none_or(Vec::is_empty)
}

/// An event that was kept: of a topic that the component may no longer read.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub id: i64,
    /// `None`: it cannot be projected, because the component does not read its topic any more.
    pub event: Option<Event>,
    /// Its offset is of the log before the partition was moved to another one, by this operation.
    pub moved_by: Option<i64>,
}

/// What an operation is about.
#[derive(Debug, Clone)]
pub struct ClaimedOperation {
    /// As it is stored: what a lane heard may be old.
    pub action: DeadLetterAction,
    pub dry_run: bool,
    /// The dead letter, and the code that it is counted by. `None`: it is gone.
    pub letter: Option<(StoredEvent, Partition, String)>,
    /// The key that it blocks.
    pub key: Option<KeyId>,
    /// The first of those that wait behind it.
    pub parked: Vec<(StoredEvent, Partition)>,
    /// How many wait in all.
    pub parked_count: i64,
    /// What came of it so far.
    pub so_far: OperationResult,
}

/// What a batch of kept events does to them.
#[derive(Default)]
pub struct Release<'a> {
    /// On whose behalf. `None`: nobody's, events were ready by themselves.
    pub operation: Option<Progress<'a>>,
    /// The dead letter, and how it stands now.
    pub letter: Option<(i64, RetryResult<'a>)>,
    /// Parked events that wait no longer.
    pub settled: Vec<i64>,
    /// Parked events that wait on, otherwise than before.
    pub waits_on: Vec<WaitsOn<'a>>,
    /// How the events are counted now.
    pub shifts: Vec<(Partition, OutcomeCounts)>,
    /// Keys that none of these events blocks any more. If others are parked under one, the first of them is ready;
    /// otherwise the key is free.
    pub frees: Vec<KeyId>,
}

/// How far an operation is.
pub struct Progress<'a> {
    pub operation: i64,
    pub key: Option<KeyId>,
    /// What came of it so far.
    pub verdict: &'a OperationResult,
    pub done: bool,
}

/// A parked event that was tried, and waits on.
pub struct WaitsOn<'a> {
    pub id: i64,
    /// Behind an earlier event of this key; or in this line, for this row.
    pub key: KeyId,
    pub row: Option<&'a AwaitedRow>,
}

pub enum RetryResult<'a> {
    Gone,
    /// It was tried again, and this came of it.
    Failed(&'a Failure),
}

/// A dead letter that no event waits behind, and the operation about it: both are locked until the end of the
/// transaction.
#[derive(Debug, Clone)]
pub struct LoneDeadLetter {
    pub operation: i64,
    pub action: DeadLetterAction,
    pub letter: StoredEvent,
    pub partition: Partition,
    /// The code that it is counted by.
    pub code: String,
    /// The key that it blocks.
    pub key: Option<KeyId>,
}

/// What came of operations about such dead letters.
pub struct LoneResults<'a> {
    pub results: Vec<LoneResult<'a>>,
    /// How the events are counted now.
    pub shifts: Vec<(Partition, OutcomeCounts)>,
}

/// One of them. Where the dead letter is gone, so is its block of the key.
pub struct LoneResult<'a> {
    pub operation: i64,
    pub letter: i64,
    pub key: Option<KeyId>,
    pub fate: RetryResult<'a>,
    pub verdict: OperationResult,
}

/// What came of an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationResult {
    /// What became of the dead letter: `applied`, `ignored`, `discarded`, `gone`, or the kind of failure
    /// that it failed with again.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of those that waited behind it.
    pub applied: i64,
    pub ignored: i64,
    /// Of those, how many wait still, behind this one or the one that failed in its turn.
    pub waiting: i64,
    /// The dead letter that those wait behind now, or the event that waits for a row, by its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Of a dry run: the changes that it would have made, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Json>,
}

impl OperationResult {
    pub fn of(outcome: &str) -> Self {
        Self { outcome: outcome.to_owned(), ..Self::default() }
    }

    pub fn failed(failure: &Failure) -> Self {
        let (code, detail) = (Some(failure.code.clone()), Some(failure.detail.clone()));
        Self { code, detail, ..Self::of(failure.kind.as_str()) }
    }

    /// Whether the dead letter is one no more.
    pub fn is_settled(&self) -> bool {
        matches!(self.outcome.as_str(), "applied" | "ignored" | "discarded" | "gone")
    }
}

/// Where a checkpoint was, and is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub from: i64,
    pub to: i64,
}

impl Skipped {
    /// Whether a checkpoint may be moved so: never back, never nowhere.
    pub(super) fn over(partition: &Partition, from: Option<i64>, to: i64) -> Result<Self, Refusal> {
        match from {
            None => Err(Refusal::NoCheckpoint(partition.clone())),
            Some(from) if from >= to => Err(Refusal::NotAhead { partition: partition.clone(), from, to }),
            Some(from) => Ok(Self { from, to }),
        }
    }
}

/// Action, dry run, dead letter, key and verdict so far of an operation.
pub(super) type OperationRow = (String, bool, Option<i64>, Option<Vec<u8>>, Option<String>);

/// Topic, partition, how an event was counted, and by what code.
pub(super) type GoneRow = (String, i32, String, String);

/// How events that are gone for good are counted now.
pub(super) fn skipped(gone: &[GoneRow], code: &str) -> Vec<(Partition, OutcomeCounts)> {
    let mut shifts: BTreeMap<Partition, OutcomeCounts> = BTreeMap::new();
    for (topic, number, was, of) in gone {
        let books = shifts.entry(Partition::new(topic.as_str(), *number)).or_default();
        match was.as_str() {
            "parked" => books.parked -= 1,
            "waiting" => books.waiting -= 1,
            _ => add(&mut books.dead, of, -1),
        }
        add(&mut books.skipped, code, 1);
    }
    shifts.into_iter().collect()
}

/// Something that was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    pub id: i64,
    pub projection: String,
    /// `None`: it was about all of the projection's.
    pub generation: Option<i32>,
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    pub dry_run: bool,
    pub reason: Option<String>,
    pub asked_by: String,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub asked_at: i64,
    #[serde(serialize_with = "projector_core::instant::option::serialize")]
    pub done_at: Option<i64>,
    pub verdict: Option<Json>,
}

from_row! {
    Operation {
        id, projection, generation, action, dead_letter = "dead_letter_id", topic, partition, dry_run, reason,
        asked_by, asked_at, done_at, verdict
    }
}

/// What came of operations that are done, by their numbers. What was erased with its event is gone.
pub(super) fn verdicts(done: Vec<(i64, Option<String>)>) -> BTreeMap<i64, OperationResult> {
    let read = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
    done.into_iter()
        .map(|(id, verdict)| (id, read(verdict).unwrap_or_else(|| OperationResult::of("gone"))))
        .collect()
}

/// What came of an operation whose generation is removed before it was done.
pub(super) fn gone() -> String {
    serde_json::to_string(&OperationResult::of("gone")).expect("a verdict is plain data")
}

/// A kept event, and the code that it is counted by.
pub(super) struct DeadLetterRow {
    pub(super) kept: StoredEventRow,
    pub(super) code: String,
}

from_row! { DeadLetterRow { ..kept, code } }

/// What a stored row says of an event.
pub(super) struct StoredEventRow {
    pub(super) id: i64,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) oversize_bytes: Option<i64>,
    pub(super) moved_by: i64,
    pub(super) topic_name: Option<String>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) headers: String,
}

from_row! {
    StoredEventRow {
        id, topic, partition, offset, timestamp_ms, oversize_bytes, moved_by, topic_name, key, payload, headers
    }
}

impl StoredEventRow {
    /// The event as it was, and its partition. `topics`: those that the component reads.
    pub(super) fn kept(self, topics: &TopicMapping) -> (StoredEvent, Partition) {
        let partition = Partition::new(self.topic.as_str(), self.partition);
        let headers: Vec<Header> =
            serde_json::from_str(&self.headers).map(|json| Event::headers_from(&json)).unwrap_or_default();
        let topic_name = self.topic_name.map_or_else(|| partition.topic.clone(), Into::into);
        let mut places = topics.places(&topic_name).into_iter();
        let event = places.next().map(|first| Event {
            position: Position { partition: partition.clone(), offset: self.offset },
            topic: first,
            also: places.collect(),
            topic_name,
            timestamp_ms: self.timestamp_ms,
            key: self.key,
            value: self.payload,
            oversize_bytes: self.oversize_bytes.and_then(|bytes| bytes.try_into().ok()),
            headers,
        });
        let moved_by = Some(self.moved_by).filter(|operation| *operation > 0);
        (StoredEvent { id: self.id, event, moved_by }, partition)
    }
}
