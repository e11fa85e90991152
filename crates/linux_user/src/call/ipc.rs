//! System V and POSIX message queues, semaphores and shared memory.

use super::stat::Timespec32;
use super::sx;
use super::time::{host_sigevent, host_timespec};
use crate::errno::{self, Errno, Ret};
use crate::memory::abi_struct;
use crate::task::Task;
use libc::*;

abi_struct! {
    /// struct ipc64_perm
    IpcPerm 36 { key: u32, uid: u32, gid: u32, cuid: u32, cgid: u32, mode: u16, pad1: u16, seq: u16, pad2: u16, unused: [u32; 2], }
    /// struct semid64_ds
    SemidDs 64 { perm: IpcPerm, otime: [u32; 2], ctime: [u32; 2], nsems: u32, unused: [u32; 2], }
    /// struct shmid64_ds
    ShmidDs 84 {
        perm: IpcPerm, segsz: u32, atime: [u32; 2], dtime: [u32; 2], ctime: [u32; 2], cpid: u32, lpid: u32, nattch: u32,
        unused: [u32; 2],
    }
    /// struct msqid64_ds
    MsqidDs 88 {
        perm: IpcPerm, stime: [u32; 2], rtime: [u32; 2], ctime: [u32; 2], cbytes: u32, qnum: u32, qbytes: u32, lspid: u32,
        lrpid: u32, unused: [u32; 2],
    }
    /// struct mq_attr of a 32-bit program
    MqAttr32 32 { flags: i32, maxmsg: i32, msgsize: i32, curmsgs: i32, reserved: [i32; 4], }
}

/// The command's bit for the structures with 64-bit times; there are no others on ARM.
const IPC_64: u32 = 0x100;
/// No message is longer (the kernel's msgmax is far less).
const MAX_MESSAGE: u32 = 16 << 20;

fn split(v: i64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

fn guest_perm(h: &ipc_perm) -> IpcPerm {
    IpcPerm {
        key: h.__key as u32,
        uid: h.uid,
        gid: h.gid,
        cuid: h.cuid,
        cgid: h.cgid,
        mode: h.mode as u16,
        pad1: 0,
        seq: h.__seq as u16,
        pad2: 0,
        unused: [0; 2],
    }
}

fn set_perm(h: &mut ipc_perm, g: &IpcPerm) {
    h.uid = g.uid;
    h.gid = g.gid;
    h.mode = g.mode as _;
}

// ---- semaphores -----------------------------------------------------------------------------------------------------

/// Linux's numbers of the *_STAT commands.
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;
const SEMINFO_BYTES: u32 = 40;

fn semctl_host(t: &mut Task, a: [u32; 6], command: i32, argument: u64) -> Ret {
    // SAFETY: the argument is a number, guest memory, or a structure that the caller keeps.
    unsafe { t.host_call(SYS_semctl, [sx(a[0]), sx(a[1]), command as u64, argument, 0, 0]) }
}

pub fn semctl(t: &mut Task, a: [u32; 6]) -> Ret {
    let command = (a[2] & !IPC_64) as i32;
    match command {
        SETVAL => semctl_host(t, a, command, sx(a[3])),
        SETALL => semctl_host(t, a, command, t.memory().input(a[3])),
        GETALL => {
            // As many 16-bit values as the set has semaphores; the kernel's bound is SEMMSL.
            let at = t.memory().out(a[3], 2 * 32000);
            semctl_host(t, a, command, at)
        }
        IPC_INFO | SEM_INFO => {
            let at = t.memory().out(a[3], SEMINFO_BYTES);
            semctl_host(t, a, command, at)
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            // SAFETY: all-zero bytes are a value.
            let mut h: semid_ds = unsafe { std::mem::zeroed() };
            let r = semctl_host(t, a, command, (&raw mut h) as u64)?;
            let g = SemidDs {
                perm: guest_perm(&h.sem_perm),
                otime: split(h.sem_otime),
                ctime: split(h.sem_ctime),
                nsems: h.sem_nsems as u32,
                unused: [0; 2],
            };
            t.memory().write(a[3], g)?;
            Ok(r)
        }
        IPC_SET => {
            let g: SemidDs = t.memory().read(a[3])?;
            // SAFETY: all-zero bytes are a value.
            let mut h: semid_ds = unsafe { std::mem::zeroed() };
            set_perm(&mut h.sem_perm, &g.perm);
            semctl_host(t, a, command, (&raw mut h) as u64)
        }
        _ => semctl_host(t, a, command, 0),
    }
}

pub fn semtimedop(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = if a[3] != 0 { Some(host_timespec(t.memory().read::<Timespec32>(a[3])?)) } else { None };
    let at = timeout.as_ref().map_or(0, |ts| (&raw const *ts) as u64);
    // SAFETY: struct sembuf is the same on both sides; the timeout lives until the call returns.
    unsafe { t.host_call(SYS_semtimedop, [sx(a[0]), t.memory().input(a[1]), a[2] as u64, at, 0, 0]) }
}

// ---- shared memory --------------------------------------------------------------------------------------------------

const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

fn shmctl_host(t: &Task, id: u32, command: i32, argument: u64) -> Ret {
    // SAFETY: the argument is a structure that the caller keeps.
    unsafe { t.host_call(SYS_shmctl, [sx(id), command as u64, argument, 0, 0, 0]) }
}

pub fn shmctl(t: &mut Task, a: [u32; 6]) -> Ret {
    let command = (a[1] & !IPC_64) as i32;
    // SAFETY: all-zero bytes are a value.
    let mut h: shmid_ds = unsafe { std::mem::zeroed() };
    match command {
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let r = shmctl_host(t, a[0], command, (&raw mut h) as u64)?;
            let g = ShmidDs {
                perm: guest_perm(&h.shm_perm),
                segsz: h.shm_segsz as u32,
                atime: split(h.shm_atime),
                dtime: split(h.shm_dtime),
                ctime: split(h.shm_ctime),
                cpid: h.shm_cpid as u32,
                lpid: h.shm_lpid as u32,
                nattch: h.shm_nattch as u32,
                unused: [0; 2],
            };
            t.memory().write(a[2], g)?;
            Ok(r)
        }
        IPC_SET => {
            let g: ShmidDs = t.memory().read(a[2])?;
            set_perm(&mut h.shm_perm, &g.perm);
            shmctl_host(t, a[0], command, (&raw mut h) as u64)
        }
        IPC_INFO | SHM_INFO => {
            let mut words = [0u64; 16];
            let r = shmctl_host(t, a[0], command, words.as_mut_ptr() as u64)?;
            // shminfo: nine words (five used, four spare); shm_info: an int and five words.
            let count = if command == IPC_INFO { 9 } else { 6 };
            let small: Vec<u32> = words[..count].iter().map(|w| (*w).min(u32::MAX as u64) as u32).collect();
            t.memory().write_slice(a[2], &small)?;
            Ok(r)
        }
        _ => shmctl_host(t, a[0], command, 0),
    }
}

pub fn shmat(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: all-zero bytes are a value.
    let mut h: shmid_ds = unsafe { std::mem::zeroed() };
    shmctl_host(t, a[0], IPC_STAT, (&raw mut h) as u64)?;
    t.memory().shmat(a[0] as i32, a[1], a[2] as i32, h.shm_segsz as u64)
}

pub fn shmdt(t: &mut Task, a: [u32; 6]) -> Ret {
    t.memory().shmdt(a[0])
}

// ---- message queues -------------------------------------------------------------------------------------------------

const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

pub fn msgsnd(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[2] > MAX_MESSAGE {
        return Err(errno::EINVAL);
    }
    let kind: i32 = t.memory().read(a[1])?;
    let mut h = (kind as i64).to_le_bytes().to_vec();
    h.extend(t.memory().read_vec::<u8>(a[1].wrapping_add(4), a[2] as usize)?);
    // SAFETY: the message lives until the call returns.
    unsafe { t.host_call(SYS_msgsnd, [sx(a[0]), h.as_ptr() as u64, a[2] as u64, a[3] as u64, 0, 0]) }
}

pub fn msgrcv(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[2] > MAX_MESSAGE {
        return Err(errno::EINVAL);
    }
    let mut h = vec![0u8; 8 + a[2] as usize];
    let args = [sx(a[0]), h.as_mut_ptr() as u64, a[2] as u64, sx(a[3]), a[4] as u64, 0];
    // SAFETY: the message lives until the call returns.
    let n = unsafe { t.host_call(SYS_msgrcv, args) }?;
    t.memory().write_bytes(a[1], &h[..4])?;
    t.memory().write_bytes(a[1].wrapping_add(4), &h[8..8 + n as usize])?;
    Ok(n)
}

fn msgctl_host(t: &Task, id: u32, command: i32, argument: u64) -> Ret {
    // SAFETY: the argument is a structure that the caller keeps, or guest memory.
    unsafe { t.host_call(SYS_msgctl, [sx(id), command as u64, argument, 0, 0, 0]) }
}

pub fn msgctl(t: &mut Task, a: [u32; 6]) -> Ret {
    let command = (a[1] & !IPC_64) as i32;
    // SAFETY: all-zero bytes are a value.
    let mut h: msqid_ds = unsafe { std::mem::zeroed() };
    match command {
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let r = msgctl_host(t, a[0], command, (&raw mut h) as u64)?;
            let g = MsqidDs {
                perm: guest_perm(&h.msg_perm),
                stime: split(h.msg_stime),
                rtime: split(h.msg_rtime),
                ctime: split(h.msg_ctime),
                cbytes: h.__msg_cbytes as u32,
                qnum: h.msg_qnum as u32,
                qbytes: h.msg_qbytes as u32,
                lspid: h.msg_lspid as u32,
                lrpid: h.msg_lrpid as u32,
                unused: [0; 2],
            };
            t.memory().write(a[2], g)?;
            Ok(r)
        }
        IPC_SET => {
            let g: MsqidDs = t.memory().read(a[2])?;
            set_perm(&mut h.msg_perm, &g.perm);
            h.msg_qbytes = g.qbytes as _;
            msgctl_host(t, a[0], command, (&raw mut h) as u64)
        }
        IPC_INFO | MSG_INFO => {
            // struct msginfo: eight ints.
            let at = t.memory().out(a[2], 32);
            msgctl_host(t, a[0], command, at)
        }
        _ => msgctl_host(t, a[0], command, 0),
    }
}

/// The calls behind ipc(2), by its first argument.
pub fn ipc(t: &mut Task, a: [u32; 6]) -> Ret {
    let [call, first, second, third, pointer, fifth] = a;
    let version = call >> 16;
    match call & 0xffff {
        1 => crate::table::call(t, 298, [first, pointer, second, 0, 0, 0]),
        2 => crate::table::call(t, 299, [first, second, third, 0, 0, 0]),
        3 => {
            let argument: u32 = t.memory().read(pointer)?;
            semctl(t, [first, second, third, argument, 0, 0])
        }
        4 => semtimedop(t, [first, pointer, second, fifth, 0, 0]),
        11 => msgsnd(t, [first, pointer, second, third, 0, 0]),
        12 if version == 0 => {
            let [message, kind]: [u32; 2] = t.memory().read(pointer)?;
            msgrcv(t, [first, message, second, kind, third, 0])
        }
        12 => msgrcv(t, [first, pointer, second, fifth, third, 0]),
        13 => crate::table::call(t, 303, [first, second, 0, 0, 0, 0]),
        14 => msgctl(t, [first, second, pointer, 0, 0, 0]),
        21 => {
            let at = shmat(t, [first, pointer, second, 0, 0, 0])?;
            t.memory().write(third, at).map(|()| 0)
        }
        22 => shmdt(t, [pointer, 0, 0, 0, 0, 0]),
        23 => crate::table::call(t, 307, [first, second, third, 0, 0, 0]),
        24 => shmctl(t, [first, second, pointer, 0, 0, 0]),
        _ => Err(errno::ENOSYS),
    }
}

// ---- POSIX message queues -------------------------------------------------------------------------------------------

fn host_mq_attr(t: &Task, addr: u32) -> Result<Option<[i64; 8]>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let g: MqAttr32 = t.memory().read(addr)?;
    Ok(Some([g.flags as i64, g.maxmsg as i64, g.msgsize as i64, g.curmsgs as i64, 0, 0, 0, 0]))
}

pub fn mq_open(t: &mut Task, a: [u32; 6]) -> Ret {
    let attr = host_mq_attr(t, a[3])?;
    let at = attr.as_ref().map_or(0, |v| v.as_ptr() as u64);
    let args = [t.memory().input(a[0]), super::file::open_flags(a[1]) as u64, a[2] as u64, at, 0, 0];
    // SAFETY: the attributes live until the call returns.
    unsafe { t.host_call(SYS_mq_open, args) }
}

pub fn mq_unlink(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_mq_unlink, [t.memory().input(a[0]), 0, 0, 0, 0, 0]) }
}

fn timed(t: &Task, addr: u32) -> Result<Option<timespec>, Errno> {
    super::time::read_timespec(t, addr)
}

pub fn mq_timedsend(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = timed(t, a[4])?;
    let at = timeout.as_ref().map_or(0, |ts| (&raw const *ts) as u64);
    // SAFETY: guest memory; the timeout lives until the call returns.
    unsafe { t.host_call(SYS_mq_timedsend, [sx(a[0]), t.memory().input(a[1]), a[2] as u64, a[3] as u64, at, 0]) }
}

pub fn mq_timedreceive(t: &mut Task, a: [u32; 6]) -> Ret {
    let timeout = timed(t, a[4])?;
    let at = timeout.as_ref().map_or(0, |ts| (&raw const *ts) as u64);
    let m = t.memory();
    let args = [sx(a[0]), m.out(a[1], a[2]), a[2] as u64, m.out(a[3], 4), at, 0];
    // SAFETY: guest memory; the timeout lives until the call returns.
    unsafe { t.host_call(SYS_mq_timedreceive, args) }
}

pub fn mq_notify(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut event = if a[1] != 0 { Some(host_sigevent(t, a[1])?) } else { None };
    if let Some(e) = &mut event
        && (e[1] >> 32) as i32 == SIGEV_THREAD
    {
        // The value is the address of a cookie that comes back through a socket.
        e[0] = t.memory().input(e[0] as u32);
    }
    let at = event.as_ref().map_or(0, |e| e.as_ptr() as u64);
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_mq_notify, [sx(a[0]), at, 0, 0, 0, 0]) }
}

pub fn mq_getsetattr(t: &mut Task, a: [u32; 6]) -> Ret {
    let new = host_mq_attr(t, a[1])?;
    let mut old = [0i64; 8];
    let at = new.as_ref().map_or(0, |v| v.as_ptr() as u64);
    // SAFETY: both structures live until the call returns.
    unsafe { t.host_call(SYS_mq_getsetattr, [sx(a[0]), at, old.as_mut_ptr() as u64, 0, 0, 0]) }?;
    if a[2] != 0 {
        t.memory().write(a[2], old.map(|v| v as i32))?;
    }
    Ok(0)
}
