//! UDP: one host socket for each guest port, so that the outside sees one address for it (RFC 4787
//! "endpoint-independent mapping"), forwarded host ports, and queries to the virtual name server.
//!
//! Invariants: at most [`MAX_FLOWS`] sockets; an idle one is closed after [`TIMEOUT`]. Datagrams that
//! the guest has no room for stay in the host's socket buffers and are dropped there.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use spec::error::{Context, Result};

use super::dns::{self, Query};
use super::engine::Core;
use super::icmp::Reason;
use super::link::{loopback, protocol};
use super::token::Token;
use crate::backend::Nanos;
use crate::slab::{Key, Slab};
use crate::timers::Timers;

pub const MAX_FLOWS: usize = 1024;
pub const TIMEOUT: Duration = Duration::from_secs(240);
/// A name server conversation is over soon.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(10);
/// Datagrams taken from one socket before the others get their turn.
const TURN: usize = 32;
/// Remote ends of a forwarded port whose real address differs from what the guest sees.
const MAX_PEERS: usize = 256;

/// What a socket is for.
#[derive(Debug)]
enum Role {
    /// Whatever a guest port sends.
    Nat,
    /// Queries to the virtual name server.
    Dns(Query),
    /// A `hostfwd` rule, with the real address behind each address that the guest sees.
    Forward { rule: usize, peers: HashMap<SocketAddr, SocketAddr> },
}

#[derive(Debug)]
struct Flow {
    guest: SocketAddr,
    socket: Socket,
    role: Role,
    last_used: Nanos,
    armed: Option<Nanos>,
}

/// A flow for `info usernet`.
#[derive(Debug)]
pub struct Row {
    pub forward: bool,
    pub fd: i32,
    pub local: Option<SocketAddr>,
    pub guest: SocketAddr,
    pub idle_left: Duration,
}

#[derive(Debug, Default)]
pub struct Udp {
    slab: Slab<Flow>,
    /// By guest address, and by the virtual name server for queries.
    keys: HashMap<(SocketAddr, Option<IpAddr>), Key>,
    timers: Timers<Key>,
    full_reported: bool,
}

impl Flow {
    fn timeout(&self) -> Option<Nanos> {
        match &self.role {
            Role::Nat => Some(self.last_used.after(TIMEOUT)),
            Role::Dns(query) => Some(self.last_used.after(DNS_TIMEOUT).min(query.retry_at())),
            Role::Forward { .. } => None,
        }
    }
}

pub fn socket(domain: Domain) -> std::io::Result<Socket> {
    Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
}

impl Udp {
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// A datagram from the guest that is for the outside, the host or the name server.
    pub fn transmit(&mut self, core: &mut Core, guest: SocketAddr, to: SocketAddr, payload: &[u8], transport: &[u8]) {
        if core.link.is_dns(to.ip()) && to.port() == 53 {
            return self.query(core, guest, to, payload);
        }
        let addresses = (guest.ip(), to.ip(), protocol::UDP);
        if to.ip().is_multicast() || to.ip() == IpAddr::from([255; 4]) {
            return;
        }
        let forwarded = self.keys.get(&(guest, None)).copied().and_then(|key| self.forward_reply(key, to));
        if let Some(real) = forwarded {
            let key = self.keys[&(guest, None)];
            return self.send(core, key, real, payload, addresses, transport);
        }
        let real = if core.link.is_host(to.ip()) {
            SocketAddr::new(loopback(to.ip()), to.port())
        } else if !core.link.is_outside(to.ip()) {
            return core.unreachable(Reason::Host, addresses, transport);
        } else {
            to
        };
        match self.flow(core, guest, to.ip()) {
            Ok(key) => self.send(core, key, real, payload, addresses, transport),
            Err(error) => {
                let reason = Reason::of(&error).unwrap_or(Reason::Network);
                core.unreachable(reason, addresses, transport);
            }
        }
    }

    /// The real address of a forwarded port's peer, if the guest answers one.
    fn forward_reply(&self, key: Key, to: SocketAddr) -> Option<SocketAddr> {
        match &self.slab.get(key)?.role {
            Role::Forward { peers, .. } => peers.get(&to).copied(),
            _ => None,
        }
    }

    /// Whether the guest answers a datagram that came through a `hostfwd` rule.
    pub fn is_forward_reply(&self, guest: SocketAddr, to: SocketAddr) -> bool {
        self.keys.get(&(guest, None)).is_some_and(|&key| self.forward_reply(key, to).is_some())
    }

    fn send(
        &mut self,
        core: &mut Core,
        key: Key,
        real: SocketAddr,
        payload: &[u8],
        addresses: (IpAddr, IpAddr, u8),
        transport: &[u8],
    ) {
        let Some(flow) = self.slab.get_mut(key) else { return };
        flow.last_used = core.link.now;
        let mut sent = flow.socket.send_to(payload, &SockAddr::from(real));
        if sent.is_err() {
            // A pending error of an earlier datagram is reported once, here; this one may still go.
            sent = flow.socket.send_to(payload, &SockAddr::from(real));
        }
        match sent {
            Ok(_) => {}
            // A full socket buffer drops, as a full cable would.
            Err(error) if error.kind() == ErrorKind::WouldBlock => core.link.stats.overflowed += 1,
            Err(error) => {
                if let Some(reason) = Reason::of(&error) {
                    core.unreachable(reason, addresses, transport);
                }
            }
        }
    }

    /// The socket of a guest port, made when it is first used.
    fn flow(&mut self, core: &mut Core, guest: SocketAddr, to: IpAddr) -> std::io::Result<Key> {
        if let Some(&key) = self.keys.get(&(guest, None))
            && matches!(self.slab.get(key), Some(Flow { role: Role::Nat, .. }))
        {
            return Ok(key);
        }
        let socket = socket(if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 })?;
        let unspecified = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
        socket.bind(&SocketAddr::new(unspecified, 0).into())?;
        host::socket_errors::enable(&socket, to.is_ipv6())?;
        self.insert(core, Flow { guest, socket, role: Role::Nat, last_used: core.link.now, armed: None })
    }

    fn insert(&mut self, core: &mut Core, flow: Flow) -> std::io::Result<Key> {
        self.make_room(core);
        let dns = match &flow.role {
            Role::Dns(query) => Some(query.server()),
            _ => None,
        };
        let index = (flow.guest, dns);
        let key = self.slab.insert(flow);
        let flow = self.slab.get_mut(key).expect("just inserted");
        if let Err(error) = core.poller.add(&flow.socket, Token::Udp(key).pack()) {
            self.slab.remove(key);
            return Err(error);
        }
        let deadline = flow.timeout();
        self.timers.arm(&mut flow.armed, deadline, key);
        self.keys.insert(index, key);
        let slab = &self.slab;
        self.timers.purge(slab.len(), |key, at| slab.get(key).is_some_and(|c| c.armed == Some(at)));
        Ok(key)
    }

    /// Closes the flow that was idle for longest if the table is full.
    fn make_room(&mut self, core: &mut Core) {
        if self.slab.len() < MAX_FLOWS {
            return;
        }
        let idle = self.slab.iter().filter(|(_, f)| !matches!(f.role, Role::Forward { .. }));
        if let Some(key) = idle.min_by_key(|(_, f)| f.last_used).map(|(key, _)| key) {
            self.remove(key);
        }
        core.link.stats.refused += 1;
        if !std::mem::replace(&mut self.full_reported, true) {
            log::warn!("user network: more than {MAX_FLOWS} UDP flows; the longest idle ones are closed");
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(flow) = self.slab.remove(key) {
            let dns = match &flow.role {
                Role::Dns(query) => Some(query.server()),
                _ => None,
            };
            if self.keys.get(&(flow.guest, dns)) == Some(&key) {
                self.keys.remove(&(flow.guest, dns));
            }
        }
    }

    /// A query to the virtual name server.
    fn query(&mut self, core: &mut Core, guest: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let now = core.link.now;
        if let Some(&key) = self.keys.get(&(guest, Some(to.ip()))) {
            let Some(flow) = self.slab.get_mut(key) else { return };
            flow.last_used = now;
            if let Role::Dns(query) = &mut flow.role {
                query.restart(now, payload);
                query.send(&flow.socket);
                let deadline = flow.timeout();
                self.timers.arm(&mut flow.armed, deadline, key);
            }
            return;
        }
        let servers = core.resolvers.servers(now);
        let opened = dns::open(&servers, 0).and_then(|socket| {
            let query = Query::new(now, to.ip(), servers, payload);
            query.send(&socket);
            self.insert(core, Flow { guest, socket, role: Role::Dns(query), last_used: now, armed: None })
        });
        if opened.is_err()
            && let Some(answer) = dns::server_failure(payload)
        {
            core.link.send_udp(to, guest, &answer);
        }
    }

    /// Opens the socket of a `hostfwd` rule.
    pub fn forward(&mut self, core: &mut Core, rule: usize, listen: SocketAddr, guest: SocketAddr) -> Result<()> {
        let sentence = || format!("Could not set up host forwarding rule '{}'", core.config.hostfwd[rule].rule);
        let domain = if listen.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = socket(domain).context(sentence)?;
        if listen.is_ipv6() {
            socket.set_only_v6(true).context(sentence)?;
        }
        socket.bind(&listen.into()).context(sentence)?;
        let role = Role::Forward { rule, peers: HashMap::new() };
        let text = sentence();
        let flow = Flow { guest, socket, role, last_used: core.link.now, armed: None };
        self.insert(core, flow).context(|| text)?;
        Ok(())
    }

    /// Closes the socket of a rule that is being removed, and renumbers those behind it.
    pub fn remove_forward(&mut self, removed: usize) {
        let of_rule = |flow: &Flow, n| matches!(flow.role, Role::Forward { rule, .. } if rule == n);
        let keys: Vec<Key> = self.slab.iter().map(|(key, _)| key).collect();
        for key in keys {
            let flow = self.slab.get_mut(key).expect("listed");
            if of_rule(flow, removed) {
                self.remove(key);
            } else if let Role::Forward { rule, .. } = &mut flow.role
                && *rule > removed
            {
                *rule -= 1;
            }
        }
    }

    /// Passes datagrams from the host on. True if there may be more.
    pub fn readable(&mut self, core: &mut Core, key: Key) -> bool {
        let Some(flow) = self.slab.get_mut(key) else { return false };
        for _ in 0..TURN {
            if core.link.outbox_is_high() {
                return true;
            }
            let (length, from) = match rustix::net::recvfrom(&flow.socket, &mut core.buffer[..], RecvFlags::empty()) {
                Ok((length, _, Some(from))) => (length, SocketAddr::try_from(from).ok()),
                Ok((length, _, None)) => (length, None),
                Err(rustix::io::Errno::AGAIN) => return false,
                Err(error) => {
                    if let Role::Dns(query) = &mut flow.role
                        && error == rustix::io::Errno::CONNREFUSED
                    {
                        // Nobody serves names there: try the next one at once.
                        query.hurry(core.link.now);
                        self.timers.arm(&mut flow.armed, Some(core.link.now), key);
                        return false;
                    }
                    continue;
                }
            };
            flow.last_used = core.link.now;
            let payload = &core.buffer[..length];
            let source = match &mut flow.role {
                Role::Dns(query) => {
                    query.answered();
                    SocketAddr::new(query.server(), 53)
                }
                Role::Nat => {
                    let Some(from) = from else { continue };
                    core.link.seen_by_guest(from, flow.guest.ip())
                }
                Role::Forward { peers, .. } => {
                    let Some(from) = from else { continue };
                    let seen = core.link.seen_by_guest(from, flow.guest.ip());
                    if peers.len() >= MAX_PEERS && !peers.contains_key(&seen) {
                        let victim = *peers.keys().next().expect("the table is full");
                        peers.remove(&victim);
                    }
                    peers.insert(seen, from);
                    seen
                }
            };
            core.link.send_udp(source, flow.guest, payload);
        }
        true
    }

    /// Tells the guest which of its datagrams came to nothing.
    pub fn errors(&mut self, core: &mut Core, key: Key) {
        let Some(Flow { guest, socket, role: Role::Nat, .. }) = self.slab.get(key) else { return };
        for _ in 0..TURN {
            let Some(error) = host::socket_errors::next(socket, &mut core.buffer[..16]) else { return };
            let to = core.link.seen_by_guest(error.destination, guest.ip());
            let reason = match Reason::of(&std::io::Error::from_raw_os_error(error.errno)) {
                Some(Reason::TooBig { .. }) => Reason::TooBig { mtu: error.info.min(0xffff) as u16 },
                Some(reason) => reason,
                None => continue,
            };
            // The error quotes the UDP header; its checksum is nobody's business.
            let mut header = [0; 8];
            header[..2].copy_from_slice(&guest.port().to_be_bytes());
            header[2..4].copy_from_slice(&to.port().to_be_bytes());
            header[4..6].copy_from_slice(&((8 + error.length).min(0xffff) as u16).to_be_bytes());
            core.unreachable(reason, (guest.ip(), to.ip(), protocol::UDP), &header);
        }
    }

    /// Runs the timers that are due; the time of the next one.
    pub fn expire(&mut self, core: &mut Core) -> Option<Nanos> {
        let now = core.link.now;
        while let Some((at, key)) = self.timers.due(now) {
            let Some(flow) = self.slab.get_mut(key) else { continue };
            if flow.armed == Some(at) {
                flow.armed = None;
            }
            if flow.timeout().is_some_and(|t| t <= now) && !Udp::retry(core, flow, key) {
                self.remove(key);
                continue;
            }
            let deadline = flow.timeout();
            self.timers.arm(&mut flow.armed, deadline, key);
        }
        let slab = &self.slab;
        self.timers.purge(slab.len(), |key, at| slab.get(key).is_some_and(|f| f.armed == Some(at)));
        self.timers.next()
    }

    /// Sends an unanswered query to the next name server. False if the flow has ended.
    fn retry(core: &mut Core, flow: &mut Flow, key: Key) -> bool {
        let now = core.link.now;
        let Role::Dns(query) = &mut flow.role else { return false };
        if flow.last_used.after(DNS_TIMEOUT) <= now {
            return false;
        }
        let Some(socket) = query.next_server(now) else {
            if let Some(answer) = query.give_up() {
                core.link.send_udp(SocketAddr::new(query.server(), 53), flow.guest, &answer);
            }
            return true;
        };
        if core.poller.add(&socket, Token::Udp(key).pack()).is_ok() {
            flow.socket = socket;
            query.send(&flow.socket);
        }
        true
    }

    pub fn rows(&self, now: Nanos) -> Vec<Row> {
        use std::os::fd::AsRawFd;
        let row = |flow: &Flow| Row {
            forward: matches!(flow.role, Role::Forward { .. }),
            fd: flow.socket.as_raw_fd(),
            local: flow.socket.local_addr().ok().and_then(|a| a.as_socket()),
            guest: flow.guest,
            idle_left: flow.timeout().map_or(Duration::ZERO, |t| t.since(now)),
        };
        self.slab.iter().map(|(_, flow)| row(flow)).collect()
    }
}
