//! Reference counts: who uses which cluster, allocation, and the order in which metadata reaches the file.
//!
//! Reference: docs/interop/qcow2.txt, "Host cluster management".
//!
//! Invariants (the crash rules; a barrier is a flush of the file unless the cache mode is unsafe):
//! 1. A count is raised in the file before anything in the file points to the cluster: `write_back` writes refcount
//!    blocks, then a barrier, then L2 tables, then a barrier, then the L1 table.
//! 2. A count is lowered only after the last pointer is gone from the file: frees wait in `pending` until
//!    `write_back` has written the tables, and a waiting cluster is never handed out.
//! 3. A refcount block is in the file before the refcount table names it; a moved refcount table before the header.
//!    With these, a crash leaves leaked clusters at worst.

use super::header::{MAX_REFTABLE_BYTES, compatible, incompatible};
use super::meta::Meta;
use crate::node::{eio, errno};
use rustix::io::Errno;
use std::io;

/// Bits of a refcount table entry that hold the block's offset.
const REFT_OFFSET: u64 = !0x1ff;
/// Clusters that wait to be freed before they are written back early.
const MAX_PENDING: usize = 4096;

/// A cached refcount block, as stored.
pub struct RefBlock {
    pub bytes: Vec<u8>,
    /// Byte range that the file does not have yet.
    pub dirty: Option<(usize, usize)>,
    pub used: u64,
}

/// Reads entry `index` of a block whose entries are `1 << order` bits wide.
pub fn get_entry(bytes: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let width = 1 << order;
            let per_byte = 8 / width;
            (bytes[index / per_byte] as u64 >> (index % per_byte * width)) & ((1 << width) - 1)
        }
        3 => bytes[index] as u64,
        4 => u16::from_be_bytes([bytes[index * 2], bytes[index * 2 + 1]]) as u64,
        5 => super::header::be32(bytes, index * 4) as u64,
        _ => super::header::be64(bytes, index * 8),
    }
}

/// Writes an entry and returns the bytes it occupies.
pub fn set_entry(bytes: &mut [u8], order: u32, index: usize, value: u64) -> (usize, usize) {
    match order {
        0..=2 => {
            let width = 1 << order;
            let per_byte = 8 / width;
            let shift = index % per_byte * width;
            let mask = ((1u16 << width) - 1) as u8;
            let byte = &mut bytes[index / per_byte];
            *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
            (index / per_byte, index / per_byte + 1)
        }
        _ => {
            let width = 1usize << (order - 3);
            let at = index * width;
            bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
            (at, at + width)
        }
    }
}

pub fn max_count(order: u32) -> u64 {
    if order == 6 { i64::MAX as u64 } else { (1 << (1 << order)) - 1 }
}

fn widen(range: Option<(usize, usize)>, add: (usize, usize)) -> Option<(usize, usize)> {
    Some(range.map_or(add, |(a, b)| (a.min(add.0), b.max(add.1))))
}

impl Meta {
    /// Refcount entries in one block.
    pub fn block_entries(&self) -> u64 {
        (self.cluster_size() * 8) >> self.header.refcount_order
    }

    /// Loads a refcount block; `None` when the table has none (all counts are zero).
    pub(super) fn block(&mut self, block: u64) -> io::Result<Option<&mut RefBlock>> {
        let offset = match self.reftable.get(block as usize) {
            Some(entry) if entry & REFT_OFFSET != 0 => entry & REFT_OFFSET,
            _ => return Ok(None),
        };
        if !self.blocks.contains_key(&block) {
            if offset % self.cluster_size() != 0 {
                return Err(self.corrupt(format!("Refblock offset {offset:#x} unaligned (reftable index: {block:#x})")));
            }
            self.make_room()?;
            let mut bytes = vec![0; self.cluster_size() as usize];
            self.file.event("refblock_load");
            self.file.read(offset, &mut bytes)?;
            self.blocks.insert(block, RefBlock { bytes, dirty: None, used: 0 });
        }
        self.tick += 1;
        let tick = self.tick;
        let found = self.blocks.get_mut(&block).expect("just loaded");
        found.used = tick;
        Ok(Some(found))
    }

    pub fn refcount(&mut self, cluster: u64) -> io::Result<u64> {
        let (order, entries) = (self.header.refcount_order, self.block_entries());
        Ok(self.block(cluster / entries)?.map_or(0, |b| get_entry(&b.bytes, order, (cluster % entries) as usize)))
    }

    /// Sets a count whose block exists.
    fn set_refcount(&mut self, cluster: u64, value: u64) -> io::Result<()> {
        let (order, entries) = (self.header.refcount_order, self.block_entries());
        let Some(block) = self.block(cluster / entries)? else { return Err(eio()) };
        let touched = set_entry(&mut block.bytes, order, (cluster % entries) as usize, value);
        block.dirty = widen(block.dirty, touched);
        if value == 0 {
            self.free_hint = self.free_hint.min(cluster);
        }
        Ok(())
    }

    /// Sets a count during a repair; what does not fit becomes the highest count, which is never freed.
    pub fn repair_count(&mut self, cluster: u64, value: u64) -> io::Result<()> {
        self.set_refcount(cluster, value.min(max_count(self.header.refcount_order)))
    }

    /// Whether the largest refcount table could have a place for the cluster's count.
    pub fn can_be_counted(&self, cluster: u64) -> bool {
        cluster / self.block_entries() < MAX_REFTABLE_BYTES / 8
    }

    /// Adds one user to each of `n` clusters that are in use already.
    pub fn add_user(&mut self, cluster: u64, n: u64) -> io::Result<()> {
        for c in cluster..cluster + n {
            let count = self.refcount(c)?;
            if count >= max_count(self.header.refcount_order) {
                return Err(errno(Errno::INVAL));
            }
            if count == 0 {
                return Err(self.corrupt(format!("cluster {c} is referenced but free")));
            }
            self.set_refcount(c, count + 1)?;
        }
        Ok(())
    }

    /// Removes one user at once. Only for clusters that nothing in the file points to any more.
    pub fn drop_user(&mut self, cluster: u64, n: u64) -> io::Result<()> {
        self.file.event("cluster_free");
        for c in cluster..cluster + n {
            let count = self.refcount(c)?;
            if count == 0 {
                return Err(self.corrupt(format!("cluster {c} is freed twice")));
            }
            self.set_refcount(c, count - 1)?;
            if count == 1 {
                let offset = c * self.cluster_size();
                self.l2.remove(&offset);
                if self.unmap {
                    self.punch.push(c);
                }
            }
        }
        Ok(())
    }

    /// Frees what nothing in the file points to any more, when all else is in the file. If that fails, the clusters
    /// leak and nothing worse: the counts in memory are forgotten.
    pub fn free_or_leak(&mut self, free: impl FnOnce(&mut Meta) -> io::Result<()>) -> io::Result<()> {
        let result = free(self).and_then(|()| self.write_blocks().map(drop));
        if result.is_err() {
            self.blocks.clear();
            self.punch.clear();
        }
        result
    }

    /// Removes one user once the tables that pointed there are in the file (crash rule 2).
    pub fn free_later(&mut self, offset: u64, bytes: u64) {
        let first = offset / self.cluster_size();
        let last = (offset + bytes - 1) / self.cluster_size();
        self.pending.push((first, last - first + 1));
        if let Some(tail) = self.compressed_tail
            && (first..=last).contains(&(tail / self.cluster_size()))
        {
            self.compressed_tail = None;
        }
    }

    pub fn pending_is_long(&self) -> bool {
        self.pending.len() >= MAX_PENDING
    }

    /// Finds the first free run at or after the hint: `exact` wants all of `n`, otherwise up to `n`.
    pub(super) fn find_free(&mut self, n: u64, exact: bool) -> io::Result<(u64, u64)> {
        self.allocating = true;
        let (order, entries) = (self.header.refcount_order, self.block_entries());
        let (mut at, mut start, mut run) = (self.free_hint, self.free_hint, 0u64);
        let limit = 1u64 << (56 - self.header.cluster_bits);
        while run < n {
            if at >= limit {
                return Err(errno(Errno::FBIG));
            }
            let skip = match self.block(at / entries)? {
                None => entries - at % entries,
                Some(block) => {
                    if get_entry(&block.bytes, order, (at % entries) as usize) == 0 {
                        1
                    } else if run > 0 && !exact {
                        return Ok((start, run));
                    } else {
                        run = 0;
                        start = at + 1;
                        at += 1;
                        continue;
                    }
                }
            };
            run += skip;
            at += skip;
        }
        Ok((start, run.min(n)))
    }

    /// Allocates exactly `n` neighbouring clusters and returns the first one's number.
    pub fn alloc(&mut self, n: u64) -> io::Result<u64> {
        loop {
            let (start, _) = self.find_free(n, true)?;
            if !self.cover(start, n)? {
                return self.claim(start, n, n == 1);
            }
        }
    }

    /// Allocates one to `n` neighbouring clusters.
    pub fn alloc_some(&mut self, n: u64) -> io::Result<(u64, u64)> {
        loop {
            let (start, got) = self.find_free(n, false)?;
            if !self.cover(start, got)? {
                return Ok((self.claim(start, got, true)?, got));
            }
        }
    }

    /// Allocates the clusters right at `start` as far as they are free, at most `n`.
    pub fn alloc_at(&mut self, start: u64, n: u64) -> io::Result<u64> {
        let mut got = 0;
        while got < n && self.refcount(start + got)? == 0 {
            got += 1;
        }
        // New refcount blocks may have taken the place; the caller then searches elsewhere.
        if got == 0 || self.cover(start, got)? {
            return Ok(0);
        }
        self.claim(start, got, false)?;
        Ok(got)
    }

    fn claim(&mut self, start: u64, n: u64, moves_hint: bool) -> io::Result<u64> {
        if self.header.is(incompatible::CORRUPT) {
            return Err(eio());
        }
        self.file.event("cluster_alloc");
        self.file.event("refblock_alloc");
        // A cluster that damaged counts call free.
        self.check_overlap(start * self.cluster_size(), n * self.cluster_size())?;
        self.before_first_allocation()?;
        for c in start..start + n {
            self.set_refcount(c, 1)?;
        }
        // An exact search may have passed smaller holes that stay usable.
        if moves_hint || self.free_hint == start {
            self.free_hint = start + n;
        }
        Ok(start)
    }

    /// Lazy refcounts: the dirty bit is in the file before any count is wrong.
    fn before_first_allocation(&mut self) -> io::Result<()> {
        if self.lazy() && !self.header.is(incompatible::DIRTY) {
            self.set_dirty(true)?;
        }
        Ok(())
    }

    pub fn lazy(&self) -> bool {
        self.header.version >= 3 && self.header.compatible & compatible::LAZY_REFCOUNTS != 0
    }

    /// Makes refcount blocks for `[start, start + n)` where they are missing. Returns whether it took clusters, in
    /// which case the caller searches again. New blocks and a new table are put behind the run.
    fn cover(&mut self, start: u64, n: u64) -> io::Result<bool> {
        let asked = start;
        let (mut start, mut want) = (start, n);
        let (blocks, table, counted, place) = loop {
            let (blocks, table) = self.plan(start, n);
            if blocks == 0 && table == 0 {
                if start == asked {
                    return Ok(false);
                }
                // The longer run is counted already: what the run that was asked for lacks is put there.
                let (blocks, table) = self.plan_elsewhere(asked, n);
                if !self.is_counted(start, blocks + table) {
                    return self.cover(start, blocks + table).map(|_| true);
                }
                break (blocks, table, asked..asked + n, start);
            }
            if n + blocks + table <= want {
                break (blocks, table, start..start + n + blocks + table, start + n);
            }
            want = n + blocks + table;
            start = self.find_free(want, true)?.0;
        };
        // Before anything is written.
        if table * self.cluster_size() > MAX_REFTABLE_BYTES {
            return Err(errno(Errno::FBIG));
        }
        let entries = self.block_entries();
        let missing: Vec<u64> =
            (counted.start / entries..=(counted.end - 1) / entries).filter(|b| !self.has_block(*b)).collect();
        self.check_overlap(place * self.cluster_size(), (blocks + table) * self.cluster_size())?;
        let entries_before = self.reftable.len();
        if table > 0 {
            self.reftable.resize((table * self.cluster_size() / 8) as usize, 0);
        }
        for (i, block) in missing.iter().enumerate() {
            self.reftable[*block as usize] = (place + i as u64) * self.cluster_size();
            self.place_block(*block as usize);
            let bytes = vec![0; self.cluster_size() as usize];
            self.blocks
                .insert(*block, RefBlock { bytes, dirty: Some((0, self.cluster_size() as usize)), used: u64::MAX });
        }
        if let Err(e) = self.hook_up(&missing, place, blocks, table) {
            self.unhook(&missing, entries_before, table == 0);
            return Err(e);
        }
        if self.free_hint == place {
            self.free_hint = place + blocks + table;
        }
        Ok(true)
    }

    /// Writes new refcount blocks and makes the table, or a new table, name them.
    fn hook_up(&mut self, missing: &[u64], place: u64, blocks: u64, table: u64) -> io::Result<()> {
        let old_table = (self.header.reftable_offset, self.header.reftable_clusters as u64);
        for c in place..place + blocks + table {
            self.set_refcount(c, 1)?;
        }
        self.write_blocks_as(if table > 0 { "refblock_alloc_write_blocks" } else { "refblock_alloc_write" })?;
        self.barrier()?;
        if table > 0 {
            self.file.event("reftable_grow");
            self.move_reftable(place + blocks, table)?;
            return self.drop_user(old_table.0 / self.cluster_size(), old_table.1);
        }
        self.file.event("refblock_alloc_hookup");
        for block in missing {
            let entry = self.reftable[*block as usize].to_be_bytes();
            self.file.write(self.header.reftable_offset + block * 8, &entry)?;
        }
        Ok(())
    }

    /// Forgets new refcount blocks that the file does not name for sure: what is counted in them would be lost. Their
    /// clusters leak.
    fn unhook(&mut self, missing: &[u64], entries: usize, named: bool) {
        if self.reftable.len() > entries
            && self.header.reftable_clusters as u64 * self.cluster_size() / 8 > entries as u64
        {
            // The new table is in use; only the old one could not be freed.
            return;
        }
        for block in missing {
            self.blocks.remove(block);
            self.reftable[*block as usize] = 0;
            if named {
                // Best effort: the request has failed already.
                let _ = self.file.write(self.header.reftable_offset + block * 8, &[0; 8]);
            }
        }
        self.reftable.truncate(entries);
        self.forget_places();
    }

    fn has_block(&self, block: u64) -> bool {
        self.reftable.get(block as usize).is_some_and(|e| e & REFT_OFFSET != 0)
    }

    /// How many refcount blocks and refcount table clusters must be added so that a run of `n` clusters, and the
    /// added clusters in front of it, can be counted.
    fn plan(&self, start: u64, n: u64) -> (u64, u64) {
        let entries = self.block_entries();
        let (mut blocks, mut table) = (0, 0);
        loop {
            let last = (start + n + blocks + table - 1) / entries;
            let missing = (start / entries..=last).filter(|b| !self.has_block(*b)).count() as u64;
            let grow = if last < self.reftable.len() as u64 {
                0
            } else {
                // Half as much again, so that growing stays rare.
                ((last + 1) * 8 * 3 / 2).div_ceil(self.cluster_size())
            };
            if (missing, grow) == (blocks, table) {
                return (blocks, table);
            }
            (blocks, table) = (missing.max(blocks), grow.max(table));
        }
    }

    /// The same when the added clusters are somewhere else.
    fn plan_elsewhere(&self, start: u64, n: u64) -> (u64, u64) {
        let entries = self.block_entries();
        let last = (start + n - 1) / entries;
        let missing = (start / entries..=last).filter(|b| !self.has_block(*b)).count() as u64;
        let fits = last < self.reftable.len() as u64;
        (missing, if fits { 0 } else { ((last + 1) * 8 * 3 / 2).div_ceil(self.cluster_size()) })
    }

    fn is_counted(&self, start: u64, n: u64) -> bool {
        let entries = self.block_entries();
        (start / entries..=(start + n - 1) / entries).all(|b| self.has_block(b))
    }

    fn move_reftable(&mut self, cluster: u64, clusters: u64) -> io::Result<()> {
        if clusters * self.cluster_size() > MAX_REFTABLE_BYTES {
            return Err(errno(Errno::FBIG));
        }
        let bytes: Vec<u8> = self.reftable.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.file.event("refblock_alloc_write_table");
        self.file.write(cluster * self.cluster_size(), &bytes)?;
        self.barrier()?;
        let old = (self.header.reftable_offset, self.header.reftable_clusters);
        self.header.reftable_offset = cluster * self.cluster_size();
        self.header.reftable_clusters = clusters as u32;
        self.file.event("refblock_alloc_switch_table");
        if let Err(e) = self.write_header().and_then(|()| self.barrier()) {
            (self.header.reftable_offset, self.header.reftable_clusters) = old;
            // It may have arrived even so. Best effort: the request has failed already.
            let _ = self.write_header();
            return Err(e);
        }
        Ok(())
    }

    /// Writes every changed refcount block.
    pub fn write_blocks(&mut self) -> io::Result<bool> {
        self.write_blocks_as("refblock_update_part")
    }

    fn write_blocks_as(&mut self, event: &str) -> io::Result<bool> {
        let mut wrote = false;
        let mut numbers: Vec<u64> = self.blocks.iter().filter(|(_, b)| b.dirty.is_some()).map(|(n, _)| *n).collect();
        numbers.sort_unstable();
        for number in numbers {
            let offset = self.reftable[number as usize] & REFT_OFFSET;
            let Some(block) = self.blocks.get_mut(&number) else { continue };
            if let Some((from, to)) = block.dirty {
                // Whole sectors, as a disk would write them.
                let (from, to) = (from / 512 * 512, to.next_multiple_of(512).min(block.bytes.len()));
                self.file.event(event);
                self.file.write(offset + from as u64, &block.bytes[from..to])?;
                block.dirty = None;
                wrote = true;
            }
        }
        Ok(wrote)
    }

    /// Brings the file up to date with the cached metadata, in the order of the crash rules.
    pub fn write_back(&mut self) -> io::Result<()> {
        let tables = self.l2.values().any(|t| t.dirty.is_some()) || self.l1_dirty.is_some();
        // With lazy refcounts the dirty bit stands for the counts, so they need not be first.
        let mut wrote = !self.lazy() && self.write_blocks()?;
        if tables {
            if wrote || self.data_before_tables {
                self.barrier()?;
            }
            self.data_before_tables = false;
            wrote = self.write_l2_tables()?;
            if self.l1_dirty.is_some() {
                if wrote {
                    self.barrier()?;
                }
                self.write_l1()?;
                wrote = true;
            }
        }
        if !self.pending.is_empty() {
            if tables && wrote {
                self.barrier()?;
            }
            for (cluster, n) in std::mem::take(&mut self.pending) {
                self.drop_user(cluster, n)?;
            }
            if !self.lazy() {
                self.write_blocks()?;
            }
        }
        self.punch_freed()
    }

    /// Gives freed clusters back to the host, joining neighbours.
    fn punch_freed(&mut self) -> io::Result<()> {
        let mut freed = std::mem::take(&mut self.punch);
        freed.sort_unstable();
        freed.dedup();
        let mut i = 0;
        while i < freed.len() {
            let mut n = 1;
            while i + n < freed.len() && freed[i + n] == freed[i] + n as u64 {
                n += 1;
            }
            if self.refcount(freed[i])? == 0 {
                let size = self.cluster_size();
                let mut run = 0;
                while run < n as u64 && self.refcount(freed[i] + run)? == 0 {
                    run += 1;
                }
                self.file.discard(freed[i] * size, run * size)?;
                n = run as usize;
            }
            i += n.max(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_width_hold_their_values() {
        for order in 0..=6 {
            let mut bytes = vec![0u8; 512];
            let entries = 4096 >> order;
            let value = |i: usize| (i as u64 * 0x9e37) & max_count(order);
            for i in 0..entries {
                set_entry(&mut bytes, order, i, value(i));
            }
            for i in 0..entries {
                assert_eq!(get_entry(&bytes, order, i), value(i), "order {order} entry {i}");
            }
        }
    }
}
