//! Descriptors whose data or positions differ between guest and host: the process's memory file, directories with positions
//! of more than 31 bits.

use crate::call::sx;
use crate::errno::{self, Ret};
use crate::task::Task;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Debug)]
pub enum Kind {
    /// /proc/self/mem: positions are guest addresses.
    Memory,
    /// /proc/self/maps: PROCMAP_QUERY is about the guest's mappings.
    Maps,
    /// A directory: the real positions behind the small ones that the guest has seen.
    Directory(Vec<i64>),
}

/// The table, by descriptor number. Empty for nearly all programs, which the counter tells without a lock.
#[derive(Default)]
pub struct Fds {
    kinds: Mutex<HashMap<i32, Kind>>,
    count: AtomicUsize,
}

/// Small positions of directories that stand for large ones begin here.
const COOKIE_BASE: i64 = 0x4000_0000;
/// No more are remembered for one directory.
const MAX_COOKIES: usize = 0x3fff_ffff;

impl Fds {
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn with<R>(&self, f: impl FnOnce(&mut HashMap<i32, Kind>) -> R) -> R {
        let mut kinds = self.kinds.lock().unwrap();
        let r = f(&mut kinds);
        self.count.store(kinds.len(), Ordering::Release);
        r
    }

    /// Holds off changes, for a fork.
    pub fn freeze(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Kind>> {
        self.kinds.lock().unwrap()
    }

    pub fn duplicate(&self) -> Fds {
        let kinds = self.kinds.lock().unwrap().clone();
        Fds { count: AtomicUsize::new(kinds.len()), kinds: Mutex::new(kinds) }
    }

    pub fn set(&self, fd: i32, kind: Kind) {
        self.with(|k| k.insert(fd, kind));
    }

    pub fn forget(&self, fd: i32) {
        if !self.is_empty() {
            self.with(|k| k.remove(&fd));
        }
    }

    pub fn forget_range(&self, first: u32, last: u32) {
        if !self.is_empty() {
            self.with(|k| k.retain(|fd, _| (*fd as u32) < first || *fd as u32 > last));
        }
    }

    /// `new` has become the same open file as `old`.
    pub fn copy(&self, old: i32, new: i32) {
        if !self.is_empty() && old != new {
            self.with(|k| match k.get(&old).cloned() {
                Some(kind) => k.insert(new, kind),
                None => k.remove(&new),
            });
        }
    }

    pub fn is_maps(&self, fd: i32) -> bool {
        matches!(self.get(fd), Some(Kind::Maps))
    }

    fn get(&self, fd: i32) -> Option<Kind> {
        if self.is_empty() { None } else { self.with(|k| k.get(&fd).cloned()) }
    }

    /// A small position for a large one of directory `fd`.
    pub fn directory_cookie(&self, fd: i32, position: i64) -> i64 {
        if (0..COOKIE_BASE).contains(&position) || position == i32::MAX as i64 {
            return position;
        }
        self.with(|k| {
            let kind = k.entry(fd).or_insert_with(|| Kind::Directory(Vec::new()));
            let Kind::Directory(positions) = kind else { return position };
            if positions.len() >= MAX_COOKIES {
                positions.clear();
            }
            positions.push(position);
            COOKIE_BASE + positions.len() as i64 - 1
        })
    }

    /// The guest has gone back to the start of a directory: its cookies will not be used again.
    fn real_position(&self, fd: i32, position: i64) -> i64 {
        match self.get(fd) {
            Some(Kind::Directory(positions)) => {
                if position == 0 {
                    self.forget(fd);
                    return 0;
                }
                let index = usize::try_from(position - COOKIE_BASE).ok();
                index.and_then(|i| positions.get(i).copied()).unwrap_or(position)
            }
            _ => position,
        }
    }
}

/// Whether positions of a descriptor are guest addresses.
pub fn is_memory(t: &Task, fd: i32) -> bool {
    matches!(t.fds.get(fd), Some(Kind::Memory))
}

/// Reads or writes the process's memory file at a guest address, or at its position. The host would take no notice of what the
/// guest has mapped: it gives access to all that the emulator has, whatever its protection.
pub fn move_memory(t: &Task, fd: u32, parts: &[(u32, u32)], offset: Option<u64>, write: bool) -> Ret {
    let base = t.memory().host(0) as u64;
    // SAFETY: no memory involved.
    let seek = |to: u64, whence: i32| unsafe { t.host_call_64(libc::SYS_lseek, [sx(fd), to, whence as u64, 0, 0, 0]) };
    let mut at = match offset {
        Some(offset) => offset,
        None => (seek(0, libc::SEEK_CUR)? as u64).wrapping_sub(base),
    };
    let mut done = 0;
    for &(buffer, len) in parts {
        let n = t.memory().reachable(at, len, write);
        let m = t.memory();
        let (number, from) =
            if write { (libc::SYS_pwrite64, m.input(buffer)) } else { (libc::SYS_pread64, m.out(buffer, n)) };
        if n != 0 && write {
            m.space.prepare_write(at as u32, n);
        }
        // SAFETY: both sides are guest memory.
        let moved = if n == 0 {
            Err(errno::EIO)
        } else {
            unsafe { t.host_call(number, [sx(fd), from, n as u64, base + at, 0, 0]) }
        };
        match moved {
            _ if len == 0 => continue,
            Ok(n) => (done, at) = (done + n, at + n as u64),
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
        if moved != Ok(len) {
            break;
        }
    }
    if offset.is_none() {
        seek(base.wrapping_add(at), libc::SEEK_SET)?;
    }
    Ok(done)
}

/// Where lseek is really to go.
pub fn seek_offset(t: &Task, fd: i32, offset: i64, whence: i32) -> i64 {
    if whence != libc::SEEK_SET || t.fds.is_empty() {
        return offset;
    }
    match t.fds.get(fd) {
        Some(Kind::Memory) => offset.wrapping_add(t.memory().host(0) as i64),
        _ => t.fds.real_position(fd, offset),
    }
}

/// The position that the guest sees after lseek.
pub fn shown_offset(t: &Task, fd: i32, at: i64) -> i64 {
    match t.fds.get(fd) {
        Some(Kind::Memory) => at.wrapping_sub(t.memory().host(0) as i64),
        Some(Kind::Directory(positions)) => match positions.iter().rposition(|p| *p == at) {
            Some(i) => COOKIE_BASE + i as i64,
            None => at,
        },
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_positions_come_back_from_small_ones() {
        let f = Fds::default();
        assert_eq!(f.directory_cookie(3, 24), 24);
        assert!(f.is_empty());
        let c = f.directory_cookie(3, 0x7fff_1234_5678_9abc);
        assert!(c < 1 << 31);
        assert_eq!(f.real_position(3, c), 0x7fff_1234_5678_9abc);
        f.copy(3, 5);
        assert_eq!(f.real_position(5, c), 0x7fff_1234_5678_9abc);
        assert_eq!(f.real_position(3, 0), 0);
        f.forget(5);
        assert!(f.is_empty());
    }
}
