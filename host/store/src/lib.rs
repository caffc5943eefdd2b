//! The read-model database: rows and checkpoints, moved together or not at all.
//!
//! Two stores keep one promise. Postgres writes a batch as few set-wise statements; SQLite lets
//! the model's own interpreter write. Whatever one refuses, the other refuses as well.

#[macro_use]
mod row;

pub mod beginnings;
mod compare;
pub mod deployments;
pub mod diff;
mod error;
pub mod event_ids;
mod fault;
mod finding;
pub mod foreign;
mod host_tables;
pub mod identity;
pub mod migrations;
pub mod moves;
mod names;
pub mod operator;
mod overview;
pub mod postgres;
mod requester;
pub mod retention;
pub mod schema;
pub mod source_topics;
pub mod sqlite;
pub mod waits;
mod write_barrier;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use projector_core::counters::{Counters, OutcomeCounts};
use projector_core::generation::{Generation, Role};
use projector_model::interpret::Row;
use projector_model::{Change, Contract, LookupCall};
use serde::Serialize;
use uuid::Uuid;

use beginnings::Beginnings;
use deployments::{DeploymentStore, GenerationStore};
use diff::Snapshot;
pub use error::StoreError;
use event_ids::EventIds;
pub use fault::{Outage, Setup};
use projector_config as config;
use projector_core::awaited::{AwaitedRow, RowId};
use projector_core::batch::BatchLimits;
use projector_core::checkpoint::Checkpoint;
use projector_core::duplicate::{Duplicate, EventId, Known, Remembered};
use projector_core::event::{Event, Partition, Position};
use projector_core::event_failure::Failure;
use projector_core::failure::Blocker;
use projector_core::ordering::{Blocked, KeyId};
use projector_core::topics::TopicMapping;
pub use write_barrier::WriteBarrier;

use identity::Identities;
use moves::Moves;
use operator::{ClaimedOperation, ControlStore, DeadLetterStore, LoneDeadLetter, LoneResults, Release};
use overview::StatusStore;
use retention::Retention;
use schema::Schema;
use source_topics::SourceTopics;
use waits::{ReadyEvent, Waits};

/// A database that holds read models, and the host's own tables beside them.
///
/// Every method may be tried again after [`StoreError::Unavailable`].
#[async_trait]
pub trait Store:
    ControlStore
    + DeadLetterStore
    + DeploymentStore
    + GenerationStore
    + StatusStore
    + Beginnings
    + EventIds
    + Identities
    + Moves
    + SourceTopics
    + Retention
    + Waits
{
    /// The identity that was created with this store.
    fn id(&self) -> Uuid;

    /// The host's own tables there, as they were when it was opened.
    fn schema(&self) -> &Schema;

    /// How many transactions it can have in flight.
    fn writers(&self) -> usize;

    /// Changes whenever the database answers anything. `None`: it is in this process, and cannot fall silent.
    fn heard(&self) -> Option<u64>;

    /// The checkpoints of these partitions, in the order asked; `None` where there is none yet.
    async fn checkpoints(
        &self,
        generation: &Generation,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Checkpoint>>, StoreError>;

    /// Whether a generation has come to the end of its topics once; if not, who is to bring it there:
    /// everybody, or one host `alone`, the first that asks, until it lets go or is gone. Alone it goes on as long as
    /// the generation is built beside a live one.
    async fn catch_up(&self, generation: &Generation, alone: bool) -> Result<CatchUp, StoreError>;

    /// A generation has come to the end of its topics.
    async fn set_caught_up(&self, generation: &Generation) -> Result<(), StoreError>;

    /// Has the database look anew at what the generation's tables hold, and the host's own, so that it plans
    /// statements for what is in them now.
    async fn analyze(&self, generation: &Generation) -> Result<(), StoreError>;

    /// Begins the transaction of one batch: checks that `digest` is the active one, that no operator
    /// paused the projection and that nobody holds it, and keeps it so until the end; then, where the contract needs one writer,
    /// waits to be that one.
    async fn begin(&self, deployment: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError>;

    /// Begins a transaction to look at rows with a component that is not the active one. What it writes is
    /// never to be committed.
    async fn begin_read_only(&self, deployment: &WriteTarget) -> Result<Box<dyn Transaction>, StoreError>;

    /// Counts a transaction of the generation that the database ended because of a deadlock.
    async fn count_deadlock(&self, generation: &Generation) -> Result<(), StoreError>;

    /// Whose lock a transaction waited for in vain a moment ago, if the database can tell.
    async fn lock_holder(&self, generation: &Generation) -> Option<LockHolder>;

    /// The store as it is committed now, to read checkpoints and compare generations in, on a connection of
    /// its own: neither waits for the other's work.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Gives connections and locks back.
    async fn close(&self);
}

/// The transaction of one batch. Dropped, it leaves nothing behind.
#[async_trait]
pub trait Transaction: Send {
    /// The stored rows that each call finds, calls in the order asked. A call by the key finds the whole
    /// row, its tombstone as well: what later changes do to it depends on that. One by other columns finds
    /// rows that are there, in the order of the key, of each the columns that the lookup returns. What this
    /// sees stays as it is until the end of the transaction.
    ///
    /// All rows together weigh no more than `most_bytes`: of each lookup the first calls are answered, as many
    /// as there is room for. `None`: this one is not.
    async fn read(
        &mut self,
        calls: &[LookupCall],
        most_bytes: usize,
    ) -> Result<Vec<Option<Vec<Row>>>, StoreError>;

    /// Which of these ids were handled before.
    async fn known(&mut self, ids: &[EventId]) -> Result<Known, StoreError>;

    /// Whether any key of the projection is blocked, as it was found at the beginning.
    fn blocks_any(&self) -> bool;

    /// Which of these keys an event failed of. They stay so until the end of the transaction.
    async fn blocked(&mut self, keys: Vec<KeyId>) -> Result<Blocked, StoreError>;

    /// How many dead letters the projection has, and how many events wait, behind those or for rows.
    async fn waiting(&mut self) -> Result<(i64, i64), StoreError>;

    /// What an operation is about, locked until the end of the transaction: the dead letter, and the
    /// first of those that wait behind it. `None`: it was done or withdrawn meanwhile.
    async fn take(
        &mut self,
        operation: i64,
        limits: BatchLimits,
    ) -> Result<Option<ClaimedOperation>, StoreError>;

    /// The dead letters of those of these operations that are about one that no event waits behind, as many as a
    /// batch takes. What is somebody else's, a dry run or under way is left out.
    async fn take_lone_letters(
        &mut self,
        operations: &[i64],
        limits: BatchLimits,
    ) -> Result<Vec<LoneDeadLetter>, StoreError>;

    /// Events that had waited and are to be tried, because their row came, their time is over, or the one before them
    /// is done, each with what is parked behind it: the first of them all, as many as a batch takes, in order. They
    /// are locked until the end of the transaction.
    async fn take_ready(&mut self, limits: BatchLimits) -> Result<Vec<ReadyEvent>, StoreError>;

    /// Whether [`write`](Self::write) made events that had waited ready to be tried.
    fn made_ready(&self) -> bool;

    /// Moves the checkpoints, writes the rows, the dead letters and the counters. Returns how many
    /// set-wise statements wrote the rows.
    async fn write(&mut self, writes: &Writes<'_>) -> Result<u64, StoreError>;

    /// `Ok`: all of it is durable. An error: none of it is, except after [`StoreError::Unavailable`], when
    /// the outcome may be unknown: the checkpoints tell.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// What is written under: a generation and the plugin that writes.
#[derive(Clone)]
pub struct WriteTarget {
    pub generation: Generation,
    pub digest: Arc<str>,
    pub contract: Arc<Contract>,
    /// What its topics are in the log.
    pub topics: TopicMapping,
}

pub struct Component<'a> {
    pub digest: &'a str,
    pub bytes: &'a [u8],
    pub contract: &'a Contract,
    /// Its signature, as it stood beside the file.
    pub signature: Option<&'a str>,
}

/// What became of a component that was activated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub generation: Generation,
    /// What that is to readers.
    pub role: Role,
    pub active: String,
}

/// See [`Store::catch_up`].
pub enum CatchUp {
    Done,
    Ours(CatchingUp),
    /// Another host does it.
    Theirs(Progress),
}

/// How far a host that catches up alone has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The database's session that it holds.
    pub session: i32,
    /// The sum of the checkpoints.
    pub offsets: i64,
    pub caught_up: bool,
    /// The sum of the checkpoints of the projection's other generations.
    pub offsets_of_others: i64,
}

impl Progress {
    /// Whether the host did something since then, or had nothing to do: a generation that is caught up moves when
    /// those beside it do.
    pub fn is_getting_on_since(&self, before: &Progress) -> bool {
        let is_idle = self.caught_up && self.offsets_of_others == before.offsets_of_others;
        is_idle || (self.session, self.offsets) != (before.session, before.offsets)
    }
}

/// A generation is caught up by this host. If alone, no other one is told to as long as this lives
/// and its session with the database does.
pub struct CatchingUp {
    lock: Option<postgres::CatchUpLock>,
}

impl CatchingUp {
    /// Beside a host that has the lock, and gets nowhere.
    pub fn beside_others() -> Self {
        Self { lock: None }
    }

    /// Whether it is still this host's: the database may have been restarted.
    pub async fn is_held(&self) -> bool {
        match &self.lock {
            Some(lock) => lock.is_held().await,
            None => true,
        }
    }
}

/// A session of the database that holds a lock for longer than the host waits for one.
#[derive(Debug, Clone, PartialEq)]
pub struct LockHolder {
    /// As the database numbers it: in Postgres, its process id.
    pub session: i32,
    pub application: String,
    /// Its last statement.
    pub query: String,
    /// For how long its transaction has been open.
    pub seconds: f64,
}

/// Everything that one batch moves.
#[derive(Default)]
pub struct Writes<'a> {
    pub advances: Vec<Advance>,
    /// Where each of the batch's events stands in the log, by its place in the batch.
    pub positions: Vec<&'a Position>,
    /// The batch's events that led to changes, in order: `(place in the batch, changes)`.
    pub changes: Vec<(usize, &'a [Change])>,
    pub dead: Vec<DeadLetter<'a>>,
    /// In order.
    pub parked: Vec<Parked<'a>>,
    /// Rows that are written by their keys, of tables whose rows are waited for, each with the time of the first event
    /// that does so, in milliseconds since 1970. Left out where nothing waits.
    pub rows: BTreeMap<RowId, i64>,
    /// Ids of events, none of which was [known](Transaction::known).
    pub ids: Vec<Remembered>,
    /// The record time of each partition's last event, in microseconds since 1970, where ids are remembered.
    pub record_times: BTreeMap<Partition, i64>,
    /// Its events that are ignored as duplicates, as far as they are recorded.
    pub duplicates: Vec<Duplicate<'a>>,
    /// Events without an id, of topics that declare one.
    pub without_id: BTreeMap<Partition, i64>,
    /// The batch is of events that had waited, and not of the log: nothing advances.
    pub release: Option<Release<'a>>,
    /// The batch is of dead letters that no event waits behind: nothing advances.
    pub lone: Option<LoneResults<'a>>,
}

impl Writes<'_> {
    /// Whether all of it stays within a hold. What waits is not let go meanwhile: it would change rows that
    /// are compared.
    fn within(&self, barrier: &WriteBarrier) -> Result<(), StoreError> {
        let is_within = match barrier {
            WriteBarrier::Open => true,
            WriteBarrier::Closed => false,
            WriteBarrier::UpTo(at) => {
                let beyond =
                    |advance: &Advance| at.get(&advance.partition).is_none_or(|at| advance.next > *at);
                self.shifts().is_none() && !self.advances.iter().any(beyond)
            }
        };
        if is_within { Ok(()) } else { Err(StoreError::WriteBarrier(barrier.clone())) }
    }

    /// How events are counted anew, where the batch is of events that were kept.
    fn shifts(&self) -> Option<&[(Partition, OutcomeCounts)]> {
        let release = self.release.as_ref().map(|release| &release.shifts[..]);
        release.or(self.lone.as_ref().map(|lone| &lone.shifts[..]))
    }
}

/// How one partition's checkpoint moves, and what became of the events in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    pub partition: Partition,
    /// Where the checkpoint must be.
    pub expected: i64,
    pub next: i64,
    pub books: OutcomeCounts,
}

/// An event that could not be projected, and why.
pub struct DeadLetter<'a> {
    pub event: &'a Event,
    pub failure: &'a Failure,
    /// The key whose later events wait behind it.
    pub blocks: Option<KeyId>,
    /// Of one that had waited: the operation that moved its partition to another log meanwhile.
    pub moved_by: Option<i64>,
}

/// An event that waits: behind an earlier one of its key, or for a row.
pub struct Parked<'a> {
    pub event: &'a Event,
    /// The key of that one; or the line that is blocked by this one.
    pub key: KeyId,
    pub row: Option<&'a AwaitedRow>,
}

/// A projection as `status` shows it: only what is committed.
#[derive(Debug, Clone, Serialize)]
pub struct Projection {
    pub name: String,
    pub generation: i32,
    pub role: Role,
    /// Microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub created_at: i64,
    /// Since one of its checkpoints moved, or since it was made.
    #[serde(skip)]
    pub idle_seconds: i64,
    pub version: String,
    pub digest: String,
    /// Why it stands still, if it does.
    pub halted: Option<Blocker>,
    /// The last time that the plugin answered otherwise to the same event than it had.
    pub impure: Option<String>,
    /// Transactions that the database ended because of a deadlock, each of which was done again.
    pub deadlocks: i64,
    /// The partitions that existed when it began to read; `None`: it has not begun.
    #[serde(skip)]
    pub began_with: Option<BTreeSet<Partition>>,
    /// Some of the events that wait for rows: those whose time is over first.
    pub waits: Vec<WaitingEvent>,
    pub partitions: Vec<PartitionState>,
    pub statements: BTreeMap<String, StatementCount>,
    pub dead_letters: i64,
    /// The time of the oldest event that is a dead letter, or waits behind one: milliseconds since 1970.
    pub oldest_missing: Option<i64>,
    /// Events without an id, of topics that declare one.
    pub without_id: i64,
    /// The descriptor of the active component.
    #[serde(skip)]
    pub descriptor: String,
}

impl Projection {
    /// Whether this is about that generation.
    pub fn is(&self, generation: &Generation) -> bool {
        self.name == generation.projection && self.generation == generation.number
    }
}

/// An event that waits for a row.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingEvent {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// The row, in words.
    pub row: String,
    /// Until when, in the time of the events: microseconds since 1970.
    #[serde(serialize_with = "projector_core::instant::serialize")]
    pub until: i64,
}

from_row! { WaitingEvent { topic, partition, offset, row = "awaited", until = "until_micros" } }

#[derive(Debug, Clone, Serialize)]
pub struct PartitionState {
    pub topic: String,
    pub partition: i32,
    pub checkpoint: i64,
    /// The first offset that was read, and how many the log held before it then.
    pub start: i64,
    pub before_start: i64,
    pub counters: Counters,
    pub ignored_by_code: BTreeMap<String, i64>,
    pub dead_by_code: BTreeMap<String, i64>,
    pub skipped_by_code: BTreeMap<String, i64>,
    /// Why it is not read, if it is not.
    pub paused: Option<Blocker>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StatementCount {
    /// Changes that the plugin asked for.
    pub changes: i64,
    /// Rows that they touched.
    pub rows: i64,
}

/// What a store is kept in.
enum Database {
    Postgres,
    Sqlite,
}

/// By the scheme of its URL.
fn database(settings: &config::Store) -> Result<Database, StoreError> {
    match settings.url.split_once("://").map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Database::Postgres),
        Some("sqlite") => Ok(Database::Sqlite),
        _ => Err(StoreError::Setup(Setup::new(
            "the store's url has another scheme",
            "it begins with postgres:// or sqlite://",
        ))),
    }
}

/// Opens a store, and brings the host's own tables up to date: for a host, and for `projector migrate`.
pub async fn open(settings: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    match database(settings)? {
        Database::Postgres => Ok(Arc::new(postgres::Postgres::open(settings).await?)),
        Database::Sqlite if settings.password.is_some() => Err(StoreError::Setup(Setup::new(
            "the store has a password, and is a SQLite file",
            "leave `password` out",
        ))),
        Database::Sqlite => Ok(Arc::new(sqlite::Sqlite::open(settings).await?)),
    }
}

/// Connects to a store's database, and closes the connection. It changes nothing there. Of a SQLite file
/// nothing is asked.
pub async fn check_login(settings: &config::Store) -> Result<(), StoreError> {
    match database(settings) {
        Ok(Database::Postgres) => postgres::check_login(settings).await,
        _ => Ok(()),
    }
}

/// Opens a store to look at it, beside a host that uses it. It changes nothing.
pub async fn open_to_read(settings: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    opened(open_as_it_is(settings, true).await?)
}

/// Opens a store to ask for something, beside a host that uses it. The host's own tables stay as they are.
pub async fn open_to_operate(settings: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    opened(open_as_it_is(settings, false).await?)
}

/// Opens a store to look at it. `None`: no host has ever run on it.
pub async fn open_if_used(settings: &config::Store) -> Result<(Schema, Option<Arc<dyn Store>>), StoreError> {
    open_as_it_is(settings, true).await
}

/// A store without projections, which is kept nowhere.
pub async fn empty() -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(sqlite::Sqlite::empty().await?))
}

/// What a store's database has of the host's own tables. It changes nothing.
pub async fn look_at_schema(settings: &config::Store) -> Result<Schema, StoreError> {
    match database(settings)? {
        Database::Postgres => postgres::look_at_schema(settings).await,
        Database::Sqlite => sqlite::look_at_schema(settings).await,
    }
}

fn opened((schema, store): (Schema, Option<Arc<dyn Store>>)) -> Result<Arc<dyn Store>, StoreError> {
    match store {
        Some(store) => Ok(store),
        None => Err(schema.unused()),
    }
}

async fn open_as_it_is(
    settings: &config::Store,
    read_only: bool,
) -> Result<(Schema, Option<Arc<dyn Store>>), StoreError> {
    match database(settings)? {
        Database::Sqlite => {
            let (schema, store) = sqlite::Sqlite::open_as_it_is(settings, read_only).await?;
            Ok((schema, store.map(|store| Arc::new(store) as Arc<dyn Store>)))
        }
        Database::Postgres => {
            let (schema, store) = postgres::Postgres::open_as_it_is(settings).await?;
            Ok((schema, store.map(|store| Arc::new(store) as Arc<dyn Store>)))
        }
    }
}
