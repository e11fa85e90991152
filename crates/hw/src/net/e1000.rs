//! Intel's gigabit controllers 82540EM (`e1000`) and 82574L (`e1000e`).
//!
//! Reference: *PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual* (317453), chapters 3 (descriptors,
//! offloads), 5 (EEPROM), 13 (registers); *82574 GbE Controller Family Datasheet* (317694), chapters 7.4 (interrupts), 10.
//!
//! | module | what |
//! |---|---|
//! | `regs` | names of registers and bits, and which bits software may write |
//! | `phy` | the transceiver behind MDIC |
//! | `interrupt` | causes, masks, moderation, MSI-X |
//! | `ring` | the registers of a descriptor ring |
//! | `transmit` | descriptors, contexts, frames |
//! | `receive` | filters, descriptors |
//! | `function` | the PCI functions |
//!
//! Not modelled: the delay timers (RDTR, RADV, TIDV, TADV: a batch of frames takes the place of the delay; ITR and EITR are
//! modelled), loop-back, wake-up, packet split, receive-side scaling (everything is on queue 0), time stamps of frames,
//! writing the EEPROM, the 82542's register addresses, flow control.

mod function;
mod interrupt;
mod phy;
mod receive;
pub mod regs;
mod ring;
#[cfg(test)]
mod tests;
mod transmit;

use net::{Mac, Nanos};

use self::interrupt::Interrupts;
use self::phy::Phy;
use self::regs::*;
use self::transmit::Transmitter;
use super::card::{Cable, Chip, Sent, Wires};
use super::eeprom::{Eeprom, Pins, WORDS};

pub use self::function::function;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    I82540,
    I82574,
}

/// Regions of the chip, as base addresses lead to them.
pub const REGION_MEMORY: usize = 0;
pub const REGION_PORTS: usize = 1;
pub const REGION_FLASH: usize = 2;

/// Words of the register space.
const SPACE: usize = 0x2_0000 / 4;
/// What the EEPROM's words add up to.
const EEPROM_SUM: u16 = 0xbaba;
/// Where the EEPROM's own sum is.
const EEPROM_SUM_AT: usize = 0x3f;
/// Nanoseconds of the clock that SYSTIM counts.
const SYSTIM_TICK: u64 = 40;

pub struct E1000 {
    kind: Kind,
    mac: Mac,
    regs: Box<[u32]>,
    phy: Phy,
    eeprom: Eeprom,
    irq: Interrupts,
    tx: Transmitter,
    /// Frames for the guest are laid out here.
    scratch: Vec<u8>,
    /// Descriptors that the next frame needs.
    needed: u32,
    /// The register that the ports reach.
    io_address: u32,
    systim_start: Nanos,
}

/// The first words: address, identity, their sum.
fn eeprom(kind: Kind, mac: Mac) -> [u16; WORDS] {
    let mut words = [0xffff; WORDS];
    for (word, pair) in words.iter_mut().zip(mac.0.chunks(2)) {
        *word = u16::from_le_bytes([pair[0], pair[1]]);
    }
    let (device, subsystem, subsystem_vendor) = match kind {
        Kind::I82540 => (0x100e, 0x1100, 0x1af4),
        Kind::I82574 => (0x10d3, 0x0000, 0x8086),
    };
    words[3..0x10].copy_from_slice(&[0, 0xffff, 0, 0, 0, 0x3000, 0x1000, 0x6403, subsystem, subsystem_vendor, device, 0x8086, 0x3040]);
    let sum = words[..EEPROM_SUM_AT].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
    words[EEPROM_SUM_AT] = EEPROM_SUM.wrapping_sub(sum);
    words
}

impl E1000 {
    pub fn new(kind: Kind, mac: Mac) -> E1000 {
        E1000 {
            kind,
            mac,
            regs: vec![0; SPACE].into_boxed_slice(),
            phy: Phy::new(kind),
            eeprom: Eeprom::new(eeprom(kind, mac)),
            irq: Interrupts::default(),
            tx: Transmitter::default(),
            scratch: Vec::new(),
            needed: 1,
            io_address: 0,
            systim_start: Nanos(0),
        }
    }

    fn get(&self, at: u32) -> u32 {
        self.regs[at as usize / 4]
    }

    fn set(&mut self, at: u32, value: u32) {
        self.regs[at as usize / 4] = value;
    }

    fn has(&self, at: u32, bits: u32) -> bool {
        self.get(at) & bits != 0
    }

    /// Adds to a statistics counter, which stops at its end.
    fn count(&mut self, at: u32, n: u32) {
        let value = self.get(at).saturating_add(n);
        self.set(at, value);
    }

    /// Adds to a counter of two words.
    fn count_octets(&mut self, low: u32, n: u64) {
        let value = (u64::from(self.get(low)) | u64::from(self.get(low + 4)) << 32).saturating_add(n);
        self.set(low, value as u32);
        self.set(low + 4, (value >> 32) as u32);
    }

    fn status(&self, w: &Wires) -> u32 {
        let link = if w.link_up { STATUS_LU } else { 0 };
        let master = if self.kind == Kind::I82574 && !self.has(CTRL, CTRL_GIO_MASTER_DISABLE) { STATUS_GIO_MASTER } else { 0 };
        STATUS_FD | STATUS_SPEED_1000 | STATUS_ASDV_1000 | link | master
    }

    fn eecd(&self) -> u32 {
        let value = self.get(EECD) | EECD_PRES;
        let granted = if value & EECD_REQ != 0 { EECD_GNT } else { 0 };
        let data = if self.eeprom.output() { EECD_DO } else { 0 };
        match self.kind {
            Kind::I82540 => value | granted | data,
            Kind::I82574 => value | granted | EECD_AUTO_RD,
        }
    }

    /// Starts a read through EERD, which is over at once.
    fn eeprom_read(&mut self, value: u32) {
        let (shift, mask, done) = match self.kind {
            Kind::I82540 => (8, 0xff, EERD_DONE),
            Kind::I82574 => (2, 0x3fff, EERD_DONE_82574),
        };
        let address = (value >> shift & mask) as usize;
        let word = self.eeprom.words.get(address).copied().unwrap_or(0xffff);
        let kept = value & mask << shift;
        let value = if value & EERD_START != 0 { u32::from(word) << 16 | done | kept } else { kept };
        self.set(EERD, value);
    }

    /// The free-running clock of the 82574.
    fn systim(&self, w: &Wires) -> u64 {
        let timinca = self.get(TIMINCA);
        let period = u64::from(timinca >> 24).max(1) * SYSTIM_TICK;
        let ticks = w.now.since(self.systim_start).as_nanos() as u64 / period;
        ticks.wrapping_mul(u64::from(timinca & 0xff_ffff))
    }

    fn read_register(&mut self, w: &mut Wires, at: u32) -> u32 {
        match at {
            STATUS => self.status(w),
            EECD => self.eecd(),
            ICR => self.read_icr(w),
            ICS if self.kind == Kind::I82574 => self.get(ICR),
            ICS | IMC => 0,
            IMS => self.get(IMS),
            SWSM => {
                let value = self.get(SWSM);
                self.set(SWSM, value | SWSM_SMBI);
                value
            }
            SYSTIML => self.systim(w) as u32,
            SYSTIMH => (self.systim(w) >> 32) as u32,
            EEMNGCTL => EEMNGCTL_DONE,
            STATISTICS..=STATISTICS_LAST => std::mem::take(&mut self.regs[at as usize / 4]),
            _ => self.get(at),
        }
    }

    fn write_register(&mut self, w: &mut Wires, at: u32, value: u32) {
        match at {
            CTRL => self.write_ctrl(w, value),
            EECD => {
                self.set(EECD, value & EECD_WRITABLE);
                let bit = |bit| value & bit != 0;
                self.eeprom.set(Pins { select: bit(EECD_CS), clock: bit(EECD_SK), input: bit(EECD_DI) });
            }
            EERD => self.eeprom_read(value),
            MDIC => {
                let result = self.phy.transfer(value, w.link_up);
                self.set(MDIC, result);
                if value & MDIC_INTERRUPT != 0 {
                    self.cause(ICR_MDAC);
                }
            }
            ICR => {
                let left = self.get(ICR) & !value;
                self.set(ICR, left);
            }
            ICS => self.cause(value),
            IMS => {
                let mask = self.get(IMS) | value & self.causes();
                self.set(IMS, mask);
            }
            IMC => {
                let mask = self.get(IMS) & !value;
                self.set(IMS, mask);
            }
            _ => self.write_plain(w, at, value),
        }
    }

    fn write_plain(&mut self, w: &mut Wires, at: u32, value: u32) {
        let Some(mask) = writable(at, self.kind) else {
            return w.report(format_args!("there is no register {at:#x} to write"));
        };
        let old = self.get(at);
        self.set(at, old & !mask | value & mask);
        // Something to send, or room for frames.
        w.poke |= matches!(at, TDT | TDT1 | TCTL | RDT | RCTL);
        if at == TIMINCA || at == SYSTIML {
            self.systim_start = w.now;
        }
    }

    fn write_ctrl(&mut self, w: &mut Wires, value: u32) {
        if value & CTRL_PHY_RST != 0 {
            self.phy.reset();
            self.cause(ICR_LSC);
        }
        if value & CTRL_RST != 0 {
            return self.reset_all(w);
        }
        self.set(CTRL, value & !(CTRL_RST | CTRL_PHY_RST));
    }

    fn reset_all(&mut self, w: &mut Wires) {
        self.regs.fill(0);
        for (at, value) in defaults(self.kind) {
            self.set(*at, *value);
        }
        let [a, b, c, d, e, f] = self.mac.0;
        self.set(RA, u32::from_le_bytes([a, b, c, d]));
        self.set(RA + 4, u32::from_le_bytes([e, f, 0, 0]) | RAH_VALID);
        self.tx = Transmitter::default();
        self.irq.reset();
        self.needed = 1;
        self.eeprom.set(Pins::default());
        self.systim_start = w.now;
        w.signal.set_intx(false);
    }

    /// A register by the number that a driver used; `None` if that makes no sense.
    fn address(offset: u64) -> Option<u32> {
        (offset < SPACE as u64 * 4).then_some(offset as u32 & !3)
    }

    fn read_ports(&mut self, w: &mut Wires, offset: u64) -> u32 {
        match offset {
            0 => self.io_address,
            4 => E1000::address(self.io_address.into()).map_or(0, |at| self.read_register(w, at)),
            _ => 0,
        }
    }

    fn write_ports(&mut self, w: &mut Wires, offset: u64, value: u32) {
        match offset {
            0 => self.io_address = value,
            4 => {
                if let Some(at) = E1000::address(self.io_address.into()) {
                    self.write_register(w, at, value);
                }
            }
            _ => {}
        }
    }

    fn read_word(&mut self, w: &mut Wires, region: usize, offset: u64) -> u32 {
        match region {
            REGION_MEMORY => E1000::address(offset).map_or(0, |at| self.read_register(w, at)),
            REGION_PORTS => self.read_ports(w, offset & !3),
            _ => u32::MAX,
        }
    }

    fn write_word(&mut self, w: &mut Wires, region: usize, offset: u64, value: u32) {
        match region {
            REGION_MEMORY => {
                if let Some(at) = E1000::address(offset) {
                    self.write_register(w, at, value);
                }
            }
            REGION_PORTS => self.write_ports(w, offset & !3, value),
            _ => {}
        }
    }
}

impl Chip for E1000 {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::I82540 => "e1000",
            Kind::I82574 => "e1000e",
        }
    }

    fn read(&mut self, w: &mut Wires, region: usize, offset: u64, size: u8) -> u64 {
        let low = u64::from(self.read_word(w, region, offset)) >> (offset % 4 * 8);
        if size == 8 {
            return low | u64::from(self.read_word(w, region, offset + 4)) << 32;
        }
        low & fabric::device::mask(size)
    }

    fn write(&mut self, w: &mut Wires, region: usize, offset: u64, size: u8, value: u64) {
        if size < 4 || offset % 4 != 0 {
            return w.report(format_args!("registers are written as words, not {size} bytes at {offset:#x}"));
        }
        self.write_word(w, region, offset, value as u32);
        if size == 8 {
            self.write_word(w, region, offset + 4, (value >> 32) as u32);
        }
    }

    fn send(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        self.transmit(w, cable)
    }

    fn ready(&mut self, _w: &mut Wires) -> bool {
        self.has_room()
    }

    fn receive(&mut self, w: &mut Wires, frame: &[u8]) -> bool {
        self.store(w, frame)
    }

    fn update(&mut self, w: &mut Wires) {
        self.drive(w);
    }

    fn deadline(&self) -> Option<Nanos> {
        self.irq.deadline()
    }

    fn link_changed(&mut self, _w: &mut Wires) {
        self.phy.negotiated();
        self.cause(ICR_LSC);
    }

    fn reset(&mut self, w: &mut Wires) {
        self.phy.reset();
        self.io_address = 0;
        self.reset_all(w);
    }
}
