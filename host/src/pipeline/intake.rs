//! What a lane has received and not committed: events, and the state of their partitions.
//!
//! Invariant: the buffer holds events only of partitions that this lane owns and whose position it knows. A partition
//! that is revoked or repositioned is forgotten everywhere at once.

use std::time::Duration;

use projector_core::batch::{BatchLimits, Buffer};
use projector_core::event::Partition;
use projector_kafka::{Incoming, RevokeGuard, Source, Subject, TopicsChange};
use projector_store::Advance;
use projector_store::deployments::WriteBarrier;
use tokio::time::Instant;

use super::InFlightBatch;
use super::faults::Faults;
use super::positions::Positions;
use crate::retry::RunEnd;
use crate::settle;

/// How many batches the buffer holds while the write barrier is at some offsets.
const HELD_BATCHES: usize = 16;

pub(super) struct Intake {
    pub(super) source: Source,
    pub(super) limits: BatchLimits,
    pub(super) positions: Positions,
    pub(super) faults: Faults,
    pub(super) buffer: Buffer,
    /// Which events may be written now: all, those up to some offsets, or none.
    pub(super) barrier: WriteBarrier,
    /// When to check whether the barrier has changed.
    pub(super) barrier_again: Option<Instant>,
    /// The topics that match now, and those that do not match any more: to be recorded.
    pub(super) topics: Option<TopicsChange>,
    /// Why the consumer cannot go on.
    pub(super) ended: Option<RunEnd>,
}

impl Intake {
    pub(super) fn new(source: Source, limits: BatchLimits, positions: Positions, faults: Faults) -> Self {
        Self {
            source,
            limits,
            positions,
            faults,
            buffer: Buffer::default(),
            barrier: WriteBarrier::Open,
            barrier_again: None,
            topics: None,
            ended: None,
        }
    }

    /// Takes the next batch from the buffer, as far as the write barrier allows.
    pub(super) fn take_batch(&mut self) -> Option<InFlightBatch> {
        let deliveries = match &self.barrier {
            WriteBarrier::Open => self.buffer.take(self.limits),
            WriteBarrier::Closed => Vec::new(),
            WriteBarrier::UpTo(at) => self.buffer.take_within(self.limits, at),
        };
        (!deliveries.is_empty()).then_some(InFlightBatch {
            deliveries,
            answers: None,
            asked: Duration::ZERO,
            calls: Vec::new(),
            foreign: None,
        })
    }

    /// Receives everything that the source has now, as long as there is room.
    pub(super) fn drain(&mut self) {
        while !self.is_crowded()
            && let Some(incoming) = self.source.try_next()
        {
            self.receive(incoming);
        }
    }

    /// Whether the buffer is full. While the barrier is at some offsets, the events up to them of one partition may lie
    /// behind many of another one, so there is room for more batches.
    pub(super) fn is_crowded(&self) -> bool {
        let BatchLimits { events, bytes } = self.limits;
        let limits = match &self.barrier {
            WriteBarrier::UpTo(_) => {
                BatchLimits { events: HELD_BATCHES * events, bytes: HELD_BATCHES * bytes }
            }
            _ => self.limits,
        };
        self.buffer.is_full(limits)
    }

    pub(super) fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Events(deliveries) => self.buffer.extend(deliveries),
            Incoming::Granted(partitions) => self.positions.ask(partitions),
            Incoming::Revoked(partitions) => {
                for partition in &partitions {
                    self.positions.forget(partition);
                    self.buffer.forget(partition);
                    self.faults.forget(&Subject::Partition(partition.clone()));
                }
            }
            Incoming::Recheck => self.reposition(&self.source.granted()),
            Incoming::Topics(change) => self.topics = Some(change),
            Incoming::Fault { subject, fault } => self.faults.told(subject, fault),
            Incoming::Failed(reason) => self.ended = Some(RunEnd::Restart(reason)),
            Incoming::Panicked(said) => {
                self.ended = Some(RunEnd::Crashed(format!("the poll thread: {said}")))
            }
        }
    }

    /// Drops what was read of these partitions, and asks again where to read on.
    pub(super) fn reposition(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.source.stop_reading(partition);
            self.positions.forget(partition);
            self.buffer.forget(partition);
        }
        self.positions.ask(partitions.to_vec());
    }

    /// Drops the events of revoked partitions from a batch. Until the guard is dropped, no partition of the rest is
    /// revoked, so that a commit cannot overlap with the next owner.
    pub(super) fn guard_revokes(&self, batch: &mut InFlightBatch) -> RevokeGuard {
        let events = batch.deliveries.len();
        let guard = self.source.guard_revokes(&mut batch.deliveries);
        if batch.deliveries.len() != events {
            batch.answers = None;
        }
        guard
    }

    /// Puts all but the first events of a batch back into the buffer.
    pub(super) fn cut(&mut self, batch: &mut InFlightBatch, events: usize) {
        self.buffer.put_back(batch.deliveries.split_off(events));
        if let Some(answers) = &mut batch.answers {
            answers.truncate(events);
        }
    }

    /// How a commit of the batch would move the checkpoints.
    pub(super) fn advances(&self, batch: &InFlightBatch) -> Vec<Advance> {
        let checkpoint = |partition: &Partition| self.positions.checkpoint(partition);
        settle::advances(&batch.deliveries, &[], &checkpoint)
    }
}
