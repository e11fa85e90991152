//! `detect-zeroes` and `discard=ignore`.
//!
//! Reference: QEMU's manual, `-blockdev` options `detect-zeroes` and `discard`.

use super::Filter;
use crate::node::{NodeRef, is_zero};
use std::io;

/// Writes of nothing but zeroes become write-zeroes requests.
pub struct DetectZeroes {
    pub unmap: bool,
}

impl Filter for DetectZeroes {
    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        if is_zero(buf) { below.write_zeroes(offset, buf.len() as u64, self.unmap) } else { below.write(offset, buf) }
    }
}

/// Discards succeed and do nothing.
pub struct IgnoreDiscard;

impl Filter for IgnoreDiscard {
    fn discard(&self, _below: &NodeRef, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, below: &NodeRef, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        below.write_zeroes(offset, len, false)
    }
}
