//! TCP: the table of connections, forwarded host ports, and virtual servers.
//!
//! Each guest connection has one host socket. Nothing is buffered twice: data from the guest goes
//! from its frame to the socket, data for the guest from the socket to a ring that is also the
//! retransmission queue. A slow side closes the other side's window (TCP's own back-pressure).
//!
//! Limits: [`MAX_CONNECTIONS`]; [`MAX_CONNECTING`] that the host has not answered yet (a SYN flood);
//! `RECEIVE_MAX` and `SEND_MAX` bytes for each connection and [`MAX_BUFFERED`] for all, above which
//! a connection may hold `BUFFER_MIN` in each direction.

mod connection;
mod ranges;
mod receive;
mod segment;
mod send;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Child;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use spec::error::{Context, Error, Result};

use self::connection::{Arrival, Connection, Phase, Step, reset_for};
pub use self::connection::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, TIME_WAIT};
use self::receive::BUFFER_MIN;
pub use self::receive::RECEIVE_MAX;
use self::segment::Segment;
pub use self::segment::Seq;
pub use self::send::{MAX_RETRIES, SEND_MAX};
use super::engine::Core;
use super::forward::{ForwardTarget, Listen};
use super::icmp::Reason;
use super::link::{loopback, protocol};
use super::token::Token;
use crate::backend::{Guest, Nanos};
use crate::poller::Ready;
use crate::slab::{Key, Slab};
use crate::timers::Timers;

pub const MAX_CONNECTIONS: usize = 8192;
pub const MAX_CONNECTING: usize = 512;
pub const MAX_BUFFERED: usize = 256 << 20;
/// Connections accepted from one listener before the others get their turn.
const ACCEPT_TURN: usize = 64;
/// How many connections a listener may keep waiting in the host.
const BACKLOG: i32 = 128;
/// Turns within one poll; then the event loop may look at other things.
const TURNS: usize = 256;
/// Remote ports tried when two host programs look the same to the guest.
const PORT_TRIES: u16 = 64;

#[derive(Debug)]
struct Listener {
    rule: usize,
    socket: Socket,
    guest: SocketAddr,
    unix: Option<std::path::PathBuf>,
}

/// A connection or listener for `info usernet`.
#[derive(Debug)]
pub struct Row {
    pub state: &'static str,
    pub fd: i32,
    pub source: Option<SocketAddr>,
    pub destination: SocketAddr,
    pub receive_queue: usize,
    pub send_queue: usize,
}

#[derive(Debug, Default)]
pub struct Tcp {
    slab: Slab<Connection>,
    /// By the guest's end and the other end as the guest sees it.
    keys: HashMap<(SocketAddr, SocketAddr), Key>,
    last: Option<(SocketAddr, SocketAddr, Key)>,
    listeners: Slab<Listener>,
    /// Connections that need a turn.
    work: VecDeque<Key>,
    timers: Timers<Key>,
    connecting: usize,
    buffered: usize,
    /// Sockets that the owner of a character device has attached for a virtual server.
    chardevs: HashMap<SocketAddr, Dial>,
    children: Vec<Child>,
    /// Connections that only wait for stray segments, oldest first (and some that are gone).
    waiting: VecDeque<Key>,
    full_reported: bool,
    flood_reported: bool,
    host_reported: bool,
    secret: RandomState,
    started: u64,
}

/// Opens a stream to a character device, for one connection.
pub struct Dial(pub Box<dyn FnMut() -> std::io::Result<OwnedFd> + Send>);

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dial")
    }
}

/// Says something once.
fn report(once: &mut bool, text: impl FnOnce() -> String) {
    if !std::mem::replace(once, true) {
        log::warn!("user network: {}", text());
    }
}

impl Tcp {
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Bytes of buffers in use.
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    fn limit(&self) -> usize {
        if self.buffered > MAX_BUFFERED { BUFFER_MIN } else { RECEIVE_MAX }
    }

    /// RFC 6528: unpredictable, and increasing for the same pair of ends.
    fn initial(&self, core: &Core, guest: SocketAddr, remote: SocketAddr) -> Seq {
        let clock = core.link.now.0 / 4000;
        Seq((self.secret.hash_one((guest, remote)) as u32).wrapping_add(clock as u32))
    }

    fn find(&mut self, guest: SocketAddr, remote: SocketAddr) -> Option<Key> {
        match self.last {
            Some((g, r, key)) if g == guest && r == remote => Some(key),
            _ => {
                let key = *self.keys.get(&(guest, remote))?;
                self.last = Some((guest, remote, key));
                Some(key)
            }
        }
    }

    /// A TCP packet from the guest whose checksum has been dealt with.
    pub fn receive(&mut self, core: &mut Core, source: IpAddr, destination: IpAddr, bytes: &[u8]) {
        let Some(segment) = Segment::parse(source, destination, bytes) else {
            core.link.stats.malformed += 1;
            return;
        };
        if let Some(key) = self.find(segment.guest, segment.remote) {
            let limit = self.limit();
            let connection = self.slab.get_mut(key).expect("keys and slab agree");
            let was_connecting = connection.phase == Phase::Connecting;
            match connection.segment(&mut core.link, &segment, limit) {
                Arrival::Done => {
                    if was_connecting && connection.phase == Phase::Closed {
                        self.connecting -= 1;
                    }
                    return self.settle(key);
                }
                Arrival::Reopen => {
                    self.connecting -= usize::from(was_connecting);
                    self.remove(key);
                }
            }
        }
        if segment.syn && segment.ack.is_none() && !segment.rst && !segment.fin {
            self.open(core, &segment);
        } else if !destination.is_multicast() {
            reset_for(&mut core.link, &segment);
        }
    }

    /// Queues a connection for a turn, updates its timer and the memory total.
    fn settle(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else { return };
        let deadline = connection.deadline();
        self.timers.arm(&mut connection.armed, deadline, key);
        let memory = connection.memory();
        self.buffered = self.buffered + memory - std::mem::replace(&mut connection.accounted, memory);
        if !std::mem::replace(&mut connection.queued, true) {
            self.work.push_back(key);
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(connection) = self.slab.remove(key) else { return };
        self.buffered -= connection.accounted;
        self.keys.remove(&(connection.guest, connection.remote));
        self.last = None;
    }

    /// The guest opens a connection.
    fn open(&mut self, core: &mut Core, syn: &Segment) {
        let ends = (syn.guest.ip(), syn.remote.ip(), protocol::TCP);
        if syn.remote.ip().is_multicast() || !core.link.is_guest(syn.guest.ip()) {
            core.link.stats.malformed += 1;
            return;
        }
        if self.is_full(core) {
            return;
        }
        match self.connect(core, syn.remote) {
            Ok((socket, connected)) => self.started(core, syn, socket, connected),
            Err(Refusal::Restricted) => core.link.stats.restricted += 1,
            Err(Refusal::NoSuchHost) => core.unreachable(Reason::Host, ends, syn.header),
            Err(Refusal::Host(error)) => self.refuse(core, syn, &error),
        }
    }

    /// Forgets the oldest connection that only waits for stray segments. False if there is none.
    fn make_room(&mut self) -> bool {
        while let Some(key) = self.waiting.pop_front() {
            if self.slab.get(key).is_some_and(|c| c.phase == Phase::TimeWait) {
                self.remove(key);
                return true;
            }
        }
        false
    }

    /// Keeps the list of waiting connections free of those that are gone.
    fn now_waiting(&mut self, key: Key) {
        while self.waiting.front().is_some_and(|&key| self.slab.get(key).is_none()) {
            self.waiting.pop_front();
        }
        self.waiting.push_back(key);
    }

    fn is_full(&mut self, core: &mut Core) -> bool {
        if self.slab.len() >= MAX_CONNECTIONS && !self.make_room() {
            report(&mut self.full_reported, || format!("all {MAX_CONNECTIONS} TCP connections are in use"));
        } else if self.connecting >= MAX_CONNECTING {
            report(&mut self.flood_reported, || format!("{MAX_CONNECTING} TCP connections wait for an answer"));
        } else {
            return false;
        }
        core.link.stats.refused += 1;
        true
    }

    fn started(&mut self, core: &mut Core, syn: &Segment, socket: Socket, connected: bool) {
        let initial = self.initial(core, syn.guest, syn.remote);
        let mut connection = Connection::outgoing(&core.link, syn, socket, initial);
        if connected {
            connection.host_connected();
        } else {
            self.connecting += 1;
        }
        if let Err(error) = self.insert(core, connection) {
            self.connecting -= usize::from(!connected);
            self.refuse(core, syn, &error);
        }
    }

    fn insert(&mut self, core: &mut Core, connection: Connection) -> std::io::Result<()> {
        let ends = (connection.guest, connection.remote);
        let key = self.slab.insert(connection);
        let socket = self.slab.get(key).and_then(|c| c.socket.as_ref()).expect("a new connection has a socket");
        if let Err(error) = core.poller.add(socket, Token::Tcp(key).pack()) {
            self.slab.remove(key);
            return Err(error);
        }
        self.keys.insert(ends, key);
        self.settle(key);
        let slab = &self.slab;
        self.timers.purge(slab.len(), |key, at| slab.get(key).is_some_and(|c| c.armed == Some(at)));
        Ok(())
    }

    /// Tells the guest that its connection did not come about.
    fn refuse(&mut self, core: &mut Core, syn: &Segment, error: &std::io::Error) {
        match Reason::of(error) {
            Some(Reason::Port) => reset_for(&mut core.link, syn),
            Some(reason) => core.unreachable(reason, (syn.guest.ip(), syn.remote.ip(), protocol::TCP), syn.header),
            None => {
                // Out of descriptors or the like: silence, so that the guest tries again.
                core.link.stats.refused += 1;
                report(&mut self.host_reported, || format!("could not open a connection: {error}"));
            }
        }
    }

    /// A host socket for a connection to `remote`, and whether it is connected already.
    fn connect(&mut self, core: &mut Core, remote: SocketAddr) -> Result<(Socket, bool), Refusal> {
        if let Some(forward) = core.config.guestfwd.iter().find(|f| f.server == remote) {
            return match &forward.target {
                ForwardTarget::Command(command) => Ok((self.spawn(command)?, true)),
                ForwardTarget::Chardev(_) => {
                    let dial = self.chardevs.get_mut(&remote).ok_or_else(refused)?;
                    let socket = Socket::from((dial.0)()?);
                    socket.set_nonblocking(true)?;
                    Ok((socket, true))
                }
            };
        }
        if core.config.restrict {
            return Err(Refusal::Restricted);
        }
        let ip = remote.ip();
        let real = if core.link.is_host(ip) {
            SocketAddr::new(loopback(ip), remote.port())
        } else if core.link.is_dns(ip) && remote.port() == 53 {
            *core.resolvers.servers(core.link.now).first().ok_or_else(refused)?
        } else if core.link.is_dns(ip) {
            return Err(refused().into());
        } else if !core.link.is_outside(ip) {
            return Err(Refusal::NoSuchHost);
        } else {
            remote
        };
        let domain = if real.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        prepare(&socket);
        match socket.connect(&real.into()) {
            Ok(()) => Ok((socket, true)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Ok((socket, false)),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts the command of a virtual server with a socket as its input and output.
    fn spawn(&mut self, command: &str) -> std::io::Result<Socket> {
        let (ours, child) = super::command::spawn(command)?;
        self.children.push(child);
        Ok(ours)
    }

    /// Gives the virtual server of a character device its streams.
    pub fn attach_chardev(&mut self, server: SocketAddr, dial: Dial) {
        self.chardevs.insert(server, dial);
    }

    /// Opens the socket of a `hostfwd` rule.
    pub fn listen(&mut self, core: &mut Core, rule: usize, guest: SocketAddr) -> Result<()> {
        let forward = &core.config.hostfwd[rule];
        let sentence = || format!("Could not set up host forwarding rule '{}'", forward.rule);
        let (domain, proto, address, unix) = match &forward.listen {
            Listen::Tcp(a) => {
                (if a.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, Some(Protocol::TCP), SockAddr::from(*a), None)
            }
            Listen::Unix(path) => (Domain::UNIX, None, SockAddr::unix(path).context(sentence)?, Some(path.clone())),
            Listen::Udp(_) => return Err(Error::new(sentence())),
        };
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), proto).context(sentence)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true).context(sentence)?;
        }
        if unix.is_none() {
            socket.set_reuse_address(true).context(sentence)?;
        }
        socket.bind(&address).context(sentence)?;
        socket.listen(BACKLOG).context(sentence)?;
        let key = self.listeners.insert(Listener { rule, socket, guest, unix });
        let listener = self.listeners.get(key).expect("just inserted");
        core.poller.add(&listener.socket, Token::Listener(key).pack()).context(sentence)
    }

    /// Closes the listener of a rule that is being removed, and renumbers those behind it.
    pub fn remove_listener(&mut self, removed: usize) {
        let keys: Vec<Key> = self.listeners.iter().map(|(key, _)| key).collect();
        for key in keys {
            let listener = self.listeners.get_mut(key).expect("listed");
            if listener.rule == removed {
                if let Some(path) = &listener.unix {
                    let _ = std::fs::remove_file(path);
                }
                self.listeners.remove(key);
            } else if listener.rule > removed {
                listener.rule -= 1;
            }
        }
    }

    /// Accepts what waits at a listener.
    pub fn accept(&mut self, core: &mut Core, key: Key) -> Accepted {
        for _ in 0..ACCEPT_TURN {
            if self.slab.len() >= MAX_CONNECTIONS && !self.make_room() {
                // They wait in the host's backlog until a connection ends.
                return Accepted::Stuck;
            }
            let Some(listener) = self.listeners.get(key) else { return Accepted::All };
            let (socket, peer) = match listener.socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Accepted::All,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    report(&mut self.host_reported, || format!("could not accept a connection: {error}"));
                    return Accepted::Stuck;
                }
            };
            let guest = listener.guest;
            let accepted = self.accepted(core, key, guest, socket, peer.as_socket());
            if let Err(error) = accepted {
                report(&mut self.host_reported, || format!("could not accept a connection: {error}"));
            }
        }
        Accepted::Some
    }

    fn accepted(
        &mut self,
        core: &mut Core,
        listener: Key,
        guest: SocketAddr,
        socket: Socket,
        peer: Option<SocketAddr>,
    ) -> std::io::Result<()> {
        socket.set_nonblocking(true)?;
        prepare(&socket);
        self.started += 1;
        // A Unix peer has no address: it gets a dynamic port of the virtual host.
        let dynamic = 49152 + (self.started % 16000) as u16;
        let peer = peer.unwrap_or_else(|| SocketAddr::new(loopback(guest.ip()), dynamic));
        let mut remote = core.link.seen_by_guest(peer, guest.ip());
        for _ in 0..PORT_TRIES {
            if !self.keys.contains_key(&(guest, remote)) {
                break;
            }
            remote.set_port(remote.port().checked_add(1).unwrap_or(1024));
        }
        if let Some(&old) = self.keys.get(&(guest, remote)) {
            match self.slab.get(old).map(|c| c.phase) {
                Some(Phase::TimeWait) => self.remove(old),
                _ => return Err(std::io::ErrorKind::AddrInUse.into()),
            }
        }
        let initial = self.initial(core, guest, remote);
        let mut connection = Connection::incoming(&core.link, guest, remote, socket, initial);
        connection.listener = Some(listener);
        self.insert(core, connection)
    }

    /// A host socket became ready.
    pub fn event(&mut self, core: &mut Core, key: Key, ready: Ready) {
        let Some(connection) = self.slab.get_mut(key) else { return };
        connection.readable |= ready.readable;
        connection.writable |= ready.writable;
        connection.host_closed |= ready.closed;
        if connection.phase == Phase::Connecting && ready.writable {
            let socket = connection.socket.as_ref().expect("a connecting connection has a socket");
            let outcome = socket.take_error();
            self.connecting -= 1;
            match outcome {
                Ok(None) => connection.host_connected(),
                Ok(Some(error)) | Err(error) => {
                    let (guest, remote) = (connection.guest, connection.remote);
                    connection.phase = Phase::Closed;
                    let expected = connection.rx.next;
                    self.remove(key);
                    return self.refuse_later(core, guest, remote, expected, &error);
                }
            }
        }
        self.settle(key);
    }

    /// The SYN is long gone, but the guest's stack needs to see its ports and number again.
    fn refuse_later(
        &mut self,
        core: &mut Core,
        guest: SocketAddr,
        remote: SocketAddr,
        expected: Seq,
        error: &std::io::Error,
    ) {
        let mut header = [0; 20];
        header[..2].copy_from_slice(&guest.port().to_be_bytes());
        header[2..4].copy_from_slice(&remote.port().to_be_bytes());
        header[4..8].copy_from_slice(&expected.minus(1).0.to_be_bytes());
        header[12..14].copy_from_slice(&[5 << 4, 2]);
        if let Some(syn) = Segment::parse(guest.ip(), remote.ip(), &header) {
            self.refuse(core, &syn, error);
        }
    }

    /// Gives each connection that needs it a turn. True if more could be done at once.
    pub fn run(&mut self, core: &mut Core, guest: &mut dyn Guest) -> bool {
        let mut blocked = VecDeque::new();
        let mut turns = 0;
        while let Some(key) = self.work.pop_front() {
            let limit = self.limit();
            let Some(connection) = self.slab.get_mut(key) else { continue };
            connection.queued = false;
            let before = connection.phase;
            let step = connection.step(&mut core.link, guest, limit);
            if connection.phase == Phase::Closed {
                self.remove(key);
                continue;
            }
            let deadline = connection.deadline();
            self.timers.arm(&mut connection.armed, deadline, key);
            let memory = connection.memory();
            self.buffered = self.buffered + memory - std::mem::replace(&mut connection.accounted, memory);
            let ended = before != Phase::TimeWait && connection.phase == Phase::TimeWait;
            match step {
                Step::Idle => {}
                Step::More => {
                    connection.queued = true;
                    self.work.push_back(key);
                }
                Step::Blocked => {
                    connection.queued = true;
                    blocked.push_back(key);
                }
            }
            if ended {
                self.now_waiting(key);
            }
            turns += 1;
            if turns >= TURNS && step == Step::More {
                break;
            }
        }
        let more = !self.work.is_empty();
        // Those that found the guest full are first when it is not.
        blocked.append(&mut self.work);
        self.work = blocked;
        more
    }

    /// Runs the timers that are due; the time of the next one.
    pub fn expire(&mut self, core: &mut Core, guest: &mut dyn Guest) -> Option<Nanos> {
        while let Some((at, key)) = self.timers.due(core.link.now) {
            let Some(connection) = self.slab.get_mut(key) else { continue };
            if connection.armed == Some(at) {
                connection.armed = None;
            }
            if connection.expired(&mut core.link, guest) {
                self.settle(key);
            } else {
                let deadline = connection.deadline();
                self.timers.arm(&mut connection.armed, deadline, key);
            }
        }
        let slab = &self.slab;
        self.timers.purge(slab.len(), |key, at| slab.get(key).is_some_and(|c| c.armed == Some(at)));
        self.children.retain_mut(|child| child.try_wait().is_ok_and(|status| status.is_none()));
        self.timers.next()
    }

    pub fn next_timer(&self) -> Option<Nanos> {
        self.timers.next()
    }

    pub fn rows(&self) -> Vec<Row> {
        let listener = |listener: &Listener| Row {
            state: "HOST_FORWARD",
            fd: listener.socket.as_raw_fd(),
            source: listener.socket.local_addr().ok().and_then(|a| a.as_socket()),
            destination: listener.guest,
            receive_queue: 0,
            send_queue: 0,
        };
        let connection = |c: &Connection| Row {
            state: c.state(),
            fd: c.socket.as_ref().map_or(-1, |s| s.as_raw_fd()),
            source: Some(if c.listener.is_some() { c.remote } else { c.guest }),
            destination: if c.listener.is_some() { c.guest } else { c.remote },
            receive_queue: c.rx.ring.len(),
            send_queue: c.tx.ring.len(),
        };
        let listeners = self.listeners.iter().map(|(_, l)| listener(l));
        listeners.chain(self.slab.iter().map(|(_, c)| connection(c))).collect()
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        for (_, listener) in self.listeners.iter() {
            if let Some(path) = &listener.unix {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// How far a listener got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    All,
    /// There may be more.
    Some,
    /// There is more, but no room or no descriptor for it now.
    Stuck,
}

/// Why there is no host socket.
enum Refusal {
    Restricted,
    NoSuchHost,
    Host(std::io::Error),
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Refusal::Host(error)
    }
}

fn refused() -> std::io::Error {
    rustix::io::Errno::CONNREFUSED.into()
}

/// The guest's stack has done Nagle's work and asks for urgent data in line.
fn prepare(socket: &Socket) {
    // Unix sockets know neither; nothing depends on them.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_out_of_band_inline(true);
}
