//! Which member of its group a consumer is.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use crate::member_ids::MemberIds;

/// How often it is looked at: a consumer that was put out of its group joins it again under another id.
const LOOK: Duration = Duration::from_millis(250);

pub(super) struct Membership {
    ids: MemberIds,
    id: Option<String>,
    looked: Option<Instant>,
}

impl Membership {
    pub(super) fn new(ids: MemberIds) -> Self {
        Self { ids, id: None, looked: None }
    }

    /// Notes the id that the consumer has now, if it was not looked at a moment ago.
    pub(super) fn look<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let id = member_id(consumer);
        if id == self.id {
            return;
        }
        if let Some(id) = &id {
            self.ids.joined(id);
        }
        self.leave();
        self.id = id;
    }

    fn leave(&mut self) {
        if let Some(id) = self.id.take() {
            self.ids.left(&id);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

/// `None`: it is no member now.
fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<String> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is open; the text is copied, and given back to whoever made it.
    unsafe {
        let id = native::rd_kafka_memberid(client);
        if id.is_null() {
            return None;
        }
        let copied = CStr::from_ptr(id).to_string_lossy().into_owned();
        native::rd_kafka_mem_free(client, id.cast());
        Some(copied).filter(|id| !id.is_empty())
    }
}
