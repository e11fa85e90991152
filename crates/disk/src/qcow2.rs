//! The qcow2 format, versions 2 and 3.
//!
//! Reference: docs/interop/qcow2.txt of QEMU 10.0; behaviour of `qemu-img` and `qemu-io` 10.0.2.
//!
//! Module map: `header` the header and extensions, `meta` tables and mapping, `refcount` allocation and the crash
//! rules, `io` guest requests, `compress` packed clusters, `crypt` encryption, `snapshot`, `check`, `create`, `amend`.

pub mod amend;
pub mod bitmap;
pub mod check;
mod compress;
pub mod create;
mod crypt;
mod empty;
pub mod header;
mod io;
mod many;
mod meta;
mod node;
pub mod overlap;
mod refcount;
pub mod snapshot;
mod snapshot_table;
pub mod tuning;

use crate::node::{Node, NodeRef, Preallocation, Repair, errno, strerror};
use header::{Header, MAX_L1_BYTES, MAX_REFTABLE_BYTES, autoclear, be64, compatible, incompatible};
use meta::{Kind, Meta};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use spec::error::{Error, Result};
use std::collections::HashMap;
use std::io as std_io;
use std::sync::{Mutex, OnceLock, RwLock};

/// How to open an image.
#[derive(Clone, Default)]
pub struct Qcow2Options {
    pub write: bool,
    /// The image is opened to be checked: a dirty or corrupt one is not repaired or refused.
    pub check: bool,
    /// Freed clusters are given back to the host.
    pub unmap: bool,
    pub lazy_refcounts: Option<bool>,
    pub data_file: Option<NodeRef>,
    pub key: KeyOptions,
    /// Metadata that writes must not touch.
    pub overlap: overlap::Parts,
    /// Memory for tables.
    pub cache_bytes: Option<u64>,
}

pub use crypt::{AesKey, KeyOptions, NewKey};

pub struct Qcow2 {
    file: NodeRef,
    data_file: Option<NodeRef>,
    cluster_size: u64,
    compression: u8,
    write: bool,
    gate: RwLock<()>,
    meta: Mutex<Meta>,
    backing: RwLock<Option<NodeRef>>,
    /// The last unpacked cluster: host offset and contents.
    decompressed: Mutex<(u64, Vec<u8>)>,
    bitmaps: Mutex<bitmap::Tracked>,
    /// Whether much of the file is holes, once somebody has asked.
    preallocated: OnceLock<bool>,
    /// How stored data is encrypted; empty when it is not.
    seal: OnceLock<crypt::Seal>,
    /// Keeps writes of parts of an encrypted sector apart.
    partial: Mutex<()>,
}

/// Reads the header without opening the image, for the names that must be opened first.
pub fn read_header(file: &dyn Node) -> Result<Header> {
    let mut start = [0u8; 24];
    let fail = |e: std_io::Error| Error::new(format!("Could not read qcow2 header: {}", strerror(&e)));
    file.read(0, &mut start).map_err(fail)?;
    let bits = header::be32(&start, 20).clamp(9, 21);
    let mut area = vec![0; (1usize << bits).min(file.size().max(512) as usize)];
    file.read(0, &mut area).map_err(fail)?;
    Header::parse(&area)
}

/// A table of 64-bit words; `what` names it in errors.
fn read_table(file: &dyn Node, what: &str, offset: u64, bytes: u64) -> Result<Vec<u64>> {
    let mut raw = vec![0; bytes as usize];
    let read = if bytes > 0 { file.read(offset, &mut raw) } else { Ok(()) };
    read.map_err(|e| Error::new(format!("Could not read {what} table: {}", strerror(&e))))?;
    Ok(be_words(&raw))
}

fn be_words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|b| be64(b, 0)).collect()
}

/// Whether counts may be brought up to date later, whatever the image says.
fn set_lazy(header: &mut Header, lazy: bool) -> Result<()> {
    if lazy && header.version < 3 {
        return Err(Error::new("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"));
    }
    header.compatible =
        header.compatible & !compatible::LAZY_REFCOUNTS | if lazy { compatible::LAZY_REFCOUNTS } else { 0 };
    Ok(())
}

impl Qcow2 {
    pub fn open(file: NodeRef, options: Qcow2Options) -> Result<Qcow2> {
        let mut header = read_header(file.as_ref())?;
        check_header(&header)?;
        let seal = crypt::Seal::open(&header, file.as_ref(), &options.key)?;
        if header.is(incompatible::CORRUPT) && options.write && !options.check {
            return Err(Error::new("qcow2: Image is corrupt; cannot be opened read/write"));
        }
        if let Some(lazy) = options.lazy_refcounts {
            set_lazy(&mut header, lazy)?;
        }
        let l1 = read_table(file.as_ref(), "L1", header.l1_offset, u64::from(header.l1_size) * 8)?;
        let reftable_bytes = u64::from(header.reftable_clusters) * header.cluster_size();
        let reftable = read_table(file.as_ref(), "refcount", header.reftable_offset, reftable_bytes)?;
        let (cluster_size, compression) = (header.cluster_size(), header.compression_type);
        let external = header.is(incompatible::DATA_FILE);
        let meta = Meta {
            file: file.clone(),
            l1,
            l1_dirty: None,
            l2: HashMap::new(),
            reftable,
            blocks: HashMap::new(),
            free_hint: 0,
            pending: Vec::new(),
            punch: Vec::new(),
            snapshots: Vec::new(),
            snapshots_damaged: false,
            overlap: options.overlap,
            cache_bytes: options.cache_bytes.unwrap_or(meta::CACHE_BYTES),
            places: None,
            snapshot_table_bytes: 0,
            compressed_tail: None,
            data_before_tables: false,
            unmap: options.unmap,
            write: options.write,
            tick: 0,
            name: file.filename(),
            allocating: false,
            external,
            header,
        };
        let image = Qcow2 {
            file,
            data_file: options.data_file.clone(),
            cluster_size,
            compression,
            write: options.write,
            gate: RwLock::new(()),
            meta: Mutex::new(meta),
            backing: RwLock::new(None),
            decompressed: Mutex::new((0, Vec::new())),
            bitmaps: Mutex::new(bitmap::Tracked::default()),
            preallocated: OnceLock::new(),
            seal: seal.map(OnceLock::from).unwrap_or_default(),
            partial: Mutex::new(()),
        };
        {
            let mut meta = image.lock();
            let loaded = meta.load_snapshots();
            meta.snapshots_damaged = options.check && loaded.is_err();
            if !options.check {
                loaded?;
            }
        }
        image.prepare_write(&options)?;
        Ok(image)
    }

    /// What a writer does first: repair a dirty image, drop autoclear bits it does not know.
    fn prepare_write(&self, options: &Qcow2Options) -> Result<()> {
        if !options.write {
            return Ok(());
        }
        let (dirty, unknown) = {
            let meta = self.lock();
            (meta.header.is(incompatible::DIRTY), meta.header.autoclear & !autoclear::KNOWN)
        };
        if unknown != 0 {
            let mut meta = self.lock();
            meta.header.autoclear &= autoclear::KNOWN;
            meta.write_header().map_err(|e| Error::new(format!("Could not update qcow2 header: {}", strerror(&e))))?;
        }
        if dirty && !options.check {
            let repair = Repair { leaks: true, errors: true };
            let report = self
                .check_image(repair)
                .map_err(|e| Error::new(format!("Could not repair dirty image: {}", strerror(&e))))?;
            for line in &report.lines {
                eprintln!("{line}");
            }
            if report.check_errors > 0 {
                return Err(Error::new("Could not repair dirty image: Input/output error"));
            }
        }
        Ok(())
    }

    /// A copy of the header as it is now.
    pub fn header(&self) -> Header {
        self.lock().header.clone()
    }

    pub fn cluster_size(&self) -> u64 {
        self.cluster_size
    }

    fn write_all_back(&self) -> std_io::Result<()> {
        let mut meta = self.lock();
        if meta.write { meta.write_back() } else { Ok(()) }
    }

    /// Changes the guest size in the tables and the header; the caller has discarded what is cut off.
    fn set_size(&self, size: u64) -> Result<()> {
        let mut meta = self.lock();
        let needed = meta.header.l1_needed(size);
        if needed * 8 > MAX_L1_BYTES {
            return Err(Error::new("Failed to grow the L1 table: File too large"));
        }
        let fail = |e: std_io::Error| Error::new(format!("Failed to update the image size: {}", strerror(&e)));
        if needed > meta.l1.len() as u64 {
            meta.grow_l1(needed).map_err(|e| Error::new(format!("Failed to grow the L1 table: {}", strerror(&e))))?;
        }
        meta.header.size = size;
        meta.write_back().map_err(fail)?;
        meta.write_header().map_err(fail)?;
        meta.barrier().map_err(fail)
    }

    fn grow(&self, old: u64, size: u64, preallocation: Preallocation) -> Result<()> {
        self.set_size(size)?;
        if let Some(data) = &self.data_file {
            let raw = self.lock().header.autoclear & autoclear::DATA_FILE_RAW != 0;
            let how = if preallocation == Preallocation::Metadata { Preallocation::Off } else { preallocation };
            if raw || how != Preallocation::Off {
                data.resize(size.max(data.size()), how)?;
            }
        }
        self.clear_edge(old, size)?;
        if let Some(backing) = self.backing_node()
            && backing.size() > old
        {
            // The new area must read as zero, not as what the backing file has there.
            let end = backing.size().min(size);
            self.zero_guest(old, end - old, false)
                .map_err(|e| Error::new(format!("Failed to zero out the new area: {}", strerror(&e))))?;
        }
        if preallocation != Preallocation::Off {
            self.preallocate(old, size, preallocation)?;
        }
        Ok(())
    }

    /// What the last cluster holds behind the end must not show up when the disk grows over it.
    fn clear_edge(&self, end: u64, limit: u64) -> Result<()> {
        let edge = end.next_multiple_of(self.cluster_size).min(limit);
        if edge <= end {
            return Ok(());
        }
        // With subclusters the first of them may be empty and a later one not.
        let mut at = end;
        let mut stored = false;
        while at < edge && !stored {
            let Ok(run) = self.lock().lookup(at, edge - at) else { break };
            stored = matches!(run.kind, Kind::Data(_) | Kind::Compressed(..));
            at += run.len.max(1);
        }
        let zero = if stored { self.zero_guest(end, edge - end, false) } else { Ok(()) };
        zero.map_err(|e| Error::new(format!("Failed to zero out the cut area: {}", strerror(&e))))
    }

    /// Forgets every guest cluster, so that the backing file shows through again.
    pub fn make_empty(&self) -> Result<()> {
        if self.empty_whole().map_err(|e| Error::new(strerror(&e)))? {
            return Ok(());
        }
        let size = self.size();
        self.track(0, size).and_then(|()| self.discard_guest(0, size, true)).map_err(|e| Error::new(strerror(&e)))?;
        self.cut_file()
    }

    /// Whether clearly more clusters are in use than the host stores, so that looking for holes in the file pays.
    fn is_preallocated(&self) -> bool {
        *self.preallocated.get_or_init(|| {
            let Some(stored) = self.file.allocated_size() else { return false };
            let real = stored / self.cluster_size;
            let threshold = (real * 10 / 9).max(real + 2);
            let mut meta = self.lock();
            let end = self.file.size().div_ceil(self.cluster_size);
            let mut used = 0;
            let mut cluster = 0;
            while cluster < end && used < threshold {
                match meta.refcount(cluster) {
                    Ok(n) => used += u64::from(n > 0),
                    Err(_) => return false,
                }
                cluster += 1;
            }
            used >= threshold
        })
    }

    /// Where the VM state of snapshots is: behind the last L2 table of the disk.
    pub fn vm_state_offset(&self) -> u64 {
        let meta = self.lock();
        meta.header.l1_needed(meta.header.size) * meta.header.l2_span()
    }

    pub fn read_vm_state(&self, offset: u64, buf: &mut [u8]) -> std_io::Result<()> {
        self.read_guest(self.vm_state_offset() + offset, buf)
    }

    pub fn write_vm_state(&self, offset: u64, buf: &[u8]) -> std_io::Result<()> {
        self.may_write()?;
        let start = self.vm_state_offset() + offset;
        {
            let mut meta = self.lock();
            let entries = (start + buf.len() as u64).div_ceil(meta.header.l2_span());
            if entries * 8 > MAX_L1_BYTES {
                return Err(errno(Errno::FBIG));
            }
            if entries > meta.l1.len() as u64 {
                meta.grow_l1(entries)?;
            }
        }
        self.write_guest(start, buf)
    }

    fn shrink(&self, old: u64, size: u64, preallocation: Preallocation) -> Result<()> {
        if preallocation != Preallocation::Off {
            return Err(Error::new("Preallocation can't be used for shrinking an image"));
        }
        let fail = |e: std_io::Error| Error::new(format!("Failed to discard cropped clusters: {}", strerror(&e)));
        self.clear_edge(size, old)?;
        let first = size.next_multiple_of(self.cluster_size);
        if first < old {
            self.discard_guest(first, old - first, true).map_err(fail)?;
        }
        {
            let mut meta = self.lock();
            meta.shrink_l1(size).map_err(fail)?;
            meta.header.size = size;
            meta.write_header().map_err(fail)?;
            meta.barrier().map_err(fail)?;
        }
        if let Some(data) = &self.data_file {
            data.resize(size, Preallocation::Off)?;
        }
        self.cut_file()
    }

    /// Cuts unused clusters off the end of the file.
    fn cut_file(&self) -> Result<()> {
        let end = {
            let mut meta = self.lock();
            meta.write_back().map_err(|e| Error::new(strerror(&e)))?;
            let size = meta.cluster_size();
            let mut last = meta.file.size().div_ceil(size);
            while last > 0 && meta.refcount(last - 1).map_err(|e| Error::new(strerror(&e)))? == 0 {
                last -= 1;
            }
            last * size
        };
        if end < self.file.size() { self.file.resize(end, Preallocation::Off) } else { Ok(()) }
    }

    fn specific(&self, meta: &Meta) -> Value {
        let h = &meta.header;
        let mut data = Map::new();
        let mut put = |k: &str, v: Value| {
            data.insert(k.to_owned(), v);
        };
        if h.version < 3 {
            put("compat", json!("0.10"));
            put("compression-type", json!("zlib"));
            put("refcount-bits", json!(h.refcount_bits()));
            if let Some(seal) = self.seal.get() {
                put("encrypt", seal.describe());
            }
            return Value::Object(data);
        }
        put("compat", json!("1.1"));
        put("compression-type", json!(if h.compression_type == compress::ZSTD { "zstd" } else { "zlib" }));
        put("lazy-refcounts", json!(h.compatible & compatible::LAZY_REFCOUNTS != 0));
        if let Some(list) = bitmap::info(meta) {
            put("bitmaps", list);
        }
        put("refcount-bits", json!(h.refcount_bits()));
        if let Some(name) = &h.data_file {
            put("data-file", json!(name));
        }
        if h.is(incompatible::DATA_FILE) {
            put("data-file-raw", json!(h.autoclear & autoclear::DATA_FILE_RAW != 0));
        }
        if let Some(seal) = self.seal.get() {
            put("encrypt", seal.describe());
        }
        put("corrupt", json!(h.is(incompatible::CORRUPT)));
        put("extended-l2", json!(h.is(incompatible::EXTENDED_L2)));
        Value::Object(data)
    }
}

/// Limits that keep a hostile header from asking for absurd amounts of memory.
fn check_header(h: &Header) -> Result<()> {
    let cluster_size = h.cluster_size();
    let reftable_bytes = h.reftable_clusters as u64 * cluster_size;
    if reftable_bytes > MAX_REFTABLE_BYTES {
        return Err(Error::new("Reference count table too large"));
    }
    if h.reftable_clusters == 0 {
        return Err(Error::new("Image does not contain a reference count table"));
    }
    if h.reftable_offset % cluster_size != 0
        || h.reftable_offset.checked_add(reftable_bytes).is_none_or(|e| e > i64::MAX as u64)
    {
        return Err(Error::new("Reference count table offset invalid"));
    }
    if h.l1_size as u64 * 8 > MAX_L1_BYTES {
        return Err(Error::new("Active L1 table too large"));
    }
    if h.l1_offset % cluster_size != 0 || h.l1_offset.checked_add(MAX_L1_BYTES).is_none_or(|e| e > i64::MAX as u64) {
        return Err(Error::new("Active L1 table offset invalid"));
    }
    if h.l1_needed(h.size) > i32::MAX as u64 {
        return Err(Error::new("Image is too big"));
    }
    if (h.l1_size as u64) < h.l1_needed(h.size) {
        return Err(Error::new("L1 table is too small"));
    }
    if h.snapshots_offset % cluster_size != 0 || h.snapshots_offset > i64::MAX as u64 / 2 {
        return Err(Error::new("Snapshot table offset invalid"));
    }
    if h.is(incompatible::EXTENDED_L2) && h.cluster_bits < 14 {
        return Err(Error::new("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"));
    }
    Ok(())
}
