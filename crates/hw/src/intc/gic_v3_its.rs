//! ITS: the interrupt translation service of a GICv3, which makes LPIs of messages from devices.
//!
//! **Reference**: Arm GIC Architecture Specification v3, IHI 0069H, chapters 5 and 12.19. Identification and capabilities as
//! QEMU's `virt` presents them: 16-bit DeviceIDs, EventIDs and collections, CPUs named by number.
//! **Pins**: in: messages; out: LPIs of the controller; DMA for the command queue.
//! **Not modelled**: virtual LPIs. Device, collection and translation tables are kept here and not in the memory that the
//! guest gives for them, which the architecture leaves to the implementation; programming GITS_BASERn forgets them.
//! Commands with errors are skipped.
//! **Invariants**: the service is locked before the controller.

use super::gic_v3::GicV3;
use fabric::{AddressSpace, MmioTarget, Msi, MsiSink};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// GITS_CTLR: Enabled and Quiescent.
const CTLR_ENABLED: u32 = 1;
const CTLR_QUIESCENT: u32 = 1 << 31;
/// Physical LPIs, entries of 12 bytes, 16 bits of EventID, DeviceID and collection.
const TYPER: u64 = 1 << 36 | 0xf << 32 | 0xf << 13 | 0xf << 8 | 0xb << 4 | 1;
/// GITS_BASER0 and 1: devices and collections, entries of 8 bytes, pages of 64 KiB; and what can be written.
const BASER_RESET: [u64; 2] = [1 << 56 | 7 << 48 | 2 << 8, 4 << 56 | 7 << 48 | 2 << 8];
const BASER_FIXED: u64 = 7 << 56 | 0x1f << 48;
const VALID: u64 = 1 << 63;
const COMMAND_BYTES: u64 = 32;
/// The translation frame follows the control frame; GITS_TRANSLATER is at 0x40 in it.
pub const TRANSLATER: u64 = 0x1_0040;
/// Translations all devices may have together, so that a guest cannot take the host's memory.
const MAPPINGS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mapping {
    intid: u32,
    collection: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    enabled: bool,
    cbaser: u64,
    cwriter: u64,
    creadr: u64,
    baser: [u64; 2],
    /// Number of EventID bits of each mapped device.
    devices: HashMap<u32, u8>,
    collections: HashMap<u16, usize>,
    mappings: HashMap<(u32, u32), Mapping>,
}

impl State {
    fn reset() -> State {
        let (devices, collections, mappings) = Default::default();
        State { enabled: false, cbaser: 0, cwriter: 0, creadr: 0, baser: BASER_RESET, devices, collections, mappings }
    }

    /// The translation of an event, and the CPU it goes to if its collection is mapped.
    fn find(&self, device: u32, event: u32) -> Option<(Mapping, Option<usize>)> {
        let mapping = self.mappings.get(&(device, event))?;
        Some((*mapping, self.collections.get(&mapping.collection).copied()))
    }

    fn queue_bytes(&self) -> u64 {
        ((self.cbaser & 0xff) + 1) * 4096
    }
}

pub struct Its {
    state: Mutex<State>,
    gic: Arc<GicV3>,
    space: Arc<AddressSpace>,
    address: u64,
}

impl Its {
    /// A service at guest-physical `address` (128 KiB of registers).
    pub fn new(gic: Arc<GicV3>, space: Arc<AddressSpace>, address: u64) -> Arc<Its> {
        Arc::new(Its { state: Mutex::new(State::reset()), gic, space, address })
    }

    pub fn reset(&self) {
        *self.lock() = State::reset();
    }

    /// What is mapped, for the monitor.
    pub fn info(&self) -> String {
        let s = self.lock();
        format!("ITS: {} devices, {} events, {} collections\n", s.devices.len(), s.mappings.len(), s.collections.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event of a device: its LPI becomes pending (or, for CLEAR, does not stay so).
    fn event(&self, s: &State, device: u32, event: u32, pending: bool) {
        if let Some((mapping, Some(cpu))) = s.find(device, event) {
            self.gic.set_lpi(cpu, mapping.intid, pending);
        }
    }

    fn read_register(&self, s: &State, offset: u64) -> u64 {
        match offset {
            0x0000 => (CTLR_QUIESCENT | u32::from(s.enabled)).into(),
            0x0004 => 0x43b,
            0x0008 => TYPER,
            0x0080 => s.cbaser,
            0x0088 => s.cwriter,
            0x0090 => s.creadr,
            0x0100 => s.baser[0],
            0x0108 => s.baser[1],
            _ => 0,
        }
    }

    fn write_register(&self, s: &mut State, offset: u64, value: u64) {
        match offset {
            0x0000 => {
                s.enabled = value as u32 & CTLR_ENABLED != 0;
                self.run(s);
            }
            0x0080 if !s.enabled => {
                s.cbaser = value;
                s.creadr = 0;
            }
            0x0088 => {
                // Bit 0 is Retry: commands with errors have been skipped already.
                s.cwriter = value & !1;
                self.run(s);
            }
            0x0100 | 0x0108 if !s.enabled => {
                let n = (offset - 0x100) as usize / 8;
                s.baser[n] = value & !BASER_FIXED | BASER_RESET[n] & BASER_FIXED;
                if n == 0 {
                    s.devices.clear();
                    s.mappings.clear();
                } else {
                    s.collections.clear();
                }
            }
            _ => {}
        }
    }

    /// Carries out what is in the command queue.
    fn run(&self, s: &mut State) {
        let end = s.cwriter & 0xf_ffe0;
        if !s.enabled || s.cbaser & VALID == 0 || end >= s.queue_bytes() {
            return;
        }
        let base = s.cbaser & 0xf_ffff_ffff_f000;
        while s.creadr != end {
            let mut bytes = [0; COMMAND_BYTES as usize];
            if self.space.read_bytes(base + s.creadr, &mut bytes) == bytes.len() {
                let [a, b, c, d] = [0, 8, 16, 24].map(|i| u64::from_le_bytes(std::array::from_fn(|n| bytes[i + n])));
                self.command(s, a, b, c, d);
            }
            s.creadr = (s.creadr + COMMAND_BYTES) % s.queue_bytes();
        }
    }

    fn command(&self, s: &mut State, a: u64, b: u64, c: u64, d: u64) {
        let (device, event, collection) = ((a >> 32) as u32, b as u32, c as u16);
        match a as u8 {
            // MOVI
            0x01 => self.move_event(s, device, event, collection),
            // INT, CLEAR
            0x03 => self.event(s, device, event, true),
            0x04 => self.event(s, device, event, false),
            // MAPD
            0x08 => {
                s.mappings.retain(|(d, _), _| *d != device);
                if c & VALID == 0 {
                    s.devices.remove(&device);
                } else if device <= 0xffff && b & 0x1f <= 0xf {
                    s.devices.insert(device, (b & 0x1f) as u8 + 1);
                }
            }
            // MAPC
            0x09 => {
                let cpu = (c >> 16) as usize & 0xffff;
                if c & VALID == 0 {
                    s.collections.remove(&collection);
                } else if cpu < self.gic.cpus() {
                    s.collections.insert(collection, cpu);
                }
            }
            // MAPTI, MAPI
            0x0a => map_event(s, device, event, Mapping { intid: (b >> 32) as u32, collection }),
            0x0b => map_event(s, device, event, Mapping { intid: event, collection }),
            // INV, INVALL
            0x0c => {
                if let Some((mapping, Some(cpu))) = s.find(device, event) {
                    self.gic.invalidate_lpis(cpu, Some(mapping.intid));
                }
            }
            0x0d => {
                if let Some(&cpu) = s.collections.get(&collection) {
                    self.gic.invalidate_lpis(cpu, None);
                }
            }
            // MOVALL
            0x0e => self.gic.move_lpis((c >> 16) as usize & 0xffff, (d >> 16) as usize & 0xffff, None),
            // DISCARD
            0x0f => {
                self.event(s, device, event, false);
                s.mappings.remove(&(device, event));
            }
            // SYNC (everything is done at once), and what does not exist.
            _ => {}
        }
    }

    fn move_event(&self, s: &mut State, device: u32, event: u32, collection: u16) {
        let Some((mapping, from)) = s.find(device, event) else { return };
        let Some(&to) = s.collections.get(&collection) else { return };
        if let Some(from) = from {
            self.gic.move_lpis(from, to, Some(mapping.intid));
        }
        s.mappings.insert((device, event), Mapping { collection, ..mapping });
    }
}

fn map_event(s: &mut State, device: u32, event: u32, mapping: Mapping) {
    let Some(&bits) = s.devices.get(&device) else { return };
    let lpi = (8192..1 << 16).contains(&mapping.intid);
    if lpi && event >> bits == 0 && (s.mappings.len() < MAPPINGS_MAX || s.mappings.contains_key(&(device, event))) {
        s.mappings.insert((device, event), mapping);
    }
}

impl MmioTarget for Its {
    fn read(&self, offset: u64, size: u8) -> u64 {
        if (0xffd0..0x1_0000).contains(&offset) {
            return super::gic_v3::id(offset & !3, 0x94).into();
        }
        let s = self.lock();
        let wide = matches!(offset, 0x08..0x10 | 0x80..0x98 | 0x100..0x140);
        let start = if wide { offset & !7 } else { offset & !3 };
        (self.read_register(&s, start) >> ((offset - start) * 8)) & fabric::device::mask(size)
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let mut s = self.lock();
        match (offset, size) {
            // Only words and doublewords are defined; a word replaces its half of a doubleword.
            (0x80..0x98 | 0x100..0x140, 4) if offset % 4 == 0 => {
                let (start, shift) = (offset & !7, offset % 8 * 8);
                let old = self.read_register(&s, start) & !(0xffff_ffff << shift);
                self.write_register(&mut s, start, old | (value & 0xffff_ffff) << shift);
            }
            // From a CPU there is no DeviceID; messages of devices come by `send`.
            (TRANSLATER, _) => {}
            (_, 4 | 8) => self.write_register(&mut s, offset, value),
            _ => {}
        }
    }
}

impl MsiSink for Its {
    fn send(&self, message: Msi) {
        let s = self.lock();
        if s.enabled && message.address == self.address + TRANSLATER {
            self.event(&s, message.device, message.data, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wires, torture};
    use fabric::{CpuInterface, Line, Ram, Region};

    const BASE: u64 = 0x808_0000;
    const RAM: u64 = 0x4000_0000;
    const IAR1: u32 = 0x0cc0;
    const EOIR1: u32 = 0x0cc1;

    struct Rig {
        its: Arc<Its>,
        ram: Arc<Ram>,
        gic: Arc<GicV3>,
        icc: Vec<Arc<dyn CpuInterface>>,
        wires: Arc<Wires>,
    }

    /// Two CPUs with LPIs on; all LPIs enabled; the command queue at 512 KiB.
    fn rig() -> Rig {
        let (space, ram, wires) = (AddressSpace::new(), Arc::new(Ram::new(0x10_0000).unwrap()), Wires::new());
        space.map(RAM, 0x10_0000, 0, Region::ram("ram", ram.clone()));
        let gic = GicV3::new(vec![0, 1], 32, Some(space.clone()));
        let (d, r) = (gic.distributor(), gic.redistributors(0, 2));
        d.write(0, 4, 3);
        ram.fill(0x1_0000, 0xe000, 0xa1);
        let icc: Vec<_> = (0..2).map(|c| gic.cpu_interface(c)).collect();
        for cpu in 0..2 {
            gic.connect(cpu, wires.line(cpu as u32), Line::nowhere());
            r.write(cpu as u64 * 0x2_0000 + 0x70, 8, RAM + 0x1_0000 | 15);
            r.write(cpu as u64 * 0x2_0000 + 0x78, 8, RAM + 0x2_0000 | 1 << 62);
            r.write(cpu as u64 * 0x2_0000, 4, 1);
            assert!(icc[cpu].write(0x0460, 0xf0) && icc[cpu].write(0x0cc7, 1));
        }
        let its = Its::new(gic.clone(), space, BASE);
        its.write(0x80, 8, VALID | RAM + 0x8_0000);
        its.write(0x100, 8, VALID | RAM + 0xa_0000);
        its.write(0x108, 8, VALID | RAM + 0xb_0000);
        its.write(0, 4, 1);
        Rig { its, ram, gic, icc, wires }
    }

    impl Rig {
        fn command(&self, words: [u64; 4]) {
            let at = self.its.read(0x88, 8);
            for (i, word) in words.into_iter().enumerate() {
                self.ram.store_u64(0x8_0000 + at + i as u64 * 8, word);
            }
            let next = (at + 32) % 4096;
            self.its.write(0x88, 8, next);
            assert_eq!(self.its.read(0x90, 8), next, "done");
        }

        /// Device 0x18 with 4 event bits, collection `n` at CPU `n`, event 1 to LPI 8200 by collection 0.
        fn map(&self) {
            self.command([0x18 << 32 | 8, 3, VALID | RAM + 0xc_0000, 0]);
            self.command([9, 0, VALID, 0]);
            self.command([9, 0, VALID | 1 << 16 | 1, 0]);
            self.command([0x18 << 32 | 0xa, 8200 << 32 | 1, 0, 0]);
            self.command([0xd, 0, 0, 0]);
            self.command([5, 0, 0, 0]);
        }

        fn message(&self, device: u32, data: u32) {
            self.its.send(Msi { address: BASE + TRANSLATER, data, device });
        }

        fn take(&self, cpu: usize) -> u64 {
            let intid = self.icc[cpu].read(IAR1).unwrap();
            self.icc[cpu].write(EOIR1, intid);
            intid
        }
    }

    #[test]
    fn registers_are_those_of_the_reference_machine() {
        let space = AddressSpace::new();
        let its = Its::new(GicV3::new(vec![0], 32, Some(space.clone())), space, BASE);
        let words = [(0, 0x8000_0000), (4, 0x43b), (8, 0x1_efb1), (0xc, 0x1f), (0x100, 0x200), (0x104, 0x107_0000), (0x108, 0x200), (0x110, 0)];
        let ids = [(0xffd0, 0x44), (0xffe0, 0x94), (0xffe4, 0xb4), (0xffe8, 0x3b), (0xfff0, 0xd), (0xfffc, 0xb1), (0x1_0040, 0)];
        for (at, value) in words.into_iter().chain(ids) {
            assert_eq!(its.read(at, 4), value, "{at:#x}");
        }
        let kept = [(0x80, u64::MAX), (0x88, u64::MAX - 1), (0x100, 0xf9e7_ffff_ffff_ffff), (0x108, 0xfce7_ffff_ffff_ffff), (0x110, 0)];
        for (at, value) in kept {
            its.write(at, 8, u64::MAX);
            assert_eq!(its.read(at, 8), value, "{at:#x}");
        }
        its.write(0x104, 4, 0);
        assert_eq!(its.read(0x100, 8), 0x107_0000_ffff_ffff);
        its.write(0, 4, 0xffff_ffff);
        assert_eq!(its.read(0, 4), 0x8000_0001);
        its.write(0x100, 8, 0);
        assert_eq!(its.read(0x100, 8), 0x107_0000_ffff_ffff, "fixed while enabled");
    }

    #[test]
    fn a_message_becomes_the_lpi_it_is_mapped_to() {
        let r = rig();
        r.map();
        r.message(0x18, 1);
        assert!(r.wires.level(0) && !r.wires.level(1));
        assert_eq!((r.take(0), r.take(0)), (8200, 1023));
        for (device, data) in [(0x18, 2), (0x19, 1), (0x18, 0x1_0001)] {
            r.message(device, data);
        }
        r.its.write(TRANSLATER, 4, 1);
        r.its.send(Msi { address: BASE + TRANSLATER + 4, data: 1, device: 0x18 });
        assert_eq!(r.take(0), 1023, "nothing of this is mapped");
        r.its.write(0, 4, 0);
        r.message(0x18, 1);
        assert_eq!(r.take(0), 1023, "the service is off");
    }

    #[test]
    fn commands_raise_clear_move_and_discard() {
        let r = rig();
        r.map();
        let (int, clear, movi, discard) = (3, 4, 1, 0xf);
        let event = |command: u64| [0x18 << 32 | command, 1, u64::from(command == movi), 0];
        r.command(event(int));
        assert!(r.wires.level(0));
        r.command(event(clear));
        assert!(!r.wires.level(0));
        r.command(event(int));
        r.command(event(movi));
        assert!(!r.wires.level(0) && r.wires.level(1), "the pending interrupt moved");
        assert_eq!(r.take(1), 8200);
        r.message(0x18, 1);
        r.command([0xe, 0, 1 << 16, 0]);
        assert_eq!((r.take(1), r.take(0)), (1023, 8200), "all of CPU 1 moved to CPU 0");
        r.message(0x18, 1);
        r.command(event(discard));
        assert!(!r.wires.level(1));
        r.message(0x18, 1);
        assert_eq!(r.take(1), 1023);
    }

    #[test]
    fn configuration_is_read_again_when_invalidated() {
        let r = rig();
        r.map();
        r.ram.store_u8(0x1_0000 + 8, 0xa0);
        r.message(0x18, 1);
        assert!(!r.wires.level(0), "disabled");
        r.ram.store_u8(0x1_0000 + 8, 0xa1);
        r.command([0x18 << 32 | 0xc, 1, 0, 0]);
        assert!(r.wires.level(0));
    }

    #[test]
    fn the_queue_wraps_and_bad_commands_are_skipped() {
        let r = rig();
        for i in 0..300 {
            r.command([i % 0x40 | i << 33, u64::MAX, u64::MAX, i << 16]);
        }
        r.its.reset();
        assert_eq!(*r.its.lock(), State::reset());
    }

    #[test]
    fn events_beyond_the_table_and_intids_that_are_no_lpis_are_refused() {
        let r = rig();
        r.map();
        r.command([0x18 << 32 | 0xa, 8201 << 32 | 16, 0, 0]);
        r.command([0x18 << 32 | 0xa, 40 << 32 | 2, 0, 0]);
        r.command([0x18 << 32 | 0xb, 3, 0, 0]);
        assert_eq!(r.its.lock().mappings.len(), 1);
        r.command([0x18 << 32 | 8, 3, 0, 0]);
        let s = r.its.lock();
        assert_eq!((s.mappings.len(), s.devices.len()), (0, 0), "MAPD replaced the table");
    }

    #[test]
    fn random_accesses_never_panic_and_reset_is_fresh() {
        let r = rig();
        torture(&*r.its, 0x2_0000, 71, |random| {
            r.ram.store_u64(0x8_0000 + random.below(512) * 8, random.next() >> random.below(64));
            r.message(random.below(4) as u32, random.below(4) as u32);
        });
        r.its.reset();
        r.gic.reset();
        assert_eq!(*r.its.lock(), State::reset());
        assert!(!r.wires.level(0) && !r.wires.level(1));
    }
}
