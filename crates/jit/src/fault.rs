//! The translator's part of the process's SIGSEGV and SIGBUS handlers.
//!
//! Invariants:
//! 1. Everything here is async-signal-safe: no locks, no allocation.
//! 2. `CODE_RANGES` holds the executable mappings of all caches; in translated code rbp is a block's address plus the bias.

use crate::vcpu::{Block, HostFault};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use x64::env::{BIAS, reason};

thread_local! {
    /// The signal of this thread's last fault.
    static LAST: Cell<i32> = const { Cell::new(0) };
}

/// The host's signal, SIGSEGV or SIGBUS, of the last fault that this thread's access to guest memory had. Where the map allows
/// the access (`FaultKind::Bus`), SIGSEGV means a page that the kernel itself guards (MADV_GUARD_INSTALL).
pub fn last_signal() -> i32 {
    LAST.get()
}

/// Code mappings that may exist at once (one per cache that is not yet dropped).
const MAX_RANGES: usize = 64;

/// Start, end and leave stub of each code mapping; start 0 = free.
static CODE_RANGES: [[AtomicUsize; 3]; MAX_RANGES] = [const { [const { AtomicUsize::new(0) }; 3] }; MAX_RANGES];

/// Registers a code mapping.
pub(crate) fn add_range(start: usize, len: usize, leave: usize) {
    for r in &CODE_RANGES {
        if r[0].compare_exchange(0, usize::MAX, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            r[1].store(start + len, Ordering::SeqCst);
            r[2].store(leave, Ordering::SeqCst);
            r[0].store(start, Ordering::SeqCst);
            return;
        }
    }
    panic!("more than {MAX_RANGES} code caches at once");
}

pub(crate) fn remove_range(start: usize) {
    for r in &CODE_RANGES {
        if r[0].load(Ordering::SeqCst) == start {
            r[0].store(0, Ordering::SeqCst);
        }
    }
}

/// The leave stub of the cache that a host address lies in.
fn leave_of(rip: usize) -> Option<usize> {
    CODE_RANGES.iter().find_map(|r| {
        let start = r[0].load(Ordering::SeqCst);
        (start != 0 && start <= rip && rip < r[1].load(Ordering::SeqCst)).then(|| r[2].load(Ordering::SeqCst))
    })
}

/// Whether an instruction of the interrupted code has caused a SIGSEGV or SIGBUS. Nobody can send one with `si_code` above 0 to
/// others, but every process can to itself (`rt_sigqueueinfo`), and so does the kernel for the end of a child (the exit signal of
/// `clone`). What the processor has noted tells them apart.
pub fn caused_here(info: &libc::siginfo_t, context: &libc::ucontext_t) -> bool {
    const GENERAL_PROTECTION: i64 = 13;
    const PAGE_FAULT: i64 = 14;
    let gregs = &context.uc_mcontext.gregs;
    // SAFETY: `si_addr` is valid for these signals; of one that somebody has sent it is any number.
    let address = unsafe { info.si_addr() } as i64;
    info.si_code > 0
        && match gregs[libc::REG_TRAPNO as usize] {
            PAGE_FAULT => address == gregs[libc::REG_CR2 as usize],
            GENERAL_PROTECTION => info.si_code == libc::SI_KERNEL && address == 0,
            _ => false,
        }
}

/// To be called first by the process's SIGSEGV and SIGBUS handlers. Gives whether the fault was ours and execution may go
/// on; otherwise it is somebody's bug or a signal from outside.
///
/// # Safety
/// The pointers must be those that the kernel passed to a `SA_SIGINFO` handler of the current thread.
pub unsafe fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) -> bool {
    // SAFETY: the caller's promise.
    let (context, info) = unsafe { (&mut *context.cast::<libc::ucontext_t>(), &*info) };
    if !matches!(signal, libc::SIGSEGV | libc::SIGBUS) || !caused_here(info, context) {
        return false;
    }
    LAST.set(signal);
    let gregs = &mut context.uc_mcontext.gregs;
    let rip = gregs[libc::REG_RIP as usize] as usize;
    if let Some(next) = host::guarded::fix_up(rip) {
        gregs[libc::REG_RIP as usize] = next as i64;
        return true;
    }
    let Some(leave) = leave_of(rip) else { return false };
    const PAGE_FAULT_WRITE: i64 = 2;
    let block = (gregs[libc::REG_RBP as usize] - BIAS as i64) as *mut Block;
    // SAFETY: invariant 2; `si_addr` is valid for these signals.
    unsafe {
        (*block).control.host_fault = HostFault {
            rip: rip as u64,
            addr: info.si_addr() as u64,
            write: gregs[libc::REG_ERR as usize] & PAGE_FAULT_WRITE != 0,
        };
    }
    gregs[libc::REG_RAX as usize] = reason::HOST_FAULT as i64;
    gregs[libc::REG_RIP as usize] = leave as i64;
    true
}
