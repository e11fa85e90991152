//! The metadata of an open qcow2 image: header, L1, cached L2 tables and refcount blocks.
//!
//! Reference: docs/interop/qcow2.txt, "Cluster mapping".
//!
//! Invariants: every table offset that comes from the file is checked before use; a bad one marks the image corrupt
//! and the request fails with EIO. Cached tables stay below `cache_bytes` together.

use super::header::{Header, incompatible};
use super::overlap::{Parts, Places};
use super::refcount::RefBlock;
use super::snapshot_table::Snapshot;
use crate::node::{NodeRef, eio};
use std::collections::HashMap;
use std::io;

pub const COPIED: u64 = 1 << 63;
pub const COMPRESSED: u64 = 1 << 62;
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub const ZERO: u64 = 1;
/// Memory that cached tables may take before they are written back and dropped, unless options say another.
pub const CACHE_BYTES: u64 = 32 << 20;

/// A cached L2 table: entries in host order; with extended L2 entries, pairs of entry and bitmap.
pub struct L2Table {
    pub words: Vec<u64>,
    /// Range of words that the file does not have yet.
    pub dirty: Option<(usize, usize)>,
    used: u64,
}

impl L2Table {
    pub fn set(&mut self, index: usize, value: u64) {
        if self.words[index] == value {
            return;
        }
        self.words[index] = value;
        self.dirty = Some(self.dirty.map_or((index, index + 1), |(a, b)| (a.min(index), b.max(index + 1))));
    }
}

pub struct Meta {
    pub file: NodeRef,
    pub header: Header,
    pub l1: Vec<u64>,
    pub l1_dirty: Option<(usize, usize)>,
    pub l2: HashMap<u64, L2Table>,
    pub reftable: Vec<u64>,
    pub blocks: HashMap<u64, RefBlock>,
    pub free_hint: u64,
    pub pending: Vec<(u64, u64)>,
    pub punch: Vec<u64>,
    pub snapshots: Vec<Snapshot>,
    /// The image was opened to be checked, and its snapshot table could not be used.
    pub snapshots_damaged: bool,
    /// Metadata that writes must not touch, and where it is.
    pub overlap: Parts,
    pub places: Option<Places>,
    /// Memory that cached tables may take.
    pub cache_bytes: u64,
    /// Bytes that the stored snapshot table takes.
    pub snapshot_table_bytes: u64,
    /// Next free byte of the cluster that compressed data is being packed into.
    pub compressed_tail: Option<u64>,
    /// Copied data must be in the file before tables point to it.
    pub data_before_tables: bool,
    pub unmap: bool,
    pub write: bool,
    pub tick: u64,
    pub name: String,
    /// Clusters have been asked for since the image was opened.
    pub allocating: bool,
    /// Data clusters live in another file, at their guest offsets.
    pub external: bool,
}

/// What a run of guest bytes maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unallocated,
    Zero,
    /// Reads as zero but owns host space at the offset.
    ZeroAllocated(u64),
    Data(u64),
    /// Host byte offset and length of a compressed cluster.
    Compressed(u64, u64),
    /// Subcluster without contents in a cluster that has host space at the offset.
    Hole(u64),
}

#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub kind: Kind,
    pub len: u64,
    /// The host cluster belongs to this mapping alone.
    pub copied: bool,
}

impl Meta {
    pub fn cluster_size(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    pub fn extended(&self) -> bool {
        self.header.is(incompatible::EXTENDED_L2)
    }

    /// Words per L2 entry.
    pub fn stride(&self) -> usize {
        if self.extended() { 2 } else { 1 }
    }

    /// Entries in an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.header.l2_entry_bytes()
    }

    /// The unit that is allocated or zero on its own.
    pub fn subcluster_size(&self) -> u64 {
        if self.extended() { self.cluster_size() / 32 } else { self.cluster_size() }
    }

    pub fn barrier(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    pub fn write_header(&mut self) -> io::Result<()> {
        let bytes = self.header.encode().map_err(|e| io::Error::other(e.to_string()))?;
        let mut padded = bytes;
        // The old extensions must not show through behind the new ones.
        padded.resize(padded.len().next_multiple_of(512).max(1024).min(self.cluster_size() as usize), 0);
        self.file.write(0, &padded)
    }

    /// Sets or clears the dirty bit in the file, with barriers on both sides.
    pub fn set_dirty(&mut self, dirty: bool) -> io::Result<()> {
        if self.header.version < 3 {
            return Ok(());
        }
        if dirty {
            self.header.incompatible |= incompatible::DIRTY;
        } else {
            self.barrier()?;
            self.header.incompatible &= !incompatible::DIRTY;
        }
        self.file.write(72, &self.header.incompatible.to_be_bytes())?;
        self.barrier()
    }

    /// Notes that the metadata cannot be trusted: sets the corrupt bit and fails the request.
    pub fn corrupt(&mut self, what: String) -> io::Error {
        if self.header.is(incompatible::CORRUPT) {
            return eio();
        }
        if self.write && self.header.version >= 3 {
            eprintln!("qcow2: Marking image as corrupt: {what}; further corruption events will be suppressed");
            self.header.incompatible |= incompatible::CORRUPT;
            // Best effort: the request fails whether or not the mark can be stored.
            let _ = self.file.write(72, &self.header.incompatible.to_be_bytes());
            let _ = self.file.flush();
        } else {
            eprintln!("qcow2: Image is corrupt: {what}; further non-fatal corruption events will be suppressed");
        }
        eio()
    }

    /// Writes back and drops the least used half of the cache when it is full.
    pub fn make_room(&mut self) -> io::Result<()> {
        let capacity = (self.cache_bytes / self.cluster_size()).max(4) as usize;
        if self.l2.len() + self.blocks.len() < capacity {
            return Ok(());
        }
        self.write_back()?;
        self.write_blocks()?;
        let mut ticks: Vec<u64> =
            self.l2.values().map(|t| t.used).chain(self.blocks.values().map(|b| b.used)).collect();
        let middle = ticks.len() / 2;
        let (_, median, _) = ticks.select_nth_unstable(middle);
        let median = *median;
        self.l2.retain(|_, t| t.used > median || t.dirty.is_some());
        self.blocks.retain(|_, b| b.used > median || b.dirty.is_some());
        Ok(())
    }

    pub fn mark_l1(&mut self, index: usize) {
        self.place_l2(index);
        self.l1_dirty = Some(self.l1_dirty.map_or((index, index + 1), |(a, b)| (a.min(index), b.max(index + 1))));
    }

    pub fn write_l1(&mut self) -> io::Result<()> {
        if let Some((from, to)) = self.l1_dirty {
            let (from, to) = (from / 64 * 64, to.next_multiple_of(64).min(self.l1.len()));
            let bytes: Vec<u8> = self.l1[from..to].iter().flat_map(|e| e.to_be_bytes()).collect();
            self.file.event("l1_update");
            self.file.write(self.header.l1_offset + from as u64 * 8, &bytes)?;
            self.l1_dirty = None;
        }
        Ok(())
    }

    pub fn write_l2_tables(&mut self) -> io::Result<bool> {
        let mut dirty: Vec<u64> = self.l2.iter().filter(|(_, t)| t.dirty.is_some()).map(|(o, _)| *o).collect();
        dirty.sort_unstable();
        for offset in &dirty {
            let Some(table) = self.l2.get_mut(offset) else { continue };
            let Some((from, to)) = table.dirty else { continue };
            let (from, to) = (from / 64 * 64, to.next_multiple_of(64).min(table.words.len()));
            let bytes: Vec<u8> = table.words[from..to].iter().flat_map(|e| e.to_be_bytes()).collect();
            // A table that was never written is written whole.
            self.file.event(if table.dirty == Some((0, table.words.len())) { "l2_alloc_write" } else { "l2_update" });
            self.file.write(offset + from as u64 * 8, &bytes)?;
            table.dirty = None;
        }
        Ok(!dirty.is_empty())
    }

    /// The L2 table at a file offset.
    pub fn table(&mut self, offset: u64) -> io::Result<&mut L2Table> {
        if !self.l2.contains_key(&offset) {
            if offset % self.cluster_size() != 0 {
                return Err(self.corrupt(format!("L2 table offset {offset:#x} unaligned")));
            }
            self.make_room()?;
            let mut bytes = vec![0; self.cluster_size() as usize];
            self.file.event("l2_load");
            self.file.read(offset, &mut bytes)?;
            let words = bytes.chunks_exact(8).map(|b| super::header::be64(b, 0)).collect();
            self.l2.insert(offset, L2Table { words, dirty: None, used: 0 });
        }
        self.tick += 1;
        let tick = self.tick;
        let table = self.l2.get_mut(&offset).expect("just loaded");
        table.used = tick;
        Ok(table)
    }

    /// Describes a run of guest bytes from `offset`, at most `len` long and inside one L2 table.
    pub fn lookup(&mut self, offset: u64, len: u64) -> io::Result<Run> {
        let span = self.header.l2_span();
        let index = (offset / span) as usize;
        let len = len.min(span - offset % span);
        let table_offset = self.l1.get(index).copied().unwrap_or(0) & OFFSET;
        if table_offset == 0 {
            return Ok(Run { kind: Kind::Unallocated, len, copied: false });
        }
        let shape = self.shape();
        let words = &self.table(table_offset)?.words;
        match shape.describe(words, offset) {
            Ok(run) => Ok(Run { len: shape.run_end(words, &run, offset, len).min(offset + len) - offset, ..run }),
            Err(damage) => {
                let index = offset / shape.cluster_size % self.l2_entries();
                Err(self.corrupt(format!("{damage} (L2 offset: {table_offset:#x}, L2 index: {index:#x})")))
            }
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            cluster_size: self.cluster_size(),
            unit: self.subcluster_size(),
            entries: self.l2_entries(),
            stride: self.stride(),
            external: self.external,
            version: self.header.version,
            cluster_bits: self.header.cluster_bits,
        }
    }

    /// Host offset and byte length of a compressed cluster.
    pub fn compressed_place(&self, entry: u64) -> (u64, u64) {
        compressed_place(entry, self.header.cluster_bits)
    }

    /// The entry for compressed data at a place.
    pub fn compressed_entry(&self, host: u64, len: u64) -> u64 {
        let bits = 62 - (self.header.cluster_bits - 8);
        let sectors = (host + len - 1) / 512 - host / 512;
        COMPRESSED | host | sectors << bits
    }

    /// The L2 table for a guest offset, ready to be changed: allocated, and owned by the active L1 alone.
    pub fn table_for_write(&mut self, offset: u64) -> io::Result<u64> {
        let index = (offset / self.header.l2_span()) as usize;
        let Some(entry) = self.l1.get(index).copied() else { return Err(eio()) };
        let old = entry & OFFSET;
        if entry & COPIED != 0 && old != 0 {
            self.table(old)?;
            return Ok(old);
        }
        let words = if old == 0 { vec![0; (self.cluster_size() / 8) as usize] } else { self.table(old)?.words.clone() };
        self.make_room()?;
        if self.find_free(1, true)?.0 == 0 {
            return Err(self.corrupt("Preventing invalid allocation of L2 table at offset 0".into()));
        }
        let new = self.alloc(1)? * self.cluster_size();
        if self.lazy() {
            // New tables are counted in the file even so: after a crash only data clusters lack their counts.
            self.write_blocks()?;
        }
        let all = (0, words.len());
        self.tick += 1;
        self.l2.insert(new, L2Table { words, dirty: Some(all), used: self.tick });
        self.l1[index] = new | COPIED;
        self.mark_l1(index);
        if old != 0 {
            self.free_later(old, self.cluster_size());
        }
        Ok(new)
    }

    /// Frees what an old L2 entry pointed to, once the new tables are in the file.
    pub fn free_entry(&mut self, entry: u64) {
        if entry & COMPRESSED != 0 {
            let (host, len) = self.compressed_place(entry);
            self.free_later(host, len);
        } else if entry & OFFSET != 0 && !self.external {
            self.free_later(entry & OFFSET, self.cluster_size());
        }
    }
}

/// What decides how the words of an L2 table are read.
#[derive(Clone, Copy)]
struct Shape {
    cluster_size: u64,
    unit: u64,
    entries: u64,
    stride: usize,
    external: bool,
    version: u32,
    cluster_bits: u32,
}

impl Shape {
    /// Describes the subcluster that holds `offset`; host offsets are those of `offset` itself. The error says what is
    /// damaged.
    fn describe(&self, words: &[u64], offset: u64) -> Result<Run, String> {
        let extended = self.stride == 2;
        let index = (offset / self.cluster_size % self.entries) as usize * self.stride;
        let entry = words[index];
        let bitmap = if extended { words[index + 1] } else { 0 };
        if entry & COMPRESSED != 0 {
            let (host, len) = compressed_place(entry, self.cluster_bits);
            return Ok(Run { kind: Kind::Compressed(host, len), len: 0, copied: false });
        }
        let cluster = entry & OFFSET;
        // With an external data file, host offset 0 is a real place.
        let has_host = cluster != 0 || self.external && entry & COPIED != 0;
        if has_host && cluster % self.cluster_size != 0 {
            return Err(format!("Cluster allocation offset {cluster:#x} unaligned"));
        }
        let host = cluster + offset % self.cluster_size;
        let (stored, zero) = if extended {
            let sub = offset % self.cluster_size / self.unit;
            (bitmap >> sub & 1 != 0, bitmap >> (32 + sub) & 1 != 0)
        } else {
            let zero = self.version >= 3 && entry & ZERO != 0;
            (has_host && !zero, zero)
        };
        if extended && (stored && zero || stored && !has_host) {
            return Err(format!("Invalid subcluster bitmap {bitmap:#x}"));
        }
        let kind = match (stored, zero, has_host) {
            (true, ..) => Kind::Data(host),
            (_, true, true) => Kind::ZeroAllocated(host),
            (_, true, false) => Kind::Zero,
            (_, _, true) => Kind::Hole(host),
            _ => Kind::Unallocated,
        };
        Ok(Run { kind, len: 0, copied: entry & COPIED != 0 })
    }

    /// Where the run that begins at `offset` ends, at `offset + len` or a little behind it. Damage ends it too: whoever
    /// goes on from there meets it.
    fn run_end(&self, words: &[u64], run: &Run, offset: u64, len: u64) -> u64 {
        if let Kind::Compressed(..) = run.kind {
            return (offset / self.cluster_size + 1) * self.cluster_size;
        }
        let mut end = (offset / self.unit + 1) * self.unit;
        if run.kind == Kind::Unallocated && !run.copied && self.stride == 1 {
            // The common case of large empty areas.
            let next = (end / self.cluster_size % self.entries) as usize;
            let wanted = (offset + len).saturating_sub(end).div_ceil(self.cluster_size) as usize;
            let empty = words[next..].iter().take(wanted).take_while(|w| **w == 0).count();
            end += empty as u64 * self.cluster_size;
        }
        while end < offset + len {
            match self.describe(words, end) {
                Ok(next) if next.copied == run.copied && continues(run.kind, next.kind, end - offset) => {
                    end += self.unit
                }
                _ => break,
            }
        }
        end
    }
}

fn compressed_place(entry: u64, cluster_bits: u32) -> (u64, u64) {
    let bits = 62 - (cluster_bits - 8);
    let host = entry & ((1 << bits) - 1);
    let sectors = ((entry & !(COPIED | COMPRESSED)) >> bits) + 1;
    (host, sectors * 512 - host % 512)
}

/// Whether `next`, `distance` bytes further on, continues a run that starts with `first`.
fn continues(first: Kind, next: Kind, distance: u64) -> bool {
    match (first, next) {
        (Kind::Unallocated, Kind::Unallocated) | (Kind::Zero, Kind::Zero) => true,
        (Kind::Data(a), Kind::Data(b))
        | (Kind::ZeroAllocated(a), Kind::ZeroAllocated(b))
        | (Kind::Hole(a), Kind::Hole(b)) => b == a + distance,
        _ => false,
    }
}
