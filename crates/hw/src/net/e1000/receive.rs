//! Reception: filters, virtual networks, checksums, descriptors.
//!
//! Reference: 317453 3.2 (descriptors), 9.1 (virtual networks), 13.4.22 (RCTL), 13.5 (filters); 317694 7.1.4 (extended
//! descriptors).
//! Invariants: a frame is stored whole or not at all; a ring that makes no sense loses frames.

use super::regs::*;
use super::ring::Ring;
use super::{E1000, Kind};
use crate::net::card::Wires;
use crate::net::offload::{self, Transport};

/// The longest frame without RCTL.LPE, without its check sequence: one with a tag of a virtual network.
const FRAME_MAX: usize = 1518;
const FRAME_MAX_LONG: usize = 16384 - 4;
const CRC: usize = 4;

const DD: u16 = 1 << 0;
const EOP: u16 = 1 << 1;
const IXSM: u16 = 1 << 2;
const VP: u16 = 1 << 3;
const UDPCS: u16 = 1 << 4;
const TCPCS: u16 = 1 << 5;
const IPCS: u16 = 1 << 6;
const PIF: u16 = 1 << 7;
const ERROR_TCPE: u8 = 1 << 5;
const ERROR_IPE: u8 = 1 << 6;

/// What the last descriptor of a frame says.
struct Outcome {
    status: u16,
    errors: u8,
    vlan: u16,
}

impl E1000 {
    pub(super) fn has_room(&self) -> bool {
        !self.has(RCTL, RCTL_EN) || self.ring(RDBAL).is_none_or(|ring| ring.filled() >= self.needed.max(1))
    }

    fn buffer_size(&self) -> usize {
        let rctl = self.get(RCTL);
        let flexible = (rctl >> 27 & 15) as usize;
        if self.kind == Kind::I82574 && flexible > 0 {
            return flexible * 1024;
        }
        let size = 2048 >> (rctl >> 16 & 3);
        // The first size has no extended form.
        if rctl & RCTL_BSEX != 0 && size != 2048 { size * 16 } else { size }
    }

    /// Whether a frame with this destination is for us.
    fn admits(&self, frame: &[u8]) -> bool {
        let rctl = self.get(RCTL);
        if !self.admits_vlan(frame) {
            return false;
        }
        let multicast = frame[0] & 1 != 0;
        if rctl & RCTL_UPE != 0 && !multicast || rctl & RCTL_MPE != 0 && multicast {
            return true;
        }
        if frame.starts_with(&[0xff; 6]) && rctl & RCTL_BAM != 0 {
            return true;
        }
        let low = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let high = u32::from(u16::from_le_bytes([frame[4], frame[5]]));
        let matches = |n: u32| {
            let rah = self.get(RA + 8 * n + 4);
            rah & RAH_VALID != 0 && rah & 0xffff == high && self.get(RA + 8 * n) == low
        };
        if (0..ADDRESSES).any(matches) {
            return true;
        }
        // Twelve bits of the address choose a bit of the table; which ones depends on MO.
        let shift = [4, 3, 2, 0][(rctl >> 12 & 3) as usize];
        let hash = high >> shift & 0xfff;
        multicast && self.get(MTA + 4 * (hash >> 5)) >> (hash & 31) & 1 != 0
    }

    fn is_tagged(&self, frame: &[u8]) -> bool {
        frame.len() >= 18 && u32::from(u16::from_be_bytes([frame[12], frame[13]])) == self.get(VET)
    }

    fn admits_vlan(&self, frame: &[u8]) -> bool {
        if !self.has(RCTL, RCTL_VFE) || !self.is_tagged(frame) {
            return true;
        }
        let tag = u32::from(u16::from_be_bytes([frame[14], frame[15]]));
        if self.has(RCTL, RCTL_CFIEN) && (tag >> 12 & 1 != 0) != self.has(RCTL, RCTL_CFI) {
            return false;
        }
        let id = tag & 0xfff;
        self.get(VFTA + 4 * (id >> 5)) >> (id & 31) & 1 != 0
    }

    /// Takes a frame; false if there is no room for it now.
    pub(super) fn store(&mut self, w: &mut Wires, frame: &[u8]) -> bool {
        if !self.has(RCTL, RCTL_EN) {
            return true;
        }
        let longest = if self.has(RCTL, RCTL_LPE) { FRAME_MAX_LONG } else { FRAME_MAX };
        if frame.len() > longest && !self.has(RCTL, RCTL_SBP) || frame.len() > FRAME_MAX_LONG {
            self.count(ROC, 1);
            return true;
        }
        if !self.admits(frame) {
            return true;
        }
        let Some(ring) = self.ring(RDBAL) else {
            self.count(MPC, 1);
            w.report(format_args!("a receive ring whose ends are outside of it"));
            return true;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.lay_out(frame, &mut scratch);
        let needed = scratch.len().div_ceil(self.buffer_size()) as u32;
        let stored = needed <= ring.filled();
        if stored {
            self.fill(w, ring, &scratch, outcome);
            self.count_received(frame);
        }
        self.scratch = scratch;
        self.needed = if stored { 1 } else { needed };
        if !stored && needed >= self.ring_count(RDBAL) {
            // It would never fit.
            self.needed = 1;
            self.count(MPC, 1);
            self.cause(ICR_RXO);
            return true;
        }
        stored
    }

    /// The bytes for memory, and what is said about them.
    fn lay_out(&self, frame: &[u8], out: &mut Vec<u8>) -> Outcome {
        let mut outcome = Outcome { status: EOP, errors: 0, vlan: 0 };
        out.clear();
        if self.has(CTRL, CTRL_VME) && self.is_tagged(frame) {
            outcome.vlan = u16::from_be_bytes([frame[14], frame[15]]);
            outcome.status |= VP;
            out.extend_from_slice(&frame[..12]);
            out.extend_from_slice(&frame[16..]);
        } else {
            out.extend_from_slice(frame);
        }
        if !self.has(RCTL, RCTL_SECRC) {
            out.resize(out.len() + CRC, 0);
        }
        self.judge(frame, &mut outcome);
        // Passed by a filter that is not exact.
        let rctl = self.get(RCTL);
        if frame[0] & 1 != 0 && !frame.starts_with(&[0xff; 6]) && rctl & RCTL_MPE == 0 {
            outcome.status |= PIF;
        }
        outcome
    }

    /// Checksums.
    fn judge(&self, frame: &[u8], outcome: &mut Outcome) {
        let (ip, transport) = (self.has(RXCSUM, RXCSUM_IPOFL), self.has(RXCSUM, RXCSUM_TUOFL));
        let verdict = if ip || transport { offload::verify(frame) } else { offload::Verdict::default() };
        let mut looked = false;
        if ip && verdict.ip4 {
            looked = true;
            outcome.status |= IPCS;
            outcome.errors |= if verdict.ip4_good { 0 } else { ERROR_IPE };
        }
        if let (true, Some(kind)) = (transport, verdict.transport) {
            looked = true;
            // The older chip has one bit for both.
            let udp = kind == Transport::Udp && self.kind == Kind::I82574;
            outcome.status |= if udp { UDPCS | TCPCS } else { TCPCS };
            outcome.errors |= if verdict.transport_good { 0 } else { ERROR_TCPE };
        }
        if !looked {
            outcome.status |= IXSM;
        }
    }

    fn fill(&mut self, w: &mut Wires, mut ring: Ring, bytes: &[u8], outcome: Outcome) {
        let size = self.buffer_size();
        let pieces = bytes.len().div_ceil(size);
        let extended = self.kind == Kind::I82574 && self.has(RFCTL, RFCTL_EXSTEN);
        for (number, piece) in bytes.chunks(size).enumerate() {
            let at = ring.at();
            let mut address = [0; 8];
            let good = w.memory.read(at, &mut address) && w.memory.write(u64::from_le_bytes(address), piece);
            if !good {
                w.report(format_args!("receive descriptor {at:#x} or its buffer is not in memory"));
            }
            let last = number + 1 == pieces;
            let back = if extended { extended_back(piece.len(), last, &outcome) } else { legacy_back(piece.len(), last, &outcome) };
            // The first eight bytes of a legacy descriptor stay.
            let (offset, back) = if extended { (0, &back[..]) } else { (8, &back[8..]) };
            let _ = w.memory.write(at.wrapping_add(offset), back);
            ring.advance();
        }
        self.set_ring_head(RDBAL, ring.head);
        let threshold = ring.count >> (1 + (self.get(RCTL) >> 8 & 3).min(2));
        let low = if ring.filled() <= threshold { ICR_RXDMT0 } else { 0 };
        self.cause(ICR_RXT0 | ICR_RXQ0 | low);
    }

    fn count_received(&mut self, frame: &[u8]) {
        let bytes = frame.len() as u64 + CRC as u64;
        self.count(TPR, 1);
        self.count(GPRC, 1);
        self.count_octets(TORL, bytes);
        self.count_octets(GORCL, bytes);
        if frame.starts_with(&[0xff; 6]) {
            self.count(BPRC, 1);
        } else if frame[0] & 1 != 0 {
            self.count(MPRC, 1);
        }
    }
}

fn legacy_back(len: usize, last: bool, outcome: &Outcome) -> [u8; 16] {
    let mut d = [0; 16];
    d[8..10].copy_from_slice(&(len as u16).to_le_bytes());
    d[12] = DD as u8;
    if last {
        d[12] |= outcome.status as u8;
        d[13] = outcome.errors;
        d[14..16].copy_from_slice(&outcome.vlan.to_le_bytes());
    }
    d
}

fn extended_back(len: usize, last: bool, outcome: &Outcome) -> [u8; 16] {
    let mut d = [0; 16];
    let mut status = u32::from(DD);
    if last {
        status |= u32::from(outcome.status) | u32::from(outcome.errors) << 24;
        d[14..16].copy_from_slice(&outcome.vlan.to_le_bytes());
    }
    d[8..12].copy_from_slice(&status.to_le_bytes());
    d[12..14].copy_from_slice(&(len as u16).to_le_bytes());
    d
}
