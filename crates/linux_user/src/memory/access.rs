//! Access to guest memory from system calls: every address is a guess of the guest's.
//!
//! Invariants: those of [`super`].

use super::{Memory, PAGE, PATH_MAX, Pod, TASK_SIZE};
use crate::errno::{self, Errno};
use host::guarded;
use jit::PageFlags;
use std::ffi::CString;

impl Memory {
    /// Copies guest bytes out.
    pub fn read_bytes(&self, addr: u32, buf: &mut [u8]) -> Result<(), Errno> {
        if addr as u64 + buf.len() as u64 > 1 << 32 {
            return Err(errno::EFAULT);
        }
        // SAFETY: invariant 2: guarded; the buffer is as long as said.
        self.reaching(addr, buf.len(), || unsafe { guarded::copy(buf.as_mut_ptr(), self.host(addr), buf.len()) })
    }

    pub fn write_bytes(&self, addr: u32, bytes: &[u8]) -> Result<(), Errno> {
        if addr as u64 + bytes.len() as u64 > 1 << 32 {
            return Err(errno::EFAULT);
        }
        self.space.prepare_write(addr, bytes.len() as u32);
        // SAFETY: invariant 2: guarded; the buffer is as long as said.
        self.reaching(addr, bytes.len(), || unsafe { guarded::copy(self.host(addr), bytes.as_ptr(), bytes.len()) })
    }

    /// A copy of `len` bytes at `addr` that gives how far it came: again, if it ended below an area that grows.
    fn reaching(&self, addr: u32, len: usize, mut copy: impl FnMut() -> usize) -> Result<(), Errno> {
        let done = copy();
        if done == len || self.reach(addr.wrapping_add(done as u32)) && copy() == len { Ok(()) } else { Err(errno::EFAULT) }
    }

    /// Makes a page that is about to be used part of the area that grows above it, if there is one. True: it is there now, and was
    /// not before.
    fn reach(&self, addr: u32) -> bool {
        !self.space.page(addr).has(PageFlags::MAPPED) && self.grow(addr)
    }

    pub fn read<T: Pod>(&self, addr: u32) -> Result<T, Errno> {
        let mut value = std::mem::MaybeUninit::<T>::zeroed();
        if is_word::<T>() && addr as u64 + size_of::<T>() as u64 <= 1 << 32 {
            self.reach(addr);
            // SAFETY: invariant 2: guarded; any bytes are a value of plain data, and the lowest come first on this host.
            unsafe {
                let word = guarded::load(self.host(addr), size_of::<T>() as u8).map_err(|_| errno::EFAULT)?;
                std::ptr::copy_nonoverlapping(
                    (&raw const word).cast::<u8>(),
                    value.as_mut_ptr().cast::<u8>(),
                    size_of::<T>(),
                );
                return Ok(value.assume_init());
            }
        }
        // SAFETY: `T` is plain data, so its bytes may be written and any bytes are a value.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>());
            self.read_bytes(addr, bytes)?;
            Ok(value.assume_init())
        }
    }

    pub fn write<T: Pod>(&self, addr: u32, value: T) -> Result<(), Errno> {
        if is_word::<T>() && addr as u64 + size_of::<T>() as u64 <= 1 << 32 {
            let mut word = 0u64;
            self.reach(addr);
            self.space.prepare_write(addr, size_of::<T>() as u32);
            // SAFETY: invariant 2: guarded; plain data has no padding, and the word has room for it.
            return unsafe {
                std::ptr::copy_nonoverlapping(
                    (&raw const value).cast::<u8>(),
                    (&raw mut word).cast::<u8>(),
                    size_of::<T>(),
                );
                guarded::store(self.host(addr), size_of::<T>() as u8, word).map_err(|_| errno::EFAULT)
            };
        }
        // SAFETY: `T` is plain data without padding, so its bytes may be read.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
        self.write_bytes(addr, bytes)
    }

    /// `count` values from `addr` on.
    pub fn read_vec<T: Pod>(&self, addr: u32, count: usize) -> Result<Vec<T>, Errno> {
        let size = count * size_of::<T>();
        if addr as u64 + size as u64 > 1 << 32 {
            return Err(errno::EFAULT);
        }
        let mut out = Vec::<T>::new();
        out.try_reserve_exact(count).map_err(|_| errno::ENOMEM)?;
        self.reach(addr);
        // SAFETY: invariant 2: guarded; any bytes are values of plain data, and there is room for so many.
        unsafe {
            if guarded::copy(out.as_mut_ptr().cast(), self.host(addr), size) != size {
                return Err(errno::EFAULT);
            }
            out.set_len(count);
        }
        Ok(out)
    }

    pub fn write_slice<T: Pod>(&self, addr: u32, values: &[T]) -> Result<(), Errno> {
        // SAFETY: plain data without padding: its bytes may be read.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        self.write_bytes(addr, bytes)
    }

    /// A NUL-terminated string of less than `max` bytes.
    pub fn read_string(&self, addr: u32, max: usize) -> Result<CString, Errno> {
        let mut bytes = Vec::new();
        self.append_string(addr, max, &mut bytes)?;
        Ok(CString::from_vec_with_nul(bytes).expect("cut at the first NUL"))
    }

    /// Appends a NUL-terminated string of less than `max` bytes, with its NUL.
    pub fn append_string(&self, addr: u32, max: usize, to: &mut Vec<u8>) -> Result<(), Errno> {
        // Most are short: one copy.
        const PART: usize = 256;
        let (mut at, mut left) = (addr, max);
        self.reach(addr);
        while left > 0 {
            let part = ((PAGE - at % PAGE) as usize).min(PART).min(left);
            to.reserve(part);
            let begin = to.len();
            // SAFETY: invariant 2: guarded; there is room for so many bytes, and as many are counted as were copied.
            let got = unsafe {
                let got = guarded::copy(to.as_mut_ptr().add(begin), self.host(at), part);
                to.set_len(begin + got);
                got
            };
            if let Some(nul) = memchr(0, &to[begin..]) {
                to.truncate(begin + nul + 1);
                return Ok(());
            }
            if got < part {
                return Err(errno::EFAULT);
            }
            left -= part;
            at = at.checked_add(part as u32).ok_or(errno::EFAULT)?;
        }
        Err(errno::ENAMETOOLONG)
    }

    /// A path name; ENAMETOOLONG as the kernel says it.
    pub fn read_path(&self, addr: u32) -> Result<CString, Errno> {
        self.read_string(addr, PATH_MAX)
    }

    /// A host pointer through which the kernel may write `len` bytes; null stays null.
    pub fn out(&self, addr: u32, len: u32) -> u64 {
        if addr == 0 {
            return 0;
        }
        self.reach(addr);
        self.space.prepare_write(addr, len);
        self.host(addr) as u64
    }

    /// A host pointer through which the kernel may read; null stays null.
    pub fn input(&self, addr: u32) -> u64 {
        if addr == 0 {
            return 0;
        }
        self.reach(addr);
        self.host(addr) as u64
    }

    /// How many of `len` bytes from `addr` on the guest has mapped, without a gap; to be written only where the kernel has nothing.
    pub fn reachable(&self, addr: u64, len: u32, write: bool) -> u32 {
        let end = (addr.saturating_add(len as u64)).min(if write { TASK_SIZE } else { 1 << 32 });
        let mut at = addr;
        while at < end && self.space.page(at as u32).has(PageFlags::MAPPED) {
            at = (at | (PAGE as u64 - 1)) + 1;
        }
        at.min(end).saturating_sub(addr) as u32
    }

    /// Whether a range of host addresses, given as base and length, lies in the guest's window.
    pub fn contains(&self, base: usize, len: usize) -> bool {
        let offset = base.wrapping_sub(self.host(0) as usize);
        base == 0 && len == 0 || offset < 1 << 32 && len <= (1 << 32) - offset
    }

    /// Atomically replaces the 32- or 64-bit word at `addr` if it holds `expected`; gives what it held.
    pub fn compare_exchange(&self, addr: u32, size: u8, expected: u64, new: u64) -> Result<u64, Errno> {
        self.reach(addr);
        self.space.prepare_write(addr, size as u32);
        // SAFETY: invariant 2: guarded.
        unsafe { guarded::compare_exchange(self.host(addr), size, expected, new) }.map_err(|_| errno::EFAULT)
    }
}

/// Whether a value of this type is moved by one instruction.
const fn is_word<T>() -> bool {
    matches!(size_of::<T>(), 1 | 2 | 4 | 8)
}

/// Where a byte is first; the C library's way is the fastest.
fn memchr(byte: u8, within: &[u8]) -> Option<usize> {
    // SAFETY: the slice is readable for its length.
    let found = unsafe { libc::memchr(within.as_ptr().cast(), byte as i32, within.len()) };
    (!found.is_null()).then(|| found as usize - within.as_ptr() as usize)
}
