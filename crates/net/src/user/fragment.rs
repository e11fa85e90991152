//! Reassembly of fragmented packets from the guest.
//!
//! Reference: RFC 791 3.2, RFC 8200 4.5, RFC 5722 (overlaps discard the whole packet; we do that for
//! IPv4 too, so that no check can be fooled by them).
//! Invariants: at most [`MAX_PACKETS`] of at most 64 KiB each are kept, none longer than [`LIFETIME`].

use std::net::IpAddr;
use std::time::Duration;

use crate::backend::Nanos;

/// Packets that are being put together at one time.
pub const MAX_PACKETS: usize = 16;
/// Separate stretches of one packet.
const MAX_PIECES: usize = 64;
/// The largest payload of an IP packet.
const MAX_PAYLOAD: usize = 65535;
pub const LIFETIME: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub ident: u32,
}

#[derive(Debug)]
struct Packet {
    id: Id,
    deadline: Nanos,
    bytes: Vec<u8>,
    /// Stretches that have arrived, sorted, not touching.
    pieces: Vec<(usize, usize)>,
    total: Option<usize>,
    /// An overlap or a contradiction was seen: swallow the rest until the deadline.
    spoiled: bool,
}

#[derive(Debug, Default)]
pub struct Fragments {
    packets: Vec<Packet>,
}

impl Fragments {
    /// Adds one fragment; the whole payload when it was the last missing one.
    pub fn add(&mut self, now: Nanos, id: Id, offset: usize, more: bool, data: &[u8]) -> Option<Vec<u8>> {
        self.expire(now);
        let at = match self.packets.iter().position(|p| p.id == id) {
            Some(at) => at,
            None => self.start(now, id),
        };
        let packet = &mut self.packets[at];
        if packet.spoiled || packet.insert(offset, more, data).is_none() {
            packet.spoil();
            return None;
        }
        match (packet.total, packet.pieces.as_slice()) {
            (Some(total), [(0, end)]) if *end == total => {
                let mut bytes = self.packets.swap_remove(at).bytes;
                bytes.truncate(total);
                Some(bytes)
            }
            _ => None,
        }
    }

    fn start(&mut self, now: Nanos, id: Id) -> usize {
        if self.packets.len() >= MAX_PACKETS {
            // The oldest is the least likely to be completed.
            let oldest = (0..self.packets.len()).min_by_key(|&i| self.packets[i].deadline).expect("the table is full");
            self.packets.swap_remove(oldest);
        }
        let deadline = now.after(LIFETIME);
        self.packets.push(Packet { id, deadline, bytes: Vec::new(), pieces: Vec::new(), total: None, spoiled: false });
        self.packets.len() - 1
    }

    /// Forgets what was never completed. Gives the time of the next to be forgotten.
    pub fn expire(&mut self, now: Nanos) -> Option<Nanos> {
        self.packets.retain(|p| p.deadline > now);
        self.packets.iter().map(|p| p.deadline).min()
    }

    pub fn bytes(&self) -> usize {
        self.packets.iter().map(|p| p.bytes.capacity()).sum()
    }
}

impl Packet {
    fn spoil(&mut self) {
        self.spoiled = true;
        self.bytes = Vec::new();
        self.pieces = Vec::new();
    }

    /// `None` if the fragment contradicts what is known.
    fn insert(&mut self, offset: usize, more: bool, data: &[u8]) -> Option<()> {
        let end = offset + data.len();
        let whole = !more || data.len().is_multiple_of(8);
        if end > MAX_PAYLOAD || data.is_empty() || !whole || self.total.is_some_and(|t| end > t || (!more && end != t)) {
            return None;
        }
        let at = self.pieces.partition_point(|&(start, _)| start < offset);
        let before = at.checked_sub(1).map(|i| self.pieces[i]);
        let after = self.pieces.get(at).copied();
        // The very same fragment again is harmless; RFC 5722's errata allow to ignore it.
        if after == Some((offset, end)) && self.bytes.get(offset..end) == Some(data) {
            return Some(());
        }
        if before.is_some_and(|(_, e)| e > offset) || after.is_some_and(|(s, _)| s < end) {
            return None;
        }
        if !more {
            if self.pieces.last().is_some_and(|&(_, e)| e > end) {
                return None;
            }
            self.total = Some(end);
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(data);
        self.pieces.insert(at, (offset, end));
        self.merge(at);
        (self.pieces.len() <= MAX_PIECES).then_some(())
    }

    fn merge(&mut self, at: usize) {
        if at + 1 < self.pieces.len() && self.pieces[at].1 == self.pieces[at + 1].0 {
            self.pieces[at].1 = self.pieces.remove(at + 1).1;
        }
        if at > 0 && self.pieces[at - 1].1 == self.pieces[at].0 {
            self.pieces[at - 1].1 = self.pieces.remove(at).1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ident: u32) -> Id {
        let address = IpAddr::from([10, 0, 2, 15]);
        Id { source: address, destination: address, protocol: 17, ident }
    }

    fn data() -> Vec<u8> {
        (0..4000u32).map(|i| (i % 251) as u8).collect()
    }

    #[track_caller]
    fn check(order: &[(usize, usize)], complete: bool) {
        let (data, mut fragments, mut done) = (data(), Fragments::default(), None);
        for &(start, end) in order {
            let more = end < data.len();
            done = done.or(fragments.add(Nanos(0), id(1), start, more, &data[start..end]));
        }
        assert_eq!(done.is_some(), complete, "{order:?}");
        assert!(done.is_none_or(|d| d == data));
    }

    #[test]
    fn any_order_completes() {
        check(&[(0, 1480), (1480, 2960), (2960, 4000)], true);
        check(&[(2960, 4000), (1480, 2960), (0, 1480)], true);
        check(&[(0, 1480), (0, 1480), (2960, 4000), (1480, 2960)], true);
    }

    #[test]
    fn overlaps_gaps_and_odd_pieces_do_not() {
        check(&[(0, 1480), (1472, 2960), (2960, 4000)], false);
        check(&[(0, 1480), (2960, 4000)], false);
        check(&[(0, 1479), (1479, 4000)], false);
        check(&[(2960, 4000), (0, 2968)], false);
    }

    #[test]
    fn memory_and_time_are_bounded() {
        let mut fragments = Fragments::default();
        for ident in 0..1000 {
            fragments.add(Nanos(0), id(ident), 64_000, true, &[0; 1480]);
        }
        assert_eq!(fragments.packets.len(), MAX_PACKETS);
        assert!(fragments.bytes() <= MAX_PACKETS * 2 * MAX_PAYLOAD, "{}", fragments.bytes());
        assert_eq!(fragments.expire(Nanos(5)), Some(Nanos(0).after(LIFETIME)));
        fragments.add(Nanos(0).after(LIFETIME), id(0), 0, true, &[0; 8]);
        assert_eq!(fragments.packets.len(), 1);
        assert_eq!((fragments.expire(Nanos(1).after(LIFETIME * 2)), fragments.bytes()), (None, 0));
    }
}
