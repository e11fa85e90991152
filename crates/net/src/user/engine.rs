//! The engine behind `-netdev user`: takes frames apart, hands packets to the protocols, runs them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use spec::error::{Error, Result};

use super::config::Config;
use super::dhcp::Dhcp;
use super::dns::Resolvers;
use super::forward::{HostForward, Listen};
use super::fragment::Fragments;
use super::icmp::{self, ErrorLimit, Pings, Reason};
use super::link::{Link, Stats};
use super::smb::{self, Share};
use super::tcp::{Accepted, Tcp};
use super::tftp::Tftp;
use super::token::Token;
use super::udp::Udp;
use super::{info, neighbour};
use crate::backend::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use crate::poller::{Poller, Ready};

/// Unsolicited router advertisements keep the guest's default route alive.
const ADVERTISE_INTERVAL: Duration = Duration::from_secs(600);
/// How long a listener waits for a free descriptor or place.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The largest UDP or ICMP message.
const MESSAGE: usize = 65536;

/// What all protocols share.
pub struct Core {
    pub link: Link,
    pub config: Config,
    pub poller: Poller,
    pub resolvers: Resolvers,
    pub errors: ErrorLimit,
    /// Where datagrams are received; nothing lives here between two calls.
    pub buffer: Box<[u8]>,
}

impl Core {
    /// Tells the guest that a packet of its did not get through.
    pub fn unreachable(&mut self, reason: Reason, packet: (IpAddr, IpAddr, u8), transport: &[u8]) {
        icmp::report(&mut self.link, &mut self.errors, reason, packet, transport);
    }
}

/// The user-mode network.
pub struct UserNet {
    pub(super) core: Core,
    pub(super) tcp: Tcp,
    pub(super) udp: Udp,
    pub(super) pings: Pings,
    pub(super) dhcp: Dhcp,
    pub(super) tftp: Tftp,
    pub(super) fragments: Fragments,
    /// Datagram sockets and listeners that may have more to read.
    readable: BTreeSet<Token>,
    /// Listeners that have to wait for a free descriptor or place.
    stuck: BTreeSet<Token>,
    retry_at: Option<Nanos>,
    events: Vec<Ready>,
    next: Option<Nanos>,
    more: bool,
    advertise_at: Option<Nanos>,
    /// Samba's files live as long as the back end.
    _share: Option<Share>,
}

/// Lets the process open as many descriptors as it is allowed to: each connection needs one.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If this fails, connections beyond the limit are refused and reported.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

impl UserNet {
    /// Opens the host side: forwarded ports listen from now on.
    pub fn new(config: Config) -> Result<UserNet> {
        UserNet::with_resolvers(config, Resolvers::host())
    }

    /// As [`UserNet::new`], with name servers that are not the host's.
    pub fn with_resolvers(mut config: Config, resolvers: Resolvers) -> Result<UserNet> {
        raise_descriptor_limit();
        let share = smb::open(&mut config)?;
        let core = Core {
            link: Link::new(&config),
            poller: Poller::new()?,
            resolvers,
            errors: ErrorLimit::default(),
            buffer: vec![0; MESSAGE].into_boxed_slice(),
            config,
        };
        let mut net = UserNet {
            core,
            tcp: Tcp::default(),
            udp: Udp::default(),
            pings: Pings::default(),
            dhcp: Dhcp::default(),
            tftp: Tftp::default(),
            fragments: Fragments::default(),
            readable: BTreeSet::new(),
            stuck: BTreeSet::new(),
            retry_at: None,
            events: Vec::new(),
            next: None,
            more: false,
            advertise_at: None,
            _share: share,
        };
        net.check_servers()?;
        for rule in 0..net.core.config.hostfwd.len() {
            net.open_forward(rule)?;
        }
        Ok(net)
    }

    /// Virtual servers must have addresses of their own on the virtual network.
    fn check_servers(&mut self) -> Result<()> {
        for forward in &self.core.config.guestfwd {
            let ip = forward.server.ip();
            if !self.core.link.is_virtual(ip) || self.core.link.is_host(ip) || self.core.link.is_dns(ip) {
                return Err(Error::new(format!("Conflicting/invalid host:port in guest forwarding rule '{}'", forward.rule)));
            }
        }
        Ok(())
    }

    /// The guest that a rule without an address means.
    fn default_guest(&self) -> IpAddr {
        match (&self.core.config.v4, &self.core.config.v6) {
            (Some(net), _) => IpAddr::V4(net.dhcp_start),
            // Where a guest of the default interface identifier would be; rules for IPv6 name theirs.
            (None, Some(net)) => IpAddr::V6(Ipv6Addr::from(u128::from(net.prefix) | 0x15)),
            (None, None) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }

    fn open_forward(&mut self, rule: usize) -> Result<()> {
        let forward = &self.core.config.hostfwd[rule];
        let guest = SocketAddr::new(forward.guest.unwrap_or_else(|| self.default_guest()), forward.guest_port);
        if !self.core.link.is_guest(guest.ip()) {
            return Err(Error::new(format!(
                "Could not set up host forwarding rule '{}': {} is not a guest address",
                forward.rule,
                guest.ip()
            )));
        }
        match forward.listen {
            Listen::Udp(listen) => self.udp.forward(&mut self.core, rule, listen, guest),
            Listen::Tcp(_) | Listen::Unix(_) => self.tcp.listen(&mut self.core, rule, guest),
        }
    }

    /// `hostfwd_add`.
    pub fn add_forward(&mut self, rule: &str) -> Result<()> {
        let forward = HostForward::parse(rule)?;
        self.core.config.hostfwd.push(forward);
        let opened = self.open_forward(self.core.config.hostfwd.len() - 1);
        if opened.is_err() {
            self.core.config.hostfwd.pop();
        }
        opened
    }

    /// `hostfwd_remove`: whether there was such a rule.
    pub fn remove_forward(&mut self, text: &str) -> Result<bool> {
        let listen = HostForward::parse_removal(text)?;
        let Some(rule) = self.core.config.hostfwd.iter().position(|f| f.listen == listen) else { return Ok(false) };
        self.tcp.remove_listener(rule);
        self.udp.remove_forward(rule);
        self.core.config.hostfwd.remove(rule);
        Ok(true)
    }

    /// Connects a virtual server to a character device: each connection to it gets a stream socket from `dial`.
    pub fn attach_chardev(&mut self, server: SocketAddr, dial: super::tcp::Dial) {
        self.tcp.attach_chardev(server, dial);
    }

    pub fn stats(&self) -> Stats {
        self.core.link.stats
    }

    /// Bytes held for the guest or the host, beside the kernel's socket buffers.
    pub fn buffered(&self) -> usize {
        self.tcp.buffered() + self.fragments.bytes()
    }

    /// Entries in the tables, for checks of their bounds: TCP, UDP, ping, TFTP, queued frames.
    pub fn tables(&self) -> [usize; 5] {
        [self.tcp.len(), self.udp.len(), self.pings.len(), self.tftp.sessions(), self.core.link.outbox_len()]
    }

    fn events(&mut self) {
        let events = &mut self.events;
        self.core.poller.ready(|ready| events.push(ready));
        for ready in std::mem::take(&mut self.events) {
            match Token::unpack(ready.token) {
                Token::Tcp(key) => self.tcp.event(&mut self.core, key, ready),
                token if ready.readable => {
                    if let (Token::Udp(key), true) = (token, ready.closed) {
                        self.udp.errors(&mut self.core, key);
                    }
                    self.readable.insert(token);
                }
                _ => {}
            }
        }
        for token in std::mem::take(&mut self.readable) {
            let more = match token {
                Token::Udp(key) => self.udp.readable(&mut self.core, key),
                Token::Ping(key) => self.pings.readable(&mut self.core, key),
                Token::Listener(key) => match self.tcp.accept(&mut self.core, key) {
                    Accepted::All => false,
                    Accepted::Some => true,
                    Accepted::Stuck => {
                        self.stuck.insert(token);
                        false
                    }
                },
                Token::Tcp(_) => false,
            };
            if more {
                self.readable.insert(token);
            }
        }
    }

    fn timers(&mut self, guest: &mut dyn Guest) {
        let now = self.core.link.now;
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.readable.append(&mut self.stuck);
        }
        if !self.stuck.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(now.after(ACCEPT_RETRY));
        }
        if self.advertise_at.is_some_and(|at| at <= now) {
            neighbour::advertise_router(&mut self.core.link, &self.core.config);
            self.advertise_at = Some(now.after(ADVERTISE_INTERVAL));
        }
        let deadlines = [
            self.tcp.expire(&mut self.core, guest),
            self.udp.expire(&mut self.core),
            self.pings.expire(now),
            self.tftp.expire(&mut self.core),
            self.fragments.expire(now),
            self.advertise_at,
            self.retry_at,
        ];
        self.next = deadlines.into_iter().flatten().min();
    }

    /// Starts the periodic router advertisements once the guest shows interest in IPv6.
    pub(super) fn solicited(&mut self) {
        self.advertise_at = Some(self.core.link.now.after(ADVERTISE_INTERVAL));
    }
}

impl Backend for UserNet {
    fn transmit(&mut self, now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        self.core.link.now = now;
        self.core.link.stats.frames_in += 1;
        if self.input(frame, offload).is_none() {
            self.core.link.stats.malformed += 1;
        }
        // Even a caller that does not poll after its batch comes back at once.
        self.more = true;
        Transmit::Taken
    }

    fn poll(&mut self, now: Nanos, guest: &mut dyn Guest) {
        self.core.link.now = now;
        self.events();
        self.core.link.flush(guest);
        self.more = self.tcp.run(&mut self.core, guest);
        self.timers(guest);
        // What timers and resets queued.
        let flushed = self.core.link.flush(guest);
        if self.tcp.run(&mut self.core, guest) {
            self.more = true;
        }
        self.next = [self.next, self.tcp.next_timer()].into_iter().flatten().min();
        self.core.link.flush(guest);
        self.more |= flushed && !self.readable.is_empty();
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.core.poller.fd())
    }

    fn deadline(&self) -> Option<Nanos> {
        if self.more { Some(self.core.link.now) } else { self.next }
    }

    fn takes_offloads(&self) -> bool {
        true
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        self.core.link.accepts = accepts;
    }

    fn summary(&self) -> String {
        info::summary(&self.core.config)
    }

    fn usernet(&self) -> Option<String> {
        Some(info::usernet(self))
    }

    fn hostfwd_add(&mut self, rule: &str) -> Result<()> {
        self.add_forward(rule)
    }

    fn hostfwd_remove(&mut self, rule: &str) -> Result<bool> {
        self.remove_forward(rule)
    }
}
