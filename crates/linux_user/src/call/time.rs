//! Clocks, sleeping, timers: times of 32 bits are converted, those of 64 bits pass.

use super::stat::{Timespec32, Timeval32};
use super::sx;
use crate::errno::{self, Errno, Ret};
use crate::memory::abi_struct;
use crate::task::Task;
use libc::*;

abi_struct! {
    Itimerspec32 16 { interval: Timespec32, value: Timespec32, }
    Itimerval32 16 { interval: Timeval32, value: Timeval32, }
    Tms32 16 { utime: i32, stime: i32, cutime: i32, cstime: i32, }
    /// struct timex of a 32-bit program
    Timex32 128 {
        modes: u32, offset: i32, freq: i32, maxerror: i32, esterror: i32, status: i32, constant: i32, precision: i32,
        tolerance: i32, time: Timeval32, tick: i32, ppsfreq: i32, jitter: i32, shift: i32, stabil: i32, jitcnt: i32,
        calcnt: i32, errcnt: i32, stbcnt: i32, tai: i32, spare: [i32; 11],
    }
    /// struct sigevent of a 32-bit program
    SigEvent32 64 { value: u32, signo: i32, notify: i32, tid: i32, rest: [u32; 12], }
}

pub fn host_timespec(g: Timespec32) -> timespec {
    timespec { tv_sec: g.sec as i64, tv_nsec: g.nsec as i64 }
}

pub fn guest_timespec(h: &timespec) -> Timespec32 {
    Timespec32 { sec: h.tv_sec as i32, nsec: h.tv_nsec as i32 }
}

/// An optional time at a guest address.
pub fn read_timespec(t: &Task, addr: u32) -> Result<Option<timespec>, Errno> {
    Ok(if addr == 0 { None } else { Some(host_timespec(t.memory().read(addr)?)) })
}

const ZERO: timespec = timespec { tv_sec: 0, tv_nsec: 0 };

fn pointer<T>(v: Option<&T>) -> u64 {
    v.map_or(0, |v| (&raw const *v) as u64)
}

// ---- clocks ---------------------------------------------------------------------------------------------------------

/// The C library answers without a system call, which matters to programs that ask all the time.
fn now(clock: u32) -> Result<timespec, Errno> {
    let mut ts = ZERO;
    // SAFETY: the structure lives until the call returns.
    if unsafe { libc::clock_gettime(clock as i32, &raw mut ts) } == 0 { Ok(ts) } else { Err(Errno::last()) }
}

pub fn clock_gettime(t: &mut Task, a: [u32; 6]) -> Ret {
    t.memory().write(a[1], guest_timespec(&now(a[0])?)).map(|()| 0)
}

pub fn clock_gettime64(t: &mut Task, a: [u32; 6]) -> Ret {
    let ts = now(a[0])?;
    t.memory().write(a[1], [ts.tv_sec, ts.tv_nsec]).map(|()| 0)
}

pub fn clock_getres(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut ts = ZERO;
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_clock_getres, [sx(a[0]), (&raw mut ts) as u64, 0, 0, 0, 0]) }?;
    if a[1] != 0 {
        t.memory().write(a[1], guest_timespec(&ts))?;
    }
    Ok(0)
}

pub fn clock_settime(t: &mut Task, a: [u32; 6]) -> Ret {
    let ts = host_timespec(t.memory().read(a[1])?);
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_clock_settime, [sx(a[0]), (&raw const ts) as u64, 0, 0, 0, 0]) }
}

pub fn gettimeofday(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[0] != 0 {
        let ts = now(CLOCK_REALTIME as u32)?;
        t.memory().write(a[0], Timeval32 { sec: ts.tv_sec as i32, usec: (ts.tv_nsec / 1000) as i32 })?;
    }
    if a[1] != 0 {
        t.memory().write(a[1], [0u32; 2])?;
    }
    Ok(0)
}

pub fn settimeofday(t: &mut Task, a: [u32; 6]) -> Ret {
    let tv = match a[0] {
        0 => None,
        at => {
            let g: Timeval32 = t.memory().read(at)?;
            Some(timeval { tv_sec: g.sec as i64, tv_usec: g.usec as i64 })
        }
    };
    // SAFETY: the structures live until the call returns; struct timezone is the same on both sides.
    unsafe { t.host_call(SYS_settimeofday, [pointer(tv.as_ref()), t.memory().input(a[1]), 0, 0, 0, 0]) }
}

pub fn time(t: &mut Task, a: [u32; 6]) -> Ret {
    let ts = now(CLOCK_REALTIME as u32)?;
    if a[0] != 0 {
        t.memory().write(a[0], ts.tv_sec as u32)?;
    }
    Ok(ts.tv_sec as u32)
}

pub fn stime(t: &mut Task, a: [u32; 6]) -> Ret {
    let ts = timespec { tv_sec: t.memory().read::<i32>(a[0])? as i64, tv_nsec: 0 };
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_clock_settime, [CLOCK_REALTIME as u64, (&raw const ts) as u64, 0, 0, 0, 0]) }
}

pub fn times(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut h = [0i64; 4];
    // SAFETY: struct tms is four words; it lives until the call returns.
    let ticks = unsafe { t.host_call(SYS_times, [h.as_mut_ptr() as u64, 0, 0, 0, 0, 0]) }?;
    if a[0] != 0 {
        t.memory().write(a[0], h.map(|v| v as i32))?;
    }
    Ok(ticks)
}

fn adjust(t: &mut Task, clock: Option<u32>, addr: u32) -> Ret {
    let g: Timex32 = t.memory().read(addr)?;
    // SAFETY: all-zero bytes are a value.
    let mut h: timex = unsafe { std::mem::zeroed() };
    macro_rules! copy {
        ($($field:ident)*) => { $(h.$field = g.$field as _;)* };
    }
    copy!(modes offset freq maxerror esterror status constant precision tolerance tick tai);
    h.time = timeval { tv_sec: g.time.sec as i64, tv_usec: g.time.usec as i64 };
    let at = (&raw mut h) as u64;
    // SAFETY: the structure lives until the call returns.
    let state = unsafe {
        match clock {
            Some(c) => t.host_call(SYS_clock_adjtime, [sx(c), at, 0, 0, 0, 0]),
            None => t.host_call(SYS_adjtimex, [at, 0, 0, 0, 0, 0]),
        }
    }?;
    let mut back = g;
    macro_rules! copy_back {
        ($($field:ident)*) => { $(back.$field = h.$field as _;)* };
    }
    copy_back!(modes offset freq maxerror esterror status constant precision tolerance tick ppsfreq jitter shift stabil jitcnt calcnt errcnt stbcnt tai);
    back.time = Timeval32 { sec: h.time.tv_sec as i32, usec: h.time.tv_usec as i32 };
    t.memory().write(addr, back)?;
    Ok(state)
}

pub fn adjtimex(t: &mut Task, a: [u32; 6]) -> Ret {
    adjust(t, None, a[0])
}

pub fn clock_adjtime(t: &mut Task, a: [u32; 6]) -> Ret {
    adjust(t, Some(a[0]), a[1])
}

// ---- sleeping -------------------------------------------------------------------------------------------------------

fn sleep(t: &mut Task, clock: u32, flags: u32, request: u32, remain: u32) -> Ret {
    let wanted = host_timespec(t.memory().read(request)?);
    let mut left = ZERO;
    let args = [sx(clock), flags as u64, (&raw const wanted) as u64, (&raw mut left) as u64, 0, 0];
    // SAFETY: both structures live until the call returns.
    let result = unsafe { t.host_call(SYS_clock_nanosleep, args) };
    if result == Err(errno::EINTR) && remain != 0 && flags & TIMER_ABSTIME as u32 == 0 {
        t.memory().write(remain, guest_timespec(&left))?;
    }
    result
}

pub fn nanosleep(t: &mut Task, a: [u32; 6]) -> Ret {
    sleep(t, CLOCK_MONOTONIC as u32, 0, a[0], a[1])
}

pub fn clock_nanosleep(t: &mut Task, a: [u32; 6]) -> Ret {
    sleep(t, a[0], a[1], a[2], a[3])
}

pub fn sched_rr_get_interval(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut ts = ZERO;
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_sched_rr_get_interval, [sx(a[0]), (&raw mut ts) as u64, 0, 0, 0, 0]) }?;
    t.memory().write(a[1], guest_timespec(&ts)).map(|()| 0)
}

// ---- timers ---------------------------------------------------------------------------------------------------------

fn host_itimerspec(g: Itimerspec32) -> itimerspec {
    itimerspec { it_interval: host_timespec(g.interval), it_value: host_timespec(g.value) }
}

fn guest_itimerspec(h: &itimerspec) -> Itimerspec32 {
    Itimerspec32 { interval: guest_timespec(&h.it_interval), value: guest_timespec(&h.it_value) }
}

const NO_TIMER: itimerspec = itimerspec { it_interval: ZERO, it_value: ZERO };

fn set_timer(t: &mut Task, number: i64, a: [u32; 6]) -> Ret {
    if number == SYS_timer_settime && a[2] == 0 {
        return Err(errno::EINVAL);
    }
    let new = host_itimerspec(t.memory().read(a[2])?);
    let mut old = NO_TIMER;
    let args = [sx(a[0]), a[1] as u64, (&raw const new) as u64, (&raw mut old) as u64, 0, 0];
    // SAFETY: both structures live until the call returns.
    unsafe { t.host_call(number, args) }?;
    if a[3] != 0 {
        t.memory().write(a[3], guest_itimerspec(&old))?;
    }
    Ok(0)
}

fn get_timer(t: &mut Task, number: i64, a: [u32; 6]) -> Ret {
    let mut now = NO_TIMER;
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(number, [sx(a[0]), (&raw mut now) as u64, 0, 0, 0, 0]) }?;
    t.memory().write(a[1], guest_itimerspec(&now)).map(|()| 0)
}

pub fn timer_settime(t: &mut Task, a: [u32; 6]) -> Ret {
    set_timer(t, SYS_timer_settime, a)
}

pub fn timer_gettime(t: &mut Task, a: [u32; 6]) -> Ret {
    get_timer(t, SYS_timer_gettime, a)
}

pub fn timerfd_settime(t: &mut Task, a: [u32; 6]) -> Ret {
    set_timer(t, SYS_timerfd_settime, a)
}

pub fn timerfd_gettime(t: &mut Task, a: [u32; 6]) -> Ret {
    get_timer(t, SYS_timerfd_gettime, a)
}

/// struct sigevent of the host: value, signal, kind, thread.
pub fn host_sigevent(t: &Task, addr: u32) -> Result<[u64; 8], Errno> {
    let g: SigEvent32 = t.memory().read(addr)?;
    let mut h = [0u64; 8];
    h[0] = g.value as u64;
    h[1] = g.signo as u32 as u64 | (g.notify as u32 as u64) << 32;
    h[2] = g.tid as u32 as u64;
    Ok(h)
}

pub fn timer_create(t: &mut Task, a: [u32; 6]) -> Ret {
    let event = if a[1] != 0 { Some(host_sigevent(t, a[1])?) } else { None };
    let args = [sx(a[0]), pointer(event.as_ref()), t.memory().out(a[2], 4), 0, 0, 0];
    // SAFETY: the structure lives until the call returns; timer numbers are the kernel's ints.
    unsafe { t.host_call(SYS_timer_create, args) }
}

fn host_itimerval(g: Itimerval32) -> itimerval {
    let tv = |v: Timeval32| timeval { tv_sec: v.sec as i64, tv_usec: v.usec as i64 };
    itimerval { it_interval: tv(g.interval), it_value: tv(g.value) }
}

fn guest_itimerval(h: &itimerval) -> Itimerval32 {
    let tv = |v: timeval| Timeval32 { sec: v.tv_sec as i32, usec: v.tv_usec as i32 };
    Itimerval32 { interval: tv(h.it_interval), value: tv(h.it_value) }
}

pub fn setitimer(t: &mut Task, a: [u32; 6]) -> Ret {
    let new = if a[1] != 0 { Some(host_itimerval(t.memory().read(a[1])?)) } else { None };
    let mut old = host_itimerval(Itimerval32::zeroed());
    // SAFETY: both structures live until the call returns.
    unsafe { t.host_call(SYS_setitimer, [sx(a[0]), pointer(new.as_ref()), (&raw mut old) as u64, 0, 0, 0]) }?;
    if a[2] != 0 {
        t.memory().write(a[2], guest_itimerval(&old))?;
    }
    Ok(0)
}

pub fn getitimer(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut now = host_itimerval(Itimerval32::zeroed());
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_getitimer, [sx(a[0]), (&raw mut now) as u64, 0, 0, 0, 0]) }?;
    t.memory().write(a[1], guest_itimerval(&now)).map(|()| 0)
}
