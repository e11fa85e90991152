//! The heap, and System V shared memory.
//!
//! Invariants: those of [`super`].

use super::map::Area;
use super::{ANONYMOUS, Memory, PAGE, TASK_SIZE, page_up};
use crate::errno::{self, Errno, Ret};
use jit::PageFlags;

impl Memory {
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
            let flags = Self::flags_of(&map, libc::PROT_READ | libc::PROT_WRITE, false).with(ANONYMOUS);
            let area = Area::new(new_end, flags);
            if !map.has_room(old_end as u32, new_end) || map.check_limits(new_end - old_end, &area).is_err() {
                return map.brk;
            }
            if self.map_anonymous(old_end as u32, new_end - old_end, flags).is_err() {
                return map.brk;
            }
            map.put(old_end as u32, area);
            self.space.set_range(old_end as u32, (new_end - old_end) as u32, flags);
            if self.lock_new(&map, old_end as u32, new_end, flags).is_err() {
                let _ = self.unmap_locked(&mut map, old_end as u32, new_end);
                return map.brk;
            }
        } else if new_end < old_end {
            if self.unmap_locked(&mut map, new_end as u32, old_end).is_err() {
                return map.brk;
            }
        }
        map.brk = wanted;
        wanted
    }

    pub fn shmat(&self, id: i32, addr: u32, flags: i32, size: u64) -> Ret {
        let mut map = self.lock();
        let size = page_up(size);
        /// SHMLBA of 32-bit ARM: four pages.
        const SHMLBA: u32 = 4 * PAGE;
        let at = if addr == 0 {
            map.find_free(size, SHMLBA).ok_or(errno::ENOMEM)?
        } else {
            let at = if flags & libc::SHM_RND != 0 { addr & !(SHMLBA - 1) } else { addr };
            let removes_zero = at == 0 && flags & libc::SHM_REMAP != 0;
            if removes_zero || !at.is_multiple_of(PAGE) || at as u64 + size > TASK_SIZE {
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
        map.put(at, Area::new(at as u64 + size, page_flags));
        map.attached.insert(at, size);
        self.space.set_range(at, size as u32, page_flags);
        let _ = self.lock_new(&map, at, at as u64 + size, page_flags);
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
}
