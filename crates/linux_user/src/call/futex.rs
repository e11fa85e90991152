//! Futexes: waiting and waking on guest words, and robust lists.
//!
//! A futex word is the same word for guest and host, so the operations pass; timeouts are converted, and robust lists are
//! walked here because the kernel would read them as 64-bit structures.

use super::sx;
use super::stat::{Timespec32, Timespec64};
use crate::errno::{self, Errno, Ret};
use crate::task::Task;
use libc::*;
use std::sync::atomic::Ordering;

const COMMAND_MASK: u32 = !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME) as u32;
const FUTEX_LOCK_PI2: i32 = 13;

fn takes_timeout(command: i32) -> bool {
    matches!(command, FUTEX_WAIT | FUTEX_LOCK_PI | FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI) || command == FUTEX_LOCK_PI2
}

fn futex_call(t: &mut Task, a: [u32; 6], timeout: Option<timespec>) -> Ret {
    let command = (a[1] & COMMAND_MASK) as i32;
    let fourth = match &timeout {
        Some(ts) => (&raw const *ts) as u64,
        None if takes_timeout(command) => 0,
        // A count.
        None => a[3] as u64,
    };
    let m = t.memory();
    if command == FUTEX_WAKE_OP || command == FUTEX_LOCK_PI {
        m.space.prepare_write(a[0], 4);
        m.space.prepare_write(a[4], 4);
    }
    let args = [m.input(a[0]), a[1] as u64, a[2] as u64, fourth, m.input(a[4]), a[5] as u64];
    // SAFETY: the words are guest memory; the timeout lives until the call returns.
    unsafe { t.host_call(SYS_futex, args) }
}

pub fn futex(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = match a[3] {
        at if at != 0 && takes_timeout((a[1] & COMMAND_MASK) as i32) => {
            let g: Timespec32 = t.memory().read(at)?;
            Some(timespec { tv_sec: g.sec as i64, tv_nsec: g.nsec as i64 })
        }
        _ => None,
    };
    futex_call(t, a, timeout)
}

pub fn futex_time64(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = match a[3] {
        at if at != 0 && takes_timeout((a[1] & COMMAND_MASK) as i32) => {
            let g: Timespec64 = t.memory().read(at)?;
            Some(timespec { tv_sec: g.sec, tv_nsec: g.nsec as u32 as i64 })
        }
        _ => None,
    };
    futex_call(t, a, timeout)
}

/// struct futex_waitv: value, address, flags; the address is 64 bits wide for 32-bit programs too.
pub fn futex_waitv(t: &mut Task, a: [u32; 6]) -> Ret {
    const SYS_FUTEX_WAITV: i64 = 449;
    const MAX_WAITERS: u32 = 128;
    if a[0] == 0 || a[1] == 0 || a[1] > MAX_WAITERS {
        return Err(errno::EINVAL);
    }
    let mut list: Vec<[u64; 3]> = t.memory().read_vec(a[0], a[1] as usize)?;
    for waiter in &mut list {
        let at = u32::try_from(waiter[1]).map_err(|_| errno::EFAULT)?;
        waiter[1] = t.memory().input(at);
    }
    let timeout = super::poll::read_timespec_64(t, a[3])?;
    let timeout = timeout.as_ref().map_or(0, |ts| (&raw const *ts) as u64);
    let args = [list.as_ptr() as u64, a[1] as u64, a[2] as u64, timeout, sx(a[4]), 0];
    // SAFETY: list and timeout live until the call returns; its words are guest memory.
    unsafe { t.host_call(SYS_FUTEX_WAITV, args) }
}

pub fn futex2_wake(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: guest memory.
    unsafe { t.host_call(454, [t.memory().input(a[0]), a[1] as u64, sx(a[2]), a[3] as u64, 0, 0]) }
}

pub fn futex2_wait(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = super::poll::read_timespec_64(t, a[4])?;
    let timeout = timeout.as_ref().map_or(0, |ts| (&raw const *ts) as u64);
    let args = [t.memory().input(a[0]), a[1] as u64, a[2] as u64, a[3] as u64, timeout, sx(a[5])];
    // SAFETY: guest memory; the timeout lives until the call returns.
    unsafe { t.host_call(455, args) }
}

pub fn futex2_requeue(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut list: Vec<[u64; 3]> = t.memory().read_vec(a[0], 2)?;
    for waiter in &mut list {
        waiter[1] = t.memory().input(u32::try_from(waiter[1]).map_err(|_| errno::EFAULT)?);
    }
    let args = [list.as_ptr() as u64, a[1] as u64, sx(a[2]), sx(a[3]), 0, 0];
    // SAFETY: the list lives until the call returns; its words are guest memory.
    unsafe { t.host_call(456, args) }
}

// ---- robust lists ---------------------------------------------------------------------------------------------------

/// struct robust_list_head of a 32-bit program: first entry, offset of the futex word, pending entry.
const HEAD_BYTES: u32 = 12;
/// The kernel's bound on the walk.
const LIST_LIMIT: usize = 2048;
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

pub fn set_robust_list(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[1] != HEAD_BYTES {
        return Err(errno::EINVAL);
    }
    t.process.robust.lock().unwrap().insert(t.tid, a[0]);
    Ok(0)
}

pub fn get_robust_list(t: &mut Task, a: [u32; 6]) -> Ret {
    let tid = if a[0] == 0 { t.tid } else { a[0] as i32 };
    let head = t.process.robust.lock().unwrap().get(&tid).copied();
    let head = match head {
        Some(head) => head,
        None if tid == t.tid => 0,
        None => return Err(robust_list_of_stranger(t, tid)),
    };
    t.memory().write(a[1], head)?;
    t.memory().write(a[2], HEAD_BYTES)?;
    Ok(0)
}

/// Why there is no list: the kernel knows who is there, and who may look. The list that it has is not the guest's.
fn robust_list_of_stranger(t: &Task, tid: i32) -> Errno {
    let (mut head, mut len) = (0u64, 0u64);
    let args = [tid as u64, (&raw mut head) as u64, (&raw mut len) as u64, 0, 0, 0];
    // SAFETY: both words live until the call returns.
    unsafe { t.host_call(libc::SYS_get_robust_list, args) }.err().unwrap_or(errno::EPERM)
}

impl Task {
    /// Marks the mutexes that this thread holds as abandoned and wakes a waiter of each.
    pub fn release_robust_list(&mut self) {
        let head = self.process.robust.lock().unwrap().remove(&self.tid);
        if let Some(head) = head.filter(|h| *h != 0) {
            // A broken list is the guest's trouble; the kernel stops there too.
            let _ = self.walk_robust_list(head);
        }
    }

    fn walk_robust_list(&mut self, head: u32) -> Result<(), Errno> {
        let [first, offset, pending]: [u32; 3] = self.memory().read(head)?;
        let mut entry = first;
        for _ in 0..LIST_LIMIT {
            // Bit 0 says that the mutex inherits priorities.
            let at = entry & !1;
            if at == head {
                break;
            }
            let next: Result<u32, Errno> = self.memory().read(at);
            if at != pending & !1 {
                self.abandon(at.wrapping_add(offset), entry & 1 != 0)?;
            }
            entry = next?;
        }
        if pending & !1 != 0 {
            self.abandon((pending & !1).wrapping_add(offset), pending & 1 != 0)?;
        }
        Ok(())
    }

    fn abandon(&mut self, word: u32, inherits: bool) -> Result<(), Errno> {
        loop {
            let old: u32 = self.memory().read(word)?;
            if old & FUTEX_TID_MASK != self.tid as u32 {
                return Ok(());
            }
            let new = old & FUTEX_WAITERS | FUTEX_OWNER_DIED;
            if self.memory().compare_exchange(word, 4, old as u64, new as u64)? != old as u64 {
                continue;
            }
            std::sync::atomic::fence(Ordering::SeqCst);
            if old & FUTEX_WAITERS != 0 && !inherits {
                let args = [self.memory().input(word), FUTEX_WAKE as u64, 1, 0, 0, 0];
                // SAFETY: FUTEX_WAKE does not touch memory.
                let _ = unsafe { self.host_call(SYS_futex, args) };
            }
            return Ok(());
        }
    }
}
