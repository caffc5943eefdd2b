//! The buffer of events that were read but not projected, and the batches that are taken from it. Pure.
//!
//! Events arrive in chunks of any size, and a transaction takes a bounded batch. The buffer stands between
//! them, and holds at most about two batches.
//!
//! Invariant: the events of a partition stay in the order of their offsets.

use std::collections::{BTreeMap, VecDeque};

use crate::event::{Event, Partition};

/// An event, and the epoch of the partition's assignment that delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub event: Event,
    /// The number of this reading of the partition. When a partition is revoked, or read again from its
    /// checkpoint, a new epoch starts, and deliveries of older epochs must not be projected.
    pub epoch: u64,
}

/// The largest batch for one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    pub events: usize,
    pub bytes: usize,
}

/// Events of one projection in the order in which they are projected: those of a partition by offset.
#[derive(Debug, Default)]
pub struct Buffer {
    waiting: VecDeque<Delivery>,
    /// The size of all events in `waiting`.
    bytes: usize,
}

impl Buffer {
    pub fn extend(&mut self, deliveries: Vec<Delivery>) {
        self.bytes += size_bytes(&deliveries);
        self.waiting.extend(deliveries);
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the buffer holds two batches: one is written, and meanwhile the plugin is called for the
    /// next one.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.waiting.len() >= 2 * limits.events || self.bytes >= limits.bytes.saturating_mul(2)
    }

    /// Takes the next batch: at least one event if there is one, then as many as the limits allow.
    pub fn take(&mut self, limits: BatchLimits) -> Vec<Delivery> {
        let mut bytes = 0;
        let mut count = 0;
        for delivery in self.waiting.iter().take(limits.events.max(1)) {
            bytes += delivery.event.size_bytes();
            if count > 0 && bytes > limits.bytes {
                break;
            }
            count += 1;
        }
        let batch: Vec<Delivery> = self.waiting.drain(..count).collect();
        self.bytes -= size_bytes(&batch);
        batch
    }

    /// Takes the next batch of the events before these offsets. Later events, and events of partitions that
    /// are not listed, stay in the buffer.
    pub fn take_within(&mut self, limits: BatchLimits, offsets: &BTreeMap<Partition, i64>) -> Vec<Delivery> {
        let is_within = |delivery: &Delivery| {
            let position = &delivery.event.position;
            offsets.get(&position.partition).is_some_and(|end| position.offset < *end)
        };
        let (within, later) = std::mem::take(&mut self.waiting).into_iter().partition(is_within);
        self.waiting = within;
        let batch = self.take(limits);
        self.waiting.extend::<VecDeque<_>>(later);
        batch
    }

    /// Puts events back that were taken last, before all others.
    pub fn put_back(&mut self, deliveries: Vec<Delivery>) {
        self.bytes += size_bytes(&deliveries);
        for delivery in deliveries.into_iter().rev() {
            self.waiting.push_front(delivery);
        }
    }

    /// Drops all events of a partition, when its epoch is over.
    pub fn forget(&mut self, partition: &Partition) {
        self.waiting.retain(|delivery| delivery.event.position.partition != *partition);
        self.bytes = size_bytes(&self.waiting);
    }
}

fn size_bytes<'d>(deliveries: impl IntoIterator<Item = &'d Delivery>) -> usize {
    deliveries.into_iter().map(|delivery| delivery.event.size_bytes()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Position;

    fn delivery(number: i32, offset: i64, bytes: usize) -> Delivery {
        let position = Position { partition: Partition::new("t", number), offset };
        let event = Event {
            position,
            topic: 0,
            timestamp_ms: None,
            key: None,
            value: Some(vec![0; bytes]),
            also: Vec::new(),
            topic_name: "t".into(),
            oversize_bytes: None,
            headers: vec![],
        };
        Delivery { event, epoch: 1 }
    }

    fn offsets(deliveries: &[Delivery]) -> Vec<i64> {
        deliveries.iter().map(|delivery| delivery.event.position.offset).collect()
    }

    #[test]
    fn a_batch_is_bounded_by_events_and_bytes_but_never_empty() {
        let mut buffer = Buffer::default();
        buffer.extend((0..5).map(|offset| delivery(0, offset, 10_000)).collect());
        assert_eq!(offsets(&buffer.take(BatchLimits { events: 2, bytes: usize::MAX })), [0, 1]);
        assert_eq!(offsets(&buffer.take(BatchLimits { events: 9, bytes: 1 })), [2]);
        assert_eq!(offsets(&buffer.take(BatchLimits { events: 9, bytes: usize::MAX })), [3, 4]);
        assert!(buffer.take(BatchLimits { events: 9, bytes: 9 }).is_empty());
    }

    #[test]
    fn a_buffer_is_full_of_many_events_or_of_large_ones() {
        let limits = BatchLimits { events: 3, bytes: 20_000 };
        let mut buffer = Buffer::default();
        buffer.extend((0..5).map(|offset| delivery(0, offset, 1)).collect());
        assert!(!buffer.is_full(limits));
        buffer.extend(vec![delivery(1, 0, 40_000)]);
        assert!(buffer.is_full(limits));
        buffer.forget(&Partition::new("t", 1));
        assert!(!buffer.is_full(limits));
        let taken = buffer.take(limits);
        buffer.put_back(taken);
        buffer.extend(vec![delivery(0, 5, 1)]);
        assert!(buffer.is_full(limits));
    }

    #[test]
    fn events_that_are_put_back_come_first() {
        let mut buffer = Buffer::default();
        buffer.extend((0..4).map(|offset| delivery(0, offset, 1)).collect());
        let taken = buffer.take(BatchLimits { events: 3, bytes: usize::MAX });
        buffer.put_back(taken);
        assert_eq!(offsets(&buffer.take(BatchLimits { events: 9, bytes: usize::MAX })), [0, 1, 2, 3]);
    }

    #[test]
    fn events_after_a_write_barrier_stay_in_their_order() {
        let mut buffer = Buffer::default();
        buffer.extend((0..4).flat_map(|offset| [delivery(0, offset, 1), delivery(1, offset, 1)]).collect());
        let limits = BatchLimits { events: 9, bytes: usize::MAX };
        let before_barrier =
            buffer.take_within(limits, &[(Partition::new("t", 0), 3), (Partition::new("t", 1), 1)].into());
        assert_eq!(offsets(&before_barrier), [0, 0, 1, 2]);
        assert!(buffer.take_within(limits, &BTreeMap::new()).is_empty());
        assert_eq!(offsets(&buffer.take(limits)), [1, 2, 3, 3]);
    }

    #[test]
    fn forgetting_a_partition_keeps_the_others() {
        let mut buffer = Buffer::default();
        buffer.extend(vec![delivery(0, 0, 1), delivery(1, 7, 1), delivery(0, 1, 1)]);
        buffer.forget(&Partition::new("t", 0));
        assert_eq!(offsets(&buffer.take(BatchLimits { events: 9, bytes: usize::MAX })), [7]);
    }
}
