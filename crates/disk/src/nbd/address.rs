//! Where an NBD server is: `nbd://host:port/name`, `nbd+unix:///name?socket=path`, `nbd:host:port:exportname=name`,
//! `nbd:unix:path`, or options.
//!
//! Reference: docs/interop/nbd.rst and the recorded option names of QEMU 10.0.

use crate::options::Options;
use spec::error::{Error, Result};

pub const PORT: u16 = 10809;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Unix(String),
    Tcp(String, u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub place: Place,
    pub export: String,
}

impl Address {
    pub fn parse(name: &str) -> Result<Address> {
        if let Some(rest) = name.strip_prefix("nbd+unix://") {
            let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
            let socket = query.split('&').find_map(|p| p.strip_prefix("socket=")).ok_or_else(|| Error::new("NBD URI needs a socket"))?;
            return Ok(Address { place: Place::Unix(decode(socket)), export: decode(path.trim_start_matches('/')) });
        }
        if let Some(rest) = name.strip_prefix("nbd://").or_else(|| name.strip_prefix("nbd+tcp://")) {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (host, port) = host_port(host)?;
            return Ok(Address { place: Place::Tcp(host, port), export: decode(path) });
        }
        let rest = name.strip_prefix("nbd:").ok_or_else(|| Error::new(format!("'{name}' is not an NBD address")))?;
        let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
        let place = match place.strip_prefix("unix:") {
            Some(path) => Place::Unix(path.to_owned()),
            None => {
                let (host, port) = host_port(place)?;
                Place::Tcp(host, port)
            }
        };
        Ok(Address { place, export: export.to_owned() })
    }

    /// From `server.type=…` or the short forms `path=`, `host=`, `port=`.
    pub fn take(options: &mut Options) -> Result<Address> {
        if let Some(name) = options.take("filename") {
            return Address::parse(&name);
        }
        let mut server = options.take_below("server");
        for key in ["path", "host", "port"] {
            if let Some(v) = options.take(key) {
                server.set(key, &v);
            }
        }
        let export = options.take("export").unwrap_or_default();
        let kind = server.take("type");
        let place = match (server.take("path"), server.take("host")) {
            (Some(path), None) => Place::Unix(path),
            (None, Some(host)) => {
                let port = server.take("port").map_or(Ok(PORT), |p| p.parse().map_err(|_| Error::new(format!("Invalid port '{p}'"))))?;
                Place::Tcp(host, port)
            }
            (Some(_), Some(_)) => return Err(Error::new("path and host may not be used at the same time")),
            _ => return Err(Error::new("NBD server address missing")),
        };
        match (kind.as_deref(), &place) {
            (None, _) | (Some("unix"), Place::Unix(_)) | (Some("inet"), Place::Tcp(..)) => Ok(Address { place, export }),
            _ => Err(Error::new("NBD server type does not fit its address")),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Unix(path) if self.export.is_empty() => write!(f, "nbd+unix://?socket={path}"),
            Place::Unix(path) => write!(f, "nbd+unix:///{}?socket={path}", self.export),
            Place::Tcp(host, port) if self.export.is_empty() => write!(f, "nbd://{host}:{port}"),
            Place::Tcp(host, port) => write!(f, "nbd://{host}:{port}/{}", self.export),
        }
    }
}

fn host_port(text: &str) -> Result<(String, u16)> {
    let (host, port) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p))),
    };
    let port = port.map_or(Ok(PORT), str::parse).map_err(|_| Error::new(format!("Invalid port in '{text}'")))?;
    Ok((if host.is_empty() { "localhost" } else { host }.to_owned(), port))
}

/// `%41` in an address is `A`.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let digits = bytes.get(i + 1..i + 3).and_then(|d| std::str::from_utf8(d).ok());
        match (bytes[i], digits.and_then(|d| u8::from_str_radix(d, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                i += 3;
            }
            (other, _) => {
                out.push(other);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_understood() {
        let unix = |e: &str| Address { place: Place::Unix("/tmp/s".into()), export: e.into() };
        assert_eq!(Address::parse("nbd+unix:///a%20b?socket=/tmp/s").unwrap(), unix("a b"));
        assert_eq!(Address::parse("nbd:unix:/tmp/s:exportname=x").unwrap(), unix("x"));
        assert_eq!(Address::parse("nbd:unix:/tmp/s").unwrap(), unix(""));
        let tcp = Address::parse("nbd://localhost:1234/x").unwrap();
        assert_eq!(tcp, Address { place: Place::Tcp("localhost".into(), 1234), export: "x".into() });
        assert_eq!(Address::parse("nbd://[::1]/").unwrap().place, Place::Tcp("::1".into(), PORT));
        assert!(Address::parse("nbd+unix:///x").is_err());
        assert_eq!(Address::parse(&tcp.to_string()).unwrap(), tcp);
    }
}
