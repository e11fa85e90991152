//! `copy-on-read`: what is read from a backing file stays in the image.
//!
//! Reference: QEMU's manual, the `copy-on-read` filter and drive option (`bottom` limits how far down is copied from).
//!
//! Invariants: no write passes between the read of old contents and their copy.

use super::Filter;
use crate::chain;
use crate::node::{NodeRef, is_zero};
use std::io;
use std::sync::{PoisonError, RwLock};

/// Longest piece that is copied at once.
const MAX_COPY: u64 = 2 << 20;

pub struct CopyOnRead {
    /// The file name of the lowest layer that is copied from; `None` is all of them.
    bottom: Option<String>,
    /// Shared by writes, held alone by a copy.
    order: RwLock<()>,
    explicit: bool,
}

impl CopyOnRead {
    pub fn new(bottom: Option<String>) -> CopyOnRead {
        CopyOnRead { bottom, order: RwLock::new(()), explicit: false }
    }

    /// The filter as a node of its own.
    pub fn node(bottom: Option<String>) -> CopyOnRead {
        CopyOnRead { explicit: true, ..CopyOnRead::new(bottom) }
    }

    /// The layer below the bottom, whose data is not copied.
    fn stop(&self, below: &NodeRef) -> Option<NodeRef> {
        let name = self.bottom.as_deref()?;
        let layers = chain::layers(below);
        let at = layers.iter().position(|l| l.filename() == name)?;
        layers.get(at + 1).cloned()
    }

    /// Copies the rest of one unallocated run into the image; returns how far the image now has its own data.
    fn copy(&self, below: &NodeRef, offset: u64, end: u64) -> io::Result<u64> {
        let _alone = self.order.write().unwrap_or_else(PoisonError::into_inner);
        let size = below.size();
        let unit = below.copy_unit();
        let start = offset / unit * unit;
        let stop = end.next_multiple_of(unit).min(size).min(start + MAX_COPY.max(unit));
        let lowest = self.stop(below);
        let mut at = start;
        while at < stop {
            // Others may have written meanwhile.
            let own = below.map(at, stop - at)?;
            let mut n = own.len.max(1).min(stop - at);
            let mut wanted = !own.allocated;
            if wanted && lowest.is_some() {
                let seen = chain::status(below.as_ref(), lowest.as_ref(), at, n)?;
                n = seen.extent.len.max(1).min(n);
                wanted = seen.extent.allocated;
            }
            if wanted {
                below.event("cor_write");
                let mut data = vec![0; n as usize];
                below.read(at, &mut data)?;
                if is_zero(&data) { below.write_zeroes(at, n, false)? } else { below.write(at, &data)? }
            }
            at += n;
        }
        Ok(stop)
    }
}

impl Filter for CopyOnRead {
    fn driver(&self) -> Option<&'static str> {
        self.explicit.then_some("copy-on-read")
    }

    fn read(&self, below: &NodeRef, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        let (mut at, mut rest) = (offset, buf);
        while at < end {
            let run = below.map(at, end - at)?;
            let stop = match run.allocated {
                true => at + run.len.max(1),
                false => self.copy(below, at, (at + run.len.max(1)).min(end))?,
            };
            let (now, later) = rest.split_at_mut((stop.min(end) - at) as usize);
            below.read(at, now)?;
            (at, rest) = (stop, later);
        }
        Ok(())
    }

    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        let _shared = self.order.read().unwrap_or_else(PoisonError::into_inner);
        below.write(offset, buf)
    }

    fn write_zeroes(&self, below: &NodeRef, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let _shared = self.order.read().unwrap_or_else(PoisonError::into_inner);
        below.write_zeroes(offset, len, unmap)
    }

    fn discard(&self, below: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
        let _shared = self.order.read().unwrap_or_else(PoisonError::into_inner);
        below.discard(offset, len)
    }
}
