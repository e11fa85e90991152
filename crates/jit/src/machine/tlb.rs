//! The second level of address translation: pages that were walked, tagged by address space.
//!
//! Translated code has its own small tables (`L1`), filled from here. An entry is valid while its regime's epoch and its
//! space's number are the current ones, so dropping a regime or an address space is one counter.
//!
//! **Invariants**: a page through which code is executed (`EXECUTED`) is dropped only together with the jump cache.

use cpu::system::{Flush, Mapping, PAGE_BITS, REGIMES};
use std::collections::HashMap;
use x64::env::TLB_ENTRIES;

const WAYS: usize = 4;
const SETS: usize = 2048;
/// A page number that no address has.
const NO_PAGE: u64 = u64::MAX;
/// Space number of global entries.
const GLOBAL: u32 = 0;
/// Remembered ranges that larger pages cover, per regime.
const LARGE_RANGES: usize = 64;
/// From this size on, dropping a large page drops its whole regime.
const LARGE_LIMIT_BITS: u8 = 22;
/// Address spaces known at once.
const MAX_SPACES: usize = 1 << 14;

pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
pub(super) const EXECUTE: u8 = 4;

/// An entry of translated code's tables: see `x64::lower::soft`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Quick {
    page: u64,
    host: u64,
}

/// The tables of translated code: per regime one for reads and one for writes.
#[repr(C)]
pub(super) struct L1 {
    tables: [[[Quick; TLB_ENTRIES]; 2]; REGIMES],
    /// Which entries belong to one address space (bits), and which may be in use.
    local: [[[u64; TLB_ENTRIES / 64]; 2]; REGIMES],
    used: [[[u64; TLB_ENTRIES / 64]; 2]; REGIMES],
    /// Host pages that may be in a table of writes (bits, by the low bits of their number).
    written: [u64; WRITTEN / 64],
}

/// Bits of `L1::written`.
const WRITTEN: usize = 1 << 16;

impl L1 {
    /// Empty tables.
    ///
    /// # Safety
    /// `at` leads to memory that is an `L1`'s.
    pub unsafe fn begin(at: *mut L1) {
        // SAFETY: zero is a value of all fields; the tables are written after that.
        unsafe {
            at.write_bytes(0, 1);
            let first = (&raw mut (*at).tables).cast::<Quick>();
            for n in 0..REGIMES * 2 * TLB_ENTRIES {
                first.add(n).write(Quick { page: NO_PAGE, host: 0 });
            }
        }
    }

    fn index(addr: u64) -> usize {
        (addr >> PAGE_BITS) as usize % TLB_ENTRIES
    }

    pub fn fill(&mut self, regime: u8, write: bool, addr: u64, e: &Entry) {
        let page = addr & !((1 << PAGE_BITS) - 1);
        let n = L1::index(addr);
        self.tables[regime as usize][write as usize][n] = Quick { page, host: e.host };
        set_bit(&mut self.local[regime as usize][write as usize], n, !e.is_global());
        set_bit(&mut self.used[regime as usize][write as usize], n, true);
        if write {
            set_bit(&mut self.written, written(e.host), true);
        }
    }

    /// Empties what belongs to the address space that was current.
    pub fn leave_space(&mut self, regimes: u8) {
        for r in (0..REGIMES).filter(|r| regimes >> r & 1 != 0) {
            for (table, local) in self.tables[r].iter_mut().zip(&mut self.local[r]) {
                each_bit(local, |n| table[n].page = NO_PAGE);
            }
        }
    }

    pub fn clear(&mut self, regimes: u8) {
        for r in (0..REGIMES).filter(|r| regimes >> r & 1 != 0) {
            for (table, used) in self.tables[r].iter_mut().zip(&mut self.used[r]) {
                each_bit(used, |n| table[n].page = NO_PAGE);
            }
        }
        if self.used.iter().all(|r| r[1].iter().all(|&w| w == 0)) {
            self.written.fill(0);
        }
    }

    fn clear_page(&mut self, regimes: u8, addr: u64) {
        for (r, tables) in self.tables.iter_mut().enumerate() {
            if regimes >> r & 1 != 0 {
                for table in tables {
                    table[L1::index(addr)].page = NO_PAGE;
                }
            }
        }
    }

    /// Nothing writes to this host page directly any more.
    pub fn protect(&mut self, host: u64) {
        if !bit(&self.written, written(host)) {
            return;
        }
        for tables in &mut self.tables {
            for q in &mut tables[1] {
                if q.host == host {
                    q.page = NO_PAGE;
                }
            }
        }
    }
}

/// The bit of a host page in `L1::written`.
fn written(host: u64) -> usize {
    (host >> PAGE_BITS) as usize % WRITTEN
}

pub(super) fn bit(words: &[u64], n: usize) -> bool {
    words[n / 64] >> (n % 64) & 1 != 0
}

pub(super) fn set_bit(words: &mut [u64], n: usize, to: bool) {
    let word = &mut words[n / 64];
    *word = *word & !(1 << (n % 64)) | (to as u64) << (n % 64);
}

/// Calls `f` with the number of every bit that is set, and clears them.
pub(super) fn each_bit(words: &mut [u64], mut f: impl FnMut(usize)) {
    for (w, word) in words.iter_mut().enumerate() {
        let mut rest = std::mem::take(word);
        while rest != 0 {
            f(64 * w + rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
    }
}

/// One page in one regime.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    page: u64,
    /// Guest-physical address of the page.
    pub phys: u64,
    /// Host address of the page, or 0 if it is not memory.
    pub host: u64,
    epoch: u32,
    space: u32,
    pub allowed: u8,
    /// The guest may not write it, whatever the mapping says (ROM).
    pub read_only: bool,
    /// Jump cache entries may depend on it.
    pub executed: bool,
}

impl Entry {
    /// In every address space.
    pub fn is_global(&self) -> bool {
        self.space == GLOBAL
    }

    /// What must go from the jump cache with it. Entries of an address space that is not current have none there.
    fn jumps(&self, epochs: &[u32; REGIMES], current: &[(u64, u32); REGIMES]) -> Jumps {
        if !self.executed || !epochs.contains(&self.epoch) {
            Jumps::Keep
        } else if self.is_global() {
            Jumps::ForgetAll
        } else if current.iter().any(|&(_, number)| number == self.space) {
            Jumps::ForgetLocal
        } else {
            Jumps::Keep
        }
    }

    const NONE: Entry =
        Entry { page: NO_PAGE, phys: 0, host: 0, epoch: 0, space: 0, allowed: 0, read_only: false, executed: false };
}

/// A range of addresses that a large page of the guest covers, and which parts of it were entered as pages of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Large {
    base: u64,
    bits: u8,
    parts: [u64; PARTS / 64],
}

/// Bits of an address within a granule, and how many granules are told apart: 4 GiB have that many.
const GRANULE_BITS: u8 = 20;
const GRANULES: usize = 1 << 12;

fn granule(addr: u64) -> usize {
    (addr >> GRANULE_BITS) as usize % GRANULES
}

/// Parts of a large page that are told apart.
const PARTS: usize = 512;

impl Large {
    /// Any page may be part of one.
    const ANY: Large = Large { base: 0, bits: 64, parts: [0; PARTS / 64] };

    fn covers(&self, addr: u64) -> bool {
        self.bits == 64 || addr >> self.bits << self.bits == self.base
    }

    /// Bits of an address within a part.
    fn part_bits(&self) -> u32 {
        u32::from(self.bits).saturating_sub(PARTS.trailing_zeros()).max(PAGE_BITS)
    }

    /// The pages that were entered, or lie in a part with one that was.
    fn each_page(mut self, mut f: impl FnMut(u64)) {
        let bits = self.part_bits();
        let (base, pages) = (self.base, 1 << (bits - PAGE_BITS));
        each_bit(&mut self.parts, |n| {
            let first = (base + ((n as u64) << bits)) >> PAGE_BITS;
            (first..first + pages).for_each(&mut f);
        });
    }
}

/// Bits of `allowed` for a mapping.
pub(super) fn allowed(m: &Mapping) -> u8 {
    m.read as u8 * READ | m.write as u8 * WRITE | m.execute as u8 * EXECUTE
}

pub(super) struct Tlb {
    sets: Box<[[Entry; WAYS]]>,
    /// Current epoch of each regime; no two are ever equal.
    epochs: [u32; REGIMES],
    next_epoch: u32,
    /// Number of each address space seen.
    spaces: HashMap<u64, u32>,
    next_space: u32,
    /// Per regime: tag of the current address space, and its number.
    current: [(u64, u32); REGIMES],
    /// Large pages that were used, and the granules of address space that have some (bits, by the low bits of their number).
    large: [Vec<Large>; REGIMES],
    granules: [[u64; GRANULES / 64]; REGIMES],
    victim: usize,
}

/// What a change of the second level leaves of the jump cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Jumps {
    Keep,
    /// Those within the current address space go.
    ForgetLocal,
    ForgetAll,
}

impl Tlb {
    pub fn new() -> Tlb {
        let mut t = Tlb {
            sets: vec![[Entry::NONE; WAYS]; SETS].into(),
            epochs: [0; REGIMES],
            next_epoch: 1,
            spaces: HashMap::new(),
            next_space: 1,
            current: [(0, 1); REGIMES],
            large: Default::default(),
            granules: [[0; GRANULES / 64]; REGIMES],
            victim: 0,
        };
        for r in 0..REGIMES {
            t.new_epoch(r);
            t.enter_space(r as u8, 0);
        }
        t
    }

    fn new_epoch(&mut self, regime: usize) {
        self.epochs[regime] = self.next_epoch;
        self.large[regime].clear();
        self.granules[regime].fill(0);
        if self.next_epoch == u32::MAX {
            self.sets.fill([Entry::NONE; WAYS]);
            self.next_epoch = 0;
            self.epochs = [0, 1, 2, 3];
            self.next_epoch = REGIMES as u32;
        }
        self.next_epoch += 1;
    }

    fn number_of(&mut self, tag: u64) -> u32 {
        if let Some(&n) = self.spaces.get(&tag) {
            return n;
        }
        if self.spaces.len() >= MAX_SPACES || self.next_space == u32::MAX {
            self.spaces.clear();
            if self.next_space == u32::MAX {
                self.sets.fill([Entry::NONE; WAYS]);
                self.next_space = 1;
            }
        }
        self.next_space += 1;
        self.spaces.insert(tag, self.next_space);
        self.next_space
    }

    /// The tag of a regime's address space is now this one. Whether it changed.
    pub fn enter_space(&mut self, regime: u8, tag: u64) -> bool {
        let r = regime as usize;
        let number = self.number_of(tag);
        let changed = self.current[r] != (tag, number);
        self.current[r] = (tag, number);
        changed
    }

    pub fn space_of(&self, regime: u8) -> u64 {
        self.current[regime as usize].0
    }

    fn set_of(regime: usize, page: u64) -> usize {
        (page ^ page >> 11 ^ (regime as u64) << 7) as usize % SETS
    }

    /// The entry for an address in a regime's current space.
    pub fn find(&mut self, regime: u8, addr: u64) -> Option<&mut Entry> {
        let (r, page) = (regime as usize, addr >> PAGE_BITS);
        let (epoch, space) = (self.epochs[r], self.current[r].1);
        self.sets[Tlb::set_of(r, page)]
            .iter_mut()
            .find(|e| e.page == page && e.epoch == epoch && (e.space == space || e.space == GLOBAL))
    }

    /// Enters a walked page.
    pub fn insert(
        &mut self,
        regime: u8,
        addr: u64,
        m: &Mapping,
        host: u64,
        read_only: bool,
        executed: bool,
    ) -> (Entry, Jumps) {
        let (r, page) = (regime as usize, addr >> PAGE_BITS);
        let entry = Entry {
            page,
            phys: m.phys,
            host,
            epoch: self.epochs[r],
            space: if m.global { GLOBAL } else { self.current[r].1 },
            allowed: allowed(m),
            read_only,
            executed,
        };
        if m.size_bits as u32 > PAGE_BITS {
            self.note_large(r, addr, m.size_bits);
        }
        let (epochs, current) = (self.epochs, self.current);
        let set = &mut self.sets[Tlb::set_of(r, page)];
        let dead = |e: &Entry| e.page == NO_PAGE || !epochs.contains(&e.epoch);
        let way = set
            .iter()
            .position(|e| e.page == page && e.epoch == entry.epoch && e.space == entry.space)
            .or_else(|| set.iter().position(dead))
            .or_else(|| {
                self.victim = (self.victim + 1) % WAYS;
                let first = self.victim;
                (0..WAYS).map(|k| (first + k) % WAYS).min_by_key(|&k| set[k].jumps(&epochs, &current))
            })
            .unwrap_or(self.victim);
        let jumps = set[way].jumps(&epochs, &current);
        set[way] = entry;
        (entry, jumps)
    }

    fn note_large(&mut self, regime: usize, addr: u64, bits: u8) {
        let base = addr >> bits << bits;
        self.mark_granules(regime, base, bits);
        let list = &mut self.large[regime];
        if list.first() == Some(&Large::ANY) {
            return;
        }
        let known = list.iter().position(|l| (l.base, l.bits) == (base, bits));
        let at = known.unwrap_or_else(|| {
            list.push(Large { base, bits, parts: [0; PARTS / 64] });
            list.len() - 1
        });
        if at == LARGE_RANGES {
            list.clear();
            list.push(Large::ANY);
            return;
        }
        let part = (addr - base) >> list[at].part_bits();
        set_bit(&mut list[at].parts, part as usize, true);
    }

    /// Notes that a large page lies in its granules. They begin at a multiple of their number, which is a power of two: they
    /// are whole words, or bits of one.
    fn mark_granules(&mut self, regime: usize, base: u64, bits: u8) {
        let first = granule(base);
        let count = 1 << bits.saturating_sub(GRANULE_BITS).min(GRANULES.trailing_zeros() as u8);
        let words = &mut self.granules[regime][first / 64..];
        match count {
            0..64 => words[0] |= ((1 << count) - 1) << (first % 64),
            _ => words[..count / 64].fill(u64::MAX),
        }
    }

    /// Drops what a maintenance operation names, here and in the first level.
    pub fn flush(&mut self, what: Flush, l1: &mut L1) -> Jumps {
        match what {
            Flush::All { regimes } => {
                for r in 0..REGIMES {
                    if regimes >> r & 1 != 0 {
                        self.new_epoch(r);
                    }
                }
                l1.clear(regimes);
                Jumps::ForgetAll
            }
            Flush::Space { regimes, space } => {
                let affects_current = (0..REGIMES).any(|r| regimes >> r & 1 != 0 && self.current[r].0 == space);
                self.spaces.remove(&space);
                for r in 0..REGIMES {
                    if self.current[r].0 == space {
                        self.enter_space(r as u8, space);
                    }
                }
                if !affects_current {
                    return Jumps::Keep;
                }
                l1.leave_space(regimes);
                Jumps::ForgetLocal
            }
            Flush::Page { regimes, addr, space } => self.flush_page(regimes, addr, space, l1),
        }
    }

    fn flush_page(&mut self, regimes: u8, addr: u64, space: Option<u64>, l1: &mut L1) -> Jumps {
        let mut jumps = Jumps::Keep;
        let number = space.and_then(|tag| self.spaces.get(&tag).copied());
        l1.clear_page(regimes, addr);
        for r in 0..REGIMES {
            if regimes >> r & 1 == 0 {
                continue;
            }
            let covering: Vec<Large> = if bit(&self.granules[r], granule(addr)) {
                self.large[r].iter().copied().filter(|l| l.covers(addr)).collect()
            } else {
                Vec::new()
            };
            if covering.iter().any(|l| l.bits > LARGE_LIMIT_BITS) {
                self.new_epoch(r);
                l1.clear(1 << r);
                jumps = Jumps::ForgetAll;
                continue;
            }
            jumps = jumps.max(self.drop_page(r, addr >> PAGE_BITS, space.is_some(), number));
            for large in &covering {
                large.each_page(|page| {
                    jumps = jumps.max(self.drop_page(r, page, space.is_some(), number));
                    l1.clear_page(1 << r, page << PAGE_BITS);
                });
            }
            // Nothing is left of them in any space.
            if space.is_none() && !covering.is_empty() {
                self.large[r].retain(|l| !l.covers(addr));
            }
        }
        jumps
    }

    /// Drops a page in the space `number` and global (`one_space`), or in all spaces.
    fn drop_page(&mut self, regime: usize, page: u64, one_space: bool, number: Option<u32>) -> Jumps {
        let mut jumps = Jumps::Keep;
        for e in &mut self.sets[Tlb::set_of(regime, page)] {
            let ours = e.page == page && e.epoch == self.epochs[regime];
            if ours && (!one_space || e.space == GLOBAL || Some(e.space) == number) {
                jumps = jumps.max(e.jumps(&self.epochs, &self.current));
                *e = Entry::NONE;
            }
        }
        jumps
    }

    /// The address-space view has changed: host pages may be others.
    pub fn flush_everything(&mut self, l1: &mut L1) {
        self.flush(Flush::All { regimes: (1 << REGIMES) - 1 }, l1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(phys: u64, bits: u8, global: bool) -> Mapping {
        Mapping { phys, size_bits: bits, read: true, write: true, execute: true, global }
    }

    fn l1() -> Box<L1> {
        let mut l1 = Box::<L1>::new_uninit();
        // SAFETY: it is begun before it is used.
        unsafe {
            L1::begin(l1.as_mut_ptr());
            l1.assume_init()
        }
    }

    #[test]
    fn spaces_keep_their_pages_and_share_global_ones() {
        let mut t = Tlb::new();
        t.enter_space(0, 7);
        t.insert(0, 0x1000, &page(0xa000, 12, false), 1, false, false);
        t.insert(0, 0x2000, &page(0xb000, 12, true), 1, false, false);
        assert!(t.enter_space(0, 8));
        assert!(t.find(0, 0x1000).is_none());
        assert_eq!(t.find(0, 0x2fff).unwrap().phys, 0xb000);
        assert!(t.enter_space(0, 7) && !t.enter_space(0, 7));
        assert_eq!(t.find(0, 0x1abc).unwrap().phys, 0xa000);
        t.flush(Flush::Space { regimes: 1, space: 7 }, &mut l1());
        assert!(t.find(0, 0x1000).is_none());
        assert!(t.find(0, 0x2000).is_some());
    }

    #[test]
    fn maintenance_by_address_finds_parts_of_large_pages() {
        let mut t = Tlb::new();
        for p in [0x10_0000u64, 0x10_5000, 0x1f_f000] {
            t.insert(1, p, &page(p, 20, true), 1, false, false);
        }
        t.insert(1, 0x20_0000, &page(0, 12, true), 1, false, false);
        t.flush(Flush::Page { regimes: 2, addr: 0x12_3000, space: Some(0) }, &mut l1());
        for p in [0x10_0000u64, 0x10_5000, 0x1f_f000] {
            assert!(t.find(1, p).is_none(), "{p:#x}");
        }
        assert!(t.find(1, 0x20_0000).is_some());
    }

    #[test]
    fn a_large_page_that_is_gone_is_not_looked_for_again() {
        let mut t = Tlb::new();
        let mut quick = l1();
        let drop = |addr| Flush::Page { regimes: 2, addr, space: None };
        for p in [0x10_0000u64, 0x20_0000] {
            t.insert(1, p, &page(p, 20, true), 1, false, false);
            t.insert(1, p, &page(p, 16, true), 1, false, false);
        }
        t.flush(drop(0x1f_f000), &mut quick);
        let known = |t: &Tlb| t.large[1].iter().map(|l| (l.base, l.bits)).collect::<Vec<_>>();
        // The range of 64 KiB did not cover the address.
        assert_eq!(known(&t), [(0x10_0000, 16), (0x20_0000, 20), (0x20_0000, 16)]);
        let (entry, _) = t.insert(1, 0x10_3000, &page(0x10_3000, 20, true), 1, false, false);
        quick.fill(1, false, 0x10_3000, &entry);
        t.flush(drop(0x10_0000), &mut quick);
        assert!(t.find(1, 0x10_3000).is_none() && t.find(1, 0x20_0000).is_some());
        assert_eq!(quick.tables[1][0][L1::index(0x10_3000)].page, NO_PAGE);
        // In one address space only: the parts of others stay.
        t.flush(Flush::Page { regimes: 2, addr: 0x20_0000, space: Some(9) }, &mut quick);
        assert_eq!(known(&t).len(), 2);
    }

    #[test]
    fn parts_of_large_pages_of_every_size_are_found() {
        for bits in 13..=LARGE_LIMIT_BITS {
            let mut t = Tlb::new();
            let base = 0x4000_0000u64;
            let inside = [0, 1 << (bits - 1), (1 << bits) - 0x1000].map(|offset: u64| base + offset & !0xfff);
            for p in inside {
                t.insert(0, p, &page(p, bits, false), 1, false, false);
            }
            t.insert(0, base + (1 << bits), &page(0, 12, false), 1, false, false);
            t.flush(Flush::Page { regimes: 1, addr: base + 0x1000, space: None }, &mut l1());
            assert!(inside.iter().all(|p| t.find(0, *p).is_none()), "{bits}");
            assert!(t.find(0, base + (1 << bits)).is_some(), "{bits}");
        }
    }

    #[test]
    fn large_pages_mark_all_of_their_granules() {
        for bits in [13, 20, 21, 24, 25, 26, 30, 32, 39] {
            let mut t = Tlb::new();
            let base = 0x1_c000_0000u64 >> bits << bits;
            t.mark_granules(0, base, bits);
            for n in 0..GRANULES as u64 {
                let at = (n << GRANULE_BITS).wrapping_sub(base) & u64::from(u32::MAX);
                let inside = bits >= 32 || at < 1 << bits.max(GRANULE_BITS);
                assert_eq!(bit(&t.granules[0], n as usize), inside, "{bits}: {n}");
            }
        }
    }

    #[test]
    fn too_many_large_pages_are_any_page() {
        let mut t = Tlb::new();
        for n in 0..LARGE_RANGES as u64 + 3 {
            t.insert(0, n << 21, &page(n << 21, 21, true), 1, false, false);
        }
        // Where there is none, nothing but the page goes.
        t.insert(0, 0xa000_0000, &page(0, 12, true), 1, false, false);
        t.flush(Flush::Page { regimes: 1, addr: 0xa000_0000, space: None }, &mut l1());
        assert!(t.find(0, 0xa000_0000).is_none() && t.find(0, 2 << 21).is_some());
        t.flush(Flush::Page { regimes: 1, addr: 0x21_3000, space: None }, &mut l1());
        assert!((0..3).all(|n| t.find(0, n << 21).is_none()));
    }

    #[test]
    fn executed_pages_of_other_spaces_go_quietly() {
        let mut t = Tlb::new();
        let drop = Flush::Page { regimes: 1, addr: 0x1000, space: None };
        t.enter_space(0, 7);
        t.insert(0, 0x1000, &page(0, 12, false), 1, false, true);
        for r in 0..REGIMES as u8 {
            t.enter_space(r, 8);
        }
        assert_eq!(t.flush(drop, &mut l1()), Jumps::Keep);
    }

    #[test]
    fn executed_pages_ask_for_the_jump_cache_when_they_go() {
        let mut t = Tlb::new();
        t.insert(0, 0x1000, &page(0, 12, false), 1, false, false);
        let drop = Flush::Page { regimes: 1, addr: 0x1000, space: None };
        assert_eq!(t.flush(drop, &mut l1()), Jumps::Keep);
        t.insert(0, 0x1000, &page(0, 12, false), 1, false, true);
        assert_eq!(t.flush(drop, &mut l1()), Jumps::ForgetLocal);
        t.insert(0, 0x1000, &page(0, 12, true), 1, false, true);
        assert_eq!(t.flush(drop, &mut l1()), Jumps::ForgetAll);
    }
}
