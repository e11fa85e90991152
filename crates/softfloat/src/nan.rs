//! NaNs: which one an operation returns.
//!
//! **Reference.** Arm ARM `FPProcessNaN`, `FPProcessNaNs`, `FPProcessNaNs3`, `FPDefaultNaN`; Intel SDM volume 1,
//! table 4-7 and, for fused operations, table 14-17; RISC-V unprivileged ISA, "NaN Generation and Propagation".

use crate::format::{Env, Format};
use crate::{Flags, NanRule};

#[inline]
pub(crate) fn is_nan<F: Format>(bits: u64) -> bool {
    bits & !F::SIGN > F::INF
}

#[inline]
pub(crate) fn is_signalling<F: Format>(bits: u64) -> bool {
    is_nan::<F>(bits) && bits & F::QUIET == 0
}

impl Env {
    #[inline]
    pub fn default_nan<F: Format>(&self) -> u64 {
        let sign = if self.mode.rule == NanRule::X86 {
            F::SIGN
        } else {
            0
        };
        sign | F::INF | F::QUIET
    }

    /// Whether NaN operands never reach the result.
    #[inline]
    pub fn replaces_nans(&self) -> bool {
        self.mode.default_nan || self.mode.rule == NanRule::RiscV
    }

    /// An invalid operation without NaN operands.
    #[cold]
    pub fn invalid<F: Format>(&mut self) -> u64 {
        self.raise(Flags::INVALID);
        self.drop_denormal_operand();
        self.default_nan::<F>()
    }

    /// The result of an operation with at least one NaN among its operands, which are in order of precedence.
    #[cold]
    pub fn propagate_nan<F: Format>(&mut self, operands: &[u64]) -> u64 {
        self.drop_denormal_operand();
        let signalling = operands.iter().find(|bits| is_signalling::<F>(**bits));
        if signalling.is_some() {
            self.raise(Flags::INVALID);
        }
        let first = operands.iter().find(|bits| is_nan::<F>(**bits));
        let chosen = match self.mode.rule {
            _ if self.replaces_nans() => None,
            NanRule::Arm => signalling.or(first),
            NanRule::X86 | NanRule::RiscV => first,
        };
        match chosen {
            Some(bits) => bits | F::QUIET,
            None => self.default_nan::<F>(),
        }
    }
}
