//! The position at which each partition is read, and the checkpoints of the partitions.
//!
//! An assigned partition is *open* until its position is known: its checkpoint in the store, compared with the log that
//! Kafka has now. A task in the background asks the store and the brokers, so a slow answer does not delay partitions
//! that are being read.
//!
//! Invariants:
//!
//! - A partition is read only from its checkpoint, and only if its log is the one that the checkpoint belongs to.
//! - If the position cannot be found out now, the partition stays open, and is tried again after a backoff.

mod first_checkpoints;
mod unread;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use projector_core::batch::Delivery;
use projector_core::checkpoint::{Checkpoint, Identity, Start, start};
use projector_core::event::Partition;
use projector_core::failure::{Blocker, FailureKind, panic_text};
use projector_core::generation::Generation;
use projector_kafka::{Inspected, KafkaAdmin, KafkaFault, LogError, Source, Span};
use projector_store::{Advance, Store, StoreError};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::retry::{Backoff, Retries};
use crate::start_offsets::{NotInLog, Starts};
use first_checkpoints::FirstCheckpoints;
use unread::Unread;

pub(super) struct Positions {
    generation: Generation,
    store: Arc<dyn Store>,
    log: KafkaAdmin,
    /// Decides the first checkpoints of partitions that have none.
    first_checkpoints: FirstCheckpoints,
    /// The checkpoint of each partition that is read, as last committed or loaded.
    checkpoints: HashMap<Partition, i64>,
    /// The identity that each topic had when it was last compared with a checkpoint.
    identities: HashMap<Arc<str>, Identity>,
    /// Partitions that are assigned and not read yet.
    open: BTreeSet<Partition>,
    inquiry: Inquiry,
    /// When to ask about the open partitions again.
    try_again: Option<Instant>,
    /// Since when no broker responds, and why.
    unanswered: Option<(Instant, Blocker)>,
    /// The delays between failed attempts to find out positions.
    backoff: Backoff,
    unread: Unread,
}

#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    NotInLog(NotInLog),
    #[error("the task that reads the start positions panicked: {0}")]
    Crashed(String),
}

impl From<NotInLog> for Unknown {
    fn from(problem: NotInLog) -> Self {
        Self::NotInLog(problem)
    }
}

/// The request to the store and the brokers about the open partitions.
#[derive(Default)]
enum Inquiry {
    #[default]
    None,
    Asked(JoinHandle<Result<Vec<Found>, Unknown>>),
    Answered(Result<Vec<Found>, Unknown>),
}

/// A partition as the store and the brokers know it.
struct Found {
    partition: Partition,
    checkpoint: Option<Checkpoint>,
    log: Inspected,
}

/// What is left to do after the answer to an inquiry.
struct Begun {
    /// Partitions whose log is not known now, and why.
    unknown: Vec<(Partition, KafkaFault)>,
    /// Whether to inquire again at once.
    again: bool,
}

fn crash_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic_text(&*panic),
        Err(error) => error.to_string(),
    }
}

impl Unknown {
    fn kind(&self) -> FailureKind {
        match self {
            Unknown::Store(error) => error.kind(),
            Unknown::Log(error) => error.kind(),
            Unknown::Crashed(_) => FailureKind::Crash,
            Unknown::NotInLog(_) => FailureKind::Start,
        }
    }
}

impl Positions {
    pub(super) fn new(
        generation: Generation,
        store: Arc<dyn Store>,
        log: KafkaAdmin,
        starts: Starts,
        retries: &Retries,
    ) -> Self {
        Self {
            backoff: Backoff::new(&generation.projection, retries),
            unread: Unread::new(&generation.projection, retries),
            first_checkpoints: FirstCheckpoints::new(generation.clone(), store.clone(), log.clone(), starts),
            generation,
            store,
            log,
            checkpoints: HashMap::new(),
            identities: HashMap::new(),
            open: BTreeSet::new(),
            inquiry: Inquiry::None,
            try_again: None,
            unanswered: None,
        }
    }

    pub(super) fn log(&self) -> &KafkaAdmin {
        &self.log
    }

    /// Opens partitions: their positions are found out before they are read.
    pub(super) fn open(&mut self, partitions: Vec<Partition>) {
        self.open.extend(partitions);
        self.try_again = None;
        // Drop an inquiry that is under way. Its checkpoints may have been read before the assignment, when the previous
        // owner could still move them.
        self.inquiry = Inquiry::None;
    }

    /// Drops what is known about a partition that is not read any more.
    pub(super) fn forget(&mut self, partition: &Partition) {
        self.checkpoints.remove(partition);
        self.open.remove(partition);
    }

    /// When the next retry is due. `None`: no retry is planned.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.try_again
    }

    /// The fault, if no broker has responded for longer than `patience`.
    pub(super) fn unanswered_for(&self, patience: Duration) -> Option<Blocker> {
        let (since, blocker) = self.unanswered.as_ref()?;
        (since.elapsed() > patience).then(|| blocker.clone())
    }

    /// Records since when no broker responds. Any other result of an inquiry shows that a broker has responded.
    fn record_unanswered(&mut self, fault: Option<&KafkaFault>) {
        let everywhere = fault.filter(|fault| fault.is_everywhere());
        self.unanswered = everywhere.map(|fault| {
            let since = self.unanswered.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            (since, Blocker::new(fault.kind(), fault))
        });
    }

    /// Waits for the answer to the inquiry. [`start_reading`](Self::start_reading) then uses the answer. Cancel safe.
    pub(super) async fn answered(&mut self) {
        match &mut self.inquiry {
            Inquiry::Asked(asking) => {
                let answer = asking.await.unwrap_or_else(|error| Err(Unknown::Crashed(crash_text(error))));
                self.inquiry = Inquiry::Answered(answer);
            }
            Inquiry::None | Inquiry::Answered(_) => std::future::pending().await,
        }
    }

    /// Starts to read the partitions whose position is known now, and inquires about the others.
    pub(super) async fn start_reading(&mut self, source: &Source) {
        if self.open.is_empty() {
            self.try_again = None;
            self.inquiry = Inquiry::None;
            self.backoff.succeeded();
            self.unread.show(Vec::new());
            self.unanswered = None;
            return;
        }
        if let Inquiry::Asked(asking) = &self.inquiry
            && asking.is_finished()
        {
            self.answered().await;
        }
        let answer = match std::mem::take(&mut self.inquiry) {
            Inquiry::Answered(answer) => answer,
            Inquiry::None if self.try_again.is_none_or(|at| at <= Instant::now()) => {
                self.try_again = None;
                self.inquiry = self.inquire();
                return;
            }
            waiting => {
                self.inquiry = waiting;
                return;
            }
        };
        let begun = match answer {
            Ok(found) => self.begin(found, source).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(Begun { unknown, again }) => {
                let all_known = unknown.is_empty();
                self.record_unanswered(unknown.first().map(|(_, fault)| fault));
                self.unread.show(unknown);
                if again {
                    self.inquiry = self.inquire();
                } else if all_known {
                    self.backoff.succeeded();
                } else {
                    self.try_again = Some(Instant::now() + self.backoff.delay());
                }
            }
            Err(error) => {
                self.record_unanswered(match &error {
                    Unknown::Log(LogError::Fault(fault)) => Some(fault),
                    _ => None,
                });
                self.backoff.failed(error.kind(), &error);
                self.try_again = Some(Instant::now() + self.backoff.delay());
            }
        }
    }

    /// Inquires about all open partitions. The checkpoints are read before the ends of the logs: in the other order, a
    /// checkpoint could be beyond the end of its log, and the log would look like another one.
    fn inquire(&self) -> Inquiry {
        let (store, log, generation) = (self.store.clone(), self.log.clone(), self.generation.clone());
        let partitions: Vec<Partition> = self.open.iter().cloned().collect();
        Inquiry::Asked(tokio::spawn(async move {
            let checkpoints = store.checkpoints(&generation, &partitions).await?;
            let logs = log.inspect_each(partitions.clone()).await?;
            let found = partitions.into_iter().zip(checkpoints).zip(logs);
            Ok(found.map(|((partition, checkpoint), log)| Found { partition, checkpoint, log }).collect())
        }))
    }

    /// Starts to read the partitions that can be read. The others stay open. If a first checkpoint was stored just now,
    /// nothing is read yet, and the inquiry is repeated: another host may have stored another one before.
    async fn begin(&mut self, found: Vec<Found>, source: &Source) -> Result<Begun, Unknown> {
        let (mut known, mut unknown, mut begun) = (Vec::new(), Vec::new(), false);
        for Found { partition, checkpoint, log } in found {
            // The partition was revoked meanwhile.
            if !self.open.contains(&partition) {
                continue;
            }
            match log {
                Err(fault) if checkpoint.is_some() => unknown.push((partition, fault.of_topic_read_before())),
                Err(fault) => unknown.push((partition, fault)),
                Ok((marks, identity)) => {
                    let start = start(checkpoint.as_ref(), marks, &identity);
                    if let Start::Beginning(_) = start {
                        match self.first_checkpoints.store(&partition, marks, &identity).await {
                            Ok(()) => begun = true,
                            Err(Unknown::NotInLog(problem)) => self.refuse_start(&partition, &problem),
                            // A fault of one partition: read the others.
                            Err(Unknown::Log(LogError::Fault(fault))) if !fault.is_everywhere() => {
                                unknown.push((partition, fault));
                                continue;
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    known.push((partition, start, marks, identity));
                }
            }
        }
        if begun {
            return Ok(Begun { unknown, again: true });
        }
        // Start all of them in one call: partitions that are merged by time must start together.
        let mut spans = Vec::new();
        for (partition, start, marks, identity) in known {
            match start {
                Start::Beginning(_) => continue,
                Start::Resume(offset) => {
                    self.store.set_paused(&self.generation, &partition, None).await?;
                    self.identities.insert(partition.topic.clone(), identity);
                    spans.push(Span { partition, from: offset, end: marks.high });
                }
                Start::Mismatch(mismatch) => {
                    let blocker = Blocker::new(FailureKind::Log, mismatch);
                    self.store.set_paused(&self.generation, &partition, Some(&blocker)).await?;
                    let projection = &self.generation.projection;
                    let Blocker { reason, kind } = blocker;
                    tracing::error!(
                        projection, %partition, reason, advice = kind.advice(),
                        "partition paused: its log is not the one that the checkpoint belongs to"
                    );
                    self.open.remove(&partition);
                }
            }
        }
        for span in &spans {
            self.open.remove(&span.partition);
            self.checkpoints.insert(span.partition.clone(), span.from);
        }
        source.read(spans);
        Ok(Begun { unknown, again: false })
    }

    /// The configured start of a partition is not in its log: the partition is not read until an operator corrects the
    /// configuration.
    fn refuse_start(&mut self, partition: &Partition, problem: &NotInLog) {
        let projection = &self.generation.projection;
        let (reason, advice) = (problem.to_string(), FailureKind::Start.advice());
        tracing::error!(projection, %partition, reason, advice, "partition is not read: its configured start is not in its log");
        self.open.remove(partition);
    }

    /// The partitions of a batch whose topic was, or may have been, deleted and created again since reading started.
    ///
    /// The Kafka client does not detect this: if the new topic is long enough, it reads on at the old offset. A topic
    /// id is never used twice. So if a topic has the expected id now, after the events were read, it also had this id
    /// when they were read.
    pub(super) async fn recreated(&self, deliveries: &[Delivery]) -> Result<Vec<Partition>, LogError> {
        let partitions: BTreeSet<&Partition> =
            deliveries.iter().map(|delivery| &delivery.event.position.partition).collect();
        let mut topics: Vec<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
        topics.dedup();
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.log.identities_each(topics).await?;
        let is_recreated = |partition: &&Partition| {
            let known = self.identities.get(&partition.topic);
            known.zip(found.get(&*partition.topic)).is_some_and(|(known, found)| match found {
                Ok(found) => known.differs_from(found),
                // The id is unknown, for example because the topic was deleted: do not write its events.
                Err(_) => true,
            })
        };
        Ok(partitions.into_iter().filter(is_recreated).cloned().collect())
    }

    /// The checkpoint of a partition, as this lane knows it. Every partition with events in a batch has one.
    pub(super) fn checkpoint(&self, partition: &Partition) -> i64 {
        self.checkpoints.get(partition).copied().unwrap_or(-1)
    }

    /// Records how a commit has moved the checkpoints.
    pub(super) fn committed(&mut self, advances: &[Advance]) {
        for advance in advances {
            if let Some(checkpoint) = self.checkpoints.get_mut(&advance.partition) {
                *checkpoint = advance.next;
            }
        }
    }
}
