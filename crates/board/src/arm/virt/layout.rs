//! What lies above 4 GiB, and where the PCIe configuration space goes.
//!
//! QEMU puts the configuration space above 4 GiB, where a 32-bit kernel without LPAE cannot reach it: its PCI host bridge
//! fails and no disk appears. So plain `virt` with a 32-bit CPU has it below 4 GiB (16 buses) unless `highmem` or
//! `highmem-ecam` was given; `virt-10.0` is as in QEMU.

use super::options::Options;
use super::slots::{GIC_REDIST, PCIE_ECAM, RAM_BASE, REDIST_BYTES};
use spec::{Error, Result};

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub base: u64,
    pub size: u64,
}

const GIB: u64 = 1 << 30;
/// The regions above RAM begin here or higher.
const HIGH_BASE: u64 = 256 * GIB;
const HIGH_REDIST_BYTES: u64 = 64 << 20;
const HIGH_ECAM_BYTES: u64 = 256 << 20;
pub const HIGH_MMIO_BYTES: u64 = 512 * GIB;
/// Configuration space of one bus.
const BUS_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub ram: Range,
    /// Redistributors of the CPUs after the 123rd.
    pub redist2: Option<Range>,
    pub ecam: Range,
    /// 64-bit window of the PCIe host bridge.
    pub mmio64: Option<Range>,
}

impl Layout {
    /// Buses the configuration space has room for.
    pub fn buses(&self) -> u32 {
        (self.ecam.size / BUS_BYTES) as u32
    }

    /// `address_bits` are the CPU's physical addresses; `firmware` says whether a flash holds code.
    pub fn new(o: &Options, ram_bytes: u64, cpus: u32, address_bits: u32, firmware: bool) -> Result<Layout> {
        let highmem = o.highmem.unwrap_or(true);
        let bits = if highmem { address_bits } else { 32 };
        let limit = 1u64 << bits;
        if ram_bytes > limit - RAM_BASE {
            let excess = ram_bytes - (limit - RAM_BASE);
            return Err(Error::new(format!("Addressing limited to {bits} bits, but memory exceeds it by {excess} bytes")));
        }
        let low_by_default = !o.exact && o.highmem.is_none();
        // Firmware for 32-bit CPUs cannot reach above 4 GiB either; QEMU moves it then, too.
        let high_ecam = o.highmem_ecam.unwrap_or(!low_by_default) && !firmware;
        let wanted = [
            (o.highmem_redists, HIGH_REDIST_BYTES),
            (high_ecam, HIGH_ECAM_BYTES),
            (o.highmem_mmio, o.highmem_mmio_bytes.unwrap_or(HIGH_MMIO_BYTES)),
        ];
        let mut base = (RAM_BASE + ram_bytes).next_multiple_of(GIB).max(HIGH_BASE);
        let mut found = [None; 3];
        for ((wanted, size), place) in wanted.into_iter().zip(&mut found) {
            let at = base.next_multiple_of(size);
            let fits = at + size <= limit;
            if wanted && fits {
                *place = Some(Range { base: at, size });
            }
            if (wanted && fits) || !o.compact_highmem {
                base = at + size;
            }
        }
        let [redist2, ecam, mmio64] = found;
        let first = GIC_REDIST.size / REDIST_BYTES;
        let redist2 = redist2.filter(|_| u64::from(cpus) > first);
        Ok(Layout {
            ram: Range { base: RAM_BASE, size: ram_bytes },
            redist2,
            ecam: ecam.unwrap_or(Range { base: PCIE_ECAM.base, size: PCIE_ECAM.size }),
            mmio64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(exact: bool, settings: &[(&str, &str)]) -> Layout {
        let mut o = Options::new(exact);
        settings.iter().for_each(|(n, v)| o.set(n, v).unwrap());
        Layout::new(&o, GIB, 1, 40, false).unwrap()
    }

    #[test]
    fn virt_10_0_is_as_in_qemu() {
        let l = layout(true, &[]);
        assert_eq!(l.ecam, Range { base: 0x40_1000_0000, size: 0x1000_0000 });
        assert_eq!(l.mmio64, Some(Range { base: 0x80_0000_0000, size: 0x80_0000_0000 }));
        assert_eq!(l.buses(), 256);
        let l = layout(true, &[("highmem", "off")]);
        assert_eq!((l.ecam.base, l.mmio64, l.buses()), (0x3f00_0000, None, 16));
    }

    #[test]
    fn plain_virt_keeps_the_configuration_space_low() {
        let l = layout(false, &[]);
        assert_eq!(l.ecam.base, 0x3f00_0000);
        assert_eq!(l.mmio64, Some(Range { base: 0x80_0000_0000, size: 0x80_0000_0000 }));
        assert_eq!(layout(false, &[("highmem", "on")]).ecam.base, 0x40_1000_0000);
        assert_eq!(layout(false, &[("highmem-ecam", "on")]).ecam.base, 0x40_1000_0000);
    }

    #[test]
    fn memory_that_does_not_fit_is_refused() {
        let mut o = Options::new(true);
        o.set("highmem", "off").unwrap();
        assert!(Layout::new(&o, 3 * GIB, 1, 40, false).is_ok());
        let e = Layout::new(&o, 4 * GIB, 1, 40, false).unwrap_err().to_string();
        assert_eq!(e, "Addressing limited to 32 bits, but memory exceeds it by 1073741824 bytes");
    }

    #[test]
    fn what_does_not_fit_the_cpus_addresses_is_left_out() {
        let o = Options::new(true);
        assert_eq!(Layout::new(&o, GIB, 1, 36, false).unwrap().mmio64, None);
        assert_eq!(Layout::new(&o, GIB, 200, 40, false).unwrap().redist2, Some(Range { base: HIGH_BASE, size: HIGH_REDIST_BYTES }));
    }
}
