//! Conversions between formats and to and from integers.

use rustc_apfloat::ieee::Quad;
use rustc_apfloat::{Float, Round};
use softfloat::*;

use crate::arithmetic::mode;
use crate::cases::{Rng, operand, repeat};
use crate::kinds::{B, D, Encoding, H, Kind, S};
use crate::reference::*;

/// What a conversion between two formats has to return, half precision being the IEEE one.
fn converted<F: Encoding, T: Encoding>(a: u64, m: Mode) -> (u64, Flags) {
    // A half-precision operand or result is never flushed, nor reported.
    let (seen, input_flags) = if F::EXP == 5 {
        (vec![a], Flags::NONE)
    } else {
        flush_inputs::<F>(&[a], m)
    };
    let sign_bit = if a & sign::<F>() != 0 { sign::<T>() } else { 0 };
    if is_nan::<F>(a) {
        let invalid = if is_snan::<F>(a) {
            Flags::INVALID
        } else {
            Flags::NONE
        };
        let payload = a & ((1 << F::FRAC) - 1);
        let moved = if T::FRAC > F::FRAC {
            payload << (T::FRAC - F::FRAC)
        } else {
            payload >> (F::FRAC - T::FRAC)
        };
        let kept = sign_bit | inf::<T>() | quiet::<T>() | moved;
        let replaced = m.default_nan || m.rule == NanRule::RiscV;
        return (if replaced { default_nan::<T>(m) } else { kept }, invalid);
    }
    if seen[0] & !sign::<F>() == inf::<F>() {
        return (sign_bit | inf::<T>(), Flags::NONE);
    }
    let exact = wide::<F>(seen[0]);
    let flush_to_zero = m.flush_to_zero && T::EXP != 5;
    let (bits, flags) = rounded::<T>(exact, Mode { flush_to_zero, ..m });
    (bits, flags | input_flags)
}

fn check_conversion<F: Encoding, T: Encoding>(
    rng: &mut Rng,
    a: u64,
    ours: impl Fn(u64, Mode) -> (u64, Flags),
) {
    let m = mode(rng);
    let (ours, expected) = (ours(a, m), converted::<F, T>(a, m));
    assert!(
        ours == expected,
        "{} to {} {a:x} {m:?}\n     ours {:x} {:x?}\n expected {:x} {:x?}",
        F::NAME,
        T::NAME,
        ours.0,
        ours.1,
        expected.0,
        expected.1,
    );
}

fn raw<T: Into<u64>>((bits, flags): (T, Flags)) -> (u64, Flags) {
    (bits.into(), flags)
}

#[test]
fn narrowing() {
    repeat(1_000_000, |rng| {
        let (s, d) = (
            narrowing_operand::<S, H>(rng),
            narrowing_operand::<D, S>(rng),
        );
        check_conversion::<D, S>(rng, d, |a, m| raw(f64_to_f32(a, m)));
        check_conversion::<S, H>(rng, s, |a, m| raw(f32_to_f16(a as u32, m)));
        let (s, d) = (
            narrowing_operand::<S, B>(rng),
            narrowing_operand::<D, H>(rng),
        );
        check_conversion::<D, H>(rng, d, |a, m| raw(f64_to_f16(a, m)));
        check_conversion::<S, B>(rng, s, |a, m| raw(f32_to_bf16(a as u32, m)));
    });
}

/// An operand that is half the time inside or near the range of the destination, and close to a tie.
fn narrowing_operand<F: Encoding, T: Encoding>(rng: &mut Rng) -> u64 {
    let a = operand::<F>(rng);
    if rng.below(2) == 0 {
        return a;
    }
    let destination = operand::<T>(rng);
    if destination & inf::<T>() == inf::<T>() {
        return a;
    }
    let widened = F::narrow(wide::<T>(destination), Round::TowardZero).to_bits() as u64;
    (widened ^ rng.below(2) << (F::FRAC - T::FRAC - 1)) + rng.below(3)
}

#[test]
fn widening() {
    repeat(1_000_000, |rng| {
        let s = operand::<S>(rng);
        check_conversion::<S, D>(rng, s, |a, m| raw(f32_to_f64(a as u32, m)));
    });
}

#[test]
fn widening_of_every_half() {
    repeat(4, |rng| {
        for a in 0..=0xffff {
            check_conversion::<H, S>(rng, a, |a, m| raw(f16_to_f32(a as u16, m)));
            check_conversion::<H, D>(rng, a, |a, m| raw(f16_to_f64(a as u16, m)));
            check_conversion::<B, S>(rng, a, |a, m| raw(bf16_to_f32(a as u16, m)));
        }
    });
}

/// The alternative half precision is IEEE half precision with one more binade, where IEEE has infinities and NaNs.
#[test]
fn alternative_half_precision() {
    repeat(500_000, |rng| {
        let m = Mode {
            ahp: true,
            rule: NanRule::Arm,
            tininess_before: true,
            ..mode(rng)
        };
        let a = operand::<S>(rng) as u32;
        let a = if rng.below(2) == 0 {
            a & 0x83ff_ffff | 0x4400_0000
        } else {
            a
        };
        let (ours, flags) = f32_to_f16(a, m);
        let sign = (a >> 16) as u16 & 0x8000;
        match a & 0x7fff_ffff {
            // NaN: a zero of its sign. Infinity, or too large: the largest number. All of them invalid.
            0x7f80_0001.. => assert_eq!((ours, flags), (sign, Flags::INVALID), "{a:x} {m:?}"),
            0x7f80_0000 => assert_eq!(
                (ours, flags),
                (sign | 0x7fff, Flags::INVALID),
                "{a:x} {m:?}"
            ),
            0x4800_0000.. => assert_eq!(
                (ours, flags),
                (sign | 0x7fff, Flags::INVALID),
                "{a:x} {m:?}"
            ),
            // From 2^15: half the value in IEEE, one binade up.
            0x4700_0000.. => {
                let (half, half_flags) = f32_to_f16(a - 0x0080_0000, Mode { ahp: false, ..m });
                let expected = if half & 0x7fff == 0x7c00 {
                    (sign | 0x7fff, Flags::INVALID)
                } else {
                    (half + 0x400, half_flags)
                };
                assert_eq!((ours, flags), expected, "{a:x} {m:?}");
            }
            _ => assert_eq!(
                (ours, flags),
                f32_to_f16(a, Mode { ahp: false, ..m }),
                "{a:x} {m:?}"
            ),
        }
        let back = f16_to_f32(ours, m);
        if flags.is_empty() {
            assert_eq!(back.0, a, "{ours:x}");
        }
    });
}

/// What a conversion to an integer has to return.
fn integer<K: Kind>(a: u64, width: u32, signed: bool, frac_bits: u32, m: Mode) -> (u64, Flags) {
    let (seen, mut flags) = flush_inputs::<K>(&[a], m);
    if m.rule == NanRule::X86 {
        flags = Flags::NONE;
    }
    let (min, max): (i128, i128) = if signed {
        (-1 << (width - 1), (1 << (width - 1)) - 1)
    } else {
        (0, (1 << width) - 1)
    };
    let indefinite = if signed { min } else { max };
    if is_nan::<K>(a) {
        let value = match m.rule {
            NanRule::Arm => 0,
            NanRule::X86 => indefinite,
            NanRule::RiscV => max,
        };
        return (value as u64, Flags::INVALID);
    }
    let scaled = wide::<K>(seen[0]).scalbn(frac_bits as i32);
    let truncated = scaled.round_to_integral(Round::TowardZero).value;
    let mut whole = scaled.round_to_integral(round(m.rounding)).value;
    let inexact = truncated != scaled;
    if m.rounding == Rounding::Odd && inexact {
        whole = odd(truncated, scaled.is_negative());
    }
    let value = whole.to_i128_r(127, Round::TowardZero, &mut false).value;
    if value < min || value > max {
        let value = if m.rule == NanRule::X86 {
            indefinite
        } else {
            value.clamp(min, max)
        };
        return (value as u64, flags | Flags::INVALID);
    }
    (
        value as u64,
        flags | if inexact { Flags::INEXACT } else { Flags::NONE },
    )
}

/// The odd one of a truncated value and its neighbour away from zero.
fn odd(truncated: Quad, negative: bool) -> Quad {
    let even = truncated
        .scalbn(-1)
        .round_to_integral(Round::TowardZero)
        .value
        .scalbn(1)
        == truncated;
    let away = Quad::from_i128(if negative { -1 } else { 1 }).value;
    if even {
        truncated.add_r(away, Round::TowardZero).value
    } else {
        truncated
    }
}

/// An operand whose magnitude is often near the limits of the integer types or near a small integer.
fn integer_operand<K: Kind>(rng: &mut Rng, frac_bits: u32) -> u64 {
    let a = operand::<K>(rng);
    let bias = (1 << (K::EXP - 1)) - 1;
    let exp = match rng.below(3) {
        0 => [15, 16, 31, 32, 63, 64][rng.below(6) as usize] - rng.below(2) as i64,
        1 => rng.below(8) as i64 - 4,
        _ => return a,
    };
    let field = (exp - frac_bits as i64 + bias).clamp(0, 2 * bias) as u64;
    a & !inf::<K>() | field << K::FRAC
}

fn int_type(rng: &mut Rng) -> (u32, bool, u32) {
    let width = [16, 32, 64][rng.below(3) as usize];
    let frac_bits = if rng.below(2) == 0 {
        0
    } else {
        rng.below(width as u64 + 1) as u32
    };
    (width, rng.below(2) == 0, frac_bits)
}

fn check_to_int<K: Kind>(rng: &mut Rng) {
    let (width, signed, frac_bits) = int_type(rng);
    let (a, m) = (integer_operand::<K>(rng, frac_bits), mode(rng));
    let ours = K::to_int(a, width, signed, frac_bits, m);
    let expected = integer::<K>(a, width, signed, frac_bits, m);
    assert!(
        ours == expected,
        "{} {a:x} to {width} bits, signed {signed}, {frac_bits} of fraction, {m:?}\n ours {ours:x?}\n expected {expected:x?}",
        K::NAME,
    );
}

#[test]
fn to_integers() {
    repeat(350_000, |rng| {
        check_to_int::<H>(rng);
        check_to_int::<S>(rng);
        check_to_int::<D>(rng);
    });
}

fn check_from_int<K: Kind>(rng: &mut Rng) {
    let ((width, signed, frac_bits), m) = (int_type(rng), mode(rng));
    let value = operand::<D>(rng) >> rng.below(64);
    let value = if rng.below(2) == 0 {
        value.wrapping_neg()
    } else {
        value
    };
    let number = match (width, signed) {
        (16, true) => value as i16 as i128,
        (16, _) => value as u16 as i128,
        (32, true) => value as i32 as i128,
        (32, _) => value as u32 as i128,
        (_, true) => value as i64 as i128,
        (_, _) => value as i128,
    };
    let exact = Quad::from_i128(number).value.scalbn(-(frac_bits as i32));
    let ours = K::from_int(value, width, signed, frac_bits, m);
    let expected = rounded::<K>(exact, m);
    assert!(
        ours == expected,
        "{} from {number}, {frac_bits} of fraction, {m:?}: {ours:x?} {expected:x?}",
        K::NAME
    );
}

#[test]
fn from_integers() {
    repeat(350_000, |rng| {
        check_from_int::<H>(rng);
        check_from_int::<S>(rng);
        check_from_int::<D>(rng);
    });
}

fn check_round_to_int<K: Kind>(rng: &mut Rng) {
    let (a, m, exact) = (integer_operand::<K>(rng, 0), mode(rng), rng.below(2) == 0);
    let (seen, input_flags) = flush_inputs::<K>(&[a], m);
    let input_flags = if m.rule == NanRule::X86 {
        Flags::NONE
    } else {
        input_flags
    };
    let expected = if is_nan::<K>(a) {
        nan_result::<K>(crate::kinds::Op::Sqrt, &[a], m)
    } else {
        let value = wide::<K>(seen[0]);
        let truncated = value.round_to_integral(Round::TowardZero).value;
        let mut whole = value.round_to_integral(round(m.rounding)).value;
        let inexact = truncated != value;
        if inexact && m.rounding == Rounding::Odd {
            whole = odd(truncated, value.is_negative());
        }
        let bits =
            K::narrow(whole, Round::TowardZero).to_bits() as u64 & !sign::<K>() | a & sign::<K>();
        (
            bits,
            input_flags
                | if inexact && exact {
                    Flags::INEXACT
                } else {
                    Flags::NONE
                },
        )
    };
    assert_eq!(
        K::round_to_int(a, exact, m),
        expected,
        "{} {a:x} {m:?}",
        K::NAME
    );
}

#[test]
fn round_to_integral() {
    repeat(350_000, |rng| {
        check_round_to_int::<H>(rng);
        check_round_to_int::<S>(rng);
        check_round_to_int::<D>(rng);
    });
}
