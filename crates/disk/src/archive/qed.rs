//! QED: two levels of tables, explicit zero clusters, a backing file.
//!
//! Reference: docs/interop/qed_spec.txt of QEMU 10.0; messages of QEMU 10.0.2.

use super::{Format, Pages, Place, ReadOnly, backing_name, head, le32, le64};
use crate::node::{Node, NodeInfo, NodeRef, eio};
use spec::error::{Error, Result};
use std::io;

const HAS_BACKING: u64 = 1 << 0;
const NEEDS_CHECK: u64 = 1 << 1;
const RAW_BACKING: u64 = 1 << 2;
const MAX_NAME: u64 = 4096;
const ZERO_CLUSTER: u64 = 1;

pub struct Qed {
    cluster_size: u64,
    /// Entries of a table.
    entries: u64,
    l1_offset: u64,
    size: u64,
    features: u64,
    backing: Option<String>,
    pages: Pages,
}

pub fn open(file: NodeRef, write: bool) -> Result<ReadOnly<Qed>> {
    let h: [u8; 64] = head(file.as_ref(), "QED")?;
    let refuse = |text: &str| Err(Error::new(text));
    if !h.starts_with(b"QED\0") {
        return refuse("Image not in QED format");
    }
    let (cluster_size, table_size, header_size) = (le32(&h, 4) as u64, le32(&h, 8) as u64, le32(&h, 12) as u64);
    let (features, l1_offset, size) = (le64(&h, 16), le64(&h, 40), le64(&h, 48));
    if features & !(HAS_BACKING | NEEDS_CHECK | RAW_BACKING) != 0 {
        return Err(Error::new(format!("Unsupported QED features: {:x}", features & !(HAS_BACKING | NEEDS_CHECK | RAW_BACKING))));
    }
    if !cluster_size.is_power_of_two() || !(1 << 12..=1 << 26).contains(&cluster_size) {
        return refuse("QED cluster size is invalid");
    }
    if !table_size.is_power_of_two() || table_size > 16 {
        return refuse("QED table size is invalid");
    }
    let table_bytes = table_size * cluster_size;
    let entries = table_bytes / 8;
    let whole_file = file.size() / cluster_size * cluster_size;
    let table_end = l1_offset.checked_add(table_bytes);
    if l1_offset % cluster_size != 0 || l1_offset < header_size * cluster_size || table_end.is_none_or(|e| e > whole_file.max(1)) {
        return refuse("QED table offset is invalid");
    }
    if size % 512 != 0 || size > entries.saturating_mul(entries).saturating_mul(cluster_size) || size > i64::MAX as u64 {
        return refuse("QED image size is invalid");
    }
    let backing = match features & HAS_BACKING {
        0 => None,
        _ => {
            let (at, len) = (le32(&h, 56) as u64, le32(&h, 60) as u64);
            if len > MAX_NAME || at + len > header_size * cluster_size {
                return refuse("Invalid backing filename offset");
            }
            Some(backing_name(file.as_ref(), at, len)?)
        }
    };
    ReadOnly::new(file, Qed { cluster_size, entries, l1_offset, size, features, backing, pages: Pages::default() }, write)
}

impl Format for Qed {
    const NAME: &'static str = "qed";

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, file: &dyn Node, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let cluster = offset / self.cluster_size;
        let inside = offset % self.cluster_size;
        let run = (self.cluster_size - inside).min(len);
        let table = u64::from_le_bytes(self.pages.bytes(file, self.l1_offset + cluster / self.entries * 8)?);
        if table == 0 {
            let rest = (self.entries - cluster % self.entries) * self.cluster_size - inside;
            return Ok((Place::Absent, rest.min(len)));
        }
        if table % self.cluster_size != 0 || table >= file.size() {
            return Err(eio());
        }
        let entry = u64::from_le_bytes(self.pages.bytes(file, table + cluster % self.entries * 8)?);
        match entry {
            0 => Ok((Place::Absent, run)),
            ZERO_CLUSTER => Ok((Place::Zero, run)),
            e if e % self.cluster_size != 0 || e >= file.size() => Err(eio()),
            e => Ok((Place::At(e + inside), run)),
        }
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            cluster_size: Some(self.cluster_size),
            dirty: self.features & NEEDS_CHECK != 0,
            backing_file: self.backing.clone(),
            backing_format: (self.features & RAW_BACKING != 0).then(|| "raw".to_owned()),
            ..NodeInfo::default()
        }
    }
}
