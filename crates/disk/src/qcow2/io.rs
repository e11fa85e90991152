//! Guest reads, writes, zeroing and discarding on a qcow2 image.
//!
//! Reference: docs/interop/qcow2.txt, "Cluster mapping" and "Extended L2 entries".
//!
//! Invariants: requests that only read tables and touch clusters they own run side by side under the shared gate;
//! whoever changes a mapping holds the gate alone, so no data request can be under way to a cluster that is freed.
//! Data reaches its clusters before the tables that point to them are changed, even in memory.

use super::Qcow2;
use super::compress;
use super::meta::{COMPRESSED, COPIED, Kind, Meta, OFFSET, Run, ZERO};
use crate::node::{Node, NodeRef, errno, is_zero};
use rustix::io::Errno;
use std::io;
use std::sync::{MutexGuard, PoisonError};

/// Bytes that are encrypted at once on the way to the file.
const SEALED_CHUNK: usize = 1 << 20;

impl Qcow2 {
    pub(super) fn lock(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn backing_node(&self) -> Option<NodeRef> {
        self.backing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn read_guest(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        if let Some((start, mut whole)) = self.sectors_around(offset, buf.len()) {
            self.read_guest(start, &mut whole)?;
            let skip = (offset - start) as usize;
            buf.copy_from_slice(&whole[skip..skip + buf.len()]);
            return Ok(());
        }
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        while !buf.is_empty() {
            let run = self.lock().lookup(offset, buf.len() as u64)?;
            let (now, rest) = buf.split_at_mut(run.len as usize);
            self.read_run(&run, offset, now)?;
            buf = rest;
            offset += run.len;
        }
        Ok(())
    }

    /// Reads guest bytes while the metadata is held.
    pub(super) fn read_with(&self, meta: &mut Meta, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let run = meta.lookup(offset, buf.len() as u64)?;
            let (now, rest) = buf.split_at_mut(run.len as usize);
            self.read_run(&run, offset, now)?;
            buf = rest;
            offset += run.len;
        }
        Ok(())
    }

    pub(super) fn read_run(&self, run: &Run, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match run.kind {
            Kind::Data(host) => {
                self.data().event("read_aio");
                self.read_data(host, offset, buf)
            }
            Kind::Zero | Kind::ZeroAllocated(_) => {
                buf.fill(0);
                Ok(())
            }
            Kind::Unallocated | Kind::Hole(_) => self.read_backing(offset, buf),
            Kind::Compressed(host, len) => self.read_compressed(host, len, offset, buf),
        }
    }

    fn read_backing(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(backing) = self.backing_node() else {
            buf.fill(0);
            return Ok(());
        };
        let inside = backing.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (there, beyond) = buf.split_at_mut(inside);
        beyond.fill(0);
        if there.is_empty() { Ok(()) } else { backing.read(offset, there) }
    }

    fn read_compressed(&self, host: u64, len: u64, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let cluster_size = self.cluster_size as usize;
        let skip = offset as usize % cluster_size;
        {
            let last = self.decompressed.lock().unwrap_or_else(PoisonError::into_inner);
            if last.0 == host && !last.1.is_empty() {
                buf.copy_from_slice(&last.1[skip..skip + buf.len()]);
                return Ok(());
            }
        }
        // Unpacked without the lock, so that threads do it side by side. A cluster cannot be exchanged meanwhile: whoever
        // does that holds the gate (and the metadata) alone.
        let mut packed = vec![0; len as usize];
        self.file.event("read_compressed");
        self.file.read(host, &mut packed)?;
        if buf.len() == cluster_size {
            return compress::unpack(self.compression, &packed, buf).map_err(|_| crate::node::eio());
        }
        let mut whole = vec![0; cluster_size];
        compress::unpack(self.compression, &packed, &mut whole).map_err(|_| crate::node::eio())?;
        buf.copy_from_slice(&whole[skip..skip + buf.len()]);
        *self.decompressed.lock().unwrap_or_else(PoisonError::into_inner) = (host, whole);
        Ok(())
    }

    fn forget_decompressed(&self) {
        self.decompressed.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
    }

    /// Reads stored data of a guest offset.
    pub(super) fn read_data(&self, host: u64, guest: u64, buf: &mut [u8]) -> io::Result<()> {
        self.data().read(host, buf)?;
        if let Some(seal) = self.seal.get() {
            seal.decrypt(host, guest, buf)?;
        }
        Ok(())
    }

    pub(super) fn write_data(&self, host: u64, guest: u64, buf: &[u8]) -> io::Result<()> {
        let Some(seal) = self.seal.get() else { return self.data().write(host, buf) };
        let mut done = 0;
        for part in buf.chunks(SEALED_CHUNK) {
            let mut sealed = part.to_vec();
            seal.encrypt(host + done, guest + done, &mut sealed)?;
            self.data().write(host + done, &sealed)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    /// Encrypted data is read and written in whole sectors: the ones around a request that has others, and its start.
    fn sectors_around(&self, offset: u64, len: usize) -> Option<(u64, Vec<u8>)> {
        let unit = crate::crypt::SECTOR as u64;
        self.seal.get()?;
        if offset % unit == 0 && len as u64 % unit == 0 {
            return None;
        }
        let start = offset / unit * unit;
        let end = (offset + len as u64).next_multiple_of(unit);
        Some((start, vec![0; (end - start) as usize]))
    }

    pub(super) fn data(&self) -> &dyn Node {
        self.data_file.as_deref().unwrap_or(self.file.as_ref())
    }

    pub(super) fn write_guest(&self, mut offset: u64, mut buf: &[u8]) -> io::Result<()> {
        if let Some((start, mut whole)) = self.sectors_around(offset, buf.len()) {
            let _alone = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
            self.read_guest(start, &mut whole)?;
            let skip = (offset - start) as usize;
            whole[skip..skip + buf.len()].copy_from_slice(buf);
            return self.write_guest(start, &whole);
        }
        while !buf.is_empty() {
            let done = match self.write_in_place(offset, buf)? {
                0 => self.write_allocating(offset, buf)?,
                n => n,
            };
            buf = &buf[done..];
            offset += done as u64;
        }
        Ok(())
    }

    /// Writes the leading part that has clusters of its own; zero when there is none.
    fn write_in_place(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let run = {
            let mut meta = self.lock();
            let run = meta.lookup(offset, buf.len() as u64)?;
            if let Kind::Data(host) = run.kind {
                self.check_target(&mut meta, host, run.len)?;
            }
            run
        };
        match run.kind {
            Kind::Data(host) if run.copied => {
                if self.goes_on_as_zero(offset, &run, buf.len() as u64)? {
                    return Ok(0);
                }
                self.data().event("write_aio");
                self.write_data(host, offset, &buf[..run.len as usize])?;
                Ok(run.len as usize)
            }
            _ => Ok(0),
        }
    }

    /// Whether the clusters right behind a stored run are its neighbours in the file too but read as zero: one write
    /// then fills all of them.
    fn goes_on_as_zero(&self, offset: u64, run: &Run, len: u64) -> io::Result<bool> {
        let Kind::Data(host) = run.kind else { return Ok(false) };
        if run.len >= len || (offset + run.len) % self.cluster_size != 0 {
            return Ok(false);
        }
        let next = self.lock().lookup(offset + run.len, len - run.len)?;
        Ok(next.copied && next.kind == Kind::ZeroAllocated(host + run.len))
    }

    fn write_allocating(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut meta = self.lock();
        if meta.pending_is_long() {
            meta.write_back()?;
        }
        let meta = &mut *meta;
        let table = meta.table_for_write(offset)?;
        let cluster_size = self.cluster_size;
        let span_left = meta.header.l2_span() - offset % meta.header.l2_span();
        let len = (buf.len() as u64).min(span_left);
        let first = offset / cluster_size;
        let count = (offset + len).div_ceil(cluster_size) - first;
        let mut fresh = 0;
        while fresh < count && self.needs_cluster(meta, table, first + fresh)? {
            fresh += 1;
        }
        if fresh == 0 {
            let host = self.entry(meta, table, first)?.0 & OFFSET;
            let mut run = 1;
            while run < count
                && !self.needs_cluster(meta, table, first + run)?
                && self.entry(meta, table, first + run)?.0 & OFFSET == host + run * cluster_size
            {
                run += 1;
            }
            let end = ((first + run) * cluster_size).min(offset + len);
            let n = (end - offset) as usize;
            self.fill_clusters(meta, table, first, run, host, false, offset, &buf[..n])?;
            return Ok(n);
        }
        let (host, got) = self.place_data(meta, table, first, fresh)?;
        let end = ((first + got) * cluster_size).min(offset + len);
        let n = (end - offset) as usize;
        if let Err(e) = self.fill_clusters(meta, table, first, got, host, true, offset, &buf[..n]) {
            if self.data_file.is_none() {
                meta.drop_user(host / cluster_size, got)?; // nothing points there yet
            }
            return Err(e);
        }
        Ok(n)
    }

    /// Finds host space for up to `want` clusters, right behind the previous guest cluster's when possible.
    fn place_data(&self, meta: &mut Meta, table: u64, first: u64, want: u64) -> io::Result<(u64, u64)> {
        if self.data_file.is_some() {
            return Ok((first * self.cluster_size, want));
        }
        if first % meta.l2_entries() != 0 {
            let before = self.entry(meta, table, first - 1)?.0;
            if before & COMPRESSED == 0 && before & OFFSET != 0 {
                let next = (before & OFFSET) / self.cluster_size + 1;
                let got = meta.alloc_at(next, want)?;
                if got > 0 {
                    return Ok((next * self.cluster_size, got));
                }
            }
        }
        let (cluster, got) = meta.alloc_some(want)?;
        Ok((cluster * self.cluster_size, got))
    }

    /// The L2 entry and bitmap of a guest cluster.
    pub(super) fn entry(&self, meta: &mut Meta, table: u64, cluster: u64) -> io::Result<(u64, u64)> {
        let index = (cluster % meta.l2_entries()) as usize * meta.stride();
        let extended = meta.extended();
        let table = meta.table(table)?;
        Ok((table.words[index], if extended { table.words[index + 1] } else { 0 }))
    }

    pub(super) fn set_entry(
        &self,
        meta: &mut Meta,
        table: u64,
        cluster: u64,
        entry: u64,
        bitmap: u64,
    ) -> io::Result<()> {
        let index = (cluster % meta.l2_entries()) as usize * meta.stride();
        let extended = meta.extended();
        let table = meta.table(table)?;
        table.set(index, entry);
        if extended {
            table.set(index + 1, bitmap);
        }
        Ok(())
    }

    fn needs_cluster(&self, meta: &mut Meta, table: u64, cluster: u64) -> io::Result<bool> {
        let entry = self.entry(meta, table, cluster)?.0;
        Ok(entry & COPIED == 0 || entry & COMPRESSED != 0 || entry & OFFSET == 0 && self.data_file.is_none())
    }

    /// Puts `buf` and what surrounds it into `count` clusters at `host`, then points the table there.
    #[allow(clippy::too_many_arguments)]
    fn fill_clusters(
        &self,
        meta: &mut Meta,
        table: u64,
        first: u64,
        count: u64,
        host: u64,
        fresh: bool,
        offset: u64,
        buf: &[u8],
    ) -> io::Result<()> {
        let unit = meta.subcluster_size();
        let start = first * self.cluster_size;
        let end = offset + buf.len() as u64;
        let unit_start = offset / unit * unit;
        let unit_end = end.next_multiple_of(unit);
        self.check_target(meta, host, count * self.cluster_size)?;
        self.copy_around(meta, unit_start, offset, host + (unit_start - start))?;
        self.data().event("write_aio");
        self.write_data(host + (offset - start), offset, buf)?;
        self.copy_around(meta, end, unit_end, host + (end - start))?;
        if fresh && meta.extended() {
            self.copy_other_subclusters(meta, table, first, host, unit_start)?;
            self.copy_tail_subclusters(
                meta,
                table,
                first + count - 1,
                host + (count - 1) * self.cluster_size,
                unit_end,
            )?;
        }
        for i in 0..count {
            let cluster = first + i;
            let (old, old_bitmap) = self.entry(meta, table, cluster)?;
            let bitmap = if meta.extended() {
                let base = cluster * self.cluster_size;
                let from = unit_start.max(base) - base;
                let to = unit_end.min(base + self.cluster_size) - base;
                let mask = subcluster_mask(from / unit, to / unit);
                let kept = if old & COMPRESSED != 0 { u32::MAX as u64 } else { old_bitmap };
                (kept | mask) & !(mask << 32)
            } else {
                0
            };
            self.set_entry(meta, table, cluster, host + i * self.cluster_size | COPIED, bitmap)?;
            if fresh {
                meta.free_entry(old);
                if old & COMPRESSED != 0 {
                    self.forget_decompressed();
                }
            }
        }
        Ok(())
    }

    /// Refuses to overwrite the header or a table: a damaged L2 entry must not destroy the image.
    pub(super) fn check_target(&self, meta: &mut Meta, host: u64, len: u64) -> io::Result<()> {
        if self.data_file.is_some() {
            return Ok(());
        }
        meta.check_overlap(host, len)
    }

    /// Copies guest bytes `from..to` (as they read now) to the host place.
    fn copy_around(&self, meta: &mut Meta, from: u64, to: u64, host: u64) -> io::Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut old = vec![0; (to - from) as usize];
        self.read_with(meta, from, &mut old)?;
        meta.data_before_tables = true;
        // Space behind the end of the file reads as zero already.
        if is_zero(&old) && host >= self.data().size() && self.seal.get().is_none() {
            return Ok(());
        }
        self.write_data(host, from, &old)
    }

    /// Moves the subclusters that the old cluster stores before (first cluster) the written ones.
    fn copy_other_subclusters(
        &self,
        meta: &mut Meta,
        table: u64,
        cluster: u64,
        host: u64,
        limit: u64,
    ) -> io::Result<()> {
        let base = cluster * self.cluster_size;
        let end = limit.clamp(base, base + self.cluster_size);
        self.copy_stored(meta, table, cluster, host, base, end)
    }

    /// Moves the subclusters that the old last cluster stores behind the written ones.
    fn copy_tail_subclusters(&self, meta: &mut Meta, table: u64, cluster: u64, host: u64, from: u64) -> io::Result<()> {
        let base = cluster * self.cluster_size;
        let start = from.clamp(base, base + self.cluster_size);
        self.copy_stored(meta, table, cluster, host, start, base + self.cluster_size)
    }

    fn copy_stored(&self, meta: &mut Meta, table: u64, cluster: u64, host: u64, from: u64, to: u64) -> io::Result<()> {
        let unit = meta.subcluster_size();
        let base = cluster * self.cluster_size;
        let (entry, bitmap) = self.entry(meta, table, cluster)?;
        let mut at = from;
        while at < to {
            let stored = entry & COMPRESSED != 0 || bitmap >> ((at - base) / unit) & 1 != 0;
            if stored {
                self.copy_around(meta, at, at + unit, host + (at - base))?;
            }
            at += unit;
        }
        Ok(())
    }

    /// Whether guest bytes read as zero without looking at stored data.
    fn known_zero(&self, meta: &mut Meta, mut offset: u64, end: u64) -> io::Result<bool> {
        let end = end.min(meta.header.size);
        while offset < end {
            let run = meta.lookup(offset, end - offset)?;
            match run.kind {
                Kind::Zero | Kind::ZeroAllocated(_) => {}
                Kind::Unallocated | Kind::Hole(_) => {
                    if let Some(backing) = self.backing_node()
                        && !crate::chain::reads_zero(backing.as_ref(), offset, run.len)?
                    {
                        return Ok(false);
                    }
                }
                _ => return Ok(false),
            }
            offset += run.len;
        }
        Ok(true)
    }

    pub(super) fn zero_guest(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let end = offset + len;
        let (unit, size) = {
            let meta = self.lock();
            (meta.subcluster_size(), meta.header.size)
        };
        let mut at = offset;
        while at < end {
            let unit_start = at / unit * unit;
            let unit_end = unit_start + unit;
            // The end of the disk counts as a boundary.
            let whole = at == unit_start && (end >= unit_end || end >= size);
            let stop = if whole {
                let last = if end >= size { end.next_multiple_of(unit) } else { end / unit * unit };
                self.zero_units(at, last, unmap)?.min(end)
            } else {
                let stop = end.min(unit_end);
                let rest_is_zero = {
                    let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
                    let mut meta = self.lock();
                    self.known_zero(&mut meta, unit_start, at)? && self.known_zero(&mut meta, stop, unit_end)?
                };
                if rest_is_zero {
                    self.zero_units(unit_start, unit_end, unmap)?;
                } else {
                    self.write_guest(at, &vec![0; (stop - at) as usize])?;
                }
                stop
            };
            at = stop;
        }
        Ok(())
    }

    /// Zeroes whole subclusters; returns how far it got (at least one unit, at most one L2 table).
    fn zero_units(&self, start: u64, end: u64, unmap: bool) -> io::Result<u64> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut guard = self.lock();
        let meta = &mut *guard;
        if meta.pending_is_long() {
            meta.write_back()?;
        }
        let span = meta.header.l2_span();
        let end = end.min((start / span + 1) * span);
        let v2 = meta.header.version < 3;
        if v2 && self.backing_node().is_some() {
            let end = end.min(start + (1 << 20)).min(meta.header.size);
            drop(guard);
            drop(_alone);
            self.write_guest(start, &vec![0; (end - start) as usize])?;
            return Ok(end);
        }
        let empty = meta.l1.get((start / span) as usize).is_none_or(|e| e & OFFSET == 0);
        if v2 && empty {
            return Ok(end);
        }
        let table = meta.table_for_write(start)?;
        let mut at = start;
        while at < end {
            let cluster = at / self.cluster_size;
            let stop = end.min((cluster + 1) * self.cluster_size);
            self.zero_in_cluster(meta, table, cluster, at, stop, unmap)?;
            at = stop;
        }
        if let Some(data) = &self.data_file
            && (unmap || meta.header.autoclear & super::header::autoclear::DATA_FILE_RAW != 0)
        {
            data.write_zeroes(start, end.min(meta.header.size) - start, unmap)?;
        }
        Ok(end)
    }

    fn zero_in_cluster(
        &self,
        meta: &mut Meta,
        table: u64,
        cluster: u64,
        from: u64,
        to: u64,
        unmap: bool,
    ) -> io::Result<()> {
        let (old, bitmap) = self.entry(meta, table, cluster)?;
        let base = cluster * self.cluster_size;
        let raw_data = meta.header.autoclear & super::header::autoclear::DATA_FILE_RAW != 0;
        let give_up = (unmap && !raw_data) || old & COMPRESSED != 0;
        if meta.extended() && !(from == base && to == base + self.cluster_size) {
            let unit = meta.subcluster_size();
            if old & COMPRESSED != 0 {
                return self.zero_part_of_compressed(meta, table, cluster, from, to);
            }
            let mask = subcluster_mask((from - base) / unit, (to - base) / unit);
            return self.set_entry(meta, table, cluster, old, bitmap & !mask | mask << 32);
        }
        let all_zero = 0xffff_ffff_0000_0000;
        if meta.header.version < 3 {
            self.set_entry(meta, table, cluster, 0, 0)?;
            meta.free_entry(old);
        } else if give_up {
            let entry = if meta.extended() { 0 } else { ZERO };
            self.set_entry(meta, table, cluster, entry, all_zero)?;
            meta.free_entry(old);
        } else {
            let entry = if meta.extended() { old } else { old | ZERO };
            self.set_entry(meta, table, cluster, entry, all_zero)?;
        }
        if old & COMPRESSED != 0 {
            self.forget_decompressed();
        }
        Ok(())
    }

    /// Part of a compressed cluster becomes zero: the rest must be stored plainly.
    fn zero_part_of_compressed(&self, meta: &mut Meta, table: u64, cluster: u64, from: u64, to: u64) -> io::Result<()> {
        let (host, _) = self.place_data(meta, table, cluster, 1)?;
        self.fill_clusters(meta, table, cluster, 1, host, true, from, &vec![0; (to - from) as usize])
    }

    /// Frees whole clusters. `full` forgets the contents; otherwise the range reads as zero where v3 can say so.
    pub(super) fn discard_guest(&self, offset: u64, len: u64, full: bool) -> io::Result<()> {
        let cluster_size = self.cluster_size;
        let size = self.lock().header.size;
        let mut at = offset.next_multiple_of(cluster_size);
        let end = if offset + len >= size {
            size.next_multiple_of(cluster_size)
        } else {
            (offset + len) / cluster_size * cluster_size
        };
        while at < end {
            let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            let mut guard = self.lock();
            let meta = &mut *guard;
            if meta.pending_is_long() {
                meta.write_back()?;
            }
            let span = meta.header.l2_span();
            let stop = end.min((at / span + 1) * span);
            let run = meta.lookup(at, stop - at)?;
            let backed = self.backing_node().is_some();
            if run.kind == Kind::Unallocated && (full || !backed || meta.header.version < 3)
                || run.kind == Kind::Zero && !full
            {
                let skip = (at + run.len) / cluster_size * cluster_size;
                if skip > at {
                    at = skip;
                    continue;
                }
            }
            let table = meta.table_for_write(at)?;
            self.discard_cluster(meta, table, at / cluster_size, full)?;
            at += cluster_size;
        }
        if let Some(data) = &self.data_file {
            data.discard(offset, len)?;
        }
        Ok(())
    }

    fn discard_cluster(&self, meta: &mut Meta, table: u64, cluster: u64, full: bool) -> io::Result<()> {
        let (old, _) = self.entry(meta, table, cluster)?;
        let (entry, bitmap) = match (full || meta.header.version < 3, meta.extended()) {
            (true, _) => (0, 0),
            (false, true) => (0, 0xffff_ffff_0000_0000),
            (false, false) => (ZERO, 0),
        };
        self.set_entry(meta, table, cluster, entry, bitmap)?;
        meta.free_entry(old);
        if old & COMPRESSED != 0 {
            self.forget_decompressed();
        }
        Ok(())
    }

    /// Stores whole clusters compressed, or plainly where that does not make them smaller.
    pub(super) fn write_packing(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let size = self.lock().header.size;
        let last = offset + buf.len() as u64 == size;
        if self.data_file.is_some() {
            return Err(errno(Errno::OPNOTSUPP));
        }
        if offset % self.cluster_size != 0 || buf.len() as u64 % self.cluster_size != 0 && !last {
            return Err(errno(Errno::INVAL));
        }
        for (i, cluster) in buf.chunks(self.cluster_size as usize).enumerate() {
            self.write_packed_cluster(offset + i as u64 * self.cluster_size, cluster)?;
        }
        Ok(())
    }

    fn write_packed_cluster(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut whole = buf.to_vec();
        whole.resize(self.cluster_size as usize, 0);
        // Compressing needs no lock: several threads can do it at once.
        match compress::pack(self.compression, &whole)? {
            Some(packed) => self.store_packed(offset, &packed),
            None => self.write_guest(offset, buf),
        }
    }

    pub(super) fn store_packed(&self, offset: u64, packed: &[u8]) -> io::Result<()> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut guard = self.lock();
        let meta = &mut *guard;
        if meta.pending_is_long() {
            meta.write_back()?;
        }
        let table = meta.table_for_write(offset)?;
        let cluster = offset / self.cluster_size;
        let (old, _) = self.entry(meta, table, cluster)?;
        if old & (COMPRESSED | ZERO) == 0 && old & OFFSET != 0 && old & COPIED != 0 {
            // Like the reference, stored data is not replaced by compressed data in place.
            return Err(crate::node::eio());
        }
        let host = meta.alloc_bytes(packed.len() as u64)?;
        self.file.event("write_compressed");
        self.file.write(host, packed)?;
        let entry = meta.compressed_entry(host, packed.len() as u64);
        self.set_entry(meta, table, cluster, entry, 0)?;
        meta.free_entry(old);
        self.forget_decompressed();
        Ok(())
    }
}

/// Bits `from..to` of a subcluster bitmap.
fn subcluster_mask(from: u64, to: u64) -> u64 {
    ((1u64 << to) - 1) & !((1u64 << from) - 1)
}

impl Meta {
    /// Finds room for packed bytes behind the last ones, or in a new cluster.
    pub fn alloc_bytes(&mut self, len: u64) -> io::Result<u64> {
        let cluster_size = self.cluster_size();
        if let Some(tail) = self.compressed_tail {
            let cluster = tail / cluster_size;
            let left = cluster_size - tail % cluster_size;
            let count = self.refcount(cluster)?;
            let room = count > 0 && count < super::refcount::max_count(self.header.refcount_order);
            if room && len <= left {
                self.add_user(cluster, 1)?;
                self.compressed_tail = (len < left).then_some(tail + len);
                return Ok(tail);
            }
            if room && self.alloc_at(cluster + 1, 1)? == 1 {
                self.add_user(cluster, 1)?;
                self.compressed_tail = Some(tail + len);
                return Ok(tail);
            }
        }
        let cluster = self.alloc(1)?;
        self.compressed_tail = Some(cluster * cluster_size + len);
        Ok(cluster * cluster_size)
    }
}
