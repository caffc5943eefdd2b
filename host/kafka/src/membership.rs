//! Tracks a consumer's member id in its group.

use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use super::texts::taken;
use projector_core::member_ids::MemberIds;

/// How often the member id is checked. A consumer that was removed from its group joins again under another
/// id.
const LOOK: Duration = Duration::from_millis(250);
/// A consumer that was removed from its group joins again by itself, mostly within seconds. A consumer that
/// does not has a client that is stuck, and there is no other sign of it.
const OUT_OF_GROUP: Duration = Duration::from_secs(60);

pub(super) struct Membership {
    ids: MemberIds,
    id: Option<String>,
    looked: Option<Instant>,
    /// Since when the consumer is not a member any more.
    out_since: Option<Instant>,
}

impl Membership {
    pub(super) fn new(ids: MemberIds) -> Self {
        Self { ids, id: None, looked: None, out_since: None }
    }

    /// Reads the consumer's member id, at most once in [`LOOK`].
    pub(super) fn look<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        let now = Instant::now();
        self.looked = Some(now);
        self.note(member_id(consumer), now);
    }

    /// Whether the consumer has been out of its group for so long that it will not join again by itself.
    /// Returned once.
    pub(super) fn is_lost(&mut self, now: Instant) -> bool {
        let is_lost = self.out_since.is_some_and(|since| now.duration_since(since) > OUT_OF_GROUP);
        if is_lost {
            self.out_since = None;
        }
        is_lost
    }

    fn note(&mut self, id: Option<String>, now: Instant) {
        if id == self.id {
            return;
        }
        self.out_since = id.is_none().then_some(now);
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

/// `None` if the consumer is not a member now.
fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<String> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is open.
    unsafe { taken(client, native::rd_kafka_memberid(client)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_join_again_is_lost_and_one_that_never_was_a_member_is_not() {
        let mut membership = Membership::new(MemberIds::new(Duration::ZERO));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        membership.note(None, began);
        assert!(!membership.is_lost(after(1_000)));
        membership.note(Some("a".into()), after(1_000));
        membership.note(None, after(1_010));
        membership.note(Some("b".into()), after(1_020));
        assert!(!membership.is_lost(after(2_000)), "it joined again");
        membership.note(None, after(2_000));
        membership.note(None, after(2_050));
        assert!(!membership.is_lost(after(2_060)));
        assert!(membership.is_lost(after(2_061)));
        assert!(!membership.is_lost(after(2_062)), "it is told once");
    }
}
