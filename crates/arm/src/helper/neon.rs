//! Advanced SIMD operations too rare for an IR operation.

use super::{Bytes, lane, set_lane, set_words, sign_extend, words};
use crate::state::{FPSCR_CONTROL, FPSCR_FZ16, FPSCR_QC};
use ir::state::FP_FLAGS;
use ir::{FpMode, State};
use softfloat::{Flags, Mode, Rounding};

fn raise(state: &mut State, flags: Flags) {
    let all = state.u32_at(FP_FLAGS) | flags.0 as u32;
    state.set_u32(FP_FLAGS, all);
}

fn set_qc(state: &mut State) {
    state.set_u32(FPSCR_QC, 1);
}

// ---- conversions; the third operand's first byte is an FpMode --------------------------------------------------------

pub extern "C" fn cvt_bf16(state: &mut State, out: &mut Bytes, a: &Bytes, _: &Bytes, mode: &Bytes) {
    let (r, flags) = softfloat::f32_to_bf16(words(a)[0], FpMode(mode[0]).unpack());
    raise(state, flags);
    set_words(out, [r as u32, 0, 0, 0]);
}

/// Word 0: the result; word 1: 0 if nothing was lost.
pub extern "C" fn jcvt(state: &mut State, out: &mut Bytes, a: &Bytes, _: &Bytes, mode: &Bytes) {
    let (r, exact, flags) = softfloat::f64_to_i32_wrapping(lane(a, 3, 0), FpMode(mode[0]).unpack());
    raise(state, flags);
    set_words(out, [r as u32, !exact as u32, 0, 0]);
}

/// Four halves to four singles.
pub extern "C" fn cvt_f16_f32(state: &mut State, out: &mut Bytes, a: &Bytes, _: &Bytes, mode: &Bytes) {
    let mode = FpMode(mode[0]).unpack();
    for i in 0..4 {
        let (r, flags) = softfloat::f16_to_f32(lane(a, 1, i) as u16, mode);
        raise(state, flags);
        set_lane(out, 2, i, r as u64);
    }
}

/// Four singles to four halves (byte 1 of the mode: 1 for BFloat16).
pub extern "C" fn cvt_f32_f16(state: &mut State, out: &mut Bytes, a: &Bytes, _: &Bytes, param: &Bytes) {
    let mode = FpMode(param[0]).unpack();
    *out = [0; 16];
    for (i, w) in words(a).into_iter().enumerate() {
        let (r, flags) = if param[1] != 0 { softfloat::f32_to_bf16(w, mode) } else { softfloat::f32_to_f16(w, mode) };
        raise(state, flags);
        set_lane(out, 1, i, r as u64);
    }
}

// ---- integers --------------------------------------------------------------------------------------------------------

fn map(out: &mut Bytes, a: &Bytes, log2: u8, f: impl Fn(u64) -> u64) {
    for i in 0..16 >> log2 {
        set_lane(out, log2, i, f(lane(a, log2, i)));
    }
}

/// Leading sign bits after the first; lanes of `8 << param[0]` bits.
pub extern "C" fn cls(out: &mut Bytes, a: &Bytes, _: &Bytes, param: &Bytes) {
    let log2 = param[0];
    let bits = 8u32 << log2;
    map(out, a, log2, |x| {
        let s = sign_extend(x, log2);
        ((s ^ s >> 63).leading_zeros() - (64 - bits) - 1) as u64
    });
}

/// Leading zeros; lanes of `8 << param[0]` bits.
pub extern "C" fn clz(out: &mut Bytes, a: &Bytes, _: &Bytes, param: &Bytes) {
    let log2 = param[0];
    map(out, a, log2, |x| (x.leading_zeros() - (64 - (8 << log2))) as u64);
}

/// VQSHL, VQRSHL (register): lanes of `8 << param[0]` bits; param[1]: unsigned, param[2]: rounding.
pub extern "C" fn qshl(state: &mut State, out: &mut Bytes, a: &Bytes, b: &Bytes, param: &Bytes) {
    let log2 = param[0];
    let (unsigned, round) = (param[1] != 0, param[2] != 0);
    let bits = 8u32 << log2;
    let (min, max) = if unsigned { (0, (1i128 << bits) - 1) } else { (-1i128 << (bits - 1), (1i128 << (bits - 1)) - 1) };
    for i in 0..16 >> log2 {
        let x = lane(a, log2, i);
        let x = if unsigned { x as i128 } else { sign_extend(x, log2) as i128 };
        let by = lane(b, log2, i) as i8 as i32;
        let shifted = if by < 0 {
            // From 65 on the result is that of 65.
            let n = (-by).min(65);
            (x + if round { 1 << (n - 1) } else { 0 }) >> n
        } else if by >= bits as i32 && x != 0 {
            if x > 0 { max + 1 } else { min - 1 }
        } else if x == 0 {
            0
        } else {
            // At most 64 + 63 bits.
            x.checked_shl(by as u32).filter(|r| r >> by == x).unwrap_or(if x > 0 { max + 1 } else { min - 1 })
        };
        if shifted < min || shifted > max {
            set_qc(state);
        }
        set_lane(out, log2, i, shifted.clamp(min, max) as u64);
    }
}

/// VQRDMLAH, VQRDMLSH: acc plus or minus twice the product, rounded, high half.
fn qrdml(state: &mut State, out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes, log2: u8, subtract: bool) {
    let bits = 8u32 << log2;
    let max = (1i128 << (bits - 1)) - 1;
    for i in 0..16 >> log2 {
        let s = |v: &Bytes| sign_extend(lane(v, log2, i), log2) as i128;
        let product = 2 * s(a) * s(b);
        let sum = (s(acc) << bits) + if subtract { -product } else { product } + (1 << (bits - 1));
        let r = sum >> bits;
        if r > max || r < -max - 1 {
            set_qc(state);
        }
        set_lane(out, log2, i, r.clamp(-max - 1, max) as u64);
    }
}

pub extern "C" fn qrdmlah_16(state: &mut State, out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    qrdml(state, out, acc, a, b, 1, false);
}

pub extern "C" fn qrdmlah_32(state: &mut State, out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    qrdml(state, out, acc, a, b, 2, false);
}

pub extern "C" fn qrdmlsh_16(state: &mut State, out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    qrdml(state, out, acc, a, b, 1, true);
}

pub extern "C" fn qrdmlsh_32(state: &mut State, out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    qrdml(state, out, acc, a, b, 2, true);
}

pub extern "C" fn recpe_u32(out: &mut Bytes, a: &Bytes, _: &Bytes, _: &Bytes) {
    set_words(out, words(a).map(softfloat::u32_recip_estimate));
}

pub extern "C" fn rsqrte_u32(out: &mut Bytes, a: &Bytes, _: &Bytes, _: &Bytes) {
    set_words(out, words(a).map(softfloat::u32_rsqrt_estimate));
}

// ---- polynomials over {0, 1} -----------------------------------------------------------------------------------------

/// Four bits of `b` at a time.
fn carryless(a: u64, b: u64) -> u128 {
    let mut multiples = [0u128; 16];
    multiples[1] = a as u128;
    for i in 1..8 {
        multiples[2 * i] = multiples[i] << 1;
        multiples[2 * i + 1] = multiples[2 * i] ^ a as u128;
    }
    let digits = (64 - b.leading_zeros()).div_ceil(4);
    (0..digits).rev().fold(0, |acc, i| acc << 4 ^ multiples[(b >> (4 * i)) as usize & 15])
}

pub extern "C" fn pmul_8(out: &mut Bytes, a: &Bytes, b: &Bytes, _: &Bytes) {
    for i in 0..16 {
        out[i] = carryless(a[i] as u64, b[i] as u64) as u8;
    }
}

pub extern "C" fn pmull_8(out: &mut Bytes, a: &Bytes, b: &Bytes, _: &Bytes) {
    for i in 0..8 {
        set_lane(out, 1, i, carryless(a[i] as u64, b[i] as u64) as u64);
    }
}

pub extern "C" fn pmull_64(out: &mut Bytes, a: &Bytes, b: &Bytes, _: &Bytes) {
    *out = carryless(lane(a, 3, 0), lane(b, 3, 0)).to_le_bytes();
}

// ---- dot products ----------------------------------------------------------------------------------------------------

type Extend = fn(u8) -> i32;

fn signed(x: u8) -> i32 {
    x as i8 as i32
}

fn unsigned(x: u8) -> i32 {
    x as i32
}

fn dot(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes, extend: (Extend, Extend)) {
    for (i, old) in words(acc).into_iter().enumerate() {
        let sum: i32 = (4 * i..4 * i + 4).map(|k| extend.0(a[k]) * extend.1(b[k])).sum();
        set_lane(out, 2, i, old.wrapping_add(sum as u32) as u64);
    }
}

pub extern "C" fn sdot(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    dot(out, acc, a, b, (signed, signed));
}

pub extern "C" fn udot(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    dot(out, acc, a, b, (unsigned, unsigned));
}

pub extern "C" fn usdot(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    dot(out, acc, a, b, (unsigned, signed));
}

/// Two rows of eight bytes times two columns of eight bytes.
fn matrix(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes, extend: (Extend, Extend)) {
    for (i, old) in words(acc).into_iter().enumerate() {
        let (row, column) = (8 * (i / 2), 8 * (i % 2));
        let sum: i32 = (0..8).map(|k| extend.0(a[row + k]) * extend.1(b[column + k])).sum();
        set_lane(out, 2, i, old.wrapping_add(sum as u32) as u64);
    }
}

pub extern "C" fn smmla(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    matrix(out, acc, a, b, (signed, signed));
}

pub extern "C" fn ummla(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    matrix(out, acc, a, b, (unsigned, unsigned));
}

pub extern "C" fn usmmla(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    matrix(out, acc, a, b, (unsigned, signed));
}

// ---- widening floating point -----------------------------------------------------------------------------------------

/// A half as a single: exact; FPSCR.FZ16 flushes denormals, silently.
fn widen_half(h: u16, fz16: bool) -> u32 {
    let sign = (h as u32 & 0x8000) << 16;
    let (exp, frac) = (h as u32 >> 10 & 31, h as u32 & 0x3ff);
    match (exp, frac) {
        (0, _) if frac == 0 || fz16 => sign,
        (0, _) => {
            let up = frac.leading_zeros() - 21;
            sign | (113 - up) << 23 | (frac << up & 0x3ff) << 13
        }
        (31, _) => sign | 0x7f80_0000 | frac << 13,
        _ => sign | (exp + 112) << 23 | frac << 13,
    }
}

/// VFMAL, VFMSL: four singles plus products of four halves, one rounding.
pub extern "C" fn fmal(state: &mut State, out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    let fz16 = state.u32_at(FPSCR_CONTROL) & FPSCR_FZ16 != 0;
    for (i, old) in words(acc).into_iter().enumerate() {
        let (x, y) = (widen_half(lane(a, 1, i) as u16, fz16), widen_half(lane(b, 1, i) as u16, fz16));
        let (r, flags) = softfloat::f32_fma(x, y, old, Mode::ARM_STANDARD);
        raise(state, flags);
        set_lane(out, 2, i, r as u64);
    }
}

/// The mode of BFloat16 dot products: to odd, denormals flushed, no exceptions.
const BF_DOT: Mode = Mode { rounding: Rounding::Odd, ..Mode::ARM_STANDARD };

fn bf_dot(acc: u32, a: [u16; 2], b: [u16; 2]) -> u32 {
    let wide = |h: u16| (h as u32) << 16;
    // Unlike other uses of this rounding, overflow gives infinity.
    let finish = |(r, flags): (u32, Flags)| if flags.contains(Flags::OVERFLOW) { r & 0x8000_0000 | 0x7f80_0000 } else { r };
    let product = |i: usize| finish(softfloat::f32_mul(wide(a[i]), wide(b[i]), BF_DOT));
    let sum = finish(softfloat::f32_add(product(0), product(1), BF_DOT));
    finish(softfloat::f32_add(acc, sum, BF_DOT))
}

fn pair(v: &Bytes, i: usize) -> [u16; 2] {
    [lane(v, 1, 2 * i) as u16, lane(v, 1, 2 * i + 1) as u16]
}

pub extern "C" fn bfdot(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    for (i, old) in words(acc).into_iter().enumerate() {
        set_lane(out, 2, i, bf_dot(old, pair(a, i), pair(b, i)) as u64);
    }
}

pub extern "C" fn bfmmla(out: &mut Bytes, acc: &Bytes, a: &Bytes, b: &Bytes) {
    for (i, old) in words(acc).into_iter().enumerate() {
        let (row, column) = (2 * (i / 2), 2 * (i % 2));
        let first = bf_dot(old, pair(a, row), pair(b, column));
        set_lane(out, 2, i, bf_dot(first, pair(a, row + 1), pair(b, column + 1)) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widened_halves_are_exact() {
        for h in 0..=u16::MAX {
            if h & 0x7fff > 0x7c00 {
                continue;
            }
            assert_eq!(widen_half(h, false), softfloat::f16_to_f32(h, Mode::ARM).0, "{h:#x}");
        }
        assert_eq!(widen_half(0x8001, true), 0x8000_0000);
    }

    #[test]
    fn polynomials_multiply_without_carry() {
        assert_eq!(carryless(0xff, 0xff), 0x5555);
        assert_eq!(carryless(1 << 63, 1 << 63), 1 << 126);
    }
}
