//! The contract between a network device model, a back end and the event loop that drives both.
//!
//! Reference: the offload metadata has the meaning of `struct virtio_net_hdr` (VIRTIO 1.2, 5.1.6).
//! Not modelled: hash reports, RSS, UDP fragmentation offload (UFO is deprecated by the standard).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use spec::error::{Error, Result};

use crate::vhost::Vhost;

/// The largest frame a back end gives or takes: an Ethernet and VLAN header before a 64 KiB IP packet.
pub const MAX_FRAME: usize = 65535 + 18;

/// A point on the caller's clock, in nanoseconds since any fixed origin. Tests step it by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    pub fn after(self, delay: Duration) -> Nanos {
        Nanos(self.0.saturating_add(delay.as_nanos().min(u64::MAX as u128) as u64))
    }

    /// The time from `earlier` to `self`; zero if the clock stepped back.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// How far the checksum of the transport header has been computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The field holds the full checksum; the receiver verifies it.
    #[default]
    Complete,
    /// Somebody trustworthy has verified it already.
    Valid,
    /// The field at `start + offset` holds the pseudo-header sum only; the bytes from `start` to the
    /// end of the frame are still to be added.
    Partial { start: u16, offset: u16 },
}

/// A frame that stands for many: the payload is to be cut into pieces of `size` bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    #[default]
    None,
    Tcp4 {
        size: u16,
    },
    Tcp6 {
        size: u16,
    },
    Udp {
        size: u16,
    },
}

/// What travels beside a frame instead of being computed for each one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    pub checksum: Checksum,
    pub segmentation: Segmentation,
}

/// What the guest's device has negotiated to receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// Partial checksums.
    pub checksum: bool,
    /// TCP over IPv4 frames up to 64 KiB.
    pub tcp4: bool,
    /// TCP over IPv6 frames up to 64 KiB.
    pub tcp6: bool,
}

/// What became of a frame that the guest sent.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// The back end has taken it (delivered, queued or, like a real cable, dropped it).
    Taken,
    /// No room: keep the frame and offer it again after the next [`Backend::poll`].
    Full,
}

/// The receive side of a guest's network device.
pub trait Guest {
    /// Whether [`Guest::deliver`] would take a frame now. A false answer stops the back end from
    /// reading its sockets; the device calls [`Backend::poll`] when the guest supplies buffers.
    fn ready(&mut self) -> bool;

    /// Takes one frame, given in pieces that are copied straight to guest memory. False: no room, the
    /// frame was not taken.
    fn deliver(&mut self, parts: &[&[u8]], offload: Offload) -> bool;
}

/// The far end of a virtual cable.
pub trait Backend: Send {
    /// Takes one frame from the guest. Answers appear at the next [`Backend::poll`], so a device that
    /// sends a batch gets one acknowledgement for all of it.
    fn transmit(&mut self, now: Nanos, frame: &[u8], offload: Offload) -> Transmit;

    /// Does everything that can be done now: sockets, timers, frames for the guest.
    fn poll(&mut self, now: Nanos, guest: &mut dyn Guest);

    /// Readable when [`Backend::poll`] has something to do. (An epoll descriptor where a back end has
    /// many sockets: those can be polled like any other.)
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// When [`Backend::poll`] wants to run even if nothing happens.
    fn deadline(&self) -> Option<Nanos>;

    /// Whether `transmit` takes frames with unfinished checksums and frames that stand for many.
    fn takes_offloads(&self) -> bool {
        false
    }

    /// Tells what the guest's driver has negotiated; nothing until then.
    fn set_accepts(&mut self, accepts: Accepts);

    /// The text after the name in `info network`.
    fn summary(&self) -> String;

    /// Does something with a back end that serves the guest's rings itself. False: it is none.
    fn vhost(&mut self, work: &mut dyn FnMut(&mut dyn Vhost)) -> bool {
        let _ = work;
        false
    }

    /// The text below the name in `info usernet`; only the user-mode back end has one.
    fn usernet(&self) -> Option<String> {
        None
    }

    /// `hostfwd_add`; only the user-mode back end forwards.
    fn hostfwd_add(&mut self, rule: &str) -> Result<()> {
        let _ = rule;
        Err(Error::new("invalid device specified"))
    }

    /// `hostfwd_remove`: whether there was such a rule.
    fn hostfwd_remove(&mut self, rule: &str) -> Result<bool> {
        let _ = rule;
        Err(Error::new("invalid device specified"))
    }
}
