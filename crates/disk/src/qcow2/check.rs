//! Checks that reference counts and flags agree with the tables, and repairs them.
//!
//! Reference: docs/interop/qcow2.txt; the report lines are those that `qemu-img check` 10.0.2 prints.
//!
//! Invariants: memory is bounded by what the image really references; without a repair nothing is written.

use super::Qcow2;
use super::header::incompatible;
use super::meta::{COMPRESSED, COPIED, Meta, OFFSET, ZERO};
use super::refcount::{RefBlock, get_entry};
use crate::node::{CheckReport, Repair};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Users of each cluster as the tables say, in pieces of one refcount block.
struct Users {
    per_piece: u64,
    pieces: BTreeMap<u64, Vec<u32>>,
}

impl Users {
    fn get(&self, cluster: u64) -> u64 {
        self.pieces.get(&(cluster / self.per_piece)).map_or(0, |p| p[(cluster % self.per_piece) as usize] as u64)
    }

    fn add(&mut self, cluster: u64) {
        let n = self.per_piece as usize;
        let piece = self.pieces.entry(cluster / self.per_piece).or_insert_with(|| vec![0; n]);
        piece[(cluster % self.per_piece) as usize] += 1;
    }
}

struct Check<'a> {
    meta: &'a mut Meta,
    users: Users,
    report: CheckReport,
    repair: Repair,
    /// The refcount structure itself is damaged and must be written anew.
    rebuild: bool,
    next_expected: Option<u64>,
}

impl<'a> Check<'a> {
    /// A refcount block has `per_piece` counts.
    fn new(meta: &'a mut Meta, per_piece: u64, repair: Repair) -> Check<'a> {
        let users = Users { per_piece, pieces: BTreeMap::new() };
        Check { meta, users, report: CheckReport::default(), repair, rebuild: false, next_expected: None }
    }
}

impl Qcow2 {
    pub(super) fn check_image(&self, repair: Repair) -> io::Result<CheckReport> {
        let _alone = self.gate.write().unwrap_or_else(|e| e.into_inner());
        let mut guard = self.lock();
        if guard.write && !guard.header.is(incompatible::CORRUPT) && !guard.header.is(incompatible::DIRTY) {
            guard.write_back()?;
        }
        let per_piece = guard.block_entries();
        let mut table = CheckReport::default();
        let host = |e: spec::error::Error| io::Error::other(e.to_string());
        let Some(incomplete) = guard.check_snapshot_table(repair, &mut table).map_err(host)? else {
            table.failed = Some(super::snapshot_table::refused().raw_os_error().unwrap_or(0));
            return Ok(table);
        };
        let mut check = Check::new(&mut guard, per_piece, repair);
        check.report.lines = table.lines;
        check.report.corruptions_fixed = table.corruptions_fixed;
        check.report.total_clusters = check.meta.header.size.div_ceil(self.cluster_size);
        check.count_users()?;
        check.compare_and_repair()?;
        check.check_copied()?;
        let mut report = check.report;
        let clean = report.check_errors == 0 && report.corruptions == 0;
        if (repair.errors || repair.leaks) && guard.write {
            guard.write_blocks()?;
            guard.write_back()?;
            let flags = incompatible::DIRTY | incompatible::CORRUPT;
            if clean && repair.errors && guard.header.incompatible & flags != 0 {
                guard.barrier()?;
                guard.header.incompatible &= !flags;
                guard.write_header()?;
            }
            guard.barrier()?;
            guard.free_hint = 0;
        }
        match incomplete {
            0 => {}
            errors if repair.errors && guard.write && clean => guard.repair_snapshot_table(errors, &mut report),
            errors => report.corruptions += errors,
        }
        report.image_end_offset = report.image_end_offset.or(Some(0));
        Ok(report)
    }
}

impl Check<'_> {
    fn error(&mut self, line: String) {
        self.report.corruptions += 1;
        self.report.lines.push(format!("ERROR {line}"));
    }

    /// Counts a use of host bytes; ranges that end behind the file are damage.
    fn uses(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let size = self.meta.cluster_size();
        let file_end = self.meta.file.size().next_multiple_of(size);
        if offset.checked_add(len).is_none_or(|end| end > file_end.saturating_add(size)) {
            self.report.corruptions += 1;
            self.report.lines.push(format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset {offset:#x} size {len:#x}"
            ));
            return;
        }
        for cluster in offset / size..=(offset + len - 1) / size {
            self.users.add(cluster);
        }
    }

    fn count_users(&mut self) -> io::Result<()> {
        let size = self.meta.cluster_size();
        self.uses(0, size);
        let l1 = self.meta.l1.clone();
        self.uses(self.meta.header.l1_offset, l1.len() as u64 * 8);
        self.count_l1(&l1, true)?;
        for s in self.meta.snapshots.clone() {
            if let Some((number, _)) = self.meta.l1_damage(&s) {
                let what = match number {
                    rustix::io::Errno::FBIG => format!("l1_size={:#x}: L1 table is too large", s.l1_size),
                    _ => format!("l1_offset={:#x}: L1 table is not cluster aligned", s.l1_offset),
                };
                self.error(format!("snapshot {} ({}) {what}; snapshot table entry corrupted", s.info.id, s.info.name));
                continue;
            }
            self.uses(s.l1_offset, s.l1_size as u64 * 8);
            let l1 = self.meta.read_l1(&s)?;
            self.count_l1(&l1, false)?;
        }
        self.uses(self.meta.header.snapshots_offset, self.meta.snapshot_table_bytes);
        if let Some((offset, len)) = self.meta.header.crypto {
            self.uses(offset, len);
        }
        for (offset, len) in super::bitmap::extents(self.meta)? {
            self.uses(offset, len);
        }
        self.uses(self.meta.header.reftable_offset, self.meta.header.reftable_clusters as u64 * size);
        self.count_blocks()
    }

    fn count_blocks(&mut self) -> io::Result<()> {
        let size = self.meta.cluster_size();
        let file_end = self.meta.file.size();
        let mut seen = BTreeSet::new();
        for (i, entry) in self.meta.reftable.clone().into_iter().enumerate() {
            let offset = entry & !0x1ff;
            if offset == 0 {
                continue;
            }
            if offset % size != 0 {
                self.error(format!("refcount block {i} is not cluster aligned; refcount table entry corrupted"));
                self.rebuild = true;
            } else if offset >= file_end {
                self.error(format!("refcount block {i} is outside image"));
                self.rebuild = true;
            } else {
                self.uses(offset, size);
                if !seen.insert(offset) || self.users.get(offset / size) > 1 {
                    self.error(format!("refcount block {i} refcount={}", self.users.get(offset / size)));
                    self.rebuild = true;
                }
            }
        }
        Ok(())
    }

    fn count_l1(&mut self, l1: &[u64], active: bool) -> io::Result<()> {
        let size = self.meta.cluster_size();
        self.next_expected = None;
        for entry in l1 {
            let offset = entry & OFFSET;
            if offset == 0 {
                continue;
            }
            self.uses(offset, size);
            if offset % size != 0 {
                self.error(format!("l2_offset={offset:#x}: Table is not cluster aligned; L1 entry corrupted"));
                continue;
            }
            let words = self.meta.table(offset)?.words.clone();
            self.count_l2(&words, active);
        }
        Ok(())
    }

    fn count_l2(&mut self, words: &[u64], active: bool) {
        let size = self.meta.cluster_size();
        let external = self.meta.external;
        for pair in words.chunks_exact(self.meta.stride()) {
            let word = pair[0];
            if word & COMPRESSED != 0 {
                self.count_compressed(word, active);
                continue;
            }
            let offset = word & OFFSET;
            if offset == 0 && !(external && word & COPIED != 0) {
                continue;
            }
            if offset % size != 0 {
                self.error(format!("offset={offset:x}: Cluster is not properly aligned; L2 entry corrupted."));
                continue;
            }
            if active {
                self.report.allocated_clusters += 1;
                if self.next_expected.is_some_and(|n| n != offset) {
                    self.report.fragmented_clusters += 1;
                }
                self.next_expected = Some(offset + size);
            }
            if !external {
                self.uses(offset, size);
            }
        }
    }

    fn count_compressed(&mut self, word: u64, active: bool) {
        if word & COPIED != 0 {
            let offset = word & !(COPIED | COMPRESSED) & ((1 << (62 - (self.meta.header.cluster_bits - 8))) - 1);
            self.error(format!("coffset=0x{offset:x}: copied flag must never be set for compressed clusters"));
        }
        let (host, len) = self.meta.compressed_place(word);
        // The last sector need not be there in full.
        self.uses(host, len);
        if active {
            self.report.allocated_clusters += 1;
            self.report.compressed_clusters += 1;
            // Packed clusters never follow each other at cluster boundaries.
            self.report.fragmented_clusters += 1;
        }
    }

    /// Looks once without changing anything, then repairs what was found: single counts, or the whole structure.
    fn compare_and_repair(&mut self) -> io::Result<()> {
        let before = (self.report.leaks, self.report.corruptions);
        self.compare(Repair::default())?;
        if self.repair == Repair::default() {
            return Ok(());
        }
        if self.rebuild && self.repair.errors {
            return self.rebuild_and_compare();
        }
        if self.rebuild {
            self.report.lines.push("ERROR need to rebuild refcount structures".into());
            self.report.check_errors += 1;
            return Ok(());
        }
        if self.report.leaks > 0 || self.report.corruptions > 0 {
            (self.report.leaks, self.report.corruptions) = before;
            self.compare(self.repair)?;
        }
        Ok(())
    }

    /// Compares the stored counts with the users, and mends what `repair` allows.
    fn compare(&mut self, repair: Repair) -> io::Result<()> {
        let per_piece = self.users.per_piece;
        let mut pieces: BTreeSet<u64> = self.users.pieces.keys().copied().collect();
        // Counts for what is behind the end of the file are not looked at: a damaged table has any number of them.
        let in_file = self.meta.file.size().div_ceil(self.meta.cluster_size());
        let end = in_file.div_ceil(per_piece) as usize;
        pieces.extend(
            (0..self.meta.reftable.len().min(end) as u64)
                .filter(|i| self.meta.reftable[*i as usize] & !0x1ff != 0 && self.block_is_sound(*i)),
        );
        let mut wrong = Vec::new();
        let mut highest = None;
        let order = self.meta.header.refcount_order;
        for piece in pieces {
            // One look-up for a whole block: there are many more counts than clusters in small images.
            let block = if self.block_is_sound(piece) { self.meta.block(piece)? } else { None };
            let counts = block.map(|b| &b.bytes[..]);
            let users = self.users.pieces.get(&piece);
            for i in 0..per_piece as usize {
                let used = users.map_or(0, |u| u[i] as u64);
                let cluster = piece * per_piece + i as u64;
                if used == 0 && cluster >= in_file {
                    continue;
                }
                let stored = counts.map_or(0, |c| get_entry(c, order, i));
                if stored > 0 || used > 0 {
                    highest = Some(cluster);
                }
                if stored != used {
                    wrong.push((cluster, stored, used));
                }
            }
        }
        self.report.image_end_offset = highest.map(|c: u64| (c + 1) * self.meta.cluster_size());
        self.tell_and_mend(&wrong, repair)
    }

    /// Whether a block can be read without marking the image corrupt.
    fn block_is_sound(&self, piece: u64) -> bool {
        let offset = self.meta.reftable.get(piece as usize).copied().unwrap_or(0) & !0x1ff;
        offset % self.meta.cluster_size() == 0 && offset < self.meta.file.size()
    }

    fn tell_and_mend(&mut self, wrong: &[(u64, u64, u64)], repair: Repair) -> io::Result<()> {
        for (cluster, stored, used) in wrong {
            let leak = stored > used;
            // A cluster in use that counts as free may have been given away: single counts cannot be trusted then.
            self.rebuild |= *stored == 0;
            let fix = *stored != 0 && if leak { repair.leaks } else { repair.errors };
            let what = match (fix, leak) {
                (true, _) => "Repairing",
                (false, true) => "Leaked",
                (false, false) => "ERROR",
            };
            self.report.lines.push(format!("{what} cluster {cluster} refcount={stored} reference={used}"));
            match (fix, leak) {
                (true, true) => self.report.leaks_fixed += 1,
                (true, false) => self.report.corruptions_fixed += 1,
                (false, true) => self.report.leaks += 1,
                (false, false) => self.report.corruptions += 1,
            }
            if fix {
                self.meta.repair_count(*cluster, *used)?;
            }
        }
        Ok(())
    }

    /// Writes the structure anew from the users. What the old one took is free afterwards.
    fn rebuild_and_compare(&mut self) -> io::Result<()> {
        self.report.lines.push("Rebuilding refcount structure".into());
        let old: Vec<u64> = self.old_structure();
        self.rebuild_counts()?;
        self.report.corruptions_fixed += std::mem::take(&mut self.report.corruptions);
        self.report.leaks_fixed += std::mem::take(&mut self.report.leaks);
        for cluster in old {
            self.forget(cluster);
        }
        if self.repair.leaks {
            // These leaks are the repair's own doing and are not counted.
            let fixed = self.report.leaks_fixed;
            self.rebuild = false;
            self.compare(Repair { leaks: true, errors: false })?;
            self.report.leaks_fixed = fixed;
        }
        Ok(())
    }

    /// The clusters of the refcount table and its blocks.
    fn old_structure(&self) -> Vec<u64> {
        let size = self.meta.cluster_size();
        let first = self.meta.header.reftable_offset / size;
        let table = first..first + self.meta.header.reftable_clusters as u64;
        let blocks =
            self.meta.reftable.iter().map(|e| e & !0x1ff).filter(|o| *o != 0 && o % size == 0).map(|o| o / size);
        table.chain(blocks).collect()
    }

    /// Writes a new refcount table and blocks behind everything that is in use and switches the header to them.
    fn rebuild_counts(&mut self) -> io::Result<()> {
        let size = self.meta.cluster_size();
        let highest = self
            .users
            .pieces
            .iter()
            .rev()
            .find_map(|(p, v)| v.iter().rposition(|c| *c != 0).map(|i| p * self.users.per_piece + i as u64));
        let start = highest.map_or(0, |c| c + 1).max(self.meta.file.size().div_ceil(size));
        let mut pieces: BTreeSet<u64> =
            self.users.pieces.iter().filter(|(_, v)| v.iter().any(|c| *c != 0)).map(|(p, _)| *p).collect();
        let mut table = 1;
        loop {
            let total = pieces.len() as u64 + table;
            let last = (start + total - 1) / self.users.per_piece;
            let before = pieces.len();
            pieces.extend(start / self.users.per_piece..=last);
            let needed = ((last + 1) * 8).div_ceil(size);
            if pieces.len() == before && needed <= table {
                break;
            }
            table = table.max(needed);
        }
        for cluster in start..start + pieces.len() as u64 + table {
            self.users.add(cluster);
        }
        self.meta.blocks.clear();
        self.meta.forget_places();
        self.meta.reftable = vec![0; (table * size / 8) as usize];
        for (i, piece) in pieces.iter().enumerate() {
            self.meta.reftable[*piece as usize] = (start + i as u64) * size;
            self.meta.blocks.insert(
                *piece,
                RefBlock { bytes: vec![0; size as usize], dirty: Some((0, size as usize)), used: u64::MAX },
            );
            for cluster in piece * self.users.per_piece..(piece + 1) * self.users.per_piece {
                let used = self.users.get(cluster);
                if used > 0 {
                    self.meta.repair_count(cluster, used)?;
                }
            }
        }
        self.meta.write_blocks()?;
        let bytes: Vec<u8> = self.meta.reftable.iter().flat_map(|e| e.to_be_bytes()).collect();
        let place = (start + pieces.len() as u64) * size;
        self.meta.file.write(place, &bytes)?;
        self.meta.barrier()?;
        self.meta.header.reftable_offset = place;
        self.meta.header.reftable_clusters = table as u32;
        self.meta.write_header()?;
        self.meta.barrier()
    }

    fn forget(&mut self, cluster: u64) {
        if let Some(piece) = self.users.pieces.get_mut(&(cluster / self.users.per_piece)) {
            let count = &mut piece[(cluster % self.users.per_piece) as usize];
            *count = count.saturating_sub(1);
        }
    }

    /// The "copied" flag must be set exactly for clusters with one user.
    fn check_copied(&mut self) -> io::Result<()> {
        let size = self.meta.cluster_size();
        for index in 0..self.meta.l1.len() {
            let entry = self.meta.l1[index];
            let offset = entry & OFFSET;
            if offset == 0 || offset % size != 0 {
                continue;
            }
            let count = self.count_after(offset / size)?;
            if (count == 1) != (entry & COPIED != 0) {
                let text = format!("OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}");
                if self.flag_line(text) {
                    self.meta.l1[index] = offset | if count == 1 { COPIED } else { 0 };
                    self.meta.mark_l1(index);
                }
            }
            self.check_copied_l2(offset)?;
        }
        Ok(())
    }

    fn check_copied_l2(&mut self, offset: u64) -> io::Result<()> {
        let size = self.meta.cluster_size();
        let (stride, external) = (self.meta.stride(), self.meta.external);
        let words = self.meta.table(offset)?.words.clone();
        for (i, word) in words.iter().enumerate().step_by(stride) {
            let cluster = word & OFFSET;
            if word & COMPRESSED != 0 || cluster == 0 || cluster % size != 0 || external {
                continue;
            }
            let count = self.count_after(cluster / size)?;
            if (count == 1) != (word & COPIED != 0) {
                let text = format!("OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}");
                if self.flag_line(text) {
                    let flag = if count == 1 { COPIED } else { 0 };
                    self.meta.table(offset)?.set(i, cluster | flag | word & ZERO);
                }
            }
        }
        Ok(())
    }

    /// The count as it is (after a repair, as it has become).
    fn count_after(&mut self, cluster: u64) -> io::Result<u64> {
        if self.block_is_sound(cluster / self.users.per_piece) { self.meta.refcount(cluster) } else { Ok(0) }
    }

    /// Notes a wrong flag; returns whether it is to be repaired.
    fn flag_line(&mut self, text: String) -> bool {
        // With leaks alone only if all counts are right by now.
        let sound = self.report.check_errors + self.report.corruptions + self.report.leaks == 0;
        let fix = self.repair.errors || self.repair.leaks && sound;
        self.report.lines.push(format!("{} {text}", if fix { "Repairing" } else { "ERROR" }));
        if fix {
            self.report.corruptions_fixed += 1;
        } else {
            self.report.corruptions += 1;
        }
        fix
    }
}

impl Qcow2 {
    /// Writes the whole refcount structure anew with another entry width.
    pub(super) fn rewrite_counts(&self, order: u32) -> spec::error::Result<()> {
        use crate::node::strerror;
        use spec::error::Error;
        let host = |e: io::Error| Error::new(strerror(&e));
        let _alone = self.gate.write().unwrap_or_else(|e| e.into_inner());
        let mut guard = self.lock();
        if guard.header.refcount_order == order {
            return Ok(());
        }
        guard.write_back().map_err(host)?;
        guard.write_blocks().map_err(host)?;
        let per_piece = (guard.cluster_size() * 8) >> order;
        let mut check = Check::new(&mut guard, per_piece, Repair { leaks: true, errors: true });
        check.count_users().map_err(host)?;
        if check.report.corruptions > 0 {
            return Err(Error::new("The image is damaged; repair it with 'check -r all' first"));
        }
        let max = super::refcount::max_count(order);
        for (piece, counts) in &check.users.pieces {
            if let Some(i) = counts.iter().position(|c| *c as u64 > max) {
                return Err(Error::new(format!(
                    "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a refcount of {}",
                    1 << order,
                    (piece * per_piece + i as u64) * self.cluster_size,
                    counts[i]
                )));
            }
        }
        for cluster in check.old_structure() {
            check.forget(cluster);
        }
        check.meta.header.refcount_order = order;
        check.rebuild_counts().map_err(host)?;
        guard.free_hint = 0;
        guard.compressed_tail = None;
        Ok(())
    }
}
