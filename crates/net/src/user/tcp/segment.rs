//! TCP segments: sequence numbers, headers and options.
//!
//! Reference: RFC 9293 3.1, RFC 7323 (window scale), RFC 2018 (selective acknowledgement).
//! Not modelled: timestamps (never offered, so never negotiated), urgent data (delivered in line).

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{TcpOption, TcpPacket, TcpSeqNumber};

/// The longest TCP header.
pub const MAX_HEADER: usize = 60;
const HEADER: usize = 20;
/// Ranges that one selective acknowledgement reports.
pub const MAX_SACK: usize = 3;

/// A sequence number; the order is defined for numbers less than 2^31 apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    pub fn plus(self, n: usize) -> Seq {
        Seq(self.0.wrapping_add(n as u32))
    }

    pub fn minus(self, n: usize) -> Seq {
        Seq(self.0.wrapping_sub(n as u32))
    }

    /// How far `self` is after `earlier`; negative if it is before.
    pub fn after(self, earlier: Seq) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// The distance from `earlier`, zero if `self` is before it.
    pub fn distance(self, earlier: Seq) -> usize {
        self.after(earlier).max(0) as usize
    }

    pub fn later(self, other: Seq) -> Seq {
        if self.after(other) >= 0 { self } else { other }
    }
}

/// A segment from the guest.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub guest: SocketAddr,
    pub remote: SocketAddr,
    pub seq: Seq,
    pub ack: Option<Seq>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// As in the header, not scaled.
    pub window: u16,
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub sack: [Option<(Seq, Seq)>; MAX_SACK],
    pub payload: &'a [u8],
    /// The start of the header, for ICMP errors.
    pub header: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Parses the payload of an IP packet whose checksum has been dealt with.
    pub fn parse(source: IpAddr, destination: IpAddr, bytes: &'a [u8]) -> Option<Segment<'a>> {
        let packet = TcpPacket::new_checked(bytes).ok()?;
        if packet.src_port() == 0 || packet.dst_port() == 0 {
            return None;
        }
        let mut segment = Segment {
            guest: SocketAddr::new(source, packet.src_port()),
            remote: SocketAddr::new(destination, packet.dst_port()),
            seq: Seq(packet.seq_number().0 as u32),
            ack: packet.ack().then(|| Seq(packet.ack_number().0 as u32)),
            syn: packet.syn(),
            fin: packet.fin(),
            rst: packet.rst(),
            window: packet.window_len(),
            mss: None,
            window_scale: None,
            sack_permitted: false,
            sack: [None; MAX_SACK],
            payload: &bytes[usize::from(packet.header_len())..],
            header: bytes,
        };
        segment.options(packet.options());
        Some(segment)
    }

    fn options(&mut self, mut options: &[u8]) {
        while !options.is_empty() {
            // What follows a malformed option cannot be understood; the segment itself can.
            let Ok((rest, option)) = TcpOption::parse(options) else { return };
            options = rest;
            match option {
                TcpOption::EndOfList => return,
                TcpOption::MaxSegmentSize(mss) => self.mss = Some(mss),
                TcpOption::WindowScale(shift) => self.window_scale = Some(shift.min(14)),
                TcpOption::SackPermitted => self.sack_permitted = true,
                TcpOption::SackRange(ranges) => {
                    self.sack = ranges.map(|range| range.map(|(a, b)| (Seq(a), Seq(b))));
                }
                _ => {}
            }
        }
    }

    /// The sequence space that the segment takes.
    pub fn len(&self) -> usize {
        self.payload.len() + usize::from(self.syn) + usize::from(self.fin)
    }
}

/// The header of a segment to the guest.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub source_port: u16,
    pub destination_port: u16,
    pub seq: Seq,
    pub ack: Option<Seq>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub push: bool,
    pub window: u16,
    /// Options of a SYN: our MSS, our window scale, and whether we take selective acknowledgements.
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub sack: [Option<(u32, u32)>; MAX_SACK],
}

impl Header {
    /// Writes the header; its length. The checksum is zero.
    pub fn write(&self, buffer: &mut [u8; MAX_HEADER]) -> usize {
        let mut options = [0; MAX_HEADER - HEADER];
        let length = HEADER + self.write_options(&mut options);
        buffer[HEADER..].copy_from_slice(&options);
        let mut packet = TcpPacket::new_unchecked(&mut buffer[..]);
        packet.set_src_port(self.source_port);
        packet.set_dst_port(self.destination_port);
        packet.set_seq_number(TcpSeqNumber(self.seq.0 as i32));
        packet.set_ack_number(TcpSeqNumber(self.ack.unwrap_or_default().0 as i32));
        packet.clear_flags();
        packet.set_header_len(length as u8);
        packet.set_syn(self.syn);
        packet.set_fin(self.fin);
        packet.set_rst(self.rst);
        packet.set_psh(self.push);
        packet.set_ack(self.ack.is_some());
        packet.set_window_len(self.window);
        packet.set_checksum(0);
        packet.set_urgent_at(0);
        length
    }

    fn write_options(&self, buffer: &mut [u8; MAX_HEADER - HEADER]) -> usize {
        let total = buffer.len();
        let mut rest = &mut buffer[..];
        if let Some(mss) = self.mss {
            rest = TcpOption::MaxSegmentSize(mss).emit(rest);
        }
        if let Some(shift) = self.window_scale {
            rest = TcpOption::WindowScale(shift).emit(rest);
        }
        if self.sack_permitted {
            rest = TcpOption::SackPermitted.emit(rest);
        }
        if self.sack[0].is_some() {
            rest = TcpOption::SackRange(self.sack).emit(rest);
        }
        let used = total - rest.len();
        // "End of option list" is zero, so the padding is, too.
        rest.fill(0);
        used.next_multiple_of(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_parsed() {
        let header = Header {
            source_port: 80,
            destination_port: 4000,
            seq: Seq(0xffff_fff0),
            ack: Some(Seq(7)),
            syn: true,
            fin: false,
            rst: false,
            push: false,
            window: 1234,
            mss: Some(1460),
            window_scale: Some(5),
            sack_permitted: true,
            sack: [Some((10, 20)), Some((30, 40)), None],
        };
        let mut buffer = [0xaa; MAX_HEADER];
        let length = header.write(&mut buffer);
        let address = IpAddr::from([10, 0, 2, 2]);
        let parsed = Segment::parse(address, address, &buffer[..length]).unwrap();
        assert_eq!((parsed.seq, parsed.ack, parsed.window), (header.seq, header.ack, 1234));
        assert_eq!((parsed.mss, parsed.window_scale, parsed.sack_permitted), (Some(1460), Some(5), true));
        assert_eq!(parsed.sack, [Some((Seq(10), Seq(20))), Some((Seq(30), Seq(40))), None]);
        assert!(parsed.syn && !parsed.fin && !parsed.rst && parsed.payload.is_empty());
    }

    #[test]
    fn order_wraps() {
        assert_eq!(Seq(5).after(Seq(0xffff_fffb)), 10);
        assert_eq!(Seq(0xffff_fffb).distance(Seq(5)), 0);
        assert_eq!(Seq(0xffff_fffb).later(Seq(5)), Seq(5));
    }
}
