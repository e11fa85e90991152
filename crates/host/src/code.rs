//! Memory for generated code: one memfd mapped twice, writable and executable, never both in one mapping.
//!
//! Invariants:
//! 1. `rw` and `rx` map the same `len` bytes; writes go through `rw` only.
//! 2. Bytes below the write position of a chunk are code that may be executing; they change only by `patch_u32` at
//!    4-byte-aligned offsets, which the processor fetches as a whole.

use spec::{Error, Result};
use std::sync::atomic::{AtomicU32, Ordering};

pub struct CodeMemory {
    rw: *mut u8,
    rx: *const u8,
    len: usize,
}

// SAFETY: concurrent use is by the rules of invariant 2; the pointers stay valid until drop.
unsafe impl Send for CodeMemory {}
// SAFETY: as above.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Maps `len` bytes (a multiple of the page size).
    pub fn new(len: usize) -> Result<CodeMemory> {
        let fail = |what: &str| Error::caused(format!("Unable to {what} {len:#x} bytes for translated code"), std::io::Error::last_os_error());
        // SAFETY: plain system calls on a file descriptor of our own; results are checked.
        unsafe {
            let fd = libc::memfd_create(c"rhea-code".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(fail("create"));
            }
            if libc::ftruncate(fd, len as libc::off_t) != 0 {
                return Err(fail("size"));
            }
            let map = |prot| libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0);
            let rw = map(libc::PROT_READ | libc::PROT_WRITE);
            let rx = map(libc::PROT_READ | libc::PROT_EXEC);
            libc::close(fd);
            if rw == libc::MAP_FAILED || rx == libc::MAP_FAILED {
                return Err(fail("map"));
            }
            Ok(CodeMemory { rw: rw.cast(), rx: rx.cast_const().cast(), len })
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address at which the code executes.
    pub fn rx(&self) -> *const u8 {
        self.rx
    }

    /// Whether a host address lies in the executable mapping; its offset if so.
    pub fn offset_of(&self, address: usize) -> Option<usize> {
        let o = address.wrapping_sub(self.rx as usize);
        (o < self.len).then_some(o)
    }

    /// Copies finished code to `offset`, where nothing executes yet.
    pub fn write(&self, offset: usize, code: &[u8]) {
        assert!(offset <= self.len && code.len() <= self.len - offset, "code outside of the code memory");
        // SAFETY: in bounds (checked); nothing executes or reads there yet (the caller hands out fresh ranges).
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.rw.add(offset), code.len()) };
    }

    /// After `fork`, in the child: gives this process a copy of its own of the first `used` bytes, at the same addresses, so
    /// that parent and child no longer write to the same code.
    pub fn detach(&self, used: usize) -> Result<()> {
        let fail = |what: &str| Error::caused(format!("Unable to {what} the translated code of a child process"), std::io::Error::last_os_error());
        // SAFETY: system calls on a new file descriptor; the fixed mappings replace our own (invariant 1), and the copy is
        // complete before it takes the place of the original.
        unsafe {
            let fd = libc::memfd_create(c"rhea-code".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 || libc::ftruncate(fd, self.len as libc::off_t) != 0 {
                return Err(fail("create"));
            }
            let mut done = 0;
            while done < used {
                let n = libc::pwrite(fd, self.rw.add(done).cast(), used - done, done as libc::off_t);
                if n <= 0 {
                    libc::close(fd);
                    return Err(fail("copy"));
                }
                done += n as usize;
            }
            let map = |at: *mut u8, prot| {
                libc::mmap(at.cast(), self.len, prot, libc::MAP_SHARED | libc::MAP_FIXED, fd, 0) != libc::MAP_FAILED
            };
            let ok = map(self.rw, libc::PROT_READ | libc::PROT_WRITE)
                && map(self.rx.cast_mut(), libc::PROT_READ | libc::PROT_EXEC);
            libc::close(fd);
            if ok { Ok(()) } else { Err(fail("map")) }
        }
    }

    /// Replaces four bytes of code that may be executing.
    pub fn patch_u32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len, "patch outside of the code memory");
        // SAFETY: in bounds and aligned (checked); invariant 2.
        let word = unsafe { AtomicU32::from_ptr(self.rw.add(offset).cast()) };
        word.store(value, Ordering::Release);
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: both mappings are ours.
        unsafe {
            libc::munmap(self.rw.cast(), self.len);
            libc::munmap(self.rx.cast_mut().cast(), self.len);
        }
    }
}
