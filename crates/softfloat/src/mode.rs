//! What an operation depends on besides its operands, and what it reports besides its result.
//!
//! **Reference.** IEEE 754-2019, 4.3 and 7; Arm ARM FPCR and FPSR; Intel SDM volume 1, 10.2.3 (MXCSR).

use core::ops::{BitOr, BitOrAssign};

/// The rounding direction. IEEE 754-2019, 4.3, and Arm's `FPRounding_ODD`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rounding {
    /// To nearest, ties to the even significand.
    NearestEven = 0,
    /// Towards plus infinity.
    Up = 1,
    /// Towards minus infinity.
    Down = 2,
    /// Towards zero.
    Zero = 3,
    /// To nearest, ties away from zero.
    NearestAway = 4,
    /// An inexact result gets an odd significand (Arm FCVTXN); never overflows to infinity.
    Odd = 5,
}

/// Which NaN an operation returns, and the other points in which the architectures differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NanRule {
    /// A signalling NaN wins over a quiet one, then the first operand wins. Default NaN: positive.
    Arm = 0,
    /// SSE: the first operand if it is a NaN, else the second. Default NaN: negative.
    X86 = 1,
    /// Always the canonical NaN (positive).
    RiscV = 2,
}

/// The control bits of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    pub rounding: Rounding,
    /// Arm `FPCR.FZ` (for half precision the caller passes FZ16): denormal inputs become zero and raise
    /// [`Flags::INPUT_DENORMAL`] (half precision: no flag), tiny results become zero and raise
    /// [`Flags::UNDERFLOW`] only. Under [`NanRule::X86`] this is `MXCSR.FTZ`: results only, raising
    /// underflow and inexact. Conversions neither flush a half-precision input nor a half-precision result.
    pub flush_to_zero: bool,
    /// Arm `FPCR.DN`: every NaN result is the default NaN.
    pub default_nan: bool,
    /// Arm `FPCR.AHP`: conversions read and write half precision without infinities and NaNs.
    pub ahp: bool,
    pub rule: NanRule,
    /// Whether tininess is detected before rounding (Arm) or after it (x86, RISC-V).
    pub tininess_before: bool,
}

impl Mode {
    /// Arm, `FPCR` = 0.
    pub const ARM: Mode = Mode {
        rounding: Rounding::NearestEven,
        flush_to_zero: false,
        default_nan: false,
        ahp: false,
        rule: NanRule::Arm,
        tininess_before: true,
    };
    /// Arm `StandardFPSCRValue`: what A32 Advanced SIMD uses whatever FPSCR says (it keeps AHP).
    pub const ARM_STANDARD: Mode = Mode {
        flush_to_zero: true,
        default_nan: true,
        ..Mode::ARM
    };
    /// x86 SSE, `MXCSR` = 0x1f80.
    pub const X86: Mode = Mode {
        rule: NanRule::X86,
        tininess_before: false,
        ..Mode::ARM
    };
    /// RISC-V, `frm` = 0.
    pub const RISCV: Mode = Mode {
        rule: NanRule::RiscV,
        tininess_before: false,
        ..Mode::ARM
    };

    /// The mode as a number, for an immediate field: rounding in bits 2:0, then one bit or pair for each
    /// further field in order.
    pub const fn pack(self) -> u16 {
        self.rounding as u16
            | (self.flush_to_zero as u16) << 3
            | (self.default_nan as u16) << 4
            | (self.ahp as u16) << 5
            | (self.rule as u16) << 6
            | (self.tininess_before as u16) << 8
    }

    /// The inverse of [`Mode::pack`]. Total: the two reserved rounding values read as `Odd`, the reserved
    /// rule as `RiscV`, bits above 8 are ignored.
    pub const fn unpack(bits: u16) -> Mode {
        Mode {
            rounding: match bits & 7 {
                0 => Rounding::NearestEven,
                1 => Rounding::Up,
                2 => Rounding::Down,
                3 => Rounding::Zero,
                4 => Rounding::NearestAway,
                _ => Rounding::Odd,
            },
            flush_to_zero: bits & 1 << 3 != 0,
            default_nan: bits & 1 << 4 != 0,
            ahp: bits & 1 << 5 != 0,
            rule: match bits >> 6 & 3 {
                0 => NanRule::Arm,
                1 => NanRule::X86,
                _ => NanRule::RiscV,
            },
            tininess_before: bits & 1 << 8 != 0,
        }
    }
}

/// The exceptions that an operation raised, at the bit positions of Arm's FPSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// IOC
    pub const INVALID: Flags = Flags(1);
    /// DZC
    pub const DIV_BY_ZERO: Flags = Flags(2);
    /// OFC
    pub const OVERFLOW: Flags = Flags(4);
    /// UFC
    pub const UNDERFLOW: Flags = Flags(8);
    /// IXC
    pub const INEXACT: Flags = Flags(16);
    /// x87 C1: the magnitude was rounded up. Only the `f80` operations report it.
    pub const ROUNDED_UP: Flags = Flags(64);
    /// IDC: Arm flushed a denormal input. Under [`NanRule::X86`] it is `MXCSR.DE`: a denormal input was used.
    pub const INPUT_DENORMAL: Flags = Flags(128);

    /// Whether every flag of `other` is raised.
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    #[inline]
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    #[inline]
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_survives_packing() {
        for bits in 0..1 << 9 {
            let mode = Mode::unpack(bits);
            assert_eq!(Mode::unpack(mode.pack()), mode);
            if bits & 7 <= 5 && bits >> 6 & 3 <= 2 {
                assert_eq!(mode.pack(), bits);
            }
        }
    }
}
