//! The x87 format, against binary128 arithmetic and the rules of the manual.
//!
//! The exponents of the operands are taken out first, because binary128 has the same exponent range as the x87 format.

use std::cmp::Ordering;

use rustc_apfloat::ieee::Quad;
use rustc_apfloat::{Float, Round, StatusAnd};
use softfloat::*;

use crate::cases::{Rng, operand, repeat};
use crate::kinds::{D, Encoding, S};
use crate::reference::{is_denormal, is_nan, is_snan, round, rounded, sticky, wide};

const TOP: u16 = 0x7fff;
const BIAS: i32 = 16383;
const INTEGER: u64 = 1 << 63;
const QUIET: u64 = 1 << 62;
const PRECISIONS: [Precision; 3] = [Precision::Single, Precision::Double, Precision::Extended];

fn f80(sign: bool, exponent: u16, significand: u64) -> F80 {
    F80 {
        sign_exponent: (sign as u16) << 15 | exponent,
        significand,
    }
}
fn sign(a: F80) -> bool {
    a.sign_exponent >> 15 != 0
}
fn exponent(a: F80) -> u16 {
    a.sign_exponent & TOP
}
fn unsupported(a: F80) -> bool {
    exponent(a) != 0 && a.significand < INTEGER
}
fn nan(a: F80) -> bool {
    exponent(a) == TOP && a.significand > INTEGER
}
fn signalling(a: F80) -> bool {
    nan(a) && a.significand & QUIET == 0
}
fn infinite(a: F80) -> bool {
    exponent(a) == TOP && a.significand == INTEGER
}
fn zero(a: F80) -> bool {
    exponent(a) == 0 && a.significand == 0
}
fn denormal(a: F80) -> bool {
    exponent(a) == 0 && a.significand != 0
}

/// The significand as a number in [1, 2), and the exponent; nothing for a zero.
fn parts(a: F80) -> (Quad, i32) {
    if a.significand == 0 {
        return (Quad::ZERO, 0);
    }
    let number = Quad::from_u128(a.significand as u128).value;
    let top = number.ilogb();
    let number = number.scalbn(-top);
    (
        if sign(a) { -number } else { number },
        exponent(a).max(1) as i32 - BIAS - 63 + top,
    )
}

/// An operand at the edges of the format, sometimes not a valid one.
fn random(rng: &mut Rng) -> F80 {
    let exponent = match rng.below(12) {
        0 => rng.below(3),
        1 => TOP as u64 - rng.below(3),
        2 | 3 => BIAS as u64 - 4 + rng.below(8),
        4 => BIAS as u64 + 60 + rng.below(8),
        5 => BIAS as u64 - rng.below(70),
        6 => BIAS as u64 - 127 - rng.below(30),
        7 => BIAS as u64 - 1023 - rng.below(60),
        8 => BIAS as u64 + [127, 1023][rng.below(2) as usize] - rng.below(2),
        _ => rng.next() & TOP as u64,
    } as u16;
    let bit = |rng: &mut Rng| 1u64 << rng.below(64);
    let fraction = match rng.below(8) {
        0 => bit(rng) | bit(rng),
        1 => bit(rng).wrapping_sub(bit(rng)),
        2 => rng.below(4).wrapping_sub(2),
        3 => bit(rng).wrapping_add(rng.below(4)).wrapping_sub(2),
        4 => rng.next() & !0x7ff,
        5 => 0,
        _ => rng.next(),
    };
    let natural = exponent != 0;
    let unusual = rng.below(32) == 0;
    let integer = if natural != unusual { INTEGER } else { 0 };
    f80(rng.below(2) == 0, exponent, fraction & !INTEGER | integer)
}

/// A second operand, often one that meets the first.
fn partner(rng: &mut Rng, a: F80) -> F80 {
    let b = random(rng);
    let near = rng.below(8) as i32 - 4;
    let e = exponent(a) as i32;
    let field = match rng.below(8) {
        0 => return f80(sign(b), exponent(a), a.significand),
        1 => {
            return f80(
                sign(b),
                exponent(a),
                a.significand.wrapping_add(rng.below(5)).wrapping_sub(2),
            );
        }
        2 => e + near,
        3 => e + near * 20,
        4 => BIAS - e + near - 63 * rng.below(2) as i32,
        5 => TOP as i32 + BIAS - e + near,
        6 => e + BIAS - rng.below(2) as i32 * TOP as i32 + near,
        _ => return b,
    };
    let field = field.clamp(0, TOP as i32) as u16;
    f80(
        sign(b),
        field,
        b.significand & !INTEGER | if field != 0 { INTEGER } else { 0 },
    )
}

fn random_mode(rng: &mut Rng) -> (Mode, Precision) {
    let rounding = [
        Rounding::NearestEven,
        Rounding::Up,
        Rounding::Down,
        Rounding::Zero,
    ][rng.below(4) as usize];
    (
        Mode {
            rounding,
            ..Mode::X86
        },
        PRECISIONS[rng.below(3) as usize],
    )
}

fn bits_of(p: Precision) -> i32 {
    match p {
        Precision::Single => 24,
        Precision::Double => 53,
        Precision::Extended => 64,
    }
}

/// Rounds `value * 2^scale` at the bit worth `2^last`: the multiple of it, and how it compares with the value.
fn round_at(value: Quad, scale: i32, last: i32, m: Mode) -> (u128, Ordering) {
    let units = value.scalbn((scale - last).max(-100));
    let whole = units.round_to_integral(round(m.rounding)).value;
    let magnitude = |x: Quad| if x.is_negative() { -x } else { x };
    let order = magnitude(whole)
        .partial_cmp(&magnitude(units))
        .expect("numbers");
    (magnitude(whole).to_u128(127).value, order)
}

/// The result and the flags for the value `value * 2^scale`, not zero.
fn packed(value: Quad, scale: i32, p: Precision, m: Mode) -> (F80, Flags) {
    let (negative, top) = (value.is_negative(), value.ilogb() + scale);
    let unbounded = top - bits_of(p) + 1;
    let last = unbounded.max(1 - BIAS - bits_of(p) + 1);
    let (units, order) = round_at(value, scale, last, m);
    let mut flags = Flags::NONE;
    if order != Ordering::Equal {
        flags |= Flags::INEXACT;
    }
    if order == Ordering::Greater {
        flags |= Flags::ROUNDED_UP;
    }
    let length = 128 - units.leading_zeros() as i32;
    if units != 0 && length - 1 + last > BIAS {
        let infinity = [
            (Rounding::NearestEven, true),
            (Rounding::Up, !negative),
            (Rounding::Down, negative),
        ];
        if infinity.contains(&(m.rounding, true)) {
            let flags = Flags::OVERFLOW | Flags::INEXACT | Flags::ROUNDED_UP;
            return (f80(negative, TOP, INTEGER), flags);
        }
        return (
            f80(negative, TOP - 1, u64::MAX << (64 - bits_of(p))),
            Flags::OVERFLOW | Flags::INEXACT,
        );
    }
    let (tiny_units, _) = round_at(value, scale, unbounded, m);
    let tiny = 128 - tiny_units.leading_zeros() as i32 - 1 + unbounded < 1 - BIAS;
    if tiny && order != Ordering::Equal {
        flags |= Flags::UNDERFLOW;
    }
    let top = length - 1 + last;
    // Rounding up may have made it one bit too long, all of them zeros but the first.
    let significand = match length {
        65 => INTEGER,
        0 => 0,
        _ => (units as u64) << (64 - length),
    };
    if units == 0 || top < 1 - BIAS {
        return (f80(negative, 0, (units as u64) << (64 - bits_of(p))), flags);
    }
    (f80(negative, (top + BIAS) as u16, significand), flags)
}

/// Table 4-7 of the manual, and unsupported operands.
fn special(x: &[F80]) -> Option<(F80, Flags)> {
    if x.iter().any(|&a| unsupported(a)) {
        return Some((F80::INDEFINITE, Flags::INVALID));
    }
    let flags = if x.iter().any(|&a| signalling(a)) {
        Flags::INVALID
    } else {
        Flags::NONE
    };
    let mut nans: Vec<F80> = x.iter().copied().filter(|&a| nan(a)).collect();
    let quiet_one = nans.iter().any(|&a| !signalling(a));
    nans.retain(|&a| !quiet_one || !signalling(a));
    nans.sort_by_key(|a| (a.significand, !sign(*a)));
    nans.last().map(|a| {
        (
            F80 {
                significand: a.significand | QUIET,
                ..*a
            },
            flags,
        )
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
}

fn ours(op: Op, a: F80, b: F80, p: Precision, m: Mode) -> (F80, Flags) {
    match op {
        Op::Add => f80_add(a, b, p, m),
        Op::Sub => f80_sub(a, b, p, m),
        Op::Mul => f80_mul(a, b, p, m),
        Op::Div => f80_div(a, b, p, m),
    }
}

/// A sum of two numbers, exact but for what is collected in the last bit.
fn sum((x, ex): (Quad, i32), (y, ey): (Quad, i32)) -> (StatusAnd<Quad>, i32) {
    let scale = ex.max(ey);
    let at = |value: Quad, e: i32| value.scalbn((e - scale).max(-200));
    (at(x, ex).add_r(at(y, ey), Round::TowardZero), scale)
}

fn expected(op: Op, a: F80, b: F80, p: Precision, m: Mode) -> (F80, Flags) {
    if let Some(result) = special(&[a, b]) {
        return result;
    }
    let input = if denormal(a) || denormal(b) { Flags::INPUT_DENORMAL } else { Flags::NONE };
    let (op, b) = match op {
        Op::Sub => (Op::Add, F80 { sign_exponent: b.sign_exponent ^ 0x8000, ..b }),
        _ => (op, b),
    };
    if let Some((result, flags)) = of_infinity_or_zero(op, a, b) {
        return (result, if flags == Flags::NONE { input } else { flags });
    }
    let (value, scale) = exact(op, a, b);
    let value = sticky(value);
    if value.is_zero() {
        return (f80(m.rounding == Rounding::Down, 0, 0), input);
    }
    let (result, flags) = packed(value, scale, p, m);
    (result, flags | input)
}

/// What infinities and zeros give without arithmetic, and the flags of it.
fn of_infinity_or_zero(op: Op, a: F80, b: F80) -> Option<(F80, Flags)> {
    let negative = sign(a) != sign(b);
    let invalid = (F80::INDEFINITE, Flags::INVALID);
    let infinity = f80(negative, TOP, INTEGER);
    let nothing = f80(negative, 0, 0);
    Some(match op {
        Op::Add if infinite(a) && infinite(b) && negative => invalid,
        Op::Add if infinite(a) => (a, Flags::NONE),
        Op::Add if infinite(b) => (b, Flags::NONE),
        Op::Add if zero(a) && zero(b) && !negative => (a, Flags::NONE),
        Op::Mul if infinite(a) && zero(b) || zero(a) && infinite(b) => invalid,
        Op::Mul if infinite(a) || infinite(b) => (infinity, Flags::NONE),
        Op::Mul if zero(a) || zero(b) => (nothing, Flags::NONE),
        Op::Div if infinite(a) && infinite(b) || zero(a) && zero(b) => invalid,
        Op::Div if zero(b) && !infinite(a) => (infinity, Flags::DIV_BY_ZERO),
        Op::Div if infinite(a) => (infinity, Flags::NONE),
        Op::Div if infinite(b) || zero(a) => (nothing, Flags::NONE),
        _ => return None,
    })
}

/// The result of numbers, exact but for what is collected in the last bit, and the power of two it is to be multiplied by.
fn exact(op: Op, a: F80, b: F80) -> (StatusAnd<Quad>, i32) {
    let whole = |(value, scale)| (StatusAnd { value, status: rustc_apfloat::Status::OK }, scale);
    match op {
        Op::Mul => {
            // 128 bits, more than binary128 holds: split the first factor.
            let ((_, ex), (y, ey)) = (parts(a), parts(b));
            let top = a.significand << a.significand.leading_zeros();
            let [high, low] = [top >> 32, top & 0xffff_ffff].map(|half| Quad::from_u128(half as u128).value);
            let [high, low] =
                [high.scalbn(-31), low.scalbn(-63)].map(|half| half.mul_r(y, Round::TowardZero).value);
            let product = high.add_r(low, Round::TowardZero);
            (if sign(a) { product.map(|x| -x) } else { product }, ex + ey)
        }
        Op::Div => {
            let ((x, ex), (y, ey)) = (parts(a), parts(b));
            (x.div_r(y, Round::TowardZero), ex - ey)
        }
        _ if zero(a) && zero(b) => whole((Quad::ZERO, 0)),
        _ if zero(a) => whole(parts(b)),
        _ if zero(b) => whole(parts(a)),
        _ => sum(parts(a), parts(b)),
    }
}

#[test]
fn arithmetic() {
    repeat(1_000_000, |rng| {
        let a = random(rng);
        let (b, (m, p)) = (partner(rng, a), random_mode(rng));
        for op in [Op::Add, Op::Sub, Op::Mul, Op::Div] {
            let (ours, expected) = (ours(op, a, b, p, m), expected(op, a, b, p, m));
            assert!(
                ours == expected,
                "{op:?} {a:x?} {b:x?} {p:?} {:?}\n     ours {ours:x?}\n expected {expected:x?}",
                m.rounding
            );
        }
    });
}

/// The truncated root is checked by squaring; the other roundings follow from it and from whether it is exact.
#[test]
fn square_root() {
    repeat(1_000_000, |rng| {
        let (a, (m, p)) = (random(rng), random_mode(rng));
        let ours = f80_sqrt(a, p, m);
        let context = || format!("{a:x?} {p:?} {:?}", m.rounding);
        if let Some(expected) = special(&[a]) {
            return assert_eq!(ours, expected, "{}", context());
        }
        if zero(a) || infinite(a) && !sign(a) {
            return assert_eq!(ours, (a, Flags::NONE), "{}", context());
        }
        if sign(a) {
            return assert_eq!(ours, (F80::INDEFINITE, Flags::INVALID), "{}", context());
        }
        let floor = f80_sqrt(
            a,
            Precision::Extended,
            Mode {
                rounding: Rounding::Zero,
                ..m
            },
        )
        .0;
        let root = floor.significand as u128;
        let shift = a.significand.leading_zeros();
        let e = exponent(a).max(1) as i32 - BIAS - shift as i32;
        let n = ((a.significand << shift) as u128) << if e & 1 != 0 { 64 } else { 63 };
        assert!(
            root * root <= n && n - root * root <= 2 * root,
            "{}",
            context()
        );
        assert_eq!(exponent(floor) as i32 - BIAS, e >> 1, "{}", context());
        // The root with two more bits: one that tells the upper half of a unit, one for the rest.
        let left = n - root * root;
        let value =
            Quad::from_u128(root * 4 + if left > root { 3 } else { (left != 0) as u128 }).value;
        let (expected, flags) = packed(value, (e >> 1) - 65, p, m);
        let input = if denormal(a) {
            Flags::INPUT_DENORMAL
        } else {
            Flags::NONE
        };
        assert_eq!(ours, (expected, flags | input), "{}", context());
    });
}

#[test]
fn comparison() {
    repeat(1_000_000, |rng| {
        let a = random(rng);
        let b = partner(rng, a);
        let quad = |x: F80| match parts(x) {
            _ if infinite(x) => Quad::INFINITY.copy_sign(if sign(x) {
                -Quad::INFINITY
            } else {
                Quad::INFINITY
            }),
            _ if zero(x) => Quad::ZERO,
            (value, e) => value.scalbn(e),
        };
        let invalid = unsupported(a) || unsupported(b) || signalling(a) || signalling(b);
        let unordered = invalid || nan(a) || nan(b);
        let flags = match (invalid, unordered, denormal(a) || denormal(b)) {
            (true, ..) => Flags::INVALID,
            (_, false, true) => Flags::INPUT_DENORMAL,
            _ => Flags::NONE,
        };
        let relation = match unordered {
            true => Relation::Unordered,
            false => quad(a).partial_cmp(&quad(b)).expect("numbers").into(),
        };
        assert_eq!(f80_compare(a, b), (relation, flags), "{a:x?} {b:x?}");
        let flags = if unordered { Flags::INVALID } else { flags };
        assert_eq!(
            f80_compare_signalling(a, b),
            (relation, flags),
            "{a:x?} {b:x?}"
        );
    });
}

/// FIST and FRNDINT.
#[test]
fn integers() {
    repeat(1_000_000, |rng| {
        let (a, (m, _)) = (random(rng), random_mode(rng));
        let to_int = |width| match width {
            16 => (f80_to_i16(a, m).0 as i64, f80_to_i16(a, m).1),
            32 => (f80_to_i32(a, m).0 as i64, f80_to_i32(a, m).1),
            _ => f80_to_i64(a, m),
        };
        if let Some(result) = special(&[a]) {
            assert_eq!(f80_round_to_int(a, m), result, "{a:x?}");
            return assert_eq!(to_int(32), (i32::MIN as i64, Flags::INVALID), "{a:x?}");
        }
        let large = exponent(a) as i32 >= BIAS + 64;
        let (units, order) = match parts(a) {
            _ if large || zero(a) => (0, Ordering::Equal),
            (value, e) => round_at(value, e, 0, m),
        };
        let mut flags = if order == Ordering::Equal {
            Flags::NONE
        } else {
            Flags::INEXACT
        };
        if order == Ordering::Greater {
            flags |= Flags::ROUNDED_UP;
        }
        let value = if sign(a) {
            -(units as i128)
        } else {
            units as i128
        };
        for width in [16, 32, 64] {
            let limit = 1i128 << (width - 1);
            let expected = match large || value >= limit || value < -limit {
                true => (-limit as i64, Flags::INVALID),
                false => (value as i64, flags),
            };
            assert_eq!(to_int(width), expected, "{width} {a:x?} {:?}", m.rounding);
        }
        let input = if denormal(a) {
            Flags::INPUT_DENORMAL
        } else {
            Flags::NONE
        };
        let (rounded, rounded_flags) = f80_round_to_int(a, m);
        assert_eq!(rounded_flags, flags | input, "{a:x?}");
        if large || zero(a) {
            return assert_eq!(rounded, a);
        }
        assert_eq!(sign(rounded), sign(a), "{a:x?}");
        let (size, e) = if units == 0 {
            (0, 0)
        } else {
            (
                rounded.significand as u128,
                exponent(rounded) as i32 - BIAS - 63,
            )
        };
        let whole = if e > 0 { size << e } else { size >> -e };
        assert_eq!(whole, units, "{a:x?} {:?}", m.rounding);
        let value = rng.next() as i64 >> rng.below(64);
        assert_eq!(f80_to_i64(i64_to_f80(value), m), (value, Flags::NONE));
    });
}

fn check_narrowing<F: Encoding>(a: F80, m: Mode, (ours, ours_flags): (u64, Flags)) {
    let flip = if sign(a) { 1 << (F::EXP + F::FRAC) } else { 0 };
    let inf = ((1u64 << F::EXP) - 1) << F::FRAC;
    let quiet = 1 << (F::FRAC - 1);
    let expected = if unsupported(a) {
        (1 << (F::EXP + F::FRAC) | inf | quiet, Flags::INVALID)
    } else if nan(a) {
        let flags = if signalling(a) {
            Flags::INVALID
        } else {
            Flags::NONE
        };
        (
            flip | inf | quiet | a.significand << 1 >> (64 - F::FRAC),
            flags,
        )
    } else if infinite(a) || zero(a) {
        (flip | if zero(a) { 0 } else { inf }, Flags::NONE)
    } else {
        let (value, e) = parts(a);
        let (bits, mut flags) = rounded::<F>(value.scalbn(e), m);
        let magnitude = |x: Quad| if x.is_negative() { -x } else { x };
        if bits & !flip == inf || magnitude(wide::<F>(bits)) > magnitude(value.scalbn(e)) {
            flags |= Flags::ROUNDED_UP;
        }
        (bits, flags)
    };
    assert_eq!(
        (ours, ours_flags),
        expected,
        "{} {a:x?} {:?}",
        F::NAME,
        m.rounding
    );
}

#[test]
fn narrowing() {
    repeat(1_000_000, |rng| {
        let (a, (m, _)) = (random(rng), random_mode(rng));
        let (single, flags) = f80_to_f32(a, m);
        check_narrowing::<S>(a, m, (single as u64, flags));
        check_narrowing::<D>(a, m, f80_to_f64(a, m));
    });
}

fn check_widening<F: Encoding>(a: u64, (wide, flags): (F80, Flags), back: u64) {
    let expected = match () {
        _ if is_snan::<F>(a) => Flags::INVALID,
        _ if is_denormal::<F>(a) => Flags::INPUT_DENORMAL,
        _ => Flags::NONE,
    };
    assert_eq!(flags, expected, "{a:x}");
    assert!(!unsupported(wide) && !signalling(wide), "{a:x}");
    let quieted = if is_nan::<F>(a) {
        a | 1 << (F::FRAC - 1)
    } else {
        a
    };
    assert_eq!(back, quieted, "{a:x}");
}

#[test]
fn widening_is_exact() {
    repeat(1_000_000, |rng| {
        let (s, d) = (operand::<S>(rng), operand::<D>(rng));
        let m = random_mode(rng).0;
        let wide = f32_to_f80(s as u32);
        check_widening::<S>(s, wide, f80_to_f32(wide.0, m).0 as u64);
        let wide = f64_to_f80(d);
        check_widening::<D>(d, wide, f80_to_f64(wide.0, m).0);
    });
}
