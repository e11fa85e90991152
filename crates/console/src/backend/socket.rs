//! `socket`: a TCP or Unix stream; as a server, one client at a time.
//!
//! A server takes the next client when one leaves; a client with `reconnect-ms` calls again. What a guest writes while
//! nobody is connected is lost, as on a real line.

use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::SendFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use spec::error::{Context, Error, Result};

use crate::io::{Backend, Outcome, Ready, Tag, Traffic, Watch};
use crate::options::{self, Address, Inet, Role};
use crate::port::Event;
use crate::telnet::{GREETING, Telnet};

#[derive(Debug)]
enum Link {
    Down,
    Connecting(Socket),
    Up(Socket),
}

#[derive(Debug)]
pub struct SocketEnd {
    listener: Option<Socket>,
    /// Where a client calls, and how long after a failure it calls again.
    call: Option<(SockAddr, Duration)>,
    retry_at: Option<Instant>,
    link: Link,
    telnet: Option<Telnet>,
    is_telnet: bool,
    nodelay: bool,
    /// The peer has left, and what it sent has not been read.
    hung_up: bool,
    /// Bytes of the telnet protocol that go before the guest's.
    owed: Vec<u8>,
    told: bool,
    remove: Option<PathBuf>,
}

/// How an address is shown to the user.
fn show(address: &SockAddr) -> String {
    match (address.as_socket(), address.as_pathname()) {
        (Some(socket), _) => socket.to_string(),
        (_, Some(path)) => path.display().to_string(),
        _ => "unnamed".into(),
    }
}

/// The addresses of a host, IPv4 first; without a host, all of ours or, to call, the nearest.
pub fn resolve(inet: &Inet, passive: bool) -> Result<Vec<SocketAddr>> {
    let port: u16 = inet.port.parse().map_err(|_| Error::new(format!("'{}' is not a port number", inet.port)))?;
    let host = match (inet.host.as_str(), passive, inet.ipv4_only) {
        ("", true, Some(false)) => "::",
        ("", true, _) => "0.0.0.0",
        ("", false, Some(false)) => "::1",
        ("", false, _) => "127.0.0.1",
        (host, ..) => host,
    };
    let sentence = || format!("address resolution failed for {host}:{port}");
    let mut all: Vec<SocketAddr> = (host, port).to_socket_addrs().context(sentence)?.collect();
    all.retain(|address| inet.ipv4_only.is_none_or(|ipv4| ipv4 == address.is_ipv4()));
    all.sort_by_key(|address| !address.is_ipv4());
    if all.is_empty() {
        return Err(Error::new(sentence()));
    }
    Ok(all)
}

fn unix_address(path: &str, abstracted: bool, tight: bool) -> Result<SockAddr> {
    /// Bytes of a name in `sockaddr_un`.
    const NAME_MAX: usize = 108;
    let mut name = path.as_bytes().to_vec();
    if abstracted {
        name.insert(0, 0);
        if !tight {
            name.resize(NAME_MAX, 0);
        }
    }
    let name = String::from_utf8(name).map_err(|_| Error::new("the name of a socket is not UTF-8"))?;
    SockAddr::unix(&name).context(|| format!("UNIX socket path '{path}' is too long"))
}

fn stream(domain: Domain) -> std::io::Result<Socket> {
    Socket::new(domain, Type::STREAM.cloexec(), None)
}

fn listen_on(address: &SockAddr) -> std::io::Result<Socket> {
    let socket = stream(address.domain())?;
    if address.domain() != Domain::UNIX {
        socket.set_reuse_address(true)?;
    }
    socket.bind(address)?;
    socket.listen(1)?;
    Ok(socket)
}

fn listen(address: &Address) -> Result<(Socket, Option<PathBuf>)> {
    match address {
        Address::Unix { path, abstracted, tight } => {
            let name = unix_address(path, *abstracted, *tight)?;
            if !abstracted {
                // A socket that an earlier run left behind.
                let _ = std::fs::remove_file(path);
            }
            let socket = listen_on(&name).context(|| format!("Failed to bind socket to {path}"))?;
            Ok((socket, (!abstracted).then(|| path.into())))
        }
        Address::Inet(inet) => {
            let mut last = None;
            for address in resolve(inet, true)? {
                for port in address.port()..=inet.to.unwrap_or(address.port()).max(address.port()) {
                    match listen_on(&SocketAddr::new(address.ip(), port).into()) {
                        Ok(socket) => return Ok((socket, None)),
                        Err(error) => last = Some(error),
                    }
                }
            }
            Err(Error::caused("Failed to find an available port", last.expect("there was an address")))
        }
        Address::Inherited(number) => {
            let fd = host::inherited::duplicate(*number).context(|| format!("no socket has the number {number}"))?;
            Ok((Socket::from(fd), None))
        }
    }
}

/// The addresses to call, the first one first.
fn callees(address: &Address) -> Result<Vec<(SockAddr, String)>> {
    match address {
        Address::Unix { path, abstracted, tight } => Ok(vec![(unix_address(path, *abstracted, *tight)?, path.clone())]),
        Address::Inet(inet) => Ok(resolve(inet, false)?.into_iter().map(|a| (a.into(), a.to_string())).collect()),
        Address::Inherited(_) => Ok(Vec::new()),
    }
}

impl SocketEnd {
    /// Opens the socket. A server that has to wait for its first client does so here, after `notice`.
    pub fn new(options: &options::Socket, notice: &dyn Fn(String)) -> Result<(SocketEnd, String)> {
        let mut end = SocketEnd {
            listener: None,
            call: None,
            retry_at: None,
            link: Link::Down,
            telnet: None,
            is_telnet: options.telnet,
            nodelay: options.nodelay,
            hung_up: false,
            owed: Vec::new(),
            told: false,
            remove: None,
        };
        match options.role {
            Role::Server { wait } => end.serve(&options.address, wait, notice)?,
            Role::Client { reconnect } => end.connect(&options.address, reconnect)?,
        }
        let description = end.description();
        Ok((end, description))
    }

    /// A connected stream for somebody who wants the socket itself; a server waits for its client.
    pub fn stream(options: &options::Socket, notice: &dyn Fn(String)) -> Result<(OwnedFd, String)> {
        let role = match options.role {
            Role::Server { .. } => Role::Server { wait: true },
            Role::Client { .. } => Role::Client { reconnect: None },
        };
        let (mut end, description) = SocketEnd::new(&options::Socket { role, ..options.clone() }, notice)?;
        match std::mem::replace(&mut end.link, Link::Down) {
            Link::Up(socket) => Ok((socket.into(), description)),
            _ => Err(Error::new("the socket is not connected")),
        }
    }

    fn serve(&mut self, address: &Address, wait: bool, notice: &dyn Fn(String)) -> Result<()> {
        let (listener, remove) = listen(address)?;
        self.remove = remove;
        let failed = || "could not wait for a connection".to_string();
        self.listener = Some(listener.try_clone().context(failed)?);
        if wait {
            notice(format!("QEMU waiting for connection on: {}", self.description()));
            let (peer, _) = listener.accept().context(failed)?;
            self.up(peer).context(failed)?;
        }
        listener.set_nonblocking(true).context(failed)
    }

    fn connect(&mut self, address: &Address, reconnect: Option<Duration>) -> Result<()> {
        if let Address::Inherited(number) = address {
            let sentence = || format!("no socket has the number {number}");
            let fd = host::inherited::duplicate(*number).context(sentence)?;
            return self.up(Socket::from(fd)).context(sentence);
        }
        let callees = callees(address)?;
        if let Some(delay) = reconnect {
            self.call = Some((callees[0].0.clone(), delay));
            self.retry_at = Some(Instant::now());
            return Ok(());
        }
        let mut last = None;
        for (address, name) in callees {
            let result = stream(address.domain()).and_then(|socket| socket.connect(&address).map(|()| socket));
            match result.and_then(|socket| self.up(socket)) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(Error::caused(format!("Failed to connect to '{name}'"), error)),
            }
        }
        Err(last.expect("there was an address"))
    }

    fn up(&mut self, socket: Socket) -> std::io::Result<()> {
        socket.set_nonblocking(true)?;
        if self.nodelay && socket.local_addr().is_ok_and(|a| a.domain() != Domain::UNIX) {
            socket.set_tcp_nodelay(true)?;
        }
        self.owed.clear();
        if self.is_telnet {
            self.telnet = Some(Telnet::default());
            self.owed.extend(GREETING);
        }
        self.hung_up = false;
        self.told = false;
        self.link = Link::Up(socket);
        Ok(())
    }

    fn opened(&self, traffic: &mut Traffic) {
        traffic.line.describe(self.description());
        traffic.open();
    }

    fn down(&mut self, traffic: &mut Traffic) {
        self.link = Link::Down;
        self.hung_up = false;
        if let Some((_, delay)) = &self.call {
            self.retry_at = Some(Instant::now() + *delay);
        }
        traffic.line.describe(self.description());
        traffic.close();
    }

    fn dial(&mut self) {
        self.retry_at = None;
        let Some((address, delay)) = &self.call else { return };
        let attempt = stream(address.domain()).and_then(|socket| {
            socket.set_nonblocking(true)?;
            match socket.connect(address) {
                Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
                // Connected already, or soon: either way it becomes writable.
                _ => Ok(socket),
            }
        });
        match attempt {
            Ok(socket) => self.link = Link::Connecting(socket),
            Err(error) => {
                let next = Instant::now() + *delay;
                self.not_reached(&error, next);
            }
        }
    }

    fn not_reached(&mut self, error: &std::io::Error, next: Instant) {
        self.retry_at = Some(next);
        if !std::mem::replace(&mut self.told, true)
            && let Some((address, _)) = &self.call
        {
            log::warn!("Failed to connect to '{}': {error}", show(address));
        }
    }

    fn dialled(&mut self, traffic: &mut Traffic) {
        let Link::Connecting(socket) = std::mem::replace(&mut self.link, Link::Down) else { return };
        let outcome = match socket.take_error() {
            Ok(None) => self.up(socket),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.opened(traffic),
            Err(error) => {
                let delay = self.call.as_ref().map_or(Duration::ZERO, |(_, delay)| *delay);
                self.not_reached(&error, Instant::now() + delay);
            }
        }
    }

    fn accept(&mut self, traffic: &mut Traffic) {
        let Some(listener) = &self.listener else { return };
        match listener.accept() {
            Ok((peer, _)) => match self.up(peer) {
                Ok(()) => self.opened(traffic),
                Err(error) => log::warn!("'{}': client refused: {error}", traffic.line.label),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => log::warn!("'{}': client refused: {error}", traffic.line.label),
        }
    }

    /// Sends what waits; false if the peer is gone.
    fn flush(&mut self, traffic: &mut Traffic) -> bool {
        let Link::Up(socket) = &self.link else { return true };
        let send = |bytes: &[u8]| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL);
        if self.telnet.is_some() && self.owed.is_empty() {
            // A byte of all ones is sent twice, for it begins commands.
            let owed = &mut self.owed;
            traffic.send(usize::MAX, |bytes| {
                let plain = bytes.iter().position(|&b| b == 255).unwrap_or(bytes.len());
                if plain > 0 {
                    return send(&bytes[..plain]);
                }
                owed.extend([255, 255]);
                Ok(1)
            });
        }
        if self.owed.is_empty() {
            return self.telnet.is_some() || traffic.send(usize::MAX, send) == Outcome::Fine;
        }
        match send(&self.owed) {
            Ok(n) => self.owed.drain(..n).for_each(drop),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Reads once; false if the peer is gone.
    fn receive(&mut self, traffic: &mut Traffic) -> bool {
        let Link::Up(socket) = &self.link else { return true };
        let mut breaks = 0;
        let outcome = traffic.read_with(socket, |bytes| {
            if let Some(telnet) = &mut self.telnet {
                breaks = telnet.input(bytes);
            }
        });
        for _ in 0..breaks {
            traffic.line.event(Event::Break);
        }
        outcome == Outcome::Fine
    }

    /// What `info chardev` shows.
    fn description(&self) -> String {
        let server = if self.listener.is_some() { ",server=on" } else { "" };
        let scheme = |address: &SockAddr| match (address.domain(), self.is_telnet) {
            (Domain::UNIX, _) => "unix",
            (_, true) => "telnet",
            _ => "tcp",
        };
        match (&self.link, &self.listener, &self.call) {
            (Link::Up(socket), ..) => {
                let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) else { return "socket".into() };
                let to = match peer.as_socket() {
                    Some(peer) => format!(" <-> {peer}"),
                    None => String::new(),
                };
                // The named end of a Unix socket.
                let named =
                    if local.as_pathname().is_none() && local.domain() == Domain::UNIX { &peer } else { &local };
                format!("{}:{}{server}{to}", scheme(&local), show(named))
            }
            (_, Some(listener), _) => match listener.local_addr() {
                Ok(local) => format!("disconnected:{}:{}{server}", scheme(&local), show(&local)),
                Err(_) => "socket".into(),
            },
            (_, _, Some((address, _))) => format!("disconnected:{}:{}", scheme(address), show(address)),
            _ => "disconnected".into(),
        }
    }
}

impl Backend for SocketEnd {
    fn start(&mut self, traffic: &mut Traffic) {
        if matches!(self.link, Link::Up(_)) {
            self.opened(traffic);
        }
    }

    fn watch<'a>(&'a self, traffic: &Traffic, watch: &mut Watch<'a>) {
        match (&self.link, &self.listener) {
            (Link::Up(socket), _) => {
                if traffic.wants_input() {
                    watch.readable(Tag::Input, socket);
                } else if !self.hung_up {
                    watch.add(Tag::Input, socket, PollFlags::empty());
                }
                if (traffic.has_output() || !self.owed.is_empty()) && !self.hung_up {
                    watch.writable(Tag::Output, socket);
                }
            }
            (Link::Connecting(socket), _) => watch.writable(Tag::Output, socket),
            (Link::Down, Some(listener)) => watch.readable(Tag::Listener, listener),
            (Link::Down, None) => {}
        }
    }

    fn turn(&mut self, traffic: &mut Traffic, ready: &Ready) {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.dial();
        } else if ready.readable(Tag::Listener) {
            self.accept(traffic);
        } else if matches!(self.link, Link::Connecting(_)) && ready.writable(Tag::Output) {
            self.dialled(traffic);
        } else if matches!(self.link, Link::Up(_)) {
            let input = ready.readable(Tag::Input);
            if input && !traffic.wants_input() {
                // It hung up, and the front end has no room for what it sent before.
                self.hung_up = true;
                traffic.discard();
            } else if (input && !self.receive(traffic)) || (ready.writable(Tag::Output) && !self.flush(traffic)) {
                self.down(traffic);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }
}

impl Drop for SocketEnd {
    fn drop(&mut self) {
        if let Some(path) = &self.remove {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A datagram socket: `udp`.
#[derive(Debug)]
pub struct UdpEnd {
    socket: Socket,
}

impl UdpEnd {
    pub fn new(options: &options::Udp) -> Result<UdpEnd> {
        let inet = |host: &str, port: &str| Inet { host: host.into(), port: port.into(), to: None, ipv4_only: None };
        let peer = resolve(&inet(&options.host, &options.port), false)?[0];
        let mut local = inet(&options.local_host, &options.local_port);
        local.ipv4_only = Some(peer.is_ipv4());
        let local = resolve(&local, true)?[0];
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM.cloexec().nonblocking(), None);
        let socket = socket.context(|| "could not make a UDP socket".into())?;
        socket.set_reuse_address(true).context(|| "could not set up a UDP socket".into())?;
        socket.bind(&local.into()).context(|| format!("Failed to bind socket to {local}"))?;
        socket.connect(&peer.into()).context(|| format!("Failed to connect to '{peer}'"))?;
        Ok(UdpEnd { socket })
    }
}

impl Backend for UdpEnd {
    fn start(&mut self, traffic: &mut Traffic) {
        traffic.open();
    }

    fn watch<'a>(&'a self, traffic: &Traffic, watch: &mut Watch<'a>) {
        traffic.watch(watch, Some(&self.socket), Some(&self.socket));
    }

    fn turn(&mut self, traffic: &mut Traffic, ready: &Ready) {
        // Errors are answers of the network to earlier datagrams, and empty datagrams are no end: go on.
        if ready.readable(Tag::Input) && traffic.wants_input() {
            traffic.read(self.socket.as_fd());
        }
        if ready.writable(Tag::Output) {
            /// Larger datagrams may not get through.
            const PIECE: usize = 1024;
            let socket = &self.socket;
            traffic
                .send(PIECE, |bytes| Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL).unwrap_or(bytes.len())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::testing::{Recorder, directory, expect};
    use crate::{Consoles, Port};

    fn open(text: &str) -> (Consoles, Port, Arc<Recorder>) {
        let consoles = Consoles::new().unwrap();
        consoles.add(&options::parse(text).unwrap()).unwrap();
        let port = consoles.connect("s").unwrap();
        let recorder = Arc::new(Recorder::default());
        port.attach(recorder.clone());
        (consoles, port, recorder)
    }

    fn description(consoles: &Consoles) -> String {
        consoles.info()[0].1.clone()
    }

    #[test]
    fn a_unix_server_takes_one_client_after_the_other() {
        let dir = directory("unix");
        let path = dir.join("s");
        let (consoles, port, recorder) = open(&format!("socket,id=s,path={},server=on,wait=off", path.display()));
        let name = format!("unix:{},server=on", path.display());
        assert_eq!(description(&consoles), format!("disconnected:{name}"));
        assert_eq!(port.write(b"lost"), 4);
        for _ in 0..3 {
            let mut far = UnixStream::connect(&path).unwrap();
            recorder.wait_event(Event::Opened);
            assert_eq!(description(&consoles), name);
            assert_eq!(port.write(b"hello"), 5);
            expect(&mut far, b"hello");
            far.write_all(b"bye").unwrap();
            recorder.wait_bytes(b"bye");
            drop(far);
            recorder.wait_event(Event::Closed);
        }
        drop(consoles);
        assert!(!path.exists(), "the socket's name is gone with the server");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_a_client_sent_before_it_left_still_arrives() {
        let dir = directory("left");
        let path = dir.join("s");
        let (_consoles, port, recorder) = open(&format!("socket,id=s,path={},server=on,wait=off", path.display()));
        recorder.limit(Some(1));
        let mut far = UnixStream::connect(&path).unwrap();
        far.write_all(b"abc").unwrap();
        recorder.wait_bytes(b"a");
        far.write_all(b"def").unwrap();
        drop(far);
        recorder.limit(None);
        port.more_room();
        recorder.wait_bytes(b"bcdef");
        recorder.wait_event(Event::Closed);
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn port_of(consoles: &Consoles) -> u16 {
        let text = description(consoles);
        let number = text.split([':', ',']).nth(3).unwrap();
        number.parse().unwrap_or_else(|_| panic!("no port in {text}"))
    }

    #[test]
    fn a_telnet_server_greets_escapes_and_hears_breaks() {
        let (consoles, port, recorder) = open("socket,id=s,host=127.0.0.1,port=0,server=on,wait=off,telnet=on");
        assert!(description(&consoles).starts_with("disconnected:telnet:127.0.0.1:"), "{}", description(&consoles));
        let mut far = TcpStream::connect(("127.0.0.1", port_of(&consoles))).unwrap();
        expect(&mut far, &GREETING);
        recorder.wait_event(Event::Opened);
        assert_eq!(port.write(b"a\xff\xffb"), 4);
        expect(&mut far, b"a\xff\xff\xff\xffb");
        far.write_all(b"x\xff\xf3\r\0y").unwrap();
        recorder.wait_event(Event::Break);
        recorder.wait_bytes(b"x\ry");
    }

    #[test]
    fn a_waiting_server_tells_and_waits() {
        let dir = directory("wait");
        let path = dir.join("s");
        let consoles = Consoles::new().unwrap();
        let (sender, told) = channel();
        consoles.set_notice(Arc::new(move |text| sender.send(text.to_string()).unwrap()));
        let client = {
            let path = path.clone();
            std::thread::spawn(move || {
                let text = told.recv().unwrap();
                (text, UnixStream::connect(path).unwrap())
            })
        };
        consoles.add(&options::parse(&format!("socket,id=s,path={},server", path.display())).unwrap()).unwrap();
        let (text, mut far) = client.join().unwrap();
        assert_eq!(text, format!("QEMU waiting for connection on: disconnected:unix:{},server=on", path.display()));
        let port = consoles.connect("s").unwrap();
        assert!(port.is_open());
        assert_eq!(port.write(b"first"), 5);
        expect(&mut far, b"first");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_client_calls_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let text = format!("socket,id=s,host=127.0.0.1,port={},reconnect-ms=1", address.port());
        let (_consoles, port, recorder) = open(&text);
        for _ in 0..2 {
            let (mut far, _) = listener.accept().unwrap();
            recorder.wait_event(Event::Opened);
            assert_eq!(port.write(b"hello"), 5);
            expect(&mut far, b"hello");
            far.shutdown(Shutdown::Both).unwrap();
            recorder.wait_event(Event::Closed);
        }
    }

    #[test]
    fn nobody_to_call_is_an_error() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let consoles = Consoles::new().unwrap();
        let text = format!("socket,id=s,host=127.0.0.1,port={}", free.port());
        let error = consoles.add(&options::parse(&text).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("Failed to connect to '{free}': Connection refused")), "{error}");
        let error = consoles.add(&options::parse("socket,id=s,path=/nowhere/s").unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("Failed to connect to '/nowhere/s': No such file or directory"), "{error}");
    }

    #[test]
    fn datagrams_go_both_ways() {
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (_consoles, port, recorder) =
            open(&format!("udp,id=s,host=127.0.0.1,port={}", far.local_addr().unwrap().port()));
        assert_eq!(port.write(b"ping"), 4);
        let mut buffer = [0; 16];
        let (n, from) = far.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"ping");
        far.send_to(b"", from).unwrap();
        far.send_to(b"pong", from).unwrap();
        recorder.wait_bytes(b"pong");
    }

    #[test]
    fn a_log_file_has_everything_that_was_written() {
        let dir = directory("log");
        let log = dir.join("log");
        let consoles = Consoles::new().unwrap();
        let text = format!("null,id=s,logfile={}", log.display());
        consoles.add(&options::parse(&text).unwrap()).unwrap();
        assert_eq!(consoles.connect("s").unwrap().write(b"all of it"), 9);
        let mut text = String::new();
        std::fs::File::open(&log).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "all of it");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
