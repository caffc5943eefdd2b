//! What follows a failed attempt at a batch.
//!
//! The kind of the failure decides: retry the same batch, retry a smaller one, read again from another checkpoint, or end
//! the run. After a failure of the database it is unknown whether the transaction was committed. The checkpoints tell:
//! they moved with it, or not at all. So no event is applied twice, and none is lost.

use std::time::Duration;

use projector_core::event::Partition;
use projector_core::event_failure::Failure;
use projector_core::failure::{Blocker, FailureKind, Response};
use projector_store::{Advance, StoreError};

use super::{BARRIER_INTERVAL, InFlightBatch, Run};
use crate::project::{FirstAnswers, ProjectError};
use crate::retry::RunEnd;
use crate::settle::{Isolate, Slow, isolate};

/// How many times an event may exceed its time limit before the projection is blocked.
const TIMEOUTS: u32 = 3;

/// The failed attempts at one batch.
#[derive(Default)]
pub(super) struct Tries {
    timeouts: u32,
    slow: Slow,
}

/// What to do with a batch whose attempt failed.
pub(super) enum Next {
    /// The batch, or what is left of it, is tried again.
    TryAgain,
    /// The batch is over: it was committed after all, or its events are read again, or the run stops.
    Leave,
}

/// What became of a batch whose commit has no known result.
enum Recovered {
    /// Nothing was committed.
    TryAgain,
    /// All of it was committed; only the response was lost.
    Committed(Vec<Advance>),
    /// Another host has moved these checkpoints.
    Moved(Vec<Partition>),
    Stopped,
}

impl Run {
    /// Decides what follows a failed attempt, after the waits and the repairs that it needs.
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
                    self.name_lock_holder(&error).await;
                    self.count_deadlock(&error).await;
                    if error.kind() == FailureKind::DatabaseSetup {
                        self.show_blocker(Blocker::new(FailureKind::DatabaseSetup, &error)).await;
                    }
                    let recovered = self.recover(batch).await;
                    if let Some(catching_up) = &self.catch_up.state
                        && !catching_up.is_held().await
                    {
                        return Err(RunEnd::Restart("the catch-up lock was lost".into()));
                    }
                    match recovered {
                        // Halve the batch: it may have been too much for the session's timeouts. If one event
                        // is left, the database responds and is only too slow for that event.
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
                        Recovered::Moved(partitions) => self.fenced(&partitions),
                        Recovered::Stopped => return Ok(Next::Leave),
                    }
                }
                Response::Policy => match isolate(error, batch.deliveries.len()).map_err(halt)? {
                    Isolate::First(failure) => match batch.answers.as_deref_mut() {
                        // The first event fails. The policy of the projection decides in the next attempt.
                        Some([first, ..]) if first.failure().is_none() => {
                            *first = FirstAnswers::failed(failure);
                        }
                        // The first event has failed already and writes no rows, and yet the store rejects the
                        // batch: a retry would change nothing.
                        _ => return Err(RunEnd::Stop(Blocker::new(FailureKind::Store, failure))),
                    },
                    Isolate::Cut(events) => self.intake.cut(batch, events),
                },
                Response::Reposition | Response::Pause | Response::Refuse => match error {
                    StoreError::CheckpointMoved(partitions) => self.fenced(&partitions),
                    // Another version is active, or the barrier is closed: read the control state now, and follow
                    // it before the next batch.
                    StoreError::Inactive(_) | StoreError::Held(_) => {
                        self.intake.buffer.put_back(std::mem::take(&mut batch.deliveries));
                        if let Err(error) = self.watcher.refresh().await {
                            self.backoff.failed(error.kind(), &error);
                            self.backoff.wait(&self.stop).await;
                        }
                        return Ok(Next::Leave);
                    }
                    error => return Err(halt(error)),
                },
            },
            ProjectError::OnTrial(failure) => self.compare(batch, &failure).await,
            ProjectError::Blocker(trouble) => return Err(RunEnd::Stop(trouble)),
            ProjectError::Timeout(position) => {
                tries.timeouts += 1;
                if tries.timeouts == TIMEOUTS && self.is_tried_out(&position) {
                    // Commit the events before it first.
                    let at = batch.deliveries.iter().position(|next| next.event.position == position);
                    match at.unwrap_or_default() {
                        0 => {
                            let words = "it runs longer than one event may";
                            let failure = Failure::new(FailureKind::Timeout, "time", words);
                            self.compare(batch, &failure).await;
                        }
                        events => self.intake.cut(batch, events),
                    }
                    tries.timeouts -= 1;
                    return Ok(Next::TryAgain);
                }
                if tries.timeouts == TIMEOUTS {
                    let reason = format!("the event at {position} ran out of time {TIMEOUTS} times");
                    return Err(RunEnd::Stop(Blocker::new(FailureKind::Timeout, reason)));
                }
                tracing::warn!(%position, "an event ran out of time; its batch is tried again");
                self.backoff.wait(&self.stop).await;
            }
        }
        Ok(Next::TryAgain)
    }

    /// After a failure of the database: waits until it responds, and finds out from the checkpoints what became of the
    /// batch.
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
                    // Partitions that were revoked meanwhile belong to another host now. The others belonged to
                    // this host when the checkpoints were read.
                    let events = batch.deliveries.len();
                    drop(self.intake.guard_revokes(batch));
                    if batch.deliveries.len() < events {
                        let (projection, void) = (self.name(), events - batch.deliveries.len());
                        tracing::warn!(
                            projection,
                            void,
                            "void: partitions were given to another host before their events could be written"
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

    /// Another host moved these checkpoints: drops what was read of the partitions, and reads on from the new checkpoints.
    fn fenced(&mut self, partitions: &[Partition]) {
        self.tally.fenced += 1;
        let projection = self.settler.deployment.generation.projection.clone();
        let partitions_named = partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            projection,
            partitions = partitions_named,
            "fenced: another host moved the checkpoint; nothing was written, reading goes on from there"
        );
        self.intake.reposition(partitions);
    }

    /// How long to wait before work between two batches is tried again; an error if it must not be tried again.
    pub(super) async fn pause_after(
        &mut self,
        what: &'static str,
        error: StoreError,
    ) -> Result<Duration, RunEnd> {
        match error {
            error if error.kind().response() == Response::Retry => {
                self.backoff.missed(what, &error);
                self.count_deadlock(&error).await;
                Ok(Duration::from_secs(1))
            }
            // The watcher soon tells which version is active, and whether the barrier is open.
            StoreError::Inactive(_) | StoreError::Held(_) => Ok(BARRIER_INTERVAL),
            error => Err(halt(error)),
        }
    }
}

/// How the run ends after a failure of the store that was not caused by an event.
fn halt(error: StoreError) -> RunEnd {
    match error {
        StoreError::Inactive(_) | StoreError::Held(_) => RunEnd::Switch,
        StoreError::Paused(reason) => RunEnd::Paused(reason),
        error => RunEnd::Stop(Blocker::new(error.kind(), error)),
    }
}
