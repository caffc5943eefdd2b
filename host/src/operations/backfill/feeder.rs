//! Projects the lines of a backfill's file, batch by batch.
//!
//! A batch is committed with its checkpoint, so that the same command continues behind it when it is run again. The
//! first line that cannot be projected ends the command; the lines before it are committed by then.

use std::io;
use std::time::Duration;

use projector_core::batch::{BatchLimits, Buffer, Delivery};
use projector_core::counters::OutcomeCounts;
use projector_core::event_failure::Failure;
use projector_core::failure::FailureKind;
use projector_core::failure_policy::Flood;
use projector_store::{Advance, Requester, StoreError, Writes};

use super::super::OperationError;
use super::File;
use super::pace::Pace;
use crate::deploy::backfill::{Line, Lines, Topics, event, is_blank, partition};
use crate::project::{self, Caller, ProjectError};
use crate::settle::{Isolate, Settler, isolate};

/// The command ends when the batch has exceeded its time limit so many times.
const TIMEOUTS: u32 = 3;
/// The pause between two attempts to commit a batch while a write barrier stands.
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

/// Why no more lines are read for now.
enum Stop {
    /// The file has ended.
    End,
    /// The operator skips the line with this number.
    Skip(i64),
    /// The line with this number is not a valid event, and why.
    Invalid(i64, String),
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
                Some(Stop::Invalid(line, reason)) => return Err(self.file.ends_at(line, &reason)),
            }
        }
    }

    /// Reads lines until the buffer is full. `None`: it is full.
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
                let reason = "the line is longer than twice `kafka.value-bytes`".to_owned();
                return Ok(Some(Stop::Invalid(number, reason)));
            }
            if is_blank(&line) {
                continue;
            }
            match event(&line, number, &self.topics, self.value_bytes) {
                Ok(event) => self.buffer.extend(vec![Delivery { event, epoch: 0 }]),
                Err(reason) => return Ok(Some(Stop::Invalid(number, reason))),
            }
        }
        Ok(None)
    }

    /// Commits the first events of the buffer, in one transaction. If the database refuses an event, the events
    /// before it are committed first, so that the error names the line of the refused event.
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
                // A promotion or a comparison has raised a write barrier. It is over in about a second: try again.
                ProjectError::Store(StoreError::WriteBarrier(_)) => {
                    tokio::time::sleep(BARRIER_INTERVAL).await
                }
                ProjectError::Store(error @ (StoreError::Rejected { .. } | StoreError::Data(_))) => {
                    match isolate(error, batch.len())? {
                        Isolate::First(failure) => return Err(failed(failure)),
                        Isolate::Cut(events) => self.buffer.put_back(batch.split_off(events)),
                    }
                }
                ProjectError::Store(error) => return Err(self.stopped(error)),
                ProjectError::OnTrial(failure) => return Err(failed(failure)),
                ProjectError::Blocker(blocker) => return Err(self.file.ends_at(first, &blocker.reason)),
                // A busy machine may be the cause, not the event: try the batch again, a few times.
                ProjectError::Timeout(position) => {
                    timeouts += 1;
                    if timeouts == TIMEOUTS {
                        let detail = format!("the plugin exceeded its time limit {TIMEOUTS} times");
                        let failure = Failure::new(FailureKind::Timeout, "time", detail);
                        let reason = format!("the event failed: {failure}");
                        return Err(self.file.ends_at(position.offset, &reason));
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

    /// Counts a line as skipped, and records the operator's request.
    async fn skip(&mut self, line: i64) -> Result<(), OperationError> {
        let Settler { deployment, store, .. } = &self.settler;
        let (generation, file) = (&deployment.generation, partition());
        if self.checkpoint < line {
            // The lines in between are blank: move the checkpoint over them first.
            let counts = OutcomeCounts::default();
            let advance = Advance { partition: file.clone(), expected: self.checkpoint, next: line, counts };
            let blank = async {
                let mut tx = store.begin(deployment).await?;
                tx.write(&Writes { advances: vec![advance], ..Writes::default() }).await?;
                tx.commit().await
            };
            blank.await.map_err(|error| self.stopped(error))?;
        }
        store.skip(generation, &file, line + 1, self.requester).await?;
        self.checkpoint = line + 1;
        Ok(())
    }

    /// The error with which the command ends because the store did not commit a batch.
    fn stopped(&self, error: StoreError) -> OperationError {
        let line = self.checkpoint + 1;
        let projection = &self.settler.deployment.generation.projection;
        match error {
            StoreError::CheckpointMoved(_) => OperationError::Failed(format!(
                "another `projector backfill {projection}` runs at the same time, and has continued at line {line}"
            )),
            StoreError::Inactive(active) => OperationError::Failed(format!(
                "the component of this backfill is not active any more in the generation; the active one is {active}. The lines before {line} are committed. If there is an active component, the same command continues with it"
            )),
            StoreError::Paused(reason) => OperationError::Failed(format!(
                "the projection is paused: {reason}. The lines before {line} are committed; run the same command again after `projector resume {projection}`"
            )),
            StoreError::Unavailable(error) => OperationError::unanswered(format!(
                "the read-model database: {error}. The lines before {line} are committed; run the same command again to continue"
            )),
            error => error.into(),
        }
    }
}
