//! Tracks a consumer's member id in its group.
//!
//! By these ids, a host recognizes its own members among those of other programs. The id also shows that a consumer was
//! removed from its group and does not join it again: librdkafka does not report this.

use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use super::c_text;
use projector_core::member_ids::MemberIds;

/// How often the member id is checked. A consumer that was removed from its group joins again under another
/// id.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// A consumer that was removed from its group normally joins again by itself within seconds. If it has not joined
/// within this time, its client is stuck. There is no other sign of this.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Membership {
    /// The ids of all consumers of this host.
    ids: MemberIds,
    id: Option<String>,
    last_check: Option<Instant>,
    /// Since when the consumer is not a member any more. `None` also before it was a member.
    out_since: Option<Instant>,
}

impl Membership {
    pub(super) fn new(ids: MemberIds) -> Self {
        Self { ids, id: None, last_check: None, out_since: None }
    }

    /// Reads the consumer's member id, at most once in [`CHECK_INTERVAL`].
    pub(super) fn update<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) {
        if self.last_check.is_some_and(|last| last.elapsed() < CHECK_INTERVAL) {
            return;
        }
        let now = Instant::now();
        self.last_check = Some(now);
        self.set_id(member_id(consumer), now);
    }

    /// Whether the consumer has been out of its group for so long that it will not join again by itself.
    /// Returned once.
    pub(super) fn is_lost(&mut self, now: Instant) -> bool {
        let is_lost = self.out_since.is_some_and(|since| now.duration_since(since) > REJOIN_TIMEOUT);
        if is_lost {
            self.out_since = None;
        }
        is_lost
    }

    fn set_id(&mut self, id: Option<String>, now: Instant) {
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
    unsafe { c_text::take(client, native::rd_kafka_memberid(client)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_does_not_join_again_is_lost() {
        let mut membership = Membership::new(MemberIds::new(Duration::ZERO));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        membership.set_id(None, began);
        assert!(!membership.is_lost(after(1_000)), "it was never a member");
        membership.set_id(Some("a".into()), after(1_000));
        membership.set_id(None, after(1_010));
        membership.set_id(Some("b".into()), after(1_020));
        assert!(!membership.is_lost(after(2_000)), "it joined again");
        membership.set_id(None, after(2_000));
        membership.set_id(None, after(2_050));
        assert!(!membership.is_lost(after(2_060)));
        assert!(membership.is_lost(after(2_061)));
        assert!(!membership.is_lost(after(2_062)), "it is reported once");
    }
}
