//! What jobs put above a disk that is written while they run: a record of what changed (mirror), and the copy of old
//! contents before they are overwritten (backup).
//!
//! Invariants: a bit is set before its write is done, so that what changed during a copy is copied again; before a
//! write is done, everything it covers is in the backup.

use super::Filter;
use crate::job::copy::{Fault, copy_packed, copy_piece};
use crate::node::NodeRef;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// One bit for each piece of a disk.
pub struct Bits {
    pub granularity: u64,
    size: u64,
    words: Mutex<Vec<u64>>,
}

impl Bits {
    pub fn new(size: u64, granularity: u64) -> Bits {
        let words = size.div_ceil(granularity).div_ceil(64) as usize;
        Bits { granularity, size, words: Mutex::new(vec![0; words]) }
    }

    pub fn set(&self, offset: u64, len: u64) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        for bit in offset / self.granularity..(offset + len).min(self.size).div_ceil(self.granularity) {
            words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    /// Clears the first set bit at or behind `from`, or from the start again, and returns its piece.
    pub fn take_next(&self, from: u64) -> Option<(u64, u64)> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let count = words.len();
        let first = (from / self.granularity / 64) as usize;
        for i in 0..count {
            let at = (first + i) % count;
            if words[at] != 0 {
                let bit = words[at].trailing_zeros() as u64;
                words[at] &= words[at] - 1;
                let offset = (at as u64 * 64 + bit) * self.granularity;
                return Some((offset, self.granularity.min(self.size - offset)));
            }
        }
        None
    }

    /// Clears a piece's bit; whether it was set.
    pub fn take(&self, piece: u64) -> bool {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(word) = words.get_mut((piece / 64) as usize) else { return false };
        let mask = 1 << (piece % 64);
        let was = *word & mask != 0;
        *word &= !mask;
        was
    }

    /// Bytes of the pieces whose bits are set; the last piece may be short.
    pub fn remaining(&self) -> u64 {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = words.iter().map(|w| w.count_ones() as u64).sum::<u64>() * self.granularity;
        let last = self.size.saturating_sub(1) / self.granularity;
        let set = words.get((last / 64) as usize).is_some_and(|w| w & (1 << (last % 64)) != 0);
        whole - if set { (last + 1) * self.granularity - self.size } else { 0 }
    }

    /// Calls `f` for each piece whose bit is set.
    pub fn each(&self, mut f: impl FnMut(u64, u64)) {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let set = |piece: &u64| words[(piece / 64) as usize] & (1 << (piece % 64)) != 0;
        for piece in (0..self.size.div_ceil(self.granularity)).filter(set) {
            let offset = piece * self.granularity;
            f(offset, self.granularity.min(self.size - offset));
        }
    }

    pub fn clear(&self) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).fill(0);
    }
}

/// Notes what is written.
pub struct Tracker(pub std::sync::Arc<Bits>);

impl Filter for Tracker {
    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        // Before and after: a copy that ran between the two has seen the old contents.
        self.0.set(offset, buf.len() as u64);
        let done = below.write(offset, buf);
        self.0.set(offset, buf.len() as u64);
        done
    }
    fn write_zeroes(&self, below: &NodeRef, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.0.set(offset, len);
        let done = below.write_zeroes(offset, len, unmap);
        self.0.set(offset, len);
        done
    }
    fn discard(&self, below: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
        self.0.set(offset, len);
        let done = below.discard(offset, len);
        self.0.set(offset, len);
        done
    }
    fn passes_packed(&self) -> bool {
        false
    }
}

/// The state that a backup and the disk's writers share.
pub struct BeforeWrite {
    source: NodeRef,
    target: NodeRef,
    pub wanted: Bits,
    compress: bool,
    /// Bytes of pieces that were copied.
    copied: AtomicU64,
    /// Pieces whose copy is under way.
    busy: Mutex<Vec<u64>>,
    changed: Condvar,
    /// The first failure of a copy; the backup is then worthless, the disk goes on.
    failed: Mutex<Option<i32>>,
}

impl BeforeWrite {
    pub fn new(source: NodeRef, target: NodeRef, granularity: u64, compress: bool) -> BeforeWrite {
        let wanted = Bits::new(source.size(), granularity);
        BeforeWrite {
            source,
            target,
            wanted,
            compress,
            copied: AtomicU64::new(0),
            busy: Mutex::new(Vec::new()),
            changed: Condvar::new(),
            failed: Mutex::new(None),
        }
    }

    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Copies a piece if nobody has yet; waits when somebody is at it.
    pub fn copy(&self, piece: u64) -> Result<bool, Fault> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(&piece) {
            busy = self.changed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        if !self.wanted.take(piece) {
            return Ok(false);
        }
        busy.push(piece);
        drop(busy);
        let offset = piece * self.wanted.granularity;
        let len = self.wanted.granularity.min(self.source.size() - offset);
        let done = match self.compress {
            true => copy_packed(&self.source, &self.target, offset, len),
            false => copy_piece(&self.source, None, &self.target, offset, len),
        };
        match done.is_ok() {
            true => drop(self.copied.fetch_add(len, Ordering::Relaxed)),
            // It may be tried again.
            false => self.wanted.set(offset, len),
        }
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| *p != piece);
        self.changed.notify_all();
        done.map(|()| true)
    }

    fn before(&self, offset: u64, len: u64) {
        for piece in offset / self.wanted.granularity..(offset + len).div_ceil(self.wanted.granularity) {
            if let Err(fault) = self.copy(piece) {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(fault.error.raw_os_error().unwrap_or(5));
            }
        }
    }

    pub fn failure(&self) -> Option<io::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).map(io::Error::from_raw_os_error)
    }
}

/// Saves old contents before they are overwritten.
pub struct CopyBeforeWrite(pub std::sync::Arc<BeforeWrite>);

impl Filter for CopyBeforeWrite {
    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.before(offset, buf.len() as u64);
        below.write(offset, buf)
    }
    fn write_zeroes(&self, below: &NodeRef, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.0.before(offset, len);
        below.write_zeroes(offset, len, unmap)
    }
    fn discard(&self, below: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
        self.0.before(offset, len);
        below.discard(offset, len)
    }
    fn passes_packed(&self) -> bool {
        false
    }
}
