//! Reservations of address space.
//!
//! Invariants:
//! 1. A `Reservation` owns `base..base + len`; nothing else in the process maps or unmaps there but through it.
//! 2. `base` stays valid until the reservation is dropped.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use spec::{Error, Result};

/// Memory that stays where it is.
///
/// # Safety
/// `base()..base() + len()` stays the same and mapped, for nothing else, as long as the value lives.
pub unsafe trait Mapped: Send + Sync {
    fn base(&self) -> *mut u8;
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stretch of address space that belongs to us and that nothing can access yet.
pub struct Reservation {
    base: *mut u8,
    len: usize,
}

// SAFETY: the struct holds an address only; whoever accesses the memory answers for it (invariant 1).
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

// SAFETY: invariants 1 and 2.
unsafe impl Mapped for Reservation {
    fn base(&self) -> *mut u8 {
        self.base
    }
    fn len(&self) -> usize {
        self.len
    }
}

impl Reservation {
    /// Reserves `len` bytes (a multiple of the page size) without committing memory.
    pub fn new(len: usize) -> Result<Reservation> {
        // SAFETY: an anonymous mapping at an address the kernel chooses touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            let e = std::io::Error::last_os_error();
            return Err(Error::caused(format!("Unable to reserve {len:#x} bytes of address space"), e));
        }
        Ok(Reservation { base: base.cast(), len })
    }

    /// Maps the first `len` bytes of a file that is at least that long, for reading and writing. With `shared` others who
    /// map the file see what is written.
    pub fn of_file(file: &File, len: usize, shared: bool) -> Result<Reservation> {
        let sharing = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a new mapping at an address the kernel chooses touches no existing memory.
        let base = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, access, sharing | libc::MAP_NORESERVE, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            let e = std::io::Error::last_os_error();
            return Err(Error::caused(format!("Unable to map {len:#x} bytes of a file"), e));
        }
        Ok(Reservation { base: base.cast(), len })
    }

    pub fn base(&self) -> *mut u8 {
        self.base
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Changes the protection (`libc::PROT_*`) of `offset..offset + len`.
    pub fn protect(&self, offset: usize, len: usize, prot: i32) -> std::io::Result<()> {
        assert!(offset <= self.len && len <= self.len - offset, "range outside of the reservation");
        // SAFETY: invariant 1; changing the protection of our own range frees no memory.
        let rc = unsafe { libc::mprotect(self.base.add(offset).cast(), len, prot) };
        if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

/// A file of `len` zero bytes that exists in memory only. With `seal` nobody can change its length any more.
pub fn memory_file(len: u64, seal: bool) -> std::io::Result<File> {
    // SAFETY: a constant name; the descriptor is new and ours alone.
    let file = unsafe {
        let fd = libc::memfd_create(c"memory".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    file.set_len(len)?;
    let seals = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: a request without pointers on a descriptor that we hold.
    if seal && unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(file)
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
