//! Persistent dirty bitmaps: which guest ranges were written since the bitmap was made.
//!
//! Reference: docs/interop/qcow2.txt, "Bitmaps".
//!
//! Invariants: before the first guest write that an enabled bitmap must record, its directory entry carries the in-use
//! flag in the file; the flag is cleared only after the new contents are stored.

use super::Qcow2;
use super::header::{BitmapsExt, autoclear, be32, be64};
use super::meta::Meta;
use crate::node::{errno, strerror};
use rustix::io::Errno;
use serde_json::{Value, json};
use spec::error::{Error, Result};
use std::io;

pub const IN_USE: u32 = 1 << 0;
pub const AUTO: u32 = 1 << 1;
const KIND_DIRTY: u8 = 1;
const MAX_DIRECTORY: u64 = 1 << 20;
const MAX_TABLE_ENTRIES: u32 = 0x8000000 / 8;
const TABLE_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

/// One bitmap as the directory describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub table_offset: u64,
    pub table_size: u32,
    pub flags: u32,
    pub granularity_bits: u8,
}

/// A bitmap in memory: one bit for each `1 << granularity_bits` guest bytes.
#[derive(Clone, Debug)]
pub struct Bits {
    pub granularity_bits: u8,
    pub words: Vec<u64>,
    pub len: u64,
}

impl Bits {
    pub fn new(size: u64, granularity_bits: u8) -> Bits {
        let len = size.div_ceil(1 << granularity_bits);
        Bits { granularity_bits, words: vec![0; len.div_ceil(64) as usize], len }
    }

    pub fn set_range(&mut self, offset: u64, bytes: u64) {
        if bytes == 0 || self.len == 0 {
            return;
        }
        let first = offset >> self.granularity_bits;
        let last = ((offset + bytes - 1) >> self.granularity_bits).min(self.len - 1);
        for bit in first..=last {
            self.words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    pub fn get(&self, bit: u64) -> bool {
        self.words[(bit / 64) as usize] >> (bit % 64) & 1 != 0
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.truncate(self.len.div_ceil(8) as usize);
        bytes
    }

    /// Marks everything that another bitmap marks.
    pub fn merge(&mut self, other: &Bits) {
        for bit in (0..other.len).filter(|b| other.get(*b)) {
            self.set_range(bit << other.granularity_bits, 1 << other.granularity_bits);
        }
    }
}

/// Bitmaps that record the writes of this session.
#[derive(Default)]
pub struct Tracked {
    loaded: bool,
    list: Vec<(String, Bits)>,
}

fn fail(what: &str) -> impl Fn(io::Error) -> Error + '_ {
    move |e| Error::new(format!("{what}: {}", strerror(&e)))
}

/// The directory; empty when the image has no valid bitmaps.
pub fn directory(meta: &Meta) -> io::Result<Vec<Entry>> {
    let invalid = || errno(Errno::INVAL);
    let Some(ext) = &meta.header.bitmaps else { return Ok(Vec::new()) };
    if meta.header.autoclear & autoclear::BITMAPS == 0 {
        return Ok(Vec::new());
    }
    if ext.directory_size > MAX_DIRECTORY || ext.directory_offset % meta.cluster_size() != 0 {
        return Err(invalid());
    }
    let mut bytes = vec![0; ext.directory_size as usize];
    meta.file.read(ext.directory_offset, &mut bytes)?;
    let mut list = Vec::new();
    let mut at = 0;
    while at + 24 <= bytes.len() {
        let name_len = u16::from_be_bytes([bytes[at + 18], bytes[at + 19]]) as usize;
        let extra = be32(&bytes, at + 20) as usize;
        let name_at = at + 24 + extra;
        let end = name_at + name_len;
        if end > bytes.len() || extra != 0 && be32(&bytes, at + 12) & 4 == 0 {
            return Err(invalid());
        }
        let entry = Entry {
            table_offset: be64(&bytes, at),
            table_size: be32(&bytes, at + 8),
            flags: be32(&bytes, at + 12),
            granularity_bits: bytes[at + 17],
            name: String::from_utf8_lossy(&bytes[name_at..end]).into_owned(),
        };
        if entry.table_size > MAX_TABLE_ENTRIES
            || bytes[at + 16] != KIND_DIRTY
            || !(9..=31).contains(&entry.granularity_bits)
        {
            return Err(invalid());
        }
        list.push(entry);
        at = end.next_multiple_of(8);
    }
    if list.len() != ext.count as usize { Err(invalid()) } else { Ok(list) }
}

fn encode(list: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for e in list {
        out.extend(e.table_offset.to_be_bytes());
        out.extend(e.table_size.to_be_bytes());
        out.extend(e.flags.to_be_bytes());
        out.extend([KIND_DIRTY, e.granularity_bits]);
        out.extend((e.name.len() as u16).to_be_bytes());
        out.extend(0u32.to_be_bytes());
        out.extend(e.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// Host ranges that bitmaps occupy, for `check`.
pub fn extents(meta: &mut Meta) -> io::Result<Vec<(u64, u64)>> {
    let mut list = Vec::new();
    let Some(ext) = meta.header.bitmaps.clone() else { return Ok(list) };
    if ext.count == 0 {
        return Ok(list);
    }
    list.push((ext.directory_offset, ext.directory_size));
    for entry in directory(meta)? {
        list.push((entry.table_offset, entry.table_size as u64 * 8));
        for word in table(meta, &entry)? {
            if word & TABLE_OFFSET != 0 {
                list.push((word & TABLE_OFFSET, meta.cluster_size()));
            }
        }
    }
    Ok(list)
}

fn table(meta: &Meta, entry: &Entry) -> io::Result<Vec<u64>> {
    if entry.table_offset % meta.cluster_size() != 0 {
        return Err(errno(Errno::INVAL));
    }
    let mut bytes = vec![0; entry.table_size as usize * 8];
    meta.file.read(entry.table_offset, &mut bytes)?;
    Ok(super::be_words(&bytes))
}

/// What `info` prints; `None` when there are none.
pub fn info(meta: &Meta) -> Option<Value> {
    let list = directory(meta).ok().filter(|l| !l.is_empty())?;
    let rows = list.iter().map(|e| {
        let mut flags = Vec::new();
        if e.flags & IN_USE != 0 {
            flags.push("in-use");
        }
        if e.flags & AUTO != 0 {
            flags.push("auto");
        }
        json!({ "flags": flags, "name": e.name, "granularity": 1u64 << e.granularity_bits })
    });
    Some(Value::Array(rows.collect()))
}

/// Loads the contents of a bitmap.
fn load(meta: &Meta, entry: &Entry) -> io::Result<Bits> {
    let mut bits = Bits::new(meta.header.size, entry.granularity_bits);
    let cluster_size = meta.cluster_size() as usize;
    let wanted = bits.len.div_ceil(8) as usize;
    let mut bytes = Vec::new();
    for word in table(meta, entry)? {
        let at = bytes.len();
        if at >= wanted {
            break;
        }
        bytes.resize(at + cluster_size.min(wanted - at), 0);
        match word & TABLE_OFFSET {
            0 if word & ALL_ONES != 0 => bytes[at..].fill(0xff),
            0 => {}
            offset => meta.file.read(offset, &mut bytes[at..])?,
        }
    }
    bytes.resize(wanted.next_multiple_of(8), 0);
    for (word, b) in bits.words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(b.try_into().expect("eight bytes"));
    }
    Ok(bits)
}

impl Meta {
    fn free_bitmap(&mut self, entry: &Entry) -> io::Result<()> {
        let cluster_size = self.cluster_size();
        for word in table(self, entry)? {
            if word & TABLE_OFFSET != 0 {
                self.drop_user((word & TABLE_OFFSET) / cluster_size, 1)?;
            }
        }
        self.drop_user(entry.table_offset / cluster_size, (entry.table_size as u64 * 8).div_ceil(cluster_size))
    }

    /// Stores contents in new clusters and returns the entry that describes them.
    fn store_bits(&mut self, name: &str, flags: u32, bits: &Bits) -> io::Result<Entry> {
        let cluster_size = self.cluster_size();
        let mut words = Vec::new();
        for chunk in bits.bytes().chunks(cluster_size as usize) {
            if crate::node::is_zero(chunk) {
                words.push(0);
                continue;
            }
            let offset = self.alloc(1)? * cluster_size;
            let mut whole = chunk.to_vec();
            whole.resize(cluster_size as usize, 0);
            self.file.write(offset, &whole)?;
            words.push(offset);
        }
        let mut bytes: Vec<u8> = words.iter().flat_map(|w: &u64| w.to_be_bytes()).collect();
        let clusters = (bytes.len() as u64).div_ceil(cluster_size).max(1);
        bytes.resize(bytes.len().next_multiple_of(512).max(512), 0);
        let table_offset = self.alloc(clusters)? * cluster_size;
        self.file.write(table_offset, &bytes)?;
        Ok(Entry {
            name: name.to_owned(),
            table_offset,
            table_size: words.len() as u32,
            flags,
            granularity_bits: bits.granularity_bits,
        })
    }

    /// Writes the directory to a new place and makes the header name it.
    fn store_directory(&mut self, list: &[Entry]) -> io::Result<()> {
        let cluster_size = self.cluster_size();
        let old = self.header.bitmaps.take().filter(|_| self.header.autoclear & autoclear::BITMAPS != 0);
        self.header.autoclear &= !autoclear::BITMAPS;
        if !list.is_empty() {
            let bytes = encode(list);
            let offset = self.alloc((bytes.len() as u64).div_ceil(cluster_size))? * cluster_size;
            self.file.write(offset, &bytes)?;
            let count = list.len() as u32;
            self.header.bitmaps =
                Some(BitmapsExt { count, directory_size: bytes.len() as u64, directory_offset: offset });
            self.header.autoclear |= autoclear::BITMAPS;
        }
        self.write_back()?;
        self.write_blocks()?;
        self.barrier()?;
        self.write_header()?;
        self.barrier()?;
        if let Some(old) = old
            && old.directory_size > 0
        {
            self.drop_user(old.directory_offset / cluster_size, old.directory_size.div_ceil(cluster_size))?;
        }
        Ok(())
    }
}

impl Qcow2 {
    /// Bitmaps of the image.
    pub fn bitmap_list(&self) -> Result<Vec<Entry>> {
        directory(&self.lock()).map_err(fail("Could not read the bitmap directory"))
    }

    /// Contents of a bitmap; one that was not closed properly is an error.
    pub fn bitmap_bits(&self, name: &str) -> Result<Bits> {
        let list = self.bitmap_list()?;
        let entry = list
            .iter()
            .find(|e| e.name == name)
            .ok_or_else(|| Error::new(format!("Dirty bitmap '{name}' not found")))?;
        if entry.flags & IN_USE != 0 {
            return Err(Error::new(format!("Bitmap '{name}' is inconsistent and cannot be used")));
        }
        load(&self.lock(), entry).map_err(fail("Could not read the bitmap"))
    }

    /// Adds a bitmap or replaces the contents and flags of one.
    pub fn bitmap_store(&self, name: &str, enabled: bool, bits: &Bits) -> Result<()> {
        let mut meta = self.lock();
        if meta.header.version < 3 {
            return Err(Error::new("Cannot store dirty bitmaps in qcow2 v2 files"));
        }
        if name.len() > 1023 {
            return Err(Error::new("Bitmap name is too long"));
        }
        let store = |meta: &mut Meta| -> io::Result<()> {
            let mut list = directory(meta)?;
            let entry = meta.store_bits(name, if enabled { AUTO } else { 0 }, bits)?;
            let old = match list.iter_mut().find(|e| e.name == name) {
                Some(slot) => Some(std::mem::replace(slot, entry)),
                None => {
                    list.push(entry);
                    None
                }
            };
            meta.store_directory(&list)?;
            if let Some(old) = old {
                meta.free_bitmap(&old)?;
            }
            meta.write_blocks()?;
            Ok(())
        };
        store(&mut meta).map_err(fail("Could not store the bitmap"))
    }

    pub fn bitmap_remove(&self, name: &str) -> Result<()> {
        let mut meta = self.lock();
        let mut list = directory(&meta).map_err(fail("Could not read the bitmap directory"))?;
        let index = list
            .iter()
            .position(|e| e.name == name)
            .ok_or_else(|| Error::new(format!("Dirty bitmap '{name}' not found")))?;
        let old = list.remove(index);
        let remove = |meta: &mut Meta| -> io::Result<()> {
            meta.store_directory(&list)?;
            meta.free_bitmap(&old)?;
            meta.write_blocks()?;
            Ok(())
        };
        remove(&mut meta).map_err(fail("Could not remove the bitmap"))
    }

    /// Notes a guest write in every enabled bitmap.
    pub(super) fn track(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut tracked = self.bitmaps.lock().unwrap_or_else(|e| e.into_inner());
        if !tracked.loaded {
            tracked.loaded = true;
            self.start_tracking(&mut tracked)?;
        }
        for (_, bits) in &mut tracked.list {
            bits.set_range(offset, len);
        }
        Ok(())
    }

    /// Loads the enabled bitmaps and marks them in use in the file.
    fn start_tracking(&self, tracked: &mut Tracked) -> io::Result<()> {
        let mut meta = self.lock();
        let mut list = directory(&meta)?;
        for entry in list.iter_mut().filter(|e| e.flags & AUTO != 0 && e.flags & IN_USE == 0) {
            tracked.list.push((entry.name.clone(), load(&meta, entry)?));
            entry.flags |= IN_USE;
        }
        if !tracked.list.is_empty() {
            meta.store_directory(&list)?;
        }
        Ok(())
    }

    /// Stores the recorded bitmaps; part of closing the image.
    pub(super) fn store_bitmaps(&self) -> io::Result<()> {
        let mut tracked = self.bitmaps.lock().unwrap_or_else(|e| e.into_inner());
        tracked.loaded = false;
        for (name, bits) in std::mem::take(&mut tracked.list) {
            let mut meta = self.lock();
            let mut list = directory(&meta)?;
            let Some(index) = list.iter().position(|e| e.name == name) else { continue };
            let entry = meta.store_bits(&name, AUTO, &bits)?;
            let old = std::mem::replace(&mut list[index], entry);
            meta.store_directory(&list)?;
            meta.free_bitmap(&old)?;
            meta.write_blocks()?;
        }
        Ok(())
    }

    /// Fits every bitmap to a new disk size.
    pub(super) fn resize_bitmaps(&self, size: u64) -> Result<()> {
        self.store_bitmaps().map_err(fail("Could not store the bitmaps"))?;
        for entry in self.bitmap_list()? {
            if entry.flags & IN_USE != 0 {
                return Err(Error::new(format!("Cannot resize qcow2 image with inconsistent bitmap '{}'", entry.name)));
            }
            let old = self.bitmap_bits(&entry.name)?;
            let mut new = Bits::new(size, entry.granularity_bits);
            for bit in (0..old.len.min(new.len)).filter(|b| old.get(*b)) {
                new.words[(bit / 64) as usize] |= 1 << (bit % 64);
            }
            self.bitmap_store(&entry.name, entry.flags & AUTO != 0, &new)?;
        }
        Ok(())
    }
}
