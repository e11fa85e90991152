//! Arithmetic in every format, rounding mode and rule.

use rustc_apfloat::ieee::Quad;
use rustc_apfloat::{Float, Round};
use softfloat::{Flags, Mode, NanRule, Relation, Rounding};

use crate::cases::{Rng, operand, partner, repeat};
use crate::kinds::{D, H, Kind, Op, S};
use crate::reference::*;

/// A random mode: any rounding, one of the architectures with its options.
pub fn mode(rng: &mut Rng) -> Mode {
    let base = [Mode::ARM, Mode::ARM_STANDARD, Mode::X86, Mode::RISCV][rng.below(4) as usize];
    let rounding = ROUNDINGS[rng.below(6) as usize];
    let option = rng.below(4) == 0 && base.rule != NanRule::RiscV;
    let flush_to_zero = base.flush_to_zero ^ option;
    let default_nan = base.default_nan || base.rule == NanRule::Arm && rng.below(8) == 0;
    Mode {
        rounding,
        flush_to_zero,
        default_nan,
        ..base
    }
}

#[track_caller]
fn check<K: Kind>(
    what: impl std::fmt::Debug,
    x: &[u64],
    m: Mode,
    ours: (u64, Flags),
    expected: (u64, Flags),
) {
    assert!(
        ours == expected,
        "{} {what:?} {x:x?} {m:?}\n     ours {:x} {:x?}\n expected {:x} {:x?}",
        K::NAME,
        ours.0,
        ours.1,
        expected.0,
        expected.1,
    );
}

fn arithmetic_agrees<K: Kind>(op: Op, count: u32) {
    repeat(count, |rng| {
        let a = operand::<K>(rng);
        let b = partner::<K>(rng, a);
        let c = if rng.below(2) == 0 {
            partner::<K>(rng, a)
        } else {
            product_partner::<K>(rng, a, b)
        };
        let m = mode(rng);
        let arity = if op == Op::Fma { 3 } else { 2 };
        let x = &[a, b, c][..arity];
        check::<K>(
            op,
            x,
            m,
            K::apply(op, [a, b, c], m),
            arithmetic::<K>(op, x, m),
        );
    });
}

/// An addend near the negated product, so that the sum cancels.
fn product_partner<K: Kind>(rng: &mut Rng, a: u64, b: u64) -> u64 {
    let product = K::apply(Op::Mul, [a, b, 0], Mode::RISCV).0;
    let near =
        product.wrapping_add(rng.below(5)).wrapping_sub(2) & (sign::<K>() << 1).wrapping_sub(1);
    near ^ (sign::<K>() * (rng.below(4) != 0) as u64)
}

macro_rules! arithmetic_tests {
    ($($name:ident $op:ident;)*) => {$(
        #[test]
        fn $name() {
            arithmetic_agrees::<H>(Op::$op, 300_000);
            arithmetic_agrees::<S>(Op::$op, 400_000);
            arithmetic_agrees::<D>(Op::$op, 400_000);
        }
    )*};
}
arithmetic_tests! {
    addition Add;
    subtraction Sub;
    multiplication Mul;
    division Div;
    fused_multiply_add Fma;
}

/// A root is right if its square and its neighbours' squares enclose the operand; the squares are exact in binary128.
fn check_root<K: Kind>(a: u64, m: Mode) {
    let (seen, input_flags) = flush_inputs::<K>(&[a], m);
    let ours = K::apply(Op::Sqrt, [a, 0, 0], m);
    let negative = seen[0] & sign::<K>() != 0 && seen[0] != sign::<K>();
    let special = |expected| check::<K>(Op::Sqrt, &[a], m, ours, expected);
    if is_nan::<K>(a) {
        return special(nan_result::<K>(Op::Sqrt, &[a], m));
    }
    if negative {
        let flags = if m.rule == NanRule::X86 {
            Flags::NONE
        } else {
            input_flags
        };
        return special((default_nan::<K>(m), Flags::INVALID | flags));
    }
    if seen[0] == inf::<K>() || seen[0] & !sign::<K>() == 0 {
        return special((seen[0], input_flags));
    }
    let square = |x: Quad| x.mul_r(x, Round::NearestTiesToEven).value;
    let value = wide::<K>(seen[0]);
    let nearest = Mode {
        rounding: Rounding::Zero,
        ..m
    };
    let floor = K::apply(Op::Sqrt, [a, 0, 0], nearest).0;
    let (low, high) = (wide::<K>(floor), wide::<K>(floor + 1));
    assert!(
        square(low) <= value && value < square(high),
        "{} sqrt {a:x} {m:?}: {floor:x}",
        K::NAME
    );
    let inexact = square(low) != value;
    let middle = square(low.add_r(high, Round::NearestTiesToEven).value.scalbn(-1));
    let up = inexact
        && match m.rounding {
            Rounding::NearestEven | Rounding::NearestAway => value > middle,
            Rounding::Up => true,
            Rounding::Down | Rounding::Zero => false,
            Rounding::Odd => floor & 1 == 0,
        };
    let flags = if inexact { Flags::INEXACT } else { Flags::NONE };
    special((floor + up as u64, flags | input_flags));
}

#[test]
fn square_root_of_every_half() {
    repeat(1, |rng| {
        for a in 0..=0xffff {
            for _ in 0..4 {
                check_root::<H>(a, mode(rng));
            }
        }
    });
}

#[test]
fn square_root() {
    repeat(400_000, |rng| {
        let m = mode(rng);
        check_root::<S>(operand::<S>(rng), m);
        check_root::<D>(operand::<D>(rng), m);
    });
}

/// The value order of two operands that are not NaNs.
fn relation<K: Kind>(a: u64, b: u64) -> Relation {
    match oracle::<K>(a).partial_cmp(&oracle::<K>(b)) {
        Some(std::cmp::Ordering::Less) => Relation::Less,
        Some(std::cmp::Ordering::Equal) => Relation::Equal,
        Some(std::cmp::Ordering::Greater) => Relation::Greater,
        None => Relation::Unordered,
    }
}

fn check_compare<K: Kind>(a: u64, b: u64, signalling: bool, m: Mode) {
    let (seen, input_flags) = flush_inputs::<K>(&[a, b], m);
    let expected = relation::<K>(seen[0], seen[1]);
    let nan = expected == Relation::Unordered;
    let mut flags = if nan && m.rule == NanRule::X86 {
        Flags::NONE
    } else {
        input_flags
    };
    if nan && (signalling || is_snan::<K>(a) || is_snan::<K>(b)) {
        flags |= Flags::INVALID;
    }
    assert_eq!(
        K::compare(a, b, signalling, m),
        (expected, flags),
        "{} {a:x} {b:x} {m:?}",
        K::NAME
    );
}

#[test]
fn comparison() {
    repeat(400_000, |rng| {
        let (m, signalling) = (mode(rng), rng.below(2) == 0);
        let (h, s, d) = (operand::<H>(rng), operand::<S>(rng), operand::<D>(rng));
        check_compare::<H>(h, partner::<H>(rng, h), signalling, m);
        check_compare::<S>(s, partner::<S>(rng, s), signalling, m);
        check_compare::<D>(d, partner::<D>(rng, d), signalling, m);
    });
}

fn extremum<K: Kind>(op: Op, a: u64, b: u64, m: Mode) -> (u64, Flags) {
    let (seen, input_flags) = flush_inputs::<K>(&[a, b], m);
    let (x, y) = (seen[0], seen[1]);
    let (nan_a, nan_b) = (is_nan::<K>(a), is_nan::<K>(b));
    let invalid = if is_snan::<K>(a) || is_snan::<K>(b) {
        Flags::INVALID
    } else {
        Flags::NONE
    };
    let wanted = if matches!(op, Op::Min | Op::MinNum) {
        Relation::Less
    } else {
        Relation::Greater
    };
    let number = matches!(op, Op::MinNum | Op::MaxNum);
    match m.rule {
        NanRule::X86 if nan_a || nan_b => return (b, Flags::INVALID),
        NanRule::X86 => {
            return (
                if relation::<K>(a, b) == wanted { a } else { b },
                input_flags,
            );
        }
        NanRule::RiscV if nan_a && nan_b => return (default_nan::<K>(m), invalid),
        NanRule::RiscV if nan_a || nan_b => return (if nan_a { b } else { a }, invalid),
        // A single quiet NaN stands for the infinity that loses.
        NanRule::Arm if number && nan_a != nan_b && invalid.is_empty() => {
            return (if nan_a { y } else { x }, input_flags);
        }
        NanRule::Arm if nan_a || nan_b => {
            let (bits, flags) = nan_result::<K>(op, &[a, b], m);
            return (bits, flags | input_flags);
        }
        _ => {}
    }
    let bits = match relation::<K>(x, y) {
        Relation::Equal if wanted == Relation::Less => x | y,
        Relation::Equal => x & y,
        r if r == wanted => x,
        _ => y,
    };
    (bits, input_flags)
}

fn check_extrema<K: Kind>(rng: &mut Rng, m: Mode) {
    let a = operand::<K>(rng);
    let b = partner::<K>(rng, a);
    for op in [Op::Min, Op::Max, Op::MinNum, Op::MaxNum] {
        check::<K>(
            op,
            &[a, b],
            m,
            K::apply(op, [a, b, 0], m),
            extremum::<K>(op, a, b, m),
        );
    }
}

#[test]
fn minimum_and_maximum() {
    repeat(350_000, |rng| {
        let m = mode(rng);
        check_extrema::<H>(rng, m);
        check_extrema::<S>(rng, m);
        check_extrema::<D>(rng, m);
    });
}
