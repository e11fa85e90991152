//! ICMP: echo through unprivileged ping sockets, and the errors that we report to the guest.
//!
//! Reference: RFC 792, RFC 4443; Linux `net.ipv4.ping_group_range`.
//!
//! The virtual host and name server answer echo requests themselves. Others go out through
//! `SOCK_DGRAM` ICMP sockets; if the host does not allow those, the guest is told "communication
//! administratively prohibited" and the user is told once how to allow them.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::engine::Core;
use super::link::{Link, protocol};
use super::neighbour;
use super::token::Token;
use crate::backend::Nanos;
use crate::checksum::Sum;
use crate::slab::{Key, Slab};

/// Echo conversations at one time.
pub const MAX_PINGS: usize = 64;
pub const PING_TIMEOUT: Duration = Duration::from_secs(60);
/// Errors to the guest within one second.
const MAX_ERRORS_PER_SECOND: u32 = 100;
/// How much of the offending packet's payload an error carries.
const QUOTED: usize = 8;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
pub const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const UNREACHABLE6: u8 = 1;
const TOO_BIG6: u8 = 2;
const TIME_EXCEEDED6: u8 = 3;
pub const ECHO6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// Why a packet did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Network,
    Host,
    Port,
    Prohibited,
    TooBig { mtu: u16 },
    TimeExceeded,
}

impl Reason {
    /// The reason behind a host error, if it is about reaching the other side.
    pub fn of(error: &std::io::Error) -> Option<Reason> {
        use rustix::io::Errno;
        match Errno::from_raw_os_error(error.raw_os_error()?) {
            Errno::NETUNREACH | Errno::NETDOWN | Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL => Some(Reason::Network),
            Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => Some(Reason::Host),
            Errno::CONNREFUSED => Some(Reason::Port),
            Errno::ACCESS | Errno::PERM => Some(Reason::Prohibited),
            Errno::MSGSIZE => Some(Reason::TooBig { mtu: 1280 }),
            _ => None,
        }
    }
}

/// Bounds the errors that a guest can make us send.
#[derive(Debug, Default)]
pub struct ErrorLimit {
    second: u64,
    sent: u32,
}

impl ErrorLimit {
    fn allow(&mut self, now: Nanos) -> bool {
        let second = now.0 / 1_000_000_000;
        if second != self.second {
            *self = ErrorLimit { second, sent: 0 };
        }
        self.sent += 1;
        self.sent <= MAX_ERRORS_PER_SECOND
    }
}

/// Tells the sender of a packet why it was not delivered. `transport` is the start of its payload.
pub fn report(
    link: &mut Link,
    limit: &mut ErrorLimit,
    reason: Reason,
    (source, destination, proto): (IpAddr, IpAddr, u8),
    transport: &[u8],
) {
    if !limit.allow(link.now) {
        return;
    }
    let quoted = &transport[..transport.len().min(QUOTED)];
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let Some(net) = link.v4 else { return };
            let (kind, code, rest) = match reason {
                Reason::Network => (UNREACHABLE, 0, 0),
                Reason::Host => (UNREACHABLE, 1, 0),
                Reason::Port => (UNREACHABLE, 3, 0),
                Reason::Prohibited => (UNREACHABLE, 13, 0),
                Reason::TooBig { mtu } => (UNREACHABLE, 4, u32::from(mtu)),
                Reason::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            };
            let mut message = vec![kind, code, 0, 0];
            message.extend(rest.to_be_bytes());
            let length = (20 + transport.len()).min(65535) as u16;
            let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[12..16].copy_from_slice(&s.octets());
            header[16..20].copy_from_slice(&d.octets());
            let sum = Sum::default().bytes(&header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            message.extend(header);
            message.extend(quoted);
            // Only the port's owner can know that nobody listens; all else is the router's word.
            let from = if reason == Reason::Port { d } else { net.host };
            send4(link, from.into(), source, message);
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let Some(net) = link.v6 else { return };
            let (kind, code, rest) = match reason {
                Reason::Network => (UNREACHABLE6, 0, 0),
                Reason::Host => (UNREACHABLE6, 3, 0),
                Reason::Port => (UNREACHABLE6, 4, 0),
                Reason::Prohibited => (UNREACHABLE6, 1, 0),
                Reason::TooBig { mtu } => (TOO_BIG6, 0, u32::from(mtu)),
                Reason::TimeExceeded => (TIME_EXCEEDED6, 0, 0),
            };
            let mut body = rest.to_be_bytes().to_vec();
            body.extend([0x60, 0, 0, 0]);
            body.extend((transport.len().min(65535) as u16).to_be_bytes());
            body.extend([proto, 64]);
            body.extend(s.octets());
            body.extend(d.octets());
            body.extend(quoted);
            let from = if reason == Reason::Port { d } else { net.host };
            neighbour::send_icmp6_code(link, from, s, (kind, code), &body);
        }
        _ => {}
    }
}

fn send4(link: &mut Link, source: IpAddr, destination: IpAddr, mut message: Vec<u8>) {
    message[2..4].fill(0);
    let sum = Sum::default().bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    link.send_ip(source, destination, protocol::ICMP, &message);
}

/// Queues an echo reply; `rest` is the identifier, the sequence number and the data.
fn reply(link: &mut Link, source: IpAddr, destination: IpAddr, rest: &[u8]) {
    match (source, destination) {
        (IpAddr::V6(s), IpAddr::V6(d)) => neighbour::send_icmp6(link, s, d, ECHO_REPLY6, rest),
        _ => {
            let mut message = vec![ECHO_REPLY, 0, 0, 0];
            message.extend(rest);
            send4(link, source, destination, message);
        }
    }
}

#[derive(Debug)]
struct Ping {
    guest: IpAddr,
    ident: u16,
    socket: Socket,
    last_used: Nanos,
}

#[derive(Debug, Default)]
pub struct Pings {
    slab: Slab<Ping>,
    keys: HashMap<(IpAddr, u16), Key>,
    limit_reported: bool,
    denied_reported: bool,
}

impl Pings {
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// An echo request from the guest; `rest` is what follows type, code and checksum.
    pub fn request(&mut self, core: &mut Core, source: IpAddr, destination: IpAddr, rest: &[u8]) {
        if rest.len() < 4 {
            core.link.stats.malformed += 1;
            return;
        }
        if core.link.is_host(destination) || core.link.is_dns(destination) {
            return reply(&mut core.link, destination, source, rest);
        }
        if core.config.restrict {
            core.link.stats.restricted += 1;
            return;
        }
        let proto = if source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let mut message = vec![if source.is_ipv4() { ECHO } else { ECHO6 }, 0, 0, 0];
        message.extend(rest);
        if !core.link.is_outside(destination) {
            return core.unreachable(Reason::Host, (source, destination, proto), &message);
        }
        let ident = u16::from_be_bytes([rest[0], rest[1]]);
        let sent = self.socket(core, source, ident).and_then(|key| {
            let ping = self.slab.get_mut(key).expect("just found");
            ping.last_used = core.link.now;
            ping.socket.send_to(&message, &SockAddr::from(SocketAddr::new(destination, 0)))
        });
        match sent {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                let reason = Reason::of(&error).unwrap_or(Reason::Host);
                core.unreachable(reason, (source, destination, proto), &message);
            }
            Ok(_) => {}
        }
    }

    fn socket(&mut self, core: &mut Core, guest: IpAddr, ident: u16) -> std::io::Result<Key> {
        if let Some(&key) = self.keys.get(&(guest, ident)) {
            return Ok(key);
        }
        if self.slab.len() >= MAX_PINGS {
            let oldest = self.slab.iter().min_by_key(|(_, p)| p.last_used).map(|(key, _)| key);
            self.remove(oldest.expect("the table is full"));
            core.link.stats.refused += 1;
            if !std::mem::replace(&mut self.limit_reported, true) {
                log::warn!("user network: more than {MAX_PINGS} pings at once; the oldest are forgotten");
            }
        }
        let (domain, proto) = match guest {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(proto)).inspect_err(|error| {
            if !std::mem::replace(&mut self.denied_reported, true) {
                log::warn!(
                    "user network: the host does not let us ping ({error}); \
                     allow this group with: sysctl net.ipv4.ping_group_range=\"0 2147483647\""
                );
            }
        })?;
        let key = self.slab.insert(Ping { guest, ident, socket, last_used: core.link.now });
        let ping = self.slab.get(key).expect("just inserted");
        if let Err(error) = core.poller.add(&ping.socket, Token::Ping(key).pack()) {
            self.slab.remove(key);
            return Err(error);
        }
        self.keys.insert((guest, ident), key);
        Ok(key)
    }

    fn remove(&mut self, key: Key) {
        if let Some(ping) = self.slab.remove(key) {
            self.keys.remove(&(ping.guest, ping.ident));
        }
    }

    /// Passes replies on. True if there may be more.
    pub fn readable(&mut self, core: &mut Core, key: Key) -> bool {
        let Some(ping) = self.slab.get_mut(key) else { return false };
        loop {
            if core.link.outbox_is_high() {
                return true;
            }
            match rustix::net::recvfrom(&ping.socket, &mut core.buffer[..], rustix::net::RecvFlags::empty()) {
                Ok((length, _, Some(from))) => {
                    let Ok(from) = SocketAddr::try_from(from) else { continue };
                    let message = &core.buffer[..length];
                    let expected = if ping.guest.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY6 };
                    if length < 8 || message[0] != expected {
                        continue;
                    }
                    // The kernel chose an identifier of its own; the guest knows only its own.
                    let mut rest = message[4..].to_vec();
                    rest[..2].copy_from_slice(&ping.ident.to_be_bytes());
                    reply(&mut core.link, from.ip(), ping.guest, &rest);
                }
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return false,
                // An ICMP error for one request; the next receive gives the next message.
                Err(_) if ping.socket.take_error().is_ok_and(|e| e.is_some()) => {}
                Err(_) => return false,
            }
        }
    }

    /// Forgets conversations that ended; the time when the next one may.
    pub fn expire(&mut self, now: Nanos) -> Option<Nanos> {
        let dead: Vec<_> = self.slab.iter().filter(|(_, p)| p.last_used.after(PING_TIMEOUT) <= now).map(|(k, _)| k).collect();
        dead.into_iter().for_each(|key| self.remove(key));
        self.slab.iter().map(|(_, p)| p.last_used.after(PING_TIMEOUT)).min()
    }
}
