//! Reception: the ring buffer of the older mode, descriptors in C+ mode.
//!
//! Reference: RTL8139C+ datasheet 6.7 (RCR), 9.1 (C+ descriptors), programming guide 3 (the ring's frames).
//! Invariants: a frame is stored whole or not at all.

use super::{Rtl8139, cpcr, cr, isr, reg};
use crate::net::card::{self, Wires};
use crate::net::offload::{self, Transport};

const CRC: usize = 4;
/// Status and length before a frame in the ring.
const HEADER: usize = 4;
const DESCRIPTOR: u64 = 16;
const RING_MAX: u32 = 64;
/// The longest frame that is taken, without its check sequence.
const FRAME_MAX: usize = 4096;
/// Descriptors that one frame may use.
const PIECES_MAX: u32 = RING_MAX;

mod rcr {
    pub const AAP: u32 = 1 << 0;
    pub const APM: u32 = 1 << 1;
    pub const AM: u32 = 1 << 2;
    pub const AB: u32 = 1 << 3;
    pub const WRAP: u32 = 1 << 7;
}

/// Bits of the ring's status word.
mod ring {
    pub const ROK: u16 = 1 << 0;
    pub const BAR: u16 = 1 << 13;
    pub const PAM: u16 = 1 << 14;
    pub const MAR: u16 = 1 << 15;
}

/// Bits of a C+ descriptor.
mod plus {
    pub const OWN: u32 = 1 << 31;
    pub const EOR: u32 = 1 << 30;
    pub const FS: u32 = 1 << 29;
    pub const LS: u32 = 1 << 28;
    pub const MAR: u32 = 1 << 26;
    pub const PAM: u32 = 1 << 25;
    pub const BAR: u32 = 1 << 24;
    pub const PID_TCP: u32 = 1 << 16;
    pub const PID_UDP: u32 = 2 << 16;
    pub const PID_IP: u32 = 3 << 16;
    pub const IPF: u32 = 1 << 15;
    pub const UDPF: u32 = 1 << 14;
    pub const TCPF: u32 = 1 << 13;
    pub const SIZE: u32 = 0x1fff;
    pub const TAVA: u32 = 1 << 16;
}

/// Why a frame is for us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Physical,
    Multicast,
    Broadcast,
    /// Only because everything is taken.
    Stranger,
}

/// The first six bits of the check sequence of an address, as they go over the wire, choose a bit of MAR.
pub fn hash(address: &[u8]) -> u32 {
    card::check_sequence(address).reverse_bits() >> 26
}

impl Rtl8139 {
    fn buffer_len(&self) -> usize {
        8192 << (self.get32(reg::RCR) >> 11 & 3)
    }

    /// Where the driver has read to.
    fn read_to(&self) -> usize {
        usize::from(self.get16(reg::CAPR).wrapping_add(0x10)) % self.buffer_len()
    }

    pub(super) fn buffer_is_empty(&self) -> bool {
        self.read_to() == usize::from(self.get16(reg::CBR)) % self.buffer_len()
    }

    fn is_listening(&self) -> bool {
        self.regs[reg::CR] & cr::RE != 0
    }

    pub(super) fn has_room(&mut self, w: &Wires) -> bool {
        if !self.is_listening() {
            return true;
        }
        if self.plus(cpcr::RX) {
            let (at, mut d) = (self.rx_at(self.rx_next), [0; 4]);
            return !w.memory.read(at, &mut d) || u32::from_le_bytes(d) & plus::OWN != 0;
        }
        // Enough for a frame of the usual length.
        self.free() > 1536
    }

    /// Free bytes of the ring.
    fn free(&self) -> usize {
        let (len, write) = (self.buffer_len(), usize::from(self.get16(reg::CBR)) % self.buffer_len());
        if self.buffer_is_empty() { len } else { (self.read_to() + len - write) % len }
    }

    fn rx_at(&self, number: u32) -> u64 {
        self.get64(reg::RDSAR).wrapping_add(u64::from(number) * DESCRIPTOR)
    }

    fn kind(&self, frame: &[u8]) -> Option<Kind> {
        let rcr = self.get32(reg::RCR);
        let has = |bit: u32| rcr & bit != 0;
        if frame.starts_with(&[0xff; 6]) {
            return (has(rcr::AB) || has(rcr::AAP)).then_some(Kind::Broadcast);
        }
        if frame[0] & 1 != 0 {
            let bit = hash(&frame[..6]) as usize;
            let chosen = self.regs[reg::MAR + bit / 8] >> (bit % 8) & 1 != 0;
            return (has(rcr::AM) && chosen || has(rcr::AAP)).then_some(Kind::Multicast);
        }
        if frame[..6] == self.regs[..6] {
            return (has(rcr::APM) || has(rcr::AAP)).then_some(Kind::Physical);
        }
        has(rcr::AAP).then_some(Kind::Stranger)
    }

    /// Takes a frame; false if there is no room for it now.
    pub(super) fn store(&mut self, w: &mut Wires, frame: &[u8]) -> bool {
        if !self.is_listening() || frame.len() > FRAME_MAX {
            return true;
        }
        let Some(kind) = self.kind(frame) else { return true };
        let stored = if self.plus(cpcr::RX) { self.store_plus(w, frame, kind) } else { self.store_ring(w, frame, kind) };
        if stored {
            self.tally.received += 1;
            match kind {
                Kind::Broadcast => self.tally.broadcasts += 1,
                Kind::Multicast => self.tally.multicasts = self.tally.multicasts.wrapping_add(1),
                _ => {}
            }
        }
        stored
    }

    fn store_ring(&mut self, w: &mut Wires, frame: &[u8], kind: Kind) -> bool {
        let total = frame.len() + CRC;
        let needed = (HEADER + total).next_multiple_of(4);
        let len = self.buffer_len();
        if needed + 16 >= self.free() {
            if needed + 16 >= len {
                self.tally.missed = self.tally.missed.saturating_add(1);
                self.cause(isr::RXOVW);
                return true;
            }
            return false;
        }
        let mut status = ring::ROK;
        status |= match kind {
            Kind::Physical => ring::PAM,
            Kind::Multicast => ring::MAR,
            Kind::Broadcast => ring::BAR,
            Kind::Stranger => 0,
        };
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        text.extend(status.to_le_bytes());
        text.extend((total as u16).to_le_bytes());
        text.extend_from_slice(frame);
        text.resize(HEADER + total, 0);
        let at = usize::from(self.get16(reg::CBR)) % len;
        let base = u64::from(self.get32(reg::RBSTART));
        // With WRAP the driver has left room behind the ring for a frame's end.
        let first = if self.get32(reg::RCR) & rcr::WRAP != 0 { text.len() } else { text.len().min(len - at) };
        let good = w.memory.write(base + at as u64, &text[..first]) && w.memory.write(base, &text[first..]);
        self.scratch = text;
        if !good {
            w.report(format_args!("the receive buffer at {base:#x} is not in memory"));
            self.cause(isr::SERR);
            return true;
        }
        self.set16(reg::CBR, ((at + needed) % len) as u16);
        self.cause(isr::ROK);
        true
    }

    fn store_plus(&mut self, w: &mut Wires, frame: &[u8], kind: Kind) -> bool {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        let mut vlan = 0;
        if self.plus(cpcr::RX_VLAN) && frame[12..14] == [0x81, 0x00] {
            vlan = plus::TAVA | u32::from(u16::from_le_bytes([frame[14], frame[15]]));
            text.extend_from_slice(&frame[..12]);
            text.extend_from_slice(&frame[16..]);
        } else {
            text.extend_from_slice(frame);
        }
        text.resize(text.len() + CRC, 0);
        let mut status = self.judge(frame) | (text.len() as u32 & plus::SIZE);
        status |= match kind {
            Kind::Physical => plus::PAM,
            Kind::Multicast => plus::MAR,
            Kind::Broadcast => plus::BAR,
            Kind::Stranger => 0,
        };
        let stored = self.fill(w, &text, status, vlan);
        self.scratch = text;
        stored
    }

    fn judge(&self, frame: &[u8]) -> u32 {
        if !self.plus(cpcr::RX_CHECKSUM) {
            return 0;
        }
        let v = offload::verify(frame);
        if !v.ip4 {
            return 0;
        }
        let ip = if v.ip4_good { 0 } else { plus::IPF };
        ip | match (v.transport, v.transport_good) {
            (Some(Transport::Tcp), good) => plus::PID_TCP | if good { 0 } else { plus::TCPF },
            (Some(Transport::Udp), good) => plus::PID_UDP | if good { 0 } else { plus::UDPF },
            (None, _) => plus::PID_IP,
        }
    }

    /// Puts bytes into as many descriptors as they need, if the driver has given that many.
    fn fill(&mut self, w: &mut Wires, text: &[u8], status: u32, vlan: u32) -> bool {
        let mut plan = Vec::new();
        let (mut number, mut room) = (self.rx_next, 0);
        while room < text.len() {
            let (at, mut d) = (self.rx_at(number), [0; 16]);
            if !w.memory.read(at, &mut d) || plan.len() as u32 >= PIECES_MAX {
                w.report(format_args!("receive descriptor {at:#x} is not in memory, or has too little room"));
                self.cause(isr::SERR);
                return true;
            }
            let word = |n: usize| u32::from_le_bytes([d[4 * n], d[4 * n + 1], d[4 * n + 2], d[4 * n + 3]]);
            if word(0) & plus::OWN == 0 {
                return false;
            }
            let size = (word(0) & plus::SIZE) as usize;
            plan.push((at, word(0) & plus::EOR, u64::from(word(2)) | u64::from(word(3)) << 32, size));
            room += size;
            number = if word(0) & plus::EOR != 0 || number + 1 >= RING_MAX { 0 } else { number + 1 };
        }
        let (last, mut done) = (plan.len() - 1, 0);
        for (index, (at, end, address, size)) in plan.into_iter().enumerate() {
            let piece = &text[done..text.len().min(done + size)];
            done += piece.len();
            if !w.memory.write(address, piece) {
                w.report(format_args!("a receive buffer at {address:#x} is not in memory"));
            }
            let place = if index == 0 { plus::FS } else { 0 } | if index == last { plus::LS } else { 0 };
            let words = [end | place | status, vlan];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let _ = w.memory.write(at + 4, &bytes[4..]);
            // Last, what gives the descriptor back.
            let _ = w.memory.write(at, &bytes[..4]);
        }
        self.rx_next = number;
        self.cause(isr::ROK);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_choose_bits_of_the_filter() {
        // The check sequence of ff:ff:ff:ff:ff:ff, and of 01:00:5e:00:00:01, most significant bit first.
        let reference = |bytes: &[u8]| {
            let mut crc = u32::MAX;
            for byte in bytes {
                crc ^= u32::from(byte.reverse_bits()) << 24;
                for _ in 0..8 {
                    crc = crc << 1 ^ if crc >> 31 != 0 { 0x04c1_1db7 } else { 0 };
                }
            }
            crc >> 26
        };
        for address in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(hash(&address), reference(&address));
        }
    }
}
