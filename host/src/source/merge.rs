//! The order in which the partitions of one consumer are read: by the time of their records.
//!
//! Kafka orders a partition. A consumer that is far behind gets of several whatever arrives first:
//! all of a small topic, say, before the first hour of a large one, though they were written side by
//! side. So, while a consumer *merges*, the earliest record of those that are *behind*, on their way to
//! the end of their logs, goes first; and nothing that is later than the last record of one by more
//! than the *skew* goes before its next one. Reading again then sees topics roughly in the order that
//! reading along did. A partition that was at its end once keeps nobody waiting any more: its records
//! count from when they arrive, whatever time they carry.
//!
//! Merging makes what is fresh wait for what is old. It is for those who need the order, and for a
//! generation that nobody reads yet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

/// How long a partition that is behind, and silent, is waited for: its broker may be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether partitions are merged by time, and how far apart they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merging {
    /// Records go as they arrive.
    Never,
    UntilCaughtUp {
        skew: Duration,
    },
    Always {
        skew: Duration,
    },
}

/// Milliseconds since 1970. Of a record that has no time, or none to be believed: before all others.
type Time = i64;
const NO_TIME: Time = Time::MIN;

/// Items of several inputs, each in its own order, as one sequence. Of each input it holds the first
/// item that was not taken yet, if it was offered already.
pub(super) struct Merge<T> {
    merging: Merging,
    inputs: HashMap<u64, Input<T>>,
    /// The times of the inputs' heads; those of one time in the order in which they came. What is
    /// here of an input that was removed is void.
    heads: BinaryHeap<Reverse<(Time, u64, u64)>>,
    offered: u64,
    /// Inputs that are behind and have no head.
    awaited: BTreeMap<u64, Awaited>,
}

struct Input<T> {
    head: Option<T>,
    behind: bool,
}

struct Awaited {
    since: Instant,
    /// The time of the last item that was taken. What is not later by more than the skew may go.
    last: Time,
}

impl<T> Merge<T> {
    pub(super) fn new(merging: Merging) -> Self {
        Self {
            merging,
            inputs: HashMap::new(),
            heads: BinaryHeap::new(),
            offered: 0,
            awaited: BTreeMap::new(),
        }
    }

    /// A new input, under a key that none ever had.
    pub(super) fn add(&mut self, key: u64, behind: bool, now: Instant) {
        self.inputs.insert(key, Input { head: None, behind });
        if behind {
            self.awaited.insert(key, Awaited { since: now, last: NO_TIME });
        }
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.inputs.remove(&key);
        self.awaited.remove(&key);
    }

    /// Whether every input has been at its end, and all that was offered is taken.
    pub(super) fn is_caught_up(&self) -> bool {
        self.inputs.values().all(|input| !input.behind && input.head.is_none())
    }

    /// All that there is to catch up is caught up.
    pub(super) fn caught_up(&mut self) {
        if let Merging::UntilCaughtUp { .. } = self.merging {
            self.merging = Merging::Never;
        }
    }

    /// In milliseconds. `None`: nothing waits for anything.
    fn skew(&self) -> Option<i64> {
        match self.merging {
            Merging::Never => None,
            Merging::UntilCaughtUp { skew } | Merging::Always { skew } => {
                Some(i64::try_from(skew.as_millis()).unwrap_or(i64::MAX))
            }
        }
    }

    /// The inputs whose next item is to be offered.
    pub(super) fn silent(&self) -> Vec<u64> {
        self.inputs.iter().filter(|(_, input)| input.head.is_none()).map(|(key, _)| *key).collect()
    }

    /// The next item of a silent input, with its own time, and the time that it is. A time in the
    /// future is not believed: waiting for it would keep back everything that comes after it.
    pub(super) fn offer(&mut self, key: u64, time: Option<Time>, now: Time, item: T) {
        let skew = self.skew();
        let Some(input) = self.inputs.get_mut(&key) else { return };
        let time = match skew {
            Some(skew) if input.behind => {
                time.filter(|time| *time <= now.saturating_add(skew)).unwrap_or(NO_TIME)
            }
            _ => now,
        };
        input.head = Some(item);
        self.heads.push(Reverse((time, self.offered, key)));
        self.offered += 1;
        self.awaited.remove(&key);
    }

    /// An input has come to its end.
    pub(super) fn at_end(&mut self, key: u64) {
        if let Some(input) = self.inputs.get_mut(&key) {
            input.behind = false;
            self.awaited.remove(&key);
        }
    }

    /// The next item of all, and the key of its input, which is silent then. `None`: there is none
    /// yet, or what is there has to wait for another input.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, T)> {
        loop {
            let Reverse((time, _, key)) = *self.heads.peek()?;
            if self.inputs.get(&key).is_some_and(|input| input.head.is_some()) && self.is_early(time, now) {
                return None;
            }
            self.heads.pop();
            let Some(input) = self.inputs.get_mut(&key) else { continue };
            let Some(item) = input.head.take() else { continue };
            if input.behind {
                // Without a time it says nothing about what comes after it.
                let last = if time == NO_TIME { Time::MAX } else { time };
                self.awaited.insert(key, Awaited { since: now, last });
            }
            return Some((key, item));
        }
    }

    fn is_early(&self, time: Time, now: Instant) -> bool {
        let Some(skew) = self.skew() else { return false };
        self.awaited.values().any(|awaited| {
            time > awaited.last.saturating_add(skew)
                && now.saturating_duration_since(awaited.since) < PATIENCE
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SKEW: i64 = 10;

    fn merge(inputs: u64) -> (Merge<i64>, Instant) {
        let mut merge = Merge::new(Merging::Always { skew: Duration::from_millis(SKEW as u64) });
        let now = Instant::now();
        (1..=inputs).for_each(|key| merge.add(key, true, now));
        (merge, now)
    }

    /// Later than all others.
    const NOW: i64 = 1_000_000;

    fn offer(merge: &mut Merge<i64>, key: u64, time: i64) {
        merge.offer(key, Some(time), NOW, time);
    }

    #[test]
    fn the_earliest_goes_first() {
        let (mut merge, now) = merge(2);
        offer(&mut merge, 1, 105);
        assert_eq!(merge.take(now), None, "nothing is known of the other");
        offer(&mut merge, 2, 100);
        assert_eq!(merge.take(now), Some((2, 100)));
        assert_eq!(merge.silent(), [2]);
        // The other's next may be as late, for all that is known.
        assert_eq!(merge.take(now), Some((1, 105)));
        assert_eq!(merge.take(now), None);
    }

    #[test]
    fn what_is_later_by_more_than_the_skew_waits_for_those_that_are_behind() {
        let (mut merge, now) = merge(2);
        offer(&mut merge, 1, 100);
        offer(&mut merge, 2, 100);
        assert!(merge.take(now).is_some() && merge.take(now).is_some());
        offer(&mut merge, 1, 100 + SKEW);
        assert_eq!(merge.take(now), Some((1, 100 + SKEW)));
        offer(&mut merge, 1, 101 + SKEW);
        assert_eq!(merge.take(now), None);
        merge.at_end(2);
        assert_eq!(merge.take(now), Some((1, 101 + SKEW)));
        // Whoever was at the end once, like 2, keeps nobody waiting; 1 does.
        offer(&mut merge, 2, 900);
        assert_eq!(merge.take(now), None);
        merge.remove(1);
        assert_eq!(merge.take(now), Some((2, 900)));
    }

    #[test]
    fn who_is_silent_for_long_is_let_go_until_it_speaks_again() {
        let (mut merge, now) = merge(2);
        offer(&mut merge, 1, 100);
        assert_eq!(merge.take(now + PATIENCE - Duration::from_millis(1)), None);
        let later = now + PATIENCE;
        assert_eq!(merge.take(later), Some((1, 100)));
        offer(&mut merge, 2, 50);
        offer(&mut merge, 1, 200);
        assert_eq!(merge.take(later), Some((2, 50)));
        assert_eq!(merge.take(later), None);
    }

    #[test]
    fn a_record_without_a_time_goes_first_and_says_nothing() {
        let (mut merge, now) = merge(2);
        merge.offer(1, None, NOW, 7);
        assert_eq!(merge.take(now), Some((1, 7)));
        offer(&mut merge, 2, 900);
        assert_eq!(merge.take(now), Some((2, 900)));
        // Nor is one from the future believed.
        merge.offer(1, Some(NOW + SKEW + 1), NOW, 8);
        offer(&mut merge, 2, 901);
        assert_eq!(merge.take(now), Some((1, 8)));
    }

    #[test]
    fn whoever_was_at_the_end_goes_by_arrival_whatever_its_records_say() {
        let (mut merge, now) = merge(2);
        merge.at_end(1);
        merge.at_end(2);
        for arrived in 0..3 {
            // An import of old records beside live ones.
            merge.offer(1, Some(5), NOW + arrived, 5);
            merge.offer(2, Some(NOW), NOW + arrived, NOW);
            assert_eq!(merge.take(now), Some((1, 5)));
            merge.offer(1, Some(6), NOW + arrived, 6);
            assert_eq!(merge.take(now), Some((2, NOW)));
            assert_eq!(merge.take(now), Some((1, 6)));
        }
    }

    #[test]
    fn nobody_waits_for_one_that_is_behind_when_nothing_is_merged_any_more() {
        let mut merge = Merge::new(Merging::UntilCaughtUp { skew: Duration::from_millis(SKEW as u64) });
        let now = Instant::now();
        merge.add(1, true, now);
        offer(&mut merge, 1, 1);
        assert_eq!(merge.take(now), Some((1, 1)));
        merge.at_end(1);
        assert!(merge.is_caught_up());
        merge.caught_up();
        merge.add(2, true, now);
        offer(&mut merge, 1, 900);
        assert_eq!(merge.take(now), Some((1, 900)));
        // What is old does not go before what is there already.
        offer(&mut merge, 1, 901);
        offer(&mut merge, 2, 3);
        assert_eq!(merge.take(now), Some((1, 901)));
    }

    #[test]
    fn an_input_that_was_removed_gives_nothing_more() {
        let (mut merge, now) = merge(2);
        offer(&mut merge, 1, 1);
        offer(&mut merge, 2, 2);
        merge.remove(1);
        assert_eq!(merge.take(now), Some((2, 2)));
        assert_eq!(merge.take(now), None);
    }

    proptest! {
        /// Whatever arrives when: each input keeps its order, nothing is lost, and nothing comes
        /// after an item that is later by more than the skew, unless its own input had it so.
        #[test]
        fn the_whole_is_in_order_but_for_the_skew(
            steps in prop::collection::vec(prop::collection::vec(0..30_i64, 0..30), 1..5),
            arrivals in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
        ) {
            let inputs: Vec<Vec<i64>> = steps
                .into_iter()
                .map(|steps| steps.into_iter().scan(0, |time, step| { *time += step; Some(*time) }).collect())
                .collect();
            let (mut merge, now) = merge(inputs.len() as u64);
            let mut offered = vec![0; inputs.len()];
            let mut taken = Vec::new();
            let mut arrive = |merge: &mut Merge<i64>, taken: &mut Vec<(u64, i64)>, at: usize| {
                let key = at as u64 + 1;
                if merge.silent().contains(&key) {
                    match inputs[at].get(offered[at]) {
                        Some(time) => offer(merge, key, *time),
                        None => merge.at_end(key),
                    }
                    offered[at] += 1;
                }
                taken.extend(std::iter::from_fn(|| merge.take(now)));
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
