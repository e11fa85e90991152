//! mlockall: of the guest's mappings, not of the emulator's memory around them.
//!
//! Reference: mlockall(2), mlock2(2).
//!
//! Invariants: those of [`super`].

use super::Memory;
use super::map::Map;
use crate::errno::{self, Errno, Ret};
use jit::PageFlags;
use libc::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT};
use std::ops::Range;

/// Whether locked pages are brought in at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    Now,
    OnFault,
}

impl Memory {
    /// `stack` is the whole room for the first thread's stack, of which a kernel would count only what is in use: where the limit
    /// does not allow it, it stays as it is.
    pub fn lock_all(&self, flags: i32, stack: Range<u32>) -> Ret {
        if flags & (MCL_CURRENT | MCL_FUTURE) == 0 || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 {
            return Err(errno::EINVAL);
        }
        may_lock()?;
        let how = if flags & MCL_ONFAULT != 0 { Lock::OnFault } else { Lock::Now };
        let mut map = self.lock();
        if flags & MCL_CURRENT != 0 {
            for (start, area) in map.areas.clone() {
                let of_stack = start < stack.end && area.end > stack.start as u64;
                let how = if of_stack { Lock::OnFault } else { how };
                self.lock_range(start, area.end, how, area.flags)
                    .or_else(|e| if of_stack { Ok(()) } else { Err(e) })?;
            }
        }
        map.lock_new = (flags & MCL_FUTURE != 0).then_some(how);
        Ok(0)
    }

    pub fn unlock_all(&self) -> Ret {
        let mut map = self.lock();
        map.lock_new = None;
        for (start, area) in &map.areas {
            // SAFETY: a range of guest memory, under the lock; it stays mapped.
            unsafe { libc::munlock(self.host(*start).cast(), (area.end - *start as u64) as usize) };
        }
        Ok(0)
    }

    /// A forked child has no locked memory, and does not go on locking.
    pub fn unlocked_by_fork(&self) {
        self.lock().lock_new = None;
    }

    /// Locks what was just mapped, if the guest wants that. EAGAIN: the limit does not allow so much.
    pub(super) fn lock_new(&self, map: &Map, start: u32, end: u64, flags: PageFlags) -> Result<(), Errno> {
        let Some(how) = map.lock_new else { return Ok(()) };
        self.lock_range(start, end, how, flags).map_err(|_| errno::EAGAIN)
    }

    /// ENOMEM: the limit does not allow so much. That a page cannot be brought in is no error here.
    fn lock_range(&self, start: u32, end: u64, how: Lock, flags: PageFlags) -> Result<(), Errno> {
        let (host, size) = (self.host(start).cast(), (end - start as u64) as usize);
        // Pages that nobody may read cannot be brought in.
        if how == Lock::Now && flags.has(PageFlags::READ) {
            // SAFETY: a range of guest memory, under the lock; it stays mapped.
            if unsafe { libc::mlock(host, size) } == 0 {
                return Ok(());
            }
        }
        // SAFETY: as above.
        if unsafe { libc::mlock2(host, size, MLOCK_ONFAULT) } == 0 { Ok(()) } else { Err(Errno::last()) }
    }
}

/// EPERM if this process may not lock anything.
fn may_lock() -> Result<(), Errno> {
    let mut page = 0u8;
    // SAFETY: locks, and unlocks, the page that a variable of ours lies in.
    unsafe {
        let at = (&raw mut page).cast();
        if libc::mlock2(at, 1, MLOCK_ONFAULT) != 0 && Errno::last() == errno::EPERM {
            return Err(errno::EPERM);
        }
        libc::munlock(at, 1);
    }
    Ok(())
}
