//! Internal snapshots: the snapshot table, and taking, returning to and deleting snapshots.
//!
//! Reference: docs/interop/qcow2.txt, "Snapshots".
//!
//! Invariants: version 3 images carry the dirty bit while counts are changed in bulk, so a crash in between ends in a
//! repair at the next open. New tables are complete in the file before the header names them.

use super::Qcow2;
use super::header::{MAX_L1_BYTES, MAX_SNAPSHOTS, incompatible};
use super::meta::{COMPRESSED, COPIED, Meta, OFFSET};
use super::refcount::max_count;
use super::snapshot_table::{Snapshot, encode};
use crate::node::{SnapshotInfo, Snapshots, errno, strerror};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::collections::HashMap;
use std::io;

impl Meta {
    /// Writes the snapshot list to a new place and makes the header name it.
    pub(super) fn store_snapshots(&mut self) -> io::Result<()> {
        let bytes = encode(&self.snapshots);
        let cluster_size = self.cluster_size();
        let old = (self.header.snapshots_offset, self.snapshot_table_bytes);
        let mut offset = 0;
        if !self.snapshots.is_empty() {
            offset = self.alloc((bytes.len() as u64).div_ceil(cluster_size))? * cluster_size;
            self.file.write(offset, &bytes)?;
        }
        self.write_back()?;
        self.write_blocks()?;
        self.barrier()?;
        self.header.snapshots_offset = offset;
        self.header.snapshot_count = self.snapshots.len() as u32;
        self.forget_places();
        self.write_header()?;
        self.barrier()?;
        for s in &mut self.snapshots {
            s.stored_extra = 24 + s.extra.len() as u32;
        }
        self.snapshot_table_bytes = if offset == 0 { 0 } else { bytes.len() as u64 };
        if old.0 != 0
            && old.1 > 0
            && let Err(e) = self.free_or_leak(|meta| meta.drop_user(old.0 / cluster_size, old.1.div_ceil(cluster_size)))
        {
            eprintln!("qcow2_free_clusters failed: {}", strerror(&e));
        }
        Ok(())
    }

    /// What is wrong with the place of a snapshot's L1 table: a number for the request and a sentence.
    pub fn l1_damage(&self, s: &Snapshot) -> Option<(Errno, &'static str)> {
        if s.l1_size as u64 * 8 > MAX_L1_BYTES {
            return Some((Errno::FBIG, "Snapshot L1 table too large"));
        }
        let end = s.l1_offset.checked_add(s.l1_size as u64 * 8);
        let bad = s.l1_offset % self.cluster_size() != 0 || end.is_none_or(|e| e > i64::MAX as u64);
        bad.then_some((Errno::INVAL, "Snapshot L1 table offset invalid"))
    }

    /// Reads an L1 table of a snapshot.
    pub fn read_l1(&mut self, s: &Snapshot) -> io::Result<Vec<u64>> {
        if let Some((number, _)) = self.l1_damage(s) {
            return Err(errno(number));
        }
        let (offset, entries) = (s.l1_offset, s.l1_size);
        let mut bytes = vec![0; entries as usize * 8];
        self.file.read(offset, &mut bytes)?;
        Ok(super::be_words(&bytes))
    }

    /// Calls `visit` with the first cluster and number of clusters of everything an L1 table reaches.
    fn for_each_user(
        &mut self,
        l1: &[u64],
        visit: &mut dyn FnMut(&mut Meta, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let cluster_size = self.cluster_size();
        for entry in l1.iter().map(|e| e & OFFSET).filter(|e| *e != 0) {
            let stride = self.stride();
            let words = self.table(entry)?.words.clone();
            for word in words.iter().step_by(stride) {
                if word & COMPRESSED != 0 {
                    let (host, len) = self.compressed_place(*word);
                    let first = host / cluster_size;
                    visit(self, first, (host + len - 1) / cluster_size - first + 1)?;
                } else if word & OFFSET != 0 && !self.external {
                    visit(self, (word & OFFSET) / cluster_size, 1)?;
                }
            }
            visit(self, entry / cluster_size, 1)?;
        }
        Ok(())
    }

    fn add_users_of(&mut self, l1: &[u64]) -> io::Result<()> {
        self.for_each_user(l1, &mut |meta, cluster, n| meta.add_user(cluster, n))
    }

    /// Finds counts that cannot grow before anything is changed.
    fn counts_can_grow(&mut self, l1: &[u64]) -> io::Result<()> {
        let max = max_count(self.header.refcount_order);
        // Clusters of packed data are met several times; only those near the limit need to be remembered.
        let mut more: HashMap<u64, u64> = HashMap::new();
        self.for_each_user(l1, &mut |meta, cluster, n| {
            for c in cluster..cluster + n {
                let count = meta.refcount(c)?;
                if count == 0 && !meta.can_be_counted(c) {
                    return Err(errno(Errno::FBIG));
                }
                if count == 0 {
                    // In use and free at once: the image needs a repair first.
                    return Err(errno(Errno::AGAIN));
                }
                if count > max / 4 {
                    let added = more.entry(c).or_insert(0);
                    *added += 1;
                    if count.checked_add(*added).is_none_or(|sum| sum > max) {
                        return Err(errno(Errno::INVAL));
                    }
                }
            }
            Ok(())
        })
    }

    fn drop_users_of(&mut self, l1: &[u64]) -> io::Result<()> {
        self.for_each_user(l1, &mut |meta, cluster, n| {
            meta.compressed_tail = None;
            meta.drop_user(cluster, n)
        })
    }

    /// Sets the "copied" flags of the active tables to what the counts say.
    pub fn refresh_copied(&mut self) -> io::Result<()> {
        let cluster_size = self.cluster_size();
        for index in 0..self.l1.len() {
            let offset = self.l1[index] & OFFSET;
            if offset == 0 {
                continue;
            }
            let owned = self.refcount(offset / cluster_size)? == 1;
            let entry = offset | if owned { COPIED } else { 0 };
            if self.l1[index] != entry {
                self.l1[index] = entry;
                self.mark_l1(index);
            }
            let (stride, external) = (self.stride(), self.external);
            let words = self.table(offset)?.words.clone();
            for (i, word) in words.iter().enumerate().step_by(stride) {
                if word & COMPRESSED != 0 || word & OFFSET == 0 || external {
                    continue;
                }
                let mine = self.refcount((word & OFFSET) / cluster_size)? == 1;
                let wanted = word & !COPIED | if mine { COPIED } else { 0 };
                if wanted != *word {
                    self.table(offset)?.set(i, wanted);
                }
            }
        }
        Ok(())
    }

    /// Gives the active L1 table room for `entries`, in a new place.
    pub fn grow_l1(&mut self, entries: u64) -> io::Result<()> {
        let mut l1 = self.l1.clone();
        l1.resize(entries as usize, 0);
        self.replace_l1(l1)
    }

    /// Writes a new active L1 table to a new place and frees the old one.
    fn replace_l1(&mut self, l1: Vec<u64>) -> io::Result<()> {
        let cluster_size = self.cluster_size();
        self.write_back()?;
        let old = (self.header.l1_offset, self.l1.len() as u64 * 8);
        let bytes: Vec<u8> = l1.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.file.event("l1_grow_alloc_table");
        let offset = self.alloc((bytes.len() as u64).div_ceil(cluster_size).max(1))? * cluster_size;
        self.file.event("l1_grow_write_table");
        self.file.write(offset, &bytes)?;
        self.write_back()?;
        self.write_blocks()?;
        self.barrier()?;
        self.file.event("l1_grow_activate_table");
        let (old_offset, old_size) = (self.header.l1_offset, self.header.l1_size);
        self.header.l1_offset = offset;
        self.header.l1_size = l1.len() as u32;
        if let Err(e) = self.write_header() {
            // The old table stays; the new one leaks.
            (self.header.l1_offset, self.header.l1_size) = (old_offset, old_size);
            let _ = self.write_header();
            return Err(e);
        }
        self.l1 = l1;
        self.l1_dirty = None;
        self.forget_places();
        self.barrier()?;
        if old.0 != 0 && old.1 > 0 {
            self.drop_user(old.0 / cluster_size, old.1.div_ceil(cluster_size))?;
            self.write_blocks()?;
        }
        Ok(())
    }

    /// Drops the L2 tables behind a new end; their clusters have been discarded already.
    pub fn shrink_l1(&mut self, size: u64) -> io::Result<()> {
        let keep = self.header.l1_needed(size) as usize;
        for index in keep..self.l1.len() {
            let offset = self.l1[index] & OFFSET;
            if offset != 0 {
                self.l1[index] = 0;
                self.mark_l1(index);
                self.free_later(offset, self.cluster_size());
            }
        }
        self.write_back()
    }

    fn find_snapshot(&self, key: &str) -> Option<usize> {
        let by_id = self.snapshots.iter().position(|s| s.info.id == key);
        by_id.or_else(|| self.snapshots.iter().position(|s| s.info.name == key))
    }

    fn take_snapshot(&mut self, mut info: SnapshotInfo) -> io::Result<()> {
        if info.id.is_empty() {
            let highest = self.snapshots.iter().filter_map(|s| s.info.id.parse::<u64>().ok()).max().unwrap_or(0);
            info.id = (highest + 1).to_string();
        }
        self.write_back()?;
        let cluster_size = self.cluster_size();
        let l1 = self.l1.clone();
        self.add_users_of(&l1)?;
        let bytes: Vec<u8> = l1.iter().flat_map(|e| (e & OFFSET).to_be_bytes()).collect();
        let offset = self.alloc((bytes.len() as u64).div_ceil(cluster_size).max(1))? * cluster_size;
        self.file.write(offset, &bytes)?;
        self.refresh_copied()?;
        info.disk_size = self.header.size;
        self.snapshots.push(Snapshot {
            l1_offset: offset,
            l1_size: l1.len() as u32,
            info,
            extra: Vec::new(),
            stored_extra: 24,
        });
        self.store_snapshots()
    }

    fn snapshot_can_return(&mut self, index: usize) -> io::Result<()> {
        let snapshot = self.snapshots[index].clone();
        let l1 = self.read_l1(&snapshot)?;
        self.counts_can_grow(&l1)
    }

    fn return_to(&mut self, index: usize) -> io::Result<()> {
        let snapshot = self.snapshots[index].clone();
        let mut l1 = self.read_l1(&snapshot)?;
        self.write_back()?;
        let needed = self.header.l1_needed(snapshot.info.disk_size);
        l1.resize(l1.len().max(needed as usize), 0);
        self.add_users_of(&l1)?;
        self.write_back()?;
        let old = self.l1.clone();
        self.header.size = snapshot.info.disk_size;
        let plain: Vec<u64> = l1.iter().map(|e| e & OFFSET).collect();
        self.replace_l1(plain)?;
        self.drop_users_of(&old)?;
        self.refresh_copied()?;
        self.write_back()
    }

    fn delete_snapshot(&mut self, index: usize) -> io::Result<()> {
        let snapshot = self.snapshots[index].clone();
        let l1 = self.read_l1(&snapshot)?;
        self.snapshots.remove(index);
        if let Err(e) = self.store_snapshots() {
            self.snapshots.insert(index, snapshot);
            return Err(e);
        }
        let clusters = (snapshot.l1_size as u64 * 8).div_ceil(self.cluster_size()).max(1);
        let first = snapshot.l1_offset / self.cluster_size();
        self.free_or_leak(|meta| meta.drop_users_of(&l1).and_then(|()| meta.drop_user(first, clusters)))
            .map_err(|e| io::Error::other(format!("Failed to free the cluster and L1 table: {}", strerror(&e))))?;
        self.refresh_copied()?;
        self.write_back()
    }

    /// Runs a bulk change under the dirty bit.
    fn guarded(&mut self, change: impl FnOnce(&mut Meta) -> io::Result<()>) -> io::Result<()> {
        let was_dirty = self.header.is(incompatible::DIRTY);
        if !was_dirty {
            self.set_dirty(true)?;
        }
        change(self)?;
        self.write_back()?;
        self.write_blocks()?;
        if !was_dirty {
            self.set_dirty(false)?;
        }
        Ok(())
    }
}

impl Qcow2 {
    fn change_snapshots(&self, change: impl FnOnce(&mut Meta) -> io::Result<()>) -> io::Result<()> {
        if !self.write {
            return Err(errno(Errno::ROFS));
        }
        let _alone = self.gate.write().unwrap_or_else(|e| e.into_inner());
        let mut meta = self.lock();
        if meta.external {
            return Err(errno(Errno::OPNOTSUPP));
        }
        meta.compressed_tail = None;
        let result = meta.guarded(change);
        self.decompressed.lock().unwrap_or_else(|e| e.into_inner()).1.clear();
        result
    }
}

impl Snapshots for Qcow2 {
    fn list(&self) -> Vec<SnapshotInfo> {
        self.lock().snapshots.iter().map(|s| s.info.clone()).collect()
    }

    fn create(&self, info: SnapshotInfo) -> Result<()> {
        if self.lock().snapshots.len() >= MAX_SNAPSHOTS as usize {
            return Err(Error::new(strerror(&errno(Errno::FBIG))));
        }
        let l1 = self.lock().l1.clone();
        self.lock().counts_can_grow(&l1).map_err(|e| Error::new(strerror(&e)))?;
        self.change_snapshots(|meta| meta.take_snapshot(info)).map_err(|e| Error::new(strerror(&e)))
    }

    fn apply(&self, id_or_name: &str) -> Result<()> {
        let Some(index) = self.lock().find_snapshot(id_or_name) else {
            return Err(Error::new("Can't find the snapshot"));
        };
        self.lock().snapshot_can_return(index).map_err(|e| Error::new(strerror(&e)))?;
        self.change_snapshots(|meta| meta.return_to(index)).map_err(|e| Error::new(strerror(&e)))
    }

    fn delete(&self, id_or_name: &str) -> Result<()> {
        let Some(index) = self.lock().find_snapshot(id_or_name) else {
            return Err(Error::new("Can't find the snapshot"));
        };
        if let Some((_, damage)) = self.snapshot_damage(id_or_name) {
            return Err(Error::new(damage));
        }
        self.change_snapshots(|meta| meta.delete_snapshot(index)).map_err(|e| Error::new(strerror(&e)))
    }
}

impl Qcow2 {
    pub fn snapshot_infos(&self) -> Vec<SnapshotInfo> {
        self.lock().snapshots.iter().map(|s| s.info.clone()).collect()
    }

    /// Why the tables of a snapshot cannot be used at all, as an error number and as a sentence.
    pub fn snapshot_damage(&self, id_or_name: &str) -> Option<(io::Error, &'static str)> {
        let meta = self.lock();
        let snapshot = &meta.snapshots[meta.find_snapshot(id_or_name)?];
        meta.l1_damage(snapshot).map(|(number, text)| (errno(number), text))
    }

    pub fn first_snapshot_damage(&self) -> Option<&'static str> {
        let meta = self.lock();
        meta.snapshots.iter().find_map(|s| meta.l1_damage(s)).map(|(_, text)| text)
    }

    /// A second, read-only image on the same file that shows a snapshot instead of the current state.
    pub fn view_snapshot(&self, id: &str) -> Result<crate::node::NodeRef> {
        let open = super::Qcow2Options { data_file: self.data_file.clone(), ..super::Qcow2Options::default() };
        let view = Qcow2::open(self.file.clone(), open)?;
        {
            let mut meta = view.lock();
            let Some(s) = meta.snapshots.iter().find(|s| s.info.id == id).cloned() else {
                return Err(Error::new("Can't find snapshot"));
            };
            if let Some((_, damage)) = meta.l1_damage(&s) {
                return Err(Error::new(damage));
            }
            let l1 = meta.read_l1(&s).map_err(|e| Error::new(strerror(&e)))?;
            meta.header.size = s.info.disk_size;
            let needed = meta.header.l1_needed(s.info.disk_size) as usize;
            meta.l1 = l1;
            if meta.l1.len() < needed {
                meta.l1.resize(needed, 0);
            }
        }
        Ok(std::sync::Arc::new(view))
    }
}
