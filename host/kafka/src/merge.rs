//! Merges the partitions of one consumer by the timestamps of their records.
//!
//! Kafka orders records only within a partition. A consumer that is far behind gets the records of several partitions as
//! they arrive: perhaps all records of a small topic before the first hour of a large one, although they were written at
//! the same time. So a consumer *merges* its partitions: of the records that it has, the earliest comes first, and the
//! merge waits for every partition that may still have an earlier record.
//!
//! There are three orders:
//!
//! - [`MergeOrder::Time`], for a generation that is built: every record is ordered by its own timestamp, up to the end
//!   of the log. The merge waits for a partition that is known to have more records. A partition that was read to the
//!   end of its log may have got a record since then. So a record of another partition waits until the broker confirms,
//!   at least [`LATENESS`] after the record's time, that the log still ends there. Only records that reach the log
//!   later than that are out of order, however slow this host is.
//! - [`MergeOrder::TimeWhileBehind`], for a live generation: only partitions that have not reached the end of their log
//!   yet are merged by time. When a partition has reached its end once, its records are ordered by their arrival,
//!   whatever their timestamps are, and it does not delay other partitions. So an import of old records does not delay
//!   new ones.
//! - [`MergeOrder::Arrival`]: no partition waits for another one.
//!
//! Merging by time delays new records behind old ones. It is used for projections that need the order, and for a
//! generation that has no readers yet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

/// How long the merge waits for a partition that is behind and returns no records, or whose end is unknown. After that
/// it continues without the partition: its broker may be down, and progress is more important than the order.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a generation that is built: it has no readers yet, and its order is more important.
const AWAIT_TIMEOUT_WHILE_BUILT: Duration = Duration::from_secs(30);
/// In milliseconds. How long after its timestamp a record may reach the log: producers batch and resend records. A
/// generation that is built is behind by at least this time. This does no harm, since it has no readers yet.
const LATENESS: Time = 2_000;
/// The same when the generation is caught up: less than the second for which a promotion may keep the live generation
/// from writing.
const LATENESS_WHEN_NEAR: Time = 250;
/// In milliseconds. A timestamp further in the future is ignored: the producer's clock is wrong.
const AHEAD: Time = 10_000;

/// The order of the records of several partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeOrder {
    /// As they arrive.
    Arrival,
    /// By their timestamps while their partition is behind, then as they arrive.
    TimeWhileBehind,
    /// By their timestamps.
    Time,
}

/// How partitions are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merging {
    pub order: MergeOrder,
    /// The order after the generation is caught up: see [`Source::caught_up`](super::Source::caught_up).
    pub then: MergeOrder,
    /// A record does not wait for another partition if it is later than the last record of that partition by at most
    /// this time.
    pub skew: Duration,
}

/// Milliseconds since 1970. A record without a usable timestamp sorts before all others.
type Time = i64;
const NO_TIME: Time = Time::MIN;

/// Merges items of several inputs into one sequence. The items of one input keep their order. For each input, the merge
/// holds the first item that was not taken yet (its *head*), if it was offered already.
pub(super) struct Merge<T> {
    merging: Merging,
    /// [`LATENESS`] or [`LATENESS_WHEN_NEAR`].
    lateness: Time,
    inputs: HashMap<u64, Input<T>>,
    /// The times of the inputs' heads; equal times in the order in which they were offered. Entries of removed inputs
    /// are ignored.
    heads: BinaryHeap<Reverse<(Time, u64, u64)>>,
    offered: u64,
    /// Inputs that are behind and have no head.
    awaited: BTreeMap<u64, Awaited>,
    /// With [`MergeOrder::Time`]: inputs that were read to their end and have no head.
    at_end: BTreeMap<u64, AtEnd>,
    /// Inputs for which the merge has stopped waiting, until they are reported.
    timed_out: Vec<u64>,
}

struct Input<T> {
    /// The first item that was not taken yet.
    head: Option<T>,
    /// The end of the log was not reached yet.
    behind: bool,
    /// All items that were in the log at this time have been offered.
    complete_until: Time,
}

struct AtEnd {
    /// The time of the last item that was taken.
    last: Time,
    /// Since when an item waits for this input, because the end of its log is not confirmed.
    unconfirmed_since: Option<Instant>,
    /// The merge has waited for too long, and does not wait for this input any more.
    timed_out: bool,
}

struct Awaited {
    since: Instant,
    /// The time of the last item that was taken. An item of another input that is later by at most the skew does not
    /// wait.
    last: Time,
    /// The merge has waited for too long, and does not wait for this input any more.
    timed_out: bool,
}

impl<T> Merge<T> {
    pub(super) fn new(merging: Merging) -> Self {
        Self {
            merging,
            lateness: LATENESS,
            inputs: HashMap::new(),
            heads: BinaryHeap::new(),
            offered: 0,
            awaited: BTreeMap::new(),
            at_end: BTreeMap::new(),
            timed_out: Vec::new(),
        }
    }

    /// Adds an input, under a key that was never used before.
    pub(super) fn add(&mut self, key: u64, behind: bool, now: Instant) {
        self.inputs.insert(key, Input { head: None, behind, complete_until: NO_TIME });
        self.await_next(key, behind, NO_TIME, now);
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.inputs.remove(&key);
        self.awaited.remove(&key);
        self.at_end.remove(&key);
    }

    /// Call when the generation is caught up, and still built: from now on, the merge waits less long for late items.
    pub(super) fn near_the_end(&mut self) {
        self.lateness = LATENESS_WHEN_NEAR;
    }

    /// Call when all hosts share the generation: no item that the merge holds waits any longer, and the order is now
    /// [`Merging::then`].
    pub(super) fn caught_up(&mut self) {
        self.merging.order = self.merging.then;
        self.inputs.values_mut().for_each(|input| input.behind = false);
        self.awaited.clear();
        self.at_end.clear();
    }

    /// Whether every item is ordered by its own time. If so, an input may reach its end many times.
    pub(super) fn is_by_time(&self) -> bool {
        self.merging.order == MergeOrder::Time
    }

    /// Whether others wait for this input, because it is not known to be at its end.
    pub(super) fn is_awaited(&self, key: u64) -> bool {
        self.awaited.contains_key(&key)
    }

    /// The inputs without a head: their next item must be offered.
    pub(super) fn without_head(&self) -> Vec<u64> {
        self.inputs.iter().filter(|(_, input)| input.head.is_none()).map(|(key, _)| *key).collect()
    }

    /// Inputs for which the merge has stopped waiting. Each is returned once.
    pub(super) fn timed_out(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.timed_out)
    }

    /// Offers the next item of an input without a head, with the item's time and the present time. A time far in the
    /// future is ignored: otherwise all later items would wait for it.
    pub(super) fn offer(&mut self, key: u64, time: Option<Time>, now: Time, item: T) {
        let order = self.merging.order;
        let Some(input) = self.inputs.get_mut(&key) else { return };
        let by_time = match order {
            MergeOrder::Arrival => false,
            MergeOrder::TimeWhileBehind => input.behind,
            MergeOrder::Time => true,
        };
        let time = match by_time {
            true => time.filter(|time| *time <= now + AHEAD).map_or(NO_TIME, |time| time.min(now)),
            false => now,
        };
        input.head = Some(item);
        // More items may follow.
        input.behind |= order == MergeOrder::Time;
        self.heads.push(Reverse((time, self.offered, key)));
        self.offered += 1;
        self.awaited.remove(&key);
        self.at_end.remove(&key);
    }

    /// Call when an input has reached the present end of its log.
    pub(super) fn at_end(&mut self, key: u64) {
        if let Some(input) = self.inputs.get_mut(&key) {
            input.behind = false;
            if let Some(awaited) = self.awaited.remove(&key)
                && self.merging.order == MergeOrder::Time
            {
                self.at_end.insert(key, AtEnd::after(awaited.last));
            }
        }
    }

    /// Call when the broker has confirmed that, at the time `until`, the log of an input without a head had no further
    /// items.
    pub(super) fn complete(&mut self, key: u64, until: Time) {
        if let Some(input) = self.inputs.get_mut(&key)
            && input.head.is_none()
        {
            input.complete_until = input.complete_until.max(until);
            if let Some(at_end) = self.at_end.get_mut(&key) {
                (at_end.unconfirmed_since, at_end.timed_out) = (None, false);
            }
        }
    }

    /// Inputs for which the broker must confirm the end of the log, since items wait for it.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = u64> {
        self.at_end.iter().filter(|(_, at_end)| at_end.unconfirmed_since.is_some()).map(|(key, _)| *key)
    }

    /// Takes the next item, with the key of its input. The input then has no head. `None` if there is no item, or if
    /// the first one must wait for another input.
    pub(super) fn take(&mut self, now: Instant, now_ms: Time) -> Option<(u64, T)> {
        loop {
            let Reverse((time, _, key)) = *self.heads.peek()?;
            if self.inputs.get(&key).is_some_and(|input| input.head.is_some())
                && self.is_early(time, now, now_ms)
            {
                return None;
            }
            self.heads.pop();
            let Some(input) = self.inputs.get_mut(&key) else { continue };
            let Some(item) = input.head.take() else { continue };
            let behind = input.behind;
            // An item without a time says nothing about the times of later items.
            let last = if time == NO_TIME { Time::MAX } else { time };
            self.await_next(key, behind, last, now);
            return Some((key, item));
        }
    }

    /// Records that an input has no head now.
    fn await_next(&mut self, key: u64, behind: bool, last: Time, now: Instant) {
        if behind {
            self.awaited.insert(key, Awaited { since: now, last, timed_out: false });
        } else if self.merging.order == MergeOrder::Time {
            self.at_end.insert(key, AtEnd::after(last));
        }
    }

    /// Whether an item of this time must wait for another input. Records the inputs for which the wait has timed out.
    fn is_early(&mut self, time: Time, now: Instant, now_ms: Time) -> bool {
        if self.merging.order == MergeOrder::Arrival {
            return false;
        }
        let skew = i64::try_from(self.merging.skew.as_millis()).unwrap_or(i64::MAX);
        let comes_before = |last: Time| time > last.saturating_add(skew);
        let timeout = match self.merging.order {
            MergeOrder::Time => AWAIT_TIMEOUT_WHILE_BUILT,
            MergeOrder::TimeWhileBehind | MergeOrder::Arrival => AWAIT_TIMEOUT,
        };
        let mut is_early = false;
        let mut wait_for = |key: u64, since: Instant, timed_out: &mut bool| {
            if now.saturating_duration_since(since) < timeout {
                is_early = true;
            } else if !std::mem::replace(timed_out, true) {
                self.timed_out.push(key);
            }
        };
        let complete_at = time.saturating_add(self.lateness);
        for (key, at_end) in &mut self.at_end {
            let is_complete = |input: &Input<T>| input.complete_until >= complete_at;
            if !comes_before(at_end.last) || self.inputs.get(key).is_some_and(is_complete) {
                continue;
            }
            // An answer now could not confirm the end for this item yet, so no request is needed.
            if now_ms < complete_at {
                return true;
            }
            let since = *at_end.unconfirmed_since.get_or_insert(now);
            wait_for(*key, since, &mut at_end.timed_out);
        }
        for (key, awaited) in &mut self.awaited {
            if comes_before(awaited.last) {
                wait_for(*key, awaited.since, &mut awaited.timed_out);
            }
        }
        is_early
    }
}

impl AtEnd {
    fn after(last: Time) -> Self {
        Self { last, unconfirmed_since: None, timed_out: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SKEW: i64 = 10;

    const BUILT: Merging = merging(MergeOrder::Time, MergeOrder::Arrival);
    const LIVE: Merging = merging(MergeOrder::TimeWhileBehind, MergeOrder::TimeWhileBehind);

    const fn merging(order: MergeOrder, then: MergeOrder) -> Merging {
        Merging { order, then, skew: Duration::from_millis(SKEW as u64) }
    }

    fn merge(merging: Merging, inputs: u64) -> (Merge<i64>, Instant) {
        let mut merge = Merge::new(merging);
        let now = Instant::now();
        (1..=inputs).for_each(|key| merge.add(key, true, now));
        (merge, now)
    }

    /// Later than all others.
    const NOW: i64 = 1_000_000;

    fn offer(merge: &mut Merge<i64>, key: u64, time: i64) {
        merge.offer(key, Some(time), NOW, time);
    }

    fn take(merge: &mut Merge<i64>, now: Instant) -> Option<(u64, i64)> {
        merge.take(now, NOW)
    }

    #[test]
    fn the_earliest_goes_first() {
        let (mut merge, now) = merge(LIVE, 2);
        offer(&mut merge, 1, 105);
        assert_eq!(take(&mut merge, now), None, "the other input may have an earlier item");
        offer(&mut merge, 2, 100);
        assert_eq!(take(&mut merge, now), Some((2, 100)));
        assert_eq!(merge.without_head(), [2]);
        // The other input's next item is 100 or later, and the skew allows 105 to go first.
        assert_eq!(take(&mut merge, now), Some((1, 105)));
        assert_eq!(take(&mut merge, now), None);
    }

    #[test]
    fn an_item_that_is_later_by_more_than_the_skew_waits() {
        let (mut merge, now) = merge(LIVE, 2);
        offer(&mut merge, 1, 100);
        offer(&mut merge, 2, 100);
        assert!(take(&mut merge, now).is_some() && take(&mut merge, now).is_some());
        offer(&mut merge, 1, 100 + SKEW);
        assert_eq!(take(&mut merge, now), Some((1, 100 + SKEW)));
        offer(&mut merge, 1, 101 + SKEW);
        assert_eq!(take(&mut merge, now), None);
        merge.at_end(2);
        assert_eq!(take(&mut merge, now), Some((1, 101 + SKEW)));
        // Input 2 was at its end once, so no input waits for it. Input 1 is behind.
        offer(&mut merge, 2, 900);
        assert_eq!(take(&mut merge, now), None);
        merge.remove(1);
        assert_eq!(take(&mut merge, now), Some((2, 900)));
    }

    #[test]
    fn an_input_without_items_is_waited_for_until_the_timeout() {
        let (mut merge, now) = merge(LIVE, 2);
        offer(&mut merge, 1, 100);
        assert_eq!(take(&mut merge, now + AWAIT_TIMEOUT - Duration::from_millis(1)), None);
        let later = now + AWAIT_TIMEOUT;
        assert_eq!(take(&mut merge, later), Some((1, 100)));
        offer(&mut merge, 2, 50);
        offer(&mut merge, 1, 200);
        assert_eq!(take(&mut merge, later), Some((2, 50)));
        assert_eq!(take(&mut merge, later), None);
    }

    #[test]
    fn a_record_without_a_time_goes_first_and_delays_no_other() {
        let (mut merge, now) = merge(LIVE, 2);
        merge.offer(1, None, NOW, 7);
        assert_eq!(take(&mut merge, now), Some((1, 7)));
        offer(&mut merge, 2, 900);
        assert_eq!(take(&mut merge, now), Some((2, 900)));
        // A time in the future is ignored too.
        merge.offer(1, Some(NOW + AHEAD + 1), NOW, 8);
        offer(&mut merge, 2, 901);
        assert_eq!(take(&mut merge, now), Some((1, 8)));
    }

    #[test]
    fn an_input_that_was_at_its_end_is_ordered_by_arrival() {
        let (mut merge, now) = merge(LIVE, 2);
        merge.at_end(1);
        merge.at_end(2);
        for arrived in 0..3 {
            // An import of old records beside live ones.
            merge.offer(1, Some(5), NOW + arrived, 5);
            merge.offer(2, Some(NOW), NOW + arrived, NOW);
            assert_eq!(take(&mut merge, now), Some((1, 5)));
            merge.offer(1, Some(6), NOW + arrived, 6);
            assert_eq!(take(&mut merge, now), Some((2, NOW)));
            assert_eq!(take(&mut merge, now), Some((1, 6)));
        }
    }

    #[test]
    fn no_input_waits_for_another_once_the_order_is_arrival() {
        let (mut merge, now) = merge(merging(MergeOrder::TimeWhileBehind, MergeOrder::Arrival), 1);
        offer(&mut merge, 1, 1);
        assert_eq!(take(&mut merge, now), Some((1, 1)));
        merge.at_end(1);
        merge.caught_up();
        merge.add(2, true, now);
        offer(&mut merge, 1, 900);
        assert_eq!(take(&mut merge, now), Some((1, 900)));
        // An old item does not overtake an item that arrived before it.
        offer(&mut merge, 1, 901);
        offer(&mut merge, 2, 3);
        assert_eq!(take(&mut merge, now), Some((1, 901)));
    }

    /// Also items that were written while another input was still behind.
    #[test]
    fn while_a_generation_is_built_each_item_counts_with_its_own_time() {
        let (mut merge, now) = merge(BUILT, 2);
        merge.near_the_end();
        merge.at_end(1);
        // An input at its end gets another item, long before the other input is at its end.
        merge.offer(1, Some(NOW - 2_000), NOW, 10);
        assert_eq!(merge.take(now, NOW), None, "the other one is behind");
        merge.offer(2, Some(NOW - 9_000), NOW, 20);
        assert_eq!(merge.take(now, NOW), Some((2, 20)));
        merge.offer(2, Some(NOW - 1_500), NOW, 21);
        assert_eq!(merge.take(now, NOW), Some((1, 10)));
        // The first one has more in its log.
        assert_eq!(merge.take(now, NOW), None);
        assert!(merge.is_awaited(1));
        merge.offer(1, Some(NOW - 1_700), NOW, 11);
        assert_eq!(merge.take(now, NOW), Some((1, 11)));
        merge.at_end(1);
        merge.complete(1, NOW);
        assert_eq!(merge.take(now, NOW), Some((2, 21)));
        // Both are at their ends: a fresh item waits until no earlier item can come.
        merge.at_end(2);
        merge.offer(2, Some(NOW), NOW, 22);
        assert_eq!(merge.take(now, NOW + LATENESS_WHEN_NEAR - 1), None);
        merge.offer(1, Some(NOW - 5), NOW + 3, 12);
        merge.complete(2, NOW + LATENESS_WHEN_NEAR);
        assert_eq!(merge.take(now, NOW + 3), Some((1, 12)));
        merge.at_end(1);
        merge.complete(1, NOW + LATENESS_WHEN_NEAR);
        assert_eq!(merge.take(now, NOW + LATENESS_WHEN_NEAR), Some((2, 22)));
    }

    /// However long the confirmation takes: this host or the network may be slow.
    #[test]
    fn while_a_generation_is_built_an_item_waits_for_confirmed_ends() {
        let (mut merge, now) = merge(BUILT, 2);
        merge.at_end(1);
        merge.at_end(2);
        merge.offer(2, Some(NOW), NOW, 20);
        let later = NOW + 10 * LATENESS;
        assert!(merge.unconfirmed().next().is_none(), "no answer could confirm the end yet");
        assert_eq!(merge.take(now, NOW + LATENESS - 1), None);
        assert!(merge.unconfirmed().next().is_none());
        assert_eq!(merge.take(now, later), None);
        assert_eq!(merge.unconfirmed().collect::<Vec<_>>(), [1]);
        merge.complete(1, NOW + LATENESS - 1);
        assert_eq!(merge.take(now, later), None, "the end was confirmed for a time that is too early");
        // Meanwhile an earlier item was written and read.
        merge.offer(1, Some(NOW - 100), later, 10);
        merge.complete(1, later);
        assert_eq!(merge.take(now, later), Some((1, 10)));
        merge.at_end(1);
        assert_eq!(merge.take(now, later), None, "the input may have more items");
        merge.complete(1, NOW + LATENESS);
        assert_eq!(merge.take(now, later), Some((2, 20)));
    }

    #[test]
    fn an_end_that_is_never_confirmed_is_waited_for_until_the_timeout() {
        let (mut merge, now) = merge(BUILT, 2);
        merge.at_end(1);
        merge.offer(2, Some(NOW), NOW, 20);
        assert_eq!(merge.take(now, NOW + LATENESS), None);
        let later = now + AWAIT_TIMEOUT_WHILE_BUILT;
        assert_eq!(merge.take(later - Duration::from_millis(1), NOW + LATENESS), None);
        assert_eq!(merge.take(later, NOW + LATENESS), Some((2, 20)));
        assert_eq!(merge.timed_out(), [1]);
    }

    /// Otherwise a producer whose clock is ahead would delay its own records.
    #[test]
    fn a_time_a_little_ahead_counts_as_now() {
        let (mut merge, now) = merge(BUILT, 2);
        merge.at_end(2);
        merge.offer(1, Some(NOW + 4_000), NOW, 1);
        assert_eq!(merge.take(now, NOW + LATENESS - 1), None);
        merge.complete(2, NOW + LATENESS);
        assert_eq!(merge.take(now, NOW + LATENESS), Some((1, 1)));
    }

    #[test]
    fn once_caught_up_nothing_waits_any_more() {
        let (mut merge, now) = merge(BUILT, 3);
        merge.at_end(1);
        merge.offer(3, Some(NOW), NOW, 7);
        assert_eq!(merge.take(now, NOW), None);
        merge.caught_up();
        assert_eq!(merge.take(now, NOW), Some((3, 7)));
        merge.offer(2, Some(5), NOW + 1, 5);
        merge.offer(1, Some(4), NOW + 2, 4);
        assert_eq!(merge.take(now, NOW), Some((2, 5)));
        assert_eq!(merge.take(now, NOW), Some((1, 4)));
    }

    #[test]
    fn an_input_that_timed_out_is_reported_once() {
        let (mut merge, now) = merge(BUILT, 2);
        offer(&mut merge, 1, 100);
        assert_eq!(take(&mut merge, now), None);
        assert!(merge.timed_out().is_empty());
        let later = now + AWAIT_TIMEOUT_WHILE_BUILT;
        assert_eq!(take(&mut merge, later), Some((1, 100)));
        assert_eq!(merge.timed_out(), [2]);
        offer(&mut merge, 1, 200);
        assert_eq!(take(&mut merge, later), Some((1, 200)));
        assert!(merge.timed_out().is_empty());
    }

    #[test]
    fn an_input_that_was_removed_gives_nothing_more() {
        let (mut merge, now) = merge(LIVE, 2);
        offer(&mut merge, 1, 1);
        offer(&mut merge, 2, 2);
        merge.remove(1);
        assert_eq!(take(&mut merge, now), Some((2, 2)));
        assert_eq!(take(&mut merge, now), None);
    }

    proptest! {
        /// Whenever items arrive: each input keeps its order, no item is lost, and no item comes after an
        /// item that is later by more than the skew.
        #[test]
        fn the_result_is_in_order_except_for_the_skew(
            steps in prop::collection::vec(prop::collection::vec(0..30_i64, 0..30), 1..5),
            arrivals in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
            merging in prop::sample::select(vec![LIVE, BUILT]),
        ) {
            let inputs: Vec<Vec<i64>> = steps
                .into_iter()
                .map(|steps| steps.into_iter().scan(0, |time, step| { *time += step; Some(*time) }).collect())
                .collect();
            let (mut merge, now) = merge(merging, inputs.len() as u64);
            let mut offered = vec![0; inputs.len()];
            let mut taken = Vec::new();
            let mut arrive = |merge: &mut Merge<i64>, taken: &mut Vec<(u64, i64)>, at: usize| {
                let key = at as u64 + 1;
                if merge.without_head().contains(&key) {
                    match inputs[at].get(offered[at]) {
                        Some(time) => offer(merge, key, *time),
                        None => {
                            merge.at_end(key);
                            merge.complete(key, NOW + LATENESS);
                        }
                    }
                    offered[at] += 1;
                }
                taken.extend(std::iter::from_fn(|| take(merge, now)));
            };
            for arrival in &arrivals {
                arrive(&mut merge, &mut taken, arrival.index(inputs.len()));
            }
            let all: usize = inputs.iter().map(Vec::len).sum();
            for _ in 0..=all {
                (0..inputs.len()).for_each(|at| arrive(&mut merge, &mut taken, at));
            }
            for (at, input) in inputs.iter().enumerate() {
                let own: Vec<i64> =
                    taken.iter().filter(|(key, _)| *key == at as u64 + 1).map(|(_, time)| *time).collect();
                prop_assert_eq!(&own, input);
            }
            let mut latest = i64::MIN;
            for (_, time) in &taken {
                prop_assert!(*time >= latest.saturating_sub(SKEW), "{} after {}", time, latest);
                latest = latest.max(*time);
            }
        }
    }
}
