//! The direction guest to host: the window we offer, reassembly, and delivery to the host socket.
//!
//! A large in-order frame goes straight to the socket; small ones are collected, so that a batch of
//! them costs one system call. What the socket does not take, and what came out of order, stays in
//! `ring`: `len` counts the in-order bytes, stretches beyond it are listed in `beyond`.
//!
//! Reference: RFC 9293 3.8.6 (window management), RFC 2018 (SACK), RFC 5681 4.2 (when to acknowledge).
//! Invariant: the offered right edge never moves back.

use std::io::{ErrorKind, IoSlice};

use socket2::Socket;

use super::ranges::Ranges;
use super::segment::{MAX_SACK, Seq};
use crate::ring::Ring;

/// The most bytes that wait for one host socket.
pub const RECEIVE_MAX: usize = 1 << 20;
/// What a connection may hold when all of them together hold too much.
pub const BUFFER_MIN: usize = 16 * 1024;
/// A frame with less than this is cheaper to copy than to send on its own.
const DIRECT_MIN: usize = 8 * 1024;
/// Our window scale: RECEIVE_MAX fits 16 bits.
pub const WINDOW_SCALE: u8 = 5;
/// Duplicate acknowledgements sent at once, so that a sender without SACK starts fast retransmit.
const MAX_DUPLICATES: u8 = 3;

#[derive(Debug, Default)]
pub struct Receiver {
    /// The next byte we expect.
    pub next: Seq,
    /// The right edge of the window that the guest knows.
    edge: Seq,
    /// Applied to the window field; zero if the guest does not scale.
    pub scale: u8,
    pub sack: bool,
    pub ring: Ring,
    beyond: Ranges,
    /// The guest's FIN has arrived, at this sequence number.
    fin: Option<Seq>,
    /// ... and everything before it.
    pub finished: bool,
    /// An acknowledgement is owed.
    pub owed: bool,
    duplicates: u8,
    /// The newest out-of-order stretch, which a SACK reports first.
    newest: Option<Seq>,
}

/// Sends to a stream socket without a signal.
fn send(socket: &Socket, parts: (&[u8], &[u8])) -> std::io::Result<usize> {
    use rustix::net::SendFlags;
    if parts.1.is_empty() {
        return Ok(rustix::net::send(socket, parts.0, SendFlags::NOSIGNAL)?);
    }
    let slices = [IoSlice::new(parts.0), IoSlice::new(parts.1)];
    socket.send_vectored_with_flags(&slices, SendFlags::NOSIGNAL.bits() as i32)
}

impl Receiver {
    pub fn start(&mut self, next: Seq) {
        self.next = next;
        self.edge = next;
    }

    /// Whether a segment has anything to do with the window (RFC 9293, 3.10.7.4).
    pub fn acceptable(&self, seq: Seq, length: usize) -> bool {
        if length == 0 {
            return seq == self.next || (seq.after(self.next) > 0 && seq.after(self.edge) < 0);
        }
        // With a closed window nothing fits, but one byte must not be mistaken for new data.
        seq.after(self.edge) < 0 && seq.plus(length).after(self.next) > 0
    }

    /// Whether a sequence number is inside the window.
    pub fn in_window(&self, seq: Seq) -> bool {
        seq.after(self.next) >= 0 && seq.after(self.edge) < 0
    }

    /// Takes data and FIN of an acceptable segment.
    pub fn data(
        &mut self,
        seq: Seq,
        payload: &[u8],
        fin: bool,
        socket: Option<&Socket>,
        writable: &mut bool,
        limit: usize,
    ) -> std::io::Result<()> {
        if payload.is_empty() && !fin {
            return Ok(());
        }
        self.owed = true;
        if self.finished {
            return Ok(());
        }
        let end = seq.plus(payload.len());
        if fin && end.after(self.edge) <= 0 {
            self.fin = self.fin.or(Some(end));
        }
        // Cut what is old, and what we did not offer to take.
        let skip = self.next.distance(seq).min(payload.len());
        let keep = self.edge.distance(seq).min(payload.len()).max(skip);
        let payload = &payload[skip..keep];
        let seq = seq.plus(skip);
        if seq.after(self.next) > 0 {
            self.out_of_order(seq, payload, limit);
        } else if !payload.is_empty() {
            self.in_order(payload, socket, writable, limit)?;
        }
        if self.fin == Some(self.next) {
            self.finished = true;
            self.next = self.next.plus(1);
        }
        Ok(())
    }

    fn in_order(
        &mut self,
        payload: &[u8],
        socket: Option<&Socket>,
        writable: &mut bool,
        limit: usize,
    ) -> std::io::Result<()> {
        let mut sent = 0;
        let direct = payload.len() >= DIRECT_MIN && self.is_empty() && *writable;
        if let (true, Some(socket)) = (direct, socket) {
            match send(socket, (payload, &[])) {
                Ok(n) => sent = n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => *writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let rest = &payload[sent..];
        self.next = self.next.plus(sent);
        // Beyond the limit of a crowded engine the rest is dropped; the guest sends it again.
        let rest = &rest[..rest.len().min(limit.saturating_sub(self.ring.len()))];
        if rest.is_empty() {
            return Ok(());
        }
        self.ring.reserve(self.ring.len() + rest.len());
        self.ring.write_at(self.ring.len(), rest);
        self.next = self.next.plus(rest.len());
        let joined = self.beyond.take_until(self.next);
        self.ring.commit(rest.len() + joined.distance(self.next));
        self.next = joined;
        Ok(())
    }

    fn out_of_order(&mut self, seq: Seq, payload: &[u8], limit: usize) {
        self.duplicates = (self.duplicates + 1).min(MAX_DUPLICATES);
        let offset = self.ring.len() + seq.distance(self.next);
        if payload.is_empty() || offset + payload.len() > limit || !self.beyond.insert(seq, seq.plus(payload.len())) {
            return;
        }
        self.newest = Some(seq);
        self.ring.reserve(offset + payload.len());
        self.ring.write_at(offset, payload);
    }

    /// Gives waiting data to the host socket.
    pub fn flush(&mut self, socket: &Socket, writable: &mut bool) -> std::io::Result<()> {
        while *writable && !self.ring.is_empty() {
            match send(socket, self.ring.peek(0, self.ring.len())) {
                Ok(n) => self.ring.consume(n),
                Err(error) if error.kind() == ErrorKind::WouldBlock => *writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Nothing waits for the host, in order or not.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.beyond.is_empty()
    }

    /// Everything up to the FIN is with the host.
    pub fn drained(&self) -> bool {
        self.finished && self.ring.is_empty()
    }

    /// What may be offered. A sixteenth of the limit is kept back: window fields are rounded up (or the
    /// edge would move back), so the guest may send a little more than we meant.
    fn room(&self, limit: usize) -> usize {
        (limit - limit / 16).saturating_sub(self.ring.len())
    }

    /// Whether the window has opened so much that the guest should be told.
    pub fn window_opened(&self, limit: usize, segment_size: usize) -> bool {
        if self.finished {
            return false;
        }
        let known = self.edge.distance(self.next);
        let now = self.room(limit);
        now > known && (now - known >= limit / 2 || (known < segment_size && now >= 2 * segment_size))
    }

    /// The window field for the next segment; it becomes the edge that the guest knows.
    pub fn offer(&mut self, limit: usize, segment_size: usize) -> u16 {
        let known = self.edge.distance(self.next);
        let mut window = self.room(limit);
        // Do not offer crumbs (RFC 9293, 3.8.6.2.2).
        if window < known + segment_size.min(limit / 2) {
            window = known;
        }
        // Rounded up, or the rounding itself would move the edge back.
        let known_field = known.div_ceil(1 << self.scale);
        let field = (window >> self.scale).max(known_field).min(0xffff);
        self.edge = self.edge.later(self.next.plus(field << self.scale));
        field as u16
    }

    /// The window field of a SYN, which is never scaled.
    pub fn offer_in_syn(&mut self, limit: usize) -> u16 {
        let window = self.room(limit).min(0xffff);
        self.edge = self.edge.later(self.next.plus(window));
        window as u16
    }

    /// How many duplicate acknowledgements are owed besides the normal one.
    pub fn take_duplicates(&mut self) -> u8 {
        std::mem::take(&mut self.duplicates).saturating_sub(1)
    }

    /// The stretches for a SACK option, the newest first.
    pub fn sack_ranges(&self) -> [Option<(u32, u32)>; MAX_SACK] {
        let mut ranges = [None; MAX_SACK];
        if !self.sack || self.beyond.is_empty() {
            return ranges;
        }
        let holds = |r: &(Seq, Seq)| self.newest.is_some_and(|n| n.after(r.0) >= 0 && n.after(r.1) < 0);
        let first = self.beyond.iter().find(holds);
        let others = self.beyond.iter().filter(|r| Some(*r) != first);
        for (slot, (start, end)) in ranges.iter_mut().zip(first.into_iter().chain(others)) {
            *slot = Some((start.0, end.0));
        }
        ranges
    }
}
