//! Locked ranges of one file: plain data.

use std::collections::BTreeMap;

/// How a range is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// Bytes `start` to `end`, both included, that are or shall be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) mode: Mode,
}

/// The last byte that there can be; a lock up to it holds for what is appended, too.
pub(super) const LAST: u64 = i64::MAX.cast_unsigned();

impl Range {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }

    /// Whether two owners cannot have both.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        let exclusive = self.mode == Mode::Exclusive || other.mode == Mode::Exclusive;
        exclusive && self.overlaps(other.start, other.end)
    }
}

/// What one owner has locked of one file: without overlap, each by its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, Range>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether unlocking `start` to `end` leaves two of one.
    pub(super) fn is_split(&self, start: u64, end: u64) -> bool {
        self.last_before(start).is_some_and(|range| end < range.end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Range> {
        self.0.values()
    }

    /// Locks a range, whatever of it was locked before. Neighbours that are locked alike are one then,
    /// as with `fcntl`.
    pub(super) fn lock(&mut self, new: Range) {
        self.unlock(new.start, new.end);
        let mut joined = new;
        let alike = |range: &Range| range.mode == new.mode;
        let before = self.last_before(new.start).filter(|range| range.end.checked_add(1) == Some(new.start));
        if let Some(before) = before.filter(alike) {
            self.0.remove(&before.start);
            joined.start = before.start;
        }
        let after = new.end.checked_add(1).and_then(|next| self.0.get(&next).copied());
        if let Some(after) = after.filter(alike) {
            self.0.remove(&after.start);
            joined.end = after.end;
        }
        self.put(joined);
    }

    /// Unlocks a range; of one that reaches beyond it the rest stays.
    pub(super) fn unlock(&mut self, start: u64, end: u64) {
        let touched: Vec<Range> = self.touching(start, end).collect();
        for range in touched {
            self.0.remove(&range.start);
            if range.start < start {
                self.put(Range { end: start - 1, ..range });
            }
            if range.end > end {
                self.put(Range { start: end + 1, ..range });
            }
        }
    }

    fn put(&mut self, range: Range) {
        self.0.insert(range.start, range);
    }

    fn last_before(&self, start: u64) -> Option<Range> {
        self.0.range(..start).next_back().map(|(_, range)| *range)
    }

    /// Those of which something lies in `start` to `end`, in order. Of those that begin before it only
    /// the last can, since none overlaps another.
    fn touching(&self, start: u64, end: u64) -> impl Iterator<Item = Range> {
        let before = self.last_before(start).filter(|range| range.overlaps(start, end));
        let within = self.0.range(start..=end.max(start)).map(|(_, range)| *range);
        before.into_iter().chain(within)
    }

    /// The first range that keeps another owner from `wanted`.
    pub(super) fn conflict(&self, wanted: &Range) -> Option<Range> {
        self.touching(wanted.start, wanted.end).find(|range| range.conflicts(wanted))
    }

    /// The first range of which something lies in `start` to `end`.
    pub(super) fn within(&self, start: u64, end: u64) -> Option<Range> {
        self.touching(start, end).next()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Mode::{Exclusive, Shared};
    use super::*;

    fn range(start: u64, end: u64, mode: Mode) -> Range {
        Range { start, end, mode }
    }

    fn of(locks: &[Range]) -> Ranges {
        let mut ranges = Ranges::default();
        locks.iter().for_each(|&lock| ranges.lock(lock));
        ranges
    }

    fn all(ranges: &Ranges) -> Vec<Range> {
        ranges.iter().copied().collect()
    }

    #[test]
    fn many_ranges_of_one_owner_are_looked_up_not_gone_through() {
        let mut ranges = of(&[]);
        // Every other byte: none joins another.
        for at in 0..200_000 {
            ranges.lock(range(2 * at, 2 * at, Shared));
        }
        assert_eq!(ranges.len(), 200_000);
        for at in (0..200_000).rev() {
            assert!(ranges.conflict(&range(2 * at, 2 * at, Exclusive)).is_some());
            ranges.unlock(2 * at, 2 * at);
        }
        assert!(ranges.is_empty());
    }

    #[test]
    fn unlocking_the_middle_leaves_both_ends() {
        let mut ranges = of(&[range(0, LAST, Exclusive)]);
        ranges.unlock(10, 19);
        assert_eq!(all(&ranges), [range(0, 9, Exclusive), range(20, LAST, Exclusive)]);
        ranges.unlock(0, LAST);
        assert!(ranges.is_empty());
    }

    #[test]
    fn later_lock_wins_and_equal_neighbours_join() {
        let ranges = of(&[range(0, 9, Shared), range(5, 6, Exclusive), range(10, 19, Shared)]);
        assert_eq!(all(&ranges), [range(0, 4, Shared), range(5, 6, Exclusive), range(7, 19, Shared)]);
        assert_eq!(all(&of(&[range(0, 4, Shared), range(5, 9, Shared)])), [range(0, 9, Shared)]);
    }

    #[test]
    fn readers_share_and_a_writer_does_not() {
        let ranges = of(&[range(0, 9, Shared), range(20, 29, Exclusive)]);
        assert_eq!(ranges.conflict(&range(0, 15, Shared)), None);
        assert_eq!(ranges.conflict(&range(9, 9, Exclusive)), Some(range(0, 9, Shared)));
        assert_eq!(ranges.conflict(&range(0, 20, Shared)), Some(range(20, 29, Exclusive)));
        assert_eq!(ranges.conflict(&range(10, 19, Exclusive)), None);
    }

    proptest! {
        /// Byte by byte the same as an array of bytes.
        #[test]
        fn ranges_are_what_was_locked_last(
            acts in prop::collection::vec((0u64..40, 0u64..10, 0u8..3), 0..30),
        ) {
            let mut ranges = Ranges::default();
            let mut bytes = [None; 64];
            for (start, more, act) in acts {
                let end = start + more;
                let mode = [None, Some(Shared), Some(Exclusive)][usize::from(act)];
                let (before, split) = (ranges.len(), ranges.is_split(start, end));
                match mode {
                    None => ranges.unlock(start, end),
                    Some(mode) => ranges.lock(range(start, end, mode)),
                }
                let most = before + mode.map_or(0, |_| 1) + usize::from(split);
                prop_assert!(ranges.len() <= most, "{before} became {}", ranges.len());
                bytes[usize::try_from(start).unwrap()..=usize::try_from(end).unwrap()].fill(mode);
            }
            for (at, byte) in (0..).zip(bytes) {
                prop_assert_eq!(ranges.within(at, at).map(|range| range.mode), byte);
            }
            let ordered = all(&ranges).windows(2).all(|pair| pair[0].end < pair[1].start
                && (pair[0].mode != pair[1].mode || pair[0].end + 1 < pair[1].start));
            prop_assert!(ordered, "{:?}", ranges);
        }
    }
}
