//! Boot: what is in memory and registers when a machine starts.
//!
//! Reference: Linux `Documentation/arch/arm/booting.rst`; the places of kernel, initrd and device tree are those of QEMU 10.0
//! (`info roms`, `dumpdtb`).
//!
//! `kernel` recognizes kernel files, `linux` puts everything in its place, `loader` is `-device loader`,
//! `guest` is `-device guest-loader`.

pub mod guest;
pub mod gzip;
pub mod kernel;
pub mod linux;
pub mod loader;
pub mod uimage;

use fabric::space::AddressSpace;
use spec::{Context, Error, Result};

/// Bytes that are in memory when the machine starts, and again after each reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// For messages and `info roms`.
    pub name: String,
    pub base: u64,
    pub bytes: Vec<u8>,
    /// How much of memory is the blob's, at least its length.
    pub room: u64,
}

impl Blob {
    pub fn new(name: impl Into<String>, base: u64, bytes: Vec<u8>) -> Blob {
        let room = bytes.len() as u64;
        Blob { name: name.into(), base, bytes, room }
    }

    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.room)
    }
}

/// How the first CPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At its reset vector: firmware.
    Reset,
    /// At an address (bit 0 for Thumb), with these values in R0 to R2.
    At { entry: u64, registers: [u32; 3] },
}

/// Reads a file whole.
pub fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).context(|| format!("could not open '{path}'"))
}

/// Blobs in memory must not overlap.
pub fn check(blobs: &[Blob]) -> Result<()> {
    let mut order: Vec<&Blob> = blobs.iter().filter(|b| b.room > 0).collect();
    order.sort_by_key(|b| b.base);
    for pair in order.windows(2) {
        if pair[0].end() > pair[1].base {
            let range = |b: &Blob| format!("'{}' ({:#x}-{:#x})", b.name, b.base, b.end() - 1);
            return Err(Error::new(format!("{} and {} overlap in memory", range(pair[0]), range(pair[1]))));
        }
    }
    Ok(())
}

/// Copies blobs to memory.
pub fn load(blobs: &[Blob], space: &AddressSpace) -> Result<()> {
    for blob in blobs {
        if space.write_bytes(blob.base, &blob.bytes) != blob.bytes.len() {
            return Err(Error::new(format!("'{}' does not fit into memory at {:#x}", blob.name, blob.base)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabric::ram::Ram;
    use fabric::space::Region;
    use std::sync::Arc;

    #[test]
    fn overlapping_blobs_are_named() {
        let a = Blob::new("a", 0x1000, vec![0; 0x100]);
        let mut b = Blob::new("b", 0x1100, vec![0; 0x100]);
        check(&[b.clone(), a.clone()]).unwrap();
        b.base -= 1;
        let e = check(&[b, a]).unwrap_err().to_string();
        assert_eq!(e, "'a' (0x1000-0x10ff) and 'b' (0x10ff-0x11fe) overlap in memory");
    }

    #[test]
    fn blobs_go_to_memory_only() {
        let space = AddressSpace::new();
        space.map(0x1000, 0x1000, 0, Region::ram("ram", Arc::new(Ram::new(0x1000).unwrap())));
        load(&[Blob::new("a", 0x1ffc, vec![1, 2, 3, 4])], &space).unwrap();
        assert_eq!(space.read(0x1ffc, 4), Some(0x0403_0201));
        let e = load(&[Blob::new("a", 0x1ffd, vec![1, 2, 3, 4])], &space).unwrap_err().to_string();
        assert_eq!(e, "'a' does not fit into memory at 0x1ffd");
    }
}
