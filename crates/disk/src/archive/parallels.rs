//! Parallels expandable disks, with one table of clusters.
//!
//! Reference: docs/interop/parallels.rst of QEMU 10.0; messages of QEMU 10.0.2.
//!
//! Not modelled: the format extension (dirty bitmaps).

use super::{Format, Pages, Place, ReadOnly, head, le32, le64};
use crate::node::{Node, NodeInfo, NodeRef};
use spec::error::{Error, Result};
use std::io;

const SECTOR: u64 = 512;
const HEADER: u64 = 64;
const EMPTY: u32 = 1;
const IN_USE: u32 = 0x746f_6e59;

pub struct Parallels {
    size: u64,
    cluster: u64,
    entries: u64,
    /// Bytes that one unit of a table entry stands for.
    unit: u64,
    empty: bool,
    dirty: bool,
    pages: Pages,
}

pub fn open(file: NodeRef, write: bool) -> Result<ReadOnly<Parallels>> {
    let h: [u8; HEADER as usize] = head(file.as_ref(), "parallels")?;
    let extended = h.starts_with(b"WithouFreSpacExt");
    if !extended && !h.starts_with(b"WithoutFreeSpace") || le32(&h, 16) != 2 {
        return Err(Error::new("Image not in Parallels format"));
    }
    let tracks = le32(&h, 28);
    let entries = le32(&h, 32) as u64;
    let mut sectors = le64(&h, 36);
    if !extended {
        sectors &= u32::MAX as u64;
    }
    if tracks == 0 {
        return Err(Error::new("Invalid image: Zero sectors per track"));
    }
    if tracks as u64 > i32::MAX as u64 / 513 {
        return Err(Error::new("Invalid image: Too big cluster"));
    }
    if entries > i32::MAX as u64 / 4 {
        return Err(Error::new("Catalog too large"));
    }
    if sectors > i64::MAX as u64 / SECTOR {
        return Err(Error::new("Invalid image: Too big disk"));
    }
    let cluster = tracks as u64 * SECTOR;
    let format = Parallels {
        size: sectors * SECTOR,
        cluster,
        entries,
        unit: if extended { cluster } else { SECTOR },
        empty: le32(&h, 52) & EMPTY != 0,
        dirty: le32(&h, 44) == IN_USE,
        pages: Pages::default(),
    };
    ReadOnly::new(file, format, write)
}

impl Format for Parallels {
    const NAME: &'static str = "parallels";

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, file: &dyn Node, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let index = offset / self.cluster;
        let inside = offset % self.cluster;
        let run = (self.cluster - inside).min(len);
        if self.empty || index >= self.entries {
            return Ok((Place::Absent, run));
        }
        match u32::from_le_bytes(self.pages.bytes(file, HEADER + index * 4)?) {
            0 => Ok((Place::Absent, run)),
            entry => Ok((Place::At(entry as u64 * self.unit + inside), run)),
        }
    }

    fn info(&self) -> NodeInfo {
        NodeInfo { dirty: self.dirty, ..NodeInfo::default() }
    }
}
