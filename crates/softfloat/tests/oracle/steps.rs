//! Arm's Newton-Raphson steps and FMULX, from their definitions in terms of other operations.

use softfloat::*;

use crate::arithmetic::mode;
use crate::cases::{Rng, operand, partner, repeat};
use crate::kinds::{D, S};
use crate::reference::*;

const TWO_F32: u32 = 0x4000_0000;
const THREE_F64: u64 = 0x4008_0000_0000_0000;
const HALF_F64: u64 = 0x3fe0_0000_0000_0000;

fn arm_mode(rng: &mut Rng) -> Mode {
    Mode {
        rule: NanRule::Arm,
        tininess_before: true,
        ..mode(rng)
    }
}

/// Operands whose product is often near 2 or 3, where the steps are used.
fn single_pair(rng: &mut Rng) -> (u32, u32) {
    let a = operand::<S>(rng);
    let b = if rng.below(2) == 0 {
        partner::<S>(rng, a)
    } else {
        f32_div(TWO_F32, a as u32, Mode::ARM).0 as u64
    };
    (a as u32, (b + rng.below(3)) as u32)
}

fn invalid_product(a: u32, b: u32, m: Mode) -> bool {
    let (seen, _) = flush_inputs::<S>(&[a as u64, b as u64], m);
    let mut magnitudes = [seen[0] & 0x7fff_ffff, seen[1] & 0x7fff_ffff];
    magnitudes.sort();
    magnitudes == [0, 0x7f80_0000]
}

#[test]
fn reciprocal_step_is_two_minus_the_product() {
    repeat(1_000_000, |rng| {
        let (m, (a, b)) = (arm_mode(rng), single_pair(rng));
        let input_flags = flush_inputs::<S>(&[a as u64, b as u64], m).1;
        if invalid_product(a, b, m) {
            assert_eq!(
                f32_recip_step(a, b, m),
                (TWO_F32, input_flags),
                "{a:x} {b:x} {m:?}"
            );
            assert_eq!(
                f32_recip_step_fused(a, b, m),
                (TWO_F32, input_flags),
                "{a:x} {b:x} {m:?}"
            );
            let sign = (a ^ b) & 0x8000_0000;
            return assert_eq!(
                f32_mulx(a, b, m),
                (sign | TWO_F32, input_flags),
                "{a:x} {b:x} {m:?}"
            );
        }
        let (product, product_flags) = f32_mul(a, b, m);
        assert_eq!(f32_mulx(a, b, m), (product, product_flags));
        let (difference, flags) = f32_sub(TWO_F32, product, m);
        assert_eq!(
            f32_recip_step(a, b, m),
            (difference, product_flags | flags),
            "{a:x} {b:x} {m:?}"
        );
        assert_eq!(
            f32_recip_step_fused(a, b, m),
            f32_fma(a ^ 0x8000_0000, b, TWO_F32, m),
            "{a:x} {b:x} {m:?}"
        );
    });
}

/// In double precision the difference, rounded to odd, keeps enough bits for the only rounding that matters, and
/// halving it is exact.
#[test]
fn fused_root_step_rounds_once() {
    repeat(1_000_000, |rng| {
        let (m, (a, b)) = (arm_mode(rng), single_pair(rng));
        let (seen, input_flags) = flush_inputs::<S>(&[a as u64, b as u64], m);
        if is_nan::<S>(a as u64) || is_nan::<S>(b as u64) {
            let expected = f32_recip_step_fused(a, b, m);
            return assert_eq!(f32_rsqrt_step_fused(a, b, m), expected, "{a:x} {b:x} {m:?}");
        }
        if invalid_product(a, b, m) {
            return assert_eq!(
                f32_rsqrt_step_fused(a, b, m),
                (0x3fc0_0000, input_flags),
                "{a:x} {b:x} {m:?}"
            );
        }
        let [x, y] = [0, 1].map(|i| f32_to_f64(seen[i] as u32, Mode::ARM).0);
        let odd = Mode {
            rounding: Rounding::Odd,
            ..Mode::ARM
        };
        let (difference, _) = f64_fma(x ^ sign::<D>(), y, THREE_F64, odd);
        let (half, _) = f64_mul(difference, HALF_F64, odd);
        let (mut expected, flags) = f64_to_f32(half, m);
        if expected == 0 && m.rounding == Rounding::Down {
            expected = 0x8000_0000;
        }
        assert_eq!(
            f32_rsqrt_step_fused(a, b, m),
            (expected, flags | input_flags),
            "{a:x} {b:x} {m:?}"
        );
    });
}
