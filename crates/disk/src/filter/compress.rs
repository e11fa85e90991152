//! `compress`: everything that is written is stored compressed.
//!
//! Reference: QEMU's manual, the `compress` filter.
//!
//! Invariants: packed clusters are whole, so writes of parts read the rest first; one write at a time does that.

use super::Filter;
use crate::node::NodeRef;
use std::io;
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub struct Compress {
    order: Mutex<()>,
}

impl Filter for Compress {
    fn driver(&self) -> Option<&'static str> {
        Some("compress")
    }

    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        let _alone = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let unit = below.discard_unit().max(1);
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let start = at / unit * unit;
            let end = (start + unit).min(below.size()).max(at + 1);
            let n = ((end - at) as usize).min(buf.len() - done);
            if at == start && n as u64 == end - start {
                below.write_compressed(at, &buf[done..done + n])?;
            } else {
                let mut cluster = vec![0; (end - start) as usize];
                below.read(start, &mut cluster)?;
                let skip = (at - start) as usize;
                cluster[skip..skip + n].copy_from_slice(&buf[done..done + n]);
                below.write_compressed(start, &cluster)?;
            }
            done += n;
        }
        Ok(())
    }
}
