//! Stores that happen only if the thread has not been interrupted or moved since a certain moment: the host's own restartable
//! sequences, which is what a guest's are made of.
//!
//! The kernel clears the area's pointer to a sequence when it has preempted the thread, moved it or delivered a signal to it
//! outside of that sequence; inside, it continues at the sequence's abort address. So [`Area::begin`] points it at a
//! sequence, and each store is one: it looks whether the pointer is still there, stores, and ends.
//!
//! Reference: Linux `include/uapi/linux/rseq.h`, `kernel/rseq.c`; GNU C library manual, "Restartable Sequences".
//!
//! Invariants:
//! 1. An area is used by the thread it was made for only, and is registered with the kernel for as long as that thread lives
//!    (by the C library, or here, in memory that is never given back).
//! 2. The area's pointer is zero or one of the constant descriptors below, whose addresses stay valid.
//! 3. In each stub the first instruction of the sequence is the look, the last one the store; nothing else may fault. A fault
//!    there arrives with the abort address as its place, from which [`fault`] tells it.

use crate::guarded::Failed;
use std::arch::{asm, global_asm};
use std::marker::PhantomData;

/// What precedes abort addresses in programs for x86-64 that use the C library's registration.
const SIGNATURE: u32 = 0x5305_3053;
/// Bytes of `struct rseq` as first defined, which is what registrations say.
const AREA_BYTES: usize = 32;
/// Offsets in it.
const CPU: usize = 4;
const SEQUENCE: usize = 8;

macro_rules! stubs {
    ($($name:literal $store:literal),*) => {
        global_asm!(
            // store(rdi = address, rsi = value, rdx = the area's pointer, rcx = the sequence it has)
            $(
                concat!(".globl rhea_rseq_", $name),
                concat!("rhea_rseq_", $name, ":"),
                concat!("lea r8, [rip + rhea_rseq_cs_", $name, "]"),
                "mov rax, rcx",
                // One instruction is never split by the kernel; no other thread comes here.
                "cmpxchg qword ptr [rdx], r8",
                "jne rhea_rseq_lost",
                concat!("rhea_rseq_begin_", $name, ":"),
                "cmp qword ptr [rdx], r8",
                "jne rhea_rseq_lost",
                $store,
                concat!("rhea_rseq_end_", $name, ":"),
                "xor eax, eax",
                "ret",
            )*
            // The signature, as the end of an instruction that is undefined.
            ".byte 0x0f, 0xb9, 0x3d",
            ".long 0x53053053",
            ".globl rhea_rseq_abort",
            "rhea_rseq_abort:",
            "rhea_rseq_lost:",
            "mov eax, 1",
            "ret",
            ".globl rhea_rseq_fault",
            "rhea_rseq_fault:",
            "mov eax, 2",
            "ret",
            ".pushsection .data.rel.ro, \"aw\"",
            $(
                ".balign 32",
                concat!(".globl rhea_rseq_cs_", $name),
                concat!("rhea_rseq_cs_", $name, ":"),
                ".long 0, 0",
                concat!(".quad rhea_rseq_begin_", $name),
                concat!(".quad rhea_rseq_end_", $name, " - rhea_rseq_begin_", $name),
                ".quad rhea_rseq_abort",
            )*
            ".popsection",
        );
    };
}

stubs!("1" "mov byte ptr [rdi], sil", "2" "mov word ptr [rdi], si", "4" "mov dword ptr [rdi], esi", "8" "mov qword ptr [rdi], rsi");

type Store = unsafe extern "C" fn(at: *mut u8, value: u64, pointer: *mut u64, now: u64) -> u64;

unsafe extern "C" {
    static rhea_rseq_cs_1: u8;
    static rhea_rseq_abort: u8;
    static rhea_rseq_fault: u8;
    fn rhea_rseq_1(at: *mut u8, value: u64, pointer: *mut u64, now: u64) -> u64;
    fn rhea_rseq_2(at: *mut u8, value: u64, pointer: *mut u64, now: u64) -> u64;
    fn rhea_rseq_4(at: *mut u8, value: u64, pointer: *mut u64, now: u64) -> u64;
    fn rhea_rseq_8(at: *mut u8, value: u64, pointer: *mut u64, now: u64) -> u64;
}

/// The calling thread's `struct rseq`.
#[derive(Clone, Copy)]
pub struct Area {
    at: *mut u8,
    /// It belongs to one thread.
    _thread: PhantomData<*mut u8>,
}

impl Area {
    /// The thread's area; `None` where the kernel has no restartable sequences.
    pub fn of_thread() -> Option<Area> {
        let own = library_area().or_else(registered_area)?;
        Some(Area { at: own, _thread: PhantomData })
    }

    /// The processor that the thread was on when it last entered user space.
    pub fn cpu(self) -> u32 {
        // SAFETY: invariant 1; the kernel writes it between any two instructions.
        unsafe { self.at.add(CPU).cast::<u32>().read_volatile() }
    }

    fn pointer(self) -> *mut u64 {
        self.at.wrapping_add(SEQUENCE).cast()
    }

    /// From now on [`store`](Area::store) tells whether the thread was interrupted.
    pub fn begin(self) {
        // SAFETY: invariants 1 and 2.
        unsafe { self.pointer().write_volatile(&raw const rhea_rseq_cs_1 as u64) };
    }

    /// From now on nobody asks.
    pub fn end(self) {
        // SAFETY: invariants 1 and 2.
        unsafe { self.pointer().write_volatile(0) };
    }

    /// Whether the thread was interrupted or moved since `begin` or a store that failed.
    pub fn is_interrupted(self) -> bool {
        // SAFETY: invariant 1.
        unsafe { self.pointer().read_volatile() == 0 }
    }

    /// Stores 1, 2, 4 or 8 bytes unless the thread was interrupted or moved since `begin`; says whether it has. A store that
    /// fails counts as an interruption, as its signal does.
    ///
    /// # Safety
    /// As for `guarded::store`; the process's fault handlers must ask `guarded::fix_up`.
    pub unsafe fn store(self, at: *mut u8, size: u8, value: u64) -> Result<bool, Failed> {
        let stub: Store = match size {
            1 => rhea_rseq_1,
            2 => rhea_rseq_2,
            4 => rhea_rseq_4,
            _ => rhea_rseq_8,
        };
        // SAFETY: invariant 1.
        let now = unsafe { self.pointer().read_volatile() };
        if now == 0 {
            return Ok(false);
        }
        // SAFETY: the caller's promise; invariants 2 and 3.
        match unsafe { stub(at, value, self.pointer(), now) } {
            0 => Ok(true),
            1 => Ok(false),
            _ => {
                self.end();
                Err(Failed)
            }
        }
    }
}

/// For `guarded::fix_up`: where execution goes on after a fault at `rip`, if that was in a store of this module.
pub(crate) fn fault(rip: usize) -> Option<usize> {
    (rip == &raw const rhea_rseq_abort as usize).then_some(&raw const rhea_rseq_fault as usize)
}

/// The area that the C library (GNU, from 2.35) has registered for this thread.
fn library_area() -> Option<*mut u8> {
    let (offset, size): (*const isize, *const u32);
    let thread: usize;
    // SAFETY: reads the addresses of two symbols, zero where the library has none, and the thread pointer.
    unsafe {
        asm!(
            ".weak __rseq_offset",
            ".weak __rseq_size",
            "mov {offset}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {size}, qword ptr [rip + __rseq_size@GOTPCREL]",
            "mov {thread}, qword ptr fs:[0]",
            offset = out(reg) offset,
            size = out(reg) size,
            thread = out(reg) thread,
            options(nostack, preserves_flags, readonly),
        );
        if offset.is_null() || size.is_null() || *size == 0 {
            return None;
        }
        let at = thread.wrapping_add_signed(*offset) as *mut u8;
        // Negative: not registered.
        (at.add(CPU).cast::<i32>().read_volatile() >= 0).then_some(at)
    }
}

/// An area that is registered here, because nobody else has.
fn registered_area() -> Option<*mut u8> {
    #[repr(C, align(32))]
    struct Room([u8; AREA_BYTES]);
    thread_local! {
        static ROOM: std::cell::OnceCell<Option<*mut u8>> = const { std::cell::OnceCell::new() };
    }
    ROOM.with(|room| {
        *room.get_or_init(|| {
            let at: *mut u8 = Box::into_raw(Box::new(Room([0; AREA_BYTES]))).cast();
            // SAFETY: invariant 1: the memory stays.
            let refused = unsafe { libc::syscall(libc::SYS_rseq, at, AREA_BYTES, 0, SIGNATURE) } != 0;
            (!refused).then_some(at)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signal handler that does nothing; its delivery is the interruption.
    extern "C" fn nothing(_: i32) {}

    #[test]
    fn a_store_after_an_interruption_does_not_happen() {
        let Some(area) = Area::of_thread() else {
            eprintln!("NOT TESTED: the kernel has no restartable sequences");
            return;
        };
        // SAFETY: installs a handler that does nothing for a signal that only this test uses.
        unsafe { libc::signal(libc::SIGURG, nothing as *const () as usize) };
        let mut word = 0u64;
        let at = (&raw mut word).cast::<u8>();
        for size in [1, 2, 4, 8] {
            // The kernel may interrupt this thread between any two lines: try until it has not.
            let stored = (0..1000).any(|_| {
                area.begin();
                // SAFETY: a word of this function.
                let done = unsafe { area.store(at, size, u64::MAX) };
                done == Ok(true)
            });
            assert!(stored);
            assert_eq!(word, u64::MAX >> (64 - 8 * size as u32));
            area.begin();
            // SAFETY: a signal to this thread, which has a handler.
            unsafe { libc::raise(libc::SIGURG) };
            assert!(area.is_interrupted());
            // SAFETY: a word of this function.
            assert_eq!(unsafe { area.store(at, size, 0) }, Ok(false));
            assert_ne!(word, 0);
            word = 0;
        }
        area.end();
    }

    #[test]
    fn the_processor_is_the_one_that_the_thread_is_bound_to() {
        let Some(area) = Area::of_thread() else { return };
        // SAFETY: plain system calls on sets that live here.
        unsafe {
            let mut all = std::mem::zeroed::<libc::cpu_set_t>();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&all), &raw mut all), 0);
            for cpu in (0..libc::CPU_SETSIZE as usize).filter(|&c| libc::CPU_ISSET(c, &all)) {
                let mut one = std::mem::zeroed::<libc::cpu_set_t>();
                libc::CPU_SET(cpu, &mut one);
                assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &raw const one), 0);
                assert_eq!(area.cpu() as usize, cpu);
            }
            libc::sched_setaffinity(0, size_of_val(&all), &raw const all);
        }
    }
}
