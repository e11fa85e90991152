//! What a card does to frames on their way out: checksums and segmentation, for cables that do not take them unfinished.
//!
//! Reference: RFC 791, RFC 8200 (lengths), RFC 9293 (flags of segments).
//! Invariants: positions that lie outside of a frame are refused; a frame is cut into at most [`SEGMENTS_MAX`] pieces.

use std::net::IpAddr;

use net::checksum::Sum;
use net::{Checksum, Nanos, Offload, Segmentation, Transmit};

use super::card::Cable;

/// 64 KiB in the smallest pieces that make sense.
pub const SEGMENTS_MAX: usize = 2048;
const TCP_FIN: u8 = 1;
const TCP_PSH: u8 = 8;
const TCP_CWR: u8 = 0x80;
const PROTOCOL_TCP: u8 = 6;

/// Stores the sum of `start..end` at `at`, as hardware does: the field's present value counts. False: it does not fit.
#[must_use]
pub fn insert_sum(frame: &mut [u8], start: usize, end: usize, at: usize) -> bool {
    if start > end || end > frame.len() || at + 2 > frame.len() {
        return false;
    }
    let sum = Sum::default().bytes(&frame[start..end]).finish();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Where the headers of a frame that is to be cut are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    pub ip: usize,
    pub tcp: usize,
    /// Bytes before the payload.
    pub len: usize,
    pub v6: bool,
}

fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn set_word(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

impl Headers {
    /// Looks whether everything that is to be changed lies inside of the headers.
    pub fn checked(self, frame: &[u8]) -> Option<Headers> {
        let ip_len = if self.v6 { 40 } else { 20 };
        let fits = self.ip + ip_len <= self.tcp && self.tcp + 20 <= self.len && self.len < frame.len();
        let version = frame.get(self.ip)? >> 4;
        (fits && version == if self.v6 { 6 } else { 4 }).then_some(self)
    }

    /// Writes lengths and checks of the IP header for a packet that ends with `frame`.
    fn finish_ip(&self, frame: &mut [u8], number: u16) {
        let length = frame.len() - self.ip;
        if self.v6 {
            set_word(frame, self.ip + 4, (length - 40).min(0xffff) as u16);
            return;
        }
        set_word(frame, self.ip + 2, length.min(0xffff) as u16);
        let id = word(frame, self.ip + 4).wrapping_add(number);
        set_word(frame, self.ip + 4, id);
        set_word(frame, self.ip + 10, 0);
        let end = self.ip + usize::from(frame[self.ip] & 15).max(5) * 4;
        let end = end.min(self.tcp);
        let sum = Sum::default().bytes(&frame[self.ip..end]).finish();
        set_word(frame, self.ip + 10, sum);
    }

    fn pseudo(&self, frame: &[u8]) -> Sum {
        let length = frame.len() - self.tcp;
        let address = |at: usize, len: usize| -> IpAddr {
            let bytes = &frame[self.ip + at..self.ip + at + len];
            match <[u8; 4]>::try_from(bytes) {
                Ok(v4) => v4.into(),
                Err(_) => <[u8; 16]>::try_from(bytes).expect("four bytes or sixteen").into(),
            }
        };
        let (source, destination) = if self.v6 { (address(8, 16), address(24, 16)) } else { (address(12, 4), address(16, 4)) };
        Sum::pseudo(source, destination, PROTOCOL_TCP, length)
    }
}

/// Sends a frame that stands for several. With [`Transmit::Full`] nothing was sent.
pub fn segment(cable: &mut Cable, now: Nanos, frame: &mut [u8], headers: Headers, size: u16) -> Transmit {
    if cable.takes_offloads() {
        headers.finish_ip(frame, 0);
        let pseudo = headers.pseudo(frame).folded();
        set_word(frame, headers.tcp + 16, pseudo);
        let checksum = Checksum::Partial { start: headers.tcp as u16, offset: 16 };
        let segmentation = if headers.v6 { Segmentation::Tcp6 { size } } else { Segmentation::Tcp4 { size } };
        return cable.transmit(now, frame, Offload { checksum, segmentation });
    }
    let (head, payload) = frame.split_at(headers.len);
    let last = payload.len().div_ceil(size.into()) - 1;
    let mut piece = Vec::with_capacity(headers.len + usize::from(size));
    for (number, part) in payload.chunks(size.into()).enumerate() {
        piece.clear();
        piece.extend_from_slice(head);
        piece.extend_from_slice(part);
        cut(&mut piece, headers, number, usize::from(size), last);
        // A cable that becomes full in the middle loses the rest, as any network may.
        if cable.transmit(now, &piece, Offload::default()) == Transmit::Full && number == 0 {
            return Transmit::Full;
        }
    }
    Transmit::Taken
}

/// Makes piece `number` a packet of its own.
fn cut(piece: &mut [u8], headers: Headers, number: usize, size: usize, last: usize) {
    headers.finish_ip(piece, number as u16);
    let tcp = headers.tcp;
    let sequence = u32::from_be_bytes([piece[tcp + 4], piece[tcp + 5], piece[tcp + 6], piece[tcp + 7]]);
    let sequence = sequence.wrapping_add((number * size) as u32);
    piece[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
    if number < last {
        piece[tcp + 13] &= !(TCP_FIN | TCP_PSH);
    }
    if number > 0 {
        piece[tcp + 13] &= !TCP_CWR;
    }
    set_word(piece, tcp + 16, 0);
    let sum = headers.pseudo(piece).bytes(&piece[tcp..]).finish();
    set_word(piece, tcp + 16, sum);
}

/// What a receiving card can say about a frame's checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub ip4: bool,
    pub ip4_good: bool,
    /// TCP or UDP, whole in this frame.
    pub transport: Option<Transport>,
    pub transport_good: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// Looks at the checksums of a frame.
pub fn verify(frame: &[u8]) -> Verdict {
    look(frame).unwrap_or_default()
}

fn look(frame: &[u8]) -> Option<Verdict> {
    let mut at = 14;
    let mut kind = word(frame.get(..14)?, 12);
    if kind == 0x8100 {
        kind = word(frame.get(..18)?, 16);
        at = 18;
    }
    match kind {
        0x0800 => look4(frame.get(at..)?),
        0x86dd => look6(frame.get(at..)?),
        _ => None,
    }
}

fn look4(packet: &[u8]) -> Option<Verdict> {
    let head = usize::from(packet.first()? & 15) * 4;
    let header = packet.get(..head).filter(|h| h.len() >= 20)?;
    let mut verdict = Verdict { ip4: true, ip4_good: Sum::default().bytes(header).is_valid(), ..Verdict::default() };
    let total = usize::from(word(packet, 2));
    let fragment = word(packet, 6) & 0x3fff != 0;
    if let Some(body) = packet.get(head..total).filter(|_| !fragment) {
        let address = |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        look_transport(&mut verdict, body, packet[9], address(12), address(16));
    }
    Some(verdict)
}

fn look6(packet: &[u8]) -> Option<Verdict> {
    let header = packet.get(..40)?;
    let body = packet.get(40..40 + usize::from(word(header, 4)))?;
    let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).map(IpAddr::from);
    let mut verdict = Verdict::default();
    look_transport(&mut verdict, body, header[6], address(8).ok()?, address(24).ok()?);
    Some(verdict)
}

fn look_transport(verdict: &mut Verdict, body: &[u8], protocol: u8, source: IpAddr, destination: IpAddr) {
    let (kind, field, least) = match protocol {
        PROTOCOL_TCP => (Transport::Tcp, 16, 20),
        17 => (Transport::Udp, 6, 8),
        _ => return,
    };
    if body.len() < least {
        return;
    }
    let absent = kind == Transport::Udp && word(body, field) == 0;
    verdict.transport = Some(kind);
    verdict.transport_good = absent || Sum::pseudo(source, destination, protocol, body.len()).bytes(body).is_valid();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Far, tcp_frame};

    #[test]
    fn pieces_are_packets_of_their_own() {
        for v6 in [false, true] {
            let mut frame = tcp_frame(v6, 3000);
            let tcp = if v6 { 54 } else { 34 };
            frame[tcp + 13] |= TCP_FIN | TCP_PSH;
            let headers = Headers { ip: 14, tcp, len: tcp + 20, v6 }.checked(&frame).unwrap();
            let far = Far::default();
            let mut cable = far.cable(false);
            assert_eq!(segment(&mut cable, Nanos(0), &mut frame, headers, 1460), Transmit::Taken);
            let sent = far.sent();
            assert_eq!(sent.iter().map(|(f, _)| f.len() - tcp - 20).collect::<Vec<_>>(), [1460, 1460, 80]);
            for (number, (piece, offload)) in sent.iter().enumerate() {
                let v = verify(piece);
                assert!(v.transport_good && (v6 || v.ip4_good), "{number}");
                assert_eq!(*offload, Offload::default());
                assert_eq!(piece[tcp + 13] & TCP_FIN != 0, number == 2);
                assert_eq!(word(piece, tcp + 6), word(&frame, tcp + 6).wrapping_add(1460 * number as u16));
            }
        }
    }

    #[test]
    fn a_cable_that_can_cuts_itself() {
        let mut frame = tcp_frame(false, 3000);
        let headers = Headers { ip: 14, tcp: 34, len: 54, v6: false };
        let far = Far::default();
        assert_eq!(segment(&mut far.cable(true), Nanos(0), &mut frame, headers, 1000), Transmit::Taken);
        let (sent, offload) = far.sent().remove(0);
        assert_eq!(offload.segmentation, Segmentation::Tcp4 { size: 1000 });
        assert_eq!(word(&sent, 16), 3040);
        let mut finished = sent.clone();
        assert!(insert_sum(&mut finished, 34, sent.len(), 50) && verify(&finished).transport_good);
    }

    #[test]
    fn headers_outside_of_a_frame_are_refused() {
        let frame = tcp_frame(false, 10);
        let good = Headers { ip: 14, tcp: 34, len: 54, v6: false };
        assert!(good.checked(&frame).is_some());
        for bad in [
            Headers { ip: 15, ..good },
            Headers { tcp: 20, ..good },
            Headers { len: 40, ..good },
            Headers { len: 64, ..good },
            Headers { v6: true, ..good },
            Headers { ip: 5000, tcp: 6000, len: 7000, v6: false },
        ] {
            assert_eq!(bad.checked(&frame), None, "{bad:?}");
        }
        assert!(!insert_sum(&mut [0; 20], 10, 30, 0) && !insert_sum(&mut [0; 20], 0, 20, 19));
    }

    #[test]
    fn damage_is_seen() {
        let mut frame = tcp_frame(true, 100);
        assert!(verify(&frame).transport_good);
        frame[80] ^= 1;
        assert_eq!(verify(&frame).transport, Some(Transport::Tcp));
        assert!(!verify(&frame).transport_good);
        (0..frame.len()).for_each(|n| {
            verify(&frame[..n]);
        });
    }
}
