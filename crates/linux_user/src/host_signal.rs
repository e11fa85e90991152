//! The host's side of signals: handlers that only record, raw system calls on dispositions and masks.
//!
//! A handler stores the signal's information in the thread's [`Link`], asks the vCPU to leave translated code, and returns
//! with all signals blocked, so that at most one signal waits in the emulator; the kernel keeps the others in its own order.
//! `task::deliver` hands the signal to the guest and restores the mask.
//!
//! Raw system calls are used because the C library keeps signals 32 and 33 for itself.
//!
//! Invariants:
//! 1. Handlers take no locks and allocate nothing; they touch the current thread's `Link` only.
//! 2. `Link::info` is written by the handler while `pending` is 0 and read by its thread while `pending` is 1 (when all
//!    signals but those of invariant 3 are blocked). What comes of these meanwhile waits in `late`: written by the handler while
//!    `there` is 0, read by the thread while it is 1. The thread fills `info` itself only after it has made `pending` 1.
//! 3. SIGSEGV and SIGBUS are never blocked on the host and always have our handler.

use crate::errno::{self, Errno};
use crate::safe;
use crate::siginfo::SigInfo;
use std::arch::global_asm;
use std::cell::{Cell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

pub const SIGNALS: u32 = 64;
/// The kernel's sigset_t in bytes.
pub const SET_BYTES: u64 = 8;

/// A signal's bit in a mask.
pub const fn bit(signal: i32) -> u64 {
    1 << (signal as u32 - 1)
}

/// Faults of translated code must always reach the handler.
const NEVER_BLOCKED: u64 = bit(libc::SIGSEGV) | bit(libc::SIGBUS);
/// Nobody can block these.
pub const UNBLOCKABLE: u64 = bit(libc::SIGKILL) | bit(libc::SIGSTOP);

/// What a thread shares with its signal handlers.
#[repr(C)]
pub struct Link {
    /// 1: `info` waits for delivery.
    pub pending: AtomicU32,
    /// 1: the signal interrupted a call that the kernel had begun and would run again.
    interrupted: AtomicU32,
    kick: AtomicPtr<AtomicU32>,
    info: UnsafeCell<SigInfo>,
    /// SIGSEGV and SIGBUS that somebody has sent while another signal waited. One of each: they do not queue.
    late: [Late; 2],
}

/// A signal that comes while another one waits.
#[repr(C)]
struct Late {
    /// 1: `info` waits.
    there: AtomicU32,
    info: UnsafeCell<SigInfo>,
}

impl Late {
    fn new() -> Late {
        Late { there: AtomicU32::new(0), info: UnsafeCell::new(SigInfo([0; 128])) }
    }
}

thread_local! {
    static LINK: Cell<*const Link> = const { Cell::new(ptr::null()) };
}

impl Link {
    /// `kick` must stay valid as long as the link is installed.
    pub fn new(kick: *const AtomicU32) -> Box<Link> {
        let kick = AtomicPtr::new(kick.cast_mut());
        let late = [Late::new(), Late::new()];
        Box::new(Link { pending: AtomicU32::new(0), interrupted: AtomicU32::new(0), kick, info: UnsafeCell::new(SigInfo([0; 128])), late })
    }

    /// Makes this the calling thread's link.
    pub fn install(&self) {
        LINK.with(|l| l.set(self));
    }

    /// Whether the call that gave RESTART had begun; if not, nobody can have noticed the signal yet.
    pub fn take_interrupted(&self) -> bool {
        self.interrupted.swap(0, Ordering::AcqRel) != 0
    }

    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) != 0
    }

    /// Takes the recorded signal. All signals stay blocked until the caller sets the mask.
    pub fn take(&self) -> Option<SigInfo> {
        if !self.is_pending() {
            return None;
        }
        // SAFETY: invariant 2.
        let info = unsafe { *self.info.get() };
        self.pending.store(0, Ordering::Release);
        self.promote();
        Some(info)
    }

    /// The next signal to take is one that came late, if there is any.
    fn promote(&self) {
        for late in &self.late {
            if late.there.load(Ordering::Acquire) != 0
                && self.pending.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
            {
                // SAFETY: invariant 2.
                unsafe { *self.info.get() = *late.info.get() };
                late.there.store(0, Ordering::Release);
                return;
            }
        }
    }
}

/// Removes the calling thread's link; its signals must be blocked.
pub fn uninstall() {
    LINK.with(|l| l.set(ptr::null()));
}

/// The kernel's struct sigaction of x86-64.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const SA_RESTORER: u64 = 0x0400_0000;

global_asm!(
    ".globl rhea_signal_return",
    "rhea_signal_return:",
    "mov eax, 15",
    "syscall",
);

unsafe extern "C" {
    fn rhea_signal_return();
}

/// What the host is to do with a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    Default,
    Ignore,
    Record,
}

/// Sets the host's disposition; `flags` are the SA_NOCLDSTOP and SA_NOCLDWAIT of the guest.
pub fn set_disposition(signal: i32, disposition: Disposition, flags: u64) -> Result<(), Errno> {
    let mut action = KernelAction { handler: libc::SIG_DFL, flags: flags | SA_RESTORER, restorer: rhea_signal_return as *const () as usize, mask: 0 };
    match disposition {
        Disposition::Default => {}
        Disposition::Ignore => action.handler = libc::SIG_IGN,
        Disposition::Record => {
            action.handler = on_signal as *const () as usize;
            action.flags |= (libc::SA_SIGINFO | libc::SA_RESTART) as u64;
            action.mask = !NEVER_BLOCKED;
        }
    }
    // SAFETY: the structure is the kernel's; the handler follows invariant 1.
    let raw = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, ptr::null::<u8>(), SET_BYTES) };
    if raw == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// Whether the process was started with this signal ignored.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = KernelAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, ptr::null::<u8>(), &raw mut action, SET_BYTES) };
    action.handler == libc::SIG_IGN
}

/// Replaces the thread's signal mask by the guest's, unless a signal waits for delivery (which sets the mask later).
pub fn set_mask(link: &Link, mask: u64) -> Result<(), Errno> {
    let host = mask & !NEVER_BLOCKED;
    let args = [libc::SIG_SETMASK as u64, (&raw const host) as u64, 0, SET_BYTES, 0, 0];
    // SAFETY: the set lives until the call returns.
    unsafe { safe::syscall(&link.pending, libc::SYS_rt_sigprocmask, args) }.map(|_| ())
}

/// Sets the calling thread's mask as it was: for threads without a link.
pub fn set_thread_mask(mask: u64) {
    // SAFETY: the set lives until the call returns.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, ptr::null::<u64>(), SET_BYTES) };
}

/// si_code of a SIGSEGV that is no signal but the debugger's wish that a thread leave its system call.
const POKE: i32 = -1000;

/// What a guest cannot put into a signal: its values have 32 bits.
fn poke_mark() -> u64 {
    &raw const INHERITED as u64 | 1 << 63
}

/// Makes a thread of this process leave a system call that waits; the call gives RESTART.
pub fn poke(tid: i32) {
    let mut info = SigInfo::new(libc::SIGSEGV, POKE);
    info.set_value(poke_mark());
    // SAFETY: the structure lives until the call returns; our handler knows the code.
    unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), tid, libc::SIGSEGV, &raw mut info) };
}

/// Blocks every signal; gives the mask before.
pub fn block_all() -> u64 {
    let (all, mut old) = (!NEVER_BLOCKED, 0u64);
    // SAFETY: the sets live until the call returns.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut old, SET_BYTES) };
    old
}

/// The handler of every signal that the guest may have to see.
extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's arguments are valid during the handler; invariants 1 and 2.
    unsafe {
        let code = (*info).si_code;
        if matches!(signal, libc::SIGSEGV | libc::SIGBUS) {
            if jit::fault::handle(signal, info, context) {
                return;
            }
            if code == POKE && (*info).si_value().sival_ptr as u64 == poke_mark() {
                leave_call(&mut *context.cast::<libc::ucontext_t>());
                return;
            }
            if jit::fault::caused_here(&*info, &*context.cast::<libc::ucontext_t>()) {
                own_fault(signal, context);
                return;
            }
        }
        let context = &mut *context.cast::<libc::ucontext_t>();
        let link = LINK.with(Cell::get);
        if let Some(link) = link.as_ref() {
            let late = &link.late[usize::from(signal == libc::SIGBUS)];
            let (there, place) = match link.pending.load(Ordering::Acquire) {
                0 => (&link.pending, &link.info),
                _ => (&late.there, &late.info),
            };
            if there.load(Ordering::Acquire) == 0 {
                ptr::copy_nonoverlapping(info.cast::<u8>(), place.get().cast::<u8>(), size_of::<SigInfo>());
                there.store(1, Ordering::Release);
            }
            if let Some(kick) = link.kick.load(Ordering::Relaxed).as_ref() {
                kick.store(1, Ordering::Release);
            }
        }
        let mask = (&raw mut context.uc_sigmask).cast::<u64>();
        mask.write_unaligned(!NEVER_BLOCKED);
        leave_call(context);
    }
}

/// If the signal has interrupted a call that may wait: it ends with RESTART.
fn leave_call(context: &mut libc::ucontext_t) {
    let gregs = &mut context.uc_mcontext.gregs;
    let (rip, rcx) = (gregs[libc::REG_RIP as usize] as usize, gregs[libc::REG_RCX as usize] as u64);
    if let Some((exit, begun)) = safe::leave_window(rip, rcx) {
        gregs[libc::REG_RIP as usize] = exit as i64;
        // SAFETY: the thread's own link, which lives as long as it is installed.
        if let Some(link) = unsafe { LINK.with(Cell::get).as_ref() } {
            link.interrupted.store(begun as u32, Ordering::Release);
        }
    }
}

/// A fault of the emulator itself: say where, and let the signal's default action happen.
unsafe fn own_fault(signal: i32, context: *mut libc::c_void) {
    // SAFETY: the kernel's context is valid during the handler.
    let rip = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] };
    let mut text = *b"qemu: internal fault at host address 0x................\n";
    for (i, digit) in text[39..55].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(rip as u64 >> (60 - 4 * i) & 15) as usize];
    }
    // SAFETY: write is async-signal-safe, the text is ours.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    let _ = set_disposition(signal, Disposition::Default, 0);
}

/// Ends the process by `signal`, as if it had never been caught.
pub fn die(signal: i32) -> ! {
    let _ = set_disposition(signal, Disposition::Default, 0);
    // SAFETY: plain system calls; the mask lives until the call returns.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // What would be dumped is the emulator, which helps nobody.
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        let open = !bit(signal);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), signal);
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const open, ptr::null::<u64>(), SET_BYTES);
        // Only the init process of a namespace is still here.
        libc::_exit(128 + signal)
    }
}

/// What the process looked like before Rust's runtime changed it.
pub struct Inherited {
    /// SIGPIPE was ignored.
    pub sigpipe_ignored: AtomicU32,
    /// Standard descriptors that were closed (bits 0 to 2).
    pub closed: AtomicU32,
}

pub static INHERITED: Inherited = Inherited { sigpipe_ignored: AtomicU32::new(0), closed: AtomicU32::new(0) };

/// argv as the C library passes it to functions that run before main.
pub static ARGV: AtomicPtr<*mut libc::c_char> = AtomicPtr::new(ptr::null_mut());

extern "C" fn record_inherited(_argc: i32, argv: *mut *mut libc::c_char, _envp: *mut *mut libc::c_char) {
    ARGV.store(argv, Ordering::Relaxed);
    INHERITED.sigpipe_ignored.store(is_ignored(libc::SIGPIPE) as u32, Ordering::Relaxed);
    let closed = (0..3).filter(|fd| {
        // SAFETY: asks for flags only.
        let flags = unsafe { libc::fcntl(*fd, libc::F_GETFD) };
        flags < 0
    });
    INHERITED.closed.store(closed.fold(0, |m, fd| m | 1 << fd), Ordering::Relaxed);
}

/// Runs before `main`: Rust's start-up code ignores SIGPIPE and opens the standard descriptors.
#[used]
// SAFETY: the section holds pointers to functions that take argc, argv and envp (the GNU C library's way) and may run before
// main; this one makes system calls only.
#[unsafe(link_section = ".init_array")]
static RECORD_INHERITED: extern "C" fn(i32, *mut *mut libc::c_char, *mut *mut libc::c_char) = record_inherited;

/// Undoes what Rust's runtime has changed.
pub fn restore_inherited() {
    if INHERITED.sigpipe_ignored.load(Ordering::Relaxed) == 0 {
        let _ = set_disposition(libc::SIGPIPE, Disposition::Default, 0);
    }
    let closed = INHERITED.closed.load(Ordering::Relaxed);
    for fd in (0..3).filter(|fd| closed & 1 << fd != 0) {
        // SAFETY: closes the /dev/null that the runtime has put there.
        unsafe { libc::close(fd) };
    }
}

/// Replaces what `ps` and /proc/PID/cmdline show of this process by the guest's arguments. Nobody may use the original
/// argument strings afterwards.
pub fn show_arguments(args: &[std::ffi::CString]) {
    let argv = ARGV.load(Ordering::Relaxed);
    if argv.is_null() {
        return;
    }
    // SAFETY: argv is the kernel's: a list of strings that ends with null; the strings lie one behind the other.
    unsafe {
        let first = *argv;
        let mut end = first;
        let mut i = 0;
        while !(*argv.add(i)).is_null() && *argv.add(i) == end {
            end = end.add(libc::strlen(end) + 1);
            i += 1;
        }
        let room = end.offset_from(first) as usize;
        let bytes: Vec<u8> = args.iter().flat_map(|a| a.as_bytes_with_nul()).copied().collect();
        let shown = bytes.len().min(room);
        ptr::write_bytes(first, 0, room);
        ptr::copy_nonoverlapping(bytes.as_ptr(), first.cast(), shown.saturating_sub(1));
        // Needs a capability; without it the line is followed by NULs, which most readers ignore.
        const PR_SET_MM_ARG_END: u64 = 9;
        libc::prctl(libc::PR_SET_MM, PR_SET_MM_ARG_END, first.add(shown), 0, 0);
    }
}

/// RESTART unless nothing waits.
pub fn check_pending(link: &Link) -> Result<(), Errno> {
    if link.is_pending() { Err(errno::RESTART) } else { Ok(()) }
}
