//! The kernel's service for the rings of a network card (`/dev/vhost-net`): the requests that have no safe wrapper.
//!
//! Reference: Linux `include/uapi/linux/vhost.h` and `vhost_types.h`.
//! Not modelled: a log of changed pages, an IOMMU, rings in big endian.
//!
//! Invariants:
//! 1. Every `ioctl` here gets a descriptor that lives for the call and a pointer to a local value of the type and size
//!    that the request is defined for; the kernel keeps no such pointer.
//! 2. The kernel knows only addresses inside of memory whose owners are in `memory`. Owners leave that list only while no
//!    ring has a back end, which is when the kernel touches nothing: [`VhostNet::set_memory`] and `drop` see to it.
//! 3. Rings are named by guest addresses. Each of their three parts, at the size that the kernel is told, lies inside of
//!    one region; a ring gets a back end only if it was placed after the last change of the regions.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use libc::c_ulong;

use crate::map::Mapped;

pub const DEVICE: &str = "/dev/vhost-net";
/// Rings of one card: received frames, sent frames.
pub const RINGS: usize = 2;
/// Regions in one table; the kernel's own limit is 64 by default.
pub const REGIONS_MAX: usize = 64;

/// Numbers of the requests: the direction and size of what is passed, the letter 0xaf, the kind.
mod request {
    pub const GET_FEATURES: u64 = 0x8008_af00;
    pub const SET_FEATURES: u64 = 0x4008_af00;
    pub const SET_OWNER: u64 = 0xaf01;
    pub const SET_MEM_TABLE: u64 = 0x4008_af03;
    pub const SET_VRING_NUM: u64 = 0x4008_af10;
    pub const SET_VRING_ADDR: u64 = 0x4028_af11;
    pub const SET_VRING_BASE: u64 = 0x4008_af12;
    pub const GET_VRING_BASE: u64 = 0xc008_af12;
    pub const SET_VRING_KICK: u64 = 0x4008_af20;
    pub const SET_VRING_CALL: u64 = 0x4008_af21;
    pub const SET_VRING_BUSYLOOP_TIMEOUT: u64 = 0x4008_af23;
    pub const NET_SET_BACKEND: u64 = 0x4008_af30;
}

/// `struct vhost_vring_state`.
#[repr(C)]
struct State {
    index: u32,
    number: u32,
}

/// `struct vhost_vring_file`.
#[repr(C)]
struct RingFile {
    index: u32,
    fd: i32,
}

/// `struct vhost_vring_addr`.
#[repr(C)]
struct Place {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// `struct vhost_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Row {
    guest: u64,
    len: u64,
    address: u64,
    flags: u64,
}

/// `struct vhost_memory`, with room for all its rows.
#[repr(C)]
struct Table {
    count: u32,
    padding: u32,
    rows: [Row; REGIONS_MAX],
}

/// Memory of the guest: `len` bytes at `guest` are those at `offset` of `memory`.
#[derive(Clone)]
pub struct Region {
    pub guest: u64,
    pub len: u64,
    pub memory: Arc<dyn Mapped>,
    pub offset: u64,
}

/// Where a ring is in the guest's memory, and what is next in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub next: u16,
}

/// An open `/dev/vhost-net`.
pub struct VhostNet {
    file: File,
    memory: Vec<Region>,
    placed: [bool; RINGS],
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, what.to_string())
}

impl VhostNet {
    pub fn open() -> Result<VhostNet> {
        Ok(VhostNet::given(OpenOptions::new().read(true).write(true).open(DEVICE)?))
    }

    /// Uses a service that somebody else opened.
    pub fn given(file: File) -> VhostNet {
        VhostNet { file, memory: Vec::new(), placed: [false; RINGS] }
    }

    fn ask<T>(&self, request: u64, value: &mut T) -> Result<()> {
        // SAFETY: invariant 1; the callers below pair each request with its type.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request as c_ulong, std::ptr::from_mut(value)) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Ties the service to this process's memory; before anything else.
    pub fn set_owner(&self) -> Result<()> {
        // SAFETY: invariant 1; this request takes no value.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request::SET_OWNER as c_ulong, 0) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    pub fn features(&self) -> Result<u64> {
        let mut features = 0u64;
        self.ask(request::GET_FEATURES, &mut features)?;
        Ok(features)
    }

    pub fn set_features(&self, mut features: u64) -> Result<()> {
        self.ask(request::SET_FEATURES, &mut features)
    }

    /// Where the guest's memory lies. Takes the back ends away from the rings, which must be placed again.
    pub fn set_memory(&mut self, memory: &[Region]) -> Result<()> {
        if memory.len() > REGIONS_MAX {
            return Err(bad("too many regions of memory"));
        }
        let mut table = Table { count: memory.len() as u32, padding: 0, rows: [Row::default(); REGIONS_MAX] };
        for (region, row) in memory.iter().zip(&mut table.rows) {
            let whole = region.memory.len() as u64;
            if region.offset > whole || region.len > whole - region.offset {
                return Err(bad("a region is larger than its memory"));
            }
            let address = region.memory.base().addr() as u64 + region.offset;
            *row = Row { guest: region.guest, len: region.len, address, flags: 0 };
        }
        self.leave()?;
        self.ask(request::SET_MEM_TABLE, &mut table)?;
        self.memory = memory.to_vec();
        Ok(())
    }

    /// The kernel touches nothing from here on.
    fn leave(&mut self) -> Result<()> {
        (0..RINGS).try_for_each(|index| self.unplace(index))
    }

    /// Without a place there can be no back end (and a service without an owner would refuse the request).
    fn unplace(&mut self, index: usize) -> Result<()> {
        if self.placed[index] {
            self.set_backend(index, None)?;
            self.placed[index] = false;
        }
        Ok(())
    }

    /// The place in this process of a stretch of guest memory.
    fn address(&self, guest: u64, len: u64) -> Result<u64> {
        let inside = |r: &&Region| guest.checked_sub(r.guest).is_some_and(|at| at <= r.len && len <= r.len - at);
        let region = self.memory.iter().find(inside).ok_or_else(|| bad("a ring lies outside of the guest's memory"))?;
        Ok(region.memory.base().addr() as u64 + region.offset + (guest - region.guest))
    }

    /// Size, next entry and place of a ring. Takes its back end away.
    pub fn set_ring(&mut self, index: usize, ring: &Ring) -> Result<()> {
        if index >= RINGS {
            return Err(bad("there is no such ring"));
        }
        self.unplace(index)?;
        // VIRTIO 1.2, 2.7; the two indices and the event field around the entries are counted in.
        let size = u64::from(ring.size);
        let mut place = Place {
            index: index as u32,
            flags: 0,
            descriptors: self.address(ring.descriptors, 16 * size)?,
            used: self.address(ring.used, 6 + 8 * size)?,
            available: self.address(ring.available, 6 + 2 * size)?,
            log: 0,
        };
        self.set_state(request::SET_VRING_NUM, index, ring.size.into())?;
        self.set_state(request::SET_VRING_BASE, index, ring.next.into())?;
        self.ask(request::SET_VRING_ADDR, &mut place)?;
        self.placed[index] = true;
        Ok(())
    }

    fn set_state(&self, request: u64, index: usize, number: u32) -> Result<()> {
        self.ask(request, &mut State { index: index as u32, number })
    }

    /// What is next in a ring.
    pub fn ring_next(&self, index: usize) -> Result<u16> {
        let mut state = State { index: index as u32, number: 0 };
        self.ask(request::GET_VRING_BASE, &mut state)?;
        Ok(state.number as u16)
    }

    /// Microseconds for which the kernel looks at a ring before it sleeps.
    pub fn set_busy_loop(&self, index: usize, microseconds: u32) -> Result<()> {
        self.set_state(request::SET_VRING_BUSYLOOP_TIMEOUT, index, microseconds)
    }

    /// The event descriptor that the kernel waits for.
    pub fn set_kick(&self, index: usize, event: BorrowedFd<'_>) -> Result<()> {
        self.set_file(request::SET_VRING_KICK, index, Some(event))
    }

    /// The event descriptor by which the kernel tells of what it has done.
    pub fn set_call(&self, index: usize, event: BorrowedFd<'_>) -> Result<()> {
        self.set_file(request::SET_VRING_CALL, index, Some(event))
    }

    /// The tap interface at the other end of a ring, which starts it; `None` stops it.
    pub fn set_backend(&self, index: usize, tap: Option<BorrowedFd<'_>>) -> Result<()> {
        if tap.is_some() && !self.placed.get(index).is_some_and(|placed| *placed) {
            return Err(bad("a ring without a place cannot start"));
        }
        self.set_file(request::NET_SET_BACKEND, index, tap)
    }

    fn set_file(&self, request: u64, index: usize, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        self.ask(request, &mut RingFile { index: index as u32, fd })
    }
}

impl Drop for VhostNet {
    fn drop(&mut self) {
        // Whoever opened the service for us may hold it open longer than we live (invariant 2).
        if self.leave().is_err() {
            std::mem::forget(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Reservation;

    /// What is checked before the kernel hears of it.
    #[test]
    fn nothing_outside_of_the_memory_is_named() {
        let mut vhost = VhostNet::given(File::open("/dev/null").unwrap());
        let memory: Arc<dyn Mapped> = Arc::new(Reservation::new(8192).unwrap());
        let region = |len, offset| Region { guest: 0x4000, len, memory: memory.clone(), offset };
        let refused = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
        refused(vhost.set_memory(&[region(8193, 0)]));
        refused(vhost.set_memory(&[region(1, 8192)]));
        refused(vhost.set_memory(&[region(0, u64::MAX)]));
        refused(vhost.set_memory(&vec![region(1, 0); REGIONS_MAX + 1]));
        // A file that is no such service refuses what is right.
        assert_ne!(vhost.set_memory(&[region(4096, 4096)]).unwrap_err().kind(), ErrorKind::InvalidInput);
        vhost.memory = vec![region(4096, 4096)];
        assert_eq!(vhost.address(0x4000, 4096).unwrap(), memory.base().addr() as u64 + 4096);
        refused(vhost.address(0x4000, 4097).map(|_| ()));
        refused(vhost.address(0x3fff, 1).map(|_| ()));
        refused(vhost.address(u64::MAX, 2).map(|_| ()));
        let ring = Ring { size: 256, descriptors: 0x4000, available: 0x4000, used: 0x4801, next: 0 };
        refused(vhost.set_ring(0, &ring));
        refused(vhost.set_ring(RINGS, &ring));
        refused(vhost.set_backend(0, Some(std::os::fd::AsFd::as_fd(&vhost.file))));
        assert!(vhost.set_owner().is_err() && vhost.features().is_err() && vhost.ring_next(0).is_err());
    }

    #[test]
    fn the_sizes_are_those_in_the_numbers() {
        let size = |request: u64| (request >> 16 & 0x3fff) as usize;
        assert_eq!(size(request::SET_VRING_ADDR), size_of::<Place>());
        assert_eq!(size(request::SET_VRING_NUM), size_of::<State>());
        assert_eq!(size(request::SET_VRING_KICK), size_of::<RingFile>());
        assert_eq!(size(request::SET_MEM_TABLE), std::mem::offset_of!(Table, rows));
        assert_eq!(size(request::SET_OWNER), 0);
    }
}
