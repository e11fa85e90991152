//! What a forked child does not get: memory of which the guest has said so (MADV_DONTFORK).
//!
//! The kernel leaves a hole where that memory was. The emulator's own allocations must not come to lie in a hole of the window, so
//! the child reserves it again before it does anything else.
//!
//! Invariants: those of [`super`].

use super::map::Map;
use super::{Memory, PAGE};
use jit::PageFlags;

/// So many ranges are remembered one by one; more become one that covers them all.
const RANGES: usize = 64;

impl Map {
    fn leave_behind(&mut self, start: u64, end: u64) {
        if self.left_behind.iter().any(|(s, e)| *s <= start && end <= *e) {
            return;
        }
        self.left_behind.push((start, end));
        if self.left_behind.len() > RANGES {
            let start = self.left_behind.iter().map(|r| r.0).min().unwrap_or(start);
            let end = self.left_behind.iter().map(|r| r.1).max().unwrap_or(end);
            self.left_behind = vec![(start, end)];
        }
    }
}

impl Memory {
    /// The host will not give this range (some of it, if the call has failed half-way) to a forked child.
    pub fn stays_behind(&self, addr: u32, size: u64) {
        self.lock().leave_behind(addr as u64, (addr as u64 + size).min(1 << 32));
    }

    /// What stays behind goes on doing so at its new place.
    pub(super) fn moved_with_advice(&self, map: &mut Map, from: (u32, u64), to: (u32, u64)) {
        let (start, end) = (from.0 as u64, from.0 as u64 + from.1);
        if map.left_behind.iter().any(|(s, e)| *s < end && start < *e) {
            map.leave_behind(to.0 as u64, to.0 as u64 + to.1);
        }
    }

    /// In the child of a fork, before it maps anything, and without locks: reserves the holes in these ranges again. Gives where
    /// they were.
    pub fn close_holes(&self, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut closed = Vec::new();
        for &(start, end) in ranges {
            self.close_hole(start, end, &mut closed);
        }
        closed
    }

    fn close_hole(&self, start: u64, end: u64, closed: &mut Vec<(u64, u64)>) {
        let (host, size) = (self.host(start as u32).cast(), (end - start) as usize);
        // SAFETY: asks whether everything is mapped; nothing is written that would not be anyway.
        if start == end || unsafe { libc::msync(host, size, libc::MS_ASYNC) } == 0 {
            return;
        }
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: invariant 1: a range of the window of a process that has one thread; nothing is replaced.
        let got = unsafe { libc::mmap(host, size, libc::PROT_NONE, how, -1, 0) };
        if got != libc::MAP_FAILED {
            closed.push((start, end));
        } else if end - start > PAGE as u64 {
            let middle = (start + (end - start) / 2) & !(PAGE as u64 - 1);
            self.close_hole(start, middle, closed);
            self.close_hole(middle, end, closed);
        }
    }

    /// In the child of a fork: the guest has nothing where the holes were.
    pub fn forget_holes(&self, closed: &[(u64, u64)]) {
        let mut map = self.lock();
        map.left_behind.clear();
        for &(start, end) in closed {
            self.space.set_range(start as u32, (end - start) as u32, PageFlags::NONE);
            map.cut(start as u32, end);
        }
    }
}
