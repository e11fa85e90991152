//! Growing disks of Bochs: a catalog of extents, each with a bitmap of the sectors that it has.
//!
//! Reference: the redolog header of Bochs' hdimage, versions 1 and 2; limits and messages of QEMU 10.0.2.

use super::{Format, Pages, Place, ReadOnly, head, le32, le64};
use crate::node::{Node, NodeRef};
use spec::error::{Error, Result};
use std::io;

const SECTOR: u64 = 512;
const VERSION_1: u32 = 0x0001_0000;
const VERSION_2: u32 = 0x0002_0000;
const ABSENT: u32 = 0xffff_ffff;
const MAX_CATALOG: u32 = 0x10_0000;
const MAX_EXTENT: u32 = 0x80_0000;

pub struct Bochs {
    size: u64,
    catalog: u64,
    entries: u64,
    extent: u64,
    bitmap_bytes: u64,
    data: u64,
    pages: Pages,
}

pub fn open(file: NodeRef, write: bool) -> Result<ReadOnly<Bochs>> {
    let h: [u8; 96] = head(file.as_ref(), "Bochs")?;
    let is = |at: usize, text: &[u8]| h[at..].starts_with(text) && h[at + text.len()] == 0;
    let version = le32(&h, 64);
    if !is(0, b"Bochs Virtual HD Image") || !is(32, b"Redolog") || !is(48, b"Growing") || ![VERSION_1, VERSION_2].contains(&version) {
        return Err(Error::new("Image not in Bochs format"));
    }
    let (header, entries, bitmap, extent) = (le32(&h, 68), le32(&h, 72), le32(&h, 76), le32(&h, 80));
    let size = le64(&h, if version == VERSION_2 { 88 } else { 84 }) / SECTOR * SECTOR;
    if entries > MAX_CATALOG {
        return Err(Error::new("Catalog size is too large"));
    }
    if extent < SECTOR as u32 {
        return Err(Error::new("Extent size must be at least 512"));
    }
    if !extent.is_power_of_two() {
        return Err(Error::new(format!("Extent size {extent} is not a power of two")));
    }
    if extent > MAX_EXTENT {
        return Err(Error::new(format!("Extent size {extent} is too large")));
    }
    if (entries as u64) < size.div_ceil(extent as u64) {
        return Err(Error::new("Catalog size is too small for this disk size"));
    }
    let format = Bochs {
        size,
        catalog: header as u64,
        entries: entries as u64,
        extent: extent as u64,
        bitmap_bytes: (bitmap as u64).next_multiple_of(SECTOR).max(SECTOR),
        data: header as u64 + entries as u64 * 4,
        pages: Pages::default(),
    };
    ReadOnly::new(file, format, write)
}

impl Format for Bochs {
    const NAME: &'static str = "bochs";

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, file: &dyn Node, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let index = offset / self.extent;
        if index >= self.entries {
            return Err(crate::node::eio());
        }
        let entry = u32::from_le_bytes(self.pages.bytes(file, self.catalog + index * 4)?);
        let inside = offset % self.extent;
        if entry == ABSENT {
            return Ok((Place::Zero, (self.extent - inside).min(len)));
        }
        let start = self.data + entry as u64 * (self.extent.next_multiple_of(SECTOR) + self.bitmap_bytes);
        let sector = inside / SECTOR;
        let run = (SECTOR - offset % SECTOR).min(len);
        let [bits] = self.pages.bytes(file, start + sector / 8)?;
        match bits >> (sector % 8) & 1 {
            0 => Ok((Place::Zero, run)),
            _ => Ok((Place::At(start + self.bitmap_bytes + inside), run)),
        }
    }

    fn has_places(&self) -> bool {
        false
    }
}
