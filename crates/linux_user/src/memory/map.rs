//! The record of what is mapped where. Nothing here touches memory.

use super::lock::Lock;
use super::{LOWEST, PAGE, SHARED, TASK_SIZE};
use crate::errno::{self, Errno};
use jit::PageFlags;
use std::collections::BTreeMap;

/// The kernel's stack_guard_gap: what an area that grows keeps away from the next one below.
const STACK_GUARD: u64 = 256 * PAGE as u64;

/// One mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    pub end: u64,
    pub flags: PageFlags,
    /// MAP_GROWSDOWN: a touch below makes it larger.
    pub grows: bool,
}

impl Area {
    pub fn new(end: u64, flags: PageFlags) -> Area {
        Area { end, flags, grows: false }
    }

    /// What RLIMIT_DATA counts: private memory that may be written, but for stacks.
    fn is_data(&self) -> bool {
        self.flags.has(PageFlags::WRITE) && !self.flags.has(SHARED) && !self.grows
    }

    /// Mappings that nobody places stay below, for an area that begins at `start`.
    fn lowest_use(&self, start: u32) -> u64 {
        if self.grows { (start as u64).saturating_sub(STACK_GUARD) } else { start as u64 }
    }
}

/// Limits that the guest has set.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    /// RLIMIT_AS
    pub space: Option<u64>,
    /// RLIMIT_DATA
    pub data: Option<u64>,
    /// RLIMIT_STACK: how large an area may grow.
    pub stack: u64,
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
    pub limits: Limits,
    /// New mappings are locked (mlockall with MCL_FUTURE): how.
    pub lock_new: Option<Lock>,
    /// For the emulator's own mappings.
    pub room: super::room::Room,
    /// Ranges that a forked child may not have.
    pub left_behind: Vec<(u64, u64)>,
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

    pub fn put(&mut self, start: u32, area: Area) {
        self.cut(start, area.end);
        let (mut start, mut area) = (start, area);
        let alike = |a: &Area| a.flags == area.flags && a.grows == area.grows;
        if let Some((&s, a)) = self.areas.range(..start).next_back()
            && a.end == start as u64
            && alike(a)
        {
            start = s;
        }
        if area.end <= u32::MAX as u64
            && let Some(a) = self.areas.get(&(area.end as u32)).copied()
            && alike(&a)
        {
            self.areas.remove(&(area.end as u32));
            area.end = a.end;
        }
        self.areas.insert(start, area);
    }

    /// ENOMEM if `more` bytes of the kind of `area` would go over a limit.
    pub fn check_limits(&self, more: u64, area: &Area) -> Result<(), Errno> {
        let used = |counts: fn(&Area) -> bool| -> u64 {
            self.areas.iter().filter(|(_, a)| counts(a)).map(|(s, a)| a.end - *s as u64).sum()
        };
        let exceeds = |limit: Option<u64>, counts| limit.is_some_and(|limit| used(counts) + more > limit);
        let data = area.is_data() && exceeds(self.limits.data, Area::is_data);
        if data || exceeds(self.limits.space, |_| true) { Err(errno::ENOMEM) } else { Ok(()) }
    }

    /// ENOMEM if making `area`, which begins at `start`, writable makes too much data of it.
    pub fn check_writable(&self, start: u32, area: &Area, flags: PageFlags) -> Result<(), Errno> {
        let new = Area { flags, ..*area };
        if area.is_data() || !new.is_data() { Ok(()) } else { self.check_limits(area.end - start as u64, &new) }
    }

    /// Whether a mapping may be placed at `start..end`: nothing is there, nor an area right above that would grow into it.
    pub fn has_room(&self, start: u32, end: u64) -> bool {
        let above = u32::try_from(end).ok().and_then(|end| self.areas.range(end..).next());
        self.is_free(start, end) && above.is_none_or(|(s, a)| end <= a.lowest_use(*s))
    }

    /// The area that grows when `page`, where nothing is mapped, is touched, and its start.
    pub fn growing_over(&self, page: u32) -> Option<(u32, Area)> {
        let (start, area) = self.areas.range(page..).next().map(|(s, a)| (*s, *a)).filter(|(_, a)| a.grows)?;
        let below = self.areas.range(..page).next_back();
        let anything = PageFlags(PageFlags::READ.0 | PageFlags::WRITE.0 | PageFlags::EXEC.0);
        // It keeps away from others, if they can be accessed at all.
        let apart = below.is_none_or(|(_, b)| b.grows || b.flags.0 & anything.0 == 0 || b.end + STACK_GUARD <= page as u64);
        let small = area.end - page as u64 <= self.limits.stack;
        (page >= LOWEST && apart && small && self.check_limits(start as u64 - page as u64, &area).is_ok()).then_some((start, area))
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
            ceiling = ceiling.min(a.lowest_use(*s));
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
            m.put(s, Area::new(e, f));
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
            [(0x10000, Area::new(0x11000, RW)), (0x12000, Area::new(0x13000, RW))]
        );
        m.put(0x10000, Area::new(0x13000, RO));
        assert_eq!(m.areas.len(), 1);
        assert!(m.is_mapped(0x10000, 0x13000) && !m.is_mapped(0x10000, 0x14000));
    }

    #[test]
    fn data_are_private_and_writable() {
        let mut m = map(&[(0x10000, 0x20000, RW), (0x30000, 0x90000, RO), (0x90000, 0xa0000, RW.with(SHARED))]);
        m.limits.data = Some(0x12000);
        assert!(m.check_limits(0x2000, &Area::new(0, RW)).is_ok() && m.check_limits(0x3000, &Area::new(0, RW)).is_err());
        assert!(m.check_limits(0x3000, &Area::new(0, RO)).is_ok());
        assert!(m.check_writable(0x30000, &Area::new(0x32000, RO), RW).is_ok());
        assert!(m.check_writable(0x30000, &Area::new(0x33000, RO), RW).is_err());
        assert!(m.check_writable(0x10000, &Area::new(0x20000, RW), RW).is_ok(), "these are data already");
        m.limits = Limits { space: Some(0x81000), ..Limits::default() };
        assert!(m.check_limits(0x1000, &Area::new(0, RO)).is_ok() && m.check_limits(0x2000, &Area::new(0, RO)).is_err());
    }

    #[test]
    fn areas_grow_within_limits() {
        let at = 0x4000_0000;
        let mut m = map(&[(at - 0x20_0000, at as u64 - 0x1f_f000, RO)]);
        m.put(at, Area { grows: true, ..Area::new(at as u64 + 0x2000, RW) });
        m.limits.stack = 0x18_0000;
        let grows = |m: &Map, page: u32| m.growing_over(page).is_some();
        assert!(grows(&m, at - 0x1000) && grows(&m, at - 0xf_f000));
        assert!(!grows(&m, at - 0x10_0000), "too near to the next below");
        assert!(!grows(&m, at + 0x2000), "above");
        m.put(at - 0x20_0000, Area::new(at as u64 - 0x1f_f000, PageFlags::MAPPED));
        assert!(grows(&m, at - 0x17_e000) && !grows(&m, at - 0x17_f000), "as large as the limit");
        assert!(m.has_room(at - 0x18_0000, at as u64 - 0x10_0000) && !m.has_room(at - 0x18_0000, at as u64 - 0xf_f000));
        m.top = at + 0x2000;
        assert_eq!(m.find_free(0x1000, PAGE), Some(at - 0x10_1000));
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
