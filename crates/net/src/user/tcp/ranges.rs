//! Stretches of sequence space beyond a gap, sorted and apart: what arrived out of order.

use super::segment::Seq;

/// Stretches remembered at one time; a segment that would make one more is dropped.
pub const MAX_RANGES: usize = 32;

#[derive(Debug, Default)]
pub struct Ranges {
    list: Vec<(Seq, Seq)>,
}

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Adds a stretch. False, with nothing changed, if there would be too many.
    pub fn insert(&mut self, start: Seq, end: Seq) -> bool {
        let first = self.list.partition_point(|r| r.1.after(start) < 0);
        let last = self.list.partition_point(|r| r.0.after(end) <= 0);
        if first == last {
            if self.list.len() >= MAX_RANGES {
                return false;
            }
            self.list.insert(first, (start, end));
            return true;
        }
        let merged = (
            if self.list[first].0.after(start) < 0 { self.list[first].0 } else { start },
            self.list[last - 1].1.later(end),
        );
        self.list.drain(first..last);
        self.list.insert(first, merged);
        true
    }

    /// Removes everything up to `seq`, and the stretch that it touches; where that one ends.
    pub fn take_until(&mut self, seq: Seq) -> Seq {
        let mut end = seq;
        while let Some(&(start, stop)) = self.list.first() {
            if start.after(end) > 0 {
                break;
            }
            end = end.later(stop);
            self.list.remove(0);
        }
        end
    }

    /// The first stretch missing at or after `seq` that has something known behind it.
    pub fn gap(&self, seq: Seq) -> Option<(Seq, Seq)> {
        let mut start = seq;
        for &(low, high) in &self.list {
            if low.after(start) > 0 {
                return Some((start, low));
            }
            start = start.later(high);
        }
        None
    }

    pub fn bytes(&self) -> usize {
        self.list.iter().map(|r| r.1.distance(r.0)).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Seq, Seq)> {
        self.list.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(list: &[(u32, u32)]) -> Ranges {
        let mut ranges = Ranges::default();
        for &(a, b) in list {
            assert!(ranges.insert(Seq(a), Seq(b)));
        }
        ranges
    }

    #[track_caller]
    fn check(inserted: &[(u32, u32)], expected: &[(u32, u32)]) {
        let got: Vec<_> = build(inserted).iter().map(|(a, b)| (a.0, b.0)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn stretches_merge() {
        check(&[(10, 20), (30, 40)], &[(10, 20), (30, 40)]);
        check(&[(30, 40), (10, 20), (20, 30)], &[(10, 40)]);
        check(&[(10, 20), (12, 15)], &[(10, 20)]);
        check(&[(10, 20), (30, 40), (5, 50)], &[(5, 50)]);
        check(&[(0xffff_fff0, 2), (2, 9)], &[(0xffff_fff0, 9)]);
    }

    #[test]
    fn gaps_and_taking() {
        let mut ranges = build(&[(10, 20), (30, 40)]);
        assert_eq!(ranges.gap(Seq(5)), Some((Seq(5), Seq(10))));
        assert_eq!(ranges.gap(Seq(10)), Some((Seq(20), Seq(30))));
        assert_eq!(ranges.gap(Seq(30)), None);
        assert_eq!((ranges.take_until(Seq(5)), ranges.take_until(Seq(12))), (Seq(5), Seq(20)));
        assert_eq!((ranges.bytes(), ranges.take_until(Seq(50)), ranges.is_empty()), (10, Seq(50), true));
    }

    #[test]
    fn their_number_is_bounded() {
        let mut ranges = Ranges::default();
        let taken = (0..100).filter(|n| ranges.insert(Seq(n * 10), Seq(n * 10 + 5))).count();
        assert_eq!(taken, MAX_RANGES);
        assert!(ranges.insert(Seq(5), Seq(10)), "joining two is always possible");
    }
}
