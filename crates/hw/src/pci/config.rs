//! Configuration space of one PCI function: registers with their writable bits, base address registers, capabilities.
//!
//! Reference: PCI Local Bus Specification 3.0, chapter 6; PCI-to-PCI Bridge Architecture 1.2, chapter 3.2; PCI Express Base
//! Specification 4.0, chapter 7.5 (extended space from 0x100).
//! Not modelled: BIST, VPD, power states other than D0.

/// Bytes that every function has.
pub const SIZE: usize = 256;
/// Bytes of a PCI Express function.
pub const SIZE_EXPRESS: usize = 4096;

/// Register offsets of both header types.
pub mod reg {
    pub const VENDOR_ID: usize = 0x00;
    pub const DEVICE_ID: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION_ID: usize = 0x08;
    pub const CLASS_CODE: usize = 0x09;
    pub const CACHE_LINE_SIZE: usize = 0x0c;
    pub const HEADER_TYPE: usize = 0x0e;
    pub const BAR0: usize = 0x10;
    pub const PRIMARY_BUS: usize = 0x18;
    pub const SECONDARY_BUS: usize = 0x19;
    pub const SUBORDINATE_BUS: usize = 0x1a;
    pub const IO_BASE: usize = 0x1c;
    pub const SECONDARY_STATUS: usize = 0x1e;
    pub const MEMORY_BASE: usize = 0x20;
    pub const PREFETCH_BASE: usize = 0x24;
    pub const PREFETCH_BASE_UPPER: usize = 0x28;
    pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
    pub const SUBSYSTEM_ID: usize = 0x2e;
    pub const ROM: usize = 0x30;
    pub const CAPABILITIES: usize = 0x34;
    pub const BRIDGE_ROM: usize = 0x38;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
    pub const BRIDGE_CONTROL: usize = 0x3e;
}

/// Bits of the command register.
pub mod command {
    pub const IO: u16 = 1 << 0;
    pub const MEMORY: u16 = 1 << 1;
    pub const BUS_MASTER: u16 = 1 << 2;
    pub const SERR: u16 = 1 << 8;
    pub const INTX_DISABLE: u16 = 1 << 10;
    /// What software may write; not Parity Error Response (bit 6), as on the reference's devices, which kernels report in their logs.
    pub const WRITABLE: u16 = IO | MEMORY | BUS_MASTER | SERR | INTX_DISABLE;
}

/// Bits of the status register.
pub mod status {
    pub const INTERRUPT: u16 = 1 << 3;
    pub const CAPABILITIES: u16 = 1 << 4;
    /// The error bits, cleared by writing ones.
    pub const ERRORS: u16 = 0xf900;
}

/// Header type bit of a device with several functions.
pub const MULTIFUNCTION: u8 = 0x80;
/// Index of the expansion ROM among the base addresses.
pub const ROM_INDEX: usize = 6;

/// What a function says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    /// Base class, subclass and programming interface.
    pub class: u32,
    pub revision: u8,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
    /// 1 (INTA) to 4 (INTD); 0 for none.
    pub interrupt_pin: u8,
    /// A PCI-to-PCI bridge (header type 1).
    pub bridge: bool,
    /// Extended configuration space.
    pub express: bool,
}

/// What answers behind a base address register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    Io,
    Memory32,
    Memory64Prefetchable,
    Rom,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    pub kind: BarKind,
    /// A power of two.
    pub size: u64,
}

/// The registers of one function.
pub struct Config {
    bytes: Box<[u8]>,
    /// Bits that software may change.
    writable: Box<[u8]>,
    /// Bits that writing a one clears.
    clear: Box<[u8]>,
    initial: Box<[u8]>,
    bars: [Option<Bar>; 7],
    bridge: bool,
}

impl Config {
    pub fn new(identity: Identity) -> Config {
        let size = if identity.express { SIZE_EXPRESS } else { SIZE };
        let zeroes = || vec![0u8; size].into_boxed_slice();
        let mut config = Config {
            bytes: zeroes(),
            writable: zeroes(),
            clear: zeroes(),
            initial: zeroes(),
            bars: [None; 7],
            bridge: identity.bridge,
        };
        config.set16(reg::VENDOR_ID, identity.vendor);
        config.set16(reg::DEVICE_ID, identity.device);
        config.bytes[reg::REVISION_ID] = identity.revision;
        config.bytes[reg::CLASS_CODE..reg::CLASS_CODE + 3].copy_from_slice(&identity.class.to_le_bytes()[..3]);
        config.bytes[reg::INTERRUPT_PIN] = identity.interrupt_pin;
        config.allow(reg::COMMAND, &command::WRITABLE.to_le_bytes());
        config.clear_by_ones(reg::STATUS, &status::ERRORS.to_le_bytes());
        config.allow(reg::CACHE_LINE_SIZE, &[0xff]);
        config.allow(reg::INTERRUPT_LINE, &[0xff]);
        if identity.bridge {
            config.bytes[reg::HEADER_TYPE] = 1;
            config.make_bridge();
        } else {
            config.set16(reg::SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor);
            config.set16(reg::SUBSYSTEM_ID, identity.subsystem);
        }
        config.seal();
        config
    }

    /// Bus numbers and windows of a bridge: 32-bit I/O, 32-bit memory, 64-bit prefetchable memory.
    fn make_bridge(&mut self) {
        self.allow(reg::PRIMARY_BUS, &[0xff; 4]);
        self.set16(reg::IO_BASE, 0x0000);
        self.allow(reg::IO_BASE, &[0xf0, 0xf0]);
        self.clear_by_ones(reg::SECONDARY_STATUS, &status::ERRORS.to_le_bytes());
        self.allow(reg::MEMORY_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        self.bytes[reg::PREFETCH_BASE] = 1;
        self.bytes[reg::PREFETCH_BASE + 2] = 1;
        self.allow(reg::PREFETCH_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        self.allow(reg::PREFETCH_BASE_UPPER, &[0xff; 8]);
        self.allow(reg::BRIDGE_CONTROL, &[0x7f, 0x00]);
    }

    /// What the registers hold now is what reset gives.
    fn seal(&mut self) {
        self.initial.copy_from_slice(&self.bytes);
    }

    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.initial);
    }

    /// Changes a register from inside, now and after each reset.
    pub fn preset(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.initial[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets software write these bits.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Lets software clear these bits by writing ones.
    pub fn clear_by_ones(&mut self, offset: usize, mask: &[u8]) {
        self.clear[offset..offset + mask.len()].copy_from_slice(mask);
    }

    pub fn get8(&self, offset: usize) -> u8 {
        self.bytes[offset]
    }

    pub fn get16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    pub fn get32(&self, offset: usize) -> u32 {
        u32::from(self.get16(offset)) | u32::from(self.get16(offset + 2)) << 16
    }

    pub fn set16(&mut self, offset: usize, value: u16) {
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub fn set32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub fn is_express(&self) -> bool {
        self.bytes.len() > SIZE
    }

    pub fn command(&self) -> u16 {
        self.get16(reg::COMMAND)
    }

    fn bar_offset(&self, index: usize) -> usize {
        match index {
            ROM_INDEX if self.bridge => reg::BRIDGE_ROM,
            ROM_INDEX => reg::ROM,
            _ => reg::BAR0 + index * 4,
        }
    }

    /// Adds a base address register; its writable bits are what makes sizing work.
    pub fn add_bar(&mut self, index: usize, bar: Bar) {
        let last = if self.bridge { 1 } else { 5 };
        assert!(bar.size.is_power_of_two(), "a base address register decodes a power of two");
        assert!(index == ROM_INDEX || index <= last, "no such base address register");
        let offset = self.bar_offset(index);
        let mask = !(bar.size - 1);
        let (flags, low) = match bar.kind {
            BarKind::Io => (1u32, mask as u32 & !3),
            BarKind::Memory32 => (0, mask as u32 & !0xf),
            BarKind::Memory64Prefetchable => (0xc, mask as u32 & !0xf),
            BarKind::Rom => (0, mask as u32 & !0x7ff | 1),
        };
        self.preset(offset, &flags.to_le_bytes());
        self.allow(offset, &low.to_le_bytes());
        if bar.kind == BarKind::Memory64Prefetchable {
            assert!(index < last, "a 64-bit base address takes two registers");
            self.allow(offset + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[index] = Some(bar);
    }

    pub fn bar(&self, index: usize) -> Option<Bar> {
        self.bars[index]
    }

    /// What the register holds, whether or not the function decodes it.
    pub fn bar_address(&self, index: usize) -> u64 {
        let low = self.get32(self.bar_offset(index));
        match self.bars[index].map(|b| b.kind) {
            None => 0,
            Some(BarKind::Io) => u64::from(low & !3),
            Some(BarKind::Memory32) => u64::from(low & !0xf),
            Some(BarKind::Rom) => u64::from(low & !0x7ff),
            Some(BarKind::Memory64Prefetchable) => {
                u64::from(low & !0xf) | u64::from(self.get32(self.bar_offset(index) + 4)) << 32
            }
        }
    }

    /// Where the function answers for a base address now.
    pub fn decoded(&self, index: usize) -> Option<u64> {
        let bar = self.bars[index]?;
        let enable = if bar.kind == BarKind::Io { command::IO } else { command::MEMORY };
        if self.command() & enable == 0 || bar.kind == BarKind::Rom && self.get8(self.bar_offset(index)) & 1 == 0 {
            return None;
        }
        let address = self.bar_address(index);
        // Zero and the pattern of sizing are no addresses.
        let last = address.checked_add(bar.size - 1)?;
        let top = if bar.kind == BarKind::Memory64Prefetchable { u64::MAX } else { u64::from(u32::MAX) };
        (address != 0 && last < top).then_some(address)
    }

    /// Adds a capability of `body.len() + 2` bytes at a given offset; gives the offset back.
    pub fn add_capability(&mut self, id: u8, offset: usize, body: &[u8]) -> usize {
        assert!(offset >= 0x40 && offset.is_multiple_of(4) && offset + 2 + body.len() <= SIZE, "capability outside of its space");
        // A new capability is the first of the chain.
        let next = self.bytes[reg::CAPABILITIES];
        self.preset(offset, &[id, next]);
        self.preset(offset + 2, body);
        self.preset(reg::CAPABILITIES, &[offset as u8]);
        let status = self.get16(reg::STATUS) | status::CAPABILITIES;
        self.preset(reg::STATUS, &status.to_le_bytes());
        offset
    }

    /// An access that does not cross the end of a doubleword. What does not exist reads as ones.
    pub fn read(&self, offset: usize, size: usize) -> u32 {
        let mut value = 0;
        for i in 0..size.min(4) {
            value |= u32::from(self.bytes.get(offset + i).copied().unwrap_or(0xff)) << (8 * i);
        }
        value
    }

    pub fn write(&mut self, offset: usize, size: usize, value: u32) {
        for i in 0..size.min(4) {
            let at = offset + i;
            if at >= self.bytes.len() {
                return;
            }
            let byte = (value >> (8 * i)) as u8;
            let allowed = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !allowed | byte & allowed) & !(byte & self.clear[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Config {
        let mut c = Config::new(Identity {
            vendor: 0x1af4,
            device: 0x1001,
            class: 0x010000,
            subsystem_vendor: 0x1af4,
            subsystem: 2,
            interrupt_pin: 1,
            ..Identity::default()
        });
        c.add_bar(0, Bar { kind: BarKind::Io, size: 0x80 });
        c.add_bar(1, Bar { kind: BarKind::Memory32, size: 0x1000 });
        c.add_bar(4, Bar { kind: BarKind::Memory64Prefetchable, size: 0x4000 });
        c
    }

    #[test]
    fn header_of_a_device() {
        let c = device();
        assert_eq!(c.read(0, 4), 0x1001_1af4);
        assert_eq!(c.read(8, 4), 0x0100_0000);
        assert_eq!(c.read(0x2c, 4), 0x0002_1af4);
        assert_eq!(c.read(0x3d, 1), 1);
        assert_eq!(c.read(0x100, 4), u32::MAX, "no extended space");
    }

    #[test]
    fn sizing_shows_the_size() {
        let mut c = device();
        for (offset, expected) in [(0x10, 0xffff_ff81), (0x14, 0xffff_f000), (0x18, 0), (0x20, 0xffff_c00c), (0x24, 0xffff_ffff)] {
            c.write(offset, 4, 0xffff_ffff);
            assert_eq!(c.read(offset, 4), expected, "{offset:#x}");
        }
        c.write(reg::COMMAND, 2, 7);
        for index in [0, 1, 4] {
            assert_eq!(c.decoded(index), None, "the pattern of sizing is no address");
        }
    }

    #[test]
    fn addresses_count_only_when_decoding_is_on() {
        let mut c = device();
        c.write(0x10, 4, 0x1000);
        c.write(0x14, 4, 0x1004_0000);
        c.write(0x20, 4, 0x0000_4000);
        c.write(0x24, 4, 0x80);
        assert_eq!([0, 1, 4].map(|i| c.decoded(i)), [None; 3]);
        c.write(reg::COMMAND, 2, u32::from(command::MEMORY));
        assert_eq!([0, 1, 4].map(|i| c.decoded(i)), [None, Some(0x1004_0000), Some(0x80_0000_4000)]);
        c.write(reg::COMMAND, 2, u32::from(command::IO));
        assert_eq!([0, 1, 4].map(|i| c.decoded(i)), [Some(0x1000), None, None]);
        c.reset();
        assert_eq!(c.read(0x10, 4), 1);
        assert_eq!(c.command(), 0);
    }

    #[test]
    fn only_writable_bits_change() {
        let mut c = device();
        c.write(0, 4, 0xffff_ffff);
        c.write(reg::COMMAND, 4, 0xffff_ffff);
        assert_eq!(c.read(0, 4), 0x1001_1af4);
        assert_eq!(c.command(), 0x0507, "no parity");
        c.set16(reg::STATUS, 0xf910);
        c.write(reg::STATUS, 2, 0x8000);
        assert_eq!(c.get16(reg::STATUS), 0x7910);
    }

    #[test]
    fn capabilities_form_a_chain_with_the_newest_first() {
        let mut c = device();
        c.add_capability(9, 0x40, &[1, 2]);
        c.add_capability(0x11, 0x98, &[0; 10]);
        assert_eq!(c.read(reg::STATUS, 2), 0x10);
        assert_eq!(c.read(reg::CAPABILITIES, 1), 0x98);
        assert_eq!(c.read(0x98, 2), 0x4011);
        assert_eq!(c.read(0x40, 4), 0x0201_0009);
    }

    #[test]
    fn the_rom_has_its_own_enable_bit() {
        let mut c = device();
        c.add_bar(ROM_INDEX, Bar { kind: BarKind::Rom, size: 0x40000 });
        c.write(reg::ROM, 4, 0xffff_fffe);
        assert_eq!(c.read(reg::ROM, 4), 0xfffc_0000);
        c.write(reg::ROM, 4, 0x1000_0000);
        c.write(reg::COMMAND, 2, 2);
        assert_eq!(c.decoded(ROM_INDEX), None);
        c.write(reg::ROM, 4, 0x1000_0001);
        assert_eq!(c.decoded(ROM_INDEX), Some(0x1000_0000));
    }

    #[test]
    fn a_bridge_keeps_its_windows() {
        let mut c = Config::new(Identity { vendor: 0x1b36, device: 1, class: 0x060400, bridge: true, ..Identity::default() });
        assert_eq!(c.read(reg::HEADER_TYPE, 1), 1);
        c.write(reg::PRIMARY_BUS, 4, 0x00ff_0100);
        c.write(reg::MEMORY_BASE, 4, 0xffff_ffff);
        c.write(reg::PREFETCH_BASE, 4, 0xffff_ffff);
        assert_eq!(c.read(reg::PRIMARY_BUS, 4), 0x00ff_0100);
        assert_eq!(c.read(reg::MEMORY_BASE, 4), 0xfff0_fff0);
        assert_eq!(c.read(reg::PREFETCH_BASE, 4), 0xfff1_fff1);
    }
}
