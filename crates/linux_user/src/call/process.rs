//! Processes and threads: creation, end, waiting, limits, identity, what uname and sysinfo tell.

use super::stat::Timeval32;
use super::sx;
use crate::abi::arm as abi;
use crate::errno::{self, Errno, Ret};
use crate::host_signal;
use crate::memory::abi_struct;
use crate::siginfo::SigInfo;
use crate::task::Task;
use libc::*;

pub use super::spawn::{clone, clone3, fork, unshare, vfork};
pub use crate::exec::{execve, execveat};

abi_struct! {
    /// struct rusage of a 32-bit program
    Rusage32 72 { utime: Timeval32, stime: Timeval32, counts: [i32; 14], }
    /// struct sysinfo of a 32-bit program
    Sysinfo32 64 {
        uptime: i32, loads: [u32; 3], ram: [u32; 6], procs: u16, pad: u16, high: [u32; 2], unit: u32, tail: [u8; 8],
    }
}

// ---- end ------------------------------------------------------------------------------------------------------------

pub fn exit(t: &mut Task, a: [u32; 6]) -> Ret {
    t.ended = Some(a[0] as i32 & 0xff);
    Err(errno::JUST_RETURN)
}

pub fn exit_group(t: &mut Task, a: [u32; 6]) -> Ret {
    t.debug_exit(a[0] as i32);
    t.before_process_end();
    // SAFETY: ends the process at once; nothing of it is needed any more.
    unsafe { _exit(a[0] as i32) }
}

pub fn set_tid_address(t: &mut Task, a: [u32; 6]) -> Ret {
    t.clear_tid = a[0];
    Ok(t.tid as u32)
}

// ---- waiting --------------------------------------------------------------------------------------------------------

fn zeroed_rusage() -> rusage {
    // SAFETY: all-zero bytes are a value.
    unsafe { std::mem::zeroed() }
}

fn guest_rusage(h: &rusage) -> Rusage32 {
    let tv = |v: &timeval| Timeval32 { sec: v.tv_sec as i32, usec: v.tv_usec as i32 };
    let counts = [
        h.ru_maxrss, h.ru_ixrss, h.ru_idrss, h.ru_isrss, h.ru_minflt, h.ru_majflt, h.ru_nswap, h.ru_inblock, h.ru_oublock,
        h.ru_msgsnd, h.ru_msgrcv, h.ru_nsignals, h.ru_nvcsw, h.ru_nivcsw,
    ];
    Rusage32 { utime: tv(&h.ru_utime), stime: tv(&h.ru_stime), counts: counts.map(|v| v as i32) }
}

pub fn getrusage(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut h = zeroed_rusage();
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_getrusage, [sx(a[0]), (&raw mut h) as u64, 0, 0, 0, 0]) }?;
    t.memory().write(a[1], guest_rusage(&h)).map(|()| 0)
}

pub fn wait4(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut h = zeroed_rusage();
    let usage = if a[3] != 0 { (&raw mut h) as u64 } else { 0 };
    let args = [sx(a[0]), t.memory().out(a[1], 4), a[2] as u64, usage, 0, 0];
    // SAFETY: guest memory; the structure lives until the call returns.
    let pid = unsafe { t.host_call(SYS_wait4, args) }?;
    if a[3] != 0 {
        t.memory().write(a[3], guest_rusage(&h))?;
    }
    Ok(pid)
}

pub fn waitid(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut h = zeroed_rusage();
    let mut info = SigInfo([0; 128]);
    let at = (&raw mut info) as u64;
    let args = [sx(a[0]), sx(a[1]), at, a[3] as u64, (&raw mut h) as u64, 0];
    // SAFETY: both structures live until the call returns.
    unsafe { t.host_call(SYS_waitid, args) }?;
    if a[2] != 0 {
        // The kernel writes the fields up to the status only.
        t.memory().write_bytes(a[2], &info.to_guest()[..24])?;
    }
    if a[4] != 0 {
        t.memory().write(a[4], guest_rusage(&h))?;
    }
    Ok(0)
}

// ---- limits ---------------------------------------------------------------------------------------------------------

/// Limits of the address space would hit the emulator, which needs more than the guest: they are kept here, and `memory` enforces them.
const KEPT: [u32; 3] = [RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK];
const INFINITY_32: u32 = u32::MAX;

fn limits(t: &mut Task, pid: u32, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64), Errno> {
    // SAFETY: takes no arguments.
    let own = pid == 0 || pid as i32 == unsafe { getpid() };
    let keep = own && KEPT.contains(&resource);
    let mut h = [0u64; 2];
    let host_new = new.filter(|_| !keep).map(|(soft, hard)| [soft, hard]);
    let at = host_new.as_ref().map_or(0, |v| v.as_ptr() as u64);
    // SAFETY: the structures are two words and live until the call returns.
    unsafe { t.host_call(SYS_prlimit64, [sx(pid), resource as u64, at, h.as_mut_ptr() as u64, 0, 0]) }?;
    let mut old = (h[0], h[1]);
    if keep {
        let mut kept = t.process.limits.lock().unwrap();
        old = kept.get(&resource).copied().unwrap_or(old);
        if let Some((soft, hard)) = new {
            // SAFETY: takes no arguments.
            if soft > hard {
                return Err(errno::EINVAL);
            } else if hard > old.1 && unsafe { geteuid() } != 0 {
                return Err(errno::EPERM);
            }
            kept.insert(resource, (soft, hard));
            t.process.memory.set_limit(resource, (soft, hard));
        }
    }
    Ok(old)
}

fn widen(v: u32) -> u64 {
    if v == INFINITY_32 { RLIM_INFINITY } else { v as u64 }
}

fn narrow(v: u64, infinity: u32) -> u32 {
    u32::try_from(v).unwrap_or(infinity).min(infinity)
}

pub fn setrlimit(t: &mut Task, a: [u32; 6]) -> Ret {
    let [soft, hard]: [u32; 2] = t.memory().read(a[1])?;
    limits(t, 0, a[0], Some((widen(soft), widen(hard)))).map(|_| 0)
}

pub fn ugetrlimit(t: &mut Task, a: [u32; 6]) -> Ret {
    let (soft, hard) = limits(t, 0, a[0], None)?;
    t.memory().write(a[1], [narrow(soft, INFINITY_32), narrow(hard, INFINITY_32)]).map(|()| 0)
}

/// The old call knows signed limits only.
pub fn getrlimit(t: &mut Task, a: [u32; 6]) -> Ret {
    let (soft, hard) = limits(t, 0, a[0], None)?;
    t.memory().write(a[1], [narrow(soft, i32::MAX as u32), narrow(hard, i32::MAX as u32)]).map(|()| 0)
}

pub fn prlimit64(t: &mut Task, a: [u32; 6]) -> Ret {
    let new = match a[2] {
        0 => None,
        at => {
            let [soft, hard]: [u64; 2] = t.memory().read(at)?;
            Some((soft, hard))
        }
    };
    let (soft, hard) = limits(t, a[0], a[1], new)?;
    if a[3] != 0 {
        t.memory().write(a[3], [soft, hard])?;
    }
    Ok(0)
}

pub fn nice(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved. The raw call gives 20 - nice.
    let old = unsafe { t.host_call(SYS_getpriority, [PRIO_PROCESS as u64, 0, 0, 0, 0, 0]) }?;
    let wanted = (20 - old as i32).saturating_add(a[0] as i32).clamp(-20, 19);
    // SAFETY: no memory involved.
    let r = unsafe { t.host_call(SYS_setpriority, [PRIO_PROCESS as u64, 0, sx(wanted as u32), 0, 0, 0]) };
    r.map_err(|e| if e == errno::EACCES { errno::EPERM } else { e })
}

/// A mask's size is a multiple of 8 bytes on the host, of 4 for the guest.
pub fn sched_getaffinity(t: &mut Task, a: [u32; 6]) -> Ret {
    if !a[1].is_multiple_of(4) || a[1] > 1 << 16 {
        return Err(errno::EINVAL);
    }
    let mut mask = vec![0u64; (a[1] as usize).div_ceil(8)];
    let args = [sx(a[0]), mask.len() as u64 * 8, mask.as_mut_ptr() as u64, 0, 0, 0];
    // SAFETY: the mask lives until the call returns.
    let n = unsafe { t.host_call(SYS_sched_getaffinity, args) }?;
    let bytes: Vec<u8> = mask.iter().flat_map(|w| w.to_le_bytes()).collect();
    let n = n.min(a[1]);
    t.memory().write_bytes(a[2], &bytes[..n as usize])?;
    Ok(n)
}

// ---- identity: calls with numbers of 16 bits ------------------------------------------------------------------------

/// A user or group number of 16 bits: -1 means "leave it".
fn wide_id(v: u32) -> u64 {
    if v as u16 == u16::MAX { u32::MAX as u64 } else { v as u16 as u64 }
}

/// What stands for a number that does not fit.
const OVERFLOW_ID: u32 = 65534;

fn narrow_id(v: u32) -> u32 {
    if v > u16::MAX as u32 { OVERFLOW_ID } else { v }
}

macro_rules! ids {
    ($($name:ident $host:ident $count:literal;)*) => {$(
        pub fn $name(t: &mut Task, a: [u32; 6]) -> Ret {
            let mut args = [0u64; 6];
            for i in 0..$count {
                args[i] = wide_id(a[i]);
            }
            // SAFETY: no memory involved.
            unsafe { t.host_call($host, args) }.map(narrow_id)
        }
    )*};
}

ids! {
    setuid16 SYS_setuid 1;
    getuid16 SYS_getuid 0;
    setgid16 SYS_setgid 1;
    getgid16 SYS_getgid 0;
    geteuid16 SYS_geteuid 0;
    getegid16 SYS_getegid 0;
    setreuid16 SYS_setreuid 2;
    setregid16 SYS_setregid 2;
    setresuid16 SYS_setresuid 3;
    setresgid16 SYS_setresgid 3;
    setfsuid16 SYS_setfsuid 1;
    setfsgid16 SYS_setfsgid 1;
}

fn three_ids(t: &mut Task, number: i64, a: [u32; 6]) -> Ret {
    let mut v = [0u32; 3];
    let first = v.as_mut_ptr();
    let args = [first as u64, first.wrapping_add(1) as u64, first.wrapping_add(2) as u64, 0, 0, 0];
    // SAFETY: the three words live until the call returns.
    unsafe { t.host_call(number, args) }?;
    for (i, id) in v.iter().enumerate() {
        t.memory().write(a[i], narrow_id(*id) as u16)?;
    }
    Ok(0)
}

pub fn getresuid16(t: &mut Task, a: [u32; 6]) -> Ret {
    three_ids(t, SYS_getresuid, a)
}

pub fn getresgid16(t: &mut Task, a: [u32; 6]) -> Ret {
    three_ids(t, SYS_getresgid, a)
}

fn chown_path(t: &mut Task, number: i64, path: &std::ffi::CStr, a: [u32; 6]) -> Ret {
    // SAFETY: the path lives until the call returns.
    unsafe { t.host_call(number, [path.as_ptr() as u64, wide_id(a[1]), wide_id(a[2]), 0, 0, 0]) }
}

pub fn chown16(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = t.path(a[0])?;
    chown_path(t, SYS_chown, &path, a)
}

pub fn lchown16(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = t.path_nofollow(a[0])?;
    chown_path(t, SYS_lchown, &path, a)
}

pub fn fchown16(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_fchown, [sx(a[0]), wide_id(a[1]), wide_id(a[2]), 0, 0, 0]) }
}

/// NGROUPS_MAX.
const MAX_GROUPS: u32 = 65536;

pub fn getgroups32(t: &mut Task, a: [u32; 6]) -> Ret {
    let args = [sx(a[0]), t.memory().out(a[1], a[0].min(MAX_GROUPS) * 4), 0, 0, 0, 0];
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_getgroups, args) }
}

pub fn getgroups16(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut groups = vec![0u32; a[0].min(MAX_GROUPS) as usize];
    let n = // SAFETY: the list lives until the call returns.
        unsafe { t.host_call(SYS_getgroups, [sx(a[0]), groups.as_mut_ptr() as u64, 0, 0, 0, 0]) }?;
    if a[0] != 0 {
        let small: Vec<u16> = groups[..n as usize].iter().map(|g| narrow_id(*g) as u16).collect();
        t.memory().write_slice(a[1], &small)?;
    }
    Ok(n)
}

pub fn setgroups16(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[0] > MAX_GROUPS {
        return Err(errno::EINVAL);
    }
    let groups: Vec<u32> = t.memory().read_vec::<u16>(a[1], a[0] as usize)?.into_iter().map(u32::from).collect();
    // SAFETY: the list lives until the call returns.
    unsafe { t.host_call(SYS_setgroups, [a[0] as u64, groups.as_ptr() as u64, 0, 0, 0, 0]) }
}

// ---- the system -----------------------------------------------------------------------------------------------------

const UTS_FIELD: usize = 65;

pub fn uname(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut h = [0u8; 6 * UTS_FIELD];
    // SAFETY: struct new_utsname is six fields of 65 bytes.
    unsafe { t.host_call(SYS_uname, [h.as_mut_ptr() as u64, 0, 0, 0, 0, 0]) }?;
    let mut put = |field: usize, text: &str| {
        let place = &mut h[field * UTS_FIELD..(field + 1) * UTS_FIELD];
        place.fill(0);
        let n = text.len().min(UTS_FIELD - 1);
        place[..n].copy_from_slice(&text.as_bytes()[..n]);
    };
    let options = &t.process.config.options;
    if let Some(release) = &options.uname {
        put(2, release);
    }
    put(4, abi::machine(options.cpu.platform));
    t.memory().write_bytes(a[0], &h).map(|()| 0)
}

pub fn sysinfo(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: all-zero bytes are a value.
    let mut h: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_sysinfo, [(&raw mut h) as u64, 0, 0, 0, 0, 0]) }?;
    // As the kernel does for 32-bit programs: a larger unit if the numbers do not fit.
    let unit = h.mem_unit.max(1) as u64;
    let largest = (h.totalram | h.totalswap).saturating_mul(unit);
    let new_unit = if largest >> 32 == 0 { 1 } else { 4096.max(unit) };
    let scale = |v: u64| (v.saturating_mul(unit) / new_unit) as u32;
    let g = Sysinfo32 {
        uptime: h.uptime as i32,
        loads: h.loads.map(|v| v as u32),
        ram: [h.totalram, h.freeram, h.sharedram, h.bufferram, h.totalswap, h.freeswap].map(scale),
        procs: h.procs,
        pad: 0,
        high: [scale(h.totalhigh), scale(h.freehigh)],
        unit: new_unit as u32,
        tail: [0; 8],
    };
    t.memory().write(a[0], g).map(|()| 0)
}

pub fn chroot(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = t.path(a[0])?;
    crate::exec::keep_emulator();
    // SAFETY: the path lives until the call returns.
    unsafe { t.host_call(SYS_chroot, [path.as_ptr() as u64, 0, 0, 0, 0, 0]) }
}

pub fn personality(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_personality, [a[0] as u64, 0, 0, 0, 0, 0]) }
}

pub fn prctl(t: &mut Task, a: [u32; 6]) -> Ret {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    let m = t.memory();
    let second = match a[0] as i32 {
        PR_GET_PDEATHSIG | PR_GET_CHILD_SUBREAPER | PR_GET_UNALIGN | PR_GET_ENDIAN | PR_GET_FPEMU => m.out(a[1], 4),
        PR_SET_NAME => m.input(a[1]),
        PR_GET_NAME => m.out(a[1], 16),
        PR_SET_SECCOMP => return t.set_seccomp_mode(a[1], a[2]),
        PR_GET_SECCOMP => return Ok(t.seccomp.mode()),
        PR_SET_PDEATHSIG | PR_GET_DUMPABLE | PR_SET_DUMPABLE | PR_GET_KEEPCAPS | PR_SET_KEEPCAPS | PR_GET_TIMING
        | PR_SET_TIMING | PR_CAPBSET_READ | PR_CAPBSET_DROP | PR_GET_SECUREBITS | PR_SET_SECUREBITS | PR_SET_TIMERSLACK
        | PR_GET_TIMERSLACK | PR_SET_CHILD_SUBREAPER | PR_SET_NO_NEW_PRIVS | PR_GET_NO_NEW_PRIVS | PR_CAP_AMBIENT
        | PR_SET_PTRACER | PR_GET_SPECULATION_CTRL | PR_SET_SPECULATION_CTRL | PR_SET_THP_DISABLE | PR_GET_THP_DISABLE
        | PR_MCE_KILL | PR_MCE_KILL_GET => a[1] as u64,
        // Names of anonymous mappings are decoration.
        PR_SET_VMA => return Err(errno::EINVAL),
        _ => return Err(errno::EINVAL),
    };
    // SAFETY: numbers, or guest memory of the same layout.
    unsafe { t.host_call(SYS_prctl, [sx(a[0]), second, a[2] as u64, a[3] as u64, a[4] as u64, 0]) }
}

/// Blocks signals for the time of a process creation, and restores the guest's mask on drop.
pub struct Quiet<'a>(&'a host_signal::Link, u64);

impl<'a> Quiet<'a> {
    /// RESTART if a signal waits already: it must not reach the child too.
    pub fn begin(link: &'a host_signal::Link, mask: u64) -> Result<Quiet<'a>, Errno> {
        host_signal::block_all();
        let quiet = Quiet(link, mask);
        host_signal::check_pending(link)?;
        Ok(quiet)
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = host_signal::set_mask(self.0, self.1);
    }
}

/// rseq(area, length, flags, signature): registers the thread's `struct rseq`.
pub fn rseq(t: &mut Task, a: [u32; 6]) -> Ret {
    const UNREGISTER: u32 = 1;
    /// Bytes and alignment of the structure as first defined.
    const FIRST: u32 = 32;
    let [area, length, flags, signature, ..] = a;
    let now = t.vcpu.registered_sequences();
    if flags & UNREGISTER != 0 {
        if flags != UNREGISTER || now.is_none_or(|n| n.0 != area) || length != FIRST {
            return Err(errno::EINVAL);
        }
        if now.is_some_and(|n| n.1 != signature) {
            return Err(errno::EPERM);
        }
        t.vcpu.unregister_sequences();
        return Ok(0);
    }
    if flags != 0 {
        return Err(errno::EINVAL);
    }
    if let Some((registered, with)) = now {
        return Err(match () {
            () if registered != area || length != FIRST => errno::EINVAL,
            () if with != signature => errno::EPERM,
            () => errno::EBUSY,
        });
    }
    if length != FIRST || area % FIRST != 0 {
        return Err(errno::EINVAL);
    }
    // It must be the guest's to write.
    let old: [u32; 2] = t.memory().read(area)?;
    t.memory().write(area, old)?;
    if t.sharing || !t.vcpu.register_sequences(area, signature) {
        return Err(errno::ENOSYS);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_16_bits() {
        assert_eq!(wide_id(0xffff), u32::MAX as u64);
        assert_eq!(wide_id(1000), 1000);
        assert_eq!(narrow_id(100_000), OVERFLOW_ID);
        assert_eq!(narrow_id(65535), 65535);
    }

    #[test]
    fn infinite_limits_stay_infinite() {
        assert_eq!(widen(INFINITY_32), RLIM_INFINITY);
        assert_eq!(narrow(RLIM_INFINITY, INFINITY_32), INFINITY_32);
        assert_eq!(narrow(8 << 20, INFINITY_32), 8 << 20);
        assert_eq!(narrow(3 << 30, i32::MAX as u32), i32::MAX as u32);
    }
}
