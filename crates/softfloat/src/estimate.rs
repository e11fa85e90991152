//! Arm reciprocal and reciprocal square root: the 8-bit estimates and the Newton-Raphson steps that refine them.
//!
//! **Reference.** Arm ARM DDI 0487 `RecipEstimate`, `RecipSqrtEstimate`, `FPRecipEstimate`, `FPRSqrtEstimate`,
//! `UnsignedRecipEstimate`, `UnsignedRSqrtEstimate`, `FPRecipStep`, `FPRSqrtStep` (A32: the product is rounded),
//! `FPRecipStepFused`, `FPRSqrtStepFused` (A64: one rounding).
//!
//! **Not modelled.** The 12-bit estimates of FEAT_RPRES.

use crate::arith::{inf_times_zero, mul, multiply_add, scaled_sub};
use crate::format::{Class, Env, Format, infinity, zero};
use crate::{Flags, Mode};

/// Fraction bits of the intermediate values: those of double precision, whatever the format.
const WIDE_FRAC: u32 = 52;

/// `RecipEstimate`: `a` from 256 to 511 stands for [0.5, 1), the result for [1, 2) in 256ths.
fn recip_table(a: u32) -> u32 {
    let b = (1 << 19) / (a * 2 + 1);
    b.div_ceil(2)
}

/// `RecipSqrtEstimate`: `a` from 128 to 511 stands for [0.25, 1), the result for [1, 2) in 256ths.
fn rsqrt_table(a: u32) -> u32 {
    let a = if a < 256 { a * 2 + 1 } else { (a | 1) * 2 };
    // The largest b with a * b * b below 2^28.
    let b = (((1u32 << 28) - 1) / a).isqrt();
    b.div_ceil(2)
}

/// Unsigned fixed point, 32 bits of fraction; below one half the result saturates.
pub(crate) fn unsigned_recip(a: u32) -> u32 {
    if a >> 31 == 0 {
        u32::MAX
    } else {
        recip_table(a >> 23) << 23
    }
}

/// Unsigned fixed point, 32 bits of fraction; below one quarter the result saturates.
pub(crate) fn unsigned_rsqrt(a: u32) -> u32 {
    if a >> 30 == 0 {
        u32::MAX
    } else {
        rsqrt_table(a >> 23) << 23
    }
}

/// The exponent field and the fraction of a number, a denormal one normalised.
fn scaled_parts<F: Format>(exp: i32, sig: u64) -> (i32, u64) {
    (exp + F::BIAS, sig << 1 >> (64 - WIDE_FRAC))
}

fn assemble<F: Format>(sign: bool, exp_field: i32, wide_fraction: u64) -> u64 {
    zero::<F>(sign) | (exp_field as u64) << F::FRAC | wide_fraction >> (WIDE_FRAC - F::FRAC)
}

pub(crate) fn recip_estimate<F: Format>(a: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let x = env.unpack::<F>(a);
    let bits = match x.class {
        Class::QuietNan | Class::SignallingNan => env.propagate_nan::<F>(&[a]),
        Class::Infinite => zero::<F>(x.sign),
        Class::Zero => {
            env.raise(Flags::DIV_BY_ZERO);
            infinity::<F>(x.sign)
        }
        Class::Finite if x.exp < -(F::BIAS + 1) => {
            env.raise(Flags::OVERFLOW | Flags::INEXACT);
            zero::<F>(x.sign) | env.overflowed::<F>(x.sign)
        }
        Class::Finite if m.flush_to_zero && x.exp >= F::BIAS - 1 => {
            env.raise(Flags::UNDERFLOW);
            zero::<F>(x.sign)
        }
        Class::Finite => {
            let (exp, fraction) = scaled_parts::<F>(x.exp, x.sig);
            let estimate = recip_table(256 | (fraction >> 44) as u32) as u64;
            let fraction = (estimate & 0xff) << 44;
            // The result is denormal for the two topmost binades.
            let one = 1 << WIDE_FRAC;
            match 2 * F::BIAS - 1 - exp {
                0 => assemble::<F>(x.sign, 0, (one | fraction) >> 1),
                -1 => assemble::<F>(x.sign, 0, (one | fraction) >> 2),
                result_exp => assemble::<F>(x.sign, result_exp, fraction),
            }
        }
    };
    env.finish(bits)
}

pub(crate) fn rsqrt_estimate<F: Format>(a: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let x = env.unpack::<F>(a);
    let bits = match x.class {
        Class::QuietNan | Class::SignallingNan => env.propagate_nan::<F>(&[a]),
        Class::Zero => {
            env.raise(Flags::DIV_BY_ZERO);
            infinity::<F>(x.sign)
        }
        _ if x.sign => env.invalid::<F>(),
        Class::Infinite => zero::<F>(false),
        Class::Finite => {
            let (exp, fraction) = scaled_parts::<F>(x.exp, x.sig);
            let mantissa = (256 | (fraction >> 44)) as u32;
            let estimate = rsqrt_table(if exp & 1 == 0 {
                mantissa
            } else {
                mantissa >> 1
            }) as u64;
            assemble::<F>(false, (3 * F::BIAS - 1 - exp) >> 1, (estimate & 0xff) << 44)
        }
    };
    env.finish(bits)
}

/// The two steps: 2 - a * b, and (3 - a * b) / 2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Recip,
    Rsqrt,
}

impl Step {
    /// The minuend (2 or 3) and the power of two that scales the difference.
    fn parts<F: Format>(self) -> (u64, i32) {
        let two = ((F::BIAS + 1) as u64) << F::FRAC;
        match self {
            Step::Recip => (two, 0),
            Step::Rsqrt => (two | F::QUIET, -1),
        }
    }

    /// The result for infinity times zero: 2, or 1.5.
    fn of_inf_times_zero<F: Format>(self) -> u64 {
        match self {
            Step::Recip => ((F::BIAS + 1) as u64) << F::FRAC,
            Step::Rsqrt => (F::BIAS as u64) << F::FRAC | F::QUIET,
        }
    }
}

/// `FPRecipStep`, `FPRSqrtStep`: the product is rounded, then the difference.
pub(crate) fn step<F: Format>(a: u64, b: u64, step: Step, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    if x.is_nan() || y.is_nan() {
        let bits = env.propagate_nan::<F>(&[a, b]);
        return env.finish(bits);
    }
    let (product, mul_flags) = if inf_times_zero(x, y) {
        (0, env.flags)
    } else {
        mul::<F>(a, b, m)
    };
    let (minuend, scale) = step.parts::<F>();
    let (bits, sub_flags) = scaled_sub::<F>(minuend, product, scale, m);
    (bits, mul_flags | sub_flags)
}

/// `FPRecipStepFused`, `FPRSqrtStepFused`: one rounding. A NaN in `a` comes out negated.
pub(crate) fn step_fused<F: Format>(a: u64, b: u64, step: Step, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let a = a ^ F::SIGN;
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    let bits = if x.is_nan() || y.is_nan() {
        env.propagate_nan::<F>(&[a, b])
    } else if inf_times_zero(x, y) {
        step.of_inf_times_zero::<F>()
    } else {
        let (minuend, scale) = step.parts::<F>();
        let minuend = env.unpack::<F>(minuend);
        multiply_add::<F>(&mut env, x, y, minuend, scale)
    };
    env.finish(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{F32, F64};

    /// The same tables as ARMv7-A (DDI 0406C) defines them, in double precision.
    #[test]
    fn tables_are_the_rounded_reciprocals_of_interval_middles() {
        let in_256ths = |r: f64| (256.0 * r + 0.5) as u32;
        for a in 256..512 {
            assert_eq!(recip_table(a), in_256ths(512.0 / (a as f64 + 0.5)), "{a}");
        }
        for a in 128..256 {
            assert_eq!(
                rsqrt_table(a),
                in_256ths(1.0 / ((a as f64 + 0.5) / 512.0).sqrt()),
                "{a}"
            );
        }
        for a in 256..512 {
            assert_eq!(
                rsqrt_table(a),
                in_256ths(1.0 / (((a / 2) as f64 + 0.5) / 256.0).sqrt()),
                "{a}"
            );
        }
    }

    fn check(ours: (u64, Flags), bits: u64, flags: Flags) {
        assert!(
            ours == (bits, flags),
            "{:x} {:?}, expected {bits:x} {flags:?}",
            ours.0,
            ours.1
        );
    }

    #[test]
    fn reciprocal_estimates_at_the_ends_of_the_range() {
        let recip = |a: u32, m| recip_estimate::<F32>(a as u64, m);
        let range = Flags::OVERFLOW | Flags::INEXACT;
        check(recip(0x3f80_0000, Mode::ARM), 0x3f7f_8000, Flags::NONE);
        check(
            recip(0x8000_0000, Mode::ARM),
            0xff80_0000,
            Flags::DIV_BY_ZERO,
        );
        check(recip(0xff80_0000, Mode::ARM), 0x8000_0000, Flags::NONE);
        // Below 2^-128 the reciprocal overflows; the smallest operand that does not is 2^-128.
        check(recip(0x001f_ffff, Mode::ARM), 0x7f80_0000, range);
        check(
            recip(
                0x001f_ffff,
                Mode {
                    rounding: crate::Rounding::Down,
                    ..Mode::ARM
                },
            ),
            0x7f7f_ffff,
            range,
        );
        check(recip(0x0020_0000, Mode::ARM), 0x7f7f_8000, Flags::NONE);
        check(
            recip(0x001f_ffff, Mode::ARM_STANDARD),
            0x7f80_0000,
            Flags::INPUT_DENORMAL | Flags::DIV_BY_ZERO,
        );
        // From 2^126 the estimate is denormal.
        check(recip(0x7e80_0000, Mode::ARM), 0x007f_c000, Flags::NONE);
        check(recip(0x7e80_0000, Mode::ARM_STANDARD), 0, Flags::UNDERFLOW);
        check(recip(0x7f00_0000, Mode::ARM), 0x003f_e000, Flags::NONE);
        check(recip(0x7fa0_0000, Mode::ARM), 0x7fe0_0000, Flags::INVALID);
        check(
            recip_estimate::<F64>(0x3ff0_0000_0000_0000, Mode::ARM),
            0x3fef_f000_0000_0000,
            Flags::NONE,
        );
    }

    #[test]
    fn reciprocal_root_estimates_of_special_operands() {
        let rsqrt = |a: u32, m| rsqrt_estimate::<F32>(a as u64, m);
        check(rsqrt(0x3f80_0000, Mode::ARM), 0x3f7f_8000, Flags::NONE);
        check(rsqrt(0x4080_0000, Mode::ARM), 0x3eff_8000, Flags::NONE);
        check(rsqrt(0x0000_0001, Mode::ARM), 0x64b4_8000, Flags::NONE);
        check(
            rsqrt(0x0000_0001, Mode::ARM_STANDARD),
            0x7f80_0000,
            Flags::INPUT_DENORMAL | Flags::DIV_BY_ZERO,
        );
        check(
            rsqrt(0x8000_0000, Mode::ARM),
            0xff80_0000,
            Flags::DIV_BY_ZERO,
        );
        check(rsqrt(0xbf80_0000, Mode::ARM), 0x7fc0_0000, Flags::INVALID);
        check(rsqrt(0x7f80_0000, Mode::ARM), 0, Flags::NONE);
        check(
            rsqrt(0xffc0_1234, Mode::ARM_STANDARD),
            0x7fc0_0000,
            Flags::NONE,
        );
    }

    #[test]
    fn unsigned_estimates_saturate() {
        assert_eq!(unsigned_recip(0x7fff_ffff), u32::MAX);
        assert_eq!(unsigned_recip(0x8000_0000), 0xff80_0000);
        assert_eq!(unsigned_rsqrt(0x3fff_ffff), u32::MAX);
        assert_eq!(unsigned_rsqrt(0x4000_0000), 0xff80_0000);
    }

    #[test]
    fn steps_of_infinity_times_zero_are_constants() {
        let (inf, zero) = (0x7f80_0000, 0x8000_0000);
        for (kind, expected) in [(Step::Recip, 0x4000_0000), (Step::Rsqrt, 0x3fc0_0000)] {
            check(
                step::<F32>(inf, zero, kind, Mode::ARM_STANDARD),
                expected,
                Flags::NONE,
            );
            check(
                step_fused::<F32>(zero, inf, kind, Mode::ARM),
                expected,
                Flags::NONE,
            );
        }
    }

    #[test]
    fn only_the_unfused_step_rounds_the_product() {
        // (1 + 2^-23)^2 = 1 + 2^-22 + 2^-46.
        let a = 0x3f80_0001;
        check(
            step::<F32>(a, a, Step::Recip, Mode::ARM_STANDARD),
            0x3f7f_fffc,
            Flags::INEXACT,
        );
        check(
            step_fused::<F32>(
                a,
                a,
                Step::Recip,
                Mode {
                    rounding: crate::Rounding::Down,
                    ..Mode::ARM
                },
            ),
            0x3f7f_fffb,
            Flags::INEXACT,
        );
        // The NaN of a fused step is that of the negated operand.
        check(
            step_fused::<F32>(0x7fc0_0001, a, Step::Recip, Mode::ARM),
            0xffc0_0001,
            Flags::NONE,
        );
        check(
            step::<F32>(0x7fc0_0001, a, Step::Recip, Mode::ARM),
            0x7fc0_0001,
            Flags::NONE,
        );
    }
}
