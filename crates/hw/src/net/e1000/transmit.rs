//! Transmission: descriptors of three kinds become frames.
//!
//! Reference: 317453 3.3 (descriptors), 3.5 (segmentation), 3.6 (checksums).
//! Invariants: at most [`SLICE`] descriptors are looked at with the lock held; a frame never grows beyond what a cable takes.

use net::{Checksum, Transmit};

use super::regs::*;
use super::{E1000, Kind};
use crate::net::assembly::Assembly;
use crate::net::card::{Cable, Sent, Wires};
use crate::net::offload::{self, Ready};
use net::finish::Headers;

/// Descriptors in one go.
pub const SLICE: usize = 256;

const CMD_EOP: u8 = 1 << 0;
const CMD_IC: u8 = 1 << 2;
const CMD_TSE: u8 = 1 << 2;
const CMD_RS: u8 = 1 << 3;
const CMD_DEXT: u8 = 1 << 5;
const CMD_VLE: u8 = 1 << 6;
const TUCMD_IPV4: u8 = 1 << 1;
const POPTS_IXSM: u8 = 1 << 0;
const POPTS_TXSM: u8 = 1 << 1;
const STA_DD: u8 = 1 << 0;

/// A context descriptor.
#[derive(Clone, Copy, Debug, Default)]
struct Context {
    ipcss: usize,
    ipcso: usize,
    ipcse: usize,
    tucss: usize,
    tucso: usize,
    tucse: usize,
    payload: usize,
    header: usize,
    mss: u16,
    v4: bool,
}

impl Context {
    fn decode(d: &[u8; 16]) -> Context {
        let word = |at: usize| usize::from(u16::from_le_bytes([d[at], d[at + 1]]));
        Context {
            ipcss: d[0].into(),
            ipcso: d[1].into(),
            ipcse: word(2),
            tucss: d[4].into(),
            tucso: d[5].into(),
            tucse: word(6),
            payload: word(8) | usize::from(d[10] & 15) << 16,
            header: d[13].into(),
            mss: word(14) as u16,
            v4: d[11] & TUCMD_IPV4 != 0,
        }
    }
}

/// What the descriptors of a frame ask for.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    /// Extended descriptors: what to insert.
    options: u8,
    segment: bool,
    /// Legacy: where the sum begins and where it goes.
    legacy: Option<(usize, usize)>,
    vlan: Option<u16>,
}

/// What is kept from descriptor to descriptor.
#[derive(Default)]
pub struct Transmitter {
    /// For segmentation, and for checksums alone.
    contexts: [Context; 2],
    out: Assembly,
    wish: Wish,
    ready: Ready,
    /// The frame is complete, and the cable had no room for it.
    held: bool,
}

impl E1000 {
    pub(super) fn transmit(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        if !self.has(TCTL, TCTL_EN) {
            return Sent::All;
        }
        let queues = if self.kind == Kind::I82574 { 2 } else { 1 };
        let mut sent = Sent::All;
        for queue in 0..queues {
            match self.transmit_queue(w, cable, queue) {
                Sent::All => {}
                other => sent = other,
            }
        }
        sent
    }

    fn transmit_queue(&mut self, w: &mut Wires, cable: &mut Cable, queue: u32) -> Sent {
        let registers = TDBAL + queue * TX_QUEUE;
        let Some(mut ring) = self.ring(registers) else { return Sent::All };
        if ring.head == ring.tail {
            return Sent::All;
        }
        let (mut causes, mut result) = (0, Sent::Some);
        for _ in 0..SLICE {
            let at = ring.at();
            let mut d = [0; 16];
            if !w.memory.read(at, &mut d) {
                w.report(format_args!("transmit descriptor {at:#x} is not in memory"));
                // Like a master abort: the queue stops where it is until the driver moves it.
                self.set_ring_head(registers, ring.tail);
                return Sent::All;
            }
            if self.descriptor(w, cable, &d) == Transmit::Full {
                result = Sent::Full;
                break;
            }
            if d[11] & CMD_RS != 0 {
                let _ = w.memory.write(at + 12, &[d[12] | STA_DD]);
                causes |= ICR_TXDW | if queue == 0 { ICR_TXQ0 } else { ICR_TXQ1 };
            }
            ring.advance();
            if ring.head == ring.tail {
                causes |= ICR_TXQE;
                result = Sent::All;
                break;
            }
        }
        self.set_ring_head(registers, ring.head);
        self.cause(causes);
        result
    }

    fn descriptor(&mut self, w: &mut Wires, cable: &mut Cable, d: &[u8; 16]) -> Transmit {
        let command = d[11];
        let extended = command & CMD_DEXT != 0;
        if extended && d[10] >> 4 == 0 {
            self.tx.contexts[usize::from(command & CMD_TSE == 0)] = Context::decode(d);
            return Transmit::Taken;
        }
        // A frame that waits for room has all of its bytes already.
        if !self.tx.held {
            self.append(w, d, extended);
        }
        if command & CMD_EOP == 0 {
            return Transmit::Taken;
        }
        if !self.tx.out.broken && !self.tx.held {
            self.finish(w, cable);
        }
        let taken = if self.tx.out.broken { Transmit::Taken } else { self.hand_over(w, cable) };
        self.tx.held = taken == Transmit::Full;
        if !self.tx.held {
            self.tx.out.clear();
        }
        taken
    }

    /// Adds a buffer to the frame.
    fn append(&mut self, w: &Wires, d: &[u8; 16], extended: bool) {
        let word = |at: usize| u16::from_le_bytes([d[at], d[at + 1]]);
        let address = u64::from_le_bytes([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]);
        let mut len = usize::from(word(8));
        if !self.tx.out.open {
            self.tx.out.begin();
            self.tx.wish = Wish::default();
            if extended {
                self.tx.wish.options = d[13];
                self.tx.wish.segment = d[11] & CMD_TSE != 0;
            }
        }
        if extended {
            len |= usize::from(d[10] & 15) << 16;
        } else if d[11] & CMD_IC != 0 {
            self.tx.wish.legacy = Some((d[13].into(), d[10].into()));
        }
        if d[11] & CMD_VLE != 0 && self.has(CTRL, CTRL_VME) {
            self.tx.wish.vlan = Some(word(14));
        }
        self.tx.out.append(w, address, len, net::backend::MAX_FRAME - 4);
    }

    /// The frame is complete: padding, checksums, the tag of a virtual network.
    fn finish(&mut self, w: &Wires, cable: &Cable) {
        if !self.tx.out.finish(w) {
            return;
        }
        let mut frame = std::mem::take(&mut self.tx.out.frame);
        let wish = self.tx.wish;
        let context = self.tx.contexts[usize::from(!wish.segment)];
        let vlan = match wish.vlan {
            Some(tag) => {
                let kind = self.get(VET) as u16;
                frame.splice(12..12, kind.to_be_bytes().into_iter().chain(tag.to_be_bytes()));
                4
            }
            None => 0,
        };
        self.tx.ready = if wish.segment {
            let cut = cut(w, &frame, context, vlan);
            self.tx.out.broken |= cut.is_none();
            Ready { checksum: Checksum::Complete, cut }
        } else {
            Ready { checksum: checksum(w, cable, &mut frame, wish, context, vlan), cut: None }
        };
        self.tx.out.frame = frame;
    }

    /// Gives the frame to the cable.
    fn hand_over(&mut self, w: &Wires, cable: &mut Cable) -> Transmit {
        let mut frame = std::mem::take(&mut self.tx.out.frame);
        let packets = self.tx.ready.cut.map_or(1, |(h, size)| (frame.len() - h.len).div_ceil(size.into()));
        let taken = self.tx.ready.send(cable, w.now, &mut frame);
        if taken == Transmit::Taken {
            self.count_sent(&frame, packets as u32);
        }
        self.tx.out.frame = frame;
        taken
    }

    fn count_sent(&mut self, frame: &[u8], packets: u32) {
        self.count(TPT, packets);
        self.count(GPTC, packets);
        self.count_octets(TOTL, frame.len() as u64 + 4);
        self.count_octets(GOTCL, frame.len() as u64 + 4);
        if self.tx.ready.cut.is_some() {
            self.count(TSCTC, 1);
        }
        if frame[0] & 1 != 0 {
            self.count(if frame.starts_with(&[0xff; 6]) { BPTC } else { MPTC }, packets);
        }
    }
}

/// Inserts the sums that descriptors ask for; what is left to the cable.
fn checksum(w: &Wires, cable: &Cable, frame: &mut [u8], wish: Wish, c: Context, vlan: usize) -> Checksum {
    let (mut left, mut good) = (Checksum::Complete, true);
    if let Some((start, at)) = wish.legacy {
        good &= offload::insert_sum(frame, start + vlan, frame.len(), at + vlan);
    }
    if wish.options & POPTS_IXSM != 0 {
        let end = if c.ipcse == 0 { frame.len() } else { c.ipcse + 1 + vlan };
        good &= zero(frame, c.ipcso + vlan) && offload::insert_sum(frame, c.ipcss + vlan, end, c.ipcso + vlan);
    }
    if wish.options & POPTS_TXSM != 0 {
        let (start, at) = (c.tucss + vlan, c.tucso + vlan);
        let end = if c.tucse == 0 { frame.len() } else { c.tucse + 1 + vlan };
        if cable.takes_offloads() && c.tucse == 0 && at >= start && at + 2 <= frame.len() {
            left = Checksum::Partial { start: start as u16, offset: (at - start) as u16 };
        } else {
            good &= offload::insert_sum(frame, start, end, at);
        }
    }
    if !good {
        w.report(format_args!("a checksum outside of its frame is left out"));
    }
    left
}

/// Where the headers of a frame are that stands for several.
fn cut(w: &Wires, frame: &[u8], c: Context, vlan: usize) -> Option<(Headers, u16)> {
    let headers = Headers { ip: c.ipcss + vlan, tcp: c.tucss + vlan, len: c.header + vlan, v6: !c.v4 };
    let pieces = frame.len().div_ceil(usize::from(c.mss).max(1));
    let cut = headers.checked(frame).filter(|_| c.mss > 0 && pieces <= offload::SEGMENTS_MAX).map(|h| (h, c.mss));
    if cut.is_none() {
        w.report(format_args!("a frame cannot be cut: {} bytes in pieces of {} after {}", frame.len(), c.mss, c.header));
    } else if c.payload + c.header + vlan != frame.len() {
        w.report(format_args!("a frame to be cut has {} bytes, not {}", frame.len(), c.payload + c.header + vlan));
    }
    cut
}

/// Clears a checksum's field; false if it is outside.
fn zero(frame: &mut [u8], at: usize) -> bool {
    match frame.get_mut(at..at + 2) {
        Some(field) => {
            field.fill(0);
            true
        }
        None => false,
    }
}
