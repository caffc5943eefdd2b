//! Where each partition is read, and how far its checkpoint moves with a batch.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use crate::batch::Delivery;
use crate::checkpoint::{Identity, Start, start};
use crate::event::Partition;
use crate::failure::{FailureKind, Trouble};
use crate::retry::{Backoff, Retries};
use crate::source::{Log, LogError, Source, Span};
use crate::store::{Advance, Generation, Store, StoreError};

pub(super) struct Positions {
    generation: Generation,
    store: Arc<dyn Store>,
    log: Log,
    /// The checkpoint of each partition that is read, as the store had it last.
    checkpoints: HashMap<Partition, i64>,
    /// The log that each topic was when it was last held against a checkpoint.
    identities: HashMap<Arc<str>, Identity>,
    /// Granted, and not read yet.
    open: BTreeSet<Partition>,
    try_again: Option<Instant>,
    backoff: Backoff,
}

#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Unknown {
    fn kind(&self) -> FailureKind {
        match self {
            Unknown::Store(error) => error.kind(),
            Unknown::Log(_) => FailureKind::Brokers,
        }
    }
}

impl Positions {
    pub(super) fn new(generation: Generation, store: Arc<dyn Store>, log: Log, retries: &Retries) -> Self {
        Self {
            backoff: Backoff::new(&generation.projection, retries),
            generation,
            store,
            log,
            checkpoints: HashMap::new(),
            identities: HashMap::new(),
            open: BTreeSet::new(),
            try_again: None,
        }
    }

    pub(super) fn ask(&mut self, partitions: Vec<Partition>) {
        self.open.extend(partitions);
        self.try_again = None;
    }

    pub(super) fn forget(&mut self, partition: &Partition) {
        self.checkpoints.remove(partition);
        self.open.remove(partition);
    }

    /// Whether all that is granted is read, or paused.
    pub(super) fn are_known(&self) -> bool {
        self.open.is_empty()
    }

    /// When to try again to find a position; `None`: there is nothing to find.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.try_again
    }

    /// Begins to read the partitions whose position can be told now. Nothing is ever read from
    /// anywhere but a checkpoint.
    pub(super) async fn settle(&mut self, source: &Source) {
        if self.open.is_empty() {
            self.try_again = None;
            self.backoff.succeeded();
            return;
        }
        if self.try_again.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.try_again = None;
        match self.find(source).await {
            Ok(()) => self.backoff.succeeded(),
            Err(error) => {
                self.backoff.failed(error.kind(), &error);
                self.try_again = Some(Instant::now() + self.backoff.delay());
            }
        }
    }

    async fn find(&mut self, source: &Source) -> Result<(), Unknown> {
        let partitions: Vec<Partition> = self.open.iter().cloned().collect();
        let mut checkpoints = self.store.checkpoints(&self.generation, &partitions).await?;
        let logs = self.log.inspect(partitions.clone()).await?;
        let mut begun = false;
        for ((partition, checkpoint), (marks, identity)) in partitions.iter().zip(&checkpoints).zip(&logs) {
            if let Start::Beginning(offset) = start(checkpoint.as_ref(), *marks, identity) {
                self.store.begin_partition(&self.generation, partition, offset, identity).await?;
                begun = true;
            }
        }
        if begun {
            // Another host may have begun first, from another mark.
            checkpoints = self.store.checkpoints(&self.generation, &partitions).await?;
        }
        // All at once: what is merged by time has to be there together.
        let mut spans = Vec::new();
        for ((partition, checkpoint), (marks, identity)) in
            partitions.into_iter().zip(&checkpoints).zip(&logs)
        {
            match start(checkpoint.as_ref(), *marks, identity) {
                Start::Beginning(_) => continue,
                Start::Resume(offset) => {
                    self.store.set_paused(&self.generation, &partition, None).await?;
                    self.identities.insert(partition.topic.clone(), identity.clone());
                    spans.push(Span { partition, from: offset, end: marks.high });
                }
                Start::Refused(mismatch) => {
                    let trouble = Trouble::new(FailureKind::Log, mismatch);
                    self.store.set_paused(&self.generation, &partition, Some(&trouble)).await?;
                    let projection = &self.generation.projection;
                    let Trouble { reason, kind } = trouble;
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
        Ok(())
    }

    /// The partitions of a batch whose topic is not the one any more that it was when reading began.
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
        let found = self.log.identities(topics).await?;
        let is_foreign = |partition: &&Partition| {
            let known = self.identities.get(&partition.topic);
            known.zip(found.get(&*partition.topic)).is_some_and(|(known, found)| known.differs_from(found))
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
