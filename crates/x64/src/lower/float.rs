//! Floating point: host SSE/AVX where it gives the guest's result and flags, the runtime otherwise.

use crate::alloc::Lower;
use ir::Inst;

/// A rare case left to the runtime, out of line.
pub(crate) struct Slow {}

impl Lower<'_> {
    /// Emits an operation inline; `false` if it is left to the runtime.
    pub(crate) fn emit_float(&mut self, _i: &Inst) -> bool {
        false
    }

    pub(crate) fn emit_float_slow(&mut self, _slow: Slow) {}
}
