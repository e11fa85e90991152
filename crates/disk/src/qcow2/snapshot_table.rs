//! The table of internal snapshots in the file: reading it, what is wrong with it, writing it.
//!
//! Reference: docs/interop/qcow2.txt, "Snapshots"; limits and messages of `qemu-img` 10.0.2.
//!
//! Invariants: memory is bounded by `MAX_TABLE_BYTES`; a table that breaks a limit is not used at all unless it is to be
//! repaired, and then cut to what keeps the limits.

use super::header::{MAX_SNAPSHOTS, be32, be64};
use super::meta::Meta;
use crate::node::{CheckReport, Repair, SnapshotInfo, errno, strerror};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::io;

/// Bounds on what a snapshot table may claim.
const MAX_EXTRA: u32 = 1024;
const MAX_TABLE_BYTES: u64 = 1 << 26;
/// Bytes of an entry in front of its extra data, of the extra data that is known, and of what version 3 requires of it.
const FIXED: u64 = 40;
const KNOWN_EXTRA: u32 = 24;
const REQUIRED_EXTRA: u32 = 16;

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub l1_offset: u64,
    pub l1_size: u32,
    pub info: SnapshotInfo,
    /// Extra data beyond the known fields.
    pub extra: Vec<u8>,
    /// Length of the extra data in the file; older writers store less than is known here.
    pub stored_extra: u32,
}

/// What was read, and what of it breaks the limits.
#[derive(Default)]
pub struct Table {
    pub list: Vec<Snapshot>,
    /// Bytes that the entries of the list take in the file.
    pub bytes: u64,
    pub damage: Vec<Damage>,
}

/// A broken limit: how it is told when the table is refused, and when the table is cut to fit.
pub struct Damage {
    pub refused: String,
    pub cut: String,
    /// Damaged entries.
    pub entries: u64,
    /// There are more snapshots than the limits allow.
    pub overhanging: bool,
    /// Found before anything of the table was read.
    pub in_header: bool,
}

impl Table {
    fn damaged(&mut self, refused: &str, remedy: &str, cut: String, entries: u64) {
        let refused = format!("{refused}\nYou can force-remove {remedy} with qemu-img check -r all");
        self.damage.push(Damage {
            refused,
            cut,
            entries,
            overhanging: remedy.ends_with("snapshots"),
            in_header: false,
        });
    }
}

/// Reads the table that the header names. Behind damage it goes on with what a repair would keep.
pub fn read_table(meta: &Meta) -> Result<Table> {
    let fail = |e: io::Error| Error::new(format!("Failed to read snapshot table: {}", strerror(&e)));
    let mut table = Table::default();
    let start = meta.header.snapshots_offset;
    let mut count = meta.header.snapshot_count;
    if let Some(more) = count.checked_sub(MAX_SNAPSHOTS).filter(|n| *n > 0) {
        let cut = format!("Discarding {more} overhanging snapshots");
        table.damaged("snapshot table too large", &format!("all {more} overhanging snapshots"), cut, more as u64);
        table.damage[0].in_header = true;
        count = MAX_SNAPSHOTS;
    }
    // Bytes of the table when it is written with what is kept.
    let mut kept = 0u64;
    let mut at = start;
    for index in 0..count {
        let begin = at.next_multiple_of(8);
        let mut fixed = [0u8; FIXED as usize];
        meta.file.read(begin, &mut fixed).map_err(fail)?;
        let extra_len = be32(&fixed, 36);
        let keep = if extra_len > MAX_EXTRA { KNOWN_EXTRA } else { extra_len };
        let id_len = u16::from_be_bytes([fixed[12], fixed[13]]) as u64;
        let name_len = u16::from_be_bytes([fixed[14], fixed[15]]) as u64;
        let mut extra = vec![0; keep as usize];
        meta.file.read(begin + FIXED, &mut extra).map_err(fail)?;
        let mut names = vec![0; (id_len + name_len) as usize];
        meta.file.read(begin + FIXED + extra_len as u64, &mut names).map_err(fail)?;
        if extra_len > MAX_EXTRA {
            let cut = format!(
                "Discarding too much extra metadata in snapshot table entry {index} ({extra_len} > {MAX_EXTRA})"
            );
            let refused = format!("Too much extra metadata in snapshot table entry {index}");
            table.damaged(&refused, "this extra metadata", cut, 1);
        }
        let end = begin + FIXED + extra_len as u64 + id_len + name_len;
        kept = kept.next_multiple_of(8) + FIXED + keep as u64 + id_len + name_len;
        if kept.next_multiple_of(8) > MAX_TABLE_BYTES || end - start > i32::MAX as u64 {
            let more = count - index;
            let cut = format!("Discarding {more} overhanging snapshots (snapshot table is too big)");
            let remedy = format!("all {more} overhanging snapshots");
            table.damaged("Snapshot table is too big", &remedy, cut, more as u64);
            break;
        }
        at = end;
        table.bytes = end - start;
        let (id, name) = names.split_at(id_len as usize);
        table.list.push(entry(&fixed, &extra, id, name, meta.header.size));
    }
    Ok(table)
}

fn entry(fixed: &[u8], extra: &[u8], id: &[u8], name: &[u8], disk_size: u64) -> Snapshot {
    // Names end at a zero byte, as the reference takes them.
    let text = |b: &[u8]| String::from_utf8_lossy(b.split(|c| *c == 0).next().unwrap_or(&[])).into_owned();
    let known = |at: usize| (extra.len() >= at + 8).then(|| be64(extra, at));
    let info = SnapshotInfo {
        id: text(id),
        name: text(name),
        date_sec: be32(fixed, 16),
        date_nsec: be32(fixed, 20),
        vm_clock_nsec: be64(fixed, 24),
        vm_state_size: known(0).unwrap_or(be32(fixed, 32) as u64),
        icount: known(16).filter(|v| *v != u64::MAX),
        disk_size: known(8).unwrap_or(disk_size),
    };
    Snapshot {
        l1_offset: be64(fixed, 0),
        l1_size: be32(fixed, 8),
        info,
        extra: extra.get(KNOWN_EXTRA as usize..).unwrap_or(&[]).to_vec(),
        stored_extra: extra.len() as u32,
    }
}

/// The bytes of a table. Entries have all known fields, whatever they had before.
pub fn encode(list: &[Snapshot]) -> Vec<u8> {
    let mut out = Vec::new();
    for s in list {
        out.resize(out.len().next_multiple_of(8), 0);
        let i = &s.info;
        out.extend(s.l1_offset.to_be_bytes());
        out.extend(s.l1_size.to_be_bytes());
        out.extend((i.id.len() as u16).to_be_bytes());
        out.extend((i.name.len() as u16).to_be_bytes());
        out.extend(i.date_sec.to_be_bytes());
        out.extend(i.date_nsec.to_be_bytes());
        out.extend(i.vm_clock_nsec.to_be_bytes());
        // The short field is zero when the size needs the long one.
        out.extend(u32::try_from(i.vm_state_size).unwrap_or(0).to_be_bytes());
        out.extend((KNOWN_EXTRA + s.extra.len() as u32).to_be_bytes());
        out.extend(i.vm_state_size.to_be_bytes());
        out.extend(i.disk_size.to_be_bytes());
        out.extend(i.icount.unwrap_or(u64::MAX).to_be_bytes());
        out.extend(&s.extra);
        out.extend(i.id.as_bytes());
        out.extend(i.name.as_bytes());
    }
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

impl Meta {
    /// Reads the table for users: damage refuses the image.
    pub fn load_snapshots(&mut self) -> Result<()> {
        if self.header.snapshot_count > MAX_SNAPSHOTS {
            return Err(Error::new("Snapshot table too large"));
        }
        let table = read_table(self)?;
        if let Some(damage) = table.damage.into_iter().next() {
            return Err(Error::new(damage.refused));
        }
        self.snapshots = table.list;
        self.snapshot_table_bytes = table.bytes;
        Ok(())
    }

    /// Looks at the table before the clusters are counted; with `repair`, takes what a cut table would have. Returns how
    /// many errors writing it anew will mend; `None` when the check cannot go on.
    pub fn check_snapshot_table(&mut self, repair: Repair, report: &mut CheckReport) -> Result<Option<u64>> {
        let mut errors = 0;
        let mut overhanging = 0;
        if self.snapshots_damaged {
            let table = read_table(self)?;
            for damage in &table.damage {
                if !repair.errors {
                    let what = if damage.in_header { "" } else { "failed to read the snapshot table: " };
                    report.lines.push(format!("ERROR {what}{}", damage.refused));
                    report.check_errors += 1;
                    return Ok(None);
                }
                report.lines.push(damage.cut.clone());
                match damage.overhanging {
                    true => overhanging += damage.entries,
                    false => errors += damage.entries,
                }
            }
            self.snapshots = table.list;
            self.snapshot_table_bytes = table.bytes;
        }
        if overhanging > 0 {
            // The rest of the table is sound where it is.
            self.header.snapshot_count = self.snapshots.len() as u32;
            let host = |e: io::Error| Error::new(strerror(&e));
            self.write_header().and_then(|()| self.barrier()).map_err(host)?;
            report.corruptions_fixed += overhanging;
            self.snapshots_damaged = errors > 0;
        }
        for (index, s) in self.snapshots.iter().enumerate() {
            if self.header.version >= 3 && s.stored_extra < REQUIRED_EXTRA {
                let what = if repair.errors { "Repairing" } else { "ERROR" };
                report.lines.push(format!("{what} snapshot table entry {index} is incomplete"));
                errors += 1;
            }
        }
        Ok(Some(errors))
    }

    /// Writes the table that `check_snapshot_table` has made right.
    pub fn repair_snapshot_table(&mut self, errors: u64, report: &mut CheckReport) {
        match self.store_snapshots() {
            Ok(()) => {
                self.snapshots_damaged = false;
                report.corruptions_fixed += errors;
            }
            Err(e) => {
                report.lines.push(format!("ERROR failed to update snapshot table: {}", strerror(&e)));
                report.check_errors += 1;
                report.corruptions += errors;
            }
        }
    }

    /// Whether entries lack fields that version 3 requires.
    pub fn snapshots_are_short(&self) -> bool {
        self.snapshots.iter().any(|s| s.stored_extra < REQUIRED_EXTRA)
    }
}

/// What a check fails with that met a table it may not cut.
pub fn refused() -> io::Error {
    errno(Errno::FBIG)
}
