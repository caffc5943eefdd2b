//! Where each partition is read, and how far its checkpoint moves with a batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::batch::Delivery;
use crate::beginning::{NotInLog, Starts};
use crate::checkpoint::{Beginning, Checkpoint, Identity, Start, Watermarks, start};
use crate::config::StartAt;
use crate::event::Partition;
use crate::failure::{Blocker, FailureKind, panic_text};
use crate::retry::{Backoff, Retries};
use crate::source::{Inspected, KafkaAdmin, KafkaFault, LogError, Source, Span, Subject};
use crate::store::{Advance, Generation, Store, StoreError};

pub(super) struct Positions {
    generation: Generation,
    store: Arc<dyn Store>,
    log: KafkaAdmin,
    /// Where partitions begin that have no checkpoint.
    starts: Starts,
    /// The partitions that existed when the generation began, once that is known.
    began_with: Option<BTreeSet<Partition>>,
    /// The checkpoint of each partition that is read, as the store had it last.
    checkpoints: HashMap<Partition, i64>,
    /// The log that each topic was when it was last held against a checkpoint.
    identities: HashMap<Arc<str>, Identity>,
    /// Granted, and not read yet.
    open: BTreeSet<Partition>,
    inquiry: Inquiry,
    try_again: Option<Instant>,
    /// Since when no broker answers, and what is the matter.
    unanswered: Option<(Instant, Blocker)>,
    /// How long to wait before all that is open is asked about again; and what failed for all of it.
    backoff: Backoff,
    /// Why partitions are open: by the reason, which they share.
    unknown: BTreeMap<String, Backoff>,
    retries: Retries,
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

/// What is asked about the open partitions.
#[derive(Default)]
enum Inquiry {
    #[default]
    None,
    Requester(JoinHandle<Result<Vec<Found>, Unknown>>),
    Answered(Result<Vec<Found>, Unknown>),
}

/// A partition as the store and the brokers know it.
struct Found {
    partition: Partition,
    checkpoint: Option<Checkpoint>,
    log: Inspected,
}

/// What came of an inquiry.
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

/// Stands, among the partitions that existed when a generation began, for all those of a topic: which ones it had
/// was not known.
const ALL_PARTITIONS: i32 = -1;

/// Partitions that are named in one line. Of more, the number is told.
const NAMED: usize = 8;

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
            unknown: BTreeMap::new(),
            retries: retries.clone(),
            generation,
            store,
            log,
            starts,
            began_with: None,
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
        // What was asked meanwhile may be older than this.
        self.inquiry = Inquiry::None;
    }

    pub(super) fn forget(&mut self, partition: &Partition) {
        self.checkpoints.remove(partition);
        self.open.remove(partition);
    }

    /// When to try again to find a position; `None`: there is nothing to find.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.try_again
    }

    /// What is the matter, if no broker has answered anything about the open partitions for so long.
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

    /// Waits until what was asked is answered: [`settle`](Self::settle) has something to do then. Cancel
    /// safe.
    pub(super) async fn answered(&mut self) {
        match &mut self.inquiry {
            Inquiry::Requester(asking) => {
                let answer = asking.await.unwrap_or_else(|error| Err(Unknown::Crashed(crash(error))));
                self.inquiry = Inquiry::Answered(answer);
            }
            Inquiry::None | Inquiry::Answered(_) => std::future::pending().await,
        }
    }

    /// Begins to read the partitions whose position can be told now. Nothing is ever read from
    /// anywhere but a checkpoint. Store and brokers are asked in the background: one that is slow to
    /// answer keeps no batch of other partitions waiting.
    pub(super) async fn settle(&mut self, source: &Source) {
        if self.open.is_empty() {
            self.try_again = None;
            self.inquiry = Inquiry::None;
            self.backoff.succeeded();
            self.tell(Vec::new());
            self.unanswered = None;
            return;
        }
        if let Inquiry::Requester(asking) = &self.inquiry
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
                self.tell(unknown);
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

    /// Asks for all that is open: the checkpoints first, so that none is beyond an older end of the log.
    fn inquire(&self) -> Inquiry {
        let (store, log, generation) = (self.store.clone(), self.log.clone(), self.generation.clone());
        let partitions: Vec<Partition> = self.open.iter().cloned().collect();
        Inquiry::Requester(tokio::spawn(async move {
            let checkpoints = store.checkpoints(&generation, &partitions).await?;
            let logs = log.inspect_each(partitions.clone()).await?;
            let found = partitions.into_iter().zip(checkpoints).zip(logs);
            Ok(found.map(|((partition, checkpoint), log)| Found { partition, checkpoint, log }).collect())
        }))
    }

    /// Shows why partitions stay unread, and the end of what was shown and is over.
    fn tell(&mut self, unknown: Vec<(Partition, KafkaFault)>) {
        let mut by_reason: BTreeMap<String, (FailureKind, Vec<String>)> = BTreeMap::new();
        for (partition, fault) in unknown {
            let subject = match &fault.subject {
                Subject::Partition(_) => partition.to_string(),
                shared => shared.to_string(),
            };
            let (_, subjects) = by_reason.entry(fault.reason()).or_insert((fault.kind(), Vec::new()));
            if subjects.last() != Some(&subject) {
                subjects.push(subject);
            }
        }
        self.unknown.retain(|reason, backoff| {
            let goes_on = by_reason.contains_key(reason);
            if !goes_on {
                backoff.succeeded();
            }
            goes_on
        });
        for (reason, (kind, subjects)) in by_reason {
            let more = subjects.len().saturating_sub(NAMED);
            let mut cause = subjects[..subjects.len().min(NAMED)].join(", ");
            if more > 0 {
                cause = format!("{cause} and {more} more");
            }
            let cause = format!("{cause}: {reason}");
            let new = || Backoff::new(&self.generation.projection, &self.retries);
            self.unknown.entry(reason).or_insert_with(new).failed(kind, &cause);
        }
    }

    /// Reads what can be read. What is not known stays open. If a partition was begun just now, all is
    /// asked about once more before it is read: another host may have begun first, from another mark.
    async fn begin(&mut self, found: Vec<Found>, source: &Source) -> Result<Begun, Unknown> {
        let (mut known, mut unknown, mut begun) = (Vec::new(), Vec::new(), false);
        for Found { partition, checkpoint, log } in found {
            // It was taken away meanwhile.
            if !self.open.contains(&partition) {
                continue;
            }
            match log {
                Err(fault) if checkpoint.is_some() => unknown.push((partition, fault.of_topic_read_before())),
                Err(fault) => unknown.push((partition, fault)),
                Ok((marks, identity)) => {
                    let start = start(checkpoint.as_ref(), marks, &identity);
                    if let Start::Beginning(_) = start {
                        match self.begin_partition(&partition, marks, &identity).await {
                            Ok(()) => begun = true,
                            Err(Unknown::NotInLog(problem)) => self.refuse_start(&partition, &problem),
                            // Of this partition; the others are read.
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
        // All at once: what is merged by time has to be there together.
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

    /// Stores the first checkpoint of a partition. Another host may do so as well: the first one counts.
    async fn begin_partition(
        &mut self,
        partition: &Partition,
        marks: Watermarks,
        identity: &Identity,
    ) -> Result<(), Unknown> {
        let offset = match self.existed(partition).await? {
            // It was added later, at offset 0: if its log begins behind that, the events between are lost.
            false => 0,
            true => {
                let (projection, besides) = (&self.generation.projection, Some(self.generation.id));
                let earlier = self.store.earlier_starts(projection, besides).await?;
                self.starts.find(&self.log, partition, (marks, identity), &earlier).await??
            }
        };
        let before_start = (offset - marks.low).max(0);
        let beginning = Beginning { offset, before_start, identity: identity.clone() };
        self.store.begin_partition(&self.generation, partition, &beginning).await?;
        if before_start > 0 {
            let projection = &self.generation.projection;
            tracing::info!(projection, %partition, offset, before_start, "reading begins behind the log's beginning");
        }
        Ok(())
    }

    /// Whether a partition existed when the generation began. All hosts give the same answer: the first one
    /// that asks begins the generation, and what existed then is stored.
    async fn existed(&mut self, partition: &Partition) -> Result<bool, Unknown> {
        if self.began_with.is_none() {
            self.began_with = self.store.began_with(&self.generation).await?;
        }
        let began_with = match self.began_with.take() {
            Some(began_with) => began_with,
            None => {
                let now = self.existing().await?;
                let start = self.starts.to_string();
                self.store.begin_generation(&self.generation, &now, &start).await?
            }
        };
        let began_with = self.began_with.insert(began_with);
        let unknown = Partition::new(partition.topic.clone(), ALL_PARTITIONS);
        Ok(began_with.contains(partition) || began_with.contains(&unknown))
    }

    /// The partitions of all topics as they exist now. A topic that does not exist has none; a topic whose
    /// partitions are not known can wait if it is read from its beginning anyway: then all of them count as
    /// existing.
    async fn existing(&self) -> Result<BTreeSet<Partition>, Unknown> {
        let mut existing = BTreeSet::new();
        let topics = self.log.topics(self.starts.topics()).await?.into_iter().collect();
        for (topic, partitions) in self.log.partitions(topics).await? {
            match partitions {
                Ok(partitions) => existing.extend(partitions),
                Err(fault) if fault.kind() == FailureKind::NoTopic => {}
                Err(fault) if self.starts.of_topic(&topic) == StartAt::Earliest && !fault.is_everywhere() => {
                    existing.insert(Partition::new(topic, ALL_PARTITIONS));
                }
                Err(fault) => return Err(LogError::Fault(fault).into()),
            }
        }
        Ok(existing)
    }

    /// A partition that has no checkpoint is not read, because the configured start is not in its log.
    fn refuse_start(&mut self, partition: &Partition, problem: &NotInLog) {
        let projection = &self.generation.projection;
        let (reason, advice) = (problem.to_string(), FailureKind::Start.advice());
        tracing::error!(projection, %partition, reason, advice, "partition not begun");
        self.open.remove(partition);
    }

    /// The partitions of a batch whose topic is not the one any more that it was when reading began, or
    /// cannot be told to be: where each is read is found anew, and the others of the batch go on.
    /// The Kafka client reads on silently in a topic that was created anew, from the old offset, if
    /// that is long enough. A topic never becomes again what it was: what is the same now, after the
    /// events were read, was the same when they were.
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

    /// The checkpoint of a partition. Every delivery is of one that is read from there.
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
