//! Addition, multiplication, division, square root and fused multiply-add.
//!
//! **Reference.** IEEE 754-2019, 5.4.1 and 6; Arm ARM `FPAdd`, `FPSub`, `FPMul`, `FPMulX`, `FPDiv`, `FPSqrt`, `FPMulAdd`.

use crate::format::{
    Class, Env, Format, Unpacked, high_jam, infinity, shift_right_jam, shift_right_jam_wide, zero,
};
use crate::{Flags, Mode, NanRule};

#[inline]
pub(crate) fn add<F: Format>(a: u64, b: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    let bits = if x.is_nan() || y.is_nan() {
        env.propagate_nan::<F>(&[a, b])
    } else {
        sum::<F>(&mut env, x, y, 0)
    };
    env.finish(bits)
}

/// `a - b`. A NaN `b` keeps its sign.
#[inline]
pub(crate) fn sub<F: Format>(a: u64, b: u64, m: Mode) -> (u64, Flags) {
    scaled_sub::<F>(a, b, 0, m)
}

/// `(a - b) * 2^scale` with one rounding; scale -1 is Arm's `FPHalvedSub`.
#[inline]
pub(crate) fn scaled_sub<F: Format>(a: u64, b: u64, scale: i32, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, mut y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    y.sign = !y.sign;
    let bits = if x.is_nan() || y.is_nan() {
        env.propagate_nan::<F>(&[a, b])
    } else {
        sum::<F>(&mut env, x, y, scale)
    };
    env.finish(bits)
}

#[inline]
fn sum<F: Format>(env: &mut Env, x: Unpacked, y: Unpacked, scale: i32) -> u64 {
    match (x.class, y.class) {
        (Class::Finite, Class::Finite) => sum_finite::<F>(env, x, y, scale),
        (Class::Infinite, Class::Infinite) if x.sign != y.sign => env.invalid::<F>(),
        (Class::Infinite, _) => infinity::<F>(x.sign),
        (_, Class::Infinite) => infinity::<F>(y.sign),
        (Class::Zero, Class::Zero) if x.sign == y.sign => zero::<F>(x.sign),
        (Class::Zero, Class::Zero) => env.cancelled_zero::<F>(),
        (Class::Zero, _) => env.round::<F>(y.sign, y.exp + scale, y.sig),
        (_, _) => env.round::<F>(x.sign, x.exp + scale, x.sig),
    }
}

#[inline]
fn sum_finite<F: Format>(env: &mut Env, x: Unpacked, y: Unpacked, scale: i32) -> u64 {
    let (big, small) = if (x.exp, x.sig) >= (y.exp, y.sig) {
        (x, y)
    } else {
        (y, x)
    };
    // One bit of headroom for the carry; the formats leave at least eleven low bits empty.
    let distance = (big.exp - small.exp) as u32;
    let (upper, lower) = (big.sig >> 1, shift_right_jam(small.sig >> 1, distance));
    let total = if big.sign == small.sign {
        upper + lower
    } else {
        upper - lower
    };
    if total == 0 {
        return env.cancelled_zero::<F>();
    }
    let shift = total.leading_zeros();
    env.round::<F>(big.sign, big.exp + 1 - shift as i32 + scale, total << shift)
}

#[inline]
pub(crate) fn mul<F: Format>(a: u64, b: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    let sign = x.sign != y.sign;
    let bits = match (x.class, y.class) {
        (Class::Finite, Class::Finite) => {
            let (exp, product) = product(x, y);
            env.round::<F>(sign, exp, high_jam(product))
        }
        _ if x.is_nan() || y.is_nan() => env.propagate_nan::<F>(&[a, b]),
        (Class::Infinite, Class::Zero) | (Class::Zero, Class::Infinite) => env.invalid::<F>(),
        (Class::Infinite, _) | (_, Class::Infinite) => infinity::<F>(sign),
        _ => zero::<F>(sign),
    };
    env.finish(bits)
}

/// `FPMulX`: a product in which infinity times zero is 2.
#[inline]
pub(crate) fn mulx<F: Format>(a: u64, b: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    if inf_times_zero(x, y) {
        let two = ((F::BIAS + 1) as u64) << F::FRAC;
        return env.finish(zero::<F>(x.sign != y.sign) | two);
    }
    mul::<F>(a, b, m)
}

/// The exact product with its leading one in bit 127, and its exponent.
#[inline]
pub(crate) fn product(x: Unpacked, y: Unpacked) -> (i32, u128) {
    let product = x.sig as u128 * y.sig as u128;
    let shift = product.leading_zeros();
    (x.exp + y.exp + 1 - shift as i32, product << shift)
}

#[inline]
pub(crate) fn div<F: Format>(a: u64, b: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    let sign = x.sign != y.sign;
    let bits = match (x.class, y.class) {
        (Class::Finite, Class::Finite) => {
            let (exp, sig) = quotient::<F>(x, y);
            env.round::<F>(sign, exp, sig)
        }
        _ if x.is_nan() || y.is_nan() => env.propagate_nan::<F>(&[a, b]),
        (Class::Infinite, Class::Infinite) | (Class::Zero, Class::Zero) => env.invalid::<F>(),
        (Class::Finite, Class::Zero) => {
            env.raise(Flags::DIV_BY_ZERO);
            env.drop_denormal_operand();
            infinity::<F>(sign)
        }
        (Class::Infinite, _) => infinity::<F>(sign),
        _ => zero::<F>(sign),
    };
    env.finish(bits)
}

/// The quotient of two finite numbers, normalised and jammed, and its exponent.
#[inline]
fn quotient<F: Format>(x: Unpacked, y: Unpacked) -> (i32, u64) {
    let below_one = x.sig < y.sig;
    let exp = x.exp - y.exp - below_one as i32;
    if F::FRAC < 30 {
        // The significands fit 32 bits, and 32 bits of quotient are enough.
        let (n, d) = ((x.sig >> 32) << (31 + below_one as u32), y.sig >> 32);
        return (exp, (n / d) << 32 | (n % d != 0) as u64);
    }
    let (n, d) = ((x.sig as u128) << (63 + below_one as u32), y.sig as u128);
    let q = n / d;
    (exp, q as u64 | (q * d != n) as u64)
}

#[inline]
pub(crate) fn sqrt<F: Format>(a: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let x = env.unpack::<F>(a);
    let bits = match x.class {
        Class::QuietNan | Class::SignallingNan => env.propagate_nan::<F>(&[a]),
        Class::Zero => zero::<F>(x.sign),
        _ if x.sign => env.invalid::<F>(),
        Class::Infinite => infinity::<F>(false),
        Class::Finite => {
            let sig = root::<F>(x);
            env.round::<F>(false, x.exp >> 1, sig)
        }
    };
    env.finish(bits)
}

/// The square root of a significand in [1, 4), normalised and jammed.
#[inline]
fn root<F: Format>(x: Unpacked) -> u64 {
    let odd = x.exp & 1 != 0;
    if F::FRAC < 30 {
        let n = if odd { x.sig } else { x.sig >> 1 };
        let r = n.isqrt();
        return r << 32 | (r * r != n) as u64;
    }
    let n = (x.sig as u128) << if odd { 64 } else { 63 };
    let r = n.isqrt();
    r as u64 | (r * r != n) as u64
}

/// `a * b + c` with one rounding.
#[inline]
pub(crate) fn fma<F: Format>(a: u64, b: u64, c: u64, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, y, z) = (env.unpack::<F>(a), env.unpack::<F>(b), env.unpack::<F>(c));
    let bits = if x.is_nan() || y.is_nan() || z.is_nan() {
        fma_nan::<F>(&mut env, [a, b, c], inf_times_zero(x, y))
    } else if inf_times_zero(x, y) {
        env.invalid::<F>()
    } else {
        multiply_add::<F>(&mut env, x, y, z, 0)
    };
    env.finish(bits)
}

#[inline]
pub(crate) fn inf_times_zero(x: Unpacked, y: Unpacked) -> bool {
    x.is_inf() && y.is_zero() || x.is_zero() && y.is_inf()
}

#[cold]
fn fma_nan<F: Format>(env: &mut Env, [a, b, c]: [u64; 3], inf_times_zero: bool) -> u64 {
    match env.mode.rule {
        NanRule::Arm => {
            let bits = env.propagate_nan::<F>(&[c, a, b]);
            // Infinity times zero plus a quiet NaN is an invalid operation; plus a signalling NaN it is that NaN.
            if inf_times_zero && c & F::QUIET != 0 {
                env.invalid::<F>()
            } else {
                bits
            }
        }
        NanRule::X86 => env.propagate_nan::<F>(&[a, b, c]),
        NanRule::RiscV => {
            if inf_times_zero {
                env.raise(Flags::INVALID);
            }
            env.propagate_nan::<F>(&[a, b, c])
        }
    }
}

/// `(x * y + z) * 2^scale` with one rounding, for operands without NaN and without infinity times zero.
#[inline]
pub(crate) fn multiply_add<F: Format>(
    env: &mut Env,
    x: Unpacked,
    y: Unpacked,
    z: Unpacked,
    scale: i32,
) -> u64 {
    let sign = x.sign != y.sign;
    if x.is_inf() || y.is_inf() {
        return if z.is_inf() && z.sign != sign {
            env.invalid::<F>()
        } else {
            infinity::<F>(sign)
        };
    }
    if z.is_inf() {
        return infinity::<F>(z.sign);
    }
    if x.is_zero() || y.is_zero() {
        return match z.class {
            Class::Zero if z.sign == sign => zero::<F>(sign),
            Class::Zero => env.cancelled_zero::<F>(),
            _ => env.round::<F>(z.sign, z.exp + scale, z.sig),
        };
    }
    let (exp, product) = product(x, y);
    if z.is_zero() {
        return env.round::<F>(sign, exp + scale, high_jam(product));
    }
    let addend = (z.sig as u128) << 64;
    let product_is_big = (exp, product) >= (z.exp, addend);
    let (big_sign, big_exp, big, small_exp, small) = if product_is_big {
        (sign, exp, product, z.exp, addend)
    } else {
        (z.sign, z.exp, addend, exp, product)
    };
    // The product fills 106 bits at most, so the headroom costs nothing. Bits are lost only at distances where
    // a subtraction cancels at most one bit, so the jammed bit stays far below the rounding position.
    let lower = shift_right_jam_wide(small >> 1, (big_exp - small_exp) as u32);
    let total = if sign == z.sign {
        (big >> 1) + lower
    } else {
        (big >> 1) - lower
    };
    if total == 0 {
        return env.cancelled_zero::<F>();
    }
    let shift = total.leading_zeros();
    env.round::<F>(
        big_sign,
        big_exp + 1 - shift as i32 + scale,
        high_jam(total << shift),
    )
}
