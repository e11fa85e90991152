//! Comparisons, minimum and maximum.
//!
//! **Reference.** IEEE 754-2019, 5.11; Arm ARM `FPCompare`, `FPMax`, `FPMaxNum`, `FPMin`, `FPMinNum`;
//! RISC-V FMIN/FMAX; Intel SDM volume 2, MINSS/MAXSS and (U)COMISS.

use core::cmp::Ordering;

use crate::format::{Class, Env, Format, Unpacked, zero};
use crate::nan::is_signalling;
use crate::{Flags, Mode, NanRule};

/// How two operands relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    Less,
    Equal,
    Greater,
    Unordered,
}

impl From<Ordering> for Relation {
    #[inline]
    fn from(order: Ordering) -> Relation {
        match order {
            Ordering::Less => Relation::Less,
            Ordering::Equal => Relation::Equal,
            Ordering::Greater => Relation::Greater,
        }
    }
}

/// Compares two operands that are not NaNs.
#[inline]
pub(crate) fn order(x: Unpacked, y: Unpacked) -> Ordering {
    let magnitude = |v: Unpacked| match v.class {
        Class::Zero => (0, 0, 0),
        Class::Finite => (1, v.exp, v.sig),
        _ => (2, 0, 0),
    };
    let (p, q) = (magnitude(x), magnitude(y));
    match (x.sign, y.sign) {
        _ if x.is_zero() && y.is_zero() => Ordering::Equal,
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => p.cmp(&q),
        (true, true) => q.cmp(&p),
    }
}

/// `signal_nans`: a quiet NaN is an invalid operation too.
#[inline]
pub(crate) fn compare<F: Format>(a: u64, b: u64, signal_nans: bool, m: Mode) -> (Relation, Flags) {
    let mut env = Env::new(m);
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    if x.is_nan() || y.is_nan() {
        env.drop_denormal_operand();
        if signal_nans || is_signalling::<F>(a) || is_signalling::<F>(b) {
            env.raise(Flags::INVALID);
        }
        return (Relation::Unordered, env.flags);
    }
    (order(x, y).into(), env.flags)
}

/// Which extremum. The two differ in the order they look for and in the sign of a zero they prefer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extremum {
    Min,
    Max,
}

/// Minimum or maximum. Under [`NanRule::Arm`] a NaN operand is the result unless `number` is set and exactly one
/// operand is a quiet NaN; RISC-V always prefers the number and x86 always takes the second operand.
#[inline]
pub(crate) fn extremum<F: Format>(
    a: u64,
    b: u64,
    which: Extremum,
    number: bool,
    m: Mode,
) -> (u64, Flags) {
    let mut env = Env::new(m);
    let (x, y) = (env.unpack::<F>(a), env.unpack::<F>(b));
    let bits = if x.is_nan() || y.is_nan() {
        extremum_nan::<F>(&mut env, (a, x), (b, y), number)
    } else {
        let first = match which {
            Extremum::Min => order(x, y) == Ordering::Less,
            Extremum::Max => order(x, y) == Ordering::Greater,
        };
        if x.is_zero() && y.is_zero() && m.rule != NanRule::X86 {
            let negative = match which {
                Extremum::Min => x.sign || y.sign,
                Extremum::Max => x.sign && y.sign,
            };
            zero::<F>(negative)
        } else if first {
            flushed::<F>(a, x)
        } else {
            flushed::<F>(b, y)
        }
    };
    env.finish(bits)
}

/// The operand itself, or the zero that input flushing made of it.
#[inline]
fn flushed<F: Format>(bits: u64, operand: Unpacked) -> u64 {
    if operand.is_zero() {
        zero::<F>(operand.sign)
    } else {
        bits
    }
}

#[cold]
fn extremum_nan<F: Format>(
    env: &mut Env,
    (a, x): (u64, Unpacked),
    (b, y): (u64, Unpacked),
    number: bool,
) -> u64 {
    let signalling = is_signalling::<F>(a) || is_signalling::<F>(b);
    match env.mode.rule {
        NanRule::X86 => {
            env.raise(Flags::INVALID);
            env.drop_denormal_operand();
            b
        }
        NanRule::RiscV => {
            if signalling {
                env.raise(Flags::INVALID);
            }
            match (x.is_nan(), y.is_nan()) {
                (true, true) => env.default_nan::<F>(),
                (true, false) => b,
                _ => a,
            }
        }
        NanRule::Arm if number && !signalling && x.is_nan() != y.is_nan() => {
            if x.is_nan() {
                flushed::<F>(b, y)
            } else {
                flushed::<F>(a, x)
            }
        }
        NanRule::Arm => env.propagate_nan::<F>(&[a, b]),
    }
}
