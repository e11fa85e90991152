//! PCI-to-PCI bridges: `pci-bridge` and `pcie-root-port`.
//!
//! Reference: PCI-to-PCI Bridge Architecture Specification 1.2, 3.2 and 4; PCI Express Base Specification 4.0, 7.5.3.
//! Not modelled: hot-plug, the standard hot-plug controller, error reporting, VGA routing, link training.

use std::sync::Arc;

use fabric::MsiSink;

use super::config::{Config, Identity, command, reg};
use super::function::{Builder, Function};
use super::signal::Signal;

const CAPABILITY_EXPRESS: u8 = 0x10;

/// Whether a bridge passes an address on to its secondary bus.
pub(super) fn admits(config: &Config, io: bool, address: u64, len: u64) -> bool {
    let Some(last) = address.checked_add(len - 1) else { return false };
    let within = |base: u64, limit: u64| base <= address && last <= limit;
    let command = config.command();
    if io {
        let base = u64::from(config.get8(reg::IO_BASE) & 0xf0) << 8;
        let limit = u64::from(config.get8(reg::IO_BASE + 1) & 0xf0) << 8 | 0xfff;
        return command & command::IO != 0 && within(base, limit);
    }
    if command & command::MEMORY == 0 {
        return false;
    }
    let base = u64::from(config.get16(reg::MEMORY_BASE) & 0xfff0) << 16;
    let limit = u64::from(config.get16(reg::MEMORY_BASE + 2) & 0xfff0) << 16 | 0xf_ffff;
    if within(base, limit) {
        return true;
    }
    let upper = |at| u64::from(config.get32(at)) << 32;
    let base = u64::from(config.get16(reg::PREFETCH_BASE) & 0xfff0) << 16 | upper(reg::PREFETCH_BASE_UPPER);
    let limit = u64::from(config.get16(reg::PREFETCH_BASE + 2) & 0xfff0) << 16 | upper(reg::PREFETCH_BASE_UPPER + 4) | 0xf_ffff;
    within(base, limit)
}

/// `pci-bridge`: a conventional bridge.
pub fn pci_bridge(messages: Arc<dyn MsiSink>) -> Arc<Function> {
    let identity = Identity { vendor: 0x1b36, device: 0x0001, class: 0x060400, interrupt_pin: 1, bridge: true, ..Identity::default() };
    let builder = Builder::new("pci-bridge", identity);
    builder.build(Arc::new(Signal::new(messages)), None)
}

/// `pcie-root-port`: the bridge above one PCI Express slot.
pub fn root_port(port: u8, slot: u16, messages: Arc<dyn MsiSink>) -> Arc<Function> {
    let identity = Identity {
        vendor: 0x1b36,
        device: 0x000c,
        class: 0x060400,
        interrupt_pin: 1,
        bridge: true,
        express: true,
        ..Identity::default()
    };
    let mut builder = Builder::new("pcie-root-port", identity);
    let config = &mut builder.config;
    let at = config.add_capability(CAPABILITY_EXPRESS, 0x54, &[0; 58]);
    // Version 2, root port, slot implemented.
    config.preset(at + 2, &0x0142u16.to_le_bytes());
    // Device capabilities: role-based error reporting. Link: 16 GT/s, 32 lanes, port number.
    config.preset(at + 4, &0x0000_8000u32.to_le_bytes());
    config.preset(at + 12, &(0x0000_0204 | u32::from(port) << 24).to_le_bytes());
    config.preset(at + 18, &0x0204u16.to_le_bytes());
    config.preset(at + 20, &(u32::from(slot) << 19).to_le_bytes());
    config.allow(at + 8, &0x7fffu16.to_le_bytes());
    config.allow(at + 16, &0x0fffu16.to_le_bytes());
    builder.build(Arc::new(Signal::new(messages)), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::testing::{Rig, sample};
    use crate::pci::{Bus, SlotFunction};

    #[test]
    fn a_device_behind_a_bridge() {
        let rig = Rig::new();
        let bridge = pci_bridge(rig.messages.clone());
        rig.bus.plug(&bridge, Some(SlotFunction::new(3, 0))).unwrap();
        let below = Bus::secondary("below", &bridge);
        let f = sample(&rig, "f");
        assert_eq!(below.plug(&f, None).unwrap(), SlotFunction::new(1, 0));
        assert_eq!(rig.bus.config_read(1, 8, 0, 4), u32::MAX, "no bus number yet");
        let at = 3 << 3;
        rig.bus.config_write(0, at, reg::PRIMARY_BUS, 4, 0x0001_0100);
        assert_eq!(rig.bus.config_read(1, 8, 0, 2), 0x1234);
        rig.bus.config_write(1, 8, 0x10, 4, 0x1010_0000);
        rig.bus.config_write(1, 8, 0x04, 2, 3);
        assert_eq!(rig.space.read(0x1010_0004, 4), None, "the bridge does not pass it on");
        rig.bus.config_write(0, at, reg::MEMORY_BASE, 4, 0x1010_1010);
        rig.bus.config_write(0, at, reg::COMMAND, 2, 7);
        assert_eq!(rig.space.read(0x1010_0004, 4), Some(0x104));
        rig.bus.config_write(0, at, reg::COMMAND, 2, 0);
        assert_eq!(rig.space.read(0x1010_0004, 4), None);
        // Slot 1 behind slot 3: INTA is wire (0 + 1 + 3) % 4.
        f.signal().set_intx(true);
        assert_eq!(rig.wires.levels(), [true, false, false, false]);
    }

    #[test]
    fn windows_of_a_bridge() {
        let mut config = Config::new(Identity { bridge: true, ..Identity::default() });
        config.write(reg::IO_BASE, 2, 0x2010);
        config.write(reg::PREFETCH_BASE, 4, 0x0010_0000);
        config.write(reg::PREFETCH_BASE_UPPER, 4, 0x80);
        config.write(reg::PREFETCH_BASE_UPPER + 4, 4, 0x80);
        config.set16(reg::COMMAND, 3);
        for (io, address, len, expected) in [
            (true, 0x1000, 0x100, true),
            (true, 0x2fff, 1, true),
            (true, 0x2fff, 2, false),
            (true, 0xfff, 1, false),
            (false, 0x80_0000_0000, 0x1000, true),
            (false, 0x80_001f_ffff, 1, true),
            (false, 0x80_0020_0000, 1, false),
            (false, u64::MAX, 2, false),
        ] {
            assert_eq!(admits(&config, io, address, len), expected, "{address:#x}");
        }
    }
}
