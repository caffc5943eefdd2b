//! The partitions that a consumer reads, and their events in the order of the merge.
//!
//! Each partition has a queue of its own in librdkafka. The merge holds the next event of each partition. When it is
//! taken, the following event is moved from the queue to the merge. All other events stay in librdkafka's queues, and
//! librdkafka fetches nothing for a full queue.
//!
//! Invariant: a partition is read in one epoch at a time, and every event carries the epoch in which it was read.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use projector_core::batch::Delivery;
use projector_core::event::{Event, Partition, Position};
use projector_core::failpoint;
use projector_core::instant::now_ms;
use projector_core::topics::TopicMapping;
use rdkafka::bindings as native;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::client_errors::{ClientErrors, is_out_of_range};
use super::headers::headers;
use super::kafka_fault::Subject;
use super::log_ends::{Ends, LogEnds};
use super::merge::{Merge, Merging};
use super::outbox::Outbox;
use super::rebalance::GroupContext;
use super::{Incoming, NEAR_THE_END, Span};

/// One message to the pipeline has at most this many events. It ends with the event that reaches [`CHUNK_BYTES`].
const CHUNK_EVENTS: usize = 500;
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

pub(super) struct Readings {
    by_epoch: HashMap<u64, Reading>,
    merge: Merge<Event>,
    /// Declared before the consumer, so that it is dropped first.
    ends: LogEnds,
    topics: TopicMapping,
    /// The largest value that is read.
    value_bytes: usize,
    consumer: Arc<BaseConsumer<GroupContext>>,
}

/// A partition that is read.
struct Reading {
    partition: Partition,
    /// The indices of its logical topics in the descriptor.
    topic: u16,
    also: Vec<u16>,
    /// The offset up to which the log was read: after the last record that was taken from the queue, or the
    /// end of the log. Offsets before the end may hold nothing for consumers, such as transaction markers.
    next: i64,
    /// The end of the log when reading started.
    known_end: i64,
    /// The offset at which the partition is not behind any more. `None`: it is not behind.
    end: Option<i64>,
    queue: PartitionQueue<GroupContext>,
    /// Why nothing can be fetched. librdkafka reports the cause once, and retries.
    fault: Option<RDKafkaErrorCode>,
}

impl Readings {
    pub(super) fn new(
        consumer: Arc<BaseConsumer<GroupContext>>,
        topics: TopicMapping,
        merging: Merging,
        value_bytes: usize,
    ) -> Self {
        Self {
            by_epoch: HashMap::new(),
            merge: Merge::new(merging),
            ends: LogEnds::new(&consumer),
            topics,
            value_bytes,
            consumer,
        }
    }

    /// Starts to read a partition, which is not read yet.
    pub(super) fn start(&mut self, epoch: u64, Span { partition, from, end }: &Span) -> Result<(), String> {
        let mut places = self.topics.places(&partition.topic).into_iter();
        let topic = places.next().ok_or("the partition belongs to no topic of the projection")?;
        let also = places.collect();
        // The queue is split off before the partition is assigned. Otherwise its first events could go to the consumer's
        // common queue.
        let mut queue = self
            .consumer
            .split_partition_queue(&partition.topic, partition.number)
            .ok_or("the partition has no queue of its own")?;
        let poll_thread = thread::current();
        queue.set_nonempty_callback(move || poll_thread.unpark());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(*from))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .map_err(|error| error.to_string())?;
        self.consumer.context().assigned().insert(partition.clone());
        let (next, known_end) = (*from, *end);
        let end = Some(known_end).filter(|end| next < *end);
        self.merge.add(epoch, end.is_some(), Instant::now());
        let partition = partition.clone();
        let reading = Reading { partition, topic, also, next, known_end, end, queue, fault: None };
        self.by_epoch.insert(epoch, reading);
        Ok(())
    }

    /// Drops a partition's events that were not taken yet. Does not affect what is assigned to librdkafka.
    pub(super) fn remove(&mut self, partition: &Partition) {
        let read = self.by_epoch.iter().find(|(_, reading)| reading.partition == *partition);
        if let Some(epoch) = read.map(|(epoch, _)| *epoch) {
            self.by_epoch.remove(&epoch);
            self.merge.remove(epoch);
        }
    }

    /// Call when the generation is caught up, and this host still builds it alone.
    pub(super) fn near_the_end(&mut self) {
        self.merge.near_the_end();
    }

    /// Call when all hosts share the generation.
    pub(super) fn caught_up(&mut self) {
        self.merge.caught_up();
    }

    /// Puts the next chunk of events into the outbox, merged by time. The outbox stays empty if there are no
    /// events yet, or if the first one must wait for another partition.
    pub(super) fn collect(&mut self, errors: &mut ClientErrors, outbox: &mut Outbox) {
        let now = Instant::now();
        let now_ms = now_ms();
        // Take the answer before the queues are read: the records that were in the logs when the request was sent are
        // in the queues by now.
        let ends = self.ends.answer();
        for epoch in self.merge.without_head() {
            self.refill(epoch, now_ms, errors, outbox);
        }
        if let Some(ends) = ends {
            self.note_ends(&ends);
        }
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < CHUNK_EVENTS
            && bytes < CHUNK_BYTES
            && let Some((epoch, event)) = self.merge.take(now, now_ms)
        {
            bytes += event.size_bytes();
            chunk.push(Delivery { event, epoch });
            self.refill(epoch, now_ms, errors, outbox);
        }
        if !chunk.is_empty() {
            outbox.push(Incoming::Events(chunk));
        }
        self.request_ends(now, now_ms);
        for epoch in self.merge.timed_out() {
            self.warn_of_lost_order(epoch);
        }
    }

    /// Marks partitions that were read to the end of their logs as complete.
    fn note_ends(&mut self, Ends { requested_ms, ends }: &Ends) {
        for (epoch, reading) in &self.by_epoch {
            if ends.get(&reading.partition).is_some_and(|end| reading.next >= *end) {
                self.merge.complete(*epoch, *requested_ms);
            }
        }
    }

    /// Asks for the ends of the logs for which the merge waits, one request at a time.
    fn request_ends(&mut self, now: Instant, now_ms: i64) {
        if !self.ends.is_free(now) {
            return;
        }
        let unconfirmed = self.merge.unconfirmed().filter_map(|epoch| self.by_epoch.get(&epoch));
        let mut partitions = unconfirmed.map(|reading| reading.partition.clone()).peekable();
        if partitions.peek().is_some() {
            self.ends.request(&self.consumer, partitions, now, now_ms);
        }
    }

    fn warn_of_lost_order(&self, epoch: u64) {
        let Some(reading) = self.by_epoch.get(&epoch) else { return };
        let (group, partition) = (&self.consumer.context().group, &reading.partition);
        tracing::warn!(
            group,
            %partition,
            "the partition returns no events, and it is unknown whether it is at its end: the host no longer waits for it and reads the other partitions, so events may be applied in another order than they were written"
        );
    }

    /// Offers the next event of a partition to the merge, if there is one.
    fn refill(&mut self, epoch: u64, now_ms: i64, errors: &mut ClientErrors, outbox: &mut Outbox) {
        let Some(reading) = self.by_epoch.get_mut(&epoch) else { return };
        // The loop ends with an event, an error, or an empty queue. A report of the end of the log does not end it.
        let error = loop {
            match reading.queue.poll(Duration::ZERO) {
                None => {
                    // librdkafka reports the end of a log only if no record is written for a while. So compare with the
                    // end that the last fetch has returned.
                    if self.merge.is_by_time()
                        && self.merge.is_awaited(epoch)
                        && high_watermark(&self.consumer, &reading.partition)
                            .is_some_and(|high| reading.next >= high.max(reading.known_end))
                    {
                        self.merge.at_end(epoch);
                    }
                    return;
                }
                Some(Ok(message)) => {
                    failpoint::reached(failpoint::POLL, projection_of(&self.consumer.context().group));
                    outbox.push_fault_over(&reading.partition, &mut reading.fault);
                    let event = event(reading, &message, self.value_bytes);
                    let (offset, time) = (event.position.offset, event.timestamp_ms);
                    self.merge.offer(epoch, time, now_ms, event);
                    reading.next = offset + 1;
                    if !self.merge.is_by_time() && reading.end.is_some_and(|end| offset + 1 >= end) {
                        let high = high_watermark(&self.consumer, &reading.partition);
                        reading.end = high.filter(|high| high - offset > NEAR_THE_END);
                        if reading.end.is_none() {
                            self.merge.at_end(epoch);
                        }
                    }
                    return;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    outbox.push_fault_over(&reading.partition, &mut reading.fault);
                    reading.end = None;
                    if let Some(high) = high_watermark(&self.consumer, &reading.partition) {
                        reading.next = reading.next.max(high);
                    }
                    self.merge.at_end(epoch);
                }
                Some(Err(error)) => break error,
            }
        };
        match &error {
            KafkaError::MessageConsumption(code) if !is_out_of_range(*code) => {
                if reading.fault.replace(*code) != Some(*code) {
                    let subject = Subject::Partition(reading.partition.clone());
                    let fault = errors.fetch_fault(subject.clone(), *code);
                    outbox.push(Incoming::Fault { subject, fault: Some(fault) });
                }
            }
            error => errors.report(error, outbox),
        }
    }
}

/// The projection of a group, whose id is `PREFIX.PROJECTION.gNUMBER.STORE`.
fn projection_of(group: &str) -> &str {
    group.rsplit('.').nth(2).unwrap_or_default()
}

/// Copies a record. A value of more than `value_bytes` is left out.
fn event(reading: &Reading, message: &BorrowedMessage<'_>, value_bytes: usize) -> Event {
    let oversize_bytes = message.payload().map(<[u8]>::len).filter(|bytes| *bytes > value_bytes);
    Event {
        position: Position { partition: reading.partition.clone(), offset: message.offset() },
        topic: reading.topic,
        also: reading.also.clone(),
        topic_name: reading.partition.topic.clone(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().filter(|_| oversize_bytes.is_none()).map(<[u8]>::to_vec),
        oversize_bytes,
        headers: headers(message),
    }
}

/// The end of a partition's log, as of the last fetch. rdkafka's own function would send a request to the broker.
fn high_watermark(consumer: &BaseConsumer<GroupContext>, partition: &Partition) -> Option<i64> {
    let topic = CString::new(&*partition.topic).ok()?;
    let (mut low, mut high) = (0, 0);
    // SAFETY: all pointers outlive the call, which keeps none of them.
    let error = unsafe {
        native::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition.number,
            &mut low,
            &mut high,
        )
    };
    (error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(high)
}

#[cfg(test)]
mod tests {
    use super::projection_of;

    #[test]
    fn a_group_names_its_projection_whatever_its_prefix() {
        assert_eq!(projection_of("projector.order-search.g3.store"), "order-search");
        assert_eq!(projection_of("team.a.sales.g1.store"), "sales");
        assert_eq!(projection_of("no-group-of-ours"), "");
    }
}
