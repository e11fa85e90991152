//! Worked examples, one for each sentence of the manuals that the architectures disagree about.

use softfloat::*;

const QNAN: u32 = 0x7fc0_0000;
const INF: u32 = 0x7f80_0000;
const ONE: u32 = 0x3f80_0000;
const MIN_NORMAL: u32 = 0x0080_0000;
const MAX: u32 = 0x7f7f_ffff;

#[track_caller]
fn check(ours: (u32, Flags), bits: u32, flags: u8) {
    assert!(
        ours == (bits, Flags(flags)),
        "{:#x} {:#x}, expected {bits:#x} {flags:#x}",
        ours.0,
        ours.1.0
    );
}

#[test]
fn nan_of_an_invalid_operation() {
    for (m, nan) in [
        (Mode::ARM, QNAN),
        (Mode::X86, 0xffc0_0000),
        (Mode::RISCV, QNAN),
    ] {
        check(f32_sub(INF, INF, m), nan, 1);
        check(f32_mul(INF, 0, m), nan, 1);
        check(f32_div(0x8000_0000, 0, m), nan, 1);
        check(f32_sqrt(0xbf80_0000, m), nan, 1);
    }
}

#[test]
fn nan_of_two_nans() {
    let (quiet, signalling) = (0xffc0_1111, 0x7f80_2222);
    check(f32_add(quiet, signalling, Mode::ARM), 0x7fc0_2222, 1);
    check(f32_add(quiet, signalling, Mode::X86), quiet, 1);
    check(f32_add(quiet, signalling, Mode::RISCV), QNAN, 1);
    check(f32_add(quiet, signalling, Mode::ARM_STANDARD), QNAN, 1);
    check(f32_add(ONE, quiet, Mode::ARM), quiet, 0);
    check(f32_add(ONE, quiet, Mode::ARM_STANDARD), QNAN, 0);
    // A64 FSUB does not change the sign of a NaN subtrahend.
    check(f32_sub(ONE, quiet, Mode::ARM), quiet, 0);
}

#[test]
fn nan_of_a_fused_operation() {
    let (a, b, c) = (0x7fc0_000a, 0x7fc0_000b, 0x7fc0_000c);
    check(f32_fma(a, b, c, Mode::ARM), c, 0);
    check(f32_fma(a, b, c, Mode::X86), a, 0);
    check(f32_fma(a, b, ONE, Mode::ARM), a, 0);
    // Infinity times zero, plus a NaN.
    check(f32_fma(INF, 0, c, Mode::ARM), QNAN, 1);
    check(f32_fma(INF, 0, c, Mode::X86), c, 0);
    check(f32_fma(INF, 0, c, Mode::RISCV), QNAN, 1);
    check(f32_fma(INF, 0, 0xff80_000c, Mode::ARM), 0xffc0_000c, 1);
}

#[test]
fn flushing() {
    let arm = Mode {
        flush_to_zero: true,
        ..Mode::ARM
    };
    let x86 = Mode {
        flush_to_zero: true,
        ..Mode::X86
    };
    let half = 0x3f00_0000;
    // A denormal input: Arm flushes it and raises IDC, x86 needs DAZ for that and reports DE.
    check(f32_add(0x8000_0001, 0, arm), 0, 128);
    check(f32_mul(0x8000_0001, ONE, arm), 0x8000_0000, 128);
    check(f32_add(1, MIN_NORMAL, x86), MIN_NORMAL + 1, 128);
    // A tiny result, exact or not: Arm raises UFC alone, x86 underflow and precision.
    check(f32_mul(MIN_NORMAL, half, arm), 0, 8);
    check(f32_sub(MIN_NORMAL, MIN_NORMAL + 1, arm), 0x8000_0000, 8);
    check(f32_mul(MIN_NORMAL, half, x86), 0, 8 | 16);
    // Half precision: no IDC, and conversions leave its denormals alone.
    assert_eq!(f16_add(0x0001, 0x0000, arm), (0, Flags::NONE));
    assert_eq!(f16_mul(0x0400, 0x3800, arm), (0, Flags::UNDERFLOW));
    check(f16_to_f32(0x0001, arm), 0x3380_0000, 0);
    assert_eq!(f32_to_f16(0x3380_0000, arm), (0x0001, Flags::NONE));
    // Whatever is flushed compares equal to zero.
    assert_eq!(
        f32_compare(1, 0x8000_0001, arm),
        (Relation::Equal, Flags::INPUT_DENORMAL)
    );
}

#[test]
fn tininess_of_a_product_that_rounds_up_to_the_smallest_normal() {
    // (1 - 2^-24) * 2^-126 is a tie that rounds to 2^-126. Rounded to 24 bits it is 1 - 2^-24 still: tiny for both.
    let below_one = 0x3f7f_ffff;
    check(
        f32_mul(MIN_NORMAL, below_one, Mode::ARM),
        MIN_NORMAL,
        8 | 16,
    );
    check(
        f32_mul(MIN_NORMAL, below_one, Mode::RISCV),
        MIN_NORMAL,
        8 | 16,
    );
    // (2 - 2^-22) * (1 + 2^-23) = 2 - 2^-45: rounded to 24 bits it is two, so at 2^-127 times that only Arm calls it tiny.
    let (a, b) = (0x3fff_fffe - (64 << 23), 0x3f80_0001 - (63 << 23));
    check(f32_mul(a, b, Mode::ARM), MIN_NORMAL, 8 | 16);
    check(f32_mul(a, b, Mode::RISCV), MIN_NORMAL, 16);
    check(
        f32_mul(
            a,
            b,
            Mode {
                flush_to_zero: true,
                ..Mode::ARM
            },
        ),
        0,
        8,
    );
}

#[test]
fn overflow_follows_the_rounding_direction() {
    let mode = |rounding| Mode {
        rounding,
        ..Mode::ARM
    };
    for (rounding, positive, negative) in [
        (Rounding::NearestEven, INF, INF),
        (Rounding::NearestAway, INF, INF),
        (Rounding::Up, INF, MAX),
        (Rounding::Down, MAX, INF),
        (Rounding::Zero, MAX, MAX),
        (Rounding::Odd, MAX, MAX),
    ] {
        check(f32_add(MAX, MAX, mode(rounding)), positive, 4 | 16);
        check(
            f32_sub(MAX | 1 << 31, MAX, mode(rounding)),
            negative | 1 << 31,
            4 | 16,
        );
    }
}

#[test]
fn minimum_of_a_number_and_a_nan() {
    let signalling = 0x7f80_0001;
    check(f32_min(ONE, QNAN, Mode::ARM), QNAN, 0);
    check(f32_minnum(ONE, QNAN, Mode::ARM), ONE, 0);
    check(f32_minnum(ONE, signalling, Mode::ARM), 0x7fc0_0001, 1);
    check(f32_min(ONE, QNAN, Mode::RISCV), ONE, 0);
    check(f32_min(ONE, signalling, Mode::RISCV), ONE, 1);
    check(f32_min(QNAN, ONE, Mode::X86), ONE, 1);
    check(f32_min(ONE, QNAN, Mode::X86), QNAN, 1);
    // The sign of zero: x86 returns the second operand.
    check(f32_min(0x8000_0000, 0, Mode::ARM), 0x8000_0000, 0);
    check(f32_min(0x8000_0000, 0, Mode::X86), 0, 0);
}

#[test]
fn integers_out_of_range() {
    let (large, minus_one) = (0x4f80_0000, 0xbf80_0000);
    let invalid = Flags::INVALID;
    for m in [Mode::ARM, Mode::RISCV] {
        assert_eq!(f32_to_i32(large, 0, m), (i32::MAX, invalid));
        assert_eq!(f32_to_u32(large, 0, m), (u32::MAX, invalid));
        assert_eq!(f32_to_u32(minus_one, 0, m), (0, invalid));
    }
    assert_eq!(f32_to_i32(large, 0, Mode::X86), (i32::MIN, invalid));
    assert_eq!(f32_to_u32(minus_one, 0, Mode::X86), (u32::MAX, invalid));
    assert_eq!(f32_to_i32(QNAN, 0, Mode::ARM), (0, invalid));
    assert_eq!(f32_to_i32(QNAN, 0, Mode::RISCV), (i32::MAX, invalid));
    assert_eq!(f32_to_i32(QNAN, 0, Mode::X86), (i32::MIN, invalid));
    // VCVT.S32.F32 with 16 bits of fraction.
    assert_eq!(
        f32_to_i32(0x3fc0_0000, 16, Mode::ARM),
        (0x18000, Flags::NONE)
    );
    assert_eq!(f32_to_i16(0x4700_0000, 0, Mode::ARM), (i16::MAX, invalid));
}

#[test]
fn bfloat16() {
    assert_eq!(
        f32_to_bf16(0x3f80_8000, Mode::ARM),
        (0x3f80, Flags::INEXACT)
    );
    assert_eq!(
        f32_to_bf16(0x3f81_8000, Mode::ARM),
        (0x3f82, Flags::INEXACT)
    );
    assert_eq!(
        f32_to_bf16(MAX, Mode::ARM),
        (0x7f80, Flags::OVERFLOW | Flags::INEXACT)
    );
    assert_eq!(
        f32_to_bf16(0x7f80_0001, Mode::ARM),
        (0x7fc0, Flags::INVALID)
    );
    check(bf16_to_f32(0x8001, Mode::RISCV), 0x8001_0000, 0);
}

#[test]
fn x87_precision_control_keeps_the_exponent_range() {
    let m = Mode::X86;
    let bits = |sign_exponent, significand| F80 {
        sign_exponent,
        significand,
    };
    let one = i64_to_f80(1);
    let third = |p| f80_div(one, i64_to_f80(3), p, m).0;
    assert_eq!(
        third(Precision::Extended),
        bits(0x3ffd, 0xaaaa_aaaa_aaaa_aaab)
    );
    assert_eq!(
        third(Precision::Double),
        bits(0x3ffd, 0xaaaa_aaaa_aaaa_a800)
    );
    assert_eq!(
        third(Precision::Single),
        bits(0x3ffd, 0xaaaa_ab00_0000_0000)
    );
    // 2^200 is beyond single precision but not beyond a register.
    let large = bits(0x3fff + 200, 1 << 63);
    assert_eq!(
        f80_mul(large, one, Precision::Single, m),
        (large, Flags::NONE)
    );
    // An unnormal is an invalid operand; of two NaNs the larger significand wins.
    assert_eq!(
        f80_add(bits(0x3fff, 1), one, Precision::Extended, m),
        (F80::INDEFINITE, Flags::INVALID)
    );
    let (small, big) = (
        bits(0xffff, 0xc000_0000_0000_0001),
        bits(0x7fff, 0xc000_0000_0000_0002),
    );
    assert_eq!(
        f80_add(small, big, Precision::Extended, m),
        (big, Flags::NONE)
    );
}
