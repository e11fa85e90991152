//! Encodings: what a bit pattern means, and how an exact value becomes a bit pattern.
//!
//! An operation unpacks its operands to sign, exponent and a significand with its leading one in bit 63,
//! computes a result that is exact or has its lost bits collected in bit 0 ("jammed"), and ends in
//! [`Env::round`]. 64 bits are enough: the widest format here keeps 53, and one bit below the rounding
//! position plus one jammed bit decide every rounding.
//!
//! **Reference.** IEEE 754-2019, 3.4 and 7.4–7.6; Arm ARM shared pseudocode `FPUnpackBase`, `FPRoundBase`.

use crate::{Flags, Mode, NanRule, Rounding};

/// A binary interchange format of at most 64 bits.
pub(crate) trait Format {
    /// Bits of the exponent field.
    const EXP: u32;
    /// Bits of the fraction field.
    const FRAC: u32;
    /// Whether the largest exponent encodes infinities and NaNs (not so in Arm's alternative half precision).
    const IEEE: bool = true;
    /// Half precision has its own flushing rules.
    const HALF: bool = Self::EXP == 5;

    const BIAS: i32 = (1 << (Self::EXP - 1)) - 1;
    /// Exponent of the smallest normal number.
    const EMIN: i32 = 1 - Self::BIAS;
    /// Exponent of the largest finite number.
    const EMAX: i32 = if Self::IEEE {
        Self::BIAS
    } else {
        Self::BIAS + 1
    };
    const SIGN: u64 = 1 << (Self::EXP + Self::FRAC);
    const FRAC_MASK: u64 = (1 << Self::FRAC) - 1;
    const EXP_MAX: u64 = (1 << Self::EXP) - 1;
    /// Plus infinity.
    const INF: u64 = Self::EXP_MAX << Self::FRAC;
    /// The bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRAC - 1);
    /// The largest finite number.
    const MAX: u64 = if Self::IEEE {
        Self::INF - 1
    } else {
        Self::SIGN - 1
    };
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident $exp:literal $frac:literal $($ieee:literal)?;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Format for $name {
            const EXP: u32 = $exp;
            const FRAC: u32 = $frac;
            $(const IEEE: bool = $ieee;)?
        }
    )*};
}
formats! {
    F16 5 10;
    /// Arm alternative half precision: exponent 31 is one more binade of numbers.
    Ahp 5 10 false;
    Bf16 8 7;
    F32 8 23;
    F64 11 52;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Zero,
    /// Normal or denormal, not zero.
    Finite,
    Infinite,
    QuietNan,
    SignallingNan,
}

/// A decoded operand. A `Finite` one has the value `sig * 2^(exp - 63)` with bit 63 of `sig` set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpacked {
    pub sign: bool,
    pub class: Class,
    pub exp: i32,
    pub sig: u64,
}

impl Unpacked {
    #[inline]
    pub fn is_nan(self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignallingNan)
    }

    #[inline]
    pub fn is_inf(self) -> bool {
        self.class == Class::Infinite
    }

    #[inline]
    pub fn is_zero(self) -> bool {
        self.class == Class::Zero
    }
}

/// Decodes without any input flushing or flag.
#[inline]
pub(crate) fn decode<F: Format>(bits: u64) -> Unpacked {
    let sign = bits & F::SIGN != 0;
    let field = bits >> F::FRAC & F::EXP_MAX;
    let frac = bits & F::FRAC_MASK;
    let align = 63 - F::FRAC;
    if field != 0 && (!F::IEEE || field != F::EXP_MAX) {
        return Unpacked {
            sign,
            class: Class::Finite,
            exp: field as i32 - F::BIAS,
            sig: 1 << 63 | frac << align,
        };
    }
    if field != 0 {
        let class = match frac {
            0 => Class::Infinite,
            _ if frac & F::QUIET != 0 => Class::QuietNan,
            _ => Class::SignallingNan,
        };
        return Unpacked {
            sign,
            class,
            exp: 0,
            sig: frac << align,
        };
    }
    if frac == 0 {
        return Unpacked {
            sign,
            class: Class::Zero,
            exp: 0,
            sig: 0,
        };
    }
    let sig = frac << align;
    let shift = sig.leading_zeros();
    Unpacked {
        sign,
        class: Class::Finite,
        exp: F::EMIN - shift as i32,
        sig: sig << shift,
    }
}

/// Shifts right; the lost bits are collected in bit 0.
#[inline]
pub(crate) fn shift_right_jam(sig: u64, shift: u32) -> u64 {
    match shift {
        0 => sig,
        1..=63 => sig >> shift | (sig << (64 - shift) != 0) as u64,
        _ => (sig != 0) as u64,
    }
}

#[inline]
pub(crate) fn shift_right_jam_wide(sig: u128, shift: u32) -> u128 {
    match shift {
        0 => sig,
        1..=127 => sig >> shift | (sig << (128 - shift) != 0) as u128,
        _ => (sig != 0) as u128,
    }
}

/// The upper half; the lower half is collected in bit 0.
#[inline]
pub(crate) fn high_jam(sig: u128) -> u64 {
    (sig >> 64) as u64 | (sig as u64 != 0) as u64
}

/// Whether rounding moves a magnitude up by one unit. `rest` is the discarded part, its top bit worth half a unit.
#[inline]
pub(crate) fn rounds_up(rounding: Rounding, sign: bool, odd: bool, rest: u64) -> bool {
    const HALF: u64 = 1 << 63;
    match rounding {
        Rounding::NearestEven => rest > HALF || rest == HALF && odd,
        Rounding::Up => rest != 0 && !sign,
        Rounding::Down => rest != 0 && sign,
        Rounding::Zero => false,
        Rounding::NearestAway => rest >= HALF,
        Rounding::Odd => rest != 0 && !odd,
    }
}

/// The surroundings of one operation: its mode and the flags raised so far.
pub(crate) struct Env {
    pub mode: Mode,
    pub flags: Flags,
}

impl Env {
    #[inline]
    pub fn new(mode: Mode) -> Env {
        Env {
            mode,
            flags: Flags::NONE,
        }
    }

    #[inline]
    pub fn raise(&mut self, flags: Flags) {
        self.flags |= flags;
    }

    /// x86 reports a denormal operand only if no invalid operand, NaN or division by zero was found first
    /// (SDM volume 1, 11.5.2.3 and table 11-1: priority).
    #[inline]
    pub fn drop_denormal_operand(&mut self) {
        if self.mode.rule == NanRule::X86 {
            self.flags.0 &= !Flags::INPUT_DENORMAL.0;
        }
    }

    /// `FPUnpack`: decodes an operand, applying and reporting input flushing.
    #[inline]
    pub fn unpack<F: Format>(&mut self, bits: u64) -> Unpacked {
        let mut operand = decode::<F>(bits);
        if operand.class == Class::Finite && operand.exp < F::EMIN {
            if self.mode.rule == NanRule::X86 {
                self.raise(Flags::INPUT_DENORMAL);
            } else if self.mode.flush_to_zero {
                operand.class = Class::Zero;
                if !F::HALF {
                    self.raise(Flags::INPUT_DENORMAL);
                }
            }
        }
        operand
    }

    /// The zero that an exact cancellation gives.
    #[inline]
    pub fn cancelled_zero<F: Format>(&self) -> u64 {
        zero::<F>(self.mode.rounding == Rounding::Down)
    }

    /// `FPRound`: packs the value `sig * 2^(exp - 63)`, bit 63 of `sig` set, bit 0 possibly jammed.
    #[inline]
    pub fn round<F: Format>(&mut self, sign: bool, exp: i32, sig: u64) -> u64 {
        self.round_with::<F>(sign, exp, sig, self.mode.flush_to_zero)
    }

    /// `FPRoundCV`: as [`Env::round`] but half precision is never flushed.
    #[inline]
    pub fn round_converted<F: Format>(&mut self, sign: bool, exp: i32, sig: u64) -> u64 {
        self.round_with::<F>(sign, exp, sig, self.mode.flush_to_zero && !F::HALF)
    }

    #[inline]
    fn round_with<F: Format>(&mut self, sign: bool, exp: i32, mut sig: u64, flush: bool) -> u64 {
        debug_assert!(sig >> 63 == 1);
        let drop = 63 - F::FRAC;
        let mut field = exp + F::BIAS;
        let mut tiny = false;
        if exp < F::EMIN {
            tiny = self.is_tiny::<F>(sign, exp, sig);
            if tiny && flush {
                self.raise(Flags::UNDERFLOW);
                if self.mode.rule == NanRule::X86 {
                    self.raise(Flags::INEXACT);
                }
                return zero::<F>(sign);
            }
            sig = shift_right_jam(sig, (F::EMIN - exp) as u32);
            field = 1;
        } else if exp > F::EMAX {
            return self.overflow::<F>(sign);
        }
        let kept = sig >> drop;
        let rest = sig << (64 - drop);
        let up = rounds_up(self.mode.rounding, sign, kept & 1 != 0, rest);
        // `kept` holds the leading one of a normal number, which counts as one in the exponent field; a
        // carry out of the significand goes there too, and from the denormals to the first normal.
        let bits = ((field as u64 - 1) << F::FRAC) + kept + up as u64;
        if bits > F::MAX {
            return self.overflow::<F>(sign);
        }
        if rest != 0 {
            self.raise(Flags::INEXACT);
            if tiny {
                self.raise(Flags::UNDERFLOW);
            }
        }
        bits | if sign { F::SIGN } else { 0 }
    }

    /// Whether a value below the normal range is tiny. After rounding means: rounded to full precision as if the
    /// exponent were unbounded, which lifts values just below the smallest normal out of tininess.
    #[inline]
    fn is_tiny<F: Format>(&self, sign: bool, exp: i32, sig: u64) -> bool {
        let drop = 63 - F::FRAC;
        let all_ones = sig >> drop == (1 << (F::FRAC + 1)) - 1;
        self.mode.tininess_before
            || exp < F::EMIN - 1
            || !all_ones
            || !rounds_up(self.mode.rounding, sign, true, sig << (64 - drop))
    }

    #[cold]
    fn overflow<F: Format>(&mut self, sign: bool) -> u64 {
        let bits = if !F::IEEE {
            self.raise(Flags::INVALID);
            F::MAX
        } else {
            self.raise(Flags::OVERFLOW | Flags::INEXACT);
            self.overflowed::<F>(sign)
        };
        bits | if sign { F::SIGN } else { 0 }
    }

    /// The magnitude that stands for a number beyond the range.
    #[inline]
    pub fn overflowed<F: Format>(&self, sign: bool) -> u64 {
        match self.mode.rounding {
            Rounding::NearestEven | Rounding::NearestAway => F::INF,
            Rounding::Up if !sign => F::INF,
            Rounding::Down if sign => F::INF,
            _ => F::MAX,
        }
    }

    #[inline]
    pub fn finish(self, bits: u64) -> (u64, Flags) {
        (bits, self.flags)
    }
}

#[inline]
pub(crate) fn zero<F: Format>(sign: bool) -> u64 {
    if sign { F::SIGN } else { 0 }
}

#[inline]
pub(crate) fn infinity<F: Format>(sign: bool) -> u64 {
    zero::<F>(sign) | F::INF
}
