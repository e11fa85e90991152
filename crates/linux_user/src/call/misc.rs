//! Calls that fit nowhere else: ARM's private ones, asynchronous I/O, other processes' memory, keys, fanotify.

use super::file::host_iovec;
use super::{pair, sx};
use crate::abi::arm as abi;
use crate::errno::{self, Errno, Ret};
use crate::memory::abi_struct;
use crate::siginfo::SigInfo;
use crate::table;
use crate::task::Task;
use libc::*;
use std::sync::atomic::{AtomicU64, Ordering};

// ---- ARM ------------------------------------------------------------------------------------------------------------

pub fn set_tls(t: &mut Task, a: [u32; 6]) -> Ret {
    abi::set_tls(t.vcpu.state_mut(), a[0]);
    Ok(0)
}

pub fn get_tls(t: &mut Task, _: [u32; 6]) -> Ret {
    Ok(abi::tls(t.vcpu.state()))
}

pub fn breakpoint(t: &mut Task, _: [u32; 6]) -> Ret {
    let pc = abi::reg(t.vcpu.state(), 15);
    t.force_signal(SigInfo::fault(SIGTRAP, TRAP_BRKPT, pc));
    Err(errno::JUST_RETURN)
}

/// syscall(number, …): the indirect call of old programs.
pub fn syscall(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[0] == 113 {
        return Err(errno::ENOSYS);
    }
    table::call(t, a[0], [a[1], a[2], a[3], a[4], a[5], 0])
}

pub fn seccomp(t: &mut Task, a: [u32; 6]) -> Ret {
    t.seccomp_call(a[0], a[1], a[2])
}

// ---- asynchronous I/O -----------------------------------------------------------------------------------------------

abi_struct! {
    /// struct iocb: the same on both sides but for the addresses' meaning
    Iocb 64 {
        data: u64, key: u32, rw_flags: u32, opcode: u16, prio: i16, fildes: u32, buf: u64, nbytes: u64, offset: i64,
        reserved: u64, flags: u32, resfd: u32,
    }
}

const IOCB_PREADV: u16 = 7;
const IOCB_PWRITEV: u16 = 8;
const MAX_EVENTS: u32 = 1 << 16;
const EVENT_BYTES: u32 = 32;

/// The kernel's context is a 64-bit address, the guest's a 32-bit one: the guest gets a small number for it.
static CONTEXTS: std::sync::Mutex<Vec<u64>> = std::sync::Mutex::new(Vec::new());

fn context(number: u32) -> Result<u64, Errno> {
    let all = CONTEXTS.lock().unwrap();
    let index = (number as usize).checked_sub(1).ok_or(errno::EINVAL)?;
    all.get(index).copied().filter(|c| *c != 0).ok_or(errno::EINVAL)
}

pub fn io_setup(t: &mut Task, a: [u32; 6]) -> Ret {
    if t.memory().read::<u32>(a[1])? != 0 {
        return Err(errno::EINVAL);
    }
    let mut c = 0u64;
    // SAFETY: the word lives until the call returns.
    unsafe { t.host_call(SYS_io_setup, [a[0] as u64, (&raw mut c) as u64, 0, 0, 0, 0]) }?;
    let number = {
        let mut all = CONTEXTS.lock().unwrap();
        all.push(c);
        all.len() as u32
    };
    t.memory().write(a[1], number).map(|()| 0)
}

pub fn io_destroy(t: &mut Task, a: [u32; 6]) -> Ret {
    let c = context(a[0])?;
    // SAFETY: no guest memory involved.
    let r = unsafe { t.host_call(SYS_io_destroy, [c, 0, 0, 0, 0, 0]) }?;
    CONTEXTS.lock().unwrap()[a[0] as usize - 1] = 0;
    Ok(r)
}

/// Requests are converted and handed over one at a time, so that their vectors need to live only that long.
pub fn io_submit(t: &mut Task, a: [u32; 6]) -> Ret {
    let c = context(a[0])?;
    if (a[1] as i32) < 0 {
        return Err(errno::EINVAL);
    }
    let mut done = 0;
    for i in 0..a[1] {
        match submit_one(t, c, a[2].wrapping_add(4 * i)) {
            Ok(()) => done += 1,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn submit_one(t: &mut Task, c: u64, at: u32) -> Result<(), Errno> {
    let addr: u32 = t.memory().read(at)?;
    let mut iocb: Iocb = t.memory().read(addr)?;
    let m = t.memory();
    let mut vector = Vec::new();
    match iocb.opcode {
        IOCB_PREADV | IOCB_PWRITEV => {
            vector = host_iovec(m, iocb.buf as u32, iocb.nbytes as u32, iocb.opcode == IOCB_PREADV)?;
            iocb.buf = vector.as_ptr() as u64;
        }
        0 => iocb.buf = m.out(iocb.buf as u32, iocb.nbytes as u32),
        _ => iocb.buf = m.input(iocb.buf as u32),
    }
    // The completion carries the address of the host's request and its `data`; the guest's two are put back then.
    let ticket = NEXT_TICKET.fetch_add(1, Ordering::Relaxed);
    PENDING.lock().unwrap().push((ticket, addr, iocb.data));
    iocb.data = ticket;
    let list = [&raw const iocb];
    // SAFETY: the kernel copies request and vector during the call.
    let r = unsafe { t.host_call(SYS_io_submit, [c, 1, list.as_ptr() as u64, 0, 0, 0]) };
    drop(vector);
    if r.is_err() {
        PENDING.lock().unwrap().retain(|p| p.0 != ticket);
    }
    r.map(|_| ())
}

/// Requests under way: our number for each, the guest's address of it, its `data`.
static PENDING: std::sync::Mutex<Vec<(u64, u32, u64)>> = std::sync::Mutex::new(Vec::new());
static NEXT_TICKET: AtomicU64 = AtomicU64::new(1);

pub fn io_getevents(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = super::time::read_timespec(t, a[4])?;
    get_events(t, a, timeout, None)
}

pub fn io_pgetevents(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = super::time::read_timespec(t, a[4])?;
    let mask = super::poll::pselect_mask(t, a[5])?;
    get_events(t, a, timeout, mask)
}

pub fn io_pgetevents_time64(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = super::poll::read_timespec_64(t, a[4])?;
    let mask = super::poll::pselect_mask(t, a[5])?;
    get_events(t, a, timeout, mask)
}

fn get_events(t: &mut Task, a: [u32; 6], mut timeout: Option<timespec>, mask: Option<u64>) -> Ret {
    const SYS_IO_PGETEVENTS: i64 = 333;
    let c = context(a[0])?;
    if (a[2] as i32) < 0 || (a[1] as i32) < 0 {
        return Err(errno::EINVAL);
    }
    let at = timeout.as_mut().map_or(0, |ts| (&raw mut *ts) as u64);
    let mut events = vec![[0u64; 4]; a[2].min(MAX_EVENTS) as usize];
    let n = super::sigcall::with_mask(t, mask, |t, set| {
        // The kernel's structure: address and size of the mask.
        let mask_argument = [set, crate::host_signal::SET_BYTES];
        let sixth = if set != 0 { mask_argument.as_ptr() as u64 } else { 0 };
        let args = [c, sx(a[1]), events.len() as u64, events.as_mut_ptr() as u64, at, sixth];
        // SAFETY: events, timeout and mask live until the call returns.
        unsafe { t.host_call(SYS_IO_PGETEVENTS, args) }
    })?;
    for (i, event) in events[..n as usize].iter_mut().enumerate() {
        let mut pending = PENDING.lock().unwrap();
        if let Some(p) = pending.iter().position(|p| p.0 == event[0]) {
            let (_, request, data) = pending.swap_remove(p);
            event[0] = data;
            event[1] = request as u64;
        }
        t.memory().write(a[3].wrapping_add(i as u32 * EVENT_BYTES), *event)?;
    }
    Ok(n)
}

/// Requests on files cannot be cancelled by the kernel either.
pub fn io_cancel(t: &mut Task, a: [u32; 6]) -> Ret {
    /// Of `aio_key` in `struct iocb`, which the kernel looks at first.
    const KEY: u32 = 8;
    t.memory().read::<u32>(a[1].wrapping_add(KEY))?;
    context(a[0]).and(Err(errno::EINVAL))
}

// ---- other processes ------------------------------------------------------------------------------------------------

/// The addresses of a forked relative are ours, because its window lies at the same place; those of a stranger give EFAULT.
fn process_vm(t: &mut Task, number: i64, a: [u32; 6], written: bool) -> Ret {
    let local = host_iovec(t.memory(), a[1], a[2], written)?;
    let remote = host_iovec(t.memory(), a[3], a[4], !written)?;
    let args = [sx(a[0]), local.as_ptr() as u64, local.len() as u64, remote.as_ptr() as u64, remote.len() as u64, a[5] as u64];
    // SAFETY: the vectors live until the call returns; both sides are guest memory.
    unsafe { t.host_call(number, args) }
}

pub fn process_vm_readv(t: &mut Task, a: [u32; 6]) -> Ret {
    process_vm(t, SYS_process_vm_readv, a, true)
}

pub fn process_vm_writev(t: &mut Task, a: [u32; 6]) -> Ret {
    process_vm(t, SYS_process_vm_writev, a, false)
}

// ---- extended attributes --------------------------------------------------------------------------------------------

abi_struct! {
    /// struct xattr_args
    XattrArgs 16 { value: u64, size: u32, flags: u32, }
}

/// setxattrat and getxattrat(dirfd, path, at_flags, name, args, size): the value's address is in a structure, which may grow.
fn xattr_at(t: &mut Task, number: i64, a: [u32; 6], written: bool) -> Ret {
    if (a[5] as usize) < size_of::<XattrArgs>() {
        return Err(errno::EINVAL);
    }
    if a[5] > crate::memory::PAGE {
        return Err(Errno(E2BIG));
    }
    let path = if a[2] & AT_SYMLINK_NOFOLLOW as u32 != 0 { t.path_nofollow(a[1])? } else { t.path(a[1])? };
    let m = t.memory();
    let mut given: Vec<u8> = m.read_vec(a[4], a[5] as usize)?;
    let args = XattrArgs::from_prefix(&given);
    let value = u32::try_from(args.value).map_err(|_| errno::EFAULT)?;
    let value = if written { m.out(value, args.size) } else { m.input(value) };
    given[..8].copy_from_slice(&value.to_le_bytes());
    let host = [sx(a[0]), path.as_ptr() as u64, a[2] as u64, m.input(a[3]), given.as_ptr() as u64, given.len() as u64];
    // SAFETY: path and structure live until the call returns; the others are guest memory.
    unsafe { t.host_call(number, host) }
}

pub fn setxattrat(t: &mut Task, a: [u32; 6]) -> Ret {
    xattr_at(t, 463, a, false)
}

pub fn getxattrat(t: &mut Task, a: [u32; 6]) -> Ret {
    xattr_at(t, 464, a, true)
}

// ---- keys, fanotify, mounts -----------------------------------------------------------------------------------------

pub fn keyctl(t: &mut Task, a: [u32; 6]) -> Ret {
    let m = t.memory();
    let (input, n) = (|v: u32| m.input(v), |v: u32| v as u64);
    // By operation: which arguments are addresses.
    let args = match a[0] {
        0 | 3 | 4 | 5 | 7 | 8 | 9 | 14 | 15 | 16 | 18 | 21 => [n(a[1]), n(a[2]), n(a[3]), n(a[4])],
        1 => [input(a[1]), 0, 0, 0],
        2 => [n(a[1]), input(a[2]), n(a[3]), 0],
        6 | 11 | 17 => [n(a[1]), m.out(a[2], a[3]), n(a[3]), 0],
        10 => [n(a[1]), input(a[2]), input(a[3]), n(a[4])],
        12 => [n(a[1]), input(a[2]), n(a[3]), n(a[4])],
        13 | 19 => [n(a[1]), n(a[2]), n(a[3]), 0],
        _ => return Err(errno::EOPNOTSUPP),
    };
    // SAFETY: numbers, or guest memory of the same layout.
    unsafe { t.host_call(SYS_keyctl, [a[0] as u64, args[0], args[1], args[2], args[3], 0]) }
}

pub fn fanotify_init(t: &mut Task, a: [u32; 6]) -> Ret {
    let flags = super::file::open_flags(a[1]) as u64;
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_fanotify_init, [a[0] as u64, flags, 0, 0, 0, 0]) }
}

/// fanotify_mark(fd, flags, mask as two words, dirfd, path)
pub fn fanotify_mark(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = if a[5] != 0 { Some(t.path(a[5])?) } else { None };
    let at = path.as_ref().map_or(0, |p| p.as_ptr() as u64);
    // SAFETY: the path lives until the call returns.
    unsafe { t.host_call(SYS_fanotify_mark, [sx(a[0]), a[1] as u64, pair(a[2], a[3]), sx(a[4]), at, 0]) }
}

pub fn listmount(t: &mut Task, a: [u32; 6]) -> Ret {
    const SYS_LISTMOUNT: i64 = 458;
    let m = t.memory();
    let args = [m.input(a[0]), m.out(a[1], a[2].saturating_mul(8)), a[2] as u64, a[3] as u64, 0, 0];
    // SAFETY: guest memory of the same layout.
    unsafe { t.host_call(SYS_LISTMOUNT, args) }
}
