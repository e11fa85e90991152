//! Our end of the virtual cable: neighbours, frame headers, fragmentation and the queue of small frames.
//!
//! Reference: RFC 826 (ARP), RFC 791 3.2 and RFC 8200 4.5 (fragmentation), RFC 1122 3.2.2 (ICMP errors).
//! Invariants: `outbox`, `neighbours` and the frames that wait for a neighbour are bounded by the
//! constants below; what exceeds them is dropped, as a cable with a full queue would.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet};

use super::config::{Config, Net4, Net6};
use super::neighbour;
use crate::backend::{Accepts, Checksum, Guest, Nanos, Offload, Segmentation};
use crate::checksum::Sum;
use crate::mac::Mac;

/// The address of every machine that the guest can see on the cable: all of them are us.
pub const HOST_MAC: Mac = Mac([0x52, 0x55, 0x0a, 0x00, 0x02, 0x02]);
/// Our link-local address; router advertisements come from it.
pub const HOST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Frames that wait for the guest to have room, TCP data not included (that waits in its own queues).
pub const MAX_OUTBOX: usize = 512;
/// Above this many waiting frames we stop reading datagrams from host sockets.
pub const OUTBOX_HIGH: usize = 128;
/// Guest addresses whose MAC we remember.
pub const MAX_NEIGHBOURS: usize = 64;
/// Frames that wait for one guest address to be resolved.
const MAX_WAITING: usize = 4;
/// How often an address that does not answer is asked for.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Questions in such an interval, for all addresses together. A guest that once invented more of them than the table holds
/// would otherwise be asked for each again and again, every answer being a new occasion.
const MAX_ASKS: usize = MAX_NEIGHBOURS;

pub const ETHERNET: usize = 14;
pub const IPV4: usize = 20;
pub const IPV6: usize = 40;
const IPV6_FRAGMENT: usize = 8;
const TTL: u8 = 64;

pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

#[derive(Debug, Default)]
struct Neighbour {
    mac: Option<Mac>,
    asked: Option<Nanos>,
    waiting: Vec<Vec<u8>>,
    /// `Link::uses` when it was last wanted.
    used: u64,
}

/// Counters that a report or a test may look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub frames_in: u64,
    pub frames_out: u64,
    /// Frames from the guest that are not something we accept.
    pub malformed: u64,
    /// Frames to the guest that a full queue cost.
    pub overflowed: u64,
    /// Packets that `restrict=on` stopped.
    pub restricted: u64,
    /// New connections or flows refused because a table was full.
    pub refused: u64,
    /// TCP segments sent more than once.
    pub retransmitted: u64,
}

#[derive(Debug)]
pub struct Link {
    pub v4: Option<Net4>,
    pub v6: Option<Net6>,
    pub mtu: usize,
    pub accepts: Accepts,
    pub stats: Stats,
    pub now: Nanos,
    outbox: VecDeque<Vec<u8>>,
    neighbours: HashMap<IpAddr, Neighbour>,
    last_learned: Option<(IpAddr, Mac)>,
    /// How often a neighbour was wanted.
    uses: u64,
    /// Questions since that moment.
    asks: (Nanos, usize),
    ident: u16,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Delivered,
    /// The guest's receive ring is full, or its MAC is not known yet.
    Blocked,
}

impl Link {
    pub fn new(config: &Config) -> Link {
        Link {
            v4: config.v4,
            v6: config.v6,
            mtu: config.mtu,
            accepts: Accepts::default(),
            stats: Stats::default(),
            now: Nanos::default(),
            outbox: VecDeque::new(),
            neighbours: HashMap::new(),
            last_learned: None,
            uses: 0,
            asks: (Nanos::default(), 0),
            ident: 0,
        }
    }

    /// Whether an address can be a machine on the cable (and not us).
    pub fn is_guest(&self, address: IpAddr) -> bool {
        match (address, &self.v4, &self.v6) {
            (IpAddr::V4(a), Some(net), _) => {
                net.contains(a) && a != net.host && a != net.dns && a != net.network && a != net.broadcast()
            }
            (IpAddr::V6(a), _, Some(net)) => {
                (net.contains(a) && a != net.host && a != net.dns)
                    || (a.is_unicast_link_local() && a != HOST_LINK_LOCAL)
            }
            _ => false,
        }
    }

    /// Whether an address is the host's as the guest sees it.
    pub fn is_host(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.v4.is_some_and(|net| a == net.host),
            IpAddr::V6(a) => self.v6.is_some_and(|net| a == net.host || a == HOST_LINK_LOCAL),
        }
    }

    pub fn is_dns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.v4.is_some_and(|net| a == net.dns),
            IpAddr::V6(a) => self.v6.is_some_and(|net| a == net.dns),
        }
    }

    /// Whether an address belongs to the virtual network, whoever owns it.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.v4.is_some_and(|net| net.contains(a)),
            IpAddr::V6(a) => a.is_unicast_link_local() || self.v6.is_some_and(|net| net.contains(a)),
        }
    }

    /// Whether a packet to an address goes beyond the virtual network. What may never be on a cable
    /// (RFC 1122 3.2.1.3: loopback and the like) does not: the host's own services have one door, the
    /// virtual host's address.
    pub fn is_outside(&self, address: IpAddr) -> bool {
        let mapped = matches!(address, IpAddr::V6(a) if a.to_ipv4().is_some());
        let never = address.is_loopback() || address.is_unspecified() || address.is_multicast() || mapped;
        !never && address != IpAddr::from([255; 4]) && !self.is_virtual(address)
    }

    /// The host's address of the same version as `like`.
    pub fn host_address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.v4.map(|net| IpAddr::V4(net.host)),
            IpAddr::V6(a) if a.is_unicast_link_local() => Some(IpAddr::V6(HOST_LINK_LOCAL)),
            IpAddr::V6(_) => self.v6.map(|net| IpAddr::V6(net.host)),
        }
    }

    /// The address under which the guest sees a host-side peer: the host itself, and what the guest
    /// could not tell from its own network or version, appear as the virtual host.
    pub fn seen_by_guest(&self, peer: SocketAddr, guest: IpAddr) -> SocketAddr {
        let ip = peer.ip().to_canonical();
        let foreign = ip.is_ipv4() != guest.is_ipv4() || ip.is_loopback() || ip.is_unspecified() || self.is_virtual(ip);
        let host = if foreign { self.host_address(guest) } else { None };
        SocketAddr::new(host.unwrap_or(ip), peer.port())
    }

    /// Remembers who owns a guest address, and sends what waited for it.
    pub fn learn(&mut self, address: IpAddr, mac: Mac) {
        if self.last_learned == Some((address, mac)) {
            return;
        }
        if mac.is_multicast() || !self.is_guest(address) {
            return;
        }
        self.make_room_for(address);
        self.last_learned = Some((address, mac));
        self.uses += 1;
        let neighbour = self.neighbours.entry(address).or_default();
        neighbour.mac = Some(mac);
        neighbour.used = self.uses;
        for mut frame in std::mem::take(&mut neighbour.waiting) {
            frame[..6].copy_from_slice(&mac.0);
            self.push(frame);
        }
    }

    fn make_room_for(&mut self, address: IpAddr) {
        if self.neighbours.len() >= MAX_NEIGHBOURS && !self.neighbours.contains_key(&address) {
            // A guest that invents addresses loses the one that was not used for longest; it is asked for again when needed.
            let oldest = self.neighbours.iter().min_by_key(|(_, n)| n.used).map(|(a, _)| *a);
            let victim = oldest.expect("the table is full");
            self.neighbours.remove(&victim);
            self.last_learned = None;
        }
    }

    /// The MAC of a destination, asking for it if it is not known.
    fn resolve(&mut self, address: IpAddr) -> Option<Mac> {
        match address {
            IpAddr::V4(a) if a.is_broadcast() || self.v4.is_some_and(|net| a == net.broadcast()) => {
                return Some(Mac::BROADCAST);
            }
            IpAddr::V6(a) if a.is_multicast() => {
                let o = a.octets();
                return Some(Mac([0x33, 0x33, o[12], o[13], o[14], o[15]]));
            }
            _ => {}
        }
        self.uses += 1;
        let known = self.neighbours.get_mut(&address).map(|n| {
            n.used = self.uses;
            (n.mac, n.asked)
        });
        if let Some((Some(mac), _)) = known {
            return Some(mac);
        }
        let now = self.now;
        let asked = known.and_then(|(_, asked)| asked);
        if asked.is_none_or(|at| now.since(at) >= ASK_INTERVAL) && self.may_ask() {
            self.make_room_for(address);
            let neighbour = self.neighbours.entry(address).or_default();
            (neighbour.asked, neighbour.used) = (Some(now), self.uses);
            neighbour::ask(self, address);
        }
        None
    }

    /// Counts a question, if there is one left in this interval.
    fn may_ask(&mut self) -> bool {
        if self.now.since(self.asks.0) >= ASK_INTERVAL {
            self.asks = (self.now, 0);
        }
        self.asks.1 += 1;
        self.asks.1 <= MAX_ASKS
    }

    /// Queues a complete frame.
    pub fn push(&mut self, frame: Vec<u8>) {
        if self.outbox.len() >= MAX_OUTBOX {
            self.stats.overflowed += 1;
            return;
        }
        self.outbox.push_back(frame);
    }

    /// Gives queued frames to the guest until it is full. True when none is left.
    pub fn flush(&mut self, guest: &mut dyn Guest) -> bool {
        while let Some(frame) = self.outbox.front() {
            if !guest.deliver(&[frame], Offload::default()) {
                return false;
            }
            self.stats.frames_out += 1;
            self.outbox.pop_front();
        }
        true
    }

    pub fn outbox_is_high(&self) -> bool {
        self.outbox.len() >= OUTBOX_HIGH
    }

    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    fn next_ident(&mut self) -> u16 {
        self.ident = self.ident.wrapping_add(1);
        self.ident
    }

    /// Queues an IP packet, in fragments if it is longer than the MTU. The payload is complete.
    pub fn send_ip(&mut self, source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) {
        let mac = self.resolve(destination);
        let ident = self.next_ident();
        let header = if source.is_ipv4() { IPV4 } else { IPV6 };
        if payload.len() + header <= self.mtu {
            let frame = ip_frame(source, destination, protocol, payload, None, ident);
            return self.push_resolved(destination, mac, frame);
        }
        let room = self.mtu - header - if source.is_ipv6() { IPV6_FRAGMENT } else { 0 };
        let piece = room & !7;
        for (n, chunk) in payload.chunks(piece).enumerate() {
            let offset = n * piece;
            let more = offset + chunk.len() < payload.len();
            let frame = ip_frame(source, destination, protocol, chunk, Some((offset, more)), ident);
            self.push_resolved(destination, mac, frame);
        }
    }

    fn push_resolved(&mut self, destination: IpAddr, mac: Option<Mac>, mut frame: Vec<u8>) {
        if let Some(mac) = mac {
            frame[..6].copy_from_slice(&mac.0);
            return self.push(frame);
        }
        let waiting = self.neighbours.get_mut(&destination).map(|n| &mut n.waiting);
        match waiting {
            Some(waiting) if waiting.len() < MAX_WAITING => waiting.push(frame),
            _ => self.stats.overflowed += 1,
        }
    }

    /// Queues a UDP datagram.
    pub fn send_udp(&mut self, source: SocketAddr, destination: SocketAddr, payload: &[u8]) {
        let length = 8 + payload.len();
        if length > 65535 - IPV4 {
            self.stats.overflowed += 1;
            return;
        }
        let mut datagram = Vec::with_capacity(length);
        datagram.extend(source.port().to_be_bytes());
        datagram.extend(destination.port().to_be_bytes());
        datagram.extend((length as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        let sum = Sum::pseudo(source.ip(), destination.ip(), protocol::UDP, length).bytes(&datagram).finish();
        // Zero means "no checksum" on the wire.
        let sum = if sum == 0 { 0xffff } else { sum };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        self.send_ip(source.ip(), destination.ip(), protocol::UDP, &datagram);
    }

    /// Gives a TCP segment to the guest without copying its payload. The header's checksum field is
    /// filled here: whole, or as a partial sum if the guest accepts that.
    pub fn send_tcp(
        &mut self,
        guest: &mut dyn Guest,
        ends: (IpAddr, IpAddr),
        tcp: &mut [u8],
        payload: (&[u8], &[u8]),
        segment_size: usize,
    ) -> Sent {
        let (source, destination) = ends;
        let Some(mac) = self.resolve(destination) else { return Sent::Blocked };
        let ip_header = if source.is_ipv4() { IPV4 } else { IPV6 };
        let body = payload.0.len() + payload.1.len();
        let length = tcp.len() + body;
        let pseudo = Sum::pseudo(source, destination, protocol::TCP, length);
        tcp[16..18].fill(0);
        let mut offload = Offload::default();
        let sum = if self.accepts.checksum {
            let start = (ETHERNET + ip_header) as u16;
            offload.checksum = Checksum::Partial { start, offset: 16 };
            pseudo.folded()
        } else {
            pseudo.parts(&[tcp, payload.0, payload.1]).finish()
        };
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        if body > segment_size {
            let size = segment_size as u16;
            offload.segmentation =
                if source.is_ipv4() { Segmentation::Tcp4 { size } } else { Segmentation::Tcp6 { size } };
        }
        let mut header = [0; ETHERNET + IPV6];
        let header = &mut header[..ETHERNET + ip_header];
        let ident = self.next_ident();
        write_headers(header, source, destination, protocol::TCP, length, None, ident);
        header[..6].copy_from_slice(&mac.0);
        if !guest.deliver(&[header, tcp, payload.0, payload.1], offload) {
            return Sent::Blocked;
        }
        self.stats.frames_out += 1;
        Sent::Delivered
    }

    /// The most TCP payload that one frame to the guest may carry.
    pub fn largest_payload(&self, v6: bool, segment_size: usize) -> usize {
        let gso = self.accepts.checksum && if v6 { self.accepts.tcp6 } else { self.accepts.tcp4 };
        if !gso {
            return segment_size;
        }
        // A whole number of segments below the 64 KiB of the length field.
        ((65535 - IPV6 - 60) / segment_size).max(1) * segment_size
    }
}

/// Builds one Ethernet frame around an IP payload; the destination MAC is left for the caller.
fn ip_frame(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
    fragment: Option<(usize, bool)>,
    ident: u16,
) -> Vec<u8> {
    let ip_header = if source.is_ipv4() { IPV4 } else { IPV6 };
    let extension = if source.is_ipv6() && fragment.is_some() { IPV6_FRAGMENT } else { 0 };
    let mut frame = vec![0; ETHERNET + ip_header + extension];
    let next = if extension > 0 { 44 } else { protocol };
    let header = &mut frame[..ETHERNET + ip_header];
    write_headers(header, source, destination, next, extension + payload.len(), fragment, ident);
    if let (IpAddr::V6(_), Some((offset, more))) = (source, fragment) {
        let extension = &mut frame[ETHERNET + IPV6..];
        extension[0] = protocol;
        extension[2..4].copy_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
        extension[4..8].copy_from_slice(&u32::from(ident).to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// Ethernet and IP headers in front of `length` bytes.
fn write_headers(
    frame: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    next: u8,
    length: usize,
    fragment: Option<(usize, bool)>,
    ident: u16,
) {
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_src_addr(EthernetAddress(HOST_MAC.0));
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.set_ethertype(EthernetProtocol::Ipv4);
            let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
            ip.set_version(4);
            ip.set_header_len(IPV4 as u8);
            ip.set_total_len((IPV4 + length) as u16);
            ip.set_ident(ident);
            ip.clear_flags();
            ip.set_dont_frag(next == protocol::TCP);
            let (offset, more) = fragment.unwrap_or((0, false));
            ip.set_more_frags(more);
            ip.set_frag_offset(offset as u16);
            ip.set_hop_limit(TTL);
            ip.set_next_header(next.into());
            ip.set_src_addr(source);
            ip.set_dst_addr(destination);
            ip.fill_checksum();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.set_ethertype(EthernetProtocol::Ipv6);
            let mut ip = Ipv6Packet::new_unchecked(&mut frame[ETHERNET..]);
            ip.set_version(6);
            ip.set_payload_len(length as u16);
            ip.set_next_header(next.into());
            // Neighbour discovery is only valid if no router can have forwarded it.
            ip.set_hop_limit(if next == protocol::ICMPV6 { 255 } else { TTL });
            ip.set_src_addr(source);
            ip.set_dst_addr(destination);
        }
        _ => unreachable!("a packet has one IP version"),
    }
}

/// The loopback address of a version.
pub fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_and_what_is_never_on_a_cable_are_not_outside() {
        let link = Link::new(&Config::default());
        for address in ["192.0.2.1", "10.0.3.1", "2001:db8::1", "fd00::1"] {
            assert!(link.is_outside(address.parse().unwrap()), "{address}");
        }
        let inside = ["10.0.2.77", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"];
        let inside6 = ["fec0::9", "fe80::1", "::1", "::", "ff02::1", "::ffff:127.0.0.1", "::127.0.0.1"];
        for address in inside.into_iter().chain(inside6) {
            assert!(!link.is_outside(address.parse().unwrap()), "{address}");
        }
    }
}
