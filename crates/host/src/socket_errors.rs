//! Which datagram an ICMP error is about: the error queue of UDP sockets.
//!
//! Reference: Linux ip(7), IP_RECVERR; `struct sock_extended_err` in `include/uapi/linux/errqueue.h`.
//!
//! Invariants:
//! 1. Pointers given to `setsockopt` and `recvmsg` are to local values that outlive the call, with their lengths.
//! 2. Control messages are read only through the `CMSG_*` macros on the header that `recvmsg` filled, and
//!    their data only after the length said that it is there.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};

/// What went wrong with one datagram that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketError {
    /// Where the datagram was going.
    pub destination: SocketAddr,
    pub errno: i32,
    /// For EMSGSIZE: the path's MTU.
    pub info: u32,
    /// How much of the datagram was given back.
    pub length: usize,
}

/// Asks the kernel to queue errors for this socket. Until they are fetched, calls on it fail with them.
pub fn enable(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let on: c_int = 1;
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    // SAFETY: invariant 1.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&on).cast::<c_void>(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the next error from the queue, with the beginning of the datagram in `payload`.
pub fn next(socket: impl AsFd, payload: &mut [u8]) -> Option<SocketError> {
    let mut name = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    // Aligned for control messages; room for an extended error and the address behind it.
    let mut control = [0u64; 32];
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: `msghdr` is plain data for which zero is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = size_of::<libc::sockaddr_in6>() as socklen_t;
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = std::mem::size_of_val(&control);
    // SAFETY: invariant 1.
    let length = unsafe {
        libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    let length = usize::try_from(length).ok()?;
    // SAFETY: it was zeroed and the kernel wrote at most its size.
    let destination = address(unsafe { name.assume_init() })?;
    let (errno, info) = extended_error(&header)?;
    Some(SocketError { destination, errno, info, length })
}

/// The socket address in the larger of the two structures.
fn address(name: libc::sockaddr_in6) -> Option<SocketAddr> {
    let port = u16::from_be(name.sin6_port);
    match c_int::from(name.sin6_family) {
        libc::AF_INET6 => Some(SocketAddr::from((Ipv6Addr::from(name.sin6_addr.s6_addr), port))),
        // `sin_addr` lies where `sin6_flowinfo` does.
        libc::AF_INET => Some(SocketAddr::from((Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes()), port))),
        _ => None,
    }
}

fn extended_error(header: &libc::msghdr) -> Option<(i32, u32)> {
    // SAFETY: invariant 2.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: invariant 2: not null, so it points at a header within the control buffer.
        let current = unsafe { *message };
        let is_error = matches!(
            (current.cmsg_level, current.cmsg_type),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // SAFETY: a pure computation on lengths.
        let needed = unsafe { libc::CMSG_LEN(size_of::<libc::sock_extended_err>() as u32) } as usize;
        if is_error && current.cmsg_len >= needed {
            // SAFETY: invariant 2; the data may be unaligned.
            let error = unsafe { libc::CMSG_DATA(message).cast::<libc::sock_extended_err>().read_unaligned() };
            return Some((error.ee_errno as i32, error.ee_info));
        }
        // SAFETY: invariant 2.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_closed_port_is_named_by_the_error() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            enable(&socket, address.starts_with('[')).unwrap();
            let closed = UdpSocket::bind(address).unwrap().local_addr().unwrap();
            assert_eq!(next(&socket, &mut [0; 16]), None);
            socket.send_to(b"hello", closed).unwrap();
            // On the loopback interface the ICMP error is there when the call returns.
            let mut payload = [0; 16];
            let error = next(&socket, &mut payload).unwrap();
            assert_eq!((error.destination, error.errno, error.length), (closed, libc::ECONNREFUSED, 5));
            assert_eq!(&payload[..5], b"hello");
            assert_eq!(next(&socket, &mut [0; 16]), None);
        }
    }
}
