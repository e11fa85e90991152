//! `-netdev stream` and `-netdev socket,listen=|connect=`: frames over a stream socket.
//!
//! Each frame follows its length (four bytes, big endian). `passt` and other QEMUs speak this.
//! One peer at a time; a server takes the next one when it leaves, a client with `reconnect-ms` calls
//! again.
//!
//! Invariants: at most [`OUT_MAX`] bytes wait for the peer (then `transmit` answers `Full`); at most
//! [`INPUT`] bytes wait for the guest (then the socket is not read).

use std::io::{ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use rustix::net::SendFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use spec::error::{Context, Error, Result};

use crate::backend::{Accepts, Backend, Guest, MAX_FRAME, Nanos, Offload, Transmit};
use crate::poller::Poller;
use crate::ring::Ring;

/// Bytes that wait for the peer.
pub const OUT_MAX: usize = 512 * 1024;
const PREFIX: usize = 4;
/// Received bytes that wait for the guest; more than the longest frame.
const INPUT: usize = 256 * 1024;
/// Frames given to the guest in one poll.
const TURN: usize = 256;

const LISTENER: u64 = 0;
/// Tokens of connections count up from here, so that events of an old one are not mistaken.
const FIRST_PEER: u64 = 1;

/// How a peer is found.
#[derive(Debug)]
pub enum Role {
    Server(Socket),
    Client { address: SockAddr, reconnect: Option<Duration> },
    /// A connected socket that somebody gave us.
    Given,
}

#[derive(Debug)]
enum Link {
    Down,
    Connecting(Socket),
    Up(Socket),
}

/// The back end.
#[derive(Debug)]
pub struct StreamNet {
    poller: Poller,
    role: Role,
    link: Link,
    token: u64,
    retry_at: Option<Nanos>,
    readable: bool,
    writable: bool,
    out: Ring,
    /// Received bytes are those from `start` to `end`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// The connecting socket is known to the poller.
    registered: bool,
    more: bool,
    connecting_failed: bool,
    /// Why a client that does not call again has no peer.
    failure: Option<String>,
    /// The host's kernel asks a silent peer whether it is there.
    keep_alive: bool,
}

/// How an address is shown to the user.
pub fn show(address: &SockAddr) -> String {
    match (address.as_socket(), address.as_pathname()) {
        (Some(socket), _) => socket.to_string(),
        (_, Some(path)) => format!("unix:{}", path.display()),
        _ => "a peer".into(),
    }
}

/// Removes a socket that somebody left where one is to be made.
pub fn clear(address: &SockAddr) -> std::io::Result<()> {
    let Some(path) = address.as_pathname() else { return Ok(()) };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

impl StreamNet {
    fn new(role: Role) -> Result<StreamNet> {
        Ok(StreamNet {
            poller: Poller::new()?,
            role,
            link: Link::Down,
            token: FIRST_PEER,
            retry_at: None,
            readable: false,
            writable: false,
            out: Ring::default(),
            input: Vec::new(),
            start: 0,
            end: 0,
            registered: false,
            more: false,
            connecting_failed: false,
            failure: None,
            keep_alive: false,
        })
    }

    /// Listens; peers come and go.
    pub fn server(address: &SockAddr) -> Result<StreamNet> {
        let sentence = || format!("could not listen on {}", show(address));
        let socket = Socket::new(address.domain(), Type::STREAM.nonblocking().cloexec(), None).context(sentence)?;
        if address.domain() != Domain::UNIX {
            socket.set_reuse_address(true).context(sentence)?;
        }
        clear(address).context(sentence)?;
        socket.bind(address).context(sentence)?;
        socket.listen(1).context(sentence)?;
        let net = StreamNet::new(Role::Server(socket))?;
        let Role::Server(socket) = &net.role else { unreachable!("just made") };
        net.poller.add(socket, LISTENER).context(sentence)?;
        Ok(net)
    }

    /// Calls a server. Without `reconnect` it must be there now.
    pub fn client(address: SockAddr, reconnect: Option<Duration>) -> Result<StreamNet> {
        let text = show(&address);
        let mut net = StreamNet::new(Role::Client { address, reconnect })?;
        if let Err(error) = net.call(Nanos::default()) {
            if reconnect.is_none() {
                return Err(Error::caused(format!("could not connect to {text}"), error));
            }
            net.schedule(Nanos::default());
        }
        Ok(net)
    }

    /// As [`StreamNet::client`], but a server that is not there is an unplugged cable; `info network` says why.
    pub fn caller(address: SockAddr, reconnect: Option<Duration>) -> Result<StreamNet> {
        let mut net = StreamNet::new(Role::Client { address, reconnect })?;
        if let Err(error) = net.call(Nanos::default()) {
            net.not_reached(Nanos::default(), &error);
        }
        Ok(net)
    }

    /// Nobody has answered a call.
    fn not_reached(&mut self, now: Nanos, error: &std::io::Error) {
        if !std::mem::replace(&mut self.connecting_failed, true) {
            log::warn!("network peer not reached: {error}");
        }
        if let Role::Client { address, reconnect: None } = &self.role {
            let name = match address.as_pathname() {
                Some(path) => path.display().to_string(),
                None => show(address),
            };
            let reason = error.to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default();
            self.failure = Some(format!("error: Failed to connect to '{name}': {reason}"));
        }
        self.schedule(now);
    }

    /// Uses a connected socket.
    pub fn given(socket: Socket) -> Result<StreamNet> {
        socket.set_nonblocking(true).context(|| "the descriptor is not a socket".into())?;
        let mut net = StreamNet::new(Role::Given)?;
        net.up(socket).context(|| "the descriptor cannot be polled".into())?;
        Ok(net)
    }

    /// `keep-alive=on`: for the connection there is and those to come.
    pub fn set_keep_alive(&mut self, on: bool) {
        self.keep_alive = on;
        if let Link::Up(socket) | Link::Connecting(socket) = &self.link {
            let _ = socket.set_keepalive(on);
        }
    }

    /// Where a server listens.
    pub fn local_address(&self) -> Option<SockAddr> {
        match &self.role {
            Role::Server(socket) => socket.local_addr().ok(),
            _ => None,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    fn call(&mut self, now: Nanos) -> std::io::Result<()> {
        let Role::Client { address, .. } = &self.role else { return Ok(()) };
        let socket = Socket::new(address.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
        let result = socket.connect(address);
        match result {
            Ok(()) => self.up(socket),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                self.token += 1;
                self.poller.add(&socket, self.token)?;
                self.registered = true;
                self.link = Link::Connecting(socket);
                Ok(())
            }
            Err(error) => {
                self.schedule(now);
                Err(error)
            }
        }
    }

    fn schedule(&mut self, now: Nanos) {
        if let Role::Client { reconnect: Some(delay), .. } = self.role {
            self.retry_at = Some(now.after(delay));
        }
    }

    fn up(&mut self, socket: Socket) -> std::io::Result<()> {
        if socket.local_addr().is_ok_and(|a| a.domain() != Domain::UNIX) {
            // Frames are complete messages; a delay helps nobody.
            let _ = socket.set_tcp_nodelay(true);
            let _ = socket.set_keepalive(self.keep_alive);
        }
        if !self.registered {
            self.token += 1;
            self.poller.add(&socket, self.token)?;
        }
        self.registered = false;
        self.link = Link::Up(socket);
        self.input = vec![0; INPUT];
        (self.start, self.end) = (0, 0);
        (self.readable, self.writable) = (true, true);
        self.connecting_failed = false;
        Ok(())
    }

    fn down(&mut self, now: Nanos) {
        self.link = Link::Down;
        // Half a frame of the old peer means nothing to the next.
        self.out.consume(self.out.len());
        self.out.release();
        self.input = Vec::new();
        (self.start, self.end) = (0, 0);
        self.registered = false;
        self.schedule(now);
        // A server may have the next peer waiting already.
        self.accept();
    }

    fn accept(&mut self) {
        let Role::Server(listener) = &self.role else { return };
        if !matches!(self.link, Link::Down) {
            return;
        }
        if let Ok((socket, _)) = listener.accept() {
            let usable = socket.set_nonblocking(true).and_then(|()| self.up(socket));
            if let Err(error) = usable {
                log::warn!("network peer refused: {error}");
            }
        }
    }

    fn events(&mut self, now: Nanos) {
        let mut events = Vec::new();
        self.poller.ready(|ready| events.push(ready));
        for ready in events {
            if ready.token == LISTENER {
                self.accept();
                continue;
            }
            if ready.token != self.token {
                continue;
            }
            self.readable |= ready.readable;
            self.writable |= ready.writable;
            if let (Link::Connecting(socket), true) = (&self.link, ready.writable) {
                let error = socket.take_error();
                self.connected(now, error);
            }
        }
    }

    fn connected(&mut self, now: Nanos, error: std::io::Result<Option<std::io::Error>>) {
        let Link::Connecting(socket) = std::mem::replace(&mut self.link, Link::Down) else { return };
        let outcome = match error {
            Ok(None) => self.up(socket),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.not_reached(now, &error);
        }
    }

    /// Sends what waits. False if the peer is gone.
    fn flush(&mut self) -> bool {
        let Link::Up(socket) = &self.link else { return true };
        while self.writable && !self.out.is_empty() {
            // The ring's second piece goes with the next call.
            match rustix::net::send(socket, self.out.peek(0, self.out.len()).0, SendFlags::NOSIGNAL) {
                Ok(n) => self.out.consume(n),
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// The next complete frame in `input`; an error if it cannot be a frame.
    fn frame(&self) -> Result<Option<std::ops::Range<usize>>, ()> {
        let rest = &self.input[self.start..self.end];
        let Some(prefix) = rest.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(());
        }
        let start = self.start + PREFIX;
        Ok((rest.len() >= PREFIX + length).then_some(start..start + length))
    }

    /// Receives and delivers. False if the peer is gone.
    fn receive(&mut self, guest: &mut dyn Guest) -> bool {
        self.more = false;
        for _ in 0..TURN {
            match self.frame() {
                Err(()) => {
                    log::warn!("network peer sent a frame of impossible length; disconnected");
                    return false;
                }
                Ok(Some(range)) => {
                    if !guest.ready() || !guest.deliver(&[&self.input[range.clone()]], Offload::default()) {
                        return true;
                    }
                    self.start = range.end;
                }
                Ok(None) => {
                    if !self.readable {
                        return true;
                    }
                    if !self.read() {
                        return false;
                    }
                }
            }
        }
        self.more = true;
        true
    }

    fn read(&mut self) -> bool {
        let Link::Up(socket) = &self.link else { return true };
        if self.start > 0 {
            // Only the beginning of one frame is left.
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let result = (&*socket).read(&mut self.input[self.end..]);
        self.end += result.as_ref().unwrap_or(&0);
        match result {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                true
            }
            Err(_) => false,
        }
    }
}

impl Backend for StreamNet {
    fn transmit(&mut self, _now: Nanos, frame: &[u8], _offload: Offload) -> Transmit {
        // Without a peer the cable is unplugged.
        if !self.is_up() || frame.len() > MAX_FRAME {
            return Transmit::Taken;
        }
        let total = self.out.len() + PREFIX + frame.len();
        if total > OUT_MAX {
            return Transmit::Full;
        }
        self.out.reserve(total);
        self.out.write_at(self.out.len(), &(frame.len() as u32).to_be_bytes());
        self.out.commit(PREFIX);
        self.out.write_at(self.out.len(), frame);
        self.out.commit(frame.len());
        self.more = true;
        Transmit::Taken
    }

    fn poll(&mut self, now: Nanos, guest: &mut dyn Guest) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if let Err(error) = self.call(now) {
                self.not_reached(now, &error);
            }
        }
        self.events(now);
        if self.is_up() && (!self.receive(guest) || !self.flush()) {
            self.down(now);
        }
        self.more &= self.is_up();
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.fd())
    }

    fn deadline(&self) -> Option<Nanos> {
        if self.more { Some(Nanos(0)) } else { self.retry_at }
    }

    /// Frames on the wire are complete; the device computes checksums and segments itself.
    fn set_accepts(&mut self, _accepts: Accepts) {}

    fn summary(&self) -> String {
        match (&self.link, &self.role) {
            (Link::Up(socket), _) => match socket.peer_addr() {
                Ok(peer) if peer.as_socket().is_some() => format!("tcp:{}", show(&peer)),
                // Who calls a server has no name.
                Ok(peer) => format!("unix:{}", peer.as_pathname().map_or(String::new(), |p| p.display().to_string())),
                Err(_) => "disconnected".into(),
            },
            (_, Role::Server(_)) => "listening".into(),
            (_, Role::Client { .. }) => self.failure.clone().unwrap_or_else(|| "connecting".into()),
            (_, Role::Given) => "disconnected".into(),
        }
    }
}

impl Drop for StreamNet {
    fn drop(&mut self) {
        let path = self.local_address().and_then(|a| a.as_pathname().map(|p| p.to_path_buf()));
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
        }
    }
}
