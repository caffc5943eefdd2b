//! The offsets of one partition that a file has. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

/// How many ranges are stored of one partition, to bound the memory. A file in the order of its offsets has one range
/// more than it has holes.
const MOST_RANGES: usize = 10_000;

/// A set of offsets, which are added in any order. Beyond `MOST_RANGES` ranges, the lowest ranges are merged, and
/// the holes between them are only counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffsetSet {
    /// First offset of a range → the offset after its last. Between two ranges is a hole.
    ranges: BTreeMap<i64, i64>,
    /// The end of the merged ranges: holes before this offset are only counted.
    counted_until: i64,
    /// The number of holes before `counted_until`.
    counted: u64,
    twice: Option<(i64, i64)>,
}

impl OffsetSet {
    /// Adds the offset of a line, and notes the first offset that two lines have.
    pub fn insert(&mut self, offset: i64, line: i64) {
        if !self.add(offset) && self.twice.is_none() {
            self.twice = Some((offset, line));
        }
    }

    /// Adds an offset. `false`: the set has it already. Before `counted_until` this is not known, and the result is
    /// `true`.
    pub fn add(&mut self, offset: i64) -> bool {
        let before = self.ranges.range(..=offset).next_back().map(|(start, end)| (*start, *end));
        if let Some((_, end)) = before
            && offset < end
        {
            return offset < self.counted_until;
        }
        let start = match before {
            Some((start, end)) if end == offset => start,
            _ => offset,
        };
        let end = self.ranges.remove(&(offset + 1)).unwrap_or(offset + 1);
        self.ranges.insert(start, end);
        if self.ranges.len() > MOST_RANGES
            && let (Some((first, _)), Some((_, end))) = (self.ranges.pop_first(), self.ranges.pop_first())
        {
            self.ranges.insert(first, end);
            (self.counted, self.counted_until) = (self.counted + 1, end);
        }
        true
    }

    /// The offset after the last one.
    pub fn end(&self) -> i64 {
        self.ranges.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// The ranges that are missing between offset 0 and the end, and the number of holes that were only counted.
    pub fn holes(&self) -> (Vec<Range<i64>>, u64) {
        let mut next = 0;
        let mut holes = Vec::new();
        for (start, end) in &self.ranges {
            if *start > next {
                holes.push(next..*start);
            }
            next = *end;
        }
        (holes, self.counted)
    }

    /// An offset that two lines have, and the number of the second line, from 1.
    pub fn twice(&self) -> Option<(i64, i64)> {
        self.twice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(list: &[i64]) -> OffsetSet {
        let mut offsets = OffsetSet::default();
        list.iter().zip(1..).for_each(|(offset, line)| offsets.insert(*offset, line));
        offsets
    }

    #[test]
    fn holes_are_found_in_any_order() {
        assert_eq!(offsets(&[0, 1, 2, 3]).holes(), (vec![], 0));
        assert_eq!(offsets(&[3, 1, 0, 2]).holes(), (vec![], 0));
        let found = offsets(&[9, 2, 4, 3, 12]);
        assert_eq!((found.holes(), found.end()), ((vec![0..2, 5..9, 10..12], 0), 13));
        assert_eq!(found.twice(), None);
    }

    #[test]
    fn an_offset_of_two_lines_is_found_with_the_second_line() {
        assert_eq!(offsets(&[0, 1, 2, 1, 0]).twice(), Some((1, 4)));
    }

    #[test]
    fn holes_beyond_the_bound_are_counted() {
        let holes = MOST_RANGES as i64 + 10;
        let list: Vec<i64> = (0..=holes).map(|number| 2 * number).collect();
        let found = offsets(&list);
        let (kept, counted) = found.holes();
        assert_eq!(kept.len() as i64 + counted as i64, holes);
        assert_eq!((found.end(), found.twice()), (2 * holes + 1, None));
        // Whether the merged ranges have an offset is not known.
        let mut found = found;
        assert!(found.add(1) && !found.add(2 * holes));
    }
}
