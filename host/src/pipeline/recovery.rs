//! Decides what follows a failed attempt to commit a batch.
//!
//! The kind of the failure decides: retry the same batch, retry a smaller one, read again from another checkpoint, or
//! end the run.
//!
//! After a failure of the database, it is unknown whether the transaction was committed. The checkpoints are read to
//! find out: they are written in the same transaction as the rows. So no event is applied twice, and none is lost.

use std::time::Duration;

use projector_core::event::Partition;
use projector_core::event_failure::Failure;
use projector_core::failure::{Blocker, FailureKind, Response};
use projector_store::{Advance, StoreError};

use super::{BARRIER_INTERVAL, InFlightBatch, Run};
use crate::project::{FirstAnswers, ProjectError};
use crate::retry::RunEnd;
use crate::settle::{Isolate, SlowTries, isolate};

/// When attempts at one batch have ended this many times because a call exceeded its time limit, the projection is
/// blocked.
const TIMEOUTS: u32 = 3;

/// Counts the failed attempts at one batch.
#[derive(Default)]
pub(super) struct Tries {
    timeouts: u32,
    slow: SlowTries,
}

/// What to do with a batch whose attempt failed.
pub(super) enum Next {
    /// The batch, or what is left of it, is tried again.
    TryAgain,
    /// Nothing is left to try: the batch was committed after all, its events are back in the buffer or are read again,
    /// or the run stops.
    Leave,
}

/// What the checkpoints show about a batch whose transaction has no known result.
enum Recovered {
    /// All checkpoints are where they were before the attempt: nothing was committed.
    TryAgain,
    /// All checkpoints are after the batch: it was committed, and only the database's response was lost.
    Committed(Vec<Advance>),
    /// A checkpoint is somewhere else: another host has committed events of these partitions.
    Moved(Vec<Partition>),
    Stopped,
}

impl Run {
    /// Decides what follows a failed attempt. Waits for the database and shortens the batch where this is needed first.
    pub(super) async fn after_failure(
        &mut self,
        batch: &mut InFlightBatch,
        error: ProjectError,
        tries: &mut Tries,
    ) -> Result<Next, RunEnd> {
        let half = batch.deliveries.len().div_ceil(2);
        match error {
            ProjectError::Store(error) => match error.kind().response() {
                Response::Retry => {
                    self.tally.retries += 1;
                    self.backoff.failed(error.kind(), &error);
                    self.report_lock_holder(&error).await;
                    self.count_deadlock(&error).await;
                    if error.kind() == FailureKind::DatabaseSetup {
                        self.show_blocker(Blocker::new(FailureKind::DatabaseSetup, &error)).await;
                    }
                    let recovered = self.recover(batch).await;
                    // The catch-up lock belongs to a database session. If the session is gone, another host may have
                    // taken the lock and read the same partitions: start again, and wait for the lock.
                    if let Some(catching_up) = &self.catch_up.state
                        && !catching_up.is_held().await
                    {
                        return Err(RunEnd::Restart("the catch-up lock was lost".into()));
                    }
                    match recovered {
                        // The batch may have been too large for the statement timeout or the lock timeout: try only its
                        // first half. If the batch has one event and its statement was too slow several times, the
                        // database works, so this event is the cause: it fails, and the failure policy decides in the
                        // next attempt.
                        Recovered::TryAgain => {
                            let tried = batch.deliveries.len();
                            match (tries.slow.isolate(&error, tried), batch.answers.as_deref_mut()) {
                                (Some(Isolate::First(failure)), Some([first, ..]))
                                    if first.failure().is_none() =>
                                {
                                    *first = FirstAnswers::failed(failure);
                                }
                                _ => self.intake.cut(batch, half.min(tried)),
                            }
                        }
                        Recovered::Committed(advances) => {
                            self.available_again().await;
                            self.committed(batch, advances).await;
                            return Ok(Next::Leave);
                        }
                        Recovered::Moved(partitions) => self.read_from_moved(&partitions),
                        Recovered::Stopped => return Ok(Next::Leave),
                    }
                }
                Response::Policy => match isolate(error, batch.deliveries.len()).map_err(run_end)? {
                    Isolate::First(failure) => match batch.answers.as_deref_mut() {
                        // The first event fails. The projection's failure policy decides in the next attempt.
                        Some([first, ..]) if first.failure().is_none() => {
                            *first = FirstAnswers::failed(failure);
                        }
                        // The first event has failed already, so the transaction has no rows of the plugin, and the
                        // database still rejects it. A retry would end in the same way: block the projection.
                        _ => return Err(RunEnd::Stop(Blocker::new(FailureKind::Store, failure))),
                    },
                    Isolate::Cut(events) => self.intake.cut(batch, events),
                },
                Response::Reposition | Response::Pause | Response::Refuse => match error {
                    StoreError::CheckpointMoved(partitions) => self.read_from_moved(&partitions),
                    // Another version is active, or the write barrier is closed. Nothing was written: put the events
                    // back, and read the control state, so that the lane follows it before the next batch.
                    StoreError::Inactive(_) | StoreError::WriteBarrier(_) => {
                        self.intake.put_back(batch);
                        if let Err(error) = self.watcher.refresh().await {
                            self.backoff.failed(error.kind(), &error);
                            self.backoff.wait(&self.stop).await;
                        }
                        return Ok(Next::Leave);
                    }
                    error => return Err(run_end(error)),
                },
            },
            ProjectError::OnTrial(failure) => return Ok(self.compare_with_previous(batch, &failure).await),
            ProjectError::Blocker(blocker) => return Err(RunEnd::Stop(blocker)),
            ProjectError::Timeout(position) => {
                tries.timeouts += 1;
                if tries.timeouts == TIMEOUTS {
                    let at = batch.deliveries.iter().position(|next| next.event.position == position);
                    match at.unwrap_or_default() {
                        // While the version is on trial, call the previous version for this event.
                        0 if self.can_compare(&position) => {
                            tries.timeouts -= 1;
                            let detail = "the call exceeded its time limit, `limits.time`";
                            let failure = Failure::new(FailureKind::Timeout, "time", detail);
                            return Ok(self.compare_with_previous(batch, &failure).await);
                        }
                        // The cause may be a busy machine, so the event does not fail: an operator decides.
                        0 => {
                            let reason =
                                format!("the event at {position} exceeded its time limit {TIMEOUTS} times");
                            return Err(RunEnd::Stop(Blocker::new(FailureKind::Timeout, reason)));
                        }
                        // Commit the events before it first. The previous version must see their rows, and an operator
                        // who skips this event must not skip them.
                        events => {
                            tries.timeouts = 0;
                            self.intake.cut(batch, events);
                        }
                    }
                    return Ok(Next::TryAgain);
                }
                tracing::warn!(%position, "an event exceeded its time limit; its batch is tried again");
                self.backoff.wait(&self.stop).await;
            }
        }
        Ok(Next::TryAgain)
    }

    /// After a failure of the database: waits until it responds, and then finds out from the checkpoints whether the
    /// batch was committed. Drops the events of partitions that were revoked in the meantime.
    async fn recover(&mut self, batch: &mut InFlightBatch) -> Recovered {
        loop {
            self.backoff.wait(&self.stop).await;
            if self.stop.is_cancelled() {
                return Recovered::Stopped;
            }
            let asked: Vec<Partition> =
                self.intake.advances(batch).into_iter().map(|advance| advance.partition).collect();
            let found = tokio::select! {
                found = self.settler.store.checkpoints(&self.settler.deployment.generation, &asked) => found,
                () = self.stop.cancelled() => return Recovered::Stopped,
            };
            match found {
                Err(error) => self.backoff.failed(error.kind(), &error),
                Ok(found) => {
                    // Partitions that were revoked in the meantime belong to another host now: drop their events. The
                    // other partitions belonged to this host when the checkpoints were read.
                    let events = batch.deliveries.len();
                    drop(self.intake.guard_revokes(batch));
                    if batch.deliveries.len() < events {
                        let (projection, dropped) = (self.name(), events - batch.deliveries.len());
                        tracing::warn!(
                            projection,
                            events = dropped,
                            "partitions were assigned to another host before their events could be written; this host drops the events"
                        );
                    }
                    let advances = self.intake.advances(batch);
                    let at = |of: fn(&Advance) -> i64| {
                        advances.iter().all(|advance| {
                            let place = asked.iter().position(|partition| *partition == advance.partition);
                            let checkpoint = place.and_then(|place| found[place].as_ref());
                            checkpoint.is_some_and(|checkpoint| checkpoint.next_offset == of(advance))
                        })
                    };
                    if at(|advance| advance.expected) {
                        return Recovered::TryAgain;
                    }
                    if at(|advance| advance.next) {
                        return Recovered::Committed(advances);
                    }
                    return Recovered::Moved(advances.into_iter().map(|advance| advance.partition).collect());
                }
            }
        }
    }

    /// Another host has moved the checkpoints of these partitions: drops what was read of them, and reads on from the
    /// new checkpoints. This host does not leave the group: if it has lost the partitions, the group will revoke them.
    fn read_from_moved(&mut self, partitions: &[Partition]) {
        self.tally.fenced += 1;
        let projection = self.settler.deployment.generation.projection.clone();
        let names = partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            projection,
            partitions = names,
            "another host has moved the checkpoint; this host wrote nothing, and reads on from the new checkpoint"
        );
        self.intake.reposition(partitions);
    }

    /// After a failure of work between two batches: how long to wait before it is tried again. An error ends the run.
    pub(super) async fn pause_after(
        &mut self,
        what: &'static str,
        error: StoreError,
    ) -> Result<Duration, RunEnd> {
        match error {
            error if error.kind().response() == Response::Retry => {
                self.backoff.warn(what, &error);
                self.count_deadlock(&error).await;
                Ok(Duration::from_secs(1))
            }
            // Another version is active, or the write barrier is closed: the control state soon shows which.
            StoreError::Inactive(_) | StoreError::WriteBarrier(_) => Ok(BARRIER_INTERVAL),
            error => Err(run_end(error)),
        }
    }
}

/// How the run ends after a failure of the store that no event caused and that a retry cannot correct.
fn run_end(error: StoreError) -> RunEnd {
    match error {
        StoreError::Inactive(_) | StoreError::WriteBarrier(_) => RunEnd::Switch,
        StoreError::Paused(reason) => RunEnd::Paused(reason),
        error => RunEnd::Stop(Blocker::new(error.kind(), error)),
    }
}
