//! Block devices of the kernel whose requests go over a socket (`/dev/nbdN`).
//!
//! Reference: Linux `include/uapi/linux/nbd.h`, `drivers/block/nbd.c`.
//!
//! Not modelled: more than one connection, the netlink interface, timeouts.
//!
//! Invariants:
//! 1. Every `ioctl` here takes a number or a descriptor by value, never a pointer of ours but to an `int` that lives for the
//!    call, and is made on a descriptor that lives for the call.

use std::ffi::{c_int, c_ulong};
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd};

const NBD_SET_SOCK: c_ulong = 0xab00;
const NBD_SET_BLKSIZE: c_ulong = 0xab01;
const NBD_DO_IT: c_ulong = 0xab03;
const NBD_CLEAR_SOCK: c_ulong = 0xab04;
const NBD_CLEAR_QUE: c_ulong = 0xab05;
const NBD_SET_SIZE_BLOCKS: c_ulong = 0xab07;
const NBD_DISCONNECT: c_ulong = 0xab08;
const NBD_SET_FLAGS: c_ulong = 0xab0a;
const BLKROSET: c_ulong = 0x125d;

/// Bytes of a block, in which sizes are told.
pub const BLOCK: u64 = 512;

/// An open device.
pub struct Device(File);

impl Device {
    pub fn open(path: &str) -> Result<Device> {
        Ok(Device(File::options().read(true).write(true).open(path)?))
    }

    fn ask(&self, request: c_ulong, value: c_ulong) -> Result<()> {
        // SAFETY: invariant 1.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, value) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// The other end of this socket answers the device's requests from now on.
    pub fn set_socket(&self, socket: &impl AsFd) -> Result<()> {
        self.ask(NBD_SET_SOCK, socket.as_fd().as_raw_fd() as c_ulong)
    }

    /// The size in blocks.
    pub fn set_size(&self, blocks: u64) -> Result<()> {
        self.ask(NBD_SET_BLKSIZE, BLOCK)?;
        self.ask(NBD_SET_SIZE_BLOCKS, blocks)
    }

    /// What the other end can do: the protocol's transmission flags.
    pub fn set_flags(&self, flags: u16, read_only: bool) -> Result<()> {
        self.ask(NBD_SET_FLAGS, flags.into())?;
        let value = c_int::from(read_only);
        // SAFETY: invariant 1.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), BLKROSET, &raw const value) };
        // A kernel that does not know the request still sees the flag.
        if result < 0 && read_only { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Serves the device until it is disconnected.
    pub fn run(&self) -> Result<()> {
        self.ask(NBD_DO_IT, 0)
    }

    /// Ends the connection, from any process.
    pub fn disconnect(&self) {
        let _ = self.ask(NBD_DISCONNECT, 0);
        self.clear();
    }

    /// Forgets a connection that has ended.
    pub fn clear(&self) {
        let _ = self.ask(NBD_CLEAR_QUE, 0);
        let _ = self.ask(NBD_CLEAR_SOCK, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_no_device_refuses_its_requests() {
        let null = Device::open("/dev/null").unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(null.set_socket(&ours).is_err());
        assert!(null.set_size(8).is_err());
        null.disconnect();
        assert!(Device::open("/dev/no-such-nbd").is_err());
    }
}
