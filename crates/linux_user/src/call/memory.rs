//! Mappings: the calls behind `crate::memory`, and advice, locking and synchronization of ranges.

use super::sx;
use crate::errno::{self, Errno, Ret};
use crate::layout;
use crate::memory::{PAGE, page_up};
use crate::task::Task;
use libc::*;
use std::sync::atomic::Ordering;

pub fn brk(t: &mut Task, a: [u32; 6]) -> Ret {
    Ok(t.memory().brk(a[0]))
}

/// The offset is in units of 4096 bytes.
pub fn mmap2(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[1] != 0 && (page_up(a[1] as u64) / PAGE as u64) + a[5] as u64 > u32::MAX as u64 {
        return Err(Errno(EOVERFLOW));
    }
    let at = t.memory().mmap(a[0], a[1], a[2] as i32, a[3] as i32, a[4] as i32, a[5] as u64 * 4096)?;
    layout::changed(t.memory());
    Ok(at)
}

/// The arguments lie in memory.
pub fn old_mmap(t: &mut Task, a: [u32; 6]) -> Ret {
    let v: [u32; 6] = t.memory().read(a[0])?;
    if !v[5].is_multiple_of(PAGE) {
        return Err(errno::EINVAL);
    }
    let at = t.memory().mmap(v[0], v[1], v[2] as i32, v[3] as i32, v[4] as i32, v[5] as u64)?;
    layout::changed(t.memory());
    Ok(at)
}

pub fn munmap(t: &mut Task, a: [u32; 6]) -> Ret {
    t.memory().munmap(a[0], a[1])
}

pub fn mprotect(t: &mut Task, a: [u32; 6]) -> Ret {
    t.memory().mprotect(a[0], a[1], a[2] as i32)
}

/// Without protection keys only key -1 exists.
pub fn pkey_mprotect(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[3] as i32 != -1 {
        return Err(errno::EINVAL);
    }
    t.memory().mprotect(a[0], a[1], a[2] as i32)
}

pub fn mremap(t: &mut Task, a: [u32; 6]) -> Ret {
    t.memory().mremap(a[0], a[1], a[2], a[3] as i32, a[4])
}

/// remap_file_pages(addr, size, 0, page, flags): another part of the file in a shared mapping, whose protection stays.
pub fn remap_file_pages(t: &mut Task, a: [u32; 6]) -> Ret {
    let (addr, size) = (a[0] & !(PAGE - 1), a[1] & !(PAGE - 1));
    let end = addr as u64 + size as u64;
    if a[2] != 0 || size == 0 || end > 1 << 32 || !t.memory().is_shared(addr, end) {
        return Err(errno::EINVAL);
    }
    // The pages' contents change: no translation may depend on them.
    t.memory().space.prepare_write(addr, size);
    let args = [t.memory().input(addr), size as u64, 0, a[3] as u64, a[4] as u64, 0];
    // SAFETY: a range of shared guest memory, which stays mapped as it is but for the place in the file.
    unsafe { t.host_call(SYS_remap_file_pages, args) }
}

/// Calls on a range of pages: the host must not see the reservation behind a hole, so the range must be mapped.
fn range_call(t: &mut Task, number: i64, a: [u32; 6], third: u64) -> Ret {
    if !a[0].is_multiple_of(PAGE) {
        return Err(errno::EINVAL);
    }
    let size = page_up(a[1] as u64);
    if a[0] as u64 + size > 1 << 32 {
        return Err(errno::ENOMEM);
    }
    if size != 0 && !t.memory().is_mapped(a[0], size) {
        return Err(errno::ENOMEM);
    }
    if number != SYS_msync && number != SYS_mincore {
        t.memory().make_room()?;
    }
    // SAFETY: a range of guest memory; none of these calls changes mappings.
    unsafe { t.host_call(number, [t.memory().input(a[0]), size, third, 0, 0, 0]) }
}

pub fn msync(t: &mut Task, a: [u32; 6]) -> Ret {
    range_call(t, SYS_msync, a, a[2] as u64)
}

/// A range that begins at a page; one that would reach around the end of all addresses has nothing mapped there.
fn whole_pages(a: [u32; 6]) -> Result<[u32; 6], Errno> {
    let len = a[1].checked_add(a[0] % PAGE).ok_or(errno::ENOMEM)?;
    Ok([a[0] & !(PAGE - 1), len, 0, 0, 0, 0])
}

pub fn mlock(t: &mut Task, a: [u32; 6]) -> Ret {
    range_call(t, SYS_mlock, whole_pages(a)?, 0)
}

pub fn munlock(t: &mut Task, a: [u32; 6]) -> Ret {
    range_call(t, SYS_munlock, whole_pages(a)?, 0)
}

pub fn mlock2(t: &mut Task, a: [u32; 6]) -> Ret {
    range_call(t, SYS_mlock2, whole_pages(a)?, a[2] as u64)
}

pub fn mlockall(t: &mut Task, a: [u32; 6]) -> Ret {
    let stack = &t.process.config.stack;
    t.memory().lock_all(a[0] as i32, stack.lowest..stack.top)
}

pub fn munlockall(t: &mut Task, _: [u32; 6]) -> Ret {
    t.memory().unlock_all()
}

/// The host knows what the emulator has registered for; a guest that has not is refused as natively.
pub fn membarrier(t: &mut Task, a: [u32; 6]) -> Ret {
    const GET_REGISTRATIONS: u32 = 1 << 9;
    const REGISTERING: u32 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;
    const PRIVATE: u32 = 1 << 3 | 1 << 5 | 1 << 7;
    let command = a[0];
    // SAFETY: plain numbers.
    let done = unsafe { t.host_call(SYS_membarrier, [command as u64, a[1] as u64, a[2] as u64, 0, 0, 0]) }?;
    let registered = &t.memory().barriers;
    match command {
        GET_REGISTRATIONS => return Ok(registered.load(Ordering::Relaxed)),
        c if c & REGISTERING != 0 => drop(registered.fetch_or(c, Ordering::Relaxed)),
        // Each one's registration is the bit above it.
        c if c & PRIVATE != 0 && registered.load(Ordering::Relaxed) & c << 1 == 0 => return Err(errno::EPERM),
        _ => {}
    }
    Ok(done)
}

pub fn mseal(t: &mut Task, a: [u32; 6]) -> Ret {
    const SYS_MSEAL: i64 = 462;
    // Other than its relatives it calls a range that ends behind the last page invalid.
    if a[0] as u64 + page_up(a[1] as u64) > 1 << 32 {
        return Err(errno::EINVAL);
    }
    range_call(t, SYS_MSEAL, a, a[2] as u64)
}

pub fn mincore(t: &mut Task, a: [u32; 6]) -> Ret {
    let pages = page_up(a[1] as u64) / PAGE as u64;
    let vector = t.memory().out(a[2], pages as u32);
    range_call(t, SYS_mincore, a, vector)
}

pub fn madvise(t: &mut Task, a: [u32; 6]) -> Ret {
    let advice = a[2] as i32;
    const MADV_DONTNEED_LOCKED: i32 = 24;
    const MADV_GUARD_INSTALL: i32 = 102;
    if matches!(advice, MADV_DONTNEED | MADV_DONTNEED_LOCKED | MADV_REMOVE | MADV_FREE | MADV_WIPEONFORK | MADV_GUARD_INSTALL) {
        // The pages' contents change: no translation may depend on them.
        t.memory().space.prepare_write(a[0], a[1]);
    }
    let done = range_call(t, SYS_madvise, a, sx(a[2]));
    if advice == MADV_DONTFORK {
        t.memory().stays_behind(a[0], page_up(a[1] as u64));
    }
    done
}

/// cacheflush(start, end, flags): the guest has written code.
pub fn cacheflush(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[1] < a[0] || a[2] != 0 {
        return Err(errno::EINVAL);
    }
    t.memory().space.invalidate(a[0], a[1] - a[0]);
    Ok(0)
}
