//! What a lane has received and not committed yet: events, and the state of their partitions.
//!
//! Invariant: the buffer holds only events of partitions that this lane owns and whose position it knows. If a
//! partition is revoked, or must be read from another position, its events and its state are dropped everywhere at
//! once.

use std::time::Duration;

use projector_core::batch::{BatchLimits, Buffer};
use projector_core::event::Partition;
use projector_kafka::{Incoming, RevokeGuard, Source, Subject, TopicsChange};
use projector_store::{Advance, WriteBarrier};
use tokio::time::Instant;

use super::InFlightBatch;
use super::faults::Faults;
use super::positions::Positions;
use crate::retry::RunEnd;
use crate::settle;

/// How many batches the buffer may hold while the write barrier allows events up to given offsets only.
const BATCHES_AT_BARRIER: usize = 16;

pub(super) struct Intake {
    pub(super) source: Source,
    pub(super) limits: BatchLimits,
    pub(super) positions: Positions,
    pub(super) faults: Faults,
    pub(super) buffer: Buffer,
    /// Which events may be written now: all events, events up to given offsets, or none.
    pub(super) barrier: WriteBarrier,
    /// When to read the barrier again.
    pub(super) barrier_again: Option<Instant>,
    /// A change of the topics that match the patterns, until it is stored.
    pub(super) topics: Option<TopicsChange>,
    /// Why the consumer cannot continue.
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

    /// Takes the next batch from the buffer: only events that the write barrier allows.
    pub(super) fn take_batch(&mut self) -> Option<InFlightBatch> {
        let deliveries = match &self.barrier {
            WriteBarrier::Open => self.buffer.take(self.limits),
            WriteBarrier::Closed => Vec::new(),
            WriteBarrier::UpTo(at) => self.buffer.take_within(self.limits, at),
        };
        (!deliveries.is_empty()).then_some(InFlightBatch {
            deliveries,
            answers: None,
            plugin_time: Duration::ZERO,
            calls: Vec::new(),
            recreated: None,
        })
    }

    /// Receives everything that the source has now, until the buffer is full.
    pub(super) fn drain(&mut self) {
        while !self.is_full()
            && let Some(incoming) = self.source.try_next()
        {
            self.receive(incoming);
        }
    }

    /// Whether the buffer is full. While the barrier allows events up to given offsets only, the allowed events of one
    /// partition may come after many events of another partition that are not allowed. So the buffer then has room for
    /// more batches.
    pub(super) fn is_full(&self) -> bool {
        let BatchLimits { events, bytes } = self.limits;
        let limits = match &self.barrier {
            WriteBarrier::UpTo(_) => {
                BatchLimits { events: BATCHES_AT_BARRIER * events, bytes: BATCHES_AT_BARRIER * bytes }
            }
            _ => self.limits,
        };
        self.buffer.is_full(limits)
    }

    pub(super) fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Events(deliveries) => self.buffer.extend(deliveries),
            Incoming::Granted(partitions) => self.positions.open(partitions),
            Incoming::Revoked(partitions) => {
                for partition in &partitions {
                    self.positions.forget(partition);
                    self.buffer.forget(partition);
                    self.faults.forget(&Subject::Partition(partition.clone()));
                }
            }
            Incoming::Recheck => self.reposition(&self.source.granted()),
            Incoming::Topics(change) => self.topics = Some(change),
            Incoming::Fault { subject, fault } => self.faults.record(subject, fault),
            Incoming::Failed(reason) => self.ended = Some(RunEnd::Restart(reason)),
            Incoming::Panicked(message) => {
                self.ended = Some(RunEnd::Crashed(format!("the poll thread: {message}")))
            }
        }
    }

    /// Drops what was read of these partitions, and finds out their positions again.
    pub(super) fn reposition(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.source.stop_reading(partition);
            self.positions.forget(partition);
            self.buffer.forget(partition);
        }
        self.positions.open(partitions.to_vec());
    }

    /// Drops the events of revoked partitions from a batch. While the returned guard exists, a revoke of the other
    /// partitions waits (for a bounded time), so that the next owner reads the checkpoints after the commit.
    pub(super) fn guard_revokes(&self, batch: &mut InFlightBatch) -> RevokeGuard {
        let events = batch.deliveries.len();
        let guard = self.source.guard_revokes(&mut batch.deliveries);
        if batch.deliveries.len() != events {
            batch.answers = None;
        }
        guard
    }

    /// Shortens a batch to this many events from its front, and puts the others back into the buffer.
    pub(super) fn cut(&mut self, batch: &mut InFlightBatch, events: usize) {
        self.buffer.put_back(batch.deliveries.split_off(events));
        if let Some(answers) = &mut batch.answers {
            answers.truncate(events);
        }
    }

    /// Puts all events of a batch back into the buffer.
    pub(super) fn put_back(&mut self, batch: &mut InFlightBatch) {
        self.cut(batch, 0);
    }

    /// How a commit of this batch would move the checkpoints.
    pub(super) fn advances(&self, batch: &InFlightBatch) -> Vec<Advance> {
        let checkpoint = |partition: &Partition| self.positions.checkpoint(partition);
        settle::advances(&batch.deliveries, &[], &checkpoint)
    }
}
