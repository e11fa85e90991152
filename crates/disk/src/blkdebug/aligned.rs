//! Requests in whole units: what is not aligned is read, changed and written back, alone in its range.
//!
//! Reference: docs/devel/testing/blkdebug.rst (`align`, the `pwritev_…` events).
//!
//! Invariants: while a request changes part of a unit, no other write touches the units it covers; writes of whole
//! units only wait for those.

use super::Blkdebug;
use crate::node::{Extent, Node, map_in_units};
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
    /// Nobody else may be in the range.
    alone: bool,
}

/// The writes under way.
#[derive(Default)]
pub struct Ranges {
    busy: Mutex<Vec<Range>>,
    left: Condvar,
}

impl Ranges {
    fn enter(&self, start: u64, end: u64, alone: bool) -> Inside<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.iter().any(|r| r.start < end && start < r.end && (alone || r.alone)) {
            busy = self.left.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.push(Range { start, end, alone });
        Inside { ranges: self, start, end }
    }
}

struct Inside<'a> {
    ranges: &'a Ranges,
    start: u64,
    end: u64,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut busy = self.ranges.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = busy.iter().position(|r| (r.start, r.end) == (self.start, self.end)) {
            busy.swap_remove(at);
        }
        self.ranges.left.notify_all();
    }
}

impl Blkdebug {
    /// The units around a range.
    fn around(&self, offset: u64, len: u64) -> (u64, u64) {
        (offset / self.align * self.align, (offset + len).next_multiple_of(self.align))
    }

    pub(super) fn read_aligned(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (start, end) = self.around(offset, buf.len() as u64);
        self.gate(0, start, end - start)?;
        // What was read too much would be dropped here.
        self.below.read(offset, buf)
    }

    pub(super) fn write_aligned(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let (start, end) = self.around(offset, buf.len() as u64);
        let whole = start == offset && end == offset + buf.len() as u64;
        let _inside = self.ranges.enter(start, end, !whole);
        if whole {
            return self.put(start, buf);
        }
        let mut units = vec![0; (end - start) as usize];
        self.read_edges(start, offset, offset + buf.len() as u64, &mut units)?;
        let skip = (offset - start) as usize;
        units[skip..skip + buf.len()].copy_from_slice(buf);
        // The last unit may reach over the end of the file below, which must not grow.
        let limit = self.below.size().max(offset + buf.len() as u64);
        units.truncate((limit - start).min(end - start) as usize);
        self.put(start, &units)
    }

    fn put(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.event("pwritev");
        let result = self.gate(1, offset, buf.len() as u64).and_then(|()| self.below.write(offset, buf));
        self.event("pwritev_done");
        result
    }

    /// Reads the first and the last unit of a range where the request `from..to` leaves parts of them alone.
    fn read_edges(&self, start: u64, from: u64, to: u64, units: &mut [u8]) -> io::Result<()> {
        let end = start + units.len() as u64;
        let (head, tail) = (from > start, to < end);
        let one = units.len() as u64 == self.align;
        if head || one {
            self.event("pwritev_rmw_head");
            if one && tail {
                self.event("pwritev_rmw_tail");
            }
            self.read_unit(start, &mut units[..self.align as usize])?;
            self.event("pwritev_rmw_after_head");
            if one && tail {
                self.event("pwritev_rmw_after_tail");
            }
        }
        if tail && !one {
            self.event("pwritev_rmw_tail");
            let last = units.len() - self.align as usize;
            self.read_unit(end - self.align, &mut units[last..])?;
            self.event("pwritev_rmw_after_tail");
        }
        Ok(())
    }

    fn read_unit(&self, offset: u64, unit: &mut [u8]) -> io::Result<()> {
        self.gate(0, offset, unit.len() as u64)?;
        let there = self.below.size().saturating_sub(offset).min(unit.len() as u64) as usize;
        self.below.read(offset, &mut unit[..there])
    }

    pub(super) fn map_aligned(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let (start, end) = self.around(offset, len);
        self.gate(5, start, end - start)?;
        map_in_units(self.align, self.below.size(), offset, len, |at, len| self.below.map(at, len))
    }

    pub(super) fn zero_aligned(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let end = offset + len;
        let (first, last) = (offset.div_ceil(self.zero_unit) * self.zero_unit, end / self.zero_unit * self.zero_unit);
        if first >= last {
            return self.write_zero_bytes(offset, end);
        }
        self.write_zero_bytes(offset, first)?;
        {
            let _inside = self.ranges.enter(first, last, false);
            self.event("pwritev_zero");
            let result =
                self.gate(2, first, last - first).and_then(|()| self.below.write_zeroes(first, last - first, unmap));
            self.event("pwritev_done");
            result?;
        }
        self.write_zero_bytes(last, end)
    }

    fn write_zero_bytes(&self, from: u64, to: u64) -> io::Result<()> {
        const PIECE: u64 = 1 << 20;
        let mut at = from;
        while at < to {
            let end = to.min((at / PIECE + 1) * PIECE);
            self.write_aligned(at, &vec![0; (end - at) as usize])?;
            at = end;
        }
        Ok(())
    }
}
