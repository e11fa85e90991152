//! The initialization block, descriptors and frames.
//!
//! Reference: Am79C970A, "Initialization block", "Receive descriptors", "Transmit descriptors", "Software styles".
//! Invariants: at most [`SLICE`] descriptors in one go; a ring has at most 65,535 and at least one.

use net::{Offload, Transmit};

use super::{Pcnet, csr0, mode};
use crate::net::card::{self, Cable, Sent, Wires};

const SLICE: usize = 256;
const FRAME_MAX: usize = 4096;
const CRC: usize = 4;

/// Flags in the upper half of a descriptor's second word, the same for both directions.
const OWN: u16 = 1 << 15;
const ERR: u16 = 1 << 14;
const STP: u16 = 1 << 9;
const ENP: u16 = 1 << 8;
/// Received: buffer error; the address was physical, logical, broadcast.
const BUFF: u16 = 1 << 10;
const PAM: u16 = 1 << 6;
const LAFM: u16 = 1 << 5;
const BAM: u16 = 1 << 4;

#[derive(Default)]
pub struct Ring {
    pub base: u64,
    len: u32,
    next: u32,
}

impl Ring {
    pub fn set_len(&mut self, len: u16) {
        self.len = len.into();
        self.next = 0;
    }

    fn advance(&mut self) {
        self.next = (self.next + 1) % self.len.max(1);
    }
}

/// A descriptor in whatever style.
struct Descriptor {
    at: u64,
    address: u64,
    flags: u16,
    /// Bytes of the buffer.
    len: usize,
}

impl Pcnet {
    fn is_wide(&self) -> bool {
        self.style() != 0
    }

    /// INIT: takes over what the block in memory says.
    pub(super) fn load_block(&mut self, w: &Wires) {
        let at = u64::from(self.csr[1]) | u64::from(self.csr[2]) << 16;
        let mut b = [0; 28];
        let len = if self.is_wide() { 28 } else { 24 };
        if !w.memory.read(at, &mut b[..len]) {
            w.report(format_args!("the initialization block at {at:#x} is not in memory"));
            self.csr[0] |= csr0::MERR;
            return;
        }
        let word = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let wide = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        self.csr[15] = word(0);
        let (address, filter, receive, transmit, receive_len, transmit_len) = if self.is_wide() {
            (4, 12, wide(20), wide(24), b[2] >> 4, b[3] >> 4)
        } else {
            (2, 8, wide(16), wide(20), b[19] >> 5, b[23] >> 5)
        };
        let mask = if self.is_wide() { !0xf } else { 0x00ff_fff8 };
        for n in 0..3 {
            self.csr[12 + n] = word(address + 2 * n);
        }
        for n in 0..4 {
            self.csr[8 + n] = word(filter + 2 * n);
        }
        self.receive = Ring { base: (receive & mask).into(), len: 1 << receive_len.min(9), next: 0 };
        self.transmit = Ring { base: (transmit & mask).into(), len: 1 << transmit_len.min(9), next: 0 };
        (self.csr[76], self.csr[78]) = (0u16.wrapping_sub(self.receive.len as u16), 0u16.wrapping_sub(self.transmit.len as u16));
        self.csr[0] |= csr0::IDON;
    }

    /// STRT.
    pub(super) fn start(&mut self) {
        let off = self.csr[15];
        self.csr[0] |= if off & mode::DRX == 0 { csr0::RXON } else { 0 };
        self.csr[0] |= if off & mode::DTX == 0 { csr0::TXON } else { 0 };
    }

    fn descriptor(&self, w: &Wires, base: u64, number: u32) -> Option<Descriptor> {
        let word = |b: &[u8], at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let wide = |b: &[u8], at: usize| u64::from(word(b, at)) | u64::from(word(b, at + 2)) << 16;
        let size = |count: u16| usize::from(0u16.wrapping_sub(count) & 0xfff);
        if !self.is_wide() {
            let (at, mut b) = (base + u64::from(number) * 8, [0; 8]);
            let good = w.memory.read(at, &mut b);
            let flags = u16::from(b[3]) << 8;
            return good.then(|| Descriptor { at, address: wide(&b, 0) & 0xff_ffff, flags, len: size(word(&b, 4)) });
        }
        let (at, mut b) = (base + u64::from(number) * 16, [0; 16]);
        let good = w.memory.read(at, &mut b);
        // Style 3 has the buffer's address behind the status.
        let address = if self.style() == 3 { wide(&b, 8) } else { wide(&b, 0) };
        good.then(|| Descriptor { at, address, flags: word(&b, 6), len: size(word(&b, 4)) })
    }

    /// Gives a descriptor back; `message`: the length of a received frame.
    fn give_back(&self, w: &Wires, d: &Descriptor, flags: u16, message: Option<usize>) {
        let mut good = true;
        if !self.is_wide() {
            if let Some(len) = message {
                good &= w.memory.write(d.at + 6, &(len as u16 & 0xfff).to_le_bytes());
            }
            good &= w.memory.write(d.at + 3, &[(flags >> 8) as u8]);
        } else {
            if let Some(len) = message {
                let at = if self.style() == 3 { d.at } else { d.at + 8 };
                good &= w.memory.write(at, &(len as u32 & 0xfff).to_le_bytes());
            }
            good &= w.memory.write(d.at + 6, &flags.to_le_bytes());
        }
        if !good {
            w.report(format_args!("descriptor {:#x} cannot be written", d.at));
        }
    }

    pub(super) fn transmit_frames(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        if self.csr[0] & csr0::TXON == 0 || self.transmit.len == 0 {
            return Sent::All;
        }
        for _ in 0..SLICE {
            let Some(d) = self.descriptor(w, self.transmit.base, self.transmit.next) else {
                w.report(format_args!("a transmit descriptor is not in memory"));
                self.csr[0] = self.csr[0] & !csr0::TXON | csr0::MERR;
                return Sent::All;
            };
            if d.flags & OWN == 0 {
                return Sent::All;
            }
            if !self.held {
                if d.flags & STP != 0 {
                    self.out.begin();
                }
                // What has no beginning is dropped.
                self.out.broken |= !self.out.open;
                self.out.append(w, d.address, d.len, FRAME_MAX);
            }
            if d.flags & ENP != 0 {
                if self.out.finish(w) {
                    self.held = cable.transmit(w.now, &self.out.frame, Offload::default()) == Transmit::Full;
                    if self.held {
                        return Sent::Full;
                    }
                }
                self.out.clear();
                self.csr[0] |= csr0::TINT;
            }
            self.give_back(w, &d, d.flags & !(OWN | ERR), None);
            self.transmit.advance();
        }
        Sent::Some
    }

    fn is_listening(&self) -> bool {
        self.csr[0] & csr0::RXON != 0 && self.receive.len > 0
    }

    pub(super) fn has_room(&self, w: &Wires) -> bool {
        !self.is_listening() || self.descriptor(w, self.receive.base, self.receive.next).is_none_or(|d| d.flags & OWN != 0)
    }

    /// What kind of address lets a frame in.
    fn admits(&self, frame: &[u8]) -> Option<u16> {
        let all = self.csr[15] & mode::PROM != 0;
        if frame.starts_with(&[0xff; 6]) {
            return (all || self.csr[15] & mode::DRCVBC == 0).then_some(BAM);
        }
        if frame[0] & 1 != 0 {
            // The upper bits of the check sequence choose, as they are.
            let bit = (card::check_sequence(&frame[..6]) >> 26) as usize;
            return (all || self.csr[8 + bit / 16] >> (bit % 16) & 1 != 0).then_some(LAFM);
        }
        let mine = (0..3).all(|n| self.csr[12 + n].to_le_bytes() == frame[2 * n..2 * n + 2]);
        (mine || all).then_some(if mine { PAM } else { 0 })
    }

    /// Takes a frame; false if there is no room for it now.
    pub(super) fn store(&mut self, w: &mut Wires, frame: &[u8]) -> bool {
        let Some(kind) = self.admits(frame).filter(|_| self.is_listening() && frame.len() <= FRAME_MAX) else { return true };
        let mut bytes = frame.to_vec();
        bytes.resize(frame.len() + CRC, 0);
        let mut plan = Vec::new();
        let (mut number, mut room) = (self.receive.next, 0);
        while room < bytes.len() {
            let Some(d) = self.descriptor(w, self.receive.base, number).filter(|d| d.len > 0) else {
                w.report(format_args!("a receive descriptor is not in memory, or has no buffer"));
                self.csr[0] |= csr0::MERR | csr0::MISS;
                return true;
            };
            if plan.len() as u32 >= self.receive.len {
                self.csr[0] |= csr0::MISS;
                return true;
            }
            if d.flags & OWN == 0 {
                return false;
            }
            room += d.len;
            plan.push(d);
            number = (number + 1) % self.receive.len;
        }
        let (last, mut done) = (plan.len() - 1, 0);
        for (n, d) in plan.iter().enumerate() {
            let piece = &bytes[done..bytes.len().min(done + d.len)];
            done += piece.len();
            let failed = if w.memory.write(d.address, piece) { 0 } else { ERR | BUFF };
            let place = if n == 0 { STP } else { 0 } | if n == last { ENP | if self.is_wide() { kind } else { 0 } } else { 0 };
            self.give_back(w, d, place | failed, (n == last).then_some(bytes.len()));
        }
        self.receive.next = number;
        self.csr[0] |= csr0::RINT;
        true
    }
}
