//! Transmission: four buffers of the older mode, two descriptor rings in C+ mode.
//!
//! Reference: RTL8139C+ datasheet 6.5 (TSD), 9.2 (C+ descriptors).
//! Invariants: at most [`SLICE`] descriptors in one go; a frame never grows beyond what a cable takes; descriptors are looked at
//! only after a write to TPPoll.
//!
//! Frames leave during the write that asks for it: a transmission that ends by itself between `napi_complete` and the write of
//! IMR of Linux' `8139cp` unmasks reception for a poll that is already asked for, and the wire then stays high for ever.
//! For the same reason TDU is not reported; nobody needs it.

use net::{Checksum, Offload, Transmit};

use super::{Rtl8139, cpcr, cr, isr, reg};
use crate::net::card::{Cable, FRAME_MIN, Sent, Wires};
use crate::net::assembly::Assembly;
use crate::net::offload::{self, Ready};
use net::finish::Headers;

pub const TSD_OWN: u32 = 1 << 13;
const TSD_TUN: u32 = 1 << 14;
const TSD_TOK: u32 = 1 << 15;
const TSD_SIZE: u32 = 0x1fff;
/// The longest frame of the older mode.
const SIZE_MAX: usize = 1792;

const SLICE: usize = 256;
const DESCRIPTOR: u64 = 16;
/// Descriptors of a ring before it must wrap around.
const RING_MAX: u32 = 64;
const OWN: u32 = 1 << 31;
const EOR: u32 = 1 << 30;
const FS: u32 = 1 << 29;
const LS: u32 = 1 << 28;
const LGSEN: u32 = 1 << 27;
const IPCS: u32 = 1 << 18;
const UDPCS: u32 = 1 << 17;
const TCPCS: u32 = 1 << 16;
const TAGC: u32 = 1 << 17;

#[derive(Default)]
pub struct Transmitter {
    /// The next buffer of the older mode.
    slot: usize,
    /// The next descriptors: normal, high priority.
    next: [u32; 2],
    /// The driver has asked for a look at the rings, and their ends have not been seen since.
    polled: [bool; 2],
    out: Assembly,
    /// The first descriptor's words.
    first: [u32; 2],
    /// Complete; what is left to the cable, which had no room.
    held: Option<Ready>,
}

impl Transmitter {
    pub fn stop(&mut self) {
        *self = Transmitter::default();
    }

    pub fn restart(&mut self, high: bool) {
        self.next[usize::from(high)] = 0;
    }

    /// TPPoll: bit 7 for the ring of high priority, bit 6 for the normal one.
    pub fn poll(&mut self, bits: u8) {
        self.polled[0] |= bits & 0x40 != 0;
        self.polled[1] |= bits & 0x80 != 0;
    }
}

impl Rtl8139 {
    /// TSAD: own, abort, underrun and done bits of all four buffers.
    pub(super) fn all_statuses(&self) -> u16 {
        (0..4).fold(0, |bits, n| {
            let status = self.get32(reg::TSD + 4 * n);
            let bit = |flag: u32, at: usize| u16::from(status & flag != 0) << (at + n);
            bits | bit(TSD_OWN, 0) | bit(TSD_TUN, 8) | bit(TSD_TOK, 12)
        })
    }

    /// A write to TSD, or to what C+ mode has in its place.
    pub(super) fn write_status(&mut self, w: &mut Wires, number: usize, value: u32) {
        if self.plus(cpcr::TX) {
            self.set32(reg::TSD + 4 * number, value);
            if number == 0 && value & 8 != 0 {
                self.dump_tally(w, value);
            }
            return;
        }
        self.set32(reg::TSD + 4 * number, value & !(TSD_TUN | TSD_TOK) & 0x003f_ffff);
        w.send = true;
    }

    pub(super) fn transmit(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        if self.regs[reg::CR] & cr::TE == 0 {
            return Sent::All;
        }
        if !self.plus(cpcr::TX) {
            return self.transmit_buffers(w, cable);
        }
        for ring in [1, 0] {
            if !self.tx.polled[ring] {
                continue;
            }
            match self.transmit_ring(w, cable, ring) {
                Sent::All => {}
                other => return other,
            }
        }
        Sent::All
    }

    fn transmit_buffers(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        for _ in 0..4 {
            let number = self.tx.slot;
            let status = self.get32(reg::TSD + 4 * number);
            if status & TSD_OWN != 0 {
                return Sent::All;
            }
            let size = (status & TSD_SIZE) as usize;
            let address = u64::from(self.get32(reg::TSAD + 4 * number));
            let mut frame = vec![0; size.max(FRAME_MIN)];
            if size < 14 || size > SIZE_MAX || !w.memory.read(address, &mut frame[..size]) {
                w.report(format_args!("a frame of {size} bytes at {address:#x} is dropped"));
            } else if cable.transmit(w.now, &frame, Offload::default()) == Transmit::Full {
                return Sent::Full;
            }
            self.tally.sent += 1;
            self.set32(reg::TSD + 4 * number, status | TSD_OWN | TSD_TOK);
            self.cause(isr::TOK);
            self.tx.slot = (number + 1) % 4;
        }
        Sent::Some
    }

    fn transmit_ring(&mut self, w: &mut Wires, cable: &mut Cable, ring: usize) -> Sent {
        let base = self.get64(if ring == 1 { reg::THPDS } else { reg::TNPDS });
        if base == 0 {
            self.tx.polled[ring] = false;
            return Sent::All;
        }
        for _ in 0..SLICE {
            let number = self.tx.next[ring];
            let at = base.wrapping_add(u64::from(number) * DESCRIPTOR);
            let mut d = [0; 16];
            if !w.memory.read(at, &mut d) {
                w.report(format_args!("transmit descriptor {at:#x} is not in memory"));
                self.cause(isr::SERR);
                self.regs[reg::CR] &= !cr::TE;
                return Sent::All;
            }
            let word = |n: usize| u32::from_le_bytes([d[4 * n], d[4 * n + 1], d[4 * n + 2], d[4 * n + 3]]);
            let command = word(0);
            if command & OWN == 0 {
                if self.tx.out.open {
                    w.report(format_args!("a frame has no end"));
                }
                self.tx.polled[ring] = false;
                return Sent::All;
            }
            let address = u64::from(word(2)) | u64::from(word(3)) << 32;
            if self.descriptor(w, cable, [command, word(1)], address) == Transmit::Full {
                return Sent::Full;
            }
            // The status of an error-free frame is all zeros.
            let done = command & !(OWN | 0x03ff_0000);
            let _ = w.memory.write(at, &done.to_le_bytes());
            if command & LS != 0 {
                self.cause(isr::TOK);
            }
            self.tx.next[ring] = if command & EOR != 0 || number + 1 >= RING_MAX { 0 } else { number + 1 };
        }
        Sent::Some
    }

    fn descriptor(&mut self, w: &Wires, cable: &mut Cable, words: [u32; 2], address: u64) -> Transmit {
        let command = words[0];
        if self.tx.held.is_none() {
            if command & FS != 0 {
                self.tx.out.begin();
                self.tx.first = words;
            } else if !self.tx.out.open {
                w.report(format_args!("a frame has no beginning"));
                return Transmit::Taken;
            }
            self.tx.out.append(w, address, (command & 0xffff) as usize, net::backend::MAX_FRAME - 4);
        }
        if command & LS == 0 {
            return Transmit::Taken;
        }
        let ready = self.tx.held.take().or_else(|| self.finish(w, cable));
        self.tx.out.open = false;
        let Some(ready) = ready else { return Transmit::Taken };
        let taken = ready.send(cable, w.now, &mut self.tx.out.frame);
        if taken == Transmit::Full {
            (self.tx.held, self.tx.out.open) = (Some(ready), true);
        } else {
            self.tally.sent += 1;
        }
        taken
    }

    /// The frame is complete: padding, checksums, the tag of a virtual network. `None`: it is dropped.
    fn finish(&mut self, w: &Wires, cable: &Cable) -> Option<Ready> {
        let [command, tag] = self.tx.first;
        if !self.tx.out.finish(w) {
            return None;
        }
        let frame = &mut self.tx.out.frame;
        let ready = if command & LGSEN != 0 {
            let size = (command >> 16 & 0x7ff) as u16;
            let Some(headers) = headers(frame).filter(|_| size > 0) else {
                w.report(format_args!("a large frame that is no TCP over IPv4 is dropped"));
                return None;
            };
            Ready { checksum: Checksum::Complete, cut: Some((headers, size)) }
        } else {
            Ready { checksum: checksum(frame, command, cable), cut: None }
        };
        if tag & TAGC == 0 {
            return Some(ready);
        }
        // The descriptor has the tag in the order of the wire.
        let tag = (tag as u16).to_le_bytes();
        frame.splice(12..12, [0x81, 0x00, tag[0], tag[1]]);
        Some(moved(ready, 4))
    }
}

/// Positions after bytes were inserted before them.
fn moved(ready: Ready, by: usize) -> Ready {
    let checksum = match ready.checksum {
        Checksum::Partial { start, offset } => Checksum::Partial { start: start + by as u16, offset },
        other => other,
    };
    let cut = ready.cut.map(|(h, size)| (Headers { ip: h.ip + by, tcp: h.tcp + by, len: h.len + by, v6: h.v6 }, size));
    Ready { checksum, cut }
}

/// Where the headers of TCP over IPv4 are; this chip finds them itself.
fn headers(frame: &[u8]) -> Option<Headers> {
    if frame.get(12..14)? != [8, 0] {
        return None;
    }
    let tcp = 14 + usize::from(frame.get(14)? & 15) * 4;
    let len = tcp + usize::from(frame.get(tcp + 12)? >> 4) * 4;
    if frame[23] != 6 {
        return None;
    }
    Headers { ip: 14, tcp, len, v6: false }.checked(frame)
}

/// Inserts the checksums that were asked for.
fn checksum(frame: &mut [u8], command: u32, cable: &Cable) -> Checksum {
    if frame[12..14] != [8, 0] || frame[14] >> 4 != 4 {
        return Checksum::Complete;
    }
    let start = 14 + usize::from(frame[14] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let end = 14 + total;
    if start < 34 || end > frame.len() || start > end {
        return Checksum::Complete;
    }
    if command & IPCS != 0 {
        frame[24..26].fill(0);
        let _ = offload::insert_sum(frame, 14, start, 24);
    }
    let offset = match (frame[23], command & TCPCS != 0, command & UDPCS != 0) {
        (6, true, _) => 16u16,
        (17, _, true) => 6,
        _ => return Checksum::Complete,
    };
    if start + usize::from(offset) + 2 > end {
        return Checksum::Complete;
    }
    // The field has the sum of the pseudo header already, as the driver leaves it; padding behind the packet must not count.
    if cable.takes_offloads() && end == frame.len() {
        return Checksum::Partial { start: start as u16, offset };
    }
    let _ = offload::insert_sum(frame, start, end, start + usize::from(offset));
    Checksum::Complete
}
