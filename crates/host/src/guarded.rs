//! Accesses to memory that may not be there: a fault makes them fail instead of killing the process.
//!
//! Each access is one machine instruction at a known label. The process's SIGSEGV/SIGBUS handler asks [`fix_up`], which sends
//! execution to the failure path.
//!
//! Invariants:
//! 1. The stubs below touch no memory but the operand, and every instruction between `rhea_guarded_begin` and
//!    `rhea_guarded_end` that may fault leaves `rdx` free for the status.
//! 2. The process's SIGSEGV and SIGBUS handlers call `fix_up` first.

use std::arch::global_asm;

global_asm!(
    ".balign 64",
    ".globl rhea_guarded_begin",
    "rhea_guarded_begin:",
    "rhea_load1: movzx eax, byte ptr [rdi]",
    "xor edx, edx",
    "ret",
    "rhea_load2: movzx eax, word ptr [rdi]",
    "xor edx, edx",
    "ret",
    "rhea_load4: mov eax, dword ptr [rdi]",
    "xor edx, edx",
    "ret",
    "rhea_load8: mov rax, qword ptr [rdi]",
    "xor edx, edx",
    "ret",
    "rhea_store1: mov byte ptr [rdi], sil",
    "xor edx, edx",
    "ret",
    "rhea_store2: mov word ptr [rdi], si",
    "xor edx, edx",
    "ret",
    "rhea_store4: mov dword ptr [rdi], esi",
    "xor edx, edx",
    "ret",
    "rhea_store8: mov qword ptr [rdi], rsi",
    "xor edx, edx",
    "ret",
    // cas(rdi = address, rsi = expected, rdx = new): old in rax
    "rhea_cas1: mov rax, rsi",
    "lock cmpxchg byte ptr [rdi], dl",
    "xor edx, edx",
    "ret",
    "rhea_cas2: mov rax, rsi",
    "lock cmpxchg word ptr [rdi], dx",
    "xor edx, edx",
    "ret",
    "rhea_cas4: mov rax, rsi",
    "lock cmpxchg dword ptr [rdi], edx",
    "xor edx, edx",
    "ret",
    "rhea_cas8: mov rax, rsi",
    "lock cmpxchg qword ptr [rdi], rdx",
    "xor edx, edx",
    "ret",
    // copy(rdi = to, rsi = from, rdx = bytes): bytes left in rax
    "rhea_copy: mov rcx, rdx",
    "rep movsb",
    "mov rax, rcx",
    "xor edx, edx",
    "ret",
    ".globl rhea_guarded_end",
    "rhea_guarded_end:",
    ".globl rhea_guarded_fail",
    "rhea_guarded_fail:",
    "mov rax, rcx",
    "mov edx, 1",
    "ret",
);

/// Value (`rax`) and status (`rdx`).
#[repr(C)]
struct Answer {
    value: u64,
    failed: u64,
}

unsafe extern "C" {
    static rhea_guarded_begin: u8;
    static rhea_guarded_end: u8;
    static rhea_guarded_fail: u8;
    fn rhea_load1(at: *const u8) -> Answer;
    fn rhea_load2(at: *const u8) -> Answer;
    fn rhea_load4(at: *const u8) -> Answer;
    fn rhea_load8(at: *const u8) -> Answer;
    fn rhea_store1(at: *mut u8, value: u64) -> Answer;
    fn rhea_store2(at: *mut u8, value: u64) -> Answer;
    fn rhea_store4(at: *mut u8, value: u64) -> Answer;
    fn rhea_store8(at: *mut u8, value: u64) -> Answer;
    fn rhea_cas1(at: *mut u8, expected: u64, new: u64) -> Answer;
    fn rhea_cas2(at: *mut u8, expected: u64, new: u64) -> Answer;
    fn rhea_cas4(at: *mut u8, expected: u64, new: u64) -> Answer;
    fn rhea_cas8(at: *mut u8, expected: u64, new: u64) -> Answer;
    fn rhea_copy(to: *mut u8, from: *const u8, bytes: usize) -> Answer;
}

/// The access failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed;

fn answer(a: Answer) -> Result<u64, Failed> {
    if a.failed == 0 { Ok(a.value) } else { Err(Failed) }
}

/// Loads 1, 2, 4 or 8 bytes, zero-extended.
///
/// # Safety
/// `at` must be guest memory (or any memory that may be read at any time), mapped or not, and the process's fault handlers
/// must call [`fix_up`].
pub unsafe fn load(at: *const u8, size: u8) -> Result<u64, Failed> {
    // SAFETY: the caller's promise; a fault is caught by invariant 2.
    answer(unsafe {
        match size {
            1 => rhea_load1(at),
            2 => rhea_load2(at),
            4 => rhea_load4(at),
            _ => rhea_load8(at),
        }
    })
}

/// Stores 1, 2, 4 or 8 bytes.
///
/// # Safety
/// As for [`load`], for writing.
pub unsafe fn store(at: *mut u8, size: u8, value: u64) -> Result<(), Failed> {
    // SAFETY: the caller's promise; a fault is caught by invariant 2.
    answer(unsafe {
        match size {
            1 => rhea_store1(at, value),
            2 => rhea_store2(at, value),
            4 => rhea_store4(at, value),
            _ => rhea_store8(at, value),
        }
    })
    .map(|_| ())
}

/// Atomic compare-and-swap of 1, 2, 4 or 8 bytes; gives the old memory, zero-extended.
///
/// # Safety
/// As for [`store`].
pub unsafe fn compare_exchange(at: *mut u8, size: u8, expected: u64, new: u64) -> Result<u64, Failed> {
    // SAFETY: the caller's promise; a fault is caught by invariant 2.
    let old = answer(unsafe {
        match size {
            1 => rhea_cas1(at, expected, new),
            2 => rhea_cas2(at, expected, new),
            4 => rhea_cas4(at, expected, new),
            _ => rhea_cas8(at, expected, new),
        }
    })?;
    Ok(if size == 8 { old } else { old & ((1 << (8 * size as u32)) - 1) })
}

/// Copies up to `bytes` bytes and says how many were copied before one was not accessible.
///
/// # Safety
/// One side may be guest memory (as for [`load`] or [`store`]), the other must be valid for `bytes` bytes.
pub unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) -> usize {
    // SAFETY: the caller's promise; a fault is caught by invariant 2.
    let left = unsafe { rhea_copy(to, from, bytes) };
    bytes - left.value as usize
}

/// Called by the fault handlers with the faulting instruction's address: where to continue, if it was one of ours.
pub fn fix_up(rip: usize) -> Option<usize> {
    let begin = &raw const rhea_guarded_begin as usize;
    let end = &raw const rhea_guarded_end as usize;
    if (begin..end).contains(&rip) {
        return Some(&raw const rhea_guarded_fail as usize);
    }
    crate::rseq::fault(rip)
}
