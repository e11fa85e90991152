//! Changes of an existing image's options: version, size, refcount width, names and flags.
//!
//! Reference: options and messages of `qemu-img amend` 10.0.2.
//!
//! Key slots of encrypted images are changed in `crypt`.

use super::Qcow2;
use super::header::{autoclear, compatible, incompatible};
use super::meta::{COMPRESSED, COPIED, Meta, OFFSET, ZERO};
use crate::node::{Node, Preallocation, strerror};
use crate::options::Options;
use spec::error::{Error, Result};
use std::collections::HashSet;
use std::io;

fn host(e: io::Error) -> Error {
    Error::new(strerror(&e))
}

impl Qcow2 {
    /// `secret` is the one that the image was opened with, if it is encrypted. `progress` hears of what is done and of the
    /// whole where that takes long.
    pub fn amend(
        &self,
        options: &mut Options,
        secret: Option<&str>,
        force: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let now = self.header();
        for fixed in ["cluster_size", "compression_type", "extended_l2", "preallocation", "encryption"] {
            if options.get(fixed).is_some() {
                return Err(Error::new(format!(
                    "Invalid parameter '{fixed}'\nThis option is only supported for image creation"
                )));
            }
        }
        let key = options.take_below("encrypt");
        if !key.is_empty() {
            let mut again = Options::new();
            key.iter().for_each(|(k, v)| again.set(&format!("encrypt.{k}"), v));
            self.amend_key(&mut again, secret.unwrap_or_default(), force)?;
            if let Some(key) = again.first_key() {
                return Err(Error::new(format!(
                    "Invalid parameter '{key}'\nThis option is only supported for image creation"
                )));
            }
        }
        let version = match options.take("compat").as_deref() {
            None => now.version,
            Some("0.10" | "v2") => 2,
            Some("1.1" | "v3") => 3,
            Some(other) => return Err(Error::new(format!("Unknown compatibility level {other}"))),
        };
        let lazy = options.take_bool("lazy_refcounts")?;
        let refcount_bits = options.take_number("refcount_bits")?;
        let raw = options.take_bool("data_file_raw")?;
        let (file, format) = (options.take("backing_file"), options.take("backing_fmt"));
        let data_file = options.take("data_file");
        let size = options.take_size("size")?;
        if let Some(key) = options.first_key() {
            return Err(Error::new(format!("Invalid parameter '{key}'")));
        }
        if version > now.version {
            self.upgrade()?;
        }
        if let Some(bits) = refcount_bits {
            self.set_refcount_bits(bits, version)?;
        }
        self.set_names(data_file, raw, file, format)?;
        if let Some(lazy) = lazy {
            self.set_lazy(lazy, version)?;
        }
        if let Some(size) = size {
            Node::resize(self, size, Preallocation::Off)?;
        }
        if version < now.version { self.downgrade(progress) } else { Ok(()) }
    }

    fn set_names(
        &self,
        data_file: Option<String>,
        raw: Option<bool>,
        file: Option<String>,
        format: Option<String>,
    ) -> Result<()> {
        if let Some(raw) = raw {
            let is = self.lock().header.autoclear & autoclear::DATA_FILE_RAW != 0;
            if raw && !is {
                return Err(Error::new("data-file-raw cannot be set on existing images"));
            }
            let mut meta = self.lock();
            meta.header.autoclear &= if raw { !0 } else { !autoclear::DATA_FILE_RAW };
            meta.write_header().map_err(host)?;
        }
        if let Some(name) = data_file {
            let mut meta = self.lock();
            if !meta.external {
                return Err(Error::new("data-file can only be set for images that use an external data file"));
            }
            meta.header.data_file = Some(name).filter(|n| !n.is_empty());
            meta.write_header().map_err(host)?;
        }
        if file.is_some() || format.is_some() {
            let now = self.header();
            let same = |new: &Option<String>, old: &Option<String>| {
                new.as_deref().is_none_or(|n| n == old.as_deref().unwrap_or(""))
            };
            if !same(&file, &now.backing_file) || !same(&format, &now.backing_format) {
                return Err(Error::new("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead."));
            }
            let file = file.or(now.backing_file);
            let format = format.or(now.backing_format);
            self.change_backing_file(file.as_deref(), format.as_deref())?;
        }
        Ok(())
    }

    fn upgrade(&self) -> Result<()> {
        let mut meta = self.lock();
        if meta.snapshots_are_short() {
            // Version 3 requires fields that old writers left out.
            meta.store_snapshots().map_err(host)?;
        }
        meta.header.version = 3;
        meta.header.feature_table = true;
        meta.write_header().map_err(host)
    }

    fn set_lazy(&self, lazy: bool, version: u32) -> Result<()> {
        if lazy && version < 3 {
            return Err(Error::new(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ));
        }
        let mut meta = self.lock();
        meta.write_back().map_err(host)?;
        meta.write_blocks().map_err(host)?;
        if meta.header.is(incompatible::DIRTY) {
            meta.set_dirty(false).map_err(host)?;
        }
        meta.header.compatible =
            meta.header.compatible & !compatible::LAZY_REFCOUNTS | if lazy { compatible::LAZY_REFCOUNTS } else { 0 };
        meta.write_header().map_err(host)
    }

    fn set_refcount_bits(&self, bits: u64, version: u32) -> Result<()> {
        if !bits.is_power_of_two() || bits > 64 {
            return Err(Error::new("Refcount width must be a power of two and may not exceed 64 bits"));
        }
        if version < 3 && bits != 16 {
            return Err(Error::new(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
            ));
        }
        self.rewrite_counts(bits.trailing_zeros())
    }

    fn downgrade(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        {
            let mut guard = self.lock();
            guard.write_back().map_err(host)?;
            guard.write_blocks().map_err(host)?;
            let h = &guard.header;
            if h.is(incompatible::DATA_FILE) {
                return Err(Error::new("Cannot downgrade an image with a data file"));
            }
            if h.is(incompatible::EXTENDED_L2 | incompatible::COMPRESSION) {
                let bits = h.incompatible & !incompatible::DIRTY;
                return Err(Error::new(format!("Cannot downgrade an image with incompatible features {bits:#x} set")));
            }
            if h.refcount_order != 4 {
                return Err(Error::new("compat=0.10 requires refcount_bits=16"));
            }
            // Version 2 has no place for what these say in the headers of its snapshots.
            if guard.snapshots.iter().any(|s| s.info.vm_state_size != 0 || s.info.disk_size != h.size) {
                return Err(Error::new("Internal snapshots prevent downgrade of image"));
            }
            if h.bitmaps.is_some() {
                return Err(Error::new("Persistent bitmaps prevent downgrade of image"));
            }
        }
        self.expand_zeroes(progress)
            .map_err(|e| Error::new(format!("Failed to turn zero into data clusters: {}", strerror(&e))))?;
        let mut meta = self.lock();
        meta.write_back().map_err(host)?;
        if meta.header.is(incompatible::DIRTY) {
            meta.set_dirty(false).map_err(host)?;
        }
        meta.header.compatible = 0;
        meta.header.autoclear = 0;
        meta.header.version = 2;
        meta.write_header().map_err(host)?;
        meta.barrier().map_err(host)
    }

    /// Replaces zero flags by stored zeroes, or by nothing where nothing reads as zero, in the tables of the disk and of
    /// its snapshots. Shared tables are changed in place, since what they say stays the same; the dirty bit stands for the
    /// counts meanwhile.
    fn expand_zeroes(&self, progress: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        let backed = self.backing_node().is_some();
        let _alone = self.gate.write().unwrap_or_else(|e| e.into_inner());
        let mut meta = self.lock();
        meta.compressed_tail = None;
        let mut tables = vec![meta.l1.clone()];
        for snapshot in meta.snapshots.clone() {
            tables.push(meta.read_l1(&snapshot)?);
        }
        meta.set_dirty(true)?;
        let total = tables.iter().map(|t| t.len() as u64).sum();
        let mut done = 0;
        let mut seen = HashSet::new();
        for (number, l1) in tables.iter().enumerate() {
            for (index, entry) in l1.iter().enumerate() {
                let table = entry & OFFSET;
                if table != 0 && seen.insert(table) {
                    let guest = index as u64 * meta.header.l2_span();
                    self.expand_table(&mut meta, table, guest, number == 0, backed)?;
                }
                done += 1;
                progress(done, total);
            }
        }
        drop(meta);
        self.decompressed.lock().unwrap_or_else(|e| e.into_inner()).1.clear();
        Ok(())
    }

    fn expand_table(&self, meta: &mut Meta, table: u64, guest: u64, active: bool, backed: bool) -> io::Result<()> {
        let size = self.cluster_size;
        let users = meta.refcount(table / size)?;
        // Tables of snapshots have no such flags: the disk may share them again.
        let flag = if active && users == 1 { COPIED } else { 0 };
        let words = meta.table(table)?.words.clone();
        let zeroes = vec![0u8; size as usize];
        for (i, word) in words.into_iter().enumerate() {
            if word & COMPRESSED != 0 || word & ZERO == 0 {
                continue;
            }
            let at = guest + i as u64 * size;
            let host = word & OFFSET;
            let new = if host != 0 && users == 1 && meta.refcount(host / size)? == 1 {
                self.write_data(host, at, &zeroes)?;
                host | flag
            } else if !backed {
                0
            } else {
                let cluster = meta.alloc(1)?;
                for _ in 1..users {
                    meta.add_user(cluster, 1)?;
                }
                self.write_data(cluster * size, at, &zeroes)?;
                cluster * size | flag
            };
            meta.data_before_tables = true;
            meta.table(table)?.set(i, new);
            if host != 0 && new & OFFSET != host {
                (0..users).for_each(|_| meta.free_later(host, size));
            }
        }
        if meta.pending_is_long() { meta.write_back() } else { Ok(()) }
    }
}
