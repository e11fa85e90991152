//! Conversions to and from integers and fixed-point numbers.
//!
//! **Reference.** IEEE 754-2019, 5.8; Arm ARM `FPToFixed`, `FixedToFP`, `FPToFixedJS`; RISC-V FCVT, table of domains;
//! Intel SDM volume 1, 4.8.4 ("integer indefinite").

use crate::convert::split;
use crate::format::{Class, Env, Format, Unpacked, rounds_up, zero};
use crate::{Flags, Mode, NanRule};

/// An integer type: 16, 32 or 64 bits.
#[derive(Clone, Copy)]
pub(crate) struct Int {
    pub width: u32,
    pub signed: bool,
}

impl Int {
    /// The magnitude of the largest or the smallest value.
    #[inline]
    fn limit(self, negative: bool) -> u64 {
        match (self.signed, negative) {
            (true, true) => 1 << (self.width - 1),
            (true, false) => (1 << (self.width - 1)) - 1,
            (false, true) => 0,
            (false, false) => u64::MAX >> (64 - self.width),
        }
    }
}

/// To an integer with `frac_bits` bits after the point; the result is sign- or zero-extended to 64 bits.
#[inline]
pub(crate) fn to_int<F: Format>(a: u64, int: Int, frac_bits: u32, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let x = env.unpack::<F>(a);
    // CVTSS2SI does not report denormal operands.
    env.drop_denormal_operand();
    to_int_unpacked(env, x, int, frac_bits)
}

#[inline]
pub(crate) fn to_int_unpacked(mut env: Env, x: Unpacked, int: Int, frac_bits: u32) -> (u64, Flags) {
    let bits = match x.class {
        Class::Zero => 0,
        Class::Finite => {
            let exp = x.exp + frac_bits as i32;
            let (whole, rest) = split(x.sig, exp.min(63));
            let up = rounds_up(env.mode.rounding, x.sign, whole & 1 != 0, rest);
            let magnitude = whole + up as u64;
            if exp > 63 || magnitude > int.limit(x.sign) {
                return out_of_range(env, int, Some(x.sign));
            }
            if rest != 0 {
                env.raise(Flags::INEXACT);
            }
            if x.sign {
                magnitude.wrapping_neg()
            } else {
                magnitude
            }
        }
        Class::Infinite => return out_of_range(env, int, Some(x.sign)),
        _ => return out_of_range(env, int, None),
    };
    env.finish(bits)
}

/// The result for a number beyond the range (`Some(sign)`) or a NaN.
#[cold]
fn out_of_range(mut env: Env, int: Int, sign: Option<bool>) -> (u64, Flags) {
    env.raise(Flags::INVALID);
    let negative = match (env.mode.rule, sign) {
        // The indefinite value is the most negative integer, or all ones.
        (NanRule::X86, _) => int.signed,
        (_, Some(sign)) => sign,
        (NanRule::Arm, None) => return env.finish(0),
        (_, None) => false,
    };
    let magnitude = int.limit(negative);
    env.finish(if negative {
        magnitude.wrapping_neg()
    } else {
        magnitude
    })
}

/// `FPToFixedJS`: the truncated value modulo 2^32, and whether it equals the operand (minus zero does not).
#[inline]
pub(crate) fn to_int_wrapping<F: Format>(a: u64, m: Mode) -> (u32, bool, Flags) {
    let mut env = Env::new(m);
    let x = env.unpack::<F>(a);
    let (magnitude, exact, in_range) = match x.class {
        Class::Zero => (0, !x.sign, true),
        // Every bit of the significand is above the 32 that are kept.
        Class::Finite if x.exp > 63 + 31 => (0, false, false),
        Class::Finite if x.exp > 63 => ((x.sig as u32) << (x.exp - 63), false, false),
        Class::Finite => {
            let (whole, rest) = split(x.sig, x.exp);
            let limit = 1 << 31;
            (
                whole as u32,
                rest == 0,
                whole < limit || x.sign && whole == limit,
            )
        }
        _ => (0, false, false),
    };
    if !in_range {
        env.raise(Flags::INVALID);
    } else if !exact && !x.is_zero() {
        env.raise(Flags::INEXACT);
    }
    // A flushed operand is not the zero that comes out.
    let flushed = env.flags.contains(Flags::INPUT_DENORMAL);
    (
        if x.sign {
            magnitude.wrapping_neg()
        } else {
            magnitude
        },
        exact && in_range && !flushed,
        env.flags,
    )
}

/// From an integer with `frac_bits` bits after the point, given sign- or zero-extended to 64 bits.
#[inline]
pub(crate) fn from_int<F: Format>(
    value: u64,
    signed: bool,
    frac_bits: u32,
    m: Mode,
) -> (u64, Flags) {
    let mut env = Env::new(m);
    let sign = signed && (value as i64) < 0;
    let magnitude = if sign { value.wrapping_neg() } else { value };
    if magnitude == 0 {
        return env.finish(zero::<F>(false));
    }
    let shift = magnitude.leading_zeros();
    let bits = env.round::<F>(
        sign,
        63 - shift as i32 - frac_bits as i32,
        magnitude << shift,
    );
    env.finish(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::F64;

    fn check(a: f64, value: i32, exact: bool, flags: Flags) {
        let (ours, ours_exact, ours_flags) = to_int_wrapping::<F64>(a.to_bits(), Mode::ARM);
        assert_eq!(
            (ours as i32, ours_exact, ours_flags),
            (value, exact, flags),
            "{a}"
        );
    }

    #[test]
    fn javascript_conversion_wraps() {
        check(7.0, 7, true, Flags::NONE);
        check(-7.9, -7, false, Flags::INEXACT);
        check(-0.0, 0, false, Flags::NONE);
        check(-2147483648.0, i32::MIN, true, Flags::NONE);
        check(-2147483648.5, i32::MIN, false, Flags::INEXACT);
        check(2147483648.0, i32::MIN, false, Flags::INVALID);
        check(4294967298.75, 2, false, Flags::INVALID);
        check(-4294967298.0, -2, false, Flags::INVALID);
        // The last bit of the significand above, and at, the top of the 32 that are kept.
        check(2f64.powi(84) + 2f64.powi(33), 0, false, Flags::INVALID);
        check(
            2f64.powi(83) + 2f64.powi(31),
            i32::MIN,
            false,
            Flags::INVALID,
        );
        check(f64::MAX, 0, false, Flags::INVALID);
        check(f64::NAN, 0, false, Flags::INVALID);
        check(f64::NEG_INFINITY, 0, false, Flags::INVALID);
    }
}
