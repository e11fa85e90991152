//! The host's own arithmetic, a second oracle for the default rounding (results only; NaNs have no promised bits).

use softfloat::*;

use crate::cases::{operand, partner, repeat};
use crate::kinds::{D, S};

fn check_single(what: [u32; 3], ours: (u32, Flags), host: f32) {
    let same = if host.is_nan() {
        f32::from_bits(ours.0).is_nan()
    } else {
        ours.0 == host.to_bits()
    };
    assert!(
        same,
        "{what:x?}: ours {:x}, host {:x}",
        ours.0,
        host.to_bits()
    );
}

fn check_double(what: [u64; 3], ours: (u64, Flags), host: f64) {
    let same = if host.is_nan() {
        f64::from_bits(ours.0).is_nan()
    } else {
        ours.0 == host.to_bits()
    };
    assert!(
        same,
        "{what:x?}: ours {:x}, host {:x}",
        ours.0,
        host.to_bits()
    );
}

#[test]
fn single_agrees_with_the_host() {
    repeat(1_000_000, |rng| {
        let a = operand::<S>(rng);
        let [a, b, c] = [
            a as u32,
            partner::<S>(rng, a) as u32,
            partner::<S>(rng, a) as u32,
        ];
        let [x, y, z] = [a, b, c].map(f32::from_bits);
        let (m, what) = (Mode::X86, [a, b, c]);
        check_single(what, f32_add(a, b, m), x + y);
        check_single(what, f32_sub(a, b, m), x - y);
        check_single(what, f32_mul(a, b, m), x * y);
        check_single(what, f32_div(a, b, m), x / y);
        check_single(what, f32_sqrt(a, m), x.sqrt());
        check_single(what, f32_fma(a, b, c, m), x.mul_add(y, z));
        check_double([a, b, c].map(u64::from), f32_to_f64(a, m), x as f64);
    });
}

#[test]
fn double_agrees_with_the_host() {
    repeat(1_000_000, |rng| {
        let a = operand::<D>(rng);
        let [a, b, c] = [a, partner::<D>(rng, a), partner::<D>(rng, a)];
        let [x, y, z] = [a, b, c].map(f64::from_bits);
        let (m, what) = (Mode::X86, [a, b, c]);
        check_double(what, f64_add(a, b, m), x + y);
        check_double(what, f64_sub(a, b, m), x - y);
        check_double(what, f64_mul(a, b, m), x * y);
        check_double(what, f64_div(a, b, m), x / y);
        check_double(what, f64_sqrt(a, m), x.sqrt());
        check_double(what, f64_fma(a, b, c, m), x.mul_add(y, z));
        check_single(
            [a, b, c].map(|bits| bits as u32),
            f64_to_f32(a, m),
            x as f32,
        );
    });
}
