//! A memory barrier on all threads of the process, paid by the thread that asks for it.
//!
//! Reference: Linux `membarrier(2)`, `MEMBARRIER_CMD_PRIVATE_EXPEDITED`.

use std::sync::OnceLock;

/// Commands of `membarrier`.
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Whether the kernel has it.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| membarrier(REGISTER_PRIVATE_EXPEDITED) && membarrier(PRIVATE_EXPEDITED))
}

/// On return every other thread has executed a full barrier since the call. To be called only if it `is_available`.
pub fn all_threads() {
    // A forked child may have to register again.
    let done = membarrier(PRIVATE_EXPEDITED) || membarrier(REGISTER_PRIVATE_EXPEDITED) && membarrier(PRIVATE_EXPEDITED);
    assert!(done, "the kernel takes back the barrier that it has offered");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_barrier_works_where_it_is_available() {
        if super::is_available() {
            super::all_threads();
        }
    }
}
