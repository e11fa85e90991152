//! `gpex`: a generic PCI Express host bridge with memory-mapped configuration space.
//!
//! Reference: PCI Express Base Specification 4.0, 7.2.2 (ECAM); device 1b36:0008 as QEMU's `gpex` shows it.
//! Pins: four INTx wires. Messages go to the sink that the board names.

use std::ops::Range;
use std::sync::Arc;

use fabric::{AddressSpace, Line, MmioTarget, MsiSink, Region};

use super::address::SlotFunction;
use super::bus::{Bus, IoWindow, Windows};
use super::config::Identity;
use super::function::Builder;
use super::signal::{Intx, Signal};

/// Base addresses win over the empty window below them.
const PRIORITY_WINDOW: i32 = -2;
const PRIORITY_BAR: i32 = -1;

/// What the board decides.
pub struct GpexConfig {
    pub space: Arc<AddressSpace>,
    /// Configuration space, 1 MiB for each bus.
    pub ecam: Range<u64>,
    /// Memory windows: the 32-bit one and, if there is one, the 64-bit one.
    pub memory: Vec<Range<u64>>,
    /// Where ports 0 and up appear.
    pub io: Range<u64>,
    pub lines: [Line; 4],
    pub messages: Arc<dyn MsiSink>,
}

/// The host bridge with its root bus `pcie.0`.
pub struct Gpex {
    pub bus: Arc<Bus>,
}

impl Gpex {
    /// Builds the bridge and maps its windows.
    pub fn new(config: GpexConfig) -> Gpex {
        let GpexConfig { space, ecam, memory, io, lines, messages } = config;
        let io_window = IoWindow { space: space.clone(), base: io.start, len: io.end - io.start };
        let windows = Windows { space: space.clone(), memory: memory.clone(), io: Some(io_window), priority: PRIORITY_BAR };
        let bus = Bus::root("pcie.0", windows, Intx::new(lines));
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x0008,
            class: 0x060000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            ..Identity::default()
        };
        let root = Builder::new("gpex-root", identity);
        let root = root.build(Arc::new(Signal::new(messages)), None);
        bus.plug(&root, Some(SlotFunction::new(0, 0))).expect("the bus is empty");
        let len = ecam.end - ecam.start;
        space.map(ecam.start, len, 0, Region::device("pcie-mmcfg-mmio", Arc::new(Ecam { bus: bus.clone(), buses: len >> 20 })));
        for window in &memory {
            space.map(window.start, window.end - window.start, PRIORITY_WINDOW, Region::device("gpex_mmio_window", Arc::new(Empty)));
        }
        space.map(io.start, io.end - io.start, PRIORITY_WINDOW, Region::device("gpex_ioport_window", Arc::new(Empty)));
        Gpex { bus }
    }
}

/// Addresses of a window that nobody claims.
struct Empty;

impl MmioTarget for Empty {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        u64::MAX
    }
    fn write(&self, _offset: u64, _size: u8, _value: u64) {}
}

/// Memory-mapped configuration space of a bus and everything below it.
pub struct Ecam {
    bus: Arc<Bus>,
    buses: u64,
}

impl Ecam {
    pub fn new(bus: Arc<Bus>, buses: u64) -> Ecam {
        Ecam { bus, buses }
    }

    /// Calls `each(bus, devfn, register, size, shift)` for the parts of an access that lie in one doubleword.
    fn parts(&self, offset: u64, size: u8, mut each: impl FnMut(u8, u8, usize, usize, u32)) {
        let mut done = 0;
        while done < u64::from(size) {
            let at = offset + done;
            let part = (4 - at % 4).min(u64::from(size) - done);
            if at >> 20 < self.buses {
                each((at >> 20) as u8, (at >> 12) as u8, (at & 0xfff) as usize, part as usize, done as u32 * 8);
            }
            done += part;
        }
    }
}

impl MmioTarget for Ecam {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let mut value = 0;
        self.parts(offset, size, |bus, devfn, register, part, shift| {
            value |= u64::from(self.bus.config_read(bus, devfn, register, part)) << shift;
        });
        value
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        self.parts(offset, size, |bus, devfn, register, part, shift| {
            self.bus.config_write(bus, devfn, register, part, (value >> shift) as u32);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::testing::{Messages, Wires};

    fn gpex() -> (Arc<AddressSpace>, Gpex) {
        let space = AddressSpace::new();
        let gpex = Gpex::new(GpexConfig {
            space: space.clone(),
            ecam: 0x3f00_0000..0x4000_0000,
            memory: vec![0x1000_0000..0x3eff_0000, 0x80_0000_0000..0x100_0000_0000],
            io: 0x3eff_0000..0x3f00_0000,
            lines: Wires::new().lines(),
            messages: Arc::new(Messages::default()),
        });
        (space, gpex)
    }

    #[test]
    fn the_root_is_what_drivers_expect() {
        let (space, _) = gpex();
        for (offset, expected) in [(0, 0x0008_1b36), (4, 0), (8, 0x0600_0000), (0x0c, 0), (0x2c, 0x1100_1af4), (0x34, 0), (0x3c, 0)] {
            assert_eq!(space.read(0x3f00_0000 + offset, 4), Some(expected), "{offset:#x}");
        }
        assert_eq!(space.read(0x3f00_0000, 2), Some(0x1b36));
        assert_eq!(space.read(0x3f00_0001, 2), Some(0x081b));
        assert_eq!(space.read(0x3f00_0000, 8), Some(0x0008_1b36));
    }

    #[test]
    fn unclaimed_addresses_read_as_ones() {
        let (space, _) = gpex();
        for address in [0x3f00_8000, 0x3f10_0000, 0x1000_0000, 0x80_0000_0000, 0x3eff_0100] {
            assert_eq!(space.read(address, 4), Some(0xffff_ffff), "{address:#x}");
            assert!(space.write(address, 4, 0));
        }
    }

    #[test]
    fn any_access_is_answered() {
        let (space, _) = gpex();
        let mut seed = 1u64;
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let offset = seed >> 40 & 0x1fff;
            let size = 1 << (seed >> 33 & 3);
            if seed >> 36 & 1 == 0 {
                assert!(space.read(0x3f00_0000 + offset, size).is_some());
            } else {
                space.write(0x3f00_0000 + offset, size, seed);
            }
        }
    }
}
