//! An NE2000 on PCI: the RTL8029AS around National's DP8390.
//!
//! Reference: *DP8390D/NS32490D NIC Network Interface Controller* data sheet (registers, ring, remote DMA); *RTL8029AS*
//! specification (pages 0 and 3, address space of the buffer).
//! Not modelled: loop-back, the send-packet command, monitor mode's counters, writing the EEPROM, half duplex.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use fabric::Region;
use net::{Mac, Offload, Transmit};
use spec::Result;

use super::card::{Cable, Card, Chip, FRAME_MIN, Parts, Resets, Sent, Window, Wires};
use crate::pci::function::Builder;
use crate::pci::{Bar, BarKind, Function, Identity, Signal};

/// The buffer behind remote DMA: the address at 0, memory from here to there.
const RAM_START: usize = 0x4000;
const RAM_END: usize = 0xc000;
const PAGE: usize = 256;
const FRAME_MAX: usize = 1518;
const CRC: usize = 4;
const HEADER: usize = 4;

mod cr {
    pub const STP: u8 = 1 << 0;
    pub const STA: u8 = 1 << 1;
    pub const TXP: u8 = 1 << 2;
    pub const ABORT: u8 = 1 << 5;
}

mod isr {
    pub const PRX: u8 = 1 << 0;
    pub const PTX: u8 = 1 << 1;
    pub const OVW: u8 = 1 << 4;
    pub const RDC: u8 = 1 << 6;
    pub const RST: u8 = 1 << 7;
}

mod rcr {
    pub const AB: u8 = 1 << 2;
    pub const AM: u8 = 1 << 3;
    pub const PRO: u8 = 1 << 4;
}

const DCR_WTS: u8 = 1 << 0;
const RSR_PRX: u8 = 1 << 0;
const RSR_PHY: u8 = 1 << 5;
const TSR_PTX: u8 = 1 << 0;

pub struct Ne2k {
    mac: Mac,
    ram: Box<[u8]>,
    cr: u8,
    isr: u8,
    imr: u8,
    rcr: u8,
    tcr: u8,
    dcr: u8,
    tsr: u8,
    rsr: u8,
    pstart: u8,
    pstop: u8,
    boundary: u8,
    current: u8,
    tpsr: u8,
    tbcr: u16,
    /// Remote DMA.
    rsar: u16,
    rbcr: u16,
    physical: [u8; 6],
    multicast: [u8; 8],
    /// A frame waits to be sent.
    sending: bool,
}

impl Ne2k {
    pub fn new(mac: Mac) -> Ne2k {
        let mut ram = vec![0; RAM_END].into_boxed_slice();
        // The address PROM, each byte twice, with the mark of 16-bit cards.
        for (n, byte) in mac.0.into_iter().enumerate() {
            ram[2 * n..2 * n + 2].fill(byte);
        }
        ram[28..32].fill(0x57);
        Ne2k {
            mac,
            ram,
            cr: cr::STP | cr::ABORT,
            isr: isr::RST,
            imr: 0,
            rcr: 0,
            tcr: 0,
            dcr: 0,
            tsr: 0,
            rsr: 0,
            pstart: 0,
            pstop: 0,
            boundary: 0,
            current: 0,
            tpsr: 0,
            tbcr: 0,
            rsar: 0,
            rbcr: 0,
            physical: [0; 6],
            multicast: [0; 8],
            sending: false,
        }
    }

    fn is_memory(at: usize) -> bool {
        at < 32 || (RAM_START..RAM_END).contains(&at)
    }

    /// The next byte of remote DMA. Past the ring's end it goes on at its start.
    fn advance(&mut self) {
        self.rsar = self.rsar.wrapping_add(1);
        if usize::from(self.rsar) == usize::from(self.pstop) * PAGE {
            self.rsar = u16::from(self.pstart) << 8;
        }
        self.rbcr = self.rbcr.saturating_sub(1);
        if self.rbcr == 0 {
            self.isr |= isr::RDC;
        }
    }

    fn read_data(&mut self) -> u8 {
        let at = usize::from(self.rsar);
        let byte = if Ne2k::is_memory(at) { self.ram[at] } else { 0xff };
        self.advance();
        byte
    }

    fn write_data(&mut self, byte: u8) {
        if self.rbcr == 0 {
            return;
        }
        let at = usize::from(self.rsar);
        if (RAM_START..RAM_END).contains(&at) {
            self.ram[at] = byte;
        }
        self.advance();
    }

    /// Bytes that an access to the data port moves: in word mode at least two.
    fn transfer(&self, size: u8) -> u8 {
        if self.dcr & DCR_WTS != 0 { size.max(2) } else { size }
    }

    fn read_register(&self, at: usize) -> u8 {
        match (self.cr >> 6, at) {
            (_, 0) => self.cr,
            (0, 1) => self.rsar as u8,
            (0, 3) => self.boundary,
            (0, 4) => self.tsr,
            (0, 7) => self.isr,
            (0, 8) => self.rsar as u8,
            (0, 9) => (self.rsar >> 8) as u8,
            // What tells an RTL8029 from other DP8390s.
            (0, 10) => 0x50,
            (0, 11) => 0x43,
            (0, 12) => self.rsr,
            (1, 1..=6) => self.physical[at - 1],
            (1, 7) => self.current,
            (1, 8..) => self.multicast[at - 8],
            (2, 1) => self.pstart,
            (2, 2) => self.pstop,
            (2, 4) => self.tpsr,
            (2, 12) => self.rcr,
            (2, 13) => self.tcr,
            (2, 14) => self.dcr,
            (2, 15) => self.imr,
            // CONFIG3: full duplex.
            (3, 6) => 0x40,
            _ => 0,
        }
    }

    fn write_register(&mut self, w: &mut Wires, at: usize, value: u8) {
        match (self.cr >> 6, at) {
            (_, 0) => self.command(w, value),
            (0, 1) => self.pstart = value,
            (0, 2) => self.pstop = value,
            (0, 3) => {
                self.boundary = value;
                w.poke = true;
            }
            (0, 4) => self.tpsr = value,
            (0, 5) => self.tbcr = self.tbcr & 0xff00 | u16::from(value),
            (0, 6) => self.tbcr = self.tbcr & 0xff | u16::from(value) << 8,
            (0, 7) => self.isr &= !(value & 0x7f),
            (0, 8) => self.rsar = self.rsar & 0xff00 | u16::from(value),
            (0, 9) => self.rsar = self.rsar & 0xff | u16::from(value) << 8,
            (0, 10) => self.rbcr = self.rbcr & 0xff00 | u16::from(value),
            (0, 11) => self.rbcr = self.rbcr & 0xff | u16::from(value) << 8,
            (0, 12) => self.rcr = value & 0x3f,
            (0, 13) => self.tcr = value & 0x1f,
            (0, 14) => self.dcr = value & 0x7f,
            (0, 15) => self.imr = value & 0x7f,
            (1, 1..=6) => self.physical[at - 1] = value,
            (1, 7) => {
                self.current = value;
                w.poke = true;
            }
            (1, 8..) => self.multicast[at - 8] = value,
            _ => {}
        }
    }

    fn command(&mut self, w: &mut Wires, value: u8) {
        // Neither started nor stopped: as before.
        let run = cr::STA | cr::STP;
        let value = if value & run == 0 { value | self.cr & run } else { value };
        self.cr = value & !cr::TXP | self.cr & cr::TXP;
        if value & cr::STP != 0 {
            self.isr |= isr::RST;
            self.cr &= !cr::TXP;
            self.sending = false;
            return;
        }
        self.isr &= !isr::RST;
        if value & 0x18 != 0 && value & cr::ABORT == 0 && self.rbcr == 0 {
            self.isr |= isr::RDC;
        }
        if value & cr::TXP != 0 {
            self.cr |= cr::TXP;
            self.sending = true;
        }
        w.poke = true;
    }

    fn is_running(&self) -> bool {
        self.cr & (cr::STA | cr::STP) == cr::STA
    }

    /// First page and pages of the ring, if it lies in memory.
    fn ring(&self) -> Option<(usize, usize)> {
        let (start, stop) = (usize::from(self.pstart), usize::from(self.pstop));
        let inside = start * PAGE >= RAM_START && stop * PAGE <= RAM_END && start < stop;
        let current = usize::from(self.current);
        (inside && (start..stop).contains(&current)).then(|| (start, stop - start))
    }

    /// Pages that the driver has read.
    fn free(&self, start: usize, count: usize) -> usize {
        let (current, boundary) = (usize::from(self.current), usize::from(self.boundary));
        if current == boundary {
            return count;
        }
        // Drivers name the page before the first one when they mean the last one.
        let boundary = if (start..start + count).contains(&boundary) { boundary } else { start + count - 1 };
        (boundary + count - current) % count
    }

    fn admits(&self, frame: &[u8]) -> bool {
        if frame.starts_with(&[0xff; 6]) {
            return self.rcr & rcr::AB != 0;
        }
        if frame[0] & 1 != 0 {
            let bit = super::rtl8139::hash(&frame[..6]) as usize;
            return self.rcr & rcr::AM != 0 && self.multicast[bit / 8] >> (bit % 8) & 1 != 0;
        }
        self.rcr & rcr::PRO != 0 || frame[..6] == self.physical
    }

    /// Copies into the ring, around its end.
    fn put(&mut self, start: usize, count: usize, at: usize, bytes: &[u8]) {
        let size = count * PAGE;
        let offset = at - start * PAGE;
        for (n, byte) in bytes.iter().enumerate() {
            self.ram[start * PAGE + (offset + n) % size] = *byte;
        }
    }
}

impl Chip for Ne2k {
    fn name(&self) -> &'static str {
        "ne2k_pci"
    }

    fn read(&mut self, _w: &mut Wires, _region: usize, offset: u64, size: u8) -> u64 {
        match offset {
            0..0x10 => (0..usize::from(size)).fold(0, |v, n| v | u64::from(self.read_register((offset as usize + n) % 16)) << (8 * n)),
            0x10..0x18 => {
                let value = (0..self.transfer(size)).fold(0, |v, n| v | u64::from(self.read_data()) << (8 * n));
                value & fabric::device::mask(size)
            }
            0x18..0x20 => {
                // Reading the reset port stops the chip.
                self.cr = cr::STP | cr::ABORT;
                self.isr |= isr::RST;
                self.sending = false;
                0
            }
            _ => u64::MAX & fabric::device::mask(size),
        }
    }

    fn write(&mut self, w: &mut Wires, _region: usize, offset: u64, size: u8, value: u64) {
        match offset {
            0..0x10 => {
                for n in 0..size {
                    self.write_register(w, (offset as usize + usize::from(n)) % 16, (value >> (8 * n)) as u8);
                }
            }
            0x10..0x18 => (0..self.transfer(size)).for_each(|n| self.write_data((value >> (8 * n)) as u8)),
            _ => {}
        }
    }

    fn send(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        if !self.sending {
            return Sent::All;
        }
        let (at, len) = (usize::from(self.tpsr) * PAGE, usize::from(self.tbcr));
        let inside = at >= RAM_START && at + len <= RAM_END && (14..=FRAME_MAX).contains(&len);
        if inside {
            let mut frame = self.ram[at..at + len].to_vec();
            frame.resize(len.max(FRAME_MIN), 0);
            if cable.transmit(w.now, &frame, Offload::default()) == Transmit::Full {
                return Sent::Full;
            }
        } else {
            w.report(format_args!("a frame of {len} bytes at {at:#x} is dropped"));
        }
        self.sending = false;
        self.cr &= !cr::TXP;
        self.tsr = TSR_PTX;
        self.isr |= isr::PTX;
        Sent::All
    }

    fn ready(&mut self, _w: &mut Wires) -> bool {
        if !self.is_running() {
            return true;
        }
        // Room for the longest frame.
        let room = self.ring().is_none_or(|(start, count)| self.free(start, count) > (FRAME_MAX + CRC + HEADER).div_ceil(PAGE));
        if !room {
            // A driver acknowledges reception after its last look at the ring. If the ring filled up in between, no frame
            // would come that interrupts it again (a real card would overflow), so it is told once more.
            self.isr |= isr::PRX;
        }
        room
    }

    fn receive(&mut self, w: &mut Wires, frame: &[u8]) -> bool {
        if !self.is_running() || frame.len() > FRAME_MAX || !self.admits(frame) {
            return true;
        }
        let Some((start, count)) = self.ring() else {
            w.report(format_args!("the receive ring is not in the buffer"));
            return true;
        };
        let total = HEADER + frame.len() + CRC;
        let pages = total.div_ceil(PAGE);
        if pages >= self.free(start, count) {
            if pages >= count {
                self.isr |= isr::OVW;
                return true;
            }
            return false;
        }
        let current = usize::from(self.current);
        let next = start + (current - start + pages) % count;
        self.rsr = RSR_PRX | if frame[0] & 1 != 0 { RSR_PHY } else { 0 };
        // The count has the check sequence in it, but not this header.
        let [low, high] = ((frame.len() + CRC) as u16).to_le_bytes();
        self.put(start, count, current * PAGE, &[self.rsr, next as u8, low, high]);
        self.put(start, count, current * PAGE + HEADER, frame);
        self.put(start, count, current * PAGE + HEADER + frame.len(), &[0; CRC]);
        self.current = next as u8;
        self.isr |= isr::PRX;
        true
    }

    fn update(&mut self, w: &mut Wires) {
        w.signal.set_intx(self.isr & self.imr & 0x7f != 0);
    }

    fn link_changed(&mut self, _w: &mut Wires) {}

    fn reset(&mut self, w: &mut Wires) {
        *self = Ne2k::new(self.mac);
        w.signal.set_intx(false);
    }
}

/// Makes a card with its function.
pub fn function(parts: Parts) -> Result<(Arc<Card>, Arc<Function>)> {
    let Parts { mac, backend, space, messages, rom } = parts;
    let identity = Identity {
        vendor: 0x10ec,
        device: 0x8029,
        class: 0x02_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        interrupt_pin: 1,
        ..Identity::default()
    };
    let mut builder = Builder::new("ne2k_pci", identity);
    let signal = Arc::new(Signal::new(messages));
    let card = Card::new(Box::new(Ne2k::new(mac)), backend, space, signal.clone());
    let window = Arc::new(Window { card: card.clone(), region: 0 });
    builder.bar(0, Bar { kind: BarKind::Io, size: 0x100 }, Region::device("ne2k_pci", window));
    builder.rom(rom)?;
    let function = builder.build(signal, Some(Arc::new(Resets(card.clone()))));
    Ok((card, function))
}
