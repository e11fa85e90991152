//! The VHD format of Virtual PC and Hyper-V ("vpc"): dynamic and fixed disks.
//!
//! Reference: Microsoft, "Virtual Hard Disk Image Format Specification", October 2006; field values and sizes as
//! `qemu-img` 10.0.2 writes them.
//!
//! Not modelled: differencing disks (refused).

use crate::blocks::{Blocks, Layout, Place};
use crate::node::{Node, NodeRef, Preallocation, eio, strerror};
use crate::options::Options;
use crate::qcow2::header::{be32, be64};
use crate::raw::Raw;
use spec::error::{Error, Result};
use std::io;
use std::sync::Arc;

const FOOTER: u64 = 512;
const BLOCK: u32 = 2 << 20;
const TYPE_FIXED: u32 = 2;
const TYPE_DYNAMIC: u32 = 3;
const ABSENT: u32 = 0xffff_ffff;
/// Largest disk that cylinders, heads and sectors can describe.
const MAX_CHS_SECTORS: u64 = 65535 * 16 * 255;
/// 2 TiB: table entries are 32-bit sector numbers.
const MAX_SECTORS: u64 = 0xff00_0000;
/// Seconds between 1970 and 2000, the format's epoch.
const EPOCH: u64 = 946_684_800;

pub struct Vpc {
    footer: Vec<u8>,
    table: Vec<u32>,
    table_offset: u64,
    block_size: u64,
    bitmap_size: u64,
    /// Where the footer is, and the next block goes.
    end: u64,
}

fn checksum(bytes: &[u8], at: usize) -> u32 {
    !bytes.iter().enumerate().filter(|(i, _)| !(at..at + 4).contains(i)).fold(0u32, |sum, (_, b)| sum.wrapping_add(*b as u32))
}

fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes, at);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Cylinders, heads and sectors per track as the specification's appendix computes them.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(MAX_CHS_SECTORS);
    if sectors >= 65535 * 16 * 63 {
        return ((sectors / (16 * 255)) as u16, 16, 255);
    }
    let mut spt = 17;
    let mut cylinders_heads = sectors / 17;
    let mut heads = cylinders_heads.div_ceil(1024).max(4);
    if cylinders_heads >= heads * 1024 || heads > 16 {
        spt = 31;
        heads = 16;
        cylinders_heads = sectors / 31;
    }
    if cylinders_heads >= heads * 1024 {
        spt = 63;
        heads = 16;
        cylinders_heads = sectors / 63;
    }
    ((cylinders_heads / heads) as u16, heads as u8, spt as u8)
}

fn product(g: (u16, u8, u8)) -> u64 {
    g.0 as u64 * g.1 as u64 * g.2 as u64
}

/// Which of the two sizes in the footer counts (`force_size_calc`).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum SizeBy {
    /// What the creating program goes by.
    #[default]
    Creator,
    Geometry,
    Exact,
}

impl SizeBy {
    pub fn take(options: &mut Options) -> Result<SizeBy> {
        match options.take("force_size_calc").as_deref() {
            None | Some("auto") => Ok(SizeBy::Creator),
            Some("chs") => Ok(SizeBy::Geometry),
            Some("current_size") => Ok(SizeBy::Exact),
            Some(_) => Err(Error::new("Invalid size calculation algorithm")),
        }
    }
}

pub fn open(file: NodeRef, write: bool, by: SizeBy) -> Result<NodeRef> {
    let fail = |e: io::Error| Error::new(format!("Unable to read VHD header: {}", strerror(&e)));
    let mut footer = vec![0; FOOTER as usize];
    file.read(0, &mut footer).map_err(fail)?;
    let mut dynamic = footer.starts_with(b"conectix");
    if !dynamic {
        let end = file.size();
        if end < FOOTER {
            return Err(Error::new("File too small for a VHD header"));
        }
        file.read(end - FOOTER, &mut footer).map_err(fail)?;
        if !footer.starts_with(b"conectix") {
            return Err(Error::new("invalid VPC image"));
        }
        dynamic = be32(&footer, 60) == TYPE_DYNAMIC;
    }
    if checksum(&footer, 64) != be32(&footer, 64) {
        eprintln!("block-vpc: The header checksum of '{}' is incorrect.", file.filename());
    }
    let kind = be32(&footer, 60);
    let size = disk_size(&footer, by);
    match kind {
        TYPE_FIXED => return Ok(Arc::new(Fixed(Raw::new(file, 0, Some(size), false)?))),
        TYPE_DYNAMIC if dynamic => {}
        other => return Err(Error::new(format!("Unsupported VHD disk type {other}"))),
    }
    let mut h = vec![0; 1024];
    file.read(be64(&footer, 16), &mut h).map_err(fail)?;
    if !h.starts_with(b"cxsparse") {
        return Err(Error::new("invalid VPC image"));
    }
    let block_size = be32(&h, 32) as u64;
    if !block_size.is_power_of_two() || block_size < 512 {
        return Err(Error::new(format!("Invalid block size {block_size}")));
    }
    let (table_offset, entries) = (be64(&h, 16), be32(&h, 28) as u64);
    if entries > i32::MAX as u64 / 4 {
        return Err(Error::new(format!("Max Table Entries too large ({entries})")));
    }
    if entries > (MAX_SECTORS * 512).div_ceil(block_size) + 1 || entries * block_size < size {
        return Err(Error::new("Too many blocks or page table too small"));
    }
    if table_offset.checked_add(entries * 4).is_none_or(|end| end > file.size()) {
        return Err(Error::new("Could not read the VHD block table: it reaches past the end of the file"));
    }
    let mut bytes = vec![0; entries as usize * 4];
    file.read(table_offset, &mut bytes).map_err(fail)?;
    let table: Vec<u32> = bytes.chunks_exact(4).map(|b| be32(b, 0)).collect();
    let bitmap_size = (block_size / 512 / 8).next_multiple_of(512);
    let last = table.iter().filter(|e| **e != ABSENT).map(|e| *e as u64 * 512 + bitmap_size + block_size).max();
    let end = last.unwrap_or(0).max((table_offset + entries * 4).next_multiple_of(512));
    let vpc = Vpc { footer, table, table_offset, block_size, bitmap_size, end };
    Ok(Arc::new(Blocks::new(file, size, write, vpc)))
}

/// The disk's size: from the geometry for programs that only know that, else the exact field.
fn disk_size(footer: &[u8], by: SizeBy) -> u64 {
    let g = (u16::from_be_bytes([footer[56], footer[57]]), footer[58], footer[59]);
    let exact = be64(footer, 48) / 512;
    let creator = &footer[28..32];
    // Virtual PC and older QEMU count by geometry; everybody else, and every full geometry, by the exact size.
    let by_geometry = match by {
        SizeBy::Creator => creator == b"vpc " || creator == b"qemu",
        SizeBy::Geometry => true,
        SizeBy::Exact => false,
    } && product(g) != MAX_CHS_SECTORS;
    if by_geometry { product(g) * 512 } else { exact * 512 }
}

impl Layout for Vpc {
    fn driver(&self) -> &'static str {
        "vpc"
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn locate(&self, block: u64) -> Place {
        match self.table.get(block as usize) {
            Some(e) if *e != ABSENT => Place::At(*e as u64 * 512 + self.bitmap_size),
            _ => Place::Absent,
        }
    }

    fn allocate(&mut self, file: &dyn Node, _block: u64) -> io::Result<u64> {
        let start = self.end;
        let next = start + self.bitmap_size + self.block_size;
        // The footer is copied to the new end before the old one is overwritten.
        file.resize(next.max(file.size()), Preallocation::Off).map_err(|_| eio())?;
        file.write(next, &self.footer)?;
        file.write(start, &vec![0xff; self.bitmap_size as usize])?;
        file.write_zeroes(start + self.bitmap_size, FOOTER.min(self.block_size), false)?;
        Ok(start + self.bitmap_size)
    }

    fn link(&mut self, file: &dyn Node, block: u64, place: u64) -> io::Result<()> {
        let sector = ((place - self.bitmap_size) / 512) as u32;
        file.write(self.table_offset + block * 4, &sector.to_be_bytes())?;
        self.table[block as usize] = sector;
        self.end = place + self.block_size;
        Ok(())
    }
}

/// A fixed disk is raw data with a footer.
struct Fixed(Raw);

impl Node for Fixed {
    fn driver(&self) -> &'static str {
        "vpc"
    }
    fn filename(&self) -> String {
        self.0.filename()
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        self.0.read_only()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write(offset, buf)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, len, unmap)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.discard(offset, len)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<crate::node::Extent> {
        self.0.map(offset, len)
    }
    fn resize(&self, _size: u64, _preallocation: Preallocation) -> Result<()> {
        Err(Error::new("Image format driver does not support resize"))
    }
    fn allocated_size(&self) -> Option<u64> {
        self.0.allocated_size()
    }
    fn children(&self) -> Vec<(String, NodeRef)> {
        self.0.children()
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// Makes an image in an empty file.
pub fn create(file: &dyn Node, options: &mut Options) -> Result<()> {
    let asked = options.take_size("size")?.unwrap_or(0).div_ceil(512);
    let kind = match options.take("subformat").as_deref() {
        None | Some("dynamic") => TYPE_DYNAMIC,
        Some("fixed") => TYPE_FIXED,
        Some(other) => return Err(Error::new(format!("Invalid subformat '{other}'"))),
    };
    let exact = options.take_bool("force_size")?.unwrap_or(false);
    if options.take("preallocation").is_some_and(|p| p != "off") {
        return Err(Error::new("Preallocation is not supported for VPC images; use subformat=fixed"));
    }
    // Programs that count by geometry must see at least the size that was asked for.
    let mut chosen = geometry(asked);
    let sectors = if exact || asked > MAX_CHS_SECTORS {
        chosen = if exact { (65535, 16, 255) } else { geometry(MAX_CHS_SECTORS) };
        asked
    } else {
        let mut more = asked;
        while product(chosen) < asked {
            more += 1;
            chosen = geometry(more);
        }
        product(chosen)
    };
    if sectors > MAX_SECTORS {
        return Err(Error::new("VHD images cannot be larger than 2 TiB"));
    }
    let footer = footer(kind, sectors, chosen, exact);
    let fail = |e: io::Error| Error::new(format!("Could not write the VHD image: {}", strerror(&e)));
    if kind == TYPE_FIXED {
        file.resize(sectors * 512, Preallocation::Off)?;
        return file.write(sectors * 512, &footer).map_err(fail);
    }
    let entries = (sectors * 512).div_ceil(BLOCK as u64);
    let mut bytes = footer.clone();
    let mut h = vec![0u8; 1024];
    h[..8].copy_from_slice(b"cxsparse");
    h[8..16].fill(0xff);
    h[16..24].copy_from_slice(&1536u64.to_be_bytes());
    h[24..28].copy_from_slice(&0x0001_0000u32.to_be_bytes());
    h[28..32].copy_from_slice(&(entries as u32).to_be_bytes());
    h[32..36].copy_from_slice(&BLOCK.to_be_bytes());
    seal(&mut h, 36);
    bytes.extend(&h);
    bytes.resize(bytes.len() + ((entries * 4).next_multiple_of(512)) as usize, 0xff);
    bytes.extend(&footer);
    file.write(0, &bytes).map_err(fail)
}

fn footer(kind: u32, sectors: u64, chs: (u16, u8, u8), exact: bool) -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut f = vec![0u8; FOOTER as usize];
    f[..8].copy_from_slice(b"conectix");
    f[8..12].copy_from_slice(&2u32.to_be_bytes());
    f[12..16].copy_from_slice(&0x0001_0000u32.to_be_bytes());
    f[16..24].copy_from_slice(&if kind == TYPE_FIXED { u64::MAX } else { 512 }.to_be_bytes());
    f[24..28].copy_from_slice(&(now.saturating_sub(EPOCH) as u32).to_be_bytes());
    // The creator tells readers whether geometry or exact size counts.
    f[28..32].copy_from_slice(if exact { b"qem2" } else { b"qemu" });
    f[32..36].copy_from_slice(&0x0005_0003u32.to_be_bytes());
    f[36..40].copy_from_slice(b"Wi2k");
    f[40..48].copy_from_slice(&(sectors * 512).to_be_bytes());
    f[48..56].copy_from_slice(&(sectors * 512).to_be_bytes());
    f[56..58].copy_from_slice(&chs.0.to_be_bytes());
    f[58] = chs.1;
    f[59] = chs.2;
    f[60..64].copy_from_slice(&kind.to_be_bytes());
    f[68..84].copy_from_slice(&crate::random::bytes::<16>());
    seal(&mut f, 64);
    f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_is_the_specifications() {
        assert_eq!(geometry(20536), (302, 4, 17));
        assert_eq!(geometry(u64::MAX), (65535, 16, 255));
    }

    #[test]
    fn checksums_skip_their_own_place() {
        let mut bytes = vec![7u8; 512];
        seal(&mut bytes, 64);
        assert_eq!(checksum(&bytes, 64), be32(&bytes, 64));
    }
}
