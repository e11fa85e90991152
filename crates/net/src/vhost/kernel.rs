//! `-netdev tap,vhost=on`: the host's kernel moves frames between the guest's rings and a tap interface.
//!
//! Reference: Linux `include/uapi/linux/vhost.h`; VIRTIO 1.2, 5.1.6 for the header before a frame.
//!
//! Invariants: the header before a frame at the tap interface is as long as the driver's while the kernel serves the rings,
//! and [`HEADER`] otherwise. Bit 27 of the kernel's features has a meaning of its own and is never the driver's.

use std::fs::File;
use std::io::Result as IoResult;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use host::tap::{HEADER, Tap};
use host::vhost::{Region as Place, VhostNet};
use spec::error::{Context, Result};

use super::{Events, Protocol, RINGS, Region, Ring, Served};

/// Feature bits that the kernel has to know about.
const MRG_RXBUF: u64 = 1 << 15;
const NOTIFY_ON_EMPTY: u64 = 1 << 24;
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
const KERNEL: u64 = NOTIFY_ON_EMPTY | INDIRECT_DESC | EVENT_IDX | VERSION_1 | MRG_RXBUF;
/// What the kernel calls bit 27: the driver has headers before frames, the interface has none.
const VIRTIO_NET_HDR: u64 = 1 << 27;
/// What a driver calls bit 27; the kernel takes any layout anyhow.
const ANY_LAYOUT: u64 = 1 << 27;
/// CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6: the interface's business, not the service's.
const OFFLOADS: u64 = 1 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
/// With MRG_RXBUF or VERSION_1 the header ends with a count of buffers.
const LONG_HEADER: usize = HEADER + 2;

/// What the kernel is asked to do; [`TapService`] asks it.
pub trait Service: Send {
    fn set_owner(&mut self) -> IoResult<()>;
    fn features(&mut self) -> IoResult<u64>;
    fn set_features(&mut self, features: u64) -> IoResult<()>;
    fn set_memory(&mut self, memory: &[Place]) -> IoResult<()>;
    fn set_ring(&mut self, index: usize, ring: &Ring) -> IoResult<()>;
    fn set_busy_loop(&mut self, index: usize, microseconds: u32) -> IoResult<()>;
    fn set_kick(&mut self, index: usize, event: BorrowedFd<'_>) -> IoResult<()>;
    fn set_call(&mut self, index: usize, event: BorrowedFd<'_>) -> IoResult<()>;
    /// Plugs a ring into the interface, or pulls it out.
    fn set_backend(&mut self, index: usize, on: bool) -> IoResult<()>;
    fn ring_next(&mut self, index: usize) -> IoResult<u16>;
    /// Frames at the interface have a header.
    fn has_header(&self) -> bool;
    fn set_header(&mut self, bytes: usize) -> Result<()>;
}

/// `/dev/vhost-net` and a tap interface.
pub struct TapService {
    vhost: VhostNet,
    tap: Tap,
}

impl TapService {
    /// `given`: a service that somebody else opened.
    pub fn open(given: Option<OwnedFd>, tap: &Tap) -> Result<TapService> {
        let vhost = match given {
            Some(fd) => VhostNet::given(File::from(fd)),
            None => VhostNet::open().context(|| "tap: open vhost char device failed".into())?,
        };
        Ok(TapService { vhost, tap: tap.try_clone()? })
    }
}

impl Service for TapService {
    fn set_owner(&mut self) -> IoResult<()> {
        self.vhost.set_owner()
    }
    fn features(&mut self) -> IoResult<u64> {
        self.vhost.features()
    }
    fn set_features(&mut self, features: u64) -> IoResult<()> {
        self.vhost.set_features(features)
    }
    fn set_memory(&mut self, memory: &[Place]) -> IoResult<()> {
        self.vhost.set_memory(memory)
    }
    fn set_ring(&mut self, index: usize, ring: &Ring) -> IoResult<()> {
        self.vhost.set_ring(index, ring)
    }
    fn set_busy_loop(&mut self, index: usize, microseconds: u32) -> IoResult<()> {
        self.vhost.set_busy_loop(index, microseconds)
    }
    fn set_kick(&mut self, index: usize, event: BorrowedFd<'_>) -> IoResult<()> {
        self.vhost.set_kick(index, event)
    }
    fn set_call(&mut self, index: usize, event: BorrowedFd<'_>) -> IoResult<()> {
        self.vhost.set_call(index, event)
    }
    fn set_backend(&mut self, index: usize, on: bool) -> IoResult<()> {
        self.vhost.set_backend(index, on.then(|| self.tap.file.as_fd()))
    }
    fn ring_next(&mut self, index: usize) -> IoResult<u16> {
        self.vhost.ring_next(index)
    }
    fn has_header(&self) -> bool {
        self.tap.has_header
    }
    fn set_header(&mut self, bytes: usize) -> Result<()> {
        self.tap.set_header(bytes)
    }
}

/// The kernel as one who serves rings.
pub struct Kernel {
    service: Box<dyn Service>,
    features: u64,
    /// `poll-us=`.
    busy_loop: u32,
}

pub type VhostKernel = Served<Kernel>;

impl VhostKernel {
    /// `busy_loop`: microseconds for which the kernel looks at a ring before it sleeps.
    pub fn over(mut service: Box<dyn Service>, busy_loop: u32) -> Result<VhostKernel> {
        let sentence = || "vhost-net requested but could not be initialized".into();
        service.set_owner().context(sentence)?;
        let features = service.features().context(sentence)?;
        Served::serve(Kernel { service, features, busy_loop }, "")
    }
}

impl Protocol for Kernel {
    const NAME: &'static str = "vhost-net";

    fn features(&self) -> u64 {
        self.features & KERNEL | ANY_LAYOUT | if self.service.has_header() { OFFLOADS } else { 0 }
    }

    fn set_features(&mut self, accepted: u64) -> Result<()> {
        let has_header = self.service.has_header();
        if has_header {
            let long = accepted & (MRG_RXBUF | VERSION_1) != 0;
            self.service.set_header(if long { LONG_HEADER } else { HEADER })?;
        }
        let features = accepted & self.features & KERNEL | if has_header { 0 } else { VIRTIO_NET_HDR };
        self.service.set_features(features).context(|| "vhost-net: features were refused".into())
    }

    fn set_memory(&mut self, memory: &[Region]) -> Result<()> {
        let place = |r: &Region| Place { guest: r.guest, len: r.len, memory: r.memory.clone(), offset: r.offset };
        let memory: Vec<Place> = memory.iter().map(place).collect();
        self.service.set_memory(&memory).context(|| "vhost-net: the guest's memory was refused".into())
    }

    fn set_ring(&mut self, index: usize, ring: &Ring, events: &Events) -> Result<()> {
        let sentence = || format!("vhost-net: ring {index} was refused");
        self.service.set_ring(index, ring).context(sentence)?;
        if self.busy_loop > 0 {
            self.service.set_busy_loop(index, self.busy_loop).context(sentence)?;
        }
        self.service.set_kick(index, events.kick.as_fd()).context(sentence)?;
        self.service.set_call(index, events.call.as_fd()).context(sentence)
    }

    fn enable(&mut self, on: bool) -> Result<()> {
        for index in 0..RINGS {
            self.service.set_backend(index, on).context(|| format!("vhost-net: ring {index} could not be switched"))?;
        }
        if !on && self.service.has_header() {
            self.service.set_header(HEADER)?;
        }
        Ok(())
    }

    fn next(&mut self, index: usize) -> Result<u16> {
        self.service.ring_next(index).context(|| format!("vhost-net: ring {index} does not tell its state"))
    }

    fn link(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
pub mod tests;
