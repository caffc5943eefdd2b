//! Asks leaders where the logs of partitions end, without blocking the poll thread.
//!
//! librdkafka gets fetched records and this answer from a leader on one connection, in order. So when the answer
//! arrives, all records that were fetched before it are in the partition's queue.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use projector_core::event::Partition;

/// Time between two requests.
const REQUEST_INTERVAL: Duration = Duration::from_millis(50);
/// A request without an answer after this time has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A leader's answer.
pub(super) struct Ends {
    /// When the request was sent, in milliseconds since 1970.
    pub(super) requested_ms: i64,
    /// The offset after the last committed record. Partitions without an answer are missing.
    pub(super) ends: HashMap<Partition, i64>,
}

/// Sends one request at a time, on a queue of its own.
pub(super) struct LogEnds {
    queue: *mut native::rd_kafka_queue_t,
    /// When the open request was sent, in milliseconds since 1970. `None`: no request is open.
    requested_ms: Option<i64>,
    /// When the next request may be sent.
    next: Instant,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for LogEnds {}

impl LogEnds {
    /// Must be dropped before the consumer.
    pub(super) fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Self {
        // SAFETY: the client is open.
        let queue = unsafe { native::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self { queue, requested_ms: None, next: Instant::now() }
    }

    /// Whether a request can be sent now.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.requested_ms.is_none() && self.next <= now
    }

    /// Asks for the ends of these partitions' logs: the last stable offsets.
    pub(super) fn request<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        partitions: impl Iterator<Item = Partition>,
        now: Instant,
        now_ms: i64,
    ) {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            // Fails only for an invalid offset.
            let _ = list.add_partition_offset(&partition.topic, partition.number, Offset::End);
        }
        let client = consumer.client().native_ptr();
        // SAFETY: the client is open; librdkafka copies the list and the options.
        unsafe {
            let options = native::rd_kafka_AdminOptions_new(
                client,
                native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
            );
            let isolation = native::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
            let error = native::rd_kafka_AdminOptions_set_isolation_level(options, isolation);
            if !error.is_null() {
                native::rd_kafka_error_destroy(error);
            }
            let timeout_ms = REQUEST_TIMEOUT.as_millis() as i32;
            native::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
            native::rd_kafka_ListOffsets(client, list.ptr(), options, self.queue);
            native::rd_kafka_AdminOptions_destroy(options);
        }
        self.requested_ms = Some(now_ms);
        self.next = now + REQUEST_INTERVAL;
    }

    /// The answer, when it has arrived. A failed request has no entries, and another one can be sent.
    pub(super) fn answer(&mut self) -> Option<Ends> {
        let requested_ms = self.requested_ms?;
        // SAFETY: the queue is open, and the event is destroyed when its contents were copied.
        unsafe {
            let event = native::rd_kafka_queue_poll(self.queue, 0);
            if event.is_null() {
                return None;
            }
            self.requested_ms = None;
            let result = native::rd_kafka_event_ListOffsets_result(event);
            let mut ends = HashMap::new();
            if !result.is_null() {
                let mut count = 0;
                let infos = native::rd_kafka_ListOffsets_result_infos(result, &mut count);
                for at in 0..count {
                    let found = native::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(at));
                    let found = &*found;
                    if found.err == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                        let topic = CStr::from_ptr(found.topic).to_string_lossy();
                        ends.insert(Partition::new(&*topic, found.partition), found.offset);
                    }
                }
            }
            native::rd_kafka_event_destroy(event);
            Some(Ends { requested_ms, ends })
        }
    }
}

impl Drop for LogEnds {
    fn drop(&mut self) {
        // SAFETY: the queue is used here only, and its client is still open.
        unsafe { native::rd_kafka_queue_destroy(self.queue) };
    }
}
