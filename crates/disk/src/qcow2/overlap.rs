//! Which metadata a host range would overwrite: damaged tables and counts must not destroy an image.
//!
//! Reference: `overlap-check` of the qcow2 options of QEMU 10.0.2: its levels, parts and names.
//!
//! Invariants: a hit is looked up in the tables as they are now, so that a place of the past refuses nothing. The places of
//! tables are remembered in maps, because every write asks for them.

use super::meta::{Meta, OFFSET};
use crate::options::Options;
use spec::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::io;

/// Parts in the order in which they are looked at: name of the option, name in messages, lowest level that has it.
const PARTS: [(&str, &str, usize); 9] = [
    ("main-header", "qcow2_header", 1),
    ("active-l1", "active L1 table", 2),
    ("active-l2", "active L2 table", 2),
    ("refcount-table", "refcount table", 1),
    ("refcount-block", "refcount block", 2),
    ("snapshot-table", "snapshot table", 1),
    ("inactive-l1", "inactive L1 table", 2),
    ("inactive-l2", "inactive L2 table", 3),
    ("bitmap-directory", "bitmap directory", 1),
];
const LEVELS: [&str; 4] = ["none", "constant", "cached", "all"];
const DEFAULT_LEVEL: usize = 2;
const INACTIVE_L2: usize = 7;

/// The parts that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts(pub [bool; PARTS.len()]);

impl Default for Parts {
    fn default() -> Parts {
        Parts::level(DEFAULT_LEVEL)
    }
}

impl Parts {
    fn level(level: usize) -> Parts {
        Parts(PARTS.map(|(_, _, lowest)| level >= lowest))
    }

    /// `overlap-check` or `overlap-check.template`, and single parts.
    pub fn take(options: &mut Options) -> Result<Parts> {
        let (short, long) = (options.take("overlap-check"), options.take("overlap-check.template"));
        if let (Some(short), Some(long)) = (&short, &long)
            && short != long
        {
            return Err(Error::new(format!(
                "Conflicting values for qcow2 options 'overlap-check' ('{short}') and 'overlap-check.template' ('{long}')"
            )));
        }
        let mut parts = Parts::default();
        if let Some(name) = short.or(long) {
            let allowed = LEVELS.join(", ");
            let level = LEVELS.iter().position(|l| *l == name).ok_or_else(|| {
                Error::new(format!(
                    "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of the following: {allowed}"
                ))
            })?;
            parts = Parts::level(level);
        }
        for (wanted, (name, ..)) in parts.0.iter_mut().zip(PARTS) {
            *wanted = options.take_bool(&format!("overlap-check.{name}"))?.unwrap_or(*wanted);
        }
        Ok(parts)
    }
}

/// Where tables have been seen, by file offset: their index in the L1 table, or in the refcount table.
#[derive(Default)]
pub struct Places {
    l2: HashMap<u64, usize>,
    blocks: HashMap<u64, usize>,
    /// L2 tables of snapshots, once somebody has asked.
    inactive: Option<HashSet<u64>>,
}

impl Meta {
    /// Refuses a write to a host range that metadata takes.
    pub fn check_overlap(&mut self, host: u64, len: u64) -> io::Result<()> {
        match self.metadata_at(host, len)? {
            None => Ok(()),
            Some(what) => Err(self.corrupt(format!("Preventing invalid write on metadata (overlaps with {what})"))),
        }
    }

    /// Names the metadata structure that a host range would overwrite.
    fn metadata_at(&mut self, host: u64, len: u64) -> io::Result<Option<&'static str>> {
        let hits =
            |start: u64, size: u64| size > 0 && host < start.saturating_add(size) && start < host.saturating_add(len);
        let (size, parts) = (self.cluster_size(), self.overlap.0);
        let h = &self.header;
        let directory = h.bitmaps.as_ref().map_or((0, 0), |b| (b.directory_offset, b.directory_size));
        let ranges = [
            (0, (0, size)),
            (1, (h.l1_offset, self.l1.len() as u64 * 8)),
            (3, (h.reftable_offset, h.reftable_clusters as u64 * size)),
            (5, (h.snapshots_offset, self.snapshot_table_bytes)),
            (8, directory),
        ];
        if let Some((part, _)) = ranges.iter().find(|(part, range)| parts[*part] && hits(range.0, range.1)) {
            return Ok(Some(PARTS[*part].1));
        }
        let in_snapshot = |s: &super::snapshot_table::Snapshot| hits(s.l1_offset, s.l1_size as u64 * 8);
        if parts[6] && self.snapshots.iter().any(in_snapshot) {
            return Ok(Some(PARTS[6].1));
        }
        if parts[INACTIVE_L2] {
            self.find_inactive()?;
        }
        self.find_places();
        let first = host / size * size;
        let clusters = (host + len - first).div_ceil(size);
        Ok((0..clusters).find_map(|c| self.table_at(first + c * size)))
    }

    /// The table that is one cluster.
    fn table_at(&self, offset: u64) -> Option<&'static str> {
        let parts = self.overlap.0;
        let places = self.places.as_ref()?;
        let is = |index: Option<&usize>, table: &[u64]| {
            index.and_then(|i| table.get(*i)).is_some_and(|e| offset != 0 && e & OFFSET == offset)
        };
        let inactive = || places.inactive.as_ref().is_some_and(|set| set.contains(&offset));
        if parts[2] && is(places.l2.get(&offset), &self.l1) {
            Some(PARTS[2].1)
        } else if parts[4] && is(places.blocks.get(&offset), &self.reftable) {
            Some(PARTS[4].1)
        } else if parts[INACTIVE_L2] && inactive() {
            Some(PARTS[INACTIVE_L2].1)
        } else {
            None
        }
    }

    fn find_places(&mut self) {
        if self.places.is_some() {
            return;
        }
        let index = |table: &[u64]| {
            table.iter().enumerate().map(|(i, e)| (e & OFFSET, i)).filter(|(o, _)| *o != 0).collect::<HashMap<_, _>>()
        };
        self.places = Some(Places { l2: index(&self.l1), blocks: index(&self.reftable), inactive: None });
    }

    fn find_inactive(&mut self) -> io::Result<()> {
        self.find_places();
        if self.places.as_ref().is_some_and(|p| p.inactive.is_some()) {
            return Ok(());
        }
        let mut set = HashSet::new();
        for snapshot in self.snapshots.clone() {
            set.extend(self.read_l1(&snapshot)?.into_iter().map(|e| e & OFFSET).filter(|o| *o != 0));
        }
        self.places.get_or_insert_default().inactive = Some(set);
        Ok(())
    }

    /// An L1 entry has changed.
    pub fn place_l2(&mut self, index: usize) {
        if let (Some(places), Some(entry)) = (&mut self.places, self.l1.get(index)) {
            places.l2.insert(entry & OFFSET, index);
        }
    }

    /// A refcount table entry has changed.
    pub fn place_block(&mut self, index: usize) {
        if let (Some(places), Some(entry)) = (&mut self.places, self.reftable.get(index)) {
            places.blocks.insert(entry & OFFSET, index);
        }
    }

    /// A whole table has been exchanged, or the snapshots have changed.
    pub fn forget_places(&mut self) {
        self.places = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<Parts> {
        let mut o = Options::parse(text, None).unwrap();
        let parts = Parts::take(&mut o);
        assert!(parts.is_err() || o.first_key().is_none(), "{text}");
        parts
    }

    #[test]
    fn levels_and_parts_choose_what_is_looked_at() {
        let on = |text: &str| take(text).unwrap().0.iter().filter(|b| **b).count();
        assert_eq!(take("").unwrap(), Parts::default());
        assert_eq!(
            [on("overlap-check=none"), on("overlap-check=constant"), on("overlap-check.template=cached")],
            [0, 4, 8]
        );
        assert_eq!(on("overlap-check=all"), PARTS.len());
        assert_eq!(on("overlap-check=none,overlap-check.inactive-l2=on"), 1);
        assert!(take("overlap-check=some").is_err());
        assert!(take("overlap-check=all,overlap-check.template=none").is_err());
    }
}
