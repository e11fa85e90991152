//! One guest thread: its vCPU, what the kernel would keep for it, and the loop that runs it.

use crate::abi::arm as abi;
use crate::debug::Pace;
use crate::elf::Image;
use crate::errno::{self, Errno, Ret};
use crate::host_signal::{self, Link};
use crate::log;
use crate::memory::Memory;
use crate::options::Options;
use crate::path::Prefix;
use crate::siginfo::SigInfo;
use crate::signal::{Actions, Signals};
use crate::stack::Layout;
use crate::{safe, strace, table};
use cpu::{Access, Fault, FaultKind};
use ir::TrapKind;
use jit::{Engine, Stop, Vcpu};
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What never changes while a program runs.
pub struct Config {
    pub options: Options,
    pub prefix: Prefix,
    pub strace: bool,
    /// The program file, as the guest knows it.
    pub exe: CString,
    pub args: Vec<CString>,
    pub program: Image,
    pub stack: Layout,
    /// How a child is started under the same emulator: its name and the options.
    pub emulator: Vec<CString>,
}

/// What the threads of a process share.
pub struct Process {
    pub config: Arc<Config>,
    pub memory: Arc<Memory>,
    pub engine: Arc<Engine>,
    /// Shared with other processes after CLONE_SIGHAND.
    pub actions: Arc<Mutex<Actions>>,
    /// Robust futex lists of the threads, by thread number.
    pub robust: Mutex<HashMap<i32, u32>>,
    /// Limits that would hit the emulator instead of the guest: kept, and enforced by `memory`.
    pub limits: Mutex<HashMap<u32, (u64, u64)>>,
    /// There has been more than one thread.
    pub threaded: AtomicBool,
    /// Where the threads' seccomp filters are.
    pub seats: crate::seccomp::Seats,
    /// With `-g`.
    pub debug: Option<Arc<crate::debug::Debugger>>,
}

pub struct Task {
    pub vcpu: Vcpu,
    pub process: Arc<Process>,
    pub tid: i32,
    pub signals: Signals,
    pub link: Box<Link>,
    /// Cleared, and woken, when the thread ends.
    pub clear_tid: u32,
    /// The exit status once the thread has ended.
    pub ended: Option<i32>,
    /// This is the process's first thread (its host thread may not simply return).
    pub first: bool,
    /// This is the child of a vfork: its host thread is not the one that the host's `rseq` area belongs to.
    pub sharing: bool,
    pub seccomp: Arc<crate::seccomp::Seat>,
    /// Descriptors whose data needs translation; threads share them as they share the descriptors.
    pub fds: Arc<crate::fds::Fds>,
    /// The system call under way has done no more than look at a name.
    pub only_looked: Cell<bool>,
}

pub fn gettid() -> i32 {
    // SAFETY: takes no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

impl Task {
    /// A task for the calling host thread.
    pub fn new(process: Arc<Process>, vcpu: Vcpu, first: bool) -> Task {
        let link = Link::new(vcpu.kick());
        link.install();
        let signals = Signals::default();
        let seccomp = process.seats.inherit(&Default::default());
        seccomp.occupy(gettid());
        Task { vcpu, process, tid: gettid(), signals, link, clear_tid: 0, ended: None, first, sharing: false, seccomp, fds: Default::default(), only_looked: Cell::new(false) }
    }

    pub fn memory(&self) -> &Memory {
        &self.process.memory
    }

    /// Runs the thread to its end; gives the exit status.
    pub fn run(&mut self) -> i32 {
        self.debug_begin();
        let status = loop {
            if self.has_signal_work() {
                self.deliver_signals();
            }
            match self.pace() {
                Pace::Run => {
                    let stop = self.vcpu.run();
                    self.handle(stop);
                }
                Pace::Step(resume, points) => self.step(resume, &points),
                Pace::Watch(points) => self.run_watching(&points),
            }
            if let Some(status) = self.ended {
                break status;
            }
        };
        self.debug_end(status);
        status
    }

    /// Deals with what translated code has stopped for.
    pub fn handle(&mut self, stop: Stop) {
        match stop {
            Stop::Kicked => self.vcpu.clear_kick(),
            Stop::Fault(fault) => self.guest_fault(fault),
            Stop::Trap { kind: TrapKind::Syscall, arg } => {
                self.system_call(arg);
                self.vcpu.publish_cpu();
            }
            Stop::Trap { kind, arg } => self.trap(kind, arg),
        }
    }

    fn system_call(&mut self, immediate: u32) {
        if self.process.debug.is_none() {
            let (number, args) = abi::syscall(self.vcpu.state(), immediate);
            let result = table::call(self, number, args);
            return self.call_result(result);
        }
        self.debug_call(abi::syscall(self.vcpu.state(), immediate).0);
        // The debugger may have changed them.
        let (number, args) = abi::syscall(self.vcpu.state(), immediate);
        let result = table::call(self, number, args);
        self.debug_call_done();
        self.call_result(result);
        self.debug_call_returned(number);
    }

    fn call_result(&mut self, result: Ret) {
        match result {
            Err(errno::JUST_RETURN) => {}
            Err(errno::RESTART) => {
                let s = self.vcpu.state_mut();
                let pc = abi::reg(s, 15).wrapping_sub(abi::svc_bytes(s));
                abi::set_reg(s, 15, pc);
                self.signals.restarting = true;
                self.signals.interrupted = self.link.take_interrupted();
            }
            result => abi::set_result(self.vcpu.state_mut(), result),
        }
    }

    fn trap(&mut self, kind: TrapKind, arg: u32) {
        let pc = abi::reg(self.vcpu.state(), 15);
        match kind {
            TrapKind::Undefined if is_breakpoint(arg) => self.force_signal(SigInfo::fault(libc::SIGTRAP, libc::TRAP_BRKPT, pc)),
            TrapKind::Undefined => {
                const ILL_ILLOPC: i32 = 1;
                self.force_signal(SigInfo::fault(libc::SIGILL, ILL_ILLOPC, pc));
            }
            TrapKind::Breakpoint => self.force_signal(SigInfo::fault(libc::SIGTRAP, libc::TRAP_BRKPT, pc)),
            TrapKind::FetchFault => {
                let fault = Fault { addr: pc as u64, access: Access::Execute, kind: self.fetch_fault_kind(pc) };
                self.guest_fault(fault);
            }
            TrapKind::KernelHelper => {
                let memory = self.process.memory.clone();
                match abi::kernel_helper(self.vcpu.state_mut(), &memory, arg) {
                    Ok(()) => {}
                    Err(errno::EFAULT) => {
                        let at = abi::reg(self.vcpu.state(), 2);
                        let mapped = self.memory().space.page(at).has(jit::PageFlags::MAPPED);
                        let kind = if mapped { FaultKind::Denied } else { FaultKind::Unmapped };
                        self.guest_fault(Fault { addr: at as u64, access: Access::Write, kind });
                    }
                    Err(_) => self.guest_fault(Fault { addr: pc as u64, access: Access::Execute, kind: FaultKind::Denied }),
                }
            }
            TrapKind::Yield => std::thread::yield_now(),
            TrapKind::Step => self.breakpoint_hit(),
            // The next look at the same place finds the sequence.
            TrapKind::Sequence => {}
            TrapKind::CodeSync | TrapKind::Exception | TrapKind::System | TrapKind::Syscall => {}
        }
    }

    fn fetch_fault_kind(&self, pc: u32) -> FaultKind {
        let page = self.memory().space.page(pc);
        if page.has(jit::PageFlags::EXEC) {
            FaultKind::Bus
        } else if page.has(jit::PageFlags::MAPPED) {
            FaultKind::Denied
        } else {
            FaultKind::Unmapped
        }
    }

    fn guest_fault(&mut self, fault: Fault) {
        const SEGV_MAPERR: i32 = 1;
        const SEGV_ACCERR: i32 = 2;
        let address = fault.addr as u32;
        if fault.kind == FaultKind::Unmapped && self.memory().grow(address) {
            return;
        }
        // FSR values of the short-descriptor format, as Linux reports them in error_code.
        let (signal, code, fsr) = match fault.kind {
            FaultKind::Unmapped => (libc::SIGSEGV, SEGV_MAPERR, 0x5),
            FaultKind::Denied => (libc::SIGSEGV, SEGV_ACCERR, 0xf),
            FaultKind::Bus if jit::fault::last_signal() == libc::SIGSEGV => (libc::SIGSEGV, SEGV_MAPERR, 0x5),
            FaultKind::Bus => (libc::SIGBUS, libc::BUS_ADRERR, 0x8),
            FaultKind::Alignment => (libc::SIGBUS, libc::BUS_ADRALN, 0x1),
        };
        let write = if fault.access == Access::Write { 0x800 } else { 0 };
        self.signals.fault = abi::FaultContext { trap_no: 14, error_code: fsr | write, address };
        if log::on(log::INT) {
            log::write(&format!("qemu: {:?} fault at {address:#010x}, {:?}\n", fault.access, fault.kind));
        }
        self.force_signal(SigInfo::fault(signal, code, address));
    }

    /// A host system call that may block, with host arguments.
    ///
    /// # Safety
    /// As for `safe::syscall`.
    pub unsafe fn host_call(&self, number: i64, args: [u64; 6]) -> Ret {
        // SAFETY: the caller's promise.
        unsafe { safe::syscall(&self.link.pending, number, args) }.map(|v| v as u32)
    }

    /// As `host_call`, with the whole result.
    ///
    /// # Safety
    /// As for `safe::syscall`.
    pub unsafe fn host_call_64(&self, number: i64, args: [u64; 6]) -> Result<i64, Errno> {
        // SAFETY: the caller's promise.
        unsafe { safe::syscall(&self.link.pending, number, args) }
    }

    /// The guest's path as a host path, redirected below the prefix if it exists there.
    pub fn path(&self, addr: u32) -> Result<CString, Errno> {
        Ok(self.process.config.prefix.apply(self.memory().read_path(addr)?, true))
    }

    /// As `path`, for calls that do not follow a link at the end.
    pub fn path_nofollow(&self, addr: u32) -> Result<CString, Errno> {
        Ok(self.process.config.prefix.apply(self.memory().read_path(addr)?, false))
    }

    pub fn trace_signal(&self, info: &SigInfo) {
        if self.process.config.strace {
            log::write(&strace::signal_line(info));
        }
    }

    /// What a thread leaves behind: the robust list is walked, the word for pthread_join cleared and woken.
    pub fn finish(&mut self) {
        self.release_robust_list();
        let word = std::mem::take(&mut self.clear_tid);
        if word != 0 && self.memory().write(word, 0u32).is_ok() {
            let args = [self.memory().host(word) as u64, libc::FUTEX_WAKE as u64, 1, 0, 0, 0];
            // SAFETY: FUTEX_WAKE does not touch memory.
            let _ = unsafe { self.host_call(libc::SYS_futex, args) };
        }
    }

    /// Before the whole process ends.
    pub fn before_process_end(&mut self) {
        self.release_robust_list();
    }

    /// ` in FILE+OFFSET` for a code address, where that is known.
    pub fn place(&self, pc: u32) -> String {
        crate::procfs::place(self.memory(), pc).map(|p| format!(" in {p}")).unwrap_or_default()
    }
}

/// The undefined instructions that debuggers plant.
fn is_breakpoint(word: u32) -> bool {
    word & 0x0fff_ffff == 0x07f0_01f0 || word == 0xde01 || word == 0xf7f0_a000
}

/// Marks the process as having had threads.
pub fn note_threads(process: &Process) {
    process.threaded.store(true, Ordering::Relaxed);
}

/// Blocks all signals of the calling thread and forgets its link.
pub fn detach_thread() {
    host_signal::block_all();
    host_signal::uninstall();
}
