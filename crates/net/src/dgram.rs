//! `-netdev dgram` and `-netdev socket,udp=|mcast=`: one frame in each datagram.
//!
//! Frames that do not fit the sockets' buffers are lost, as on a cable; frames for a guest that has no
//! room wait in the socket's buffer.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use spec::error::{Context, Result};

use crate::backend::{Accepts, Backend, Guest, MAX_FRAME, Nanos, Offload, Transmit};
use crate::poller::Poller;
use crate::stream::show;

/// Frames given to the guest in one poll.
const TURN: usize = 256;

#[derive(Debug)]
pub struct DgramNet {
    poller: Poller,
    socket: Socket,
    /// `None`: the socket is connected (or has nobody to send to yet).
    remote: Option<SockAddr>,
    text: String,
    readable: bool,
    more: bool,
    buffer: Vec<u8>,
    /// Of a frame in `buffer` that the guest has not taken.
    waiting: Option<usize>,
    /// For a group: multicasts come back to the host that sent them, and the guest must not see its
    /// own. They leave through a socket of their own, which its port tells from everybody else's.
    sender: Option<(Socket, SocketAddr)>,
}

impl DgramNet {
    fn new(socket: Socket, remote: Option<SockAddr>, text: String) -> Result<DgramNet> {
        let sentence = || format!("could not use {text}");
        socket.set_nonblocking(true).context(sentence)?;
        let poller = Poller::new()?;
        poller.add(&socket, 0).context(sentence)?;
        let buffer = vec![0; MAX_FRAME];
        Ok(DgramNet {
            poller,
            socket,
            remote,
            text,
            readable: true,
            more: false,
            buffer,
            waiting: None,
            sender: None,
        })
    }

    /// Sends to one peer (UDP or Unix).
    pub fn peer(local: Option<&SockAddr>, remote: Option<SockAddr>) -> Result<DgramNet> {
        let like = local.or(remote.as_ref()).expect("the options name one of them");
        let text = match (local, &remote) {
            (Some(local), Some(remote)) => match (local.as_pathname(), remote.as_pathname()) {
                (Some(local), Some(remote)) => format!("udp={}:{}", local.display(), remote.display()),
                _ => format!("udp={}/{}", show(local), show(remote)),
            },
            _ => format!("dgram,{}", show(like)),
        };
        let sentence = || format!("could not open {text}");
        let socket = Socket::new(like.domain(), Type::DGRAM.cloexec(), None).context(sentence)?;
        if let Some(local) = local {
            if local.domain() != Domain::UNIX {
                socket.set_reuse_address(true).context(sentence)?;
            }
            crate::stream::clear(local).context(sentence)?;
            socket.bind(local).context(sentence)?;
        }
        DgramNet::new(socket, remote, text)
    }

    /// Joins a multicast group; `interface` is the local address to send from.
    pub fn multicast(group: SocketAddr, interface: Option<Ipv4Addr>) -> Result<DgramNet> {
        let text = format!("mcast={group}");
        let sentence = || format!("could not join {text}");
        let SocketAddr::V4(v4) = group else {
            return Err(spec::error::Error::new(format!("'{group}' is not an IPv4 multicast address")));
        };
        if !v4.ip().is_multicast() {
            let text = "does not contain a multicast address";
            return Err(spec::error::Error::new(format!("specified mcastaddr {} ({:#010x}) {text}", v4.ip(), u32::from(*v4.ip()))));
        }
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None).context(sentence)?;
        socket.set_reuse_address(true).context(sentence)?;
        socket.bind(&group.into()).context(sentence)?;
        let interface = interface.unwrap_or(Ipv4Addr::UNSPECIFIED);
        socket.join_multicast_v4(v4.ip(), &interface).context(sentence)?;
        let sender = Socket::new(Domain::IPV4, Type::DGRAM.cloexec().nonblocking(), None).context(sentence)?;
        // Other guests of this host are in the group.
        sender.set_multicast_loop_v4(true).context(sentence)?;
        if !interface.is_unspecified() {
            sender.set_multicast_if_v4(&interface).context(sentence)?;
        }
        sender.connect(&group.into()).context(sentence)?;
        let own = sender.local_addr().context(sentence)?.as_socket().expect("an IPv4 socket");
        let mut net = DgramNet::new(socket, None, text)?;
        net.sender = Some((sender, own));
        Ok(net)
    }

    /// Has another text in lists.
    pub fn called(mut self, text: String) -> DgramNet {
        self.text = text;
        self
    }

    /// Uses a socket that somebody gave us, connected to its peer.
    pub fn given(socket: Socket) -> Result<DgramNet> {
        DgramNet::new(socket, None, "dgram,a given descriptor".into())
    }

    fn is_own(&self, from: &rustix::net::SocketAddrAny) -> bool {
        let from = SocketAddr::try_from(from.clone()).ok();
        from.is_some() && from == self.sender.as_ref().map(|(_, own)| *own)
    }

    pub fn local_address(&self) -> Option<SockAddr> {
        self.socket.local_addr().ok()
    }
}

impl Backend for DgramNet {
    fn transmit(&mut self, _now: Nanos, frame: &[u8], _offload: Offload) -> Transmit {
        // A failure is a lost frame; the peer may come later.
        let _ = match &self.remote {
            Some(remote) => self.socket.send_to_with_flags(frame, remote, SendFlags::NOSIGNAL.bits() as i32).map(drop),
            None => rustix::net::send(self.sender.as_ref().map_or(&self.socket, |(s, _)| s), frame, SendFlags::NOSIGNAL).map(drop).map_err(Into::into),
        };
        Transmit::Taken
    }

    fn poll(&mut self, _now: Nanos, guest: &mut dyn Guest) {
        self.poller.ready(|ready| self.readable |= ready.readable);
        self.more = false;
        for _ in 0..TURN {
            if let Some(length) = self.waiting {
                if !guest.ready() || !guest.deliver(&[&self.buffer[..length]], Offload::default()) {
                    return;
                }
                self.waiting = None;
            }
            if !self.readable {
                return;
            }
            match rustix::net::recvfrom(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((0, _, _)) => {}
                Ok((_, _, Some(from))) if self.is_own(&from) => {}
                Ok((length, _, _)) => self.waiting = Some(length),
                // An ICMP error for a frame that nobody took, once.
                Err(rustix::io::Errno::CONNREFUSED) => {}
                Err(_) => self.readable = false,
            }
        }
        self.more = true;
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.fd())
    }

    fn deadline(&self) -> Option<Nanos> {
        self.more.then_some(Nanos(0))
    }

    /// Frames in datagrams are complete; the device computes checksums and segments itself.
    fn set_accepts(&mut self, _accepts: Accepts) {}

    fn summary(&self) -> String {
        self.text.clone()
    }
}

impl Drop for DgramNet {
    fn drop(&mut self) {
        let path = self.local_address().and_then(|a| a.as_pathname().map(|p| p.to_path_buf()));
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
        }
    }
}
