//! Who is where on the cable: ARP, and the neighbour and router discovery of IPv6.
//!
//! Reference: RFC 826 (ARP), RFC 4861 (neighbour discovery), RFC 8106 (DNS options in advertisements).
//! Not modelled: redirects, duplicate address detection of our own addresses (nobody else has them).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::config::Config;
use super::link::{HOST_LINK_LOCAL, HOST_MAC, Link, protocol};
use crate::checksum::Sum;
use crate::mac::Mac;

pub const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

const OPTION_SOURCE_ADDRESS: u8 = 1;
const OPTION_TARGET_ADDRESS: u8 = 2;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_DNS: u8 = 25;
const OPTION_SEARCH: u8 = 31;

/// How long the guest may use what a router advertisement says (seconds).
const ROUTER_LIFETIME_S: u16 = 1800;
const PREFIX_VALID_S: u32 = 86400;
const PREFIX_PREFERRED_S: u32 = 14400;

pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Asks who has a guest address.
pub fn ask(link: &mut Link, address: IpAddr) {
    match address {
        IpAddr::V4(target) => {
            let Some(net) = link.v4 else { return };
            push_arp(link, ArpOperation::Request, net.host, Mac::BROADCAST, Mac([0; 6]), target);
        }
        IpAddr::V6(target) => {
            let o = target.octets();
            let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]]);
            let mut body = vec![0; 4];
            body.extend(o);
            push_link_option(&mut body, OPTION_SOURCE_ADDRESS);
            send_icmp6(link, HOST_LINK_LOCAL, group, NEIGHBOUR_SOLICITATION, &body);
        }
    }
}

fn push_arp(link: &mut Link, operation: ArpOperation, source: Ipv4Addr, to: Mac, target_mac: Mac, target: Ipv4Addr) {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(HOST_MAC.0),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress(target_mac.0),
        target_protocol_addr: target,
    };
    let mut frame = Vec::with_capacity(42);
    frame.extend(to.0);
    frame.extend(HOST_MAC.0);
    frame.extend([0x08, 0x06]);
    frame.resize(14 + repr.buffer_len(), 0);
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    link.push(frame);
}

/// An ARP packet from the guest. Every address of the network that is not the guest's own is ours.
pub fn arp(link: &mut Link, config: &Config, payload: &[u8]) -> Option<()> {
    let net = link.v4?;
    let packet = ArpPacket::new_checked(payload).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let sender = Mac(source_hardware_addr.0);
    link.learn(IpAddr::V4(source_protocol_addr), sender);
    let ours = target_protocol_addr == net.host
        || target_protocol_addr == net.dns
        || config.guestfwd.iter().any(|f| f.server.ip() == IpAddr::V4(target_protocol_addr));
    if operation == ArpOperation::Request && ours {
        push_arp(link, ArpOperation::Reply, target_protocol_addr, sender, sender, source_protocol_addr);
    }
    Some(())
}

fn push_link_option(body: &mut Vec<u8>, kind: u8) {
    body.extend([kind, 1]);
    body.extend(HOST_MAC.0);
}

/// Queues an ICMPv6 message; `body` is what follows type, code and checksum.
pub fn send_icmp6(link: &mut Link, source: Ipv6Addr, destination: Ipv6Addr, kind: u8, body: &[u8]) {
    send_icmp6_code(link, source, destination, (kind, 0), body);
}

pub fn send_icmp6_code(link: &mut Link, source: Ipv6Addr, destination: Ipv6Addr, kind: (u8, u8), body: &[u8]) {
    let mut message = vec![kind.0, kind.1, 0, 0];
    message.extend(body);
    let (source, destination) = (IpAddr::V6(source), IpAddr::V6(destination));
    let sum = Sum::pseudo(source, destination, protocol::ICMPV6, message.len()).bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    link.send_ip(source, destination, protocol::ICMPV6, &message);
}

/// The link-layer address in the options of a discovery message.
fn link_option(mut options: &[u8], kind: u8) -> Option<Mac> {
    while let [option, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 || length > options.len() {
            return None;
        }
        if option == kind {
            return options[2..8].try_into().ok().map(Mac);
        }
        options = &options[length..];
    }
    None
}

/// A neighbour or router message whose checksum is right. `body` follows type, code and checksum.
pub fn discovery(link: &mut Link, config: &Config, kind: u8, source: Ipv6Addr, from: Mac, body: &[u8]) -> Option<()> {
    match kind {
        ROUTER_SOLICITATION => {
            link.learn(IpAddr::V6(source), from);
            advertise_router(link, config);
        }
        NEIGHBOUR_SOLICITATION => solicited(link, config, source, from, body)?,
        NEIGHBOUR_ADVERTISEMENT => {
            let target: [u8; 16] = body.get(4..20)?.try_into().ok()?;
            let mac = link_option(&body[20..], OPTION_TARGET_ADDRESS).unwrap_or(from);
            link.learn(IpAddr::V6(Ipv6Addr::from(target)), mac);
        }
        _ => return None,
    }
    Some(())
}

fn solicited(link: &mut Link, config: &Config, source: Ipv6Addr, from: Mac, body: &[u8]) -> Option<()> {
    let target: [u8; 16] = body.get(4..20)?.try_into().ok()?;
    let target = Ipv6Addr::from(target);
    if !source.is_unspecified() {
        let mac = link_option(&body[20..], OPTION_SOURCE_ADDRESS).unwrap_or(from);
        link.learn(IpAddr::V6(source), mac);
    }
    let address = IpAddr::V6(target);
    let ours =
        link.is_host(address) || link.is_dns(address) || config.guestfwd.iter().any(|f| f.server.ip() == address);
    if !ours {
        return Some(());
    }
    // A solicitation from the unspecified address (duplicate detection) is answered to everybody.
    let (to, flags) = if source.is_unspecified() { (ALL_NODES, 0xa0) } else { (source, 0xe0) };
    let mut answer = vec![flags, 0, 0, 0];
    answer.extend(target.octets());
    push_link_option(&mut answer, OPTION_TARGET_ADDRESS);
    send_icmp6(link, target, to, NEIGHBOUR_ADVERTISEMENT, &answer);
    Some(())
}

/// Tells all nodes the prefix, the router, the MTU and the name server.
pub fn advertise_router(link: &mut Link, config: &Config) {
    let Some(net) = link.v6 else { return };
    // "Other configuration" by DHCPv6; restrict=on offers no way out, so no default router.
    let lifetime = if config.restrict { 0 } else { ROUTER_LIFETIME_S };
    let mut body = vec![64, 0x40];
    body.extend(lifetime.to_be_bytes());
    body.extend([0; 8]);
    push_link_option(&mut body, OPTION_SOURCE_ADDRESS);
    // On-link and autonomous.
    body.extend([OPTION_PREFIX, 4, net.prefix_len, 0xc0]);
    body.extend(PREFIX_VALID_S.to_be_bytes());
    body.extend(PREFIX_PREFERRED_S.to_be_bytes());
    body.extend([0; 4]);
    body.extend(net.prefix.octets());
    body.extend([OPTION_MTU, 1, 0, 0]);
    body.extend((link.mtu as u32).to_be_bytes());
    if !config.restrict {
        body.extend([OPTION_DNS, 3, 0, 0]);
        body.extend(u32::from(ROUTER_LIFETIME_S).to_be_bytes());
        body.extend(net.dns.octets());
        push_search(&mut body, config);
    }
    send_icmp6(link, HOST_LINK_LOCAL, ALL_NODES, ROUTER_ADVERTISEMENT, &body);
}

fn push_search(body: &mut Vec<u8>, config: &Config) {
    let mut names: Vec<u8> = config.dnssearch.iter().flat_map(|name| super::dns::encode_name(name)).collect();
    if names.is_empty() {
        return;
    }
    names.resize(names.len().next_multiple_of(8), 0);
    let units = 1 + names.len() / 8;
    // A list that does not fit the option's length field is left to DHCPv6.
    let Ok(units) = u8::try_from(units) else { return };
    body.extend([OPTION_SEARCH, units, 0, 0]);
    body.extend(u32::from(ROUTER_LIFETIME_S).to_be_bytes());
    body.extend(names);
}
