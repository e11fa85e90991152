//! `-netdev TYPE,id=…`: from the text to a back end.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{SockAddr, Socket};
use spec::error::{Context, Error, Result};

use crate::backend::Backend;
use crate::dgram::DgramNet;
use crate::options::{self, Row, rows};
use crate::stream::StreamNet;
use crate::tap::{DEFAULT_BRIDGE, DEFAULT_DOWN_SCRIPT, DEFAULT_HELPER, DEFAULT_SCRIPT, TapNet};
use crate::user::{Config, UserNet};

/// Every type, in the order of `-netdev help`.
pub const TYPES: &[&str] = &["socket", "stream", "dgram", "hubport", "tap", "user", "bridge", "vhost-user"];

/// Types that QEMU may have and we do not.
const OTHER_TYPES: &[&str] = &["l2tpv3", "netmap", "nic", "none", "vde", "vhost-vdpa"];

/// The settings of one back end.
#[derive(Debug, PartialEq)]
pub struct Netdev {
    pub id: String,
    pub kind: Kind,
}

#[derive(Debug, PartialEq)]
pub enum Kind {
    User(Box<Config>),
    Socket(SocketOptions),
    Stream(StreamOptions),
    Dgram(DgramOptions),
    Tap(TapOptions),
    Bridge(BridgeOptions),
    /// The owner of the hubs makes the port.
    HubPort(HubOptions),
    /// The owner of the character devices connects it.
    VhostUser(VhostUserOptions),
}

#[derive(Debug, Default, PartialEq)]
pub struct SocketOptions {
    fd: Option<String>,
    listen: Option<String>,
    connect: Option<String>,
    mcast: Option<String>,
    localaddr: Option<String>,
    udp: Option<String>,
}

const SOCKET: &[Row<SocketOptions>] = rows! {
    "id" "name for monitor commands" |_o, _v| {};
    "fd" "an open stream socket" |o, v| o.fd = Some(v.into());
    "listen" "[host]:port: wait for another guest" |o, v| o.listen = Some(v.into());
    "connect" "host:port: connect to another guest" |o, v| o.connect = Some(v.into());
    "mcast" "maddr:port: a multicast group" |o, v| o.mcast = Some(v.into());
    "localaddr" "the address to send from" |o, v| o.localaddr = Some(v.into());
    "udp" "host:port: a UDP tunnel (with localaddr)" |o, v| o.udp = Some(v.into());
};

/// An address as `TYPE.host=…,TYPE.port=…` spell it.
#[derive(Debug, Default, PartialEq)]
pub struct Address {
    kind: Option<String>,
    host: Option<String>,
    port: Option<String>,
    /// The last port to try; for servers.
    to: Option<u16>,
    ipv4: Option<bool>,
    ipv6: Option<bool>,
    keep_alive: bool,
    /// The host is an address, not a name.
    numeric: bool,
    path: Option<PathBuf>,
    abstracted: bool,
    /// An abstract name is as long as it is written. `None`: yes.
    tight: Option<bool>,
    descriptor: Option<String>,
}

#[derive(Debug, Default, PartialEq)]
pub struct StreamOptions {
    address: Address,
    server: bool,
    reconnect: Option<Duration>,
    /// Which of the two spellings was used.
    reconnect_key: Option<&'static str>,
}

const STREAM: &[Row<StreamOptions>] = rows! {
    "id" "name for monitor commands" |_o, _v| {};
    "addr.type" "inet|unix|fd" |o, v| o.address.kind = Some(v.into());
    "addr.host" "host name or address" |o, v| o.address.host = Some(v.into());
    "addr.port" "port" |o, v| o.address.port = Some(v.into());
    "addr.to" "the last port to try (server)" |o, v| o.address.to = Some(options::number("addr.to", v)?);
    "addr.ipv4" "on|off" |o, v| o.address.ipv4 = Some(options::boolean("addr.ipv4", v)?);
    "addr.ipv6" "on|off" |o, v| o.address.ipv6 = Some(options::boolean("addr.ipv6", v)?);
    "addr.keep-alive" "on|off: notice a dead peer" |o, v| o.address.keep_alive = options::boolean("addr.keep-alive", v)?;
    "addr.numeric" "on|off: the host is no name" |o, v| o.address.numeric = options::boolean("addr.numeric", v)?;
    "addr.mptcp" "off" |_o, v| off(options::boolean("addr.mptcp", v)?, "addr.mptcp=on")?;
    "addr.path" "path of a Unix socket" |o, v| o.address.path = Some(v.into());
    "addr.abstract" "on|off: a name that is no file" |o, v| o.address.abstracted = options::boolean("addr.abstract", v)?;
    "addr.tight" "on|off: no zeros behind it" |o, v| o.address.tight = Some(options::boolean("addr.tight", v)?);
    "addr.str" "number of an open socket" |o, v| o.address.descriptor = Some(v.into());
    "server" "on|off: listen" |o, v| o.server = options::boolean("server", v)?;
    "reconnect" "seconds between attempts" |o, v| o.again("reconnect", options::number("reconnect", v)?, 1000)?;
    "reconnect-ms" "milliseconds between attempts" |o, v| o.again("reconnect-ms", options::number("reconnect-ms", v)?, 1)?;
};

impl StreamOptions {
    /// How long to wait between attempts; zero means "do not try again".
    fn again(&mut self, key: &'static str, count: u32, milliseconds: u64) -> Result<()> {
        if self.reconnect_key.replace(key).is_some_and(|before| before != key) {
            return Err(Error::new("'reconnect' and 'reconnect-ms' are mutually exclusive"));
        }
        self.reconnect = (count > 0).then(|| Duration::from_millis(u64::from(count) * milliseconds));
        Ok(())
    }
}

/// A switch that has to be off.
fn off(value: bool, what: &str) -> Result<()> {
    if value { Err(Error::new(format!("{what} is not supported"))) } else { Ok(()) }
}

#[derive(Debug, Default, PartialEq)]
pub struct DgramOptions {
    local: Address,
    remote: Address,
}

const DGRAM: &[Row<DgramOptions>] = rows! {
    "id" "name for monitor commands" |_o, _v| {};
    "local.type" "inet|unix|fd" |o, v| o.local.kind = Some(v.into());
    "local.host" "the address to send from" |o, v| o.local.host = Some(v.into());
    "local.port" "port" |o, v| o.local.port = Some(v.into());
    "local.ipv4" "on|off" |o, v| o.local.ipv4 = Some(options::boolean("local.ipv4", v)?);
    "local.ipv6" "on|off" |o, v| o.local.ipv6 = Some(options::boolean("local.ipv6", v)?);
    "local.numeric" "on|off: the host is no name" |o, v| o.local.numeric = options::boolean("local.numeric", v)?;
    "local.path" "path of a Unix socket" |o, v| o.local.path = Some(v.into());
    "local.abstract" "on|off: a name that is no file" |o, v| o.local.abstracted = options::boolean("local.abstract", v)?;
    "local.tight" "on|off: no zeros behind it" |o, v| o.local.tight = Some(options::boolean("local.tight", v)?);
    "local.str" "number of an open socket" |o, v| o.local.descriptor = Some(v.into());
    "remote.type" "inet|unix" |o, v| o.remote.kind = Some(v.into());
    "remote.host" "the peer, or a multicast group" |o, v| o.remote.host = Some(v.into());
    "remote.port" "port" |o, v| o.remote.port = Some(v.into());
    "remote.ipv4" "on|off" |o, v| o.remote.ipv4 = Some(options::boolean("remote.ipv4", v)?);
    "remote.ipv6" "on|off" |o, v| o.remote.ipv6 = Some(options::boolean("remote.ipv6", v)?);
    "remote.numeric" "on|off: the host is no name" |o, v| o.remote.numeric = options::boolean("remote.numeric", v)?;
    "remote.path" "path of a Unix socket" |o, v| o.remote.path = Some(v.into());
    "remote.abstract" "on|off: a name that is no file" |o, v| o.remote.abstracted = options::boolean("remote.abstract", v)?;
    "remote.tight" "on|off: no zeros behind it" |o, v| o.remote.tight = Some(options::boolean("remote.tight", v)?);
};

#[derive(Debug, Default, PartialEq)]
pub struct TapOptions {
    fd: Option<String>,
    fds: Option<String>,
    ifname: Option<String>,
    script: Option<String>,
    downscript: Option<String>,
    br: Option<String>,
    helper: Option<String>,
    sndbuf: Option<u64>,
    vnet_hdr: Option<bool>,
    vhost: Option<bool>,
    vhostfd: Option<String>,
    vhostfds: Option<String>,
    vhostforce: bool,
    queues: Option<u32>,
    poll_us: u32,
}

const TAP: &[Row<TapOptions>] = rows! {
    "id" "name for monitor commands" |_o, _v| {};
    "fd" "an open tap interface" |o, v| o.fd = Some(v.into());
    "fds" "the same (one queue)" |o, v| o.fds = Some(one("fds", v)?);
    "ifname" "name of the interface" |o, v| o.ifname = Some(v.into());
    "script" "program that sets it up, or no" |o, v| o.script = Some(v.into());
    "downscript" "program that takes it down, or no" |o, v| o.downscript = Some(v.into());
    "br" "bridge for the helper" |o, v| o.br = Some(v.into());
    "helper" "program that opens the interface" |o, v| o.helper = Some(v.into());
    "sndbuf" "bytes on their way to the interface, at most" |o, v| o.sndbuf = Some(options::size("sndbuf", v)?);
    "vnet_hdr" "on|off: offload headers" |o, v| o.vnet_hdr = Some(options::boolean("vnet_hdr", v)?);
    "vhost" "on|off: the kernel serves the rings of virtio cards" |o, v| o.vhost = Some(options::boolean("vhost", v)?);
    "vhostfd" "an open /dev/vhost-net" |o, v| o.vhostfd = Some(v.into());
    "vhostfds" "the same (one queue)" |o, v| o.vhostfds = Some(one("vhostfds", v)?);
    "vhostforce" "on|off: as vhost=" |o, v| o.vhostforce = options::boolean("vhostforce", v)?;
    "queues" "1" |o, v| o.queues = Some(match options::number("queues", v)? {
        1 => 1,
        _ => several("queues")?,
    });
    "poll-us" "microseconds for which vhost looks at a ring before it sleeps" |o, v| o.poll_us = options::number("poll-us", v)?;
};

fn several<T>(option: &str) -> Result<T> {
    Err(Error::new(format!("{option}=: this tap back end has one queue, no more and no less")))
}

/// A list with one element.
fn one(option: &str, list: &str) -> Result<String> {
    if list.contains(':') { several(option) } else { Ok(list.into()) }
}

#[derive(Debug, Default, PartialEq)]
pub struct BridgeOptions {
    br: Option<String>,
    helper: Option<String>,
}

const BRIDGE: &[Row<BridgeOptions>] = rows! {
    "id" "name for monitor commands" |_o, _v| {};
    "br" "the bridge" |o, v| o.br = Some(v.into());
    "helper" "program that opens the interface" |o, v| o.helper = Some(v.into());
};

#[derive(Debug, Default, PartialEq)]
pub struct HubOptions {
    pub hubid: Option<u32>,
    pub netdev: Option<String>,
}

const HUBPORT: &[Row<HubOptions>] = rows! {
    "id" "name for monitor commands" |_o, _v| {};
    "hubid" "number of the hub" |o, v| o.hubid = Some(v.parse().map_err(|_| Error::new("Parameter 'hubid' expects an int64 value"))?);
    "netdev" "a back end to plug in" |o, v| o.netdev = Some(v.into());
};

#[derive(Debug, Default, PartialEq)]
pub struct VhostUserOptions {
    pub chardev: Option<String>,
}

const VHOST_USER: &[Row<VhostUserOptions>] = rows! {
    "id" "name for monitor commands" |_o, _v| {};
    "chardev" "a Unix socket to the process that serves the rings" |o, v| o.chardev = Some(v.into());
    // Only virtio cards can be plugged in, whether this is said or not.
    "vhostforce" "on|off" |_o, v| options::boolean("vhostforce", v)?;
    "queues" "1" |_o, v| match options::number::<u32>("queues", v)? {
        1 => {}
        2..=1024 => return Err(Error::new("more than one queue is not supported by this vhost-user back end")),
        _ => return Err(Error::new("vhost-user number of queues must be in range [1, 1024]")),
    };
};

fn settings<C: Default>(rows: &[Row<C>], pairs: &[(String, String)]) -> Result<C> {
    let mut settings = C::default();
    options::apply(rows, &mut settings, pairs)?;
    Ok(settings)
}

/// The text of `-netdev help`.
pub fn help() -> String {
    let mut text = String::from("Available netdev backend types:\n");
    TYPES.iter().for_each(|name| text += &format!("{name}\n"));
    text
}

/// The text of `-netdev TYPE,help`.
pub fn help_for(kind: &str) -> Option<String> {
    Some(match kind {
        "user" => Config::help(),
        "socket" => options::help(SOCKET),
        "stream" => options::help(STREAM),
        "dgram" => options::help(DGRAM),
        "tap" => options::help(TAP),
        "bridge" => options::help(BRIDGE),
        "hubport" => options::help(HUBPORT),
        "vhost-user" => options::help(VHOST_USER),
        _ => return None,
    })
}

impl Netdev {
    /// Parses the argument of `-netdev`.
    pub fn parse(text: &str) -> Result<Netdev> {
        let mut pairs = options::split(text);
        // The first word is the type, with or without `type=`.
        let (key, value) = if pairs.is_empty() { (String::new(), String::new()) } else { pairs.remove(0) };
        let kind = if key == "type" { value } else { key };
        let netdev = Netdev::from_pairs(&kind, &pairs)?;
        if netdev.id.is_empty() {
            return Err(Error::new("Parameter 'id' is missing"));
        }
        Ok(netdev)
    }

    /// As [`Netdev::parse`] for `-nic` and `-net`, where the id may be left out.
    pub fn from_pairs(kind: &str, pairs: &[(String, String)]) -> Result<Netdev> {
        // The first one names it.
        let id = pairs.iter().find(|(key, _)| key == "id").map(|(_, id)| id.clone()).unwrap_or_default();
        let kind = match kind {
            "user" => Kind::User(Box::new(Config::from_pairs(pairs)?)),
            "socket" => Kind::Socket(settings(SOCKET, pairs)?),
            "stream" => Kind::Stream(settings(STREAM, pairs)?),
            "dgram" => Kind::Dgram(settings(DGRAM, pairs)?),
            "tap" => Kind::Tap(settings(TAP, pairs)?),
            "bridge" => Kind::Bridge(settings(BRIDGE, pairs)?),
            "hubport" => Kind::HubPort(settings(HUBPORT, pairs)?),
            "vhost-user" => Kind::VhostUser(settings(VHOST_USER, pairs)?),
            "" => return Err(Error::new("Parameter 'type' is missing")),
            other if OTHER_TYPES.contains(&other) => {
                return Err(Error::new(format!("network backend '{other}' is not compiled into this binary")));
            }
            other => return Err(Error::new(format!("Parameter 'type' does not accept value '{other}'"))),
        };
        Ok(Netdev { id, kind })
    }

    /// Opens the host side. A `hubport` is opened by the owner of the hubs ([`crate::hub::Hub::port`]).
    pub fn open(self) -> Result<Box<dyn Backend>> {
        match self.kind {
            Kind::User(config) => Ok(Box::new(UserNet::new(*config)?)),
            Kind::Socket(options) => options.open(),
            Kind::Stream(options) => options.open(),
            Kind::Dgram(options) => options.open(),
            Kind::Tap(options) => options.open(),
            Kind::Bridge(options) => {
                let helper = options.helper.as_deref().unwrap_or(DEFAULT_HELPER);
                Ok(Box::new(TapNet::helper(helper, options.br.as_deref().unwrap_or(DEFAULT_BRIDGE))?))
            }
            Kind::HubPort(_) => Err(Error::new(format!("hubport '{}' needs a hub", self.id))),
            Kind::VhostUser(_) => Err(Error::new(format!("vhost-user '{}' needs a character device", self.id))),
        }
    }
}

/// `host:port`; an empty host is every address.
fn resolve(text: &str) -> Result<SocketAddr> {
    let lacks = || Error::new(format!("host address '{text}' doesn't contain ':' separating host from port"));
    let (host, port) = text.rsplit_once(':').ok_or_else(lacks)?;
    if port.parse::<u16>().is_err() {
        return Err(Error::new(format!("port number '{port}' is invalid")));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    lookup_of(host, port, None).map_err(|_| Error::new(format!("can't resolve host address '{host}'")))
}

/// `ipv4`: of this IP version only.
fn lookup_of(host: &str, port: &str, ipv4: Option<bool>) -> Result<SocketAddr> {
    let number: u16 = port.parse().map_err(|_| Error::new(format!("'{port}' is not a port")))?;
    let any = if ipv4 == Some(false) { "::" } else { "0.0.0.0" };
    let host = if host.is_empty() { any } else { host };
    let found = (host, number).to_socket_addrs().context(|| format!("address resolution failed for {host}:{port}"))?;
    found.into_iter().find(|a| ipv4.is_none_or(|ipv4| a.is_ipv4() == ipv4)).ok_or_else(|| Error::new(format!("address resolution failed for {host}:{port}")))
}

/// A descriptor that was open when we started, by its number. It is duplicated, so that nobody closes
/// it under somebody else who was told the same number.
fn inherited(text: &str) -> Result<OwnedFd> {
    let invalid = || Error::new(format!("Invalid file descriptor number '{text}'"));
    let number: i32 = text.parse().ok().filter(|number| *number >= 0).ok_or_else(invalid)?;
    host::inherited::duplicate(number).context(|| format!("Can't use file descriptor {number}"))
}

/// The same for one that must be a socket.
fn inherited_socket(text: &str, sentence: &str) -> Result<Socket> {
    let fd = inherited(text)?;
    rustix::net::sockopt::socket_type(&fd).context(|| sentence.into())?;
    Ok(Socket::from(fd))
}

impl SocketOptions {
    fn open(self) -> Result<Box<dyn Backend>> {
        let given = [&self.fd, &self.listen, &self.connect, &self.mcast, &self.udp];
        if given.iter().filter(|option| option.is_some()).count() != 1 {
            return Err(Error::new("exactly one of listen=, connect=, mcast= or udp= is required"));
        }
        if self.localaddr.is_some() && self.mcast.is_none() && self.udp.is_none() {
            return Err(Error::new("localaddr= is only valid with mcast= or udp="));
        }
        if let Some(fd) = &self.fd {
            return Ok(Box::new(StreamNet::given(inherited_socket(fd, "can't get socket option SO_TYPE")?)?));
        }
        if let Some(listen) = &self.listen {
            return Ok(Box::new(StreamNet::server(&resolve(listen)?.into())?));
        }
        if let Some(connect) = &self.connect {
            return Ok(Box::new(StreamNet::client(resolve(connect)?.into(), None)?));
        }
        if let Some(group) = &self.mcast {
            let interface = match &self.localaddr {
                Some(text) => Some(text.parse::<Ipv4Addr>().map_err(|_| {
                    Error::new(format!("localaddr '{text}' is not a valid IPv4 address"))
                })?),
                None => None,
            };
            return Ok(Box::new(DgramNet::multicast(resolve(group)?, interface)?.called(format!("socket: mcast={group}"))));
        }
        let local = self.localaddr.as_ref().ok_or_else(|| Error::new("localaddr= is mandatory with udp="))?;
        let udp = self.udp.as_ref().expect("exactly one is given");
        let remote = resolve(udp)?;
        let net = DgramNet::peer(Some(&resolve(local)?.into()), Some(remote.into()))?;
        Ok(Box::new(net.called(format!("socket: udp={remote}"))))
    }
}

impl Address {
    fn is_given(&self) -> bool {
        *self != Address::default()
    }

    fn socket_address(&self, name: &str) -> Result<SockAddr> {
        let missing = |option: &str| Error::new(format!("Parameter '{name}.{option}' is missing"));
        match self.kind.as_deref() {
            Some("inet") => {
                let host = self.host.as_ref().ok_or_else(|| missing("host"))?;
                let port = self.port.as_ref().ok_or_else(|| missing("port"))?;
                if self.numeric && !host.is_empty() && host.parse::<std::net::IpAddr>().is_err() {
                    return Err(Error::new(format!("address resolution failed for {host}:{port}: it is a name")));
                }
                Ok(lookup_of(host, port, self.version())?.into())
            }
            Some("unix") => self.unix(self.path.as_ref().ok_or_else(|| missing("path"))?),
            Some(other) => Err(Error::new(format!("Parameter 'type' does not accept value '{other}'"))),
            None if !self.is_given() => Err(Error::new(format!("Parameter '{name}' is missing"))),
            None => Err(missing("type")),
        }
    }

    /// `Some(true)`: IPv4 only; `Some(false)`: IPv6 only. To have one off is to have the other only; both off is both.
    fn version(&self) -> Option<bool> {
        match (self.ipv4, self.ipv6) {
            (Some(true), Some(true)) | (Some(false), Some(false)) | (None, None) => None,
            (Some(true), _) | (_, Some(false)) => Some(true),
            (Some(false), _) | (_, Some(true)) => Some(false),
        }
    }

    fn unix(&self, path: &PathBuf) -> Result<SockAddr> {
        let long = || format!("'{}' is too long for a socket", path.display());
        if !self.abstracted {
            return SockAddr::unix(path).context(long);
        }
        /// Bytes of a name in `sockaddr_un`.
        const NAME_MAX: usize = 108;
        let mut name = format!("\0{}", path.display());
        if self.tight == Some(false) {
            name.extend(std::iter::repeat_n('\0', NAME_MAX.saturating_sub(name.len())));
        }
        SockAddr::unix(&name).context(long)
    }

    /// The socket of `TYPE.type=fd`.
    fn given(&self, name: &str) -> Result<Option<Socket>> {
        if self.kind.as_deref() != Some("fd") {
            return Ok(None);
        }
        let text = self.descriptor.as_ref().ok_or_else(|| Error::new(format!("Parameter '{name}.str' is missing")))?;
        inherited_socket(text, &format!("File descriptor '{text}' is not a socket")).map(Some)
    }
}

impl StreamOptions {
    fn open(self) -> Result<Box<dyn Backend>> {
        if self.server && self.reconnect_key.is_some() {
            return Err(Error::new("'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode"));
        }
        if let Some(socket) = self.address.given("addr")? {
            return Ok(Box::new(StreamNet::given(socket)?));
        }
        let address = self.address.socket_address("addr")?;
        let mut net = if self.server { self.serve(&address)? } else { StreamNet::caller(address, self.reconnect)? };
        net.set_keep_alive(self.address.keep_alive);
        Ok(Box::new(net))
    }

    /// Listens on the first port of the range that is free.
    fn serve(&self, address: &SockAddr) -> Result<StreamNet> {
        let Some(inet) = address.as_socket() else { return StreamNet::server(address) };
        let last = self.address.to.unwrap_or(inet.port()).max(inet.port());
        let mut tries = (inet.port()..=last).map(|port| StreamNet::server(&SocketAddr::new(inet.ip(), port).into()));
        let first = tries.next().expect("there is one port");
        tries.fold(first, |found, next| found.or(next))
    }
}

impl DgramOptions {
    fn open(self) -> Result<Box<dyn Backend>> {
        if self.local.kind.as_deref() == Some("fd") && self.remote.is_given() {
            return Err(Error::new("don't set remote with local.fd"));
        }
        if let Some(socket) = self.local.given("local")? {
            return Ok(Box::new(DgramNet::given(socket)?));
        }
        let local = if self.local.is_given() { Some(self.local.socket_address("local")?) } else { None };
        let remote = if self.remote.is_given() { Some(self.remote.socket_address("remote")?) } else { None };
        let group = remote.as_ref().and_then(|a| a.as_socket()).filter(|a| a.ip().is_multicast());
        if let Some(group) = group {
            let interface = local.and_then(|a| a.as_socket_ipv4()).map(|a| *a.ip());
            return Ok(Box::new(DgramNet::multicast(group, interface)?));
        }
        if local.is_none() {
            return Err(Error::new("dgram requires local= parameter"));
        }
        if self.remote.is_given() && self.remote.kind != self.local.kind {
            return Err(Error::new("remote and local types must be the same"));
        }
        Ok(Box::new(DgramNet::peer(local.as_ref(), remote)?))
    }
}

impl TapOptions {
    fn open(mut self) -> Result<Box<dyn Backend>> {
        self.check()?;
        let mut net = self.interface()?;
        if let Some(bytes) = self.sndbuf {
            // Zero is no limit.
            net.set_send_buffer(if bytes == 0 { i32::MAX } else { i32::try_from(bytes).unwrap_or(i32::MAX) })?;
        }
        let service = self.vhostfd.take().or(self.vhostfds.take());
        if self.vhost.unwrap_or(service.is_some() || self.vhostforce) {
            net.serve(service.map(|fd| inherited(&fd)).transpose()?, self.poll_us)?;
        } else if service.is_some() {
            return Err(Error::new("vhostfd(s)= is not valid without vhost"));
        }
        Ok(Box::new(net))
    }

    /// Which options exclude each other.
    fn check(&self) -> Result<()> {
        let script = self.ifname.is_some() || self.script.is_some() || self.downscript.is_some();
        let set_up = script || self.vnet_hdr.is_some() || self.helper.is_some() || self.queues.is_some();
        let refuse = |wrong: bool, text: &str| if wrong { Err(Error::new(text)) } else { Ok(()) };
        if self.fd.is_some() {
            refuse(
                set_up || self.fds.is_some() || self.vhostfds.is_some(),
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd=",
            )?;
        } else if self.fds.is_some() {
            refuse(
                set_up || self.vhostfd.is_some(),
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid with fds=",
            )?;
        } else if self.helper.is_some() {
            refuse(
                script || self.vnet_hdr.is_some() || self.queues.is_some() || self.vhostfds.is_some(),
                "ifname=, script=, downscript=, vnet_hdr=, queues=, and vhostfds= are invalid with helper=",
            )?;
        } else {
            refuse(self.vhostfds.is_some(), "vhostfds= is invalid if fds= wasn't specified")?;
        }
        Ok(())
    }

    fn interface(&self) -> Result<TapNet> {
        if let Some(fd) = self.fd.as_ref().or(self.fds.as_ref()) {
            return TapNet::given(inherited(fd)?);
        }
        if let Some(helper) = &self.helper {
            return TapNet::helper(helper, self.br.as_deref().unwrap_or(DEFAULT_BRIDGE));
        }
        let script = |given: &Option<String>, default: &'static str| match given.as_deref() {
            Some("no" | "") => None,
            Some(path) => Some(path.to_string()),
            None => Some(default.to_string()),
        };
        let up = script(&self.script, DEFAULT_SCRIPT);
        let down = script(&self.downscript, DEFAULT_DOWN_SCRIPT);
        TapNet::open(self.ifname.as_deref().unwrap_or(""), self.vnet_hdr.unwrap_or(true), up.as_deref(), down.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn error(text: &str, expected: &str) {
        let error = Netdev::parse(text).and_then(|n| n.open()).map(|_| ()).unwrap_err();
        assert_eq!(error.sentence(), expected, "{text}");
    }

    #[test]
    fn types_and_ids() {
        assert_eq!(Netdev::parse("user,id=n0").unwrap().id, "n0");
        assert_eq!(Netdev::parse("type=user,id=n0").unwrap(), Netdev::parse("user,id=n0").unwrap());
        error("user", "Parameter 'id' is missing");
        error("vde,id=n0", "network backend 'vde' is not compiled into this binary");
        error("wifi,id=n0", "Parameter 'type' does not accept value 'wifi'");
        error("", "Parameter 'type' is missing");
        assert_eq!(Netdev::parse("user,id=n,id=m").unwrap().id, "n");
        assert!(TYPES.iter().all(|kind| help_for(kind).is_some() && help().contains(kind)));
    }

    #[test]
    fn a_server_takes_the_first_free_port_and_a_name_that_is_no_file() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port();
        let text = |to: u16| format!("stream,id=n,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port={port},addr.to={to},addr.keep-alive=on");
        assert!(Netdev::parse(&text(port)).unwrap().open().is_err(), "it is taken");
        let to = port.saturating_add(50);
        if to > port {
            let net = Netdev::parse(&text(to)).unwrap().open().unwrap();
            assert_eq!(net.summary(), "listening");
        }
        for tight in ["on", "off"] {
            let name = format!("addr.type=unix,addr.path=net-test-{},addr.abstract=on,addr.tight={tight}", std::process::id());
            let server = Netdev::parse(&format!("stream,id=s,server=on,{name}")).unwrap().open().unwrap();
            let client = Netdev::parse(&format!("stream,id=c,{name}")).unwrap().open().unwrap();
            assert!(client.summary().starts_with("unix:"), "{}", client.summary());
            drop((server, client));
            let gone = Netdev::parse(&format!("stream,id=c,{name}")).unwrap().open().unwrap();
            assert!(gone.summary().starts_with("error: Failed to connect to "), "{}", gone.summary());
        }
    }

    #[test]
    fn errors_of_each_type() {
        error("socket,id=n,foo=1", "Invalid parameter 'foo'");
        error("socket,id=n", "exactly one of listen=, connect=, mcast= or udp= is required");
        error("socket,id=n,listen=:1,connect=:2", "exactly one of listen=, connect=, mcast= or udp= is required");
        error("socket,id=n,udp=127.0.0.1:1", "localaddr= is mandatory with udp=");
        error("socket,id=n,mcast=127.0.0.1:1", "specified mcastaddr 127.0.0.1 (0x7f000001) does not contain a multicast address");
        error("socket,id=n,fd=999999", "Can't use file descriptor 999999");
        error("socket,id=n,fd=x", "Invalid file descriptor number 'x'");
        error("socket,id=n,listen=5000", "host address '5000' doesn't contain ':' separating host from port");
        error("socket,id=n,listen=:x", "port number 'x' is invalid");
        error("stream,id=n", "Parameter 'addr' is missing");
        error("stream,id=n,addr.host=::1", "Parameter 'addr.type' is missing");
        error("stream,id=n,addr.type=inet,addr.host=::1", "Parameter 'addr.port' is missing");
        error("dgram,id=n", "dgram requires local= parameter");
        error("dgram,id=n,local.type=inet,local.host=127.0.0.1,local.port=0,remote.type=unix,remote.path=/x", "remote and local types must be the same");
        error("dgram,id=n,local.type=fd,local.str=9,remote.type=unix,remote.path=/x", "don't set remote with local.fd");
        error("tap,id=n,queues=2", "queues=: this tap back end has one queue, no more and no less");
        error("tap,id=n,fds=3:4", "fds=: this tap back end has one queue, no more and no less");
        error("tap,id=n,vhostfds=3", "vhostfds= is invalid if fds= wasn't specified");
        error("stream,id=n,addr.type=inet,addr.host=127.0.0.1,addr.port=1,reconnect=1,reconnect-ms=1", "'reconnect' and 'reconnect-ms' are mutually exclusive");
        error(
            "stream,id=n,addr.type=inet,addr.host=127.0.0.1,addr.port=1,server=on,reconnect-ms=1",
            "'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode",
        );
        error("stream,id=n,addr.type=inet,addr.host=::1,addr.port=1,addr.ipv4=on", "address resolution failed for ::1:1");
        error("stream,id=n,addr.type=inet,addr.host=localhost,addr.port=1,addr.numeric=on", "address resolution failed for localhost:1: it is a name");
        error("stream,id=n,addr.type=inet,addr.host=::1,addr.port=1,addr.mptcp=on", "addr.mptcp=on is not supported");
        for option in ["script=no", "ifname=a", "vnet_hdr=on", "queues=1", "fds=4", "vhostfds=4", "helper=/h"] {
            let list = "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd=";
            error(&format!("tap,id=n,fd=3,{option}"), list);
        }
        error("tap,id=n,fds=3,vhostfd=4", "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid with fds=");
        error("tap,id=n,helper=/h,queues=1", "ifname=, script=, downscript=, vnet_hdr=, queues=, and vhostfds= are invalid with helper=");
        error("bridge,id=n,helper=/does/not/exist", "bridge helper '/does/not/exist' does not exist (package qemu-system-common has one)");
        error("hubport,id=n,hubid=0", "hubport 'n' needs a hub");
    }
}
