//! What changes the map: mmap, munmap, mprotect, mremap.
//!
//! Invariants: those of [`super`].

use super::map::{Area, Map};
use super::{ANONYMOUS, LOWEST, Memory, PAGE, SHARED, TASK_SIZE, page_down, page_up};
use crate::errno::{self, Errno, Ret};
use host::guarded;
use jit::PageFlags;

/// Larger mappings are the kernel's to grant: it may have reasons to refuse them.
const OPENED_AT_MOST: u64 = 1 << 20;

/// A host mapping that the guest may use: `prot` is the guest's, the host's never allows execution.
pub(super) fn host_protection(flags: PageFlags) -> i32 {
    flags.without(PageFlags::CODE).protection()
}

/// Private pages that the kernel may drop (Linux 6.11).
const MAP_DROPPABLE: i32 = 8;

/// There are no pages of other sizes, as on ARM kernels without them. The host would round a mapping of such pages up, over what
/// lies behind it.
fn check_page_size(flags: i32, fd: i32) -> Result<(), Errno> {
    if flags & libc::MAP_ANONYMOUS != 0 {
        return if flags & libc::MAP_HUGETLB != 0 { Err(errno::EINVAL) } else { Ok(()) };
    }
    // SAFETY: all-zero bytes are a value, and the call fills the structure.
    let found = unsafe {
        let mut s: libc::statfs = std::mem::zeroed();
        (libc::fstatfs(fd, &raw mut s) == 0).then_some(s.f_type)
    };
    if found == Some(libc::HUGETLBFS_MAGIC) { Err(errno::EINVAL) } else { Ok(()) }
}

impl Memory {
    pub(super) fn flags_of(map: &Map, prot: i32, shared: bool) -> PageFlags {
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
        if hint != 0 && map.has_room(hint, hint as u64 + len) {
            return Ok(hint);
        }
        map.find_free(len, PAGE).ok_or(errno::ENOMEM)
    }

    pub fn mmap(&self, addr: u32, len: u32, prot: i32, flags: i32, fd: i32, offset: u64) -> Ret {
        if len == 0 {
            // The kernel looks at the descriptor first.
            // SAFETY: asks for flags only.
            let no_file = flags & libc::MAP_ANONYMOUS == 0 && unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0;
            return Err(if no_file { errno::EBADF } else { errno::EINVAL });
        }
        let size = page_up(len as u64);
        if size > TASK_SIZE {
            return Err(errno::ENOMEM);
        }
        if !matches!(flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_PRIVATE | libc::MAP_SHARED_VALIDATE | MAP_DROPPABLE) {
            return Err(errno::EINVAL);
        }
        let shared = matches!(flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
        let grows = flags & libc::MAP_GROWSDOWN != 0;
        if grows && (flags & libc::MAP_TYPE != libc::MAP_PRIVATE || flags & libc::MAP_ANONYMOUS == 0) {
            return Err(errno::EINVAL);
        }
        check_page_size(flags, fd)?;
        let mut map = self.lock();
        map.room.take()?;
        let at = Self::place(&map, addr, size, flags)?;
        let mut page_flags = Self::flags_of(&map, prot, shared);
        if !shared && flags & libc::MAP_ANONYMOUS != 0 {
            page_flags = page_flags.with(ANONYMOUS);
        }
        let area = Area { grows, ..Area::new(at as u64 + size, page_flags) };
        if map.limits.space.is_some() || map.limits.data.is_some() {
            let replaced: u64 = map.mapped(at, area.end).iter().map(|(s, a)| a.end - *s as u64).sum();
            map.check_limits(size - replaced, &area)?;
        }
        let host_flags = flags & !(libc::MAP_FIXED_NOREPLACE | libc::MAP_GROWSDOWN | libc::MAP_32BIT) | libc::MAP_FIXED;
        let prot = host_protection(page_flags);
        let ordinary = flags & !(libc::MAP_FIXED | libc::MAP_NORESERVE | libc::MAP_STACK | libc::MAP_GROWSDOWN)
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
        map.put(at, area);
        self.space.set_range(at, size as u32, page_flags);
        if let Err(e) = self.lock_new(&map, at, at as u64 + size, page_flags) {
            self.unmap_locked(&mut map, at, at as u64 + size)?;
            return Err(e);
        }
        Ok(at)
    }

    /// Makes untouched reserved memory accessible, which costs the host less than a new mapping in its place.
    fn open_reserved(&self, at: u32, size: u64, prot: i32) -> bool {
        // SAFETY: invariant 1: a free range of the window, under the lock. It is private anonymous memory that nobody has
        // touched since it was reserved.
        unsafe { libc::mprotect(self.host(at).cast(), size as usize, prot) == 0 }
    }

    /// Maps fresh private memory on the host's side.
    pub(super) fn map_anonymous(&self, at: u32, size: u64, flags: PageFlags) -> Result<(), Errno> {
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: invariant 1: a range of the window, under the lock.
        let got = unsafe { libc::mmap(self.host(at).cast(), size as usize, host_protection(flags), how, -1, 0) };
        if got == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
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
    pub(super) fn clear_left(&self, map: &mut Map, start: u32, end: u64) {
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
        // Less than a whole area leaves two.
        let cuts = |(start, area): (&u32, &Area)| *start < addr && area.end > end;
        if map.areas.range(..addr).next_back().is_some_and(cuts) {
            map.room.take()?;
        }
        self.unmap_locked(&mut map, addr, end)?;
        Ok(0)
    }

    pub(super) fn unmap_locked(&self, map: &mut Map, start: u32, end: u64) -> Result<(), Errno> {
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
        map.room.take()?;
        let addr = Self::protected_from(&map, addr, end, prot)?;
        for (s, a) in map.mapped(addr, end) {
            let kept = PageFlags(a.flags.0 & ANONYMOUS.0);
            let flags = Self::flags_of(&map, prot, a.flags.has(SHARED)).with(kept);
            map.check_writable(s, &a, flags)?;
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
            map.put(s, Area { flags, ..a });
        }
        if map.is_mapped(addr, end) { Ok(0) } else { Err(errno::ENOMEM) }
    }

    /// Where mprotect really begins: with PROT_GROWSDOWN at the start of the area, which must be one that grows.
    fn protected_from(map: &Map, addr: u32, end: u64, prot: i32) -> Result<u32, Errno> {
        let (down, up) = (prot & libc::PROT_GROWSDOWN != 0, prot & libc::PROT_GROWSUP != 0);
        if down && up {
            return Err(errno::EINVAL);
        }
        if !down && !up {
            return Ok(addr);
        }
        let first = map.mapped(addr, end).first().map_or(addr, |(s, _)| *s);
        match map.areas.range(..=first).next_back() {
            Some((start, a)) if a.end > first as u64 && down && a.grows => Ok(*start),
            Some((_, a)) if a.end > first as u64 => Err(errno::EINVAL),
            _ => Err(errno::ENOMEM),
        }
    }

    /// The program has touched a page where nothing is mapped. If it belongs to the room of an area that grows, it is mapped now.
    pub fn grow(&self, addr: u32) -> bool {
        let mut map = self.lock();
        let page = page_down(addr);
        if map.is_mapped(page, page as u64 + PAGE as u64) {
            // Another thread was faster.
            return true;
        }
        let Some((start, area)) = map.growing_over(page) else { return false };
        let size = start - page;
        if self.map_anonymous(page, size.into(), area.flags).is_err() {
            return false;
        }
        map.put(page, Area { end: start as u64, ..area });
        self.space.set_range(page, size, area.flags);
        if self.lock_new(&map, page, start as u64, area.flags).is_err() {
            let _ = self.unmap_locked(&mut map, page, start as u64);
            return false;
        }
        true
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
        map.room.take()?;
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
        map.check_limits(new_size.saturating_sub(old_size), &area)?;
        // Files and shared memory can only grow where the host's reservation is lifted for a moment: better elsewhere.
        let grows_well = area.flags.has(ANONYMOUS) || !may_move;
        let behind = old as u64 + old_size;
        let in_place =
            !fixed && !keep && old_size != 0 && grows_well && map.is_free(behind as u32, old as u64 + new_size);
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
        self.move_mapping(&mut map, area, (old, old_size), (to, new_size), keep)
    }

    /// The host's side of mremap, growing in place or moving.
    fn move_mapping(&self, map: &mut Map, area: Area, from: (u32, u64), to: (u32, u64), keep: bool) -> Ret {
        let ((old, old_size), (new, new_size), flags) = (from, to, area.flags);
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
                // The reservation is in the kernel's way, so it is lifted for a moment, in which a host allocation of another
                // thread could take its place: only for programs that do not allow the mapping to move.
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
        self.moved_with_advice(map, from, to);
        if new != old && !keep && old_size != 0 {
            self.space.set_range(old, old_size as u32, PageFlags::NONE);
            self.clear_left(map, old, old as u64 + old_size);
            map.cut(old, old as u64 + old_size);
        }
        map.put(new, Area { end: new as u64 + new_size, ..area });
        self.space.set_range(new, new_size as u32, flags);
        // What moved is as locked as it was; what was added need not be more.
        let _ = self.lock_new(map, new, new as u64 + new_size, flags);
        Ok(new)
    }
}
