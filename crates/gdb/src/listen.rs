//! Where a debugger connects: `PORT`, `PATH` of a socket, and `suspend=n` behind either.

use spec::{Context, Error, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// The value of `-g`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    place: Place,
    /// The guest waits for a debugger before its first instruction.
    pub suspend: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Port(u16),
    Socket(PathBuf),
}

impl Address {
    /// `PORT` or `PATH`, then perhaps `,suspend=n`; `%d` in a path stands for the process's number.
    pub fn parse(text: &str) -> Result<Address> {
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let mut suspend = true;
        for option in parts {
            suspend = match option {
                "suspend=y" | "suspend=yes" | "suspend=on" => true,
                "suspend=n" | "suspend=no" | "suspend=off" => false,
                _ => return Err(Error::new(format!("-g {text}: '{option}' is no option of a debugger's connection"))),
            };
        }
        let place = match place.parse::<u32>() {
            Ok(port) => match u16::try_from(port) {
                Ok(port) if port != 0 => Place::Port(port),
                _ => return Err(Error::new(format!("-g {text}: a port lies between 1 and 65535"))),
            },
            Err(_) if place.is_empty() => return Err(Error::new("-g: expected a port or the path of a socket")),
            Err(_) => Place::Socket(place.replacen("%d", &std::process::id().to_string(), 1).into()),
        };
        Ok(Address { place, suspend })
    }

    pub fn listen(&self) -> Result<Listener> {
        match &self.place {
            Place::Port(port) => {
                let l = TcpListener::bind(("0.0.0.0", *port)).context(|| format!("cannot wait for a debugger at port {port}"))?;
                Ok(Listener::Tcp(l))
            }
            Place::Socket(path) => {
                // A socket that an earlier run has left behind; anything else is left alone and refused by bind.
                if UnixStream::connect(path).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
                    let _ = std::fs::remove_file(path);
                }
                let l = UnixListener::bind(path).context(|| format!("cannot wait for a debugger at '{}'", path.display()))?;
                Ok(Listener::Unix(l))
            }
        }
    }
}

/// A place where debuggers connect, one after the other.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub fn accept(&self) -> Result<Connection> {
        let failed = || "cannot accept a debugger's connection".to_string();
        match self {
            Listener::Tcp(l) => {
                let (stream, _) = l.accept().context(failed)?;
                // Packets are small and answered at once.
                let _ = stream.set_nodelay(true);
                Ok(Connection::Tcp(stream))
            }
            Listener::Unix(l) => Ok(Connection::Unix(l.accept().context(failed)?.0)),
        }
    }

    pub fn fd(&self) -> RawFd {
        match self {
            Listener::Tcp(l) => l.as_raw_fd(),
            Listener::Unix(l) => l.as_raw_fd(),
        }
    }

    /// The same place behind another descriptor.
    pub fn with_fd(self, fd: OwnedFd) -> Listener {
        match self {
            Listener::Tcp(_) => Listener::Tcp(fd.into()),
            Listener::Unix(_) => Listener::Unix(fd.into()),
        }
    }
}

/// Where answers go.
pub trait Wire: Send + Sync {
    fn write_all(&self, bytes: &[u8]) -> std::io::Result<()>;
}

impl Wire for Connection {
    fn write_all(&self, bytes: &[u8]) -> std::io::Result<()> {
        Connection::write_all(self, bytes)
    }
}

/// A debugger's connection.
#[derive(Debug)]
pub enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// How many bytes have come; 0 at the end.
    pub fn read(&self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Connection::Tcp(s) => (&mut &*s).read(buf),
            Connection::Unix(s) => (&mut &*s).read(buf),
        }
    }

    pub fn write_all(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Connection::Tcp(s) => (&mut &*s).write_all(bytes),
            Connection::Unix(s) => (&mut &*s).write_all(bytes),
        }
    }

    /// Ends it, for whoever waits for data too.
    pub fn close(&self) {
        let _ = match self {
            Connection::Tcp(s) => s.shutdown(Shutdown::Both),
            Connection::Unix(s) => s.shutdown(Shutdown::Both),
        };
    }

    pub fn fd(&self) -> RawFd {
        match self {
            Connection::Tcp(s) => s.as_raw_fd(),
            Connection::Unix(s) => s.as_raw_fd(),
        }
    }

    /// The same connection behind another descriptor.
    pub fn with_fd(self, fd: OwnedFd) -> Connection {
        match self {
            Connection::Tcp(_) => Connection::Tcp(fd.into()),
            Connection::Unix(_) => Connection::Unix(fd.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_paths_and_options_are_told_apart() {
        let port = Address { place: Place::Port(1234), suspend: true };
        assert_eq!(Address::parse("1234").unwrap(), port);
        assert_eq!(Address::parse("1234,suspend=n").unwrap(), Address { suspend: false, ..port });
        let pid = std::process::id();
        let path = Place::Socket(format!("/tmp/s-{pid}.sock").into());
        assert_eq!(Address::parse("/tmp/s-%d.sock").unwrap(), Address { place: path, suspend: true });
        for (text, sentence) in [
            ("", "-g: expected a port or the path of a socket"),
            ("70000", "-g 70000: a port lies between 1 and 65535"),
            ("0", "-g 0: a port lies between 1 and 65535"),
            ("1234,foo", "-g 1234,foo: 'foo' is no option of a debugger's connection"),
        ] {
            assert_eq!(Address::parse(text).unwrap_err().sentence(), sentence);
        }
    }
}
