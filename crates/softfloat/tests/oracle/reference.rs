//! What an operation has to return, computed with the oracle.

use std::cmp::Ordering;

use rustc_apfloat::ieee::Quad;
use rustc_apfloat::{Float, FloatConvert, Round, Status, StatusAnd};
use softfloat::{Flags, Mode, NanRule, Rounding};

use crate::kinds::{Encoding, Op};

pub const ROUNDINGS: [Rounding; 6] = [
    Rounding::NearestEven,
    Rounding::Up,
    Rounding::Down,
    Rounding::Zero,
    Rounding::NearestAway,
    Rounding::Odd,
];

pub fn round(rounding: Rounding) -> Round {
    match rounding {
        Rounding::NearestEven => Round::NearestTiesToEven,
        Rounding::Up => Round::TowardPositive,
        Rounding::Down => Round::TowardNegative,
        // Odd is truncation with a correction.
        Rounding::Zero | Rounding::Odd => Round::TowardZero,
        Rounding::NearestAway => Round::NearestTiesToAway,
    }
}

pub fn sign<K: Encoding>() -> u64 {
    1 << (K::EXP + K::FRAC)
}
pub fn inf<K: Encoding>() -> u64 {
    ((1 << K::EXP) - 1) << K::FRAC
}
pub fn quiet<K: Encoding>() -> u64 {
    1 << (K::FRAC - 1)
}
pub fn is_nan<K: Encoding>(bits: u64) -> bool {
    bits & (sign::<K>() - 1) > inf::<K>()
}
pub fn is_snan<K: Encoding>(bits: u64) -> bool {
    is_nan::<K>(bits) && bits & quiet::<K>() == 0
}
pub fn is_denormal<K: Encoding>(bits: u64) -> bool {
    (1..1 << K::FRAC).contains(&(bits & (sign::<K>() - 1)))
}
pub fn default_nan<K: Encoding>(m: Mode) -> u64 {
    inf::<K>()
        | quiet::<K>()
        | if m.rule == NanRule::X86 {
            sign::<K>()
        } else {
            0
        }
}

pub fn oracle<K: Encoding>(bits: u64) -> K::Oracle {
    K::Oracle::from_bits(bits as u128)
}
pub fn wide<K: Encoding>(bits: u64) -> Quad {
    let exact = oracle::<K>(bits).convert_r(Round::TowardZero, &mut false);
    assert_eq!(exact.status, Status::OK);
    exact.value
}

/// An exact value as binary128 can tell it: truncated, with the lost part collected in the last bit.
pub fn sticky(truncated: StatusAnd<Quad>) -> Quad {
    let lost = truncated.status.contains(Status::INEXACT);
    Quad::from_bits(truncated.value.to_bits() | lost as u128)
}

/// Input flushing: the operands as the operation sees them, and the flag.
pub fn flush_inputs<K: Encoding>(x: &[u64], m: Mode) -> (Vec<u64>, Flags) {
    let mut flags = Flags::NONE;
    let seen = x.iter().map(|&bits| {
        if !is_denormal::<K>(bits) {
            return bits;
        }
        if m.rule == NanRule::X86 || m.flush_to_zero && K::EXP != 5 {
            flags |= Flags::INPUT_DENORMAL;
        }
        if m.rule != NanRule::X86 && m.flush_to_zero {
            bits & sign::<K>()
        } else {
            bits
        }
    });
    (seen.collect(), flags)
}

/// Rounds an exact value (see [`sticky`]) to the format: the result and the flags, from first principles except for
/// the oracle's conversion.
pub fn rounded<K: Encoding>(exact: Quad, m: Mode) -> (u64, Flags) {
    let magnitude = |x: Quad| if x.is_negative() { -x } else { x };
    let sign_bit = if exact.is_negative() { sign::<K>() } else { 0 };
    let min_normal: Quad = wide::<K>(1 << K::FRAC);
    let mut flags = Flags::NONE;

    let unbounded = round_unbounded::<K>(exact, m);
    let tiny_before = magnitude(exact) < min_normal;
    let tiny_after = magnitude(unbounded) < min_normal;
    let tiny = !exact.is_zero()
        && if m.tininess_before {
            tiny_before
        } else {
            tiny_after
        };
    if tiny && m.flush_to_zero {
        let inexact = if m.rule == NanRule::X86 {
            Flags::INEXACT
        } else {
            Flags::NONE
        };
        return (sign_bit, Flags::UNDERFLOW | inexact);
    }
    let mut bits = K::narrow(exact, round(m.rounding)).to_bits() as u64;
    let changed = wide::<K>(bits).partial_cmp(&exact) != Some(Ordering::Equal);
    if changed {
        flags |= Flags::INEXACT;
        if m.rounding == Rounding::Odd {
            bits |= 1;
        }
        if tiny {
            flags |= Flags::UNDERFLOW;
        }
    }
    if magnitude(unbounded) > wide::<K>(inf::<K>() - 1) {
        flags |= Flags::OVERFLOW;
    }
    (bits, flags)
}

/// Rounds to the format's precision in a range without ends: brought near one by a power of two, and back.
fn round_unbounded<K: Encoding>(exact: Quad, m: Mode) -> Quad {
    if exact.is_zero() {
        return exact;
    }
    let exp = exact.ilogb();
    let near_one = exact.scalbn(-exp);
    let mut bits = K::narrow(near_one, round(m.rounding)).to_bits() as u64;
    if m.rounding == Rounding::Odd
        && wide::<K>(bits).partial_cmp(&near_one) != Some(Ordering::Equal)
    {
        bits |= 1;
    }
    wide::<K>(bits).scalbn(exp)
}

/// The NaN that the manuals prescribe for these operands.
pub fn nan_result<K: Encoding>(op: Op, x: &[u64], m: Mode) -> (u64, Flags) {
    let invalid_product = op == Op::Fma && {
        let magnitude = |i: usize| x[i] & (sign::<K>() - 1);
        let mut pair = [magnitude(0), magnitude(1)];
        pair.sort();
        pair == [0, inf::<K>()]
    };
    let snan = x.iter().any(|&bits| is_snan::<K>(bits));
    let flags = if snan { Flags::INVALID } else { Flags::NONE };
    let by_rule: Vec<u64> = match (m.rule, op) {
        (NanRule::Arm, Op::Fma) => vec![x[2], x[0], x[1]],
        _ => x.to_vec(),
    };
    match m.rule {
        NanRule::RiscV if invalid_product => (default_nan::<K>(m), Flags::INVALID),
        NanRule::Arm if invalid_product && !is_snan::<K>(x[2]) => {
            (default_nan::<K>(m), Flags::INVALID)
        }
        NanRule::RiscV => (default_nan::<K>(m), flags),
        _ if m.default_nan => (default_nan::<K>(m), flags),
        NanRule::Arm => {
            let first_snan = by_rule.iter().find(|&&bits| is_snan::<K>(bits));
            let first = by_rule.iter().find(|&&bits| is_nan::<K>(bits)).unwrap();
            (first_snan.unwrap_or(first) | quiet::<K>(), flags)
        }
        NanRule::X86 => (
            by_rule.iter().find(|&&bits| is_nan::<K>(bits)).unwrap() | quiet::<K>(),
            flags,
        ),
    }
}

/// What add, sub, mul, div or fma has to return.
pub fn arithmetic<K: Encoding>(op: Op, x: &[u64], m: Mode) -> (u64, Flags) {
    let (seen, input_flags) = flush_inputs::<K>(x, m);
    let denormal_operand = |flags: Flags| match m.rule {
        // x86 reports the denormal operand only if nothing of higher priority happened.
        NanRule::X86 if flags.0 & 3 != 0 => flags,
        _ => flags | input_flags,
    };
    if x.iter().any(|&bits| is_nan::<K>(bits)) {
        let (bits, flags) = nan_result::<K>(op, &seen, m);
        return (
            bits,
            if m.rule == NanRule::X86 {
                flags
            } else {
                flags | input_flags
            },
        );
    }
    let at = |i: usize| oracle::<K>(seen[i]);
    let r = round(m.rounding);
    let direct = match op {
        Op::Add => at(0).add_r(at(1), r),
        Op::Sub => at(0).sub_r(at(1), r),
        Op::Mul => at(0).mul_r(at(1), r),
        Op::Div => at(0).div_r(at(1), r),
        Op::Fma => at(0).mul_add_r(at(1), at(2), r),
        _ => unreachable!(),
    };
    let bits = direct.value.to_bits() as u64;
    if direct.value.is_nan() {
        assert_eq!(direct.status, Status::INVALID_OP);
        return (default_nan::<K>(m), denormal_operand(Flags::INVALID));
    }
    if direct.status.contains(Status::DIV_BY_ZERO) {
        return (bits, denormal_operand(Flags::DIV_BY_ZERO));
    }
    let exact_inputs = x.iter().all(|&bits| bits & inf::<K>() != inf::<K>());
    let magnitude = bits & (sign::<K>() - 1);
    let near_edge = exact_inputs && (magnitude <= 1 << K::FRAC || magnitude >= inf::<K>() - 1);
    if !near_edge && m.rounding != Rounding::Odd {
        let inexact = direct.status.contains(Status::INEXACT);
        return (
            bits,
            denormal_operand(if inexact { Flags::INEXACT } else { Flags::NONE }),
        );
    }
    if !exact_inputs {
        return (bits, denormal_operand(Flags::NONE));
    }
    // At the ends of the range the oracle's flags are not IEEE's (it reports no overflow to the largest number, and
    // detects tininess in its own way), so the operation is repeated in binary128.
    let w = |i: usize| wide::<K>(seen[i]);
    let t = Round::TowardZero;
    let exact = sticky(match op {
        Op::Add => w(0).add_r(w(1), t),
        Op::Sub => w(0).sub_r(w(1), t),
        Op::Mul => w(0).mul_r(w(1), t),
        Op::Div => w(0).div_r(w(1), t),
        Op::Fma => w(0).mul_add_r(w(1), w(2), t),
        _ => unreachable!(),
    });
    if exact.is_zero() {
        return (bits, denormal_operand(Flags::NONE));
    }
    let (bits, flags) = rounded::<K>(exact, m);
    (bits, denormal_operand(flags))
}
