//! Segments of one TCP stream that arrive one after the other, as the one large frame that they were cut from.
//!
//! A guest's network stack costs it thousands of instructions for each frame; its driver may have said that it takes large ones.
//!
//! Reference: RFC 9293 (segments), RFC 3168 (what ECN needs to see); the offload of the merged frame is that of
//! `struct virtio_net_hdr` (VIRTIO 1.2, 5.1.6.4): its segments can be cut again exactly as they came.
//! Not modelled: several streams at once, VLAN tags, IPv4 options, IPv6 extension headers.
//!
//! Invariants: the order of frames is kept; a frame is delivered, held or refused, never lost; only what has valid checksums and
//! differs from its predecessor in position alone is merged; at most one frame of 64 KiB is held, and only while its guest
//! has no room or until the end of the poll.

use crate::backend::{Accepts, Checksum, Guest, Offload, Segmentation};
use crate::finish::{Headers, Transport, Verdict};

const ETHERNET: usize = 14;
/// The largest IP packet.
const PACKET_MAX: usize = 65535;
const TCP: u8 = 6;
const ACK: u8 = 0x10;
const PSH: u8 = 8;
/// Where the checksum is in a TCP header.
const TCP_SUM: u16 = 16;

/// Segments that were put together in [`Merge::frame`].
#[derive(Clone, Copy)]
struct Held {
    headers: Headers,
    /// Bytes of the first segment, which all but the last have.
    size: usize,
    count: usize,
    /// The sequence number that comes next.
    next: u32,
    /// Nothing may follow.
    closed: bool,
}

/// What is held for the guest.
#[derive(Default)]
pub struct Merge {
    accepts: Accepts,
    frame: Vec<u8>,
    held: Option<Held>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

impl Merge {
    /// A driver that has just started was promised nothing.
    pub fn set_accepts(&mut self, accepts: Accepts) {
        self.accepts = accepts;
        self.held = None;
    }

    /// Takes a whole frame, or refuses it. `offload` is for the frame as it is.
    pub fn deliver(&mut self, frame: &[u8], offload: Offload, verdict: Verdict, guest: &mut dyn Guest) -> bool {
        let Some(headers) = self.candidate(frame, verdict) else {
            return self.flush(guest) && guest.deliver(&[frame], offload);
        };
        if self.join(frame, headers) {
            return true;
        }
        if !self.flush(guest) {
            return false;
        }
        let flags = frame[headers.tcp + 13];
        if flags & PSH != 0 {
            // The end of a message: nothing will join it.
            return guest.deliver(&[frame], offload);
        }
        self.frame.clear();
        self.frame.extend_from_slice(frame);
        let size = frame.len() - headers.len;
        let next = u32_at(frame, headers.tcp + 4).wrapping_add(size as u32);
        self.held = Some(Held { headers, size, count: 1, next, closed: false });
        true
    }

    /// Gives the guest what is held; false if it has no room.
    pub fn flush(&mut self, guest: &mut dyn Guest) -> bool {
        let Some(held) = self.held else { return true };
        let headers = held.headers;
        let mut offload = Offload { checksum: Checksum::Valid, segmentation: Segmentation::None };
        if held.count > 1 {
            headers.finish_ip(&mut self.frame, 0);
            let sum = headers.pseudo(&self.frame).folded();
            set_u16(&mut self.frame, headers.tcp + usize::from(TCP_SUM), sum);
            let size = held.size as u16;
            offload.checksum = Checksum::Partial { start: headers.tcp as u16, offset: TCP_SUM };
            offload.segmentation = if headers.v6 { Segmentation::Tcp6 { size } } else { Segmentation::Tcp4 { size } };
        }
        let (head, payload) = self.frame.split_at(headers.len);
        let taken = guest.ready() && guest.deliver(&[head, payload], offload);
        if taken {
            self.held = None;
        }
        taken
    }

    /// Where the headers of a segment are that may be merged with others.
    fn candidate(&self, frame: &[u8], verdict: Verdict) -> Option<Headers> {
        if verdict.transport != Some(Transport::Tcp) || !verdict.transport_good || !self.accepts.checksum {
            return None;
        }
        let packet = &frame[ETHERNET..];
        let v6 = match frame[12..14] {
            [0x08, 0x00] => false,
            [0x86, 0xdd] => true,
            _ => return None,
        };
        let length = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let plain = match v6 {
            // No options, not a fragment, nothing behind the packet.
            false => self.accepts.tcp4 && verdict.ip4_good && packet[0] == 0x45 && packet[9] == TCP && length(2) == packet.len(),
            true => self.accepts.tcp6 && packet[6] == TCP && length(4) + 40 == packet.len(),
        };
        let tcp = ETHERNET + if v6 { 40 } else { 20 };
        let len = tcp + usize::from(frame.get(tcp + 12)? >> 4) * 4;
        // ACK alone, or with PSH; ECE and CWR tell of single segments.
        let usual = frame[tcp + 12] & 15 == 0 && frame[tcp + 13] & !PSH == ACK;
        (plain && usual && len >= tcp + 20 && len < frame.len()).then_some(Headers { ip: ETHERNET, tcp, len, v6 })
    }

    /// Appends a segment that follows what is held and is like it.
    fn join(&mut self, frame: &[u8], headers: Headers) -> bool {
        let Some(held) = &mut self.held else { return false };
        let size = frame.len() - headers.len;
        let tcp = headers.tcp;
        let follows = !held.closed && held.headers == headers && held.next == u32_at(frame, tcp + 4);
        let fits = size <= held.size && self.frame.len() + size <= ETHERNET + PACKET_MAX;
        if !follows || !fits || !alike(&self.frame, frame, headers) {
            return false;
        }
        self.frame.extend_from_slice(&frame[headers.len..]);
        self.frame[tcp + 13] |= frame[tcp + 13] & PSH;
        held.next = held.next.wrapping_add(size as u32);
        held.count += 1;
        held.closed = size < held.size || frame[tcp + 13] & PSH != 0;
        true
    }
}

/// Whether all headers say the same but for lengths, identification, sequence, PSH and checksums.
fn alike(a: &[u8], b: &[u8], headers: Headers) -> bool {
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let ip = headers.ip;
    let network = match headers.v6 {
        // Type of service; flags, time to live, protocol; addresses.
        false => same(ip, ip + 2) && same(ip + 6, ip + 10) && same(ip + 12, ip + 20),
        true => same(ip, ip + 4) && same(ip + 6, ip + 40),
    };
    let tcp = headers.tcp;
    // Ports; acknowledgement and data offset; window; urgent pointer and options.
    let transport = same(tcp, tcp + 4) && same(tcp + 8, tcp + 13) && same(tcp + 14, tcp + 16) && same(tcp + 18, headers.len);
    same(0, ip) && network && transport
}

/// A TCP frame for tests: complete, with good checksums.
#[cfg(test)]
pub fn segment(v6: bool, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    let length = (payload.len() + 32) as u16;
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([TCP, 64]);
        frame.extend([0xfe; 32]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((length + 20).to_be_bytes());
        frame.extend((sequence as u16).to_be_bytes());
        frame.extend([0x40, 0, 64, TCP, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15]);
    }
    frame.extend([0x12, 0x34, 0, 80]);
    frame.extend(sequence.to_be_bytes());
    // A time stamp option.
    frame.extend([0, 0, 0, 9, 0x80, flags, 0x10, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    frame.extend(payload);
    finish(&mut frame, v6);
    frame
}

/// Makes the checksums right.
#[cfg(test)]
pub fn finish(frame: &mut [u8], v6: bool) {
    let tcp = ETHERNET + if v6 { 40 } else { 20 };
    let headers = Headers { ip: ETHERNET, tcp, len: tcp + 32, v6 };
    headers.finish_ip(frame, 0);
    set_u16(frame, tcp + usize::from(TCP_SUM), 0);
    let sum = headers.pseudo(frame).bytes(&frame[tcp..]);
    set_u16(frame, tcp + usize::from(TCP_SUM), sum.finish());
}

#[cfg(test)]
mod tests;
