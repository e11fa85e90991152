//! Conversions between formats, and rounding to an integral value in the same format.
//!
//! **Reference.** IEEE 754-2019, 5.4.2 and 5.9; Arm ARM `FPConvert`, `FPConvertNaN`, `FPRoundInt`.

use crate::format::{Class, Env, Format, Unpacked, decode, infinity, rounds_up, zero};
use crate::{Flags, Mode};

/// From one format to another. Half precision is never flushed, neither as source nor as destination.
#[inline]
pub(crate) fn convert<S: Format, D: Format>(a: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let x = if S::HALF {
        decode::<S>(a)
    } else {
        env.unpack::<S>(a)
    };
    let bits = match x.class {
        Class::Finite => env.round_converted::<D>(x.sign, x.exp, x.sig),
        Class::Zero => zero::<D>(x.sign),
        Class::Infinite if D::IEEE => infinity::<D>(x.sign),
        Class::Infinite => {
            env.raise(Flags::INVALID);
            zero::<D>(x.sign) | D::MAX
        }
        _ => convert_nan::<D>(&mut env, x),
    };
    env.finish(bits)
}

/// A NaN keeps its sign and the leading bits of its payload. The alternative half precision has none: a zero.
#[cold]
fn convert_nan<D: Format>(env: &mut Env, x: Unpacked) -> u64 {
    if x.class == Class::SignallingNan || !D::IEEE {
        env.raise(Flags::INVALID);
    }
    if !D::IEEE {
        return zero::<D>(x.sign);
    }
    if env.replaces_nans() {
        return env.default_nan::<D>();
    }
    infinity::<D>(x.sign) | D::QUIET | x.sig >> (63 - D::FRAC)
}

/// To an integral value. `exact`: a changed value raises inexact.
#[inline]
pub(crate) fn round_to_int<F: Format>(a: u64, exact: bool, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let x = env.unpack::<F>(a);
    // ROUNDSS does not report denormal operands.
    env.drop_denormal_operand();
    let bits = match x.class {
        Class::QuietNan | Class::SignallingNan => env.propagate_nan::<F>(&[a]),
        Class::Infinite => infinity::<F>(x.sign),
        Class::Zero => zero::<F>(x.sign),
        Class::Finite if x.exp >= F::FRAC as i32 => a,
        Class::Finite => {
            let (whole, rest) = split(x.sig, x.exp);
            if exact && rest != 0 {
                env.raise(Flags::INEXACT);
            }
            match whole + rounds_up(m.rounding, x.sign, whole & 1 != 0, rest) as u64 {
                0 => zero::<F>(x.sign),
                n => {
                    let shift = n.leading_zeros();
                    env.round::<F>(x.sign, 63 - shift as i32, n << shift)
                }
            }
        }
    };
    env.finish(bits)
}

/// Splits `sig * 2^(exp - 63)`, `exp` at most 63, into its integral part and the rest, whose top bit is worth one half.
#[inline]
pub(crate) fn split(sig: u64, exp: i32) -> (u64, u64) {
    match exp {
        63 => (sig, 0),
        0..63 => (sig >> (63 - exp), sig << (exp + 1)),
        -1 => (0, sig),
        _ => (0, 1),
    }
}

/// `FPRecpX`: the reciprocal exponent, Arm FRECPX.
#[inline]
pub(crate) fn recip_exponent<F: Format>(a: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let x = env.unpack::<F>(a);
    if x.is_nan() {
        let bits = env.propagate_nan::<F>(&[a]);
        return env.finish(bits);
    }
    // The manual looks at the exponent field of the operand as it was before flushing.
    let field = a >> F::FRAC & F::EXP_MAX;
    let result = if field == 0 {
        F::EXP_MAX - 1
    } else {
        !field & F::EXP_MAX
    };
    env.finish(zero::<F>(x.sign) | result << F::FRAC)
}
