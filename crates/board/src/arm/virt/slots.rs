//! The memory map of `virt`, with its shared peripheral interrupts: one row per place.

/// A place on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: &'static str,
    pub base: u64,
    pub size: u64,
    /// First shared peripheral interrupt, and how many; none for a slot without interrupts.
    pub spi: Option<u32>,
    pub spis: u32,
}

impl Slot {
    pub const fn end(&self) -> u64 {
        self.base + self.size
    }

    pub fn spi(&self) -> u32 {
        self.spi.expect("the slot has an interrupt")
    }
}

macro_rules! slots {
    ($($(#[doc = $doc:literal])* $constant:ident $name:literal $base:literal $size:literal $($spi:literal)? $(* $spis:literal)?;)*) => {
        $($(#[doc = $doc])* pub const $constant: Slot = Slot {
            name: $name, base: $base, size: $size, spi: slots!(@spi $($spi)?), spis: slots!(@count $($spi)? $(* $spis)?),
        };)*
        /// All of them, by address.
        pub const SLOTS: &[Slot] = &[$($constant),*];
    };
    (@spi) => { None };
    (@spi $spi:literal) => { Some($spi) };
    (@count) => { 0 };
    (@count $spi:literal) => { 1 };
    (@count $spi:literal * $spis:literal) => { $spis };
}

slots! {
    FLASH0       "flash0"       0x0000_0000 0x0400_0000;
    FLASH1       "flash1"       0x0400_0000 0x0400_0000;
    GIC_DIST     "gic-dist"     0x0800_0000 0x0001_0000;
    GIC_CPU      "gic-cpu"      0x0801_0000 0x0001_0000;
    GIC_V2M      "gic-v2m"      0x0802_0000 0x0000_1000 48 * 64;
    GIC_HYP      "gic-hyp"      0x0803_0000 0x0001_0000;
    GIC_VCPU     "gic-vcpu"     0x0804_0000 0x0001_0000;
    GIC_ITS      "gic-its"      0x0808_0000 0x0002_0000;
    /// Redistributors of the first 123 CPUs.
    GIC_REDIST   "gic-redist"   0x080a_0000 0x00f6_0000;
    UART0        "uart0"        0x0900_0000 0x0000_1000 1;
    RTC          "rtc"          0x0901_0000 0x0000_1000 2;
    FW_CFG       "fw-cfg"       0x0902_0000 0x0000_0018;
    GPIO         "gpio"         0x0903_0000 0x0000_1000 7;
    UART1        "uart1"        0x0904_0000 0x0000_1000 8;
    SMMU         "smmu"         0x0905_0000 0x0002_0000 74 * 4;
    SECURE_GPIO  "secure-gpio"  0x090b_0000 0x0000_1000;
    /// 32 transports of 0x200 bytes.
    VIRTIO_MMIO  "virtio-mmio"  0x0a00_0000 0x0000_4000 16 * 32;
    PLATFORM_BUS "platform-bus" 0x0c00_0000 0x0200_0000 112 * 64;
    SECURE_RAM   "secure-ram"   0x0e00_0000 0x0100_0000;
    PCIE_MMIO    "pcie-mmio"    0x1000_0000 0x2eff_0000 3 * 4;
    PCIE_PIO     "pcie-pio"     0x3eff_0000 0x0001_0000;
    PCIE_ECAM    "pcie-ecam"    0x3f00_0000 0x0100_0000;
}

/// Where RAM begins.
pub const RAM_BASE: u64 = 0x4000_0000;

pub const VIRTIO_MMIO_COUNT: u32 = 32;
pub const VIRTIO_MMIO_STEP: u64 = 0x200;

/// A redistributor of a GICv3: two 64 KiB frames.
pub const REDIST_BYTES: u64 = 0x2_0000;

/// Shared peripheral interrupts the interrupt controller has.
pub const SPI_COUNT: u32 = 256;

/// Private peripheral interrupts.
pub mod ppi {
    pub const MAINTENANCE: u32 = 9;
    pub const HYP_TIMER: u32 = 10;
    pub const VIRTUAL_TIMER: u32 = 11;
    pub const SECURE_TIMER: u32 = 13;
    pub const PHYSICAL_TIMER: u32 = 14;
    pub const PMU: u32 = 7;
}

/// Lines of the general-purpose I/O port.
pub mod gpio {
    pub const POWER_BUTTON: u32 = 3;
    /// Of the secure port.
    pub const SECURE_POWEROFF: u32 = 0;
    pub const SECURE_RESTART: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap() {
        for pair in SLOTS.windows(2) {
            assert!(pair[0].end() <= pair[1].base, "{} and {}", pair[0].name, pair[1].name);
        }
        assert!(SLOTS.last().unwrap().end() <= RAM_BASE);
    }

    #[test]
    fn interrupts_have_one_user() {
        let mut users: Vec<(u32, &str)> = SLOTS.iter().flat_map(|s| s.spi.into_iter().flat_map(|f| f..f + s.spis).map(|n| (n, s.name))).collect();
        users.sort();
        // The MSI frame of GICv2 reaches over the SMMU's interrupts, as in QEMU; there is no SMMU.
        users.retain(|(_, name)| *name != "smmu");
        for pair in users.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{pair:?}");
        }
        assert!(users.iter().all(|(n, _)| *n < SPI_COUNT));
    }

    #[test]
    fn redistributors_fill_their_slot() {
        assert_eq!(GIC_REDIST.size / REDIST_BYTES, 123);
        assert_eq!(u64::from(VIRTIO_MMIO_COUNT) * VIRTIO_MMIO_STEP, VIRTIO_MMIO.size);
    }
}
