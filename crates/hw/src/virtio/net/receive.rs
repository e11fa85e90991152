//! Frames on their way to the guest.
//!
//! Invariants: a frame is delivered whole or not at all. Buffers of a driver that are too small for a frame are kept for
//! the next one; the frame is dropped, as on a real card.

use net::{Guest, Mac, Offload, Segmentation};

use super::control::Filter;
use super::header::{self, Header};
use super::{RX, feature};
use crate::virtio::device::Core;
use crate::virtio::ring::{Chain, Cursor, Fault, total};

/// Ethernet header and room for the headers of IP and TCP, as a driver may want to see them in one piece.
const ETHERNET: u16 = 14;

/// What is kept from frame to frame.
#[derive(Default)]
pub struct Receiver {
    pub dropped: u64,
    /// The driver's buffers together were too small for the next frame.
    pub short: bool,
}

/// One call of the back end: it takes frames for the guest.
pub struct Delivery<'a> {
    core: &'a mut Core,
    receiver: &'a mut Receiver,
    filter: &'a Filter,
    mac: Mac,
    offloads: u64,
    fault: Option<Fault>,
}

/// Whether the driver has no buffer for a frame.
pub fn starved(core: &mut Core, queue: usize) -> bool {
    match core.pop(queue) {
        Ok(Some(_)) => {
            core.undo(queue);
            false
        }
        // A broken ring is reported by whoever uses it next.
        _ => true,
    }
}

impl<'a> Delivery<'a> {
    pub fn new(core: &'a mut Core, receiver: &'a mut Receiver, filter: &'a Filter, mac: Mac, offloads: u64) -> Delivery<'a> {
        Delivery { core, receiver, filter, mac, offloads, fault: None }
    }

    /// Shows the driver what was delivered.
    pub fn finish(self) -> Result<(), Fault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self.core.finish(RX),
        }
    }

    /// Takes buffers for `len` bytes: one, or several if they can be merged. Empty: there are too few.
    fn take(&mut self, len: u64) -> Result<Vec<Chain>, Fault> {
        let merge = self.core.has(feature::MRG_RXBUF);
        let mut chains = Vec::new();
        let mut room = 0;
        while room < len {
            let Some(chain) = self.core.pop(RX)? else { break };
            room += total(chain.writable());
            chains.push(chain);
            if !merge {
                break;
            }
        }
        if room >= len {
            return Ok(chains);
        }
        let single = !merge && !chains.is_empty();
        for _ in &chains {
            self.core.undo(RX);
        }
        // A driver whose only buffers are too small would wait for ever.
        if single { Err(Fault("a receive buffer is too small for a frame")) } else { Ok(Vec::new()) }
    }

    fn store(&mut self, parts: &[&[u8]], offload: Offload, len: usize) -> Result<bool, Fault> {
        let header_len = header::len(self.core);
        let chains = self.take((header_len + len) as u64)?;
        if chains.is_empty() {
            return Ok(false);
        }
        let first = parts.iter().find(|p| !p.is_empty()).map_or(0, |p| p.len());
        let mut header = Header::of(offload, self.offloads, (first as u16).max(ETHERNET));
        header.num_buffers = chains.len() as u16;
        let header = header.encode();
        let pieces: Vec<&[u8]> = std::iter::once(&header[..header_len]).chain(parts.iter().copied()).collect();
        let mut source = Source { pieces: &pieces, done: 0 };
        for chain in &chains {
            let mut to = Cursor::new(chain.writable());
            let mut written = 0;
            while to.left() > 0 {
                let piece = source.next(to.left());
                if piece.is_empty() {
                    break;
                }
                to.write(&self.core.memory, piece)?;
                written += piece.len() as u32;
            }
            self.core.put(RX, chain.head, written)?;
        }
        Ok(true)
    }
}

/// Bytes of several pieces in order.
struct Source<'a> {
    pieces: &'a [&'a [u8]],
    done: usize,
}

impl<'a> Source<'a> {
    /// The next bytes, at most `max`; empty at the end.
    fn next(&mut self, max: u64) -> &'a [u8] {
        while let Some(piece) = self.pieces.first() {
            let rest = &piece[self.done..];
            if rest.is_empty() {
                self.pieces = &self.pieces[1..];
                self.done = 0;
                continue;
            }
            let len = rest.len().min(max as usize);
            self.done += len;
            return &rest[..len];
        }
        &[]
    }
}

impl Guest for Delivery<'_> {
    fn ready(&mut self) -> bool {
        self.fault.is_none() && self.core.queues[RX].ready && !starved(self.core, RX)
    }

    fn deliver(&mut self, parts: &[&[u8]], offload: Offload) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let len = parts.iter().map(|p| p.len()).sum::<usize>();
        let mut start = [0; 18];
        let mut at = 0;
        for byte in parts.iter().copied().flatten().take(start.len()) {
            start[at] = *byte;
            at += 1;
        }
        let unusable = matches!(offload.segmentation, Segmentation::Udp { .. });
        if unusable || len > net::backend::MAX_FRAME || !self.filter.admits(&start[..at], self.mac) {
            self.receiver.dropped += 1;
            return true;
        }
        match self.store(parts, offload, len) {
            Ok(taken) => {
                self.receiver.short |= !taken;
                taken
            }
            Err(fault) => {
                self.fault = Some(fault);
                false
            }
        }
    }
}
