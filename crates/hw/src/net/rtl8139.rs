//! Realtek's RTL8139C+ fast Ethernet controller.
//!
//! Reference: *RTL8139C(L)+ Advanced datasheet* 1.1, chapters 5 to 7 (registers), 9 (C+ mode); *RTL8139D programming guide* (the
//! ring buffer of the older mode).
//!
//! | module | what |
//! |---|---|
//! | `transmit` | four buffers, or C+ descriptors |
//! | `receive` | ring buffer, or C+ descriptors |
//!
//! Not modelled: early receive and transmit, wake-up, the high-priority ring's precedence in time (it is sent first), loop-back,
//! writing the EEPROM, configuration registers beyond keeping what was written.

mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use self::receive::hash;

use std::sync::Arc;
use std::time::Duration;

use fabric::Region;
use net::{Mac, Nanos};
use spec::Result;

use self::transmit::Transmitter;
use super::card::{Cable, Card, Chip, Parts, Resets, Sent, Window, Wires};
use super::eeprom::{Eeprom, Pins, WORDS};
use crate::pci::function::Builder;
use crate::pci::{Bar, BarKind, Function, Identity, Signal};

/// Register offsets.
mod reg {
    pub const IDR: usize = 0x00;
    pub const MAR: usize = 0x08;
    /// C+: where the counters go.
    pub const DTCCR: usize = 0x10;
    pub const TSD: usize = 0x10;
    pub const TSAD: usize = 0x20;
    /// C+: rings of normal and high priority.
    pub const TNPDS: usize = 0x20;
    pub const THPDS: usize = 0x28;
    pub const RBSTART: usize = 0x30;
    pub const CR: usize = 0x37;
    pub const CAPR: usize = 0x38;
    pub const CBR: usize = 0x3a;
    pub const IMR: usize = 0x3c;
    pub const ISR: usize = 0x3e;
    pub const TCR: usize = 0x40;
    pub const RCR: usize = 0x44;
    pub const TCTR: usize = 0x48;
    pub const MPC: usize = 0x4c;
    pub const CR9346: usize = 0x50;
    pub const CONFIG1: usize = 0x52;
    pub const TIMERINT: usize = 0x54;
    pub const MSR: usize = 0x58;
    pub const TSAD_ALL: usize = 0x60;
    pub const BMCR: usize = 0x62;
    pub const BMSR: usize = 0x64;
    pub const ANAR: usize = 0x66;
    pub const ANLPAR: usize = 0x68;
    pub const TPPOLL: usize = 0xd9;
    pub const CPCR: usize = 0xe0;
    pub const RDSAR: usize = 0xe4;
}

mod cr {
    pub const BUFE: u8 = 1 << 0;
    pub const TE: u8 = 1 << 2;
    pub const RE: u8 = 1 << 3;
    pub const RST: u8 = 1 << 4;
}

mod isr {
    pub const ROK: u16 = 1 << 0;
    pub const TOK: u16 = 1 << 2;
    pub const RXOVW: u16 = 1 << 4;
    pub const LINK: u16 = 1 << 5;
    pub const SWINT: u16 = 1 << 8;
    pub const TIMEOUT: u16 = 1 << 14;
    pub const SERR: u16 = 1 << 15;
}

mod cpcr {
    pub const TX: u16 = 1 << 0;
    pub const RX: u16 = 1 << 1;
    pub const RX_CHECKSUM: u16 = 1 << 5;
    pub const RX_VLAN: u16 = 1 << 6;
}

/// The version of an RTL8139C+ in TCR.
const VERSION: u32 = 0x7480_0000;
const SPACE: usize = 0x100;
/// Nanoseconds of a tick of TCTR.
const TICK: u64 = 30;

/// Frames of one kind or another, as the tally dump has them.
#[derive(Clone, Copy, Default)]
struct Tally {
    sent: u64,
    received: u64,
    missed: u16,
    broadcasts: u64,
    multicasts: u32,
}

pub struct Rtl8139 {
    mac: Mac,
    regs: [u8; SPACE],
    eeprom: Eeprom,
    tx: Transmitter,
    /// The next C+ receive descriptor.
    rx_next: u32,
    /// What the ring has lost.
    tally: Tally,
    /// When TCTR was zero.
    timer_start: Nanos,
    /// TimerInt has been reported for this round.
    timer_fired: bool,
    scratch: Vec<u8>,
}

fn eeprom(mac: Mac) -> [u16; WORDS] {
    let mut words = [0; WORDS];
    words[..7].copy_from_slice(&[0x8129, 0x10ec, 0x8139, 0x1af4, 0x1100, 0x4020, 0xe112]);
    for (word, pair) in words[7..].iter_mut().zip(mac.0.chunks(2)) {
        *word = u16::from_le_bytes([pair[0], pair[1]]);
    }
    words
}

impl Rtl8139 {
    pub fn new(mac: Mac) -> Rtl8139 {
        Rtl8139 {
            mac,
            regs: [0; SPACE],
            eeprom: Eeprom::new(eeprom(mac)),
            tx: Transmitter::default(),
            rx_next: 0,
            tally: Tally::default(),
            timer_start: Nanos(0),
            timer_fired: false,
            scratch: Vec::new(),
        }
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.regs[at], self.regs[at + 1]])
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }

    fn get64(&self, at: usize) -> u64 {
        u64::from(self.get32(at)) | u64::from(self.get32(at + 4)) << 32
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.regs[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.regs[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn cause(&mut self, bits: u16) {
        let value = self.get16(reg::ISR) | bits;
        self.set16(reg::ISR, value);
    }

    fn plus(&self, bit: u16) -> bool {
        self.get16(reg::CPCR) & bit != 0
    }

    fn reset_all(&mut self, w: &mut Wires) {
        self.regs = [0; SPACE];
        self.regs[..6].copy_from_slice(&self.mac.0);
        self.regs[reg::CR] = cr::BUFE;
        self.set16(reg::CAPR, 0xfff0);
        self.set32(reg::TCR, VERSION | 0x700);
        self.regs[reg::CONFIG1] = 0x4d;
        self.regs[0x51] = 0x00;
        self.regs[0x59] = 0x01;
        self.set16(reg::BMCR, 0x1000);
        self.set16(reg::BMSR, 0x7809);
        self.set16(reg::ANAR, 0x05e1);
        for n in 0..4 {
            // The buffers are the driver's.
            self.set32(reg::TSD + 4 * n, transmit::TSD_OWN);
        }
        self.tx = Transmitter::default();
        self.rx_next = 0;
        self.timer_start = w.now;
        self.timer_fired = false;
        self.eeprom.set(Pins::default());
        w.signal.set_intx(false);
    }

    fn read_byte(&mut self, w: &Wires, at: usize) -> u8 {
        match at {
            reg::CR => {
                let empty = if self.buffer_is_empty() { cr::BUFE } else { 0 };
                self.regs[at] & !cr::BUFE | empty
            }
            reg::CR9346 => self.regs[at] & !1 | u8::from(self.eeprom.output()),
            // Full duplex at 100 Mb/s; bit 2: no link.
            reg::MSR => self.regs[at] & 0xc0 | if w.link_up { 0 } else { 4 },
            0x65 | 0x64 => {
                let link = if w.link_up { 0x24 } else { 0 };
                (self.get16(reg::BMSR) | link).to_le_bytes()[at - reg::BMSR]
            }
            0x68 | 0x69 => if w.link_up { 0x45e1u16 } else { 0 }.to_le_bytes()[at - reg::ANLPAR],
            0x6a => u8::from(w.link_up),
            0x48..=0x4b => self.ticks(w).to_le_bytes()[at - reg::TCTR],
            0x60 | 0x61 => self.all_statuses().to_le_bytes()[at - reg::TSAD_ALL],
            _ => self.regs[at],
        }
    }

    fn ticks(&self, w: &Wires) -> u32 {
        (w.now.since(self.timer_start).as_nanos() as u64 / TICK) as u32
    }

    fn write8(&mut self, w: &mut Wires, at: usize, value: u8) {
        match at {
            reg::CR => self.write_command(w, value),
            reg::CR9346 => {
                self.regs[at] = value & 0xce;
                let programming = value & 0xc0 == 0x80;
                let bit = |n: u8| programming && value >> n & 1 != 0;
                self.eeprom.set(Pins { select: bit(3), clock: bit(2), input: bit(1) });
                if value & 0xc0 == 0x40 {
                    // The contents are loaded again.
                    self.regs[..6].copy_from_slice(&self.mac.0);
                    self.regs[at] = 0;
                }
            }
            reg::TPPOLL => {
                if self.regs[reg::CR] & cr::TE != 0 && value & 0xc0 != 0 {
                    self.tx.poll(value);
                    w.send = true;
                }
                if value & 1 != 0 {
                    self.cause(isr::SWINT);
                }
            }
            // The configuration registers are behind a lock.
            0x51..=0x53 | 0x59 | 0x5a | 0xd8 if self.regs[reg::CR9346] & 0xc0 != 0xc0 => {}
            reg::MSR => self.regs[at] = value & 0xc0,
            0x3a | 0x3b | 0x48..=0x4b | 0x5e | 0x60 | 0x61 | 0x64 | 0x65 | 0x68..=0x6b => {}
            _ => self.regs[at] = value,
        }
    }

    fn write_command(&mut self, w: &mut Wires, value: u8) {
        if value & cr::RST != 0 {
            let mac = self.regs;
            self.reset_all(w);
            // A software reset leaves address and filters, and the mode of the configuration lock.
            self.regs[reg::IDR..reg::DTCCR].copy_from_slice(&mac[reg::IDR..reg::DTCCR]);
            self.regs[reg::CR9346] = mac[reg::CR9346];
            return;
        }
        if value & cr::RE != 0 && self.regs[reg::CR] & cr::RE == 0 {
            self.set16(reg::CBR, 0);
            self.rx_next = 0;
        }
        if value & cr::TE == 0 {
            self.tx.stop();
        }
        self.regs[reg::CR] = value & (cr::TE | cr::RE);
        w.poke = true;
    }

    fn write16(&mut self, w: &mut Wires, at: usize, value: u16) {
        match at {
            reg::ISR => {
                let left = self.get16(reg::ISR) & !value;
                self.set16(reg::ISR, left);
            }
            reg::CAPR => {
                self.set16(at, value);
                w.poke = true;
            }
            reg::CPCR => {
                self.set16(at, value & 0x7b);
                w.poke = true;
            }
            reg::BMCR => {
                // Negotiation is over at once.
                self.set16(at, value & 0x3100);
                if value & 0x8200 != 0 {
                    self.cause(isr::LINK);
                }
            }
            reg::MPC | 0x4e => self.set16(at, 0),
            _ => {
                let [low, high] = value.to_le_bytes();
                self.write8(w, at, low);
                self.write8(w, at + 1, high);
            }
        }
    }

    fn write32(&mut self, w: &mut Wires, at: usize, value: u32) {
        match at {
            0x10..=0x1c => self.write_status(w, (at - reg::TSD) / 4, value),
            reg::TCR => {
                let kept = self.get32(at) & !0x0307_0701;
                self.set32(at, kept | value & 0x0307_0700);
            }
            reg::RCR => {
                self.set32(at, value);
                w.poke = true;
            }
            reg::TCTR => {
                self.timer_start = w.now;
                self.timer_fired = false;
            }
            reg::MPC => self.set32(at, 0),
            reg::TIMERINT => {
                self.set32(at, value);
                self.timer_fired = false;
            }
            reg::RBSTART => self.set32(at, value),
            // New rings begin with their first descriptor.
            reg::TNPDS | 0x24 | reg::THPDS | 0x2c => {
                self.set32(at, value);
                self.tx.restart(at >= reg::THPDS);
            }
            0xe4 | 0xe8 => {
                let mask = if at == reg::RDSAR { !0xff } else { !0 };
                self.set32(at, value & mask);
                self.rx_next = 0;
                w.poke = true;
            }
            _ => {
                self.write16(w, at, value as u16);
                self.write16(w, at + 2, (value >> 16) as u16);
            }
        }
    }

    /// Stores the counters where DTCCR says.
    fn dump_tally(&mut self, w: &Wires, command: u32) {
        let at = u64::from(command & !0x3f) | u64::from(self.get32(reg::DTCCR + 4)) << 32;
        let t = self.tally;
        let mut text = Vec::new();
        text.extend(t.sent.to_le_bytes());
        text.extend(t.received.to_le_bytes());
        // Errors there are none of.
        text.extend([0; 12]);
        text.extend(t.missed.to_le_bytes());
        text.extend([0; 10]);
        text.extend((t.received - t.broadcasts - u64::from(t.multicasts)).to_le_bytes());
        text.extend(t.broadcasts.to_le_bytes());
        text.extend(t.multicasts.to_le_bytes());
        text.extend([0; 4]);
        if !w.memory.write(at, &text) {
            w.report(format_args!("the counters cannot be written to {at:#x}"));
        }
        self.set32(reg::DTCCR, command & !0x3f);
    }

    fn read_one(&mut self, w: &mut Wires, at: usize, size: usize) -> u64 {
        (0..size).filter(|n| at + n < SPACE).fold(0, |value, n| value | u64::from(self.read_byte(w, at + n)) << (8 * n))
    }
}

impl Chip for Rtl8139 {
    fn name(&self) -> &'static str {
        "rtl8139"
    }

    fn read(&mut self, w: &mut Wires, _region: usize, offset: u64, size: u8) -> u64 {
        self.read_one(w, offset as usize % SPACE, size.into())
    }

    fn write(&mut self, w: &mut Wires, _region: usize, offset: u64, size: u8, value: u64) {
        let at = offset as usize % SPACE;
        match size {
            1 => self.write8(w, at, value as u8),
            2 if at % 2 == 0 => self.write16(w, at, value as u16),
            4 if at % 4 == 0 => self.write32(w, at, value as u32),
            8 if at % 8 == 0 => {
                self.write32(w, at, value as u32);
                self.write32(w, at + 4, (value >> 32) as u32);
            }
            _ => w.report(format_args!("an unaligned write of {size} bytes to {at:#x}")),
        }
    }

    fn send(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        self.transmit(w, cable)
    }

    fn ready(&mut self, w: &mut Wires) -> bool {
        self.has_room(w)
    }

    fn receive(&mut self, w: &mut Wires, frame: &[u8]) -> bool {
        self.store(w, frame)
    }

    fn update(&mut self, w: &mut Wires) {
        let limit = self.get32(reg::TIMERINT);
        if limit != 0 && !self.timer_fired && self.ticks(w) >= limit {
            self.timer_fired = true;
            self.cause(isr::TIMEOUT);
        }
        let wanted = self.get16(reg::ISR) & self.get16(reg::IMR) != 0;
        w.signal.set_intx(wanted);
    }

    fn deadline(&self) -> Option<Nanos> {
        let limit = self.get32(reg::TIMERINT);
        let delay = Duration::from_nanos(u64::from(limit) * TICK);
        (limit != 0 && !self.timer_fired).then(|| self.timer_start.after(delay))
    }

    fn link_changed(&mut self, _w: &mut Wires) {
        self.cause(isr::LINK);
    }

    fn reset(&mut self, w: &mut Wires) {
        self.tally = Tally::default();
        self.reset_all(w);
    }
}

/// Makes a card with its function.
pub fn function(parts: Parts) -> Result<(Arc<Card>, Arc<Function>)> {
    let Parts { mac, backend, space, messages, rom } = parts;
    let identity = Identity {
        vendor: 0x10ec,
        device: 0x8139,
        class: 0x02_0000,
        revision: 0x20,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        interrupt_pin: 1,
        ..Identity::default()
    };
    let mut builder = Builder::new("rtl8139", identity);
    let signal = Arc::new(Signal::new(messages));
    let card = Card::new(Box::new(Rtl8139::new(mac)), backend, space, signal.clone());
    let window = || Arc::new(Window { card: card.clone(), region: 0 });
    builder.bar(0, Bar { kind: BarKind::Io, size: SPACE as u64 }, Region::device("rtl8139-io", window()));
    builder.bar(1, Bar { kind: BarKind::Memory32, size: SPACE as u64 }, Region::device("rtl8139-mem", window()));
    builder.rom(rom)?;
    let function = builder.build(signal, Some(Arc::new(Resets(card.clone()))));
    Ok((card, function))
}
