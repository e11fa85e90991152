//! The guest's address space: what is mapped where, and access to it from system calls.
//!
//! **Not modelled**: RLIMIT_DATA, MAP_GROWSDOWN areas that grow.
//!
//! Invariants:
//! 1. Host memory inside the window changes its mapping only here, under the `map` lock; guest pages are never executable on
//!    the host.
//! 2. Guest memory is read and written by `host::guarded` or by the kernel, never through references: another guest thread
//!    may change or unmap it at any time.

use crate::errno::{self, Errno, Ret};
use host::guarded;
use jit::{PageFlags, Space};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard};

pub const PAGE: u32 = 4096;
/// No mapping begins below (vm.mmap_min_addr's usual value).
pub const LOWEST: u32 = 0x1_0000;
/// Mappings that the guest does not place itself lie below the stack, which lies below this.
pub const STACK_TOP: u32 = 0xefff_f000;
/// The kernel helper page.
pub const HELPER_PAGE: u32 = 0xffff_0000;
/// End of the addresses that a program can map.
pub const TASK_SIZE: u64 = 0xffff_0000;
/// Larger mappings are the kernel's to grant: it may have reasons to refuse them.
const OPENED_AT_MOST: u64 = 1 << 20;
/// Longest path, with its NUL.
pub const PATH_MAX: usize = 4096;

/// A plain-data structure of the guest's ABI: any bytes are a value, and there is no implicit padding.
///
/// # Safety
/// Implement through `abi_struct!` only, which checks this.
pub unsafe trait Pod: Copy {}

// SAFETY: integers have no padding and no invalid values.
unsafe impl Pod for u8 {}
// SAFETY: as above.
unsafe impl Pod for u16 {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for i32 {}
// SAFETY: as above.
unsafe impl Pod for u64 {}
// SAFETY: as above.
unsafe impl Pod for i64 {}
// SAFETY: an array of plain data is plain data.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Declares structures of the guest's ABI with their size in bytes; padding must be written out as fields.
macro_rules! abi_struct {
    ($($(#[$m:meta])* $name:ident $size:literal { $($field:ident: $t:ty,)* })*) => {$(
        $(#[$m])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $(pub $field: $t,)* }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!($(size_of::<$t>() +)* 0 == $size, "implicit padding");
        };
        // SAFETY: all fields are plain data, and the assertion above excludes padding.
        unsafe impl $crate::memory::Pod for $name {}
        impl $name {
            pub fn zeroed() -> Self {
                // SAFETY: plain data: all-zero bytes are a value.
                unsafe { std::mem::zeroed() }
            }
        }
    )*};
}
pub(crate) use abi_struct;

/// One mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    pub end: u64,
    pub flags: PageFlags,
}

/// A page whose mapping is MAP_SHARED.
pub const SHARED: PageFlags = PageFlags::USER1;
/// A page of a private anonymous mapping.
const ANONYMOUS: PageFlags = PageFlags::USER2;

#[derive(Default)]
pub struct Map {
    areas: BTreeMap<u32, Area>,
    brk_start: u32,
    brk: u32,
    /// Free mappings are searched downwards from here.
    top: u32,
    /// PROT_READ implies PROT_EXEC (an old program without PT_GNU_STACK).
    read_implies_exec: bool,
    /// Attached System V segments and their sizes.
    attached: BTreeMap<u32, u64>,
    /// RLIMIT_AS, if the guest has set it.
    limit: Option<u64>,
    /// Something unmapped could not be cleared on the host's side.
    unclean: bool,
}

pub struct Memory {
    pub space: Arc<Space>,
    map: Mutex<Map>,
}

pub fn page_down(addr: u32) -> u32 {
    addr & !(PAGE - 1)
}

pub fn page_up(addr: u64) -> u64 {
    (addr + PAGE as u64 - 1) & !(PAGE as u64 - 1)
}

impl Map {
    /// Removes the record of `start..end`, splitting areas that reach over its ends.
    fn cut(&mut self, start: u32, end: u64) {
        let over = self.areas.range(..start).next_back().filter(|(_, a)| a.end > start as u64).map(|(s, a)| (*s, *a));
        if let Some((s, a)) = over {
            self.areas.insert(s, Area { end: start as u64, ..a });
            if a.end > end {
                self.areas.insert(end as u32, a);
            }
        }
        let inside: Vec<_> =
            self.areas.range(start..).take_while(|(s, _)| (**s as u64) < end).map(|(s, a)| (*s, *a)).collect();
        for (s, a) in inside {
            self.areas.remove(&s);
            if a.end > end {
                self.areas.insert(end as u32, a);
            }
        }
    }

    fn put(&mut self, start: u32, end: u64, flags: PageFlags) {
        self.cut(start, end);
        let (mut start, mut end) = (start, end);
        if let Some((&s, a)) = self.areas.range(..start).next_back()
            && a.end == start as u64
            && a.flags == flags
        {
            start = s;
        }
        if end <= u32::MAX as u64
            && let Some(a) = self.areas.get(&(end as u32)).copied()
            && a.flags == flags
        {
            self.areas.remove(&(end as u32));
            end = a.end;
        }
        self.areas.insert(start, Area { end, flags });
    }

    /// ENOMEM if `more` bytes would go over the limit of the address space.
    fn check_limit(&self, more: u64) -> Result<(), Errno> {
        let Some(limit) = self.limit else { return Ok(()) };
        let used: u64 = self.areas.iter().map(|(s, a)| a.end - *s as u64).sum();
        if used + more > limit { Err(errno::ENOMEM) } else { Ok(()) }
    }

    /// Whether nothing is mapped in `start..end`.
    fn is_free(&self, start: u32, end: u64) -> bool {
        start >= LOWEST
            && end <= TASK_SIZE
            && self.areas.range(..end as u32).next_back().is_none_or(|(_, a)| a.end <= start as u64)
    }

    /// Whether all of `start..end` is mapped.
    fn is_mapped(&self, start: u32, end: u64) -> bool {
        let mut at = start as u64;
        let first = self.areas.range(..=start).next_back().map_or(start, |(s, _)| *s);
        for (s, a) in self.areas.range(first..) {
            if *s as u64 > at || at >= end {
                break;
            }
            at = at.max(a.end);
        }
        at >= end
    }

    /// The pieces of `start..end` that are mapped.
    fn mapped(&self, start: u32, end: u64) -> Vec<(u32, Area)> {
        let first =
            self.areas.range(..=start).next_back().filter(|(_, a)| a.end > start as u64).map_or(start, |(s, _)| *s);
        (self.areas.range(first..).take_while(|(s, _)| (**s as u64) < end))
            .map(|(s, a)| ((*s).max(start), Area { end: a.end.min(end), ..*a }))
            .collect()
    }

    /// The highest free range of `len` bytes below `top`, else above it, that is a multiple of `align`.
    fn find_free(&self, len: u64, align: u32) -> Option<u32> {
        self.find_below(self.top as u64, len, align).or_else(|| self.find_below(TASK_SIZE, len, align))
    }

    fn find_below(&self, top: u64, len: u64, align: u32) -> Option<u32> {
        let mut ceiling = top;
        let fits = |floor: u64, ceiling: u64| {
            let at = ceiling.checked_sub(len)? & !(align as u64 - 1);
            (at >= floor.max(LOWEST as u64)).then_some(at as u32)
        };
        for (s, a) in self.areas.range(..top as u32).rev() {
            if a.end < ceiling
                && let Some(at) = fits(a.end, ceiling)
            {
                return Some(at);
            }
            ceiling = ceiling.min(*s as u64);
        }
        fits(LOWEST as u64, ceiling)
    }
}

/// A host mapping that the guest may use: `prot` is the guest's, the host's never allows execution.
fn host_protection(flags: PageFlags) -> i32 {
    flags.without(PageFlags::CODE).protection()
}

impl Memory {
    pub fn new(space: Arc<Space>) -> Arc<Memory> {
        let map = Mutex::new(Map { top: STACK_TOP, ..Map::default() });
        Arc::new(Memory { space, map })
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap()
    }

    /// Holds off all changes of the map, for a fork.
    pub fn freeze(&self) -> impl Drop + '_ {
        struct Frozen<'a>(#[allow(dead_code, reason = "held for its drop")] MutexGuard<'a, Map>);
        impl Drop for Frozen<'_> {
            fn drop(&mut self) {}
        }
        Frozen(self.lock())
    }

    pub fn set_top(&self, top: u32) {
        self.lock().top = top;
    }

    /// Sets RLIMIT_AS.
    pub fn set_limit(&self, bytes: u64) {
        self.lock().limit = (bytes != libc::RLIM_INFINITY).then_some(bytes);
    }

    pub fn set_read_implies_exec(&self, on: bool) {
        self.lock().read_implies_exec = on;
    }

    /// All mappings, lowest first.
    pub fn areas(&self) -> Vec<(u32, Area)> {
        self.lock().areas.iter().map(|(s, a)| (*s, *a)).collect()
    }

    // ---- access ---------------------------------------------------------------------------------------------------

    pub fn host(&self, addr: u32) -> *mut u8 {
        self.space.host(addr)
    }

    /// Copies guest bytes out.
    pub fn read_bytes(&self, addr: u32, buf: &mut [u8]) -> Result<(), Errno> {
        if addr as u64 + buf.len() as u64 > 1 << 32 {
            return Err(errno::EFAULT);
        }
        // SAFETY: invariant 2: guarded; the buffer is as long as said.
        let done = unsafe { guarded::copy(buf.as_mut_ptr(), self.host(addr), buf.len()) };
        if done == buf.len() { Ok(()) } else { Err(errno::EFAULT) }
    }

    pub fn write_bytes(&self, addr: u32, bytes: &[u8]) -> Result<(), Errno> {
        if addr as u64 + bytes.len() as u64 > 1 << 32 {
            return Err(errno::EFAULT);
        }
        self.space.prepare_write(addr, bytes.len() as u32);
        // SAFETY: invariant 2: guarded; the buffer is as long as said.
        let done = unsafe { guarded::copy(self.host(addr), bytes.as_ptr(), bytes.len()) };
        if done == bytes.len() { Ok(()) } else { Err(errno::EFAULT) }
    }

    pub fn read<T: Pod>(&self, addr: u32) -> Result<T, Errno> {
        let mut value = std::mem::MaybeUninit::<T>::zeroed();
        if is_word::<T>() && addr as u64 + size_of::<T>() as u64 <= 1 << 32 {
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
        self.space.prepare_write(addr, len);
        self.host(addr) as u64
    }

    /// A host pointer through which the kernel may read; null stays null.
    pub fn input(&self, addr: u32) -> u64 {
        if addr == 0 { 0 } else { self.host(addr) as u64 }
    }

    /// Atomically replaces the 32- or 64-bit word at `addr` if it holds `expected`; gives what it held.
    pub fn compare_exchange(&self, addr: u32, size: u8, expected: u64, new: u64) -> Result<u64, Errno> {
        self.space.prepare_write(addr, size as u32);
        // SAFETY: invariant 2: guarded.
        unsafe { guarded::compare_exchange(self.host(addr), size, expected, new) }.map_err(|_| errno::EFAULT)
    }

    // ---- mappings -------------------------------------------------------------------------------------------------

    fn flags_of(map: &Map, prot: i32, shared: bool) -> PageFlags {
        let mut flags = PageFlags::MAPPED;
        for (bit, flag) in [
            (libc::PROT_READ, PageFlags::READ),
            (libc::PROT_WRITE, PageFlags::WRITE),
            (libc::PROT_EXEC, PageFlags::EXEC),
        ] {
            if prot & bit != 0 {
                flags = flags.with(flag);
            }
        }
        if map.read_implies_exec && flags.has(PageFlags::READ) {
            flags = flags.with(PageFlags::EXEC);
        }
        if shared { flags.with(SHARED) } else { flags }
    }

    /// Checks a range that the guest names: page-aligned, not empty, inside of the address space. Gives its end.
    fn range(addr: u32, len: u32) -> Result<u64, Errno> {
        let end = page_up(addr as u64 + len as u64);
        if !addr.is_multiple_of(PAGE) || len == 0 {
            return Err(errno::EINVAL);
        }
        if end > TASK_SIZE { Err(errno::ENOMEM) } else { Ok(end) }
    }

    /// Where a mapping of `len` bytes goes.
    fn place(map: &Map, addr: u32, len: u64, flags: i32) -> Result<u32, Errno> {
        if flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0 {
            let end = addr as u64 + len;
            if !addr.is_multiple_of(PAGE) {
                return Err(errno::EINVAL);
            }
            if end > TASK_SIZE {
                return Err(errno::ENOMEM);
            }
            if addr < LOWEST {
                return Err(errno::EPERM);
            }
            if flags & libc::MAP_FIXED_NOREPLACE != 0 && !map.is_free(addr, end) {
                return Err(errno::EEXIST);
            }
            return Ok(addr);
        }
        let hint = page_down(addr);
        if hint != 0 && map.is_free(hint, hint as u64 + len) {
            return Ok(hint);
        }
        map.find_free(len, PAGE).ok_or(errno::ENOMEM)
    }

    pub fn mmap(&self, addr: u32, len: u32, prot: i32, flags: i32, fd: i32, offset: u64) -> Ret {
        if len == 0 {
            return Err(errno::EINVAL);
        }
        let size = page_up(len as u64);
        if size > TASK_SIZE {
            return Err(errno::ENOMEM);
        }
        let mut map = self.lock();
        let at = Self::place(&map, addr, size, flags)?;
        let replaced: u64 = if map.limit.is_some() {
            map.mapped(at, at as u64 + size).iter().map(|(s, a)| a.end - *s as u64).sum()
        } else {
            0
        };
        map.check_limit(size - replaced)?;
        let shared = matches!(flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
        let mut page_flags = Self::flags_of(&map, prot, shared);
        if !shared && flags & libc::MAP_ANONYMOUS != 0 {
            page_flags = page_flags.with(ANONYMOUS);
        }
        let host_flags = flags & !(libc::MAP_FIXED_NOREPLACE | libc::MAP_GROWSDOWN | libc::MAP_32BIT) | libc::MAP_FIXED;
        let prot = host_protection(page_flags);
        let ordinary = flags & !(libc::MAP_FIXED | libc::MAP_NORESERVE | libc::MAP_STACK)
            == libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let opened = ordinary
            && size <= OPENED_AT_MOST
            && !map.unclean
            && map.is_free(at, at as u64 + size)
            && self.open_reserved(at, size, prot);
        if !opened {
            // The kernel would not map a page that is beyond the end of what it can execute; asking for EXEC from a file on a
            // noexec mount fails there, not here.
            // SAFETY: invariant 1: a range of the window, under the lock.
            let got =
                unsafe { libc::mmap(self.host(at).cast(), size as usize, prot, host_flags, fd, offset as libc::off_t) };
            if got == libc::MAP_FAILED {
                return Err(Errno::last());
            }
        }
        map.put(at, at as u64 + size, page_flags);
        self.space.set_range(at, size as u32, page_flags);
        Ok(at)
    }

    /// Makes untouched reserved memory accessible, which costs the host less than a new mapping in its place.
    fn open_reserved(&self, at: u32, size: u64, prot: i32) -> bool {
        // SAFETY: invariant 1: a free range of the window, under the lock. It is private anonymous memory that nobody has
        // touched since it was reserved.
        unsafe { libc::mprotect(self.host(at).cast(), size as usize, prot) == 0 }
    }

    /// Maps one page of the kernel's, which the guest can read and execute.
    pub fn map_kernel_page(&self, addr: u32, contents: &[u8]) -> Result<(), Errno> {
        let _map = self.lock();
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let flags = PageFlags::MAPPED.with(PageFlags::READ).with(PageFlags::EXEC);
        // SAFETY: invariant 1; the page is written before the guest runs.
        unsafe {
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            if libc::mmap(self.host(addr).cast(), PAGE as usize, rw, how, -1, 0) == libc::MAP_FAILED {
                return Err(Errno::last());
            }
            guarded::copy(self.host(addr), contents.as_ptr(), contents.len().min(PAGE as usize));
            libc::mprotect(self.host(addr).cast(), PAGE as usize, libc::PROT_READ);
        }
        self.space.set_range(addr, PAGE, flags);
        Ok(())
    }

    /// Takes `start..end` from the guest. Sealed mappings stay.
    fn forget(&self, map: &mut Map, start: u32, end: u64) -> Result<(), Errno> {
        self.clear_host(start, end)?;
        self.space.set_range(start, (end - start as u64) as u32, PageFlags::NONE);
        map.cut(start, end);
        Ok(())
    }

    /// Makes what the guest no longer has inaccessible on the host side. A failure leaves the old mapping, which nothing can be
    /// done about; the flags deny the guest's access.
    fn clear_left(&self, map: &mut Map, start: u32, end: u64) {
        map.unclean |= self.clear_host(start, end).is_err();
    }

    /// Makes `start..end` inaccessible on the host side.
    fn clear_host(&self, start: u32, end: u64) -> Result<(), Errno> {
        // SAFETY: invariant 1: a range of the window, under the lock.
        let got = unsafe {
            libc::mmap(
                self.host(start).cast(),
                (end - start as u64) as usize,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if got == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
    }

    pub fn munmap(&self, addr: u32, len: u32) -> Ret {
        let end = Self::range(addr, len).map_err(|_| errno::EINVAL)?;
        let mut map = self.lock();
        self.unmap_locked(&mut map, addr, end)?;
        Ok(0)
    }

    fn unmap_locked(&self, map: &mut Map, start: u32, end: u64) -> Result<(), Errno> {
        // Neighbours that differ in their flags only go together.
        let mut run: Option<(u32, u64)> = None;
        for (s, a) in map.mapped(start, end) {
            match &mut run {
                Some((_, until)) if *until == s as u64 => *until = a.end,
                _ => {
                    if let Some((s, until)) = run.replace((s, a.end)) {
                        self.forget(map, s, until)?;
                    }
                }
            }
        }
        match run {
            Some((s, until)) => self.forget(map, s, until),
            None => Ok(()),
        }
    }

    pub fn mprotect(&self, addr: u32, len: u32, prot: i32) -> Ret {
        let known = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC | libc::PROT_GROWSDOWN | libc::PROT_GROWSUP;
        if !addr.is_multiple_of(PAGE) || prot & !known != 0 {
            return Err(errno::EINVAL);
        }
        if len == 0 {
            return Ok(0);
        }
        let end = Self::range(addr, len)?;
        let mut map = self.lock();
        for (s, a) in map.mapped(addr, end) {
            let kept = PageFlags(a.flags.0 & ANONYMOUS.0);
            let flags = Self::flags_of(&map, prot, a.flags.has(SHARED)).with(kept);
            let size = (a.end - s as u64) as u32;
            // Drop translations (and their write protection) first, then change the host side.
            self.space.set_range(s, size, flags);
            // SAFETY: invariant 1.
            let rc = unsafe { libc::mprotect(self.host(s).cast(), size as usize, host_protection(flags)) };
            if rc != 0 {
                let e = Errno::last();
                self.space.set_range(s, size, a.flags);
                return Err(e);
            }
            map.put(s, a.end, flags);
        }
        if map.is_mapped(addr, end) { Ok(0) } else { Err(errno::ENOMEM) }
    }

    pub fn mremap(&self, old: u32, old_len: u32, new_len: u32, flags: i32, new_addr: u32) -> Ret {
        let known = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let (fixed, may_move) = (flags & libc::MREMAP_FIXED != 0, flags & libc::MREMAP_MAYMOVE != 0);
        let keep = flags & libc::MREMAP_DONTUNMAP != 0;
        if flags & !known != 0 || !old.is_multiple_of(PAGE) || new_len == 0 || (fixed || keep) && !may_move {
            return Err(errno::EINVAL);
        }
        let (old_size, new_size) = (page_up(old_len as u64), page_up(new_len as u64));
        if old as u64 + old_size > TASK_SIZE || keep && old_size != new_size {
            return Err(errno::EINVAL);
        }
        let mut map = self.lock();
        let area = match map.mapped(old, old as u64 + old_size.max(PAGE as u64)).first() {
            Some((s, a)) if *s == old => *a,
            _ => return Err(errno::EFAULT),
        };
        if old_size != 0 && !map.is_mapped(old, old as u64 + old_size) {
            return Err(errno::EFAULT);
        }
        if !fixed && !keep && new_size <= old_size {
            self.unmap_locked(&mut map, (old as u64 + new_size) as u32, old as u64 + old_size)?;
            return Ok(old);
        }
        map.check_limit(new_size.saturating_sub(old_size))?;
        let in_place =
            !fixed && !keep && old_size != 0 && map.is_free((old as u64 + old_size) as u32, old as u64 + new_size);
        let to = if in_place {
            old
        } else if fixed {
            if !new_addr.is_multiple_of(PAGE) || new_addr as u64 + new_size > TASK_SIZE || new_addr < LOWEST {
                return Err(errno::EINVAL);
            }
            let (a, b) = (old as u64, new_addr as u64);
            if a < b + new_size && b < a + old_size {
                return Err(errno::EINVAL);
            }
            new_addr
        } else if may_move {
            map.find_free(new_size, PAGE).ok_or(errno::ENOMEM)?
        } else {
            return Err(errno::ENOMEM);
        };
        self.move_mapping(&mut map, area.flags, (old, old_size), (to, new_size), keep)
    }

    /// The host's side of mremap, growing in place or moving.
    fn move_mapping(&self, map: &mut Map, flags: PageFlags, from: (u32, u64), to: (u32, u64), keep: bool) -> Ret {
        let ((old, old_size), (new, new_size)) = (from, to);
        // No translation may depend on what moves; pages protected for their code become writable again.
        self.space.prepare_write(old, old_size as u32);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | if keep { libc::MREMAP_DONTUNMAP } else { 0 };
        let host_old = self.host(old).cast();
        let hole = (old as u64 + old_size) as u32;
        let grow = (new_size as usize).wrapping_sub(old_size as usize);
        // SAFETY: invariant 1: both ranges lie in the window, under the lock.
        let got = unsafe {
            if new != old {
                libc::mremap(host_old, old_size as usize, new_size as usize, how, self.host(new))
            } else if flags.has(ANONYMOUS) {
                let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                libc::mmap(self.host(hole).cast(), grow, host_protection(flags), how, -1, 0)
            } else {
                // The reservation is in the kernel's way, so it is lifted for a moment. A host allocation of another thread
                // could only take the hole if the rest of the host's address space were full.
                libc::munmap(self.host(hole).cast(), grow);
                let got = libc::mremap(host_old, old_size as usize, new_size as usize, 0);
                if got == libc::MAP_FAILED {
                    let e = Errno::last();
                    self.clear_left(map, hole, old as u64 + new_size);
                    return Err(e);
                }
                got
            }
        };
        if got == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        if new != old && !keep {
            self.space.set_range(old, old_size as u32, PageFlags::NONE);
            self.clear_left(map, old, old as u64 + old_size);
            map.cut(old, old as u64 + old_size);
        }
        map.put(new, new as u64 + new_size, flags);
        self.space.set_range(new, new_size as u32, flags);
        Ok(new)
    }

    // ---- brk ------------------------------------------------------------------------------------------------------

    pub fn set_brk_start(&self, start: u32) {
        let mut map = self.lock();
        map.brk_start = start;
        map.brk = start;
    }

    /// The heap: from the first break to the current one.
    pub fn brk_range(&self) -> (u64, u64) {
        let map = self.lock();
        (map.brk_start as u64, page_up(map.brk as u64))
    }

    pub fn brk(&self, wanted: u32) -> u32 {
        let mut map = self.lock();
        if wanted < map.brk_start || wanted as u64 > TASK_SIZE {
            return map.brk;
        }
        let old_end = page_up(map.brk as u64);
        let new_end = page_up(wanted as u64);
        if new_end > old_end {
            if !map.is_free(old_end as u32, new_end) || map.check_limit(new_end - old_end).is_err() {
                return map.brk;
            }
            let flags = Self::flags_of(&map, libc::PROT_READ | libc::PROT_WRITE, false).with(ANONYMOUS);
            let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let host = self.host(old_end as u32).cast();
            // SAFETY: invariant 1.
            let got = unsafe { libc::mmap(host, (new_end - old_end) as usize, host_protection(flags), how, -1, 0) };
            if got == libc::MAP_FAILED {
                return map.brk;
            }
            map.put(old_end as u32, new_end, flags);
            self.space.set_range(old_end as u32, (new_end - old_end) as u32, flags);
        } else if new_end < old_end {
            if self.unmap_locked(&mut map, new_end as u32, old_end).is_err() {
                return map.brk;
            }
        }
        map.brk = wanted;
        wanted
    }

    // ---- System V shared memory -----------------------------------------------------------------------------------

    pub fn shmat(&self, id: i32, addr: u32, flags: i32, size: u64) -> Ret {
        let mut map = self.lock();
        let size = page_up(size);
        /// SHMLBA of 32-bit ARM: four pages.
        const SHMLBA: u32 = 4 * PAGE;
        let at = if addr == 0 {
            map.find_free(size, SHMLBA).ok_or(errno::ENOMEM)?
        } else {
            let at = if flags & libc::SHM_RND != 0 { addr & !(SHMLBA - 1) } else { addr };
            if !at.is_multiple_of(PAGE) || at as u64 + size > TASK_SIZE {
                return Err(errno::EINVAL);
            }
            if flags & libc::SHM_REMAP == 0 && !map.is_free(at, at as u64 + size) {
                return Err(errno::EINVAL);
            }
            at
        };
        let mut prot = libc::PROT_READ;
        if flags & libc::SHM_RDONLY == 0 {
            prot |= libc::PROT_WRITE;
        }
        if flags & libc::SHM_EXEC != 0 {
            prot |= libc::PROT_EXEC;
        }
        let page_flags = Self::flags_of(&map, prot, true);
        let how = flags & !(libc::SHM_EXEC | libc::SHM_RND) | libc::SHM_REMAP;
        // SAFETY: invariant 1; SHM_REMAP replaces the reservation.
        let got = unsafe { libc::shmat(id, self.host(at).cast(), how) };
        if got as isize == -1 {
            return Err(Errno::last());
        }
        map.put(at, at as u64 + size, page_flags);
        map.attached.insert(at, size);
        self.space.set_range(at, size as u32, page_flags);
        Ok(at)
    }

    pub fn shmdt(&self, addr: u32) -> Ret {
        let mut map = self.lock();
        let Some(size) = map.attached.remove(&addr) else { return Err(errno::EINVAL) };
        let end = addr as u64 + size;
        self.space.set_range(addr, size as u32, PageFlags::NONE);
        // SAFETY: invariant 1.
        if unsafe { libc::shmdt(self.host(addr).cast()) } != 0 {
            return Err(Errno::last());
        }
        self.clear_left(&mut map, addr, end);
        map.cut(addr, end);
        Ok(0)
    }

    /// Whether all of a range is mapped (msync, mincore and madvise say ENOMEM otherwise).
    pub fn is_mapped(&self, addr: u32, len: u32) -> bool {
        self.lock().is_mapped(addr, page_up(addr as u64 + len as u64))
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

#[cfg(test)]
mod tests {
    use super::*;

    const RW: PageFlags = PageFlags(PageFlags::MAPPED.0 | PageFlags::READ.0 | PageFlags::WRITE.0);
    const RO: PageFlags = PageFlags(PageFlags::MAPPED.0 | PageFlags::READ.0);

    fn map(areas: &[(u32, u64, PageFlags)]) -> Map {
        let mut m = Map { top: STACK_TOP, ..Map::default() };
        for &(s, e, f) in areas {
            m.put(s, e, f);
        }
        m
    }

    #[test]
    fn equal_neighbours_merge_and_a_cut_splits() {
        let mut m = map(&[(0x10000, 0x11000, RW), (0x12000, 0x13000, RW), (0x11000, 0x12000, RW)]);
        assert_eq!(m.areas.len(), 1);
        m.cut(0x11000, 0x12000);
        assert_eq!(
            m.mapped(0, 1 << 32),
            [(0x10000, Area { end: 0x11000, flags: RW }), (0x12000, Area { end: 0x13000, flags: RW })]
        );
        m.put(0x10000, 0x13000, RO);
        assert_eq!(m.areas.len(), 1);
        assert!(m.is_mapped(0x10000, 0x13000) && !m.is_mapped(0x10000, 0x14000));
    }

    #[test]
    fn free_ranges_are_found_from_the_top() {
        let m = map(&[(STACK_TOP - 0x2000, STACK_TOP as u64, RW), (STACK_TOP - 0x5000, STACK_TOP as u64 - 0x4000, RW)]);
        assert_eq!(m.find_free(0x2000, PAGE), Some(STACK_TOP - 0x4000));
        assert_eq!(m.find_free(0x3000, PAGE), Some(STACK_TOP - 0x8000));
        assert_eq!(m.find_free(1 << 32, PAGE), None);
        assert!(m.is_free(STACK_TOP - 0x4000, STACK_TOP as u64 - 0x2000));
        assert!(!m.is_free(STACK_TOP - 0x4000, STACK_TOP as u64 - 0x1000));
        assert!(!m.is_free(0, 0x1000), "below the lowest address");
    }
}
