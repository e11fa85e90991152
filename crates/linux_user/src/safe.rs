//! A host system call that never sleeps through a signal.
//!
//! Between the check "is a signal pending?" and the `syscall` instruction a signal may arrive; its handler records it, and
//! the call would then sleep without anybody delivering it to the guest. So check and instruction are one window of known
//! addresses: the handler moves execution from inside the window to an exit that gives `RESTART`. The host kernel restarts
//! interrupted calls by moving the instruction pointer back onto the instruction, into the window, which has the same effect;
//! calls it does not restart give EINTR behind the window.
//!
//! Invariants:
//! 1. `rhea_safe_begin..rhea_safe_end` holds the check and the instruction only; nothing in it changes the stack, so the exit
//!    may be entered from each of its addresses.
//! 2. Handlers call [`leave_window`] after they have made the signal visible in the word that the window checks.

use crate::errno::{self, Errno};
use std::arch::global_asm;
use std::sync::atomic::AtomicU32;

global_asm!(
    ".balign 64",
    ".globl rhea_safe_syscall",
    // rdi = pending word, rsi = number, rdx = arguments
    "rhea_safe_syscall:",
    "push rbx",
    "mov rbx, rdi",
    "mov rax, rsi",
    "mov r11, rdx",
    "mov rdi, [r11]",
    "mov rsi, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov r10, [r11 + 24]",
    "mov r8, [r11 + 32]",
    "mov r9, [r11 + 40]",
    // The instruction overwrites rcx: zero says that it has not been executed.
    "xor ecx, ecx",
    ".globl rhea_safe_begin",
    "rhea_safe_begin:",
    "cmp dword ptr [rbx], 0",
    "jne rhea_safe_interrupted",
    "syscall",
    ".globl rhea_safe_end",
    "rhea_safe_end:",
    "pop rbx",
    "ret",
    ".globl rhea_safe_interrupted",
    "rhea_safe_interrupted:",
    "mov rax, -512",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    static rhea_safe_begin: u8;
    static rhea_safe_end: u8;
    static rhea_safe_interrupted: u8;
    fn rhea_safe_syscall(pending: *const AtomicU32, number: i64, args: *const u64) -> i64;
}

/// Runs host system call `number` unless `pending` is not zero or becomes so before the kernel is entered.
///
/// # Safety
/// The arguments must be such that the kernel touches no memory but the guest's, or what the caller owns.
pub unsafe fn syscall(pending: &AtomicU32, number: i64, args: [u64; 6]) -> Result<i64, Errno> {
    // SAFETY: the caller's promise; the stub follows the C calling convention.
    let raw = unsafe { rhea_safe_syscall(pending, number, args.as_ptr()) };
    if raw == -512 { Err(errno::RESTART) } else { errno::check(raw) }
}

/// For signal handlers: where to continue if execution was inside the window, and whether the kernel had been entered (and
/// would run the call again).
pub fn leave_window(rip: usize, rcx: u64) -> Option<(usize, bool)> {
    let begin = &raw const rhea_safe_begin as usize;
    let end = &raw const rhea_safe_end as usize;
    (begin..end).contains(&rip).then_some((&raw const rhea_safe_interrupted as usize, rcx != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_keeps_the_kernel_out() {
        let pending = AtomicU32::new(1);
        // SAFETY: getpid takes no arguments.
        let got = unsafe { syscall(&pending, libc::SYS_getpid, [0; 6]) };
        assert_eq!(got, Err(errno::RESTART));
    }

    #[test]
    fn six_arguments_and_errors_pass() {
        let pending = AtomicU32::new(0);
        // SAFETY: getpid takes no arguments; close of -1 fails.
        unsafe {
            assert_eq!(syscall(&pending, libc::SYS_getpid, [0; 6]), Ok(std::process::id() as i64));
            assert_eq!(syscall(&pending, libc::SYS_close, [u64::MAX, 0, 0, 0, 0, 0]), Err(errno::EBADF));
        }
        let mut buf = [0u8; 4];
        let args = [buf.as_mut_ptr() as u64, 4, 0, 0, 0, 0];
        // SAFETY: the buffer is ours and 4 bytes long.
        assert_eq!(unsafe { syscall(&pending, libc::SYS_getrandom, args) }, Ok(4));
    }

    #[test]
    fn the_window_ends_behind_the_instruction() {
        let (begin, end) = (&raw const rhea_safe_begin as usize, &raw const rhea_safe_end as usize);
        assert!(leave_window(begin, 0).is_some_and(|w| !w.1));
        assert!(leave_window(end - 2, end as u64).is_some_and(|w| w.1));
        assert!(leave_window(end, 0).is_none());
    }
}
