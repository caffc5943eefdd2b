//! Projects the lines of a backfill's file, batch by batch.
//!
//! A batch is committed with its checkpoint, so that a command which is run again continues behind it. The first line
//! that cannot be projected ends the command; the lines before it are committed by then.

use std::io;
use std::time::Duration;

use projector_core::batch::{BatchLimits, Buffer, Delivery};
use projector_core::counters::OutcomeCounts;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::failure_policy::Flood;
use projector_store::operator::Requester;
use projector_store::{Advance, StoreError, Writes};

use super::super::OperationError;
use super::File;
use super::pace::Pace;
use crate::deploy::backfill::{Line, Lines, Topics, event, is_blank, partition};
use crate::project::{self, Caller, ProjectError};
use crate::settle::{Isolate, Settler, isolate};

/// How many times an event may exceed its time limit.
const TIMEOUTS: u32 = 3;
/// How often a batch is tried again while the write barrier is closed.
const BARRIER_INTERVAL: Duration = Duration::from_millis(100);

/// Projects a file's lines into a generation.
pub(super) struct Feeder<'f> {
    pub(super) settler: Settler,
    pub(super) file: &'f File,
    pub(super) requester: &'f Requester,
    pub(super) limits: BatchLimits,
    pub(super) value_bytes: usize,
    pub(super) topics: Topics,
    pub(super) lines: Lines,
    /// The events of the lines that were read, in their order.
    pub(super) buffer: Buffer,
    /// The next line whose event is not committed.
    pub(super) checkpoint: i64,
    pub(super) pace: Pace<'f>,
}

/// Why reading stops for now.
enum Stop {
    End,
    Skip(i64),
    Wrong(i64, String),
}

impl Feeder<'_> {
    pub(super) async fn run(mut self) -> Result<(), OperationError> {
        tokio::task::block_in_place(|| self.lines.skip_to(self.checkpoint))
            .map_err(|error| self.file.unreadable(&error))?;
        self.pace.begin(self.checkpoint, self.lines.file_bytes_read());
        loop {
            let stop =
                tokio::task::block_in_place(|| self.fill()).map_err(|error| self.file.unreadable(&error))?;
            // Commit all events before the line at which reading stopped.
            while !self.buffer.is_empty() && (stop.is_some() || self.buffer.is_full(self.limits)) {
                self.commit().await?;
            }
            match stop {
                None => {}
                Some(Stop::End) => return Ok(()),
                Some(Stop::Skip(line)) => self.skip(line).await?,
                Some(Stop::Wrong(line, wrong)) => return Err(self.file.ends_at(line, &wrong)),
            }
        }
    }

    /// Reads as many lines as there is room for.
    fn fill(&mut self) -> io::Result<Option<Stop>> {
        let mut line = Vec::new();
        while !self.buffer.is_full(self.limits) {
            let Some(Line { number, too_long }) = self.lines.read(&mut line)? else {
                return Ok(Some(Stop::End));
            };
            if self.file.skipped.contains(&number) {
                return Ok(Some(Stop::Skip(number)));
            }
            if too_long {
                let wrong = "it is longer than `kafka.value-bytes` lets it be, twice over".to_owned();
                return Ok(Some(Stop::Wrong(number, wrong)));
            }
            if is_blank(&line) {
                continue;
            }
            match event(&line, number, &self.topics, self.value_bytes) {
                Ok(event) => self.buffer.extend(vec![Delivery { event, epoch: 0 }]),
                Err(wrong) => return Ok(Some(Stop::Wrong(number, wrong))),
            }
        }
        Ok(None)
    }

    /// Commits the first events of the buffer, in one transaction.
    async fn commit(&mut self) -> Result<(), OperationError> {
        let mut batch = self.buffer.take(self.limits);
        let mut timeouts = 0;
        loop {
            let first = batch[0].event.position.offset;
            let error = match self.attempt(&mut batch).await {
                Ok(advances) => {
                    for Advance { next, .. } in advances {
                        self.checkpoint = next;
                    }
                    self.pace.line(self.checkpoint, self.lines.file_bytes_read());
                    return Ok(());
                }
                Err(error) => error,
            };
            let failed = |failure: Failure| self.file.ends_at(first, &format!("the event failed: {failure}"));
            match error {
                // A promotion holds the write barrier for a moment: try again when it is over.
                ProjectError::Store(StoreError::Held(_)) => tokio::time::sleep(BARRIER_INTERVAL).await,
                ProjectError::Store(error @ (StoreError::Rejected { .. } | StoreError::Data(_))) => {
                    match isolate(error, batch.len())? {
                        Isolate::First(failure) => return Err(failed(failure)),
                        Isolate::Cut(events) => self.buffer.put_back(batch.split_off(events)),
                    }
                }
                ProjectError::Store(error) => return Err(self.broken_off(error)),
                ProjectError::OnTrial(failure) => return Err(failed(failure)),
                ProjectError::Blocker(trouble) => return Err(self.file.ends_at(first, &trouble.reason)),
                ProjectError::Timeout(position) => {
                    timeouts += 1;
                    if timeouts == TIMEOUTS {
                        let detail = format!("it ran out of time {TIMEOUTS} times");
                        let failure = Failure::new(FailureKind::Timeout, "time", detail);
                        let wrong = format!("the event failed: {failure}");
                        return Err(self.file.ends_at(position.offset, &wrong));
                    }
                }
            }
        }
    }

    /// One attempt to commit these events. Events that do not fit in are put back into the buffer.
    async fn attempt(&mut self, batch: &mut Vec<Delivery>) -> Result<Vec<Advance>, ProjectError> {
        let plugin = &self.settler.plugin;
        let answers = tokio::task::block_in_place(|| project::ask(plugin, batch))?;
        self.buffer.put_back(batch.split_off(answers.len()));
        let mut caller = Caller::new(plugin);
        let (at, flood) = (self.checkpoint, Flood::default());
        let attempt = self.settler.attempt(&mut caller, batch, &answers, &|_| at, &flood).await;
        self.buffer.put_back(batch.split_off(attempt.events));
        attempt.result.map(|(advances, _)| advances)
    }

    /// Counts a line as skipped on request of an operator, which is recorded.
    async fn skip(&mut self, line: i64) -> Result<(), OperationError> {
        let Settler { deployment, store, .. } = &self.settler;
        let (generation, file) = (&deployment.generation, partition());
        if self.checkpoint < line {
            // The lines in between are blank: move the checkpoint over them first.
            let books = OutcomeCounts::default();
            let advance = Advance { partition: file.clone(), expected: self.checkpoint, next: line, books };
            let blank = async {
                let mut tx = store.begin(deployment).await?;
                tx.write(&Writes { advances: vec![advance], ..Writes::default() }).await?;
                tx.commit().await
            };
            blank.await.map_err(|error| self.broken_off(error))?;
        }
        store.skip(generation, &file, line + 1, self.requester).await?;
        self.checkpoint = line + 1;
        Ok(())
    }

    fn broken_off(&self, error: StoreError) -> OperationError {
        let line = self.checkpoint + 1;
        let projection = &self.settler.deployment.generation.projection;
        match error {
            StoreError::CheckpointMoved(_) => OperationError::Failed(format!(
                "another `projector backfill {projection}` is under way: it went on from line {line}"
            )),
            StoreError::Inactive(active) => OperationError::Failed(format!(
                "another component is the active one of the generation now ({active}); the lines before {line} are done, and the same command goes on with that one, if there is one"
            )),
            StoreError::Paused(reason) => OperationError::Failed(format!(
                "the projection is not to write: {reason}; the lines before {line} are done, and the same command goes on after `projector resume`"
            )),
            StoreError::Unavailable(error) => OperationError::unanswered(format!(
                "the read-model database: {error}. The lines before {line} are done, and the same command goes on"
            )),
            error => error.into(),
        }
    }
}
