//! Signal calls: dispositions, masks, waiting for and sending signals.

use super::sx;
use super::stat::{Timespec32, Timespec64};
use crate::abi::arm::{self as abi, AltStack};
use crate::errno::{self, Errno, Ret};
use crate::host_signal::{self, SET_BYTES, SIGNALS, UNBLOCKABLE};
use crate::memory::abi_struct;
use crate::siginfo::SigInfo;
use crate::signal::Action;
use crate::task::Task;
use libc::*;

abi_struct! {
    /// struct sigaction of rt_sigaction
    SigAction 20 { handler: u32, flags: u32, restorer: u32, mask: [u32; 2], }
    /// struct old_sigaction
    OldSigAction 16 { handler: u32, mask: u32, flags: u32, restorer: u32, }
}

fn join(words: [u32; 2]) -> u64 {
    words[0] as u64 | (words[1] as u64) << 32
}

fn split(set: u64) -> [u32; 2] {
    [set as u32, (set >> 32) as u32]
}

/// A set at a guest address. ARM aligns it to four bytes only.
pub fn read_set(t: &Task, addr: u32) -> Result<u64, Errno> {
    Ok(join(t.memory().read(addr)?))
}

fn write_set(t: &Task, addr: u32, set: u64) -> Result<(), Errno> {
    t.memory().write(addr, split(set))
}

fn check_signal(signal: u32) -> Result<i32, Errno> {
    if (1..=SIGNALS).contains(&signal) { Ok(signal as i32) } else { Err(errno::EINVAL) }
}

// ---- dispositions ---------------------------------------------------------------------------------------------------

fn change_action(t: &mut Task, signal: u32, new: Option<Action>) -> Result<Action, Errno> {
    let signal = check_signal(signal)?;
    let mut actions = t.process.actions.lock().unwrap();
    let old = actions.get(signal);
    if let Some(new) = new {
        if signal == SIGKILL || signal == SIGSTOP {
            return Err(errno::EINVAL);
        }
        actions.set(signal, Action { mask: new.mask & !UNBLOCKABLE, ..new })?;
    }
    Ok(old)
}

pub fn rt_sigaction(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[3] as u64 != SET_BYTES {
        return Err(errno::EINVAL);
    }
    let new = match a[1] {
        0 => None,
        at => {
            let g: SigAction = t.memory().read(at)?;
            Some(Action { handler: g.handler, flags: g.flags, restorer: g.restorer, mask: join(g.mask) })
        }
    };
    let old = change_action(t, a[0], new)?;
    if a[2] != 0 {
        let g = SigAction { handler: old.handler, flags: old.flags, restorer: old.restorer, mask: split(old.mask) };
        t.memory().write(a[2], g)?;
    }
    Ok(0)
}

pub fn sigaction(t: &mut Task, a: [u32; 6]) -> Ret {
    let new = match a[1] {
        0 => None,
        at => {
            let g: OldSigAction = t.memory().read(at)?;
            Some(Action { handler: g.handler, flags: g.flags, restorer: g.restorer, mask: g.mask as u64 })
        }
    };
    let old = change_action(t, a[0], new)?;
    if a[2] != 0 {
        let g = OldSigAction { handler: old.handler, mask: old.mask as u32, flags: old.flags, restorer: old.restorer };
        t.memory().write(a[2], g)?;
    }
    Ok(0)
}

pub fn sigaltstack(t: &mut Task, a: [u32; 6]) -> Ret {
    let sp = abi::reg(t.vcpu.state(), abi::SP);
    let old = t.altstack_now(sp);
    if a[0] != 0 {
        let new: AltStack = t.memory().read(a[0])?;
        t.set_altstack(new, sp)?;
    }
    if a[1] != 0 {
        t.memory().write(a[1], old)?;
    }
    Ok(0)
}

// ---- masks ----------------------------------------------------------------------------------------------------------

/// Changes the mask; a signal that waits is delivered under the old mask first.
fn change_mask(t: &mut Task, how: u32, set: Option<u64>, keep_high: u64) -> Result<u64, Errno> {
    let old = t.signals.mask;
    if let Some(set) = set {
        let new = match how as i32 {
            SIG_BLOCK => old | set,
            SIG_UNBLOCK => old & !set,
            SIG_SETMASK => set | old & keep_high,
            _ => return Err(errno::EINVAL),
        } & !UNBLOCKABLE;
        host_signal::set_mask(&t.link, new)?;
        t.signals.mask = new;
    }
    Ok(old)
}

pub fn rt_sigprocmask(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[3] as u64 != SET_BYTES {
        return Err(errno::EINVAL);
    }
    let set = if a[1] != 0 { Some(read_set(t, a[1])?) } else { None };
    let old = change_mask(t, a[0], set, 0)?;
    if a[2] != 0 {
        write_set(t, a[2], old)?;
    }
    Ok(0)
}

/// The call with a mask of 32 signals; the others stay.
pub fn sigprocmask(t: &mut Task, a: [u32; 6]) -> Ret {
    let set = if a[1] != 0 { Some(t.memory().read::<u32>(a[1])? as u64) } else { None };
    let old = change_mask(t, a[0], set, 0xffff_ffff_0000_0000)?;
    if a[2] != 0 {
        t.memory().write(a[2], old as u32)?;
    }
    Ok(0)
}

/// Signals that wait in the kernel, and those that wait here.
fn pending(t: &Task) -> Result<u64, Errno> {
    let mut set = 0u64;
    // SAFETY: the set lives until the call returns.
    unsafe { t.host_call(SYS_rt_sigpending, [(&raw mut set) as u64, SET_BYTES, 0, 0, 0, 0]) }?;
    Ok(set | t.held_signals())
}

pub fn rt_sigpending(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[1] as u64 > SET_BYTES {
        return Err(errno::EINVAL);
    }
    let set = pending(t)?;
    t.memory().write_bytes(a[0], &set.to_le_bytes()[..a[1] as usize]).map(|()| 0)
}

pub fn sigpending(t: &mut Task, a: [u32; 6]) -> Ret {
    let set = pending(t)?;
    t.memory().write(a[0], set as u32).map(|()| 0)
}

// ---- waiting --------------------------------------------------------------------------------------------------------

/// Runs a waiting call under another mask. The host's call must be one that takes a mask and that never restarts; `f` gets
/// the mask's address. Whatever signal ends the wait is delivered under `mask`, and the old one comes back afterwards.
pub fn with_mask(t: &mut Task, mask: Option<u64>, f: impl FnOnce(&mut Task, u64) -> Ret) -> Ret {
    let Some(mask) = mask else { return f(t, 0) };
    // Signals that waited before the call belong to the old mask.
    host_signal::check_pending(&t.link)?;
    let mask = mask & !UNBLOCKABLE;
    let on_host = mask & !(host_signal::bit(SIGSEGV) | host_signal::bit(SIGBUS));
    let result = f(t, (&raw const on_host) as u64);
    if result != Err(errno::RESTART) && t.link.is_pending() {
        t.signals.saved = Some(t.signals.mask);
        t.signals.mask = mask;
    }
    result
}

fn suspend(t: &mut Task, mask: u64) -> Ret {
    with_mask(t, Some(mask), |t, set| {
        // SAFETY: the set lives until the call returns.
        unsafe { t.host_call(SYS_rt_sigsuspend, [set, SET_BYTES, 0, 0, 0, 0]) }
    })
}

pub fn rt_sigsuspend(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[1] as u64 != SET_BYTES {
        return Err(errno::EINVAL);
    }
    let mask = read_set(t, a[0])?;
    suspend(t, mask)
}

/// The mask is the third argument; the others are history.
pub fn sigsuspend(t: &mut Task, a: [u32; 6]) -> Ret {
    suspend(t, a[2] as u64)
}

fn timed_wait(t: &mut Task, a: [u32; 6], timeout: Option<timespec>) -> Ret {
    if a[3] as u64 != SET_BYTES {
        return Err(errno::EINVAL);
    }
    let set = read_set(t, a[0])?;
    let mut info = SigInfo([0; 128]);
    let timeout = timeout.as_ref().map_or(0, |ts| (&raw const *ts) as u64);
    let args = [(&raw const set) as u64, (&raw mut info) as u64, timeout, SET_BYTES, 0, 0];
    // SAFETY: set, information and timeout live until the call returns.
    let signal = unsafe { t.host_call(SYS_rt_sigtimedwait, args) }?;
    if a[1] != 0 {
        t.memory().write(a[1], info.to_guest())?;
    }
    Ok(signal)
}

pub fn rt_sigtimedwait(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = match a[2] {
        0 => None,
        at => {
            let g: Timespec32 = t.memory().read(at)?;
            Some(timespec { tv_sec: g.sec as i64, tv_nsec: g.nsec as i64 })
        }
    };
    timed_wait(t, a, timeout)
}

pub fn rt_sigtimedwait_time64(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = match a[2] {
        0 => None,
        at => {
            let g: Timespec64 = t.memory().read(at)?;
            Some(timespec { tv_sec: g.sec, tv_nsec: g.nsec as u32 as i64 })
        }
    };
    timed_wait(t, a, timeout)
}

pub fn restart_syscall(_: &mut Task, _: [u32; 6]) -> Ret {
    // The host restarts its own calls; a guest that calls this directly has nothing to restart.
    Err(errno::EINTR)
}

pub fn sigreturn(t: &mut Task, _: [u32; 6]) -> Ret {
    t.signal_return(false)
}

pub fn rt_sigreturn(t: &mut Task, _: [u32; 6]) -> Ret {
    t.signal_return(true)
}

// ---- sending --------------------------------------------------------------------------------------------------------

/// Information as the guest gives it.
fn given_info(t: &Task, addr: u32) -> Result<SigInfo, Errno> {
    let raw: [u8; 128] = t.memory().read(addr)?;
    Ok(SigInfo::from_guest(&raw))
}

fn read_info(t: &Task, addr: u32, signal: u32) -> Result<SigInfo, Errno> {
    let mut info = given_info(t, addr)?;
    info.set_signal(signal as i32);
    Ok(info)
}

pub fn rt_sigqueueinfo(t: &mut Task, a: [u32; 6]) -> Ret {
    let info = read_info(t, a[2], a[1])?;
    // SAFETY: the information lives until the call returns.
    unsafe { t.host_call(SYS_rt_sigqueueinfo, [sx(a[0]), sx(a[1]), (&raw const info) as u64, 0, 0, 0]) }
}

pub fn rt_tgsigqueueinfo(t: &mut Task, a: [u32; 6]) -> Ret {
    let info = read_info(t, a[3], a[2])?;
    // SAFETY: the information lives until the call returns.
    unsafe { t.host_call(SYS_rt_tgsigqueueinfo, [sx(a[0]), sx(a[1]), sx(a[2]), (&raw const info) as u64, 0, 0]) }
}

pub fn pidfd_send_signal(t: &mut Task, a: [u32; 6]) -> Ret {
    let info = if a[2] != 0 { Some(given_info(t, a[2])?) } else { None };
    let at = info.as_ref().map_or(0, |i| (&raw const *i) as u64);
    // SAFETY: the information lives until the call returns.
    unsafe { t.host_call(SYS_pidfd_send_signal, [sx(a[0]), sx(a[1]), at, a[3] as u64, 0, 0]) }
}

pub fn signalfd(t: &mut Task, a: [u32; 6]) -> Ret {
    signalfd4(t, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn signalfd4(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[2] as u64 != SET_BYTES {
        return Err(errno::EINVAL);
    }
    let set = read_set(t, a[1])?;
    let flags = super::file::open_flags(a[3]) as u64;
    // SAFETY: the set lives until the call returns.
    unsafe { t.host_call(SYS_signalfd4, [sx(a[0]), (&raw const set) as u64, SET_BYTES, flags, 0, 0]) }
}
