//! The record of what is mapped where. Nothing here touches memory.

use super::lock::Lock;
use super::{LOWEST, TASK_SIZE};
use crate::errno::{self, Errno};
use jit::PageFlags;
use std::collections::BTreeMap;

/// One mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    pub end: u64,
    pub flags: PageFlags,
}

#[derive(Default)]
pub struct Map {
    pub areas: BTreeMap<u32, Area>,
    pub brk_start: u32,
    pub brk: u32,
    /// Free mappings are searched downwards from here.
    pub top: u32,
    /// PROT_READ implies PROT_EXEC (an old program without PT_GNU_STACK).
    pub read_implies_exec: bool,
    /// Attached System V segments and their sizes.
    pub attached: BTreeMap<u32, u64>,
    /// RLIMIT_AS, if the guest has set it.
    pub limit: Option<u64>,
    /// New mappings are locked (mlockall with MCL_FUTURE): how.
    pub lock_new: Option<Lock>,
    /// Something unmapped could not be cleared on the host's side.
    pub unclean: bool,
}

impl Map {
    /// Removes the record of `start..end`, splitting areas that reach over its ends.
    pub fn cut(&mut self, start: u32, end: u64) {
        let over = self.areas.range(..start).next_back().filter(|(_, a)| a.end > start as u64).map(|(s, a)| (*s, *a));
        if let Some((s, a)) = over {
            self.areas.insert(s, Area { end: start as u64, ..a });
            if a.end > end {
                self.areas.insert(end as u32, a);
            }
        }
        let inside: Vec<_> =
            self.areas.range(start..).take_while(|(s, _)| (**s as u64) < end).map(|(s, a)| (*s, *a)).collect();
        for (s, a) in inside {
            self.areas.remove(&s);
            if a.end > end {
                self.areas.insert(end as u32, a);
            }
        }
    }

    pub fn put(&mut self, start: u32, end: u64, flags: PageFlags) {
        self.cut(start, end);
        let (mut start, mut end) = (start, end);
        if let Some((&s, a)) = self.areas.range(..start).next_back()
            && a.end == start as u64
            && a.flags == flags
        {
            start = s;
        }
        if end <= u32::MAX as u64
            && let Some(a) = self.areas.get(&(end as u32)).copied()
            && a.flags == flags
        {
            self.areas.remove(&(end as u32));
            end = a.end;
        }
        self.areas.insert(start, Area { end, flags });
    }

    /// ENOMEM if `more` bytes would go over the limit of the address space.
    pub fn check_limit(&self, more: u64) -> Result<(), Errno> {
        let Some(limit) = self.limit else { return Ok(()) };
        let used: u64 = self.areas.iter().map(|(s, a)| a.end - *s as u64).sum();
        if used + more > limit { Err(errno::ENOMEM) } else { Ok(()) }
    }

    /// Whether nothing is mapped in `start..end`.
    pub fn is_free(&self, start: u32, end: u64) -> bool {
        start >= LOWEST
            && end <= TASK_SIZE
            && self.areas.range(..end as u32).next_back().is_none_or(|(_, a)| a.end <= start as u64)
    }

    /// Whether all of `start..end` is mapped.
    pub fn is_mapped(&self, start: u32, end: u64) -> bool {
        let mut at = start as u64;
        let first = self.areas.range(..=start).next_back().map_or(start, |(s, _)| *s);
        for (s, a) in self.areas.range(first..) {
            if *s as u64 > at || at >= end {
                break;
            }
            at = at.max(a.end);
        }
        at >= end
    }

    /// The pieces of `start..end` that are mapped.
    pub fn mapped(&self, start: u32, end: u64) -> Vec<(u32, Area)> {
        let first =
            self.areas.range(..=start).next_back().filter(|(_, a)| a.end > start as u64).map_or(start, |(s, _)| *s);
        (self.areas.range(first..).take_while(|(s, _)| (**s as u64) < end))
            .map(|(s, a)| ((*s).max(start), Area { end: a.end.min(end), ..*a }))
            .collect()
    }

    /// The highest free range of `len` bytes below `top`, else above it, that is a multiple of `align`.
    pub fn find_free(&self, len: u64, align: u32) -> Option<u32> {
        self.find_below(self.top as u64, len, align).or_else(|| self.find_below(TASK_SIZE, len, align))
    }

    fn find_below(&self, top: u64, len: u64, align: u32) -> Option<u32> {
        let mut ceiling = top;
        let fits = |floor: u64, ceiling: u64| {
            let at = ceiling.checked_sub(len)? & !(align as u64 - 1);
            (at >= floor.max(LOWEST as u64)).then_some(at as u32)
        };
        for (s, a) in self.areas.range(..top as u32).rev() {
            if a.end < ceiling
                && let Some(at) = fits(a.end, ceiling)
            {
                return Some(at);
            }
            ceiling = ceiling.min(*s as u64);
        }
        fits(LOWEST as u64, ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PAGE, STACK_TOP};
    use super::*;

    const RW: PageFlags = PageFlags(PageFlags::MAPPED.0 | PageFlags::READ.0 | PageFlags::WRITE.0);
    const RO: PageFlags = PageFlags(PageFlags::MAPPED.0 | PageFlags::READ.0);

    fn map(areas: &[(u32, u64, PageFlags)]) -> Map {
        let mut m = Map { top: STACK_TOP, ..Map::default() };
        for &(s, e, f) in areas {
            m.put(s, e, f);
        }
        m
    }

    #[test]
    fn equal_neighbours_merge_and_a_cut_splits() {
        let mut m = map(&[(0x10000, 0x11000, RW), (0x12000, 0x13000, RW), (0x11000, 0x12000, RW)]);
        assert_eq!(m.areas.len(), 1);
        m.cut(0x11000, 0x12000);
        assert_eq!(
            m.mapped(0, 1 << 32),
            [(0x10000, Area { end: 0x11000, flags: RW }), (0x12000, Area { end: 0x13000, flags: RW })]
        );
        m.put(0x10000, 0x13000, RO);
        assert_eq!(m.areas.len(), 1);
        assert!(m.is_mapped(0x10000, 0x13000) && !m.is_mapped(0x10000, 0x14000));
    }

    #[test]
    fn free_ranges_are_found_from_the_top() {
        let m = map(&[(STACK_TOP - 0x2000, STACK_TOP as u64, RW), (STACK_TOP - 0x5000, STACK_TOP as u64 - 0x4000, RW)]);
        assert_eq!(m.find_free(0x2000, PAGE), Some(STACK_TOP - 0x4000));
        assert_eq!(m.find_free(0x3000, PAGE), Some(STACK_TOP - 0x8000));
        assert_eq!(m.find_free(1 << 32, PAGE), None);
        assert!(m.is_free(STACK_TOP - 0x4000, STACK_TOP as u64 - 0x2000));
        assert!(!m.is_free(STACK_TOP - 0x4000, STACK_TOP as u64 - 0x1000));
        assert!(!m.is_free(0, 0x1000), "below the lowest address");
    }
}
