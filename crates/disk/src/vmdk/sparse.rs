//! Sparse VMDK extents: grain directory, grain tables, grains, and their compressed form.
//!
//! Reference: VMware, "Virtual Disk Format 5.0", "Hosted Sparse Extents" and "Stream-Optimized Compressed Sparse
//! Extents".
//!
//! Invariants: a grain's data is in the file before a table entry names it; both copies of a table say the same.

use crate::node::{Node, NodeRef, Preallocation, eio, errno, strerror};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::collections::HashMap;
use std::io;

pub const SECTOR: u64 = 512;
const GTES: u64 = 512;
pub const ZERO_GRAIN: u32 = 1;
const FLAG_NEWLINES: u32 = 1 << 0;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZERO_GRAIN: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const AT_END: u64 = u64::MAX;
/// Bounds on what a header may ask for.
const MAX_GRAIN: u64 = 64 << 20;
const MAX_TABLES: u64 = 1 << 22;
pub const DESCRIPTOR_SECTORS: u64 = 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grain {
    Absent,
    Zero,
    At(u64),
}

pub struct Sparse {
    pub file: NodeRef,
    pub bytes: u64,
    pub grain: u64,
    pub compressed: bool,
    pub zero_grains: bool,
    directory: Vec<u32>,
    second: Vec<u32>,
    tables: HashMap<u64, Vec<u32>>,
    /// The last unpacked grain.
    unpacked: (u64, Vec<u8>),
    next: u64,
}

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

fn words(file: &dyn Node, sector: u64, count: u64) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; count as usize * 4];
    file.read(sector.checked_mul(SECTOR).ok_or_else(eio)?, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| le32(b, 0)).collect())
}

/// Sector and length in sectors of the descriptor inside a sparse file.
pub fn descriptor_place(file: &dyn Node) -> io::Result<(u64, u64)> {
    let mut h = [0u8; 512];
    file.read(0, &mut h)?;
    Ok((le64(&h, 28), le64(&h, 36)))
}

fn unreadable(file: &dyn Node, e: io::Error) -> Error {
    Error::new(format!("Could not read header from file '{}': {}", file.filename(), strerror(&e)))
}

fn invalid(file: &dyn Node, what: &str) -> Error {
    Error::new(format!("invalid VMDK extent '{}': {what}", file.filename()))
}

/// What a sparse extent says of itself, in the units of the rest of this file.
struct Header {
    version: u32,
    flags: u32,
    /// The disk's bytes.
    bytes: u64,
    /// Bytes of a grain.
    grain: u64,
    compressed: bool,
    /// Grain tables, and as many entries of each directory.
    tables: u64,
    /// Sectors of the directory and of its copy.
    directory: u64,
    second: u64,
}

impl Header {
    /// Reads the header, or the footer that stands for it in a file that was written as a stream.
    fn read(file: &dyn Node) -> Result<Header> {
        let mut h = [0u8; 512];
        file.read(0, &mut h).map_err(|e| unreadable(file, e))?;
        if &h[..4] != b"KDMV" {
            return Err(invalid(file, "no sparse header"));
        }
        if le64(&h, 56) == AT_END {
            // The footer before the end-of-stream marker has the real directory place.
            let end = file.size();
            if end < 3 * SECTOR {
                return Err(invalid(file, "too short for a footer"));
            }
            file.read(end - 2 * SECTOR, &mut h).map_err(|e| unreadable(file, e))?;
            if &h[..4] != b"KDMV" {
                return Err(invalid(file, "no footer"));
            }
        }
        Header::parse(file, &h)
    }

    fn parse(file: &dyn Node, h: &[u8; 512]) -> Result<Header> {
        let (version, flags) = (le32(h, 4), le32(h, 8));
        if version > 3 {
            return Err(Error::new(format!("Unsupported VMDK version {version}")));
        }
        let compressed = u16::from_le_bytes([h[77], h[78]]) == 1;
        if compressed && flags & FLAG_COMPRESSED == 0 {
            return Err(invalid(file, "compression without its flag"));
        }
        let (capacity, grain, gtes) = (le64(h, 12), le64(h, 20), le32(h, 44) as u64);
        if gtes != GTES {
            return Err(Error::new("L2 table size too big"));
        }
        let grain = grain.saturating_mul(SECTOR);
        if grain == 0 || grain > MAX_GRAIN || !grain.is_power_of_two() {
            return Err(Error::new("Invalid granularity, image may be corrupt"));
        }
        let Some(bytes) = capacity.checked_mul(SECTOR).filter(|b| *b <= i64::MAX as u64) else {
            return Err(invalid(file, "absurd capacity"));
        };
        let tables = bytes.div_ceil(grain * GTES);
        if tables > MAX_TABLES {
            return Err(Error::new("L1 entry count is too big"));
        }
        Ok(Header { version, flags, bytes, grain, compressed, tables, directory: le64(h, 56), second: le64(h, 48) })
    }

    /// Whether there is a copy of the directory and the tables.
    fn redundant(&self) -> bool {
        self.flags & FLAG_REDUNDANT != 0
    }

    /// Both directories are within a file of `end` bytes.
    fn check_places(&self, end: u64) -> Result<()> {
        let len = self.tables * 4;
        let inside =
            |sector: u64| sector.checked_mul(SECTOR).and_then(|o| o.checked_add(len)).is_some_and(|e| e <= end);
        if inside(self.directory) && (!self.redundant() || inside(self.second)) {
            return Ok(());
        }
        let least = self.directory.saturating_mul(SECTOR).saturating_add(len);
        Err(Error::new(format!("File truncated, expecting at least {least} bytes")))
    }
}

impl Sparse {
    pub fn open(file: NodeRef) -> Result<Sparse> {
        let header = Header::read(file.as_ref())?;
        let end = file.size();
        header.check_places(end)?;
        let entries = |sector| words(file.as_ref(), sector, header.tables).map_err(|e| unreadable(file.as_ref(), e));
        let directory = entries(header.directory)?;
        let second = if header.redundant() { entries(header.second)? } else { Vec::new() };
        let Header { version, flags, bytes, grain, compressed, .. } = header;
        Ok(Sparse {
            file,
            bytes,
            grain,
            compressed,
            zero_grains: flags & FLAG_ZERO_GRAIN != 0 || version >= 2,
            directory,
            second,
            tables: HashMap::new(),
            unpacked: (0, Vec::new()),
            next: end.next_multiple_of(if compressed { SECTOR } else { grain }),
        })
    }

    fn table(&mut self, index: u64) -> io::Result<Option<&mut Vec<u32>>> {
        let sector = self.directory.get(index as usize).copied().unwrap_or(0) as u64;
        if sector == 0 {
            return Ok(None);
        }
        if !self.tables.contains_key(&index) {
            if self.tables.len() >= 4096 {
                self.tables.clear();
            }
            let entries = words(self.file.as_ref(), sector, GTES)?;
            self.tables.insert(index, entries);
        }
        Ok(self.tables.get_mut(&index))
    }

    pub fn locate(&mut self, grain: u64) -> io::Result<Grain> {
        let zero_grains = self.zero_grains;
        let entry = self.table(grain / GTES)?.map_or(0, |t| t[(grain % GTES) as usize]);
        Ok(match entry {
            0 => Grain::Absent,
            ZERO_GRAIN if zero_grains => Grain::Zero,
            sector => Grain::At(sector as u64 * SECTOR),
        })
    }

    /// Points both tables at a grain.
    fn link(&mut self, grain: u64, entry: u32) -> io::Result<()> {
        let (index, slot) = (grain / GTES, grain % GTES);
        let first = self.directory[index as usize] as u64;
        let Some(table) = self.table(index)? else { return Err(errno(Errno::INVAL)) };
        table[slot as usize] = entry;
        self.file.write(first * SECTOR + slot * 4, &entry.to_le_bytes())?;
        if let Some(second) = self.second.get(index as usize).filter(|s| **s != 0) {
            self.file.write(*second as u64 * SECTOR + slot * 4, &entry.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes a whole grain to a new place.
    pub fn store(&mut self, grain: u64, data: &[u8]) -> io::Result<()> {
        let place = self.next;
        let Ok(sector) = u32::try_from(place / SECTOR) else { return Err(errno(Errno::FBIG)) };
        if crate::node::is_zero(data) && place >= self.file.size() {
            self.file.resize(place + data.len() as u64, Preallocation::Off).map_err(|_| eio())?;
        } else {
            self.file.write(place, data)?;
        }
        self.next = place + self.grain;
        self.link(grain, sector)
    }

    pub fn zero(&mut self, grain: u64) -> io::Result<()> {
        self.link(grain, ZERO_GRAIN)
    }

    /// Packs a grain behind a marker with its position and length.
    pub fn store_packed(&mut self, grain: u64, data: &[u8]) -> io::Result<()> {
        if self.locate(grain)? != Grain::Absent {
            return Err(eio()); // a stream is written once
        }
        let mut packed = vec![0; data.len() + data.len() / 8 + 256];
        let mut deflate = Compress::new(Compression::default(), true);
        if deflate.compress(data, &mut packed, FlushCompress::Finish).map_err(io::Error::other)? != Status::StreamEnd {
            return Err(eio());
        }
        packed.truncate(deflate.total_out() as usize);
        let mut out = (grain * self.grain / SECTOR).to_le_bytes().to_vec();
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(&packed);
        out.resize(out.len().next_multiple_of(SECTOR as usize), 0);
        let place = self.next;
        let Ok(sector) = u32::try_from(place / SECTOR) else { return Err(errno(Errno::FBIG)) };
        self.file.write(place, &out)?;
        self.next = place + out.len() as u64;
        self.link(grain, sector)
    }

    pub fn read_packed(&mut self, place: u64, inside: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.unpacked.0 != place || self.unpacked.1.is_empty() {
            let mut head = [0u8; 12];
            self.file.read(place, &mut head)?;
            let len = le32(&head, 8) as u64;
            if len > self.grain * 2 + 4096 {
                return Err(eio());
            }
            let mut packed = vec![0; len as usize];
            self.file.read(place + 12, &mut packed)?;
            let mut data = vec![0; self.grain as usize];
            let mut inflate = Decompress::new(true);
            inflate.decompress(&packed, &mut data, FlushDecompress::Finish).map_err(|_| errno(Errno::INVAL))?;
            self.unpacked = (place, data);
        }
        let from = inside as usize;
        buf.copy_from_slice(&self.unpacked.1[from..from + buf.len()]);
        Ok(())
    }
}

/// Writes an empty sparse extent.
pub fn create(file: &dyn Node, bytes: u64, compressed: bool, zero_grains: bool, descriptor: bool) -> io::Result<()> {
    let grain = 128;
    let sectors = bytes.div_ceil(SECTOR);
    let tables = sectors.div_ceil(grain * GTES);
    let table_sectors = GTES * 4 / SECTOR;
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let (desc, desc_len) = (1, DESCRIPTOR_SECTORS);
    let rgd = desc + desc_len;
    let gd = rgd + directory_sectors + table_sectors * tables;
    let data = (gd + directory_sectors + table_sectors * tables).next_multiple_of(grain);
    let mut h = b"KDMV".to_vec();
    let version = if compressed {
        3
    } else if zero_grains {
        2
    } else {
        1u32
    };
    let mut flags = FLAG_NEWLINES | FLAG_REDUNDANT;
    flags |= if compressed { FLAG_COMPRESSED | FLAG_MARKERS } else { 0 };
    flags |= if zero_grains { FLAG_ZERO_GRAIN } else { 0 };
    h.extend(version.to_le_bytes());
    h.extend(flags.to_le_bytes());
    for v in [sectors, grain, if descriptor { desc } else { 0 }, if descriptor { desc_len } else { 0 }] {
        h.extend(v.to_le_bytes());
    }
    h.extend((GTES as u32).to_le_bytes());
    for v in [rgd, gd, data] {
        h.extend(v.to_le_bytes());
    }
    h.extend([0, b'\n', b' ', b'\r', b'\n']);
    h.extend(u16::from(compressed).to_le_bytes());
    h.resize(512, 0);
    file.write(0, &h)?;
    file.resize(data * SECTOR, Preallocation::Off).map_err(|_| eio())?;
    for start in [rgd, gd] {
        let entries: Vec<u8> =
            (0..tables).flat_map(|i| ((start + directory_sectors + i * table_sectors) as u32).to_le_bytes()).collect();
        file.write(start * SECTOR, &entries)?;
    }
    Ok(())
}
