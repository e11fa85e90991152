//! The virtual name server: passes queries to the host's resolvers.
//!
//! Reference: RFC 1035 (message header, name encoding), resolv.conf(5); a name server may have a port in the form of
//! OpenBSD's: `nameserver [127.0.0.1]:5353`. The environment variable `RHEA_RESOLV_CONF` names another file.
//! Not modelled: caching; the search list of the host (a guest gets what `dnssearch=` says).

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use socket2::{Domain, Socket};

use super::udp;
use crate::backend::Nanos;

/// Name servers of the host that we try.
const MAX_SERVERS: usize = 3;
/// How long one name server may take before the next is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often we look whether the host's configuration changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// The longest query we keep for another try (EDNS makes larger ones possible, not usual).
const MAX_QUERY: usize = 4096;
const NEVER: Nanos = Nanos(u64::MAX);

/// Where queries go.
#[derive(Debug)]
pub enum Resolvers {
    /// resolv.conf, read again when it changes.
    File { path: PathBuf, checked: Option<Nanos>, modified: Option<SystemTime>, servers: Vec<SocketAddr> },
    Fixed(Vec<SocketAddr>),
}

impl Resolvers {
    pub fn host() -> Resolvers {
        let path = std::env::var_os("RHEA_RESOLV_CONF").map_or_else(|| "/etc/resolv.conf".into(), PathBuf::from);
        Resolvers::File { path, checked: None, modified: None, servers: Vec::new() }
    }

    pub fn servers(&mut self, now: Nanos) -> Vec<SocketAddr> {
        match self {
            Resolvers::Fixed(servers) => servers.clone(),
            Resolvers::File { path, checked, modified, servers } => {
                if checked.is_none_or(|at| now.since(at) >= CHECK_INTERVAL) {
                    *checked = Some(now);
                    let time = fs::metadata(&path).and_then(|m| m.modified()).ok();
                    if time != *modified || time.is_none() {
                        *modified = time;
                        *servers = parse(&fs::read_to_string(&path).unwrap_or_default());
                    }
                }
                servers.clone()
            }
        }
    }
}

/// The name servers of a resolv.conf.
fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?;
        let address = address.strip_prefix(|c: char| c.is_ascii_whitespace())?.split_whitespace().next()?;
        match address.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
            Some((address, port)) => Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?)),
            None => Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53)),
        }
    };
    text.lines().filter_map(server).take(MAX_SERVERS).collect()
}

/// A socket that talks to one of the servers and hears nobody else.
pub fn open(servers: &[SocketAddr], index: usize) -> std::io::Result<Socket> {
    let server = servers.get(index).ok_or(std::io::ErrorKind::NotFound)?;
    let socket = udp::socket(if server.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 })?;
    socket.connect(&(*server).into())?;
    Ok(socket)
}

/// What one guest port asked last.
#[derive(Debug)]
pub struct Query {
    server: IpAddr,
    servers: Vec<SocketAddr>,
    index: usize,
    /// Kept until it is answered.
    text: Vec<u8>,
    retry_at: Nanos,
}

impl Query {
    pub fn new(now: Nanos, server: IpAddr, servers: Vec<SocketAddr>, payload: &[u8]) -> Query {
        let mut query = Query { server, servers, index: 0, text: Vec::new(), retry_at: NEVER };
        query.restart(now, payload);
        query
    }

    /// The virtual server that the guest asked.
    pub fn server(&self) -> IpAddr {
        self.server
    }

    pub fn retry_at(&self) -> Nanos {
        self.retry_at
    }

    pub fn restart(&mut self, now: Nanos, payload: &[u8]) {
        self.text.clear();
        self.text.extend(&payload[..payload.len().min(MAX_QUERY)]);
        self.retry_at = now.after(PATIENCE);
    }

    pub fn send(&self, socket: &Socket) {
        // A failure shows as a missing answer, which the next server then gives.
        let _ = rustix::net::send(socket, &self.text, rustix::net::SendFlags::NOSIGNAL);
    }

    pub fn answered(&mut self) {
        self.retry_at = NEVER;
    }

    pub fn hurry(&mut self, now: Nanos) {
        if self.retry_at != NEVER {
            self.retry_at = now;
        }
    }

    /// Moves on to the next server that can be reached.
    pub fn next_server(&mut self, now: Nanos) -> Option<Socket> {
        self.retry_at = NEVER;
        while self.index + 1 < self.servers.len() {
            self.index += 1;
            if let Ok(socket) = open(&self.servers, self.index) {
                self.retry_at = now.after(PATIENCE);
                return Some(socket);
            }
        }
        None
    }

    /// The answer when no server gave one.
    pub fn give_up(&mut self) -> Option<Vec<u8>> {
        server_failure(&self.text)
    }
}

/// "Server failure" in answer to a query: its header and question with QR, RA and RCODE 2.
pub fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    let mut answer = query.to_vec();
    let header = answer.get_mut(..12)?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    header[2] |= 0x80;
    header[3] = 0x80 | 2;
    Some(answer)
}

/// A name as length-prefixed labels, uncompressed; empty if it is not a valid name.
pub fn encode_name(name: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 {
            return Vec::new();
        }
        encoded.push(label.len() as u8);
        encoded.extend(label.as_bytes());
    }
    encoded.push(0);
    if encoded.len() > 255 { Vec::new() } else { encoded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let text = "# comment\nnameserver 127.0.0.53\nsearch a.b\nnameserver\t2001:db8::1 \nnameserverx 1.1.1.1\nnameserver [127.0.0.1]:5353\noptions edns0\n";
        let expected: Vec<SocketAddr> = vec!["127.0.0.53:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap(), "127.0.0.1:5353".parse().unwrap()];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn names() {
        assert_eq!(encode_name("ab.c."), b"\x02ab\x01c\0");
        assert_eq!(encode_name("a..b"), b"");
        assert_eq!(encode_name(&"x".repeat(64)), b"");
    }

    #[test]
    fn failure_answers_only_queries() {
        let query = [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(server_failure(&query).unwrap(), [1, 2, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(server_failure(&[0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(server_failure(&[0; 5]), None);
    }
}
