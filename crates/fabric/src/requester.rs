//! Which vCPU makes the access that a device answers.
//!
//! Banked registers (those of an interrupt controller) differ by CPU. An executor says on its thread which vCPU it runs;
//! accesses from other threads (monitor, debugger, DMA) count as vCPU 0.

use std::cell::Cell;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// From now on this thread runs vCPU `index`.
pub fn set_cpu(index: usize) {
    CPU.set(index);
}

/// The vCPU whose access this thread carries out.
pub fn cpu() -> usize {
    CPU.get()
}
