//! Memory for generated code: shared memory mapped twice, writable and executable, never both in one mapping.
//!
//! Invariants:
//! 1. `rw` and `rx` map the same `len` bytes; writes go through `rw` only.
//! 2. Bytes below the write position of a chunk are code that may be executing; they change only by `patch_u32` at
//!    4-byte-aligned offsets, which the processor fetches as a whole.

use spec::{Error, Result};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

pub struct CodeMemory {
    rw: *mut u8,
    rx: *const u8,
    len: usize,
    /// Bytes from the start that were asked for ahead of their use.
    populated: AtomicUsize,
}

/// How much memory is asked for at once: a fault for each page of it, twice, costs more.
const AHEAD: usize = 128 << 10;

// SAFETY: concurrent use is by the rules of invariant 2; the pointers stay valid until drop.
unsafe impl Send for CodeMemory {}
// SAFETY: as above.
unsafe impl Sync for CodeMemory {}

/// Writable memory that can be mapped a second time. It is no file, so limits on files do not count.
fn shared_memory(len: usize) -> std::io::Result<*mut u8> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let how = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address that the kernel chooses touches no existing memory.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, how, -1, 0) };
    if at == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(at.cast()) }
}

/// Maps shared memory a second time, executable, at `place` or where the kernel chooses.
///
/// # Safety
/// `rw` must be a shared mapping of `len` bytes, and `place` the start of as many bytes that may be replaced.
unsafe fn map_again(rw: *mut u8, len: usize, place: Option<*const u8>) -> std::io::Result<*const u8> {
    let fixed = if place.is_some() { libc::MREMAP_FIXED } else { 0 };
    let place = place.unwrap_or(std::ptr::null()).cast_mut();
    // SAFETY: the caller's promise. An old size of 0 makes another mapping of the same shared memory.
    unsafe {
        let rx = libc::mremap(rw.cast(), 0, len, libc::MREMAP_MAYMOVE | fixed, place);
        if rx == libc::MAP_FAILED || libc::mprotect(rx, len, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(rx.cast_const().cast())
    }
}

impl CodeMemory {
    /// Maps `len` bytes (a multiple of the page size).
    pub fn new(len: usize) -> Result<CodeMemory> {
        let fail = |what: &str| {
            Error::caused(
                format!("Unable to {what} {len:#x} bytes for translated code"),
                std::io::Error::last_os_error(),
            )
        };
        let rw = shared_memory(len).map_err(|_| fail("map"))?;
        // SAFETY: the mapping is ours and `len` bytes long.
        match unsafe { map_again(rw, len, None) } {
            Ok(rx) => Ok(CodeMemory { rw, rx, len, populated: AtomicUsize::new(0) }),
            Err(_) => Err(fail("map")),
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
        if offset + code.len() > self.populated.load(Ordering::Relaxed) {
            self.populate(offset, code.len());
        }
        // SAFETY: in bounds (checked); nothing executes or reads there yet (the caller hands out fresh ranges).
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.rw.add(offset), code.len()) };
    }

    /// Asks for the memory of a range and some more behind it.
    fn populate(&self, offset: usize, len: usize) {
        let from = self.populated.load(Ordering::Relaxed).max(offset & !4095);
        let to = (offset + len).next_multiple_of(AHEAD).min(self.len);
        self.populated.fetch_max(to, Ordering::Relaxed);
        // SAFETY: both ranges are within our own mappings. Kernels that do not know the advice refuse; the memory comes with
        // its first use then.
        unsafe {
            libc::madvise(self.rw.add(from).cast(), to - from, libc::MADV_POPULATE_WRITE);
            libc::madvise(self.rx.add(from).cast_mut().cast(), to - from, libc::MADV_POPULATE_READ);
        }
    }

    /// Before `fork`: a copy of the first `used` bytes for the child, which nobody may change until the fork is done.
    pub fn copy(&self, used: usize) -> Result<CodeCopy> {
        assert!(used <= self.len, "more code than memory");
        let rw = shared_memory(self.len).map_err(|_| child_failure())?;
        let copy = CodeCopy { rw, len: self.len };
        // SAFETY: both mappings are at least `used` bytes long. The advice saves a fault for each page; kernels that do not
        // know it refuse.
        unsafe {
            libc::madvise(rw.cast(), used.next_multiple_of(4096).min(self.len), libc::MADV_POPULATE_WRITE);
            std::ptr::copy_nonoverlapping(self.rw, rw, used);
        }
        Ok(copy)
    }

    /// After `fork`, in the child: the copy takes the original's place, at the same addresses, so that parent and child do
    /// not write to the same code.
    pub fn adopt(&self, copy: CodeCopy) -> Result<()> {
        assert!(copy.len == self.len, "a copy of other code memory");
        let rw = copy.rw;
        std::mem::forget(copy);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the fixed mappings replace our own (invariant 1), and the copy's mapping moves.
        unsafe {
            if libc::mremap(rw.cast(), self.len, self.len, how, self.rw) == libc::MAP_FAILED {
                return Err(child_failure());
            }
            map_again(self.rw, self.len, Some(self.rx)).map(|_| ()).map_err(|_| child_failure())
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

fn child_failure() -> Error {
    Error::caused("Unable to map the translated code of a child process", std::io::Error::last_os_error())
}

/// A child's code memory before the child has it.
pub struct CodeCopy {
    rw: *mut u8,
    len: usize,
}

impl Drop for CodeCopy {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.rw.cast(), self.len) };
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
