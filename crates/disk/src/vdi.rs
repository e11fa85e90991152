//! The VDI format of VirtualBox, version 1.1.
//!
//! Reference: the header layout as VirtualBox documents it; field values as `qemu-img` 10.0.2 writes them.
//!
//! Not modelled: differencing images (a parent UUID is refused), block sizes other than 1 MiB.

use crate::blocks::{Blocks, Layout, Place};
use crate::node::{CheckReport, Node, NodeRef, Preallocation, eio, strerror};
use crate::options::Options;
use spec::error::{Error, Result};
use std::io;

const SIGNATURE: u32 = 0xbeda107f;
const VERSION_1_1: u32 = 0x0001_0001;
const BLOCK: u64 = 1 << 20;
const TYPE_DYNAMIC: u32 = 1;
const TYPE_STATIC: u32 = 2;
/// Block was never written.
const ABSENT: u32 = 0xffff_ffff;
/// Block reads as zero.
const DISCARDED: u32 = 0xffff_fffe;
/// Largest table that is accepted: 2^29 entries make a disk of 512 TiB.
const MAX_BLOCKS: u32 = 0x1fff_ff80;

const AT_SIGNATURE: usize = 0x40;
const AT_VERSION: usize = 0x44;
const AT_TYPE: usize = 0x4c;
const AT_MAP_OFFSET: usize = 0x154;
const AT_DATA_OFFSET: usize = 0x158;
const AT_SECTOR_SIZE: usize = 0x168;
const AT_DISK_SIZE: usize = 0x170;
const AT_BLOCK_SIZE: usize = 0x178;
const AT_BLOCKS: usize = 0x180;
const AT_ALLOCATED: usize = 0x184;
const AT_UUID: usize = 0x188;
const AT_UUID_LINK: usize = 0x1a8;
const AT_UUID_PARENT: usize = 0x1b8;

pub struct Vdi {
    map: Vec<u32>,
    map_offset: u64,
    data_offset: u64,
    allocated: u32,
    fixed: bool,
    /// Sectors of the table that the file does not have yet.
    dirty: Option<(usize, usize)>,
}

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

fn put32(b: &mut [u8], at: usize, value: u32) {
    b[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub fn open(file: NodeRef, write: bool) -> Result<Blocks<Vdi>> {
    let fail = |e: io::Error| Error::new(format!("Could not read VDI header: {}", strerror(&e)));
    let mut h = [0u8; 512];
    file.read(0, &mut h).map_err(fail)?;
    if le32(&h, AT_SIGNATURE) != SIGNATURE {
        return Err(Error::new("Image not in VDI format (bad signature)"));
    }
    let size = u64::from_le_bytes(h[AT_DISK_SIZE..AT_DISK_SIZE + 8].try_into().expect("eight bytes"));
    let largest = MAX_BLOCKS as u64 * BLOCK;
    if size > largest {
        return Err(Error::new(format!("Unsupported VDI image size (size is {size:#x}, max supported is {largest:#x})")));
    }
    let unsupported = |what: String| Err(Error::new(format!("unsupported VDI image ({what})")));
    let version = le32(&h, AT_VERSION);
    if version != VERSION_1_1 {
        return unsupported(format!("version {}.{}", version >> 16, version & 0xffff));
    }
    let (blocks, block_size) = (le32(&h, AT_BLOCKS), le32(&h, AT_BLOCK_SIZE) as u64);
    let (map_offset, data_offset) = (le32(&h, AT_MAP_OFFSET) as u64, le32(&h, AT_DATA_OFFSET) as u64);
    if map_offset % 512 != 0 {
        return unsupported(format!("unaligned block map offset {map_offset:#x}"));
    }
    if data_offset % 512 != 0 {
        return unsupported(format!("unaligned data offset {data_offset:#x}"));
    }
    if le32(&h, AT_SECTOR_SIZE) != 512 {
        return unsupported(format!("sector size {} is not 512", le32(&h, AT_SECTOR_SIZE)));
    }
    if block_size != BLOCK {
        return unsupported(format!("block size {block_size} is not {BLOCK}"));
    }
    if blocks > MAX_BLOCKS {
        return unsupported(format!("too many blocks {blocks}, max is {MAX_BLOCKS}"));
    }
    if size > blocks as u64 * BLOCK {
        return unsupported(format!("disk size {size}, image bitmap has room for {}", blocks as u64 * BLOCK));
    }
    if h[AT_UUID_LINK..AT_UUID_LINK + 16].iter().any(|b| *b != 0) {
        return unsupported("non-NULL link UUID".into());
    }
    if h[AT_UUID_PARENT..AT_UUID_PARENT + 16].iter().any(|b| *b != 0) {
        return unsupported("non-NULL parent UUID".into());
    }
    // The part of a table that is behind the end of the file reads as zero, and takes no memory.
    let there = file.size().saturating_sub(map_offset).min(blocks as u64 * 4) as usize;
    let mut bytes = vec![0; there.next_multiple_of(4)];
    file.read(map_offset, &mut bytes).map_err(fail)?;
    let map: Vec<u32> = bytes.chunks_exact(4).map(|b| le32(b, 0)).collect();
    // A death between the count and the table leaves a count that is too high: those blocks are used again. Bad numbers are not
    // made worse.
    let next = map.iter().filter(|n| **n < blocks).max().map_or(0, |n| n + 1);
    let sound = map.iter().all(|n| *n < blocks || *n >= DISCARDED);
    let allocated = if write && sound { next } else { le32(&h, AT_ALLOCATED) };
    let vdi = Vdi { map, map_offset, data_offset, allocated, fixed: le32(&h, AT_TYPE) == TYPE_STATIC, dirty: None };
    Ok(Blocks::new(file, size.next_multiple_of(512), write, vdi))
}

impl Layout for Vdi {
    fn driver(&self) -> &'static str {
        "vdi"
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn recurse(&self) -> bool {
        self.fixed
    }

    fn locate(&self, block: u64) -> Place {
        match self.map.get(block as usize) {
            Some(n) if *n < DISCARDED => Place::At(self.data_offset + *n as u64 * BLOCK),
            _ => Place::Absent,
        }
    }

    fn allocate(&mut self, file: &dyn Node, block: u64) -> io::Result<u64> {
        if block >= self.map.len() as u64 {
            return Err(eio()); // the table ends before its header says so
        }
        let place = self.data_offset + self.allocated as u64 * BLOCK;
        if place + BLOCK > file.size() {
            file.resize(place + BLOCK, Preallocation::Off).map_err(|_| eio())?;
        } else {
            // Left over from a crash before the table was written.
            file.write_zeroes(place, BLOCK, false)?;
        }
        Ok(place)
    }

    fn link(&mut self, _file: &dyn Node, block: u64, _place: u64) -> io::Result<()> {
        let block = block as usize;
        self.map[block] = self.allocated;
        self.allocated += 1;
        self.dirty = Some(self.dirty.map_or((block, block + 1), |(a, b)| (a.min(block), b.max(block + 1))));
        Ok(())
    }

    fn flush(&mut self, file: &dyn Node) -> io::Result<()> {
        let Some((from, to)) = self.dirty else { return Ok(()) };
        // The count first: blocks beyond it would be given away a second time.
        file.write(AT_ALLOCATED as u64, &self.allocated.to_le_bytes())?;
        file.flush()?;
        let (from, to) = (from / 128 * 128, to.next_multiple_of(128).min(self.map.len()));
        let bytes: Vec<u8> = self.map[from..to].iter().flat_map(|n| n.to_le_bytes()).collect();
        file.write(self.map_offset + from as u64 * 4, &bytes)?;
        self.dirty = None;
        Ok(())
    }

    fn check(&mut self, _file: &dyn Node) -> Option<io::Result<CheckReport>> {
        let mut report = CheckReport { total_clusters: self.map.len() as u64, ..CheckReport::default() };
        let mut seen = vec![false; self.map.len()];
        let mut used = 0;
        for (block, n) in self.map.iter().enumerate().filter(|(_, n)| **n < DISCARDED) {
            used += 1;
            match seen.get_mut(*n as usize) {
                Some(slot) if !*slot => *slot = true,
                Some(_) => {
                    report.lines.push(format!("ERROR: block index {n} also used by {block}"));
                    report.corruptions += 1;
                }
                None => {
                    report.lines.push(format!("ERROR: block index {block} out of range, is {n}"));
                    report.corruptions += 1;
                }
            }
        }
        if used != self.allocated {
            report.lines.push(format!("ERROR: allocated blocks mismatch, is {used}, should be {}", self.allocated));
            report.corruptions += 1;
        }
        report.total_clusters = 0; // the tools print no cluster line for this format
        Some(Ok(report))
    }
}

/// Makes an image in an empty file.
pub fn create(file: &dyn Node, options: &mut Options) -> Result<()> {
    let size = options.take_size("size")?.unwrap_or(0).next_multiple_of(512);
    let mut fixed = options.take_bool("static")?.unwrap_or(false);
    match options.take("preallocation").as_deref() {
        None | Some("off") => {}
        Some("metadata") => fixed = true,
        Some(other) => return Err(Error::new(format!("Preallocation mode '{other}' is not supported for VDI images"))),
    }
    let blocks = size.div_ceil(BLOCK);
    if blocks > MAX_BLOCKS as u64 {
        return Err(Error::new(format!("Unsupported VDI image size (size is {size:#x}, max supported is {:#x})", MAX_BLOCKS as u64 * BLOCK)));
    }
    let map_bytes = (blocks * 4).next_multiple_of(512);
    let mut h = vec![0u8; 512];
    let text = b"<<< Virtual Disk Image made by Rhea >>>\n";
    h[..text.len()].copy_from_slice(text);
    put32(&mut h, AT_SIGNATURE, SIGNATURE);
    put32(&mut h, AT_VERSION, VERSION_1_1);
    put32(&mut h, AT_VERSION + 4, 0x180);
    put32(&mut h, AT_TYPE, if fixed { TYPE_STATIC } else { TYPE_DYNAMIC });
    put32(&mut h, AT_MAP_OFFSET, 0x200);
    put32(&mut h, AT_DATA_OFFSET, 0x200 + map_bytes as u32);
    put32(&mut h, AT_SECTOR_SIZE, 512);
    h[AT_DISK_SIZE..AT_DISK_SIZE + 8].copy_from_slice(&size.to_le_bytes());
    put32(&mut h, AT_BLOCK_SIZE, BLOCK as u32);
    put32(&mut h, AT_BLOCKS, blocks as u32);
    put32(&mut h, AT_ALLOCATED, if fixed { blocks as u32 } else { 0 });
    h[AT_UUID..AT_UUID + 32].copy_from_slice(&crate::random::bytes::<32>());
    for i in 0..blocks as u32 {
        h.extend(if fixed { i } else { ABSENT }.to_le_bytes());
    }
    h.resize(512 + map_bytes as usize, 0);
    file.write(0, &h).map_err(|e| Error::new(format!("Error writing header: {}", strerror(&e))))?;
    if fixed {
        file.resize(512 + map_bytes + blocks * BLOCK, Preallocation::Off)?;
    }
    Ok(())
}
