//! New threads and processes: clone, clone3, fork, vfork.
//!
//! A guest thread is a host thread with a vCPU of its own. A guest process is a forked host process. A vfork child shares the
//! memory as it does natively: it runs on another host stack in the same address space while the parent waits. A process that
//! shares memory and runs at the same time as its parent (CLONE_VM alone) is the vfork child of a host thread that does
//! nothing but wait, and so has that thread's thread-local storage.
//!
//! What a thread does not share (CLONE_FS, CLONE_FILES, CLONE_SYSVSEM) it makes its own before it begins. Dispositions are shared between processes
//! (CLONE_SIGHAND) here and on the host; the host's execve ends that.
//!
//! Invariants:
//! 1. `rhea_clone_vfork` returns in the parent only when the child has ended or executed another program, so the child may
//!    use the parent's thread-local storage and everything that its closure refers to.

use super::process::Quiet;

use crate::abi::arm as abi;
use crate::debug::follow::Ends;
use crate::errno::{self, Errno, Ret};
use crate::fds::Fds;
use crate::host_signal;
use crate::memory::Memory;
use crate::task::{Process, Task, note_threads};
use jit::Vcpu;
use libc::*;
use std::arch::global_asm;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// Host stack of a guest thread. Translation and system calls need far less.
const HOST_STACK: usize = 512 << 10;

const NAMESPACES: u64 = (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET) as u32 as u64;
/// Flags that the kernel handles for a new process without knowing the guest.
const PROCESS_FLAGS: u64 = NAMESPACES | (CLONE_PARENT | CLONE_IO | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_UNTRACED) as u64;

/// CLONE_CLEAR_SIGHAND, of clone3 only.
const CLEAR_SIGHAND: u64 = 1 << 32;

/// What clone and clone3 ask for.
#[derive(Clone, Copy, Debug, Default)]
struct Request {
    flags: u64,
    exit_signal: u64,
    /// Stack pointer of the child, 0 for the parent's.
    sp: u32,
    parent_tid: u32,
    child_tid: u32,
    tls: u32,
    pidfd: u32,
    cgroup: Option<u64>,
    set_tid: (u32, u32),
}

impl Request {
    fn has(&self, flag: i32) -> bool {
        self.flags & flag as u32 as u64 != 0
    }
}

pub fn fork(t: &mut Task, _: [u32; 6]) -> Ret {
    spawn(t, Request { exit_signal: SIGCHLD as u64, ..Request::default() })
}

pub fn vfork(t: &mut Task, _: [u32; 6]) -> Ret {
    spawn(t, Request { flags: (CLONE_VM | CLONE_VFORK) as u64, exit_signal: SIGCHLD as u64, ..Request::default() })
}

/// clone(flags, sp, parent_tid, tls, child_tid)
pub fn clone(t: &mut Task, a: [u32; 6]) -> Ret {
    let flags = (a[0] & !0xff) as u64;
    // The descriptor goes to where the parent's number would.
    let pidfd = if flags & CLONE_PIDFD as u64 != 0 { a[2] } else { 0 };
    let request = Request {
        flags,
        exit_signal: (a[0] & 0xff) as u64,
        sp: a[1],
        parent_tid: a[2],
        child_tid: a[4],
        tls: a[3],
        pidfd,
        ..Request::default()
    };
    spawn(t, request)
}

/// struct clone_args: eleven 64-bit words, of which a program gives the first so many.
pub fn clone3(t: &mut Task, a: [u32; 6]) -> Ret {
    const MINIMUM: u32 = 64;
    const KNOWN: usize = 11;
    if a[1] < MINIMUM {
        return Err(errno::EINVAL);
    }
    if a[1] > 4096 {
        return Err(Errno(E2BIG));
    }
    let given = t.memory().read_vec::<u8>(a[0], a[1] as usize)?;
    if given[given.len().min(KNOWN * 8)..].iter().any(|b| *b != 0) {
        return Err(Errno(E2BIG));
    }
    let mut words = [0u64; KNOWN];
    for (w, c) in words.iter_mut().zip(given.chunks_exact(8)) {
        *w = u64::from_le_bytes(c.try_into().expect("eight bytes"));
    }
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup] = words;
    let addr = |v: u64| u32::try_from(v).map_err(|_| errno::EFAULT);
    let inherits_signal = flags & (CLONE_THREAD | CLONE_PARENT) as u64 != 0;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let known = u32::MAX as u64 & !(CLONE_DETACHED as u64 | 0xff) | CLEAR_SIGHAND | CLONE_INTO_CGROUP;
    if flags & !known != 0 || flags & CLEAR_SIGHAND != 0 && flags & CLONE_SIGHAND as u64 != 0 {
        return Err(errno::EINVAL);
    }
    if (stack == 0) != (stack_size == 0) || exit_signal > 64 || inherits_signal && exit_signal != 0 {
        return Err(errno::EINVAL);
    }
    let request = Request {
        flags,
        exit_signal,
        sp: addr(stack)?.wrapping_add(addr(stack_size)?),
        parent_tid: addr(parent_tid)?,
        child_tid: addr(child_tid)?,
        tls: addr(tls)?,
        pidfd: addr(pidfd)?,
        cgroup: (flags & CLONE_INTO_CGROUP != 0).then_some(cgroup),
        set_tid: (addr(set_tid)?, set_tid_size as u32),
    };
    spawn(t, request)
}

fn spawn(t: &mut Task, r: Request) -> Ret {
    if r.has(CLONE_SIGHAND) && !r.has(CLONE_VM) || r.has(CLONE_THREAD) && !r.has(CLONE_SIGHAND) {
        return Err(errno::EINVAL);
    }
    if r.has(CLONE_THREAD) {
        new_thread(t, r)
    } else if r.has(CLONE_VM) && r.has(CLONE_VFORK) && !t.process.debug.as_ref().is_some_and(|d| d.follows_forks()) {
        new_vfork_child(t, r)
    } else if r.has(CLONE_VFORK) {
        new_process(t, r)
    } else if r.has(CLONE_VM) {
        new_sharing_process(t, r)
    } else {
        new_process(t, r)
    }
}

/// A vCPU that continues after the call as the child does.
fn child_vcpu(t: &Task, r: &Request) -> Vcpu {
    let mut vcpu = Vcpu::new(&t.process.engine);
    *vcpu.state_mut() = t.vcpu.state().clone();
    start_child(vcpu.state_mut(), r);
    vcpu
}

fn start_child(s: &mut ir::State, r: &Request) {
    abi::set_reg(s, 0, 0);
    if r.sp != 0 {
        abi::set_reg(s, abi::SP, r.sp);
    }
    if r.has(CLONE_SETTLS) {
        abi::set_tls(s, r.tls);
    }
}

/// What is known of the child's descriptors.
fn descriptors(t: &Task, r: &Request) -> Arc<Fds> {
    if r.has(CLONE_FILES) { t.fds.clone() } else { Arc::new(t.fds.duplicate()) }
}

/// The words that the kernel writes for the new task; failures are ignored there too.
fn write_tids(memory: &Memory, r: &Request, tid: i32, of_child: bool) {
    if !of_child && r.has(CLONE_PARENT_SETTID) {
        let _ = memory.write(r.parent_tid, tid);
    }
    if of_child && r.has(CLONE_CHILD_SETTID) {
        let _ = memory.write(r.child_tid, tid);
    }
}

// ---- threads --------------------------------------------------------------------------------------------------------

/// A new thread's vCPU on its way there.
struct Carried(Vcpu);

// SAFETY: the parent has just made the vCPU and does not use it again; what it points to is shared by all vCPUs.
unsafe impl Send for Carried {}

impl Carried {
    fn take(self) -> Vcpu {
        self.0
    }
}

fn new_thread(t: &mut Task, r: Request) -> Ret {
    if r.flags & NAMESPACES != 0 || r.set_tid.1 != 0 {
        return Err(errno::EINVAL);
    }
    let quiet = Quiet::begin(&t.link, t.signals.mask)?;
    let vcpu = Carried(child_vcpu(t, &r));
    let process = t.process.clone();
    let (mask, seccomp) = (t.signals.mask, process.seats.inherit(&t.seccomp));
    note_threads(&process);
    let fds = descriptors(t, &r);
    let (sender, receiver) = mpsc::sync_channel(1);
    let body = move || {
        let mut child = Task::new(process, vcpu.take(), false);
        child.seccomp = seccomp;
        child.seccomp.occupy(child.tid);
        child.fds = fds;
        let pidfd = own_pidfd(&r);
        let own = unshare_own(&r);
        if let Some(e) = pidfd.err().or(own.err()) {
            let _ = sender.send(Err(e));
            return crate::task::detach_thread();
        }
        let memory = child.process.memory.clone();
        write_tids(&memory, &r, child.tid, false);
        write_tids(&memory, &r, child.tid, true);
        if r.has(CLONE_CHILD_CLEARTID) {
            child.clear_tid = r.child_tid;
        }
        child.process.actions.lock().unwrap().reclaim();
        let _ = sender.send(Ok((child.tid, pidfd.unwrap_or(-1))));
        child.set_signal_mask(mask);
        child.run();
        host_signal::block_all();
        child.finish();
        crate::task::detach_thread();
    };
    // The host's limit on threads is the guest's: EAGAIN.
    std::thread::Builder::new().stack_size(HOST_STACK).spawn(body).map_err(|_| errno::EAGAIN)?;
    let (tid, pidfd) = receiver.recv().map_err(|_| errno::EAGAIN)??;
    drop(quiet);
    if r.has(CLONE_PIDFD) {
        t.memory().write(r.pidfd, pidfd)?;
    }
    Ok(tid as u32)
}

/// The descriptor of the calling thread, if it is to have one.
fn own_pidfd(r: &Request) -> Result<i32, Errno> {
    const PIDFD_THREAD: i32 = O_EXCL;
    if !r.has(CLONE_PIDFD) {
        return Ok(-1);
    }
    // SAFETY: no memory involved. Kernels that do not know the flag have no such descriptors for clone either.
    let fd = unsafe { libc::syscall(SYS_pidfd_open, libc::syscall(SYS_gettid), PIDFD_THREAD) };
    if fd < 0 { Err(Errno::last()) } else { Ok(fd as i32) }
}

/// Makes the calling thread's own what it does not share.
fn unshare_own(r: &Request) -> Result<(), Errno> {
    let own = [CLONE_FS, CLONE_FILES, CLONE_SYSVSEM].into_iter().filter(|f| !r.has(*f)).fold(0, |all, f| all | f);
    // SAFETY: no memory involved.
    if own == 0 || unsafe { libc::unshare(own) } == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// unshare(flags)
pub fn unshare(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    let done = unsafe { t.host_call(SYS_unshare, [a[0] as u64, 0, 0, 0, 0, 0]) }?;
    if a[0] & CLONE_FILES as u32 != 0 {
        t.fds = Arc::new(t.fds.duplicate());
    }
    Ok(done)
}

// ---- processes ------------------------------------------------------------------------------------------------------

/// The host's fork, with the flags that the kernel handles. The C library's own fork is used where it can be, because it
/// keeps the allocator usable if other threads are inside of it.
fn host_fork(r: &Request, set_tid: &[i32], pidfd: &mut i32) -> Result<i32, Errno> {
    let flags = r.flags & PROCESS_FLAGS;
    let plain = flags == 0 && r.exit_signal == SIGCHLD as u64 && r.pidfd == 0 && r.set_tid.1 == 0 && r.cgroup.is_none();
    if plain {
        // SAFETY: the child goes on with this thread only; locks that others may hold are held by us (see new_process).
        let pid = unsafe { libc::fork() };
        return if pid < 0 { Err(Errno::last()) } else { Ok(pid) };
    }
    let want_pidfd = if r.has(CLONE_PIDFD) { CLONE_PIDFD as u64 } else { 0 };
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let into = if r.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let args: [u64; 11] = [
        flags | want_pidfd | into,
        (&raw mut *pidfd) as u64,
        0,
        0,
        // The child of our parent ends with the signal that we end with.
        if r.has(CLONE_PARENT) { 0 } else { r.exit_signal },
        0,
        0,
        0,
        if set_tid.is_empty() { 0 } else { set_tid.as_ptr() as u64 },
        set_tid.len() as u64,
        r.cgroup.unwrap_or(0),
    ];
    // SAFETY: a fork with its own memory; the structure lives until the call returns.
    let raw = unsafe { libc::syscall(SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    if raw < 0 { Err(Errno::last()) } else { Ok(raw as i32) }
}

fn new_process(t: &mut Task, r: Request) -> Ret {
    let mask = t.signals.mask;
    let mut pidfd = -1;
    let ends = t.process.debug.as_ref().and_then(|d| d.before_fork());
    let set_tid: Vec<i32> = t.memory().read_vec(r.set_tid.0, r.set_tid.1.min(32) as usize)?;
    let (pid, holes) = {
        let _quiet = Quiet::begin(&t.link, mask)?;
        let process = t.process.clone();
        // What another thread holds at this moment would stay locked in the child for ever. Nothing may touch guest memory
        // meanwhile: a touch may change the map.
        let memory = process.memory.freeze();
        let _actions = process.actions.lock().unwrap();
        let _robust = process.robust.lock().unwrap();
        let _limits = process.limits.lock().unwrap();
        let _fds = t.fds.freeze();
        let _seats = process.seats.lock();
        let _debug = process.debug.as_ref().map(|d| d.freeze());
        let mut failure = errno::EAGAIN;
        let mut holes = Vec::new();
        let forked = process.engine.fork(&t.vcpu, || match host_fork(&r, &set_tid, &mut pidfd) {
            Ok(pid) => {
                if pid == 0 {
                    holes = process.memory.close_holes(memory.left_behind());
                }
                pid as i64
            }
            Err(e) => {
                failure = e;
                -1
            }
        });
        let pid = forked.map_err(|_| errno::ENOMEM)?;
        if pid < 0 {
            return Err(failure);
        }
        (pid, holes)
    };
    if pid == 0 {
        t.memory().forget_holes(&holes);
        become_child(t, &r, ends);
        return Ok(0);
    }
    if let (Some(d), Some(ends)) = (&t.process.debug, ends) {
        d.forked(ends, t.tid, pid as i32, r.has(CLONE_VFORK));
    }
    write_tids(&t.process.memory, &r, pid as i32, false);
    if r.has(CLONE_PIDFD) {
        t.memory().write(r.pidfd, pidfd)?;
    }
    Ok(pid as u32)
}

/// What is different in the child of a fork.
fn become_child(t: &mut Task, r: &Request, ends: Option<Ends>) {
    // SAFETY: takes no arguments.
    t.tid = unsafe { libc::syscall(SYS_gettid) as i32 };
    t.first = true;
    t.clear_tid = if r.has(CLONE_CHILD_CLEARTID) { r.child_tid } else { 0 };
    t.process.robust.lock().unwrap().clear();
    t.memory().unlocked_by_fork();
    if r.flags & CLEAR_SIGHAND != 0 {
        t.process.actions.lock().unwrap().clear();
    }
    t.seccomp.occupy(t.tid);
    t.process.seats.keep_only(&t.seccomp);
    let debugger = t.process.debug.as_ref().and_then(|d| d.forget(&t.process.engine));
    t.process.threaded.store(false, std::sync::atomic::Ordering::Relaxed);
    if r.has(CLONE_PARENT_SETTID) {
        // The kernel writes the parent's word before memory is copied.
        let _ = t.memory().write(r.parent_tid, t.tid);
    }
    write_tids(&t.process.memory, r, t.tid, true);
    start_child(t.vcpu.state_mut(), r);
    t.vcpu.clear_exclusive();
    if let Some(ends) = ends {
        t.debug_forked(ends, debugger, r.has(CLONE_VFORK));
    }
}

// ---- vfork ----------------------------------------------------------------------------------------------------------

global_asm!(
    ".globl rhea_clone_vfork",
    // rdi = flags, rsi = top of the child's stack, rdx = function, rcx = its argument, r8 = address for the pidfd
    "rhea_clone_vfork:",
    "push r12",
    "push r13",
    "mov r12, rdx",
    "mov r13, rcx",
    "mov rdx, r8",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "pop r13",
    "pop r12",
    "ret",
    "2:",
    "xor ebp, ebp",
    "mov rdi, r13",
    "call r12",
    "mov edi, eax",
    "mov eax, 231",
    "syscall",
    "hlt",
);

unsafe extern "C" {
    fn rhea_clone_vfork(flags: u64, stack: *mut u8, f: extern "C" fn(*mut c_void) -> i32, child: *mut c_void, pidfd: *mut i32) -> i64;
}

/// What the child of a vfork begins with.
struct VforkChild {
    task: Task,
    request: Request,
    mask: u64,
    /// Where the child's number goes, if its host parent waits in somebody else's place.
    announce: Option<mpsc::SyncSender<i64>>,
}

// SAFETY: made by one thread for another and used by one at a time (invariant 1).
unsafe impl Send for VforkChild {}

/// The child's body, on its own stack: runs until the child executes a program or ends.
extern "C" fn vfork_child(child: *mut c_void) -> i32 {
    // SAFETY: invariant 1: the parent keeps the structure and does not touch it meanwhile.
    let child = unsafe { &mut *child.cast::<VforkChild>() };
    let t = &mut child.task;
    // SAFETY: takes no arguments.
    t.tid = unsafe { libc::syscall(SYS_gettid) as i32 };
    t.seccomp.occupy(t.tid);
    t.link.install();
    if child.request.flags & CLEAR_SIGHAND != 0 {
        t.process.actions.lock().unwrap().clear();
    }
    let memory = t.process.memory.clone();
    write_tids(&memory, &child.request, t.tid, false);
    write_tids(&memory, &child.request, t.tid, true);
    if let Some(announce) = child.announce.take() {
        let _ = announce.send(t.tid as i64);
    }
    t.set_signal_mask(child.mask);
    let status = t.run();
    t.finish();
    status
}

/// The child of a process that shares its memory: memory and translations are the same, the dispositions its own.
fn sharing_child(t: &Task, r: Request) -> Box<VforkChild> {
    let p = &t.process;
    let process = Arc::new(Process {
        config: p.config.clone(),
        memory: p.memory.clone(),
        engine: p.engine.clone(),
        actions: if r.has(CLONE_SIGHAND) { p.actions.clone() } else { Arc::new(Mutex::new(p.actions.lock().unwrap().clone())) },
        robust: Mutex::default(),
        limits: Mutex::new(p.limits.lock().unwrap().clone()),
        threaded: false.into(),
        seats: Default::default(),
        debug: None,
    });
    let mut task = Task::new(process, child_vcpu(t, &r), true);
    // `Task::new` has installed the child's link; this thread's is still this one's.
    t.link.install();
    task.sharing = true;
    task.fds = descriptors(t, &r);
    task.signals.altstack = t.signals.altstack;
    task.seccomp.set(t.seccomp.filters().clone());
    if r.has(CLONE_CHILD_CLEARTID) {
        task.clear_tid = r.child_tid;
    }
    Box::new(VforkChild { task, request: r, mask: t.signals.mask, announce: None })
}

/// Runs the child on a stack of its own and waits for it to end or to execute a program; its number. The kernel stores the
/// descriptor before the child begins.
fn run_sharing_child(child: &mut VforkChild, pidfd: &AtomicI32) -> i64 {
    let r = child.request;
    let mut stack = vec![0u128; HOST_STACK / 16];
    let top = stack.as_mut_ptr_range().end.cast::<u8>();
    let want_pidfd = if r.has(CLONE_PIDFD) { CLONE_PIDFD as u64 } else { 0 };
    let flags = (CLONE_VM | CLONE_VFORK) as u64 | want_pidfd | r.flags & (PROCESS_FLAGS | CLONE_SIGHAND as u64) | r.exit_signal;
    // SAFETY: invariant 1: stack and structure live until the child is done with them.
    unsafe { rhea_clone_vfork(flags, top, vfork_child, (&raw mut *child).cast(), pidfd.as_ptr()) }
}

fn new_vfork_child(t: &mut Task, r: Request) -> Ret {
    let pidfd = AtomicI32::new(-1);
    let quiet = Quiet::begin(&t.link, t.signals.mask)?;
    let mut child = sharing_child(t, r);
    let pid = run_sharing_child(&mut child, &pidfd);
    t.link.install();
    drop(quiet);
    let pid = errno::check(pid)?;
    if r.has(CLONE_PIDFD) {
        t.memory().write(r.pidfd, pidfd.into_inner())?;
    }
    Ok(pid as u32)
}

fn new_sharing_process(t: &mut Task, r: Request) -> Ret {
    let _quiet = Quiet::begin(&t.link, t.signals.mask)?;
    let mut child = sharing_child(t, r);
    let (sender, receiver) = mpsc::sync_channel(2);
    child.announce = Some(sender.clone());
    let pidfd = Arc::new(AtomicI32::new(-1));
    let told = pidfd.clone();
    note_threads(&t.process);
    let body = move || {
        let mut child = child;
        child.task.process.actions.lock().unwrap().reclaim();
        let pid = run_sharing_child(&mut child, &pidfd);
        if pid < 0 {
            let _ = sender.send(pid);
        }
        crate::task::detach_thread();
    };
    std::thread::Builder::new().stack_size(HOST_STACK).spawn(body).map_err(|_| errno::EAGAIN)?;
    let pid = errno::check(receiver.recv().map_err(|_| errno::EAGAIN)?)?;
    if r.has(CLONE_PIDFD) {
        t.memory().write(r.pidfd, told.load(Ordering::Acquire))?;
    }
    Ok(pid as u32)
}
