//! Where each partition is read, and how far its checkpoint moves with a batch.
//!
//! A granted partition is *open* until its position is known: its checkpoint in the store, and the log that Kafka has
//! now. Store and brokers are asked in the background, so one that is slow to respond delays no other partition.
//!
//! Invariants:
//!
//! - A partition is read only from its checkpoint, and only if its log is the one that the checkpoint belongs to.
//! - If the position cannot be found out now, the partition stays open, and is asked about again after a backoff.

mod beginnings;
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

use crate::beginning::{NotInLog, Starts};
use crate::retry::{Backoff, Retries};
use beginnings::Beginnings;
use unread::Unread;

pub(super) struct Positions {
    generation: Generation,
    store: Arc<dyn Store>,
    log: KafkaAdmin,
    /// Where partitions without a checkpoint start.
    beginnings: Beginnings,
    /// The checkpoint of each partition that is read, as last committed or loaded.
    checkpoints: HashMap<Partition, i64>,
    /// The identity that each topic had when it was last compared with a checkpoint.
    identities: HashMap<Arc<str>, Identity>,
    /// Partitions that are granted and not read yet.
    open: BTreeSet<Partition>,
    inquiry: Inquiry,
    try_again: Option<Instant>,
    /// Since when no broker responds, and why.
    unanswered: Option<(Instant, Blocker)>,
    /// How long to wait before the open partitions are asked about again.
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

/// The question about the open partitions.
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

/// What followed from an inquiry.
struct Begun {
    /// Partitions whose log is not known now, and why.
    unknown: Vec<(Partition, KafkaFault)>,
    /// Whether to ask again at once.
    again: bool,
}

fn crash(error: JoinError) -> String {
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
            beginnings: Beginnings::new(generation.clone(), store.clone(), log.clone(), starts),
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

    pub(super) fn ask(&mut self, partitions: Vec<Partition>) {
        self.open.extend(partitions);
        self.try_again = None;
        // The answer to an earlier question may be older than the grant: ask again.
        self.inquiry = Inquiry::None;
    }

    pub(super) fn forget(&mut self, partition: &Partition) {
        self.checkpoints.remove(partition);
        self.open.remove(partition);
    }

    /// When to ask again. `None`: no retry is planned.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.try_again
    }

    /// Why no broker has responded for longer than this.
    pub(super) fn unanswered_for(&self, patience: Duration) -> Option<Blocker> {
        let (since, trouble) = self.unanswered.as_ref()?;
        (since.elapsed() > patience).then(|| trouble.clone())
    }

    fn note_silence(&mut self, fault: Option<&KafkaFault>) {
        let everywhere = fault.filter(|fault| fault.is_everywhere());
        self.unanswered = everywhere.map(|fault| {
            let since = self.unanswered.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            (since, Blocker::new(fault.kind(), fault))
        });
    }

    /// Waits for the answer to the inquiry: [`start_reading`](Self::start_reading) has something to do then. Cancel safe.
    pub(super) async fn answered(&mut self) {
        match &mut self.inquiry {
            Inquiry::Asked(asking) => {
                let answer = asking.await.unwrap_or_else(|error| Err(Unknown::Crashed(crash(error))));
                self.inquiry = Inquiry::Answered(answer);
            }
            Inquiry::None | Inquiry::Answered(_) => std::future::pending().await,
        }
    }

    /// Starts to read the partitions whose position is known now, and asks about the others.
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
                self.note_silence(unknown.first().map(|(_, fault)| fault));
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
                self.note_silence(match &error {
                    Unknown::Log(LogError::Fault(fault)) => Some(fault),
                    _ => None,
                });
                self.backoff.failed(error.kind(), &error);
                self.try_again = Some(Instant::now() + self.backoff.delay());
            }
        }
    }

    /// Asks about all open partitions: the checkpoints first, so that no checkpoint is beyond an older end of its log.
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

    /// Reads the partitions that can be read; the others stay open. If a first checkpoint was stored just now, everything
    /// is asked once more: another host may have stored another one first.
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
                        match self.beginnings.begin(&partition, marks, &identity).await {
                            Ok(()) => begun = true,
                            Err(Unknown::NotInLog(problem)) => self.refuse_start(&partition, &problem),
                            // Only this partition is affected: read the others.
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
        // Read all of them at once: partitions that are merged by time must start together.
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
                    let trouble = Blocker::new(FailureKind::Log, mismatch);
                    self.store.set_paused(&self.generation, &partition, Some(&trouble)).await?;
                    let projection = &self.generation.projection;
                    let Blocker { reason, kind } = trouble;
                    tracing::error!(
                        projection, %partition, reason, advice = kind.advice(),
                        "partition paused: its log is not the one that the checkpoint is about"
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

    /// A partition without a checkpoint is not read: the configured start is not in its log.
    fn refuse_start(&mut self, partition: &Partition, problem: &NotInLog) {
        let projection = &self.generation.projection;
        let (reason, advice) = (problem.to_string(), FailureKind::Start.advice());
        tracing::error!(projection, %partition, reason, advice, "partition not begun");
        self.open.remove(partition);
    }

    /// The partitions of a batch whose topic was deleted and created again since reading began, or may have been. The
    /// Kafka client does not notice: it goes on at the old offset if the new topic is long enough. A topic's id never
    /// returns, so a topic that has the same id now, after the events were read, had it when they were read.
    pub(super) async fn foreign(&self, deliveries: &[Delivery]) -> Result<Vec<Partition>, LogError> {
        let partitions: BTreeSet<&Partition> =
            deliveries.iter().map(|delivery| &delivery.event.position.partition).collect();
        let mut topics: Vec<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
        topics.dedup();
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.log.identities_each(topics).await?;
        let is_foreign = |partition: &&Partition| {
            let known = self.identities.get(&partition.topic);
            known.zip(found.get(&*partition.topic)).is_some_and(|(known, found)| match found {
                Ok(found) => known.differs_from(found),
                Err(_) => true,
            })
        };
        Ok(partitions.into_iter().filter(is_foreign).cloned().collect())
    }

    /// The checkpoint of a partition. Every partition that has events in a batch has one.
    pub(super) fn checkpoint(&self, partition: &Partition) -> i64 {
        self.checkpoints.get(partition).copied().unwrap_or(-1)
    }

    pub(super) fn committed(&mut self, advances: &[Advance]) {
        for advance in advances {
            if let Some(checkpoint) = self.checkpoints.get_mut(&advance.partition) {
                *checkpoint = advance.next;
            }
        }
    }
}
