//! Reservations of address space.
//!
//! Invariants:
//! 1. A `Reservation` owns `base..base + len`; nothing else in the process maps or unmaps there but through it.
//! 2. `base` stays valid until the reservation is dropped.

use spec::{Error, Result};

/// A stretch of address space that belongs to us and that nothing can access yet.
pub struct Reservation {
    base: *mut u8,
    len: usize,
}

// SAFETY: the struct holds an address only; whoever accesses the memory answers for it (invariant 1).
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

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

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
