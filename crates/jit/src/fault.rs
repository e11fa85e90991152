//! The translator's part of the process's SIGSEGV and SIGBUS handlers.
//!
//! Invariants:
//! 1. Everything here is async-signal-safe: no locks, no allocation.

/// To be called first by the process's SIGSEGV and SIGBUS handlers. Gives whether the fault was ours and execution may go
/// on; otherwise it is somebody's bug or a signal from outside.
///
/// # Safety
/// The pointers must be those that the kernel passed to a `SA_SIGINFO` handler of the current thread.
pub unsafe fn handle(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) -> bool {
    // SAFETY: the caller's promise.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if let Some(next) = host::guarded::fix_up(*rip as usize) {
        *rip = next as i64;
        return true;
    }
    false
}
