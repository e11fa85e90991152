//! Offloads in software, for a card in front of a back end that wants complete frames of the usual size.
//!
//! [`Finish`] stands between the two: what the card sends gets its checksums and is cut into packets; what it receives has its
//! checksums looked at and is put together to large frames ([`crate::merge`]), so that the guest, whose instructions are dear,
//! need not.
//!
//! Reference: RFC 791, RFC 8200 (lengths), RFC 9293 (flags of segments).
//! Invariants: positions that lie outside of a frame are refused; a frame is cut into at most [`SEGMENTS_MAX`] pieces.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use crate::backend::{Accepts, Backend, Checksum, Guest, Nanos, Offload, Segmentation, Transmit};
use crate::checksum::Sum;
use crate::merge::Merge;
use crate::vhost::Vhost;

/// 64 KiB in the smallest pieces that make sense.
pub const SEGMENTS_MAX: usize = 2048;
const TCP_FIN: u8 = 1;
const TCP_PSH: u8 = 8;
const TCP_CWR: u8 = 0x80;
const PROTOCOL_TCP: u8 = 6;
const ETHERNET: usize = 14;

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
    pub fn finish_ip(&self, frame: &mut [u8], number: u16) {
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

    pub fn pseudo(&self, frame: &[u8]) -> Sum {
        let length = frame.len() - self.tcp;
        let address = |at: usize, len: usize| -> IpAddr {
            let bytes = &frame[self.ip + at..self.ip + at + len];
            match <[u8; 4]>::try_from(bytes) {
                Ok(v4) => v4.into(),
                Err(_) => <[u8; 16]>::try_from(bytes).expect("four bytes or sixteen").into(),
            }
        };
        let (source, destination) =
            if self.v6 { (address(8, 16), address(24, 16)) } else { (address(12, 4), address(16, 4)) };
        Sum::pseudo(source, destination, PROTOCOL_TCP, length)
    }
}

/// Cuts a frame into packets of their own. With [`Transmit::Full`] for the first one nothing was taken.
pub fn segment(frame: &[u8], headers: Headers, size: u16, mut each: impl FnMut(&[u8]) -> Transmit) -> Transmit {
    let (head, payload) = frame.split_at(headers.len);
    let last = payload.len().div_ceil(size.into()) - 1;
    let mut piece = Vec::with_capacity(headers.len + usize::from(size));
    for (number, part) in payload.chunks(size.into()).enumerate() {
        piece.clear();
        piece.extend_from_slice(head);
        piece.extend_from_slice(part);
        cut(&mut piece, headers, number, usize::from(size), last);
        // A cable that becomes full in the middle loses the rest, as any network may.
        if each(&piece) == Transmit::Full && number == 0 {
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

/// A back end that takes unfinished frames, around one that does not.
pub struct Finish {
    inner: Box<dyn Backend>,
    /// Pieces of one frame for which there was no room yet. To lose them costs the guest a retransmission for each large
    /// frame that meets a full cable.
    rest: VecDeque<Vec<u8>>,
    /// The guest believes us about checksums.
    judge: bool,
    /// Segments on their way to the guest.
    merge: Merge,
    scratch: Vec<u8>,
}

impl Finish {
    /// Puts the software in front of a back end that needs it.
    pub fn around(inner: Box<dyn Backend>) -> Box<dyn Backend> {
        if inner.takes_offloads() {
            return inner;
        }
        Box::new(Finish { inner, rest: VecDeque::new(), judge: false, merge: Merge::default(), scratch: Vec::new() })
    }

    /// Where the headers are that an offload means.
    fn headers(frame: &[u8], offload: Offload) -> Option<(Headers, u16)> {
        let (v6, size) = match offload.segmentation {
            Segmentation::Tcp4 { size } => (false, size),
            Segmentation::Tcp6 { size } => (true, size),
            _ => return None,
        };
        let Checksum::Partial { start, .. } = offload.checksum else { return None };
        let tcp = usize::from(start);
        let len = tcp + usize::from(frame.get(tcp + 12)? >> 4) * 4;
        let ip = if frame.get(12..14)? == [0x81, 0x00] { ETHERNET + 4 } else { ETHERNET };
        let pieces = frame.len().div_ceil(usize::from(size).max(1));
        Headers { ip, tcp, len, v6 }.checked(frame).filter(|_| size > 0 && pieces <= SEGMENTS_MAX).map(|h| (h, size))
    }
}

impl Finish {
    /// Whether nothing is left of an earlier frame.
    fn send_rest(&mut self, now: Nanos) -> bool {
        while let Some(piece) = self.rest.front() {
            if self.inner.transmit(now, piece, Offload::default()) == Transmit::Full {
                return false;
            }
            self.rest.pop_front();
        }
        true
    }
}

impl Backend for Finish {
    fn transmit(&mut self, now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        if !self.send_rest(now) {
            return Transmit::Full;
        }
        if offload.segmentation != Segmentation::None {
            // What cannot be cut is lost, as on a card.
            let Some((headers, size)) = Finish::headers(frame, offload) else { return Transmit::Taken };
            let (inner, rest) = (&mut self.inner, &mut self.rest);
            let mut first = true;
            return segment(frame, headers, size, |piece| {
                let taken = rest.is_empty() && inner.transmit(now, piece, Offload::default()) == Transmit::Taken;
                if !taken && !std::mem::take(&mut first) {
                    rest.push_back(piece.to_vec());
                    return Transmit::Taken;
                }
                first = false;
                if taken { Transmit::Taken } else { Transmit::Full }
            });
        }
        let Checksum::Partial { start, offset } = offload.checksum else {
            return self.inner.transmit(now, frame, Offload::default());
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(frame);
        if !insert_sum(&mut self.scratch, start.into(), frame.len(), usize::from(start) + usize::from(offset)) {
            return Transmit::Taken;
        }
        self.inner.transmit(now, &self.scratch, Offload::default())
    }

    fn poll(&mut self, now: Nanos, guest: &mut dyn Guest) {
        if self.judge {
            // What had no room the last time; without it nothing new is taken.
            self.merge.flush(guest);
            self.inner.poll(now, &mut Judge { guest, merge: &mut self.merge, scratch: &mut self.scratch });
            self.merge.flush(guest);
        } else {
            self.inner.poll(now, guest);
        }
        self.send_rest(now);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }

    fn deadline(&self) -> Option<Nanos> {
        self.inner.deadline()
    }

    fn takes_offloads(&self) -> bool {
        true
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        self.judge = accepts.checksum;
        self.merge.set_accepts(accepts);
        self.inner.set_accepts(Accepts::default());
    }

    fn vhost(&mut self, work: &mut dyn FnMut(&mut dyn Vhost)) -> bool {
        self.inner.vhost(work)
    }

    fn summary(&self) -> String {
        self.inner.summary()
    }
}

/// The guest as the back end sees it.
struct Judge<'a> {
    guest: &'a mut dyn Guest,
    merge: &'a mut Merge,
    scratch: &'a mut Vec<u8>,
}

impl Guest for Judge<'_> {
    fn ready(&mut self) -> bool {
        self.guest.ready()
    }

    fn deliver(&mut self, parts: &[&[u8]], offload: Offload) -> bool {
        let frame = match parts {
            [one] => one,
            _ => {
                self.scratch.clear();
                parts.iter().for_each(|part| self.scratch.extend_from_slice(part));
                &self.scratch[..]
            }
        };
        let complete = offload.checksum == Checksum::Complete && offload.segmentation == Segmentation::None;
        let verdict = if complete { verify(frame) } else { Verdict::default() };
        let checksum = if verdict.transport_good { Checksum::Valid } else { offload.checksum };
        self.merge.deliver(frame, Offload { checksum, ..offload }, verdict, self.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Frames, Loopback, Taker};

    /// A TCP packet as a driver leaves it: the sum of the pseudo header only.
    fn unfinished(payload: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((payload as u16 + 40).to_be_bytes());
        frame.extend([0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        let sum = Sum::default().bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend([0x12, 0x34, 0, 80, 0, 1, 0, 0, 0, 0, 0, 0, 0x50, 0x19, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = Sum::pseudo([10, 0, 2, 15].into(), [10, 0, 2, 2].into(), 6, payload + 20).folded();
        frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
        frame.extend((0..payload).map(|n| n as u8));
        frame
    }

    #[test]
    fn what_goes_out_is_complete_and_what_comes_in_is_judged() {
        let frames = Frames::default();
        let mut finish = Finish::around(Box::new(Loopback::with(&frames)));
        finish.set_accepts(Accepts { checksum: true, tcp4: false, tcp6: true });
        let partial = Checksum::Partial { start: 34, offset: 16 };
        let whole = Offload { checksum: partial, segmentation: Segmentation::None };
        let large = Offload { checksum: partial, segmentation: Segmentation::Tcp4 { size: 1000 } };
        for (payload, offload, count) in [(100, whole, 1), (2500, large, 3)] {
            assert_eq!(finish.transmit(Nanos(0), &unfinished(payload), offload), Transmit::Taken);
            let sent = frames.lock().unwrap().clone();
            assert_eq!(sent.len(), count);
            assert!(sent.iter().all(|f| verify(f).ip4_good && verify(f).transport_good));
            assert_eq!(arriving(&mut finish), vec![Checksum::Valid; count]);
        }
        frames.lock().unwrap().push(unfinished(100));
        assert_eq!(arriving(&mut finish), [Checksum::Complete], "the guest finds out itself");
        // A driver that takes large frames gets one; the last piece has flags of its own.
        finish.set_accepts(Accepts { checksum: true, tcp4: true, tcp6: true });
        assert_eq!(finish.transmit(Nanos(0), &unfinished(2500), large), Transmit::Taken);
        assert_eq!(arriving(&mut finish), [partial, Checksum::Valid]);
    }

    /// Polls once, and says how far the checksums of what came are computed.
    fn arriving(finish: &mut Box<dyn Backend>) -> Vec<Checksum> {
        let mut taker = Taker::new(usize::MAX);
        finish.poll(Nanos(0), &mut taker);
        taker.frames.iter().map(|(_, offload)| offload.checksum).collect()
    }

    #[test]
    fn pieces_without_room_wait_and_stay_in_order() {
        let frames = Frames::default();
        let mut cable = Finish::around(Box::new(Loopback { frames: frames.clone(), room: 2, room_after_poll: 3 }));
        let frame = unfinished(5000);
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            segmentation: Segmentation::Tcp4 { size: 1000 },
        };
        assert_eq!(cable.transmit(Nanos(0), &frame, offload), Transmit::Taken);
        assert_eq!(frames.lock().unwrap().len(), 2);
        assert_eq!(cable.transmit(Nanos(0), &frame, offload), Transmit::Full, "an earlier frame waits");
        let mut taker = Taker::new(usize::MAX);
        for _ in 0..2 {
            cable.poll(Nanos(0), &mut taker);
        }
        let sequence = |(f, _): &(Vec<u8>, Offload)| u32::from_be_bytes([f[38], f[39], f[40], f[41]]);
        let sent: Vec<u32> = taker.frames.iter().map(sequence).collect();
        assert_eq!(sent, [0, 1000, 2000, 3000, 4000].map(|n| sent[0] + n));
        assert_eq!(cable.transmit(Nanos(0), &frame, offload), Transmit::Taken);
    }

    #[test]
    fn hostile_positions_are_refused() {
        let frames = Frames::default();
        let mut finish = Finish::around(Box::new(Loopback::with(&frames)));
        let frame = unfinished(200);
        for start in [0, 13, 20, 33, 35, 60, 200, 253, 254, 0xffff] {
            for segmentation in [
                Segmentation::None,
                Segmentation::Tcp4 { size: 1 },
                Segmentation::Tcp6 { size: 50 },
                Segmentation::Tcp4 { size: 0 },
            ] {
                for offset in [0, 16, 0xffff] {
                    let checksum = Checksum::Partial { start, offset };
                    assert_eq!(finish.transmit(Nanos(0), &frame, Offload { checksum, segmentation }), Transmit::Taken);
                }
            }
        }
        assert!(frames.lock().unwrap().len() < 500);
    }
}
