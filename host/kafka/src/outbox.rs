//! Messages to the pipeline for which the channel may have no room yet.
//!
//! The poll thread must not wait for the pipeline. So a message for which the channel has no room is kept here, and sent
//! later in the same order. While a message is here, the thread reads no events, so the outbox stays small.

use std::collections::VecDeque;

use projector_core::event::Partition;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::Incoming;
use super::kafka_fault::Subject;

pub(super) struct Outbox {
    channel: Sender<Incoming>,
    waiting: VecDeque<Incoming>,
}

impl Outbox {
    pub(super) fn new(channel: Sender<Incoming>) -> Self {
        Self { channel, waiting: VecDeque::new() }
    }

    pub(super) fn push(&mut self, message: Incoming) {
        self.waiting.push_back(message);
    }

    /// Reports that the consumer cannot continue. The pipeline then creates a new one.
    pub(super) fn push_failed(&mut self, reason: impl Into<String>) {
        self.push(Incoming::Failed(reason.into()));
    }

    /// Reports the end of a partition's fault, if it had one: its records are fetched again.
    pub(super) fn push_fault_over(&mut self, partition: &Partition, fault: &mut Option<RDKafkaErrorCode>) {
        if fault.take().is_some() {
            self.push(Incoming::Fault { subject: Subject::Partition(partition.clone()), fault: None });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the pipeline has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }

    /// Sends the waiting messages until the channel is full. Returns whether all were sent.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(next) = self.waiting.pop_front() {
            match self.channel.try_send(next) {
                Ok(()) => {}
                Err(TrySendError::Full(next)) => {
                    self.waiting.push_front(next);
                    return false;
                }
                Err(TrySendError::Closed(_)) => self.waiting.clear(),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wait_for_room_in_their_order() {
        let (channel, mut received) = tokio::sync::mpsc::channel(1);
        let mut outbox = Outbox::new(channel);
        outbox.push_failed("first");
        outbox.push_failed("second");
        assert!(!outbox.flush(), "the channel has room for one");
        assert!(matches!(received.try_recv(), Ok(Incoming::Failed(reason)) if reason == "first"));
        assert!(outbox.flush());
        assert!(matches!(received.try_recv(), Ok(Incoming::Failed(reason)) if reason == "second"));
        outbox.push_failed("third");
        drop(received);
        assert!(outbox.is_closed() && outbox.flush() && outbox.is_empty());
    }

    #[test]
    fn the_end_of_a_fault_is_reported_once() {
        let (channel, _received) = tokio::sync::mpsc::channel(1);
        let mut outbox = Outbox::new(channel);
        let partition = Partition::new("orders", 0);
        let mut fault = None;
        outbox.push_fault_over(&partition, &mut fault);
        assert!(outbox.is_empty());
        fault = Some(RDKafkaErrorCode::LeaderNotAvailable);
        outbox.push_fault_over(&partition, &mut fault);
        assert!(!outbox.is_empty() && fault.is_none());
    }
}
