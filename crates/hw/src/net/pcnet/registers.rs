//! The ports and what is behind them.
//!
//! Reference: Am79C970A, "I/O resources", "Control and status registers", "Bus configuration registers".

use net::Mac;

use super::rings::Ring;
use super::{BCRS, CSRS, Pcnet, csr0};
use crate::net::assembly::Assembly;
use crate::net::card::Wires;

/// Version 2, part number 2621h, AMD.
const CHIP_ID: u32 = 0x0262_1003;

impl Pcnet {
    pub fn new(mac: Mac) -> Pcnet {
        let mut chip = Pcnet {
            mac,
            csr: [0; CSRS],
            bcr: [0; BCRS],
            rap: 0,
            dwio: false,
            receive: Ring::default(),
            transmit: Ring::default(),
            out: Assembly::default(),
            held: false,
        };
        chip.soft_reset();
        chip.bcr[2] = 0x0002;
        (chip.bcr[4], chip.bcr[5], chip.bcr[6], chip.bcr[7]) = (0x00c0, 0x0084, 0x0088, 0x0090);
        (chip.bcr[16], chip.bcr[18]) = (0x0000, 0x9001);
        chip.bcr[19] = 0x0002;
        chip.bcr[20] = 0x0200;
        chip
    }

    fn soft_reset(&mut self) {
        self.csr = [0; CSRS];
        self.csr[0] = csr0::STOP;
        self.csr[4] = 0x0115;
        (self.csr[88], self.csr[89]) = (CHIP_ID as u16, (CHIP_ID >> 16) as u16);
        self.csr[80] = 0x1410;
        self.csr[94] = 0x0000;
        for (n, pair) in self.mac.0.chunks(2).enumerate() {
            self.csr[12 + n] = u16::from_le_bytes([pair[0], pair[1]]);
        }
        self.rap = 0;
        self.dwio = false;
        self.bcr[18] &= !0x0080;
        self.bcr[20] = 0x0200;
        self.stop();
    }

    fn stop(&mut self) {
        self.out.clear();
        self.held = false;
    }

    /// The software style: 0 is the older one with 24-bit addresses.
    pub(super) fn style(&self) -> u16 {
        self.bcr[20] & 0xff
    }

    fn prom(&self, at: usize) -> u8 {
        match at {
            0..6 => self.mac.0[at],
            // Two bytes that say "W", and the sum of all.
            14 | 15 => 0x57,
            12 | 13 => {
                let sum = self.mac.0.iter().map(|b| u16::from(*b)).sum::<u16>() + 2 * 0x57;
                sum.to_le_bytes()[at - 12]
            }
            _ => 0,
        }
    }

    fn read_csr(&self, number: usize) -> u16 {
        self.csr.get(number).copied().unwrap_or(0)
    }

    fn read_bcr(&self, w: &Wires, number: usize) -> u16 {
        match number {
            // The first light-emitting diode shows the link.
            4 => self.bcr[4] & 0x7fff | if w.link_up { 0x8000 } else { 0 },
            _ => self.bcr.get(number).copied().unwrap_or(0),
        }
    }

    fn write_csr(&mut self, w: &mut Wires, number: usize, value: u16) {
        match number {
            0 => self.write_csr0(w, value),
            // While it runs most of them are not to be written; what the chip needs it has read by then.
            1 | 2 | 8..=12 | 15 | 24 | 25 | 30 | 31 | 46 | 47 | 76 | 78 | 112 | 114 => {
                if self.csr[0] & csr0::STOP != 0 || number >= 112 {
                    self.csr[number] = value;
                }
                match number {
                    76 => self.receive.set_len(0u16.wrapping_sub(value)),
                    78 => self.transmit.set_len(0u16.wrapping_sub(value)),
                    24 | 25 => self.receive.base = self.wide(24),
                    30 | 31 => self.transmit.base = self.wide(30),
                    _ => {}
                }
            }
            3 => self.csr[3] = value,
            4 => self.csr[4] = value & !0x026a,
            5 => self.csr[5] = value & 0x8a05,
            58 => self.write_bcr(20, value),
            _ => {}
        }
    }

    fn wide(&self, number: usize) -> u64 {
        u64::from(self.csr[number]) | u64::from(self.csr[number + 1]) << 16
    }

    fn write_csr0(&mut self, w: &mut Wires, value: u16) {
        let mut now = self.csr[0] & !(value & csr0::CAUSES);
        now = now & !csr0::IENA | value & csr0::IENA;
        if value & csr0::STOP != 0 {
            self.csr[0] = csr0::STOP;
            return self.stop();
        }
        self.csr[0] = now;
        if value & csr0::INIT != 0 && self.csr[0] & csr0::INIT == 0 {
            self.csr[0] = (self.csr[0] & !csr0::STOP) | csr0::INIT;
            self.load_block(w);
        }
        if value & csr0::STRT != 0 && self.csr[0] & csr0::STRT == 0 {
            self.csr[0] = (self.csr[0] & !csr0::STOP) | csr0::STRT;
            self.start();
        }
        w.poke |= value & (csr0::TDMD | csr0::STRT) != 0 || value & csr0::RINT != 0;
    }

    fn write_bcr(&mut self, number: usize, value: u16) {
        match number {
            20 => {
                self.bcr[20] = (value & 0xff).min(3) | if value & 0xff == 0 { 0x0200 } else { 0x0300 };
                self.csr[58] = self.bcr[20];
            }
            2 | 4..=7 | 9 | 16 | 17 | 18 | 19 | 21 | 22 => self.bcr[number] = value,
            _ => {}
        }
    }

    pub(super) fn read_port(&mut self, w: &Wires, at: u64, size: u8) -> u64 {
        if at < 0x10 {
            return (0..usize::from(size)).fold(0, |v, n| v | u64::from(self.prom(at as usize + n)) << (8 * n));
        }
        match (at, size, self.dwio) {
            (0x10, 4, _) | (0x10, 2, false) => self.read_csr(self.rap).into(),
            (0x12, 2, false) | (0x14, 4, true) => self.rap as u64,
            (0x14, 2, false) | (0x18, 4, true) => {
                self.soft_reset();
                0
            }
            (0x16, 2, false) | (0x1c, 4, true) => self.read_bcr(w, self.rap).into(),
            _ => 0,
        }
    }

    pub(super) fn write_port(&mut self, w: &mut Wires, at: u64, size: u8, value: u64) {
        let value = value as u16;
        match (at, size, self.dwio) {
            (0x10, 4, false) => {
                // A wide write to RDP after a hardware reset widens all ports.
                self.dwio = true;
                self.bcr[18] |= 0x0080;
                self.write_csr(w, self.rap, value);
            }
            (0x10, 4, true) | (0x10, 2, false) => self.write_csr(w, self.rap, value),
            (0x12, 2, false) | (0x14, 4, true) => self.rap = usize::from(value & 0x7f),
            (0x16, 2, false) | (0x1c, 4, true) => self.write_bcr(self.rap, value),
            _ => {}
        }
    }
}
