//! Waiting for descriptors: poll, select, epoll.

use super::sigcall::{read_set, with_mask};
use super::stat::{Timespec64, Timeval32};
use super::sx;
use super::time::{guest_timespec, read_timespec};
use crate::errno::{self, Errno, Ret};
use crate::host_signal::SET_BYTES;
use crate::memory::abi_struct;
use crate::task::Task;
use libc::*;

/// More descriptors than any process may have open.
const MAX_FDS: u32 = 1 << 20;
const POLLFD_BYTES: u32 = 8;

fn optional_mask(t: &Task, addr: u32, size: u32) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    if size as u64 != SET_BYTES {
        return Err(errno::EINVAL);
    }
    read_set(t, addr).map(Some)
}

fn pointer<T>(v: &mut Option<T>) -> u64 {
    v.as_mut().map_or(0, |v| (&raw mut *v) as u64)
}

// ---- poll -----------------------------------------------------------------------------------------------------------

pub fn poll(t: &mut Task, a: [u32; 6]) -> Ret {
    let args = [t.memory().out(a[0], a[1].min(MAX_FDS) * POLLFD_BYTES), a[1] as u64, sx(a[2]), 0, 0, 0];
    // SAFETY: struct pollfd is the same on both sides.
    unsafe { t.host_call(SYS_poll, args) }
}

/// The remaining time goes back to the guest in its own format.
fn ppoll_with(t: &mut Task, a: [u32; 6], mut timeout: Option<timespec>, put: fn(&Task, u32, &timespec) -> Result<(), Errno>) -> Ret {
    let mask = optional_mask(t, a[3], a[4])?;
    let result = with_mask(t, mask, |t, set| {
        let fds = t.memory().out(a[0], a[1].min(MAX_FDS) * POLLFD_BYTES);
        let args = [fds, a[1] as u64, pointer(&mut timeout), set, SET_BYTES, 0];
        // SAFETY: timeout and mask live until the call returns; the descriptors are guest memory.
        unsafe { t.host_call(SYS_ppoll, args) }
    });
    if let Some(left) = &timeout
        && result != Err(errno::RESTART)
    {
        put(t, a[2], left)?;
    }
    result
}

fn put_32(t: &Task, addr: u32, ts: &timespec) -> Result<(), Errno> {
    t.memory().write(addr, guest_timespec(ts))
}

fn put_64(t: &Task, addr: u32, ts: &timespec) -> Result<(), Errno> {
    t.memory().write(addr, Timespec64 { sec: ts.tv_sec, nsec: ts.tv_nsec })
}

pub fn read_timespec_64(t: &Task, addr: u32) -> Result<Option<timespec>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let g: Timespec64 = t.memory().read(addr)?;
    Ok(Some(timespec { tv_sec: g.sec, tv_nsec: g.nsec as u32 as i64 }))
}

pub fn ppoll(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = read_timespec(t, a[2])?;
    ppoll_with(t, a, timeout, put_32)
}

pub fn ppoll_time64(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = read_timespec_64(t, a[2])?;
    ppoll_with(t, a, timeout, put_64)
}

// ---- select ---------------------------------------------------------------------------------------------------------

/// A set of descriptors as 64-bit words; the guest's has 32-bit words, of which the last may be a half.
struct FdSet {
    addr: u32,
    guest_words: usize,
    words: Vec<u64>,
}

impl FdSet {
    fn read(t: &Task, addr: u32, count: u32) -> Result<Option<FdSet>, Errno> {
        if addr == 0 {
            return Ok(None);
        }
        let guest_words = (count as usize).div_ceil(32);
        let guest: Vec<u32> = t.memory().read_vec(addr, guest_words)?;
        let words = guest.chunks(2).map(|c| c[0] as u64 | (*c.get(1).unwrap_or(&0) as u64) << 32).collect();
        Ok(Some(FdSet { addr, guest_words, words }))
    }

    fn write(&self, t: &Task) -> Result<(), Errno> {
        let halves: Vec<u32> = self.words.iter().flat_map(|w| [*w as u32, (*w >> 32) as u32]).take(self.guest_words).collect();
        t.memory().write_slice(self.addr, &halves)
    }

    fn pointer(set: &mut Option<FdSet>) -> u64 {
        set.as_mut().map_or(0, |s| s.words.as_mut_ptr() as u64)
    }
}

fn select_with(t: &mut Task, a: [u32; 6], timeout: &mut Option<timespec>, mask: Option<u64>) -> Ret {
    if a[0] as i32 > MAX_FDS as i32 || (a[0] as i32) < 0 {
        return Err(errno::EINVAL);
    }
    let mut sets = [FdSet::read(t, a[1], a[0])?, FdSet::read(t, a[2], a[0])?, FdSet::read(t, a[3], a[0])?];
    let ready = with_mask(t, mask, |t, set| {
        let [r, w, e] = &mut sets;
        // The kernel's structure for pselect6: address and size of the mask.
        let mask_argument = [set, SET_BYTES];
        let sixth = if set != 0 { mask_argument.as_ptr() as u64 } else { 0 };
        let args = [a[0] as u64, FdSet::pointer(r), FdSet::pointer(w), FdSet::pointer(e), pointer(timeout), sixth];
        // SAFETY: sets, timeout and mask live until the call returns.
        unsafe { t.host_call(SYS_pselect6, args) }
    })?;
    for set in sets.iter().flatten() {
        set.write(t)?;
    }
    Ok(ready)
}

pub fn select(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut timeout = match a[4] {
        0 => None,
        at => {
            let g: Timeval32 = t.memory().read(at)?;
            if g.sec < 0 || g.usec < 0 {
                return Err(errno::EINVAL);
            }
            // The kernel accepts more than a second of microseconds here.
            let (sec, usec) = (g.sec as i64 + g.usec as i64 / 1_000_000, g.usec as i64 % 1_000_000);
            Some(timespec { tv_sec: sec, tv_nsec: usec * 1000 })
        }
    };
    let result = select_with(t, a, &mut timeout, None);
    if let Some(left) = timeout
        && result != Err(errno::RESTART)
    {
        t.memory().write(a[4], Timeval32 { sec: left.tv_sec as i32, usec: (left.tv_nsec / 1000) as i32 })?;
    }
    result
}

/// The arguments lie in memory.
pub fn old_select(t: &mut Task, a: [u32; 6]) -> Ret {
    let v: [u32; 5] = t.memory().read(a[0])?;
    select(t, [v[0], v[1], v[2], v[3], v[4], 0])
}

/// pselect6's sixth argument: address and size of the mask.
pub fn pselect_mask(t: &Task, addr: u32) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let [set, size]: [u32; 2] = t.memory().read(addr)?;
    optional_mask(t, set, size)
}

pub fn pselect6(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut timeout = read_timespec(t, a[4])?;
    let mask = pselect_mask(t, a[5])?;
    let result = select_with(t, a, &mut timeout, mask);
    match timeout {
        Some(left) if result != Err(errno::RESTART) => put_32(t, a[4], &left)?,
        _ => {}
    }
    result
}

pub fn pselect6_time64(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut timeout = read_timespec_64(t, a[4])?;
    let mask = pselect_mask(t, a[5])?;
    let result = select_with(t, a, &mut timeout, mask);
    match timeout {
        Some(left) if result != Err(errno::RESTART) => put_64(t, a[4], &left)?,
        _ => {}
    }
    result
}

// ---- epoll ----------------------------------------------------------------------------------------------------------

abi_struct! {
    /// struct epoll_event: packed on x86-64 only
    EpollEvent 16 { events: u32, pad: u32, data: u64, }
}

/// The kernel refuses to give more events at once.
const EP_MAX_EVENTS: u32 = i32::MAX as u32 / size_of::<EpollEvent>() as u32;
/// So many descriptors a process has at most, if nobody has raised `fs.nr_open`.
const MAX_EVENTS: u32 = 1 << 20;

pub fn epoll_ctl(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut event = match a[3] {
        0 => None,
        at if a[1] as i32 != EPOLL_CTL_DEL => {
            let g: EpollEvent = t.memory().read(at)?;
            Some(epoll_event { events: g.events, u64: g.data })
        }
        _ => None,
    };
    let args = [sx(a[0]), sx(a[1]), sx(a[2]), pointer(&mut event), 0, 0];
    // SAFETY: the event lives until the call returns.
    unsafe { t.host_call(SYS_epoll_ctl, args) }
}

fn epoll_with(t: &mut Task, a: [u32; 6], mask: Option<u64>, call: impl FnOnce(&mut Task, u64, u64, u64) -> Ret) -> Ret {
    if a[2] == 0 || a[2] > EP_MAX_EVENTS {
        return Err(errno::EINVAL);
    }
    let count = a[2].min(MAX_EVENTS);
    let mut events: Vec<epoll_event> = Vec::with_capacity(count as usize);
    let n = with_mask(t, mask, |t, set| call(t, events.as_mut_ptr() as u64, count as u64, set))?;
    // SAFETY: the kernel has written so many, at most as many as there is room for.
    unsafe { events.set_len(n as usize) };
    let guest: Vec<EpollEvent> =
        events.iter().map(|e| EpollEvent { events: e.events, pad: 0, data: e.u64 }).collect();
    t.memory().write_slice(a[1], &guest)?;
    Ok(n)
}

pub fn epoll_wait(t: &mut Task, a: [u32; 6]) -> Ret {
    epoll_with(t, a, None, |t, events, count, _| {
        // SAFETY: the events live until the call returns.
        unsafe { t.host_call(SYS_epoll_wait, [sx(a[0]), events, count, sx(a[3]), 0, 0]) }
    })
}

pub fn epoll_pwait(t: &mut Task, a: [u32; 6]) -> Ret {
    let mask = optional_mask(t, a[4], a[5])?;
    epoll_with(t, a, mask, |t, events, count, set| {
        // SAFETY: events and mask live until the call returns.
        unsafe { t.host_call(SYS_epoll_pwait, [sx(a[0]), events, count, sx(a[3]), set, SET_BYTES]) }
    })
}

pub fn epoll_pwait2(t: &mut Task, a: [u32; 6]) -> Ret {
    const SYS_EPOLL_PWAIT2: i64 = 441;
    let mut timeout = read_timespec_64(t, a[3])?;
    let mask = optional_mask(t, a[4], a[5])?;
    epoll_with(t, a, mask, |t, events, count, set| {
        // SAFETY: events, timeout and mask live until the call returns.
        unsafe { t.host_call(SYS_EPOLL_PWAIT2, [sx(a[0]), events, count, pointer(&mut timeout), set, SET_BYTES]) }
    })
}
