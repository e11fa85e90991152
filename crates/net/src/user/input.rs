//! Frames from the guest, from the Ethernet header to the protocol that gets the payload.
//!
//! Reference: RFC 791, RFC 8200 (extension headers), RFC 768.
//! Every function answers `None` for what is malformed or not for us; the caller counts those.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smoltcp::wire::{Ipv4Packet, Ipv6Packet, UdpPacket};

use super::engine::UserNet;
use super::icmp::{ECHO, ECHO6, Reason};
use super::link::{ETHERNET, HOST_MAC, protocol};
use super::{dhcp6, fragment, neighbour, tftp};
use crate::backend::{Checksum, Offload, Segmentation};
use crate::checksum::Sum;
use crate::mac::Mac;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers in one packet; real ones have two or three.
const MAX_EXTENSIONS: usize = 8;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// A whole packet from the guest.
#[derive(Clone, Copy)]
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl: u8,
    payload: &'a [u8],
    /// The transport checksum need not be verified.
    trusted: bool,
    /// For UDP that is to be cut into datagrams.
    segment: Option<usize>,
    from: Mac,
}

impl UserNet {
    pub(super) fn input(&mut self, frame: &[u8], offload: Offload) -> Option<()> {
        let (header, payload) = frame.split_at_checked(ETHERNET)?;
        let to = Mac(header[..6].try_into().expect("six bytes"));
        let from = Mac(header[6..12].try_into().expect("six bytes"));
        if (to != HOST_MAC && !to.is_multicast()) || from.is_multicast() {
            return None;
        }
        match u16::from_be_bytes([header[12], header[13]]) {
            ETHERTYPE_ARP => neighbour::arp(&mut self.core.link, &self.core.config, payload),
            ETHERTYPE_IPV4 => self.ipv4(payload, offload, from),
            ETHERTYPE_IPV6 => self.ipv6(payload, offload, from),
            _ => None,
        }
    }

    fn ipv4(&mut self, bytes: &[u8], offload: Offload, from: Mac) -> Option<()> {
        self.core.link.v4?;
        let ip = Ipv4Packet::new_checked(bytes).ok()?;
        let header_len = usize::from(ip.header_len());
        if ip.version() != 4 || header_len < 20 || !Sum::default().bytes(&bytes[..header_len]).is_valid() {
            return None;
        }
        let (source, destination) = (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()));
        let payload = ip.payload();
        let packet = Packet {
            source,
            destination,
            protocol: ip.next_header().into(),
            ttl: ip.hop_limit(),
            payload,
            trusted: offload.checksum != Checksum::Complete,
            segment: udp_segment(offload),
            from,
        };
        // A client without an address can only ask for one.
        if ip.src_addr().is_unspecified() {
            let is_dhcp = packet.protocol == protocol::UDP && !ip.more_frags() && ip.frag_offset() == 0;
            return if is_dhcp { self.udp(&packet) } else { None };
        }
        if !self.core.link.is_guest(source) {
            return None;
        }
        self.core.link.learn(source, from);
        if !ip.more_frags() && ip.frag_offset() == 0 {
            return self.packet(&packet);
        }
        let ident = u32::from(ip.ident());
        let id = fragment::Id { source, destination, protocol: packet.protocol, ident };
        let now = self.core.link.now;
        let whole = self.fragments.add(now, id, usize::from(ip.frag_offset()), ip.more_frags(), payload);
        if let Some(whole) = whole {
            self.packet(&Packet { payload: &whole, trusted: false, ..packet })?;
        }
        Some(())
    }

    fn ipv6(&mut self, bytes: &[u8], offload: Offload, from: Mac) -> Option<()> {
        self.core.link.v6?;
        let ip = Ipv6Packet::new_checked(bytes).ok()?;
        if ip.version() != 6 {
            return None;
        }
        let source = IpAddr::V6(ip.src_addr());
        // Duplicate address detection and the first router solicitation have no source.
        if !ip.src_addr().is_unspecified() && !self.core.link.is_guest(source) {
            return None;
        }
        let packet = Packet {
            source,
            destination: IpAddr::V6(ip.dst_addr()),
            protocol: ip.next_header().into(),
            ttl: ip.hop_limit(),
            payload: ip.payload(),
            trusted: offload.checksum != Checksum::Complete,
            segment: udp_segment(offload),
            from,
        };
        if !ip.src_addr().is_unspecified() && !ip.src_addr().is_unicast_link_local() {
            self.core.link.learn(source, from);
        }
        self.extensions(packet)
    }

    /// Walks the extension headers of IPv6.
    fn extensions(&mut self, mut packet: Packet) -> Option<()> {
        for _ in 0..MAX_EXTENSIONS {
            match packet.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    let (&[next, units], _) = packet.payload.split_first_chunk::<2>()?;
                    packet.payload = packet.payload.get(8 + usize::from(units) * 8..)?;
                    packet.protocol = next;
                }
                FRAGMENT => return self.fragment6(packet),
                NO_NEXT_HEADER => return Some(()),
                _ => return self.packet(&packet),
            }
        }
        None
    }

    fn fragment6(&mut self, mut packet: Packet) -> Option<()> {
        let (&[next, _, o0, o1, i0, i1, i2, i3], data) = packet.payload.split_first_chunk::<8>()?;
        let field = u16::from_be_bytes([o0, o1]);
        let (offset, more) = (usize::from(field & !7), field & 1 != 0);
        packet.protocol = next;
        packet.trusted = false;
        let (source, destination) = (packet.source, packet.destination);
        if offset == 0 && !more {
            // An atomic fragment (RFC 6946) is a packet of its own.
            packet.payload = data;
            return if next == FRAGMENT { None } else { self.packet(&packet) };
        }
        let ident = u32::from_be_bytes([i0, i1, i2, i3]);
        let id = fragment::Id { source, destination, protocol: next, ident };
        if let Some(whole) = self.fragments.add(self.core.link.now, id, offset, more, data) {
            self.packet(&Packet { payload: &whole, ..packet })?;
        }
        Some(())
    }

    fn packet(&mut self, packet: &Packet) -> Option<()> {
        match (packet.protocol, packet.source) {
            (protocol::TCP, _) => self.tcp_packet(packet),
            (protocol::UDP, _) => self.udp(packet),
            (protocol::ICMP, IpAddr::V4(_)) => self.icmp4(packet),
            (protocol::ICMPV6, IpAddr::V6(_)) => self.icmp6(packet),
            _ => None,
        }
    }

    /// Whether the sum over a pseudo header and the payload is right.
    fn intact(packet: &Packet) -> bool {
        packet.trusted
            || Sum::pseudo(packet.source, packet.destination, packet.protocol, packet.payload.len())
                .bytes(packet.payload)
                .is_valid()
    }

    fn tcp_packet(&mut self, packet: &Packet) -> Option<()> {
        if packet.source.is_unspecified() || !UserNet::intact(packet) {
            return None;
        }
        self.tcp.receive(&mut self.core, packet.source, packet.destination, packet.payload);
        Some(())
    }

    fn udp(&mut self, packet: &Packet) -> Option<()> {
        let udp = UdpPacket::new_checked(packet.payload).ok()?;
        let no_checksum = udp.checksum() == 0 && packet.source.is_ipv4();
        let cut = Packet { payload: &packet.payload[..usize::from(udp.len())], ..*packet };
        if udp.src_port() == 0 || udp.dst_port() == 0 || !(no_checksum || UserNet::intact(&cut)) {
            return None;
        }
        let from = SocketAddr::new(packet.source, udp.src_port());
        let to = SocketAddr::new(packet.destination, udp.dst_port());
        if let (DHCP_SERVER, IpAddr::V4(to)) = (to.port(), packet.destination) {
            return self.dhcp(to, udp.payload());
        }
        if packet.source.is_unspecified() {
            return None;
        }
        if self.served(from, to, udp.payload()) {
            return Some(());
        }
        if self.core.config.restrict && !self.udp.is_forward_reply(from, to) {
            self.core.link.stats.restricted += 1;
            return Some(());
        }
        if self.expired_on_the_way(packet) {
            return Some(());
        }
        let size = packet.segment.unwrap_or(usize::MAX).max(1);
        if udp.payload().len() <= size {
            self.udp.transmit(&mut self.core, from, to, udp.payload(), packet.payload);
            return Some(());
        }
        for datagram in udp.payload().chunks(size) {
            self.udp.transmit(&mut self.core, from, to, datagram, packet.payload);
        }
        Some(())
    }

    /// Services of the virtual host itself, which `restrict=on` leaves.
    fn served(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
        let host = self.core.link.is_host(to.ip());
        if to.port() == tftp::PORT && host && self.core.config.tftp.is_some() {
            self.tftp.receive(&mut self.core, from, to, payload);
            return true;
        }
        // All relay agents and servers.
        let servers = IpAddr::from([0xff02, 0, 0, 0, 0, 0, 1, 2]);
        if to.port() == dhcp6::SERVER_PORT && (host || to.ip() == servers) {
            if let (Some(answer), Some(source)) =
                (dhcp6::serve(&self.core.config, payload), self.core.link.host_address(from.ip()))
            {
                self.core.link.send_udp(SocketAddr::new(source, dhcp6::SERVER_PORT), from, &answer);
            }
            return true;
        }
        false
    }

    fn dhcp(&mut self, to: Ipv4Addr, payload: &[u8]) -> Option<()> {
        let host = self.core.link.v4?.host;
        if to != host && !to.is_broadcast() && to != self.core.link.v4?.broadcast() {
            return None;
        }
        let reply = self.dhcp.serve(&self.core.config, payload)?;
        if let Some((address, mac)) = reply.bound {
            self.core.link.learn(IpAddr::V4(address), mac);
        }
        let source = SocketAddr::new(IpAddr::V4(host), DHCP_SERVER);
        self.core.link.send_udp(source, SocketAddr::new(IpAddr::V4(reply.to), DHCP_CLIENT), &reply.message);
        Some(())
    }

    /// A packet whose hop limit ends at the virtual router (this is how traceroute sees it).
    fn expired_on_the_way(&mut self, packet: &Packet) -> bool {
        if packet.ttl > 1 || self.core.link.is_virtual(packet.destination) || packet.destination.is_multicast() {
            return false;
        }
        let addresses = (packet.source, packet.destination, packet.protocol);
        self.core.unreachable(Reason::TimeExceeded, addresses, packet.payload);
        true
    }

    fn icmp4(&mut self, packet: &Packet) -> Option<()> {
        let (&[kind, code, _, _], rest) = packet.payload.split_first_chunk::<4>()?;
        if !packet.trusted && !Sum::default().bytes(packet.payload).is_valid() {
            return None;
        }
        // What else a guest may report concerns only packets that we made: nothing to do.
        if (kind, code) == (ECHO, 0) && !self.expired_on_the_way(packet) {
            self.pings.request(&mut self.core, packet.source, packet.destination, rest);
        }
        Some(())
    }

    fn icmp6(&mut self, packet: &Packet) -> Option<()> {
        let (&[kind, code, _, _], rest) = packet.payload.split_first_chunk::<4>()?;
        let (IpAddr::V6(source), true) = (packet.source, UserNet::intact(packet)) else { return None };
        match kind {
            ECHO6 if code == 0 && !source.is_unspecified() => {
                if !self.expired_on_the_way(packet) {
                    self.pings.request(&mut self.core, packet.source, packet.destination, rest);
                }
                Some(())
            }
            neighbour::ROUTER_SOLICITATION..=neighbour::NEIGHBOUR_ADVERTISEMENT => {
                // Only a neighbour can have sent it: no router passes a hop limit of 255 on.
                if packet.ttl != 255 || code != 0 || rest.len() < 4 {
                    return None;
                }
                if kind == neighbour::ROUTER_SOLICITATION {
                    self.solicited();
                }
                neighbour::discovery(&mut self.core.link, &self.core.config, kind, source, packet.from, rest)
            }
            // Multicast listener reports and errors about our packets.
            _ => Some(()),
        }
    }
}

fn udp_segment(offload: Offload) -> Option<usize> {
    match offload.segmentation {
        Segmentation::Udp { size } => Some(usize::from(size)),
        _ => None,
    }
}
