//! Tap interfaces: the system calls that have no safe wrapper.
//!
//! Reference: Linux `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`.
//!
//! Invariants:
//! 1. Every `ioctl` here gets a descriptor that lives for the call and a pointer to a local value of the
//!    type and size that the request is defined for; the kernel keeps neither.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_short, c_uint, c_ulong};
use spec::error::{Context, Error, Result};

const DEVICE: &str = "/dev/net/tun";
/// The length of `struct virtio_net_hdr` without the count of merged buffers.
pub const HEADER: usize = 10;

/// Not in `libc`.
const TUNSETSNDBUF: c_ulong = 0x4004_54d4;

const TUN_F_CSUM: c_uint = 1;
const TUN_F_TSO4: c_uint = 2;
const TUN_F_TSO6: c_uint = 4;

/// An open tap interface.
#[derive(Debug)]
pub struct Tap {
    pub file: File,
    pub name: String,
    /// Each frame follows a `struct virtio_net_hdr` of [`HEADER`] bytes.
    pub has_header: bool,
}

/// `struct ifreq` with the member that tap requests use.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: c_short,
    rest: [u8; 22],
}

fn ioctl<T>(fd: BorrowedFd<'_>, request: c_ulong, value: &mut T) -> io::Result<()> {
    // SAFETY: invariant 1; the callers below pair each request with its type.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(value)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn name_of(request: &Request) -> String {
    let end = request.name.iter().position(|&b| b == 0).unwrap_or(request.name.len());
    String::from_utf8_lossy(&request.name[..end]).into_owned()
}

impl Tap {
    /// Opens or creates an interface; an empty name lets the kernel choose one. `has_header`: with offload headers.
    pub fn open(name: &str, has_header: bool) -> Result<Tap> {
        // What is too long for a name is cut off.
        let name = &name.as_bytes()[..name.len().min(libc::IFNAMSIZ - 1)];
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
        let file = file.context(|| format!("could not open {DEVICE}"))?;
        let header = if has_header { libc::IFF_VNET_HDR } else { 0 };
        let flags = (libc::IFF_TAP | libc::IFF_NO_PI | header) as c_short;
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name);
        ioctl(file.as_fd(), libc::TUNSETIFF as c_ulong, &mut request)
            .context(|| format!("could not configure {DEVICE} ({})", name_of(&request)))?;
        let name = name_of(&request);
        let tap = Tap { file, name, has_header };
        if has_header {
            tap.set_header(HEADER)?;
        }
        Ok(tap)
    }

    /// Uses an interface that somebody else opened.
    pub fn given(file: File) -> Result<Tap> {
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
        ioctl(file.as_fd(), libc::TUNGETIFF as c_ulong, &mut request)
            .context(|| "Unable to query TUNGETIFF of the file descriptor".to_string())?;
        let has_header = c_int::from(request.flags) & libc::IFF_VNET_HDR != 0;
        let tap = Tap { file, name: name_of(&request), has_header };
        if has_header {
            tap.set_header(HEADER)?;
        }
        Ok(tap)
    }

    pub fn try_clone(&self) -> Result<Tap> {
        let file = self.file.try_clone().context(|| format!("could not share tap interface {}", self.name))?;
        Ok(Tap { file, name: self.name.clone(), has_header: self.has_header })
    }

    /// The length of the header before each frame: [`HEADER`], or two bytes more with a count of merged buffers.
    pub fn set_header(&self, bytes: usize) -> Result<()> {
        let mut size = bytes as c_int;
        ioctl(self.file.as_fd(), libc::TUNSETVNETHDRSZ as c_ulong, &mut size)
            .context(|| format!("tap interface {} does not take offload headers", self.name))
    }

    /// Bytes that the kernel keeps for the interface before it takes no more frames.
    pub fn set_send_buffer(&self, bytes: i32) -> Result<()> {
        let mut size: c_int = bytes;
        ioctl(self.file.as_fd(), TUNSETSNDBUF, &mut size).context(|| format!("could not set the send buffer of {}", self.name))
    }

    /// Tells the kernel what frames it may send: with partial checksums, and larger than the MTU.
    pub fn set_offloads(&self, checksum: bool, tcp4: bool, tcp6: bool) -> Result<()> {
        let mut flags = 0;
        if checksum {
            // The kernel wants checksums before segmentation.
            flags = TUN_F_CSUM | if tcp4 { TUN_F_TSO4 } else { 0 } | if tcp6 { TUN_F_TSO6 } else { 0 };
        }
        // SAFETY: invariant 1; this request takes its value itself, not a pointer.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as c_ulong, c_ulong::from(flags)) };
        if result < 0 {
            return Err(Error::caused(format!("could not set offloads of {}", self.name), io::Error::last_os_error()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the privilege the error names the device; with it there is an interface.
    #[test]
    fn opening_gives_an_interface_or_a_sentence() {
        match Tap::open("", true) {
            Ok(tap) => {
                assert!(tap.name.starts_with("tap"), "{}", tap.name);
                tap.set_offloads(true, true, true).unwrap();
                let again = Tap::given(tap.file.try_clone().unwrap()).unwrap();
                assert_eq!((again.name, again.has_header), (tap.name, true));
            }
            Err(error) => assert!(error.to_string().contains(DEVICE), "{error}"),
        }
        assert!(Tap::given(File::open("/dev/null").unwrap()).is_err());
    }
}
