//! Emptying an image at once, by writing its few tables anew.
//!
//! Reference: docs/interop/qcow2.txt.
//!
//! Invariants: the image carries the dirty bit meanwhile, and an L1 table of zeroes is in the file before anything else
//! changes. From then on a crash ends in an empty image whose counts are written anew at the next open.

use super::Qcow2;
use super::meta::Meta;
use super::refcount::{RefBlock, set_entry};
use std::io;

/// Where things are in an empty image: refcount table, one refcount block, L1 table.
const REFTABLE: u64 = 1;
const BLOCK: u64 = 2;
const L1: u64 = 3;

impl Qcow2 {
    /// Empties images of which nothing else is kept; false for others.
    pub(super) fn empty_whole(&self) -> io::Result<bool> {
        let _alone = self.gate.write().unwrap_or_else(|e| e.into_inner());
        let mut guard = self.lock();
        let meta = &mut *guard;
        let h = &meta.header;
        let plain =
            h.version >= 3 && h.snapshot_count == 0 && h.bitmaps.is_none() && h.crypto.is_none() && !meta.external;
        let clusters = L1 + (meta.l1.len() as u64 * 8).div_ceil(self.cluster_size).max(1);
        if !plain || clusters > meta.block_entries() {
            return Ok(false);
        }
        meta.write_back()?;
        meta.write_blocks()?;
        meta.set_dirty(true)?;
        self.decompressed.lock().unwrap_or_else(|e| e.into_inner()).1.clear();
        meta.empty_l1()?;
        meta.new_structure(clusters)?;
        // A file that cannot be cut keeps its space.
        let _ = meta.file.resize(clusters * self.cluster_size, crate::Preallocation::Off);
        meta.set_dirty(false)?;
        Ok(true)
    }
}

impl Meta {
    fn empty_l1(&mut self) -> io::Result<()> {
        self.file.event("l1_update");
        self.file.write(self.header.l1_offset, &vec![0; self.l1.len() * 8])?;
        self.l1.fill(0);
        self.l1_dirty = None;
        self.l2.clear();
        self.pending.clear();
        self.punch.clear();
        self.compressed_tail = None;
        self.barrier()
    }

    /// Puts the tables to the start of the file.
    fn new_structure(&mut self, clusters: u64) -> io::Result<()> {
        let size = self.cluster_size();
        self.file.event("empty_image_prepare");
        // The old L1 table may be among these, and is zero already.
        self.file.write_zeroes(REFTABLE * size, (clusters - REFTABLE) * size, false)?;
        self.barrier()?;
        self.file.event("reftable_update");
        self.header.reftable_offset = REFTABLE * size;
        self.header.reftable_clusters = 1;
        self.header.l1_offset = L1 * size;
        self.write_header()?;
        self.barrier()?;
        let mut bytes = vec![0; size as usize];
        for cluster in 0..clusters {
            set_entry(&mut bytes, self.header.refcount_order, cluster as usize, 1);
        }
        self.file.event("refblock_alloc");
        self.file.write(BLOCK * size, &bytes)?;
        self.barrier()?;
        self.file.write(REFTABLE * size, &(BLOCK * size).to_be_bytes())?;
        self.reftable = vec![0; (size / 8) as usize];
        self.reftable[0] = BLOCK * size;
        self.blocks.clear();
        self.forget_places();
        self.blocks.insert(0, RefBlock { bytes, dirty: None, used: self.tick });
        self.free_hint = clusters;
        self.barrier()
    }
}
