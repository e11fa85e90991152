//! The operations by name, for each format.
//!
//! Every function takes raw encodings and a [`Mode`] and returns the result with the flags it raised. None is marked
//! `inline`: each is compiled once, here, where the development profile optimises.

use crate::arith::{add, div, fma, mul, mulx, sqrt, sub};
use crate::compare::{Extremum, Relation, compare, extremum};
use crate::convert::{convert, recip_exponent, round_to_int};
use crate::estimate::{
    Step, recip_estimate, rsqrt_estimate, step, step_fused, unsigned_recip, unsigned_rsqrt,
};
use crate::format::{Ahp, Bf16, F16, F32, F64};
use crate::integer::{Int, from_int, to_int, to_int_wrapping};
use crate::{Flags, Mode};

/// Names an operation on operands of one format: `name(operands) = expression;`, the result being raw bits.
macro_rules! operations {
    ($bits:ident; $($(#[$doc:meta])* $name:ident($($arg:ident),* $(; $flag:ident)?) = $call:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: $bits,)* $($flag: bool,)? m: Mode) -> ($bits, Flags) {
            let call = $call;
            let (bits, flags) = call($($arg as u64,)* $($flag,)? m);
            (bits as $bits, flags)
        }
    )*};
}

macro_rules! comparisons {
    ($bits:ident $format:ident; $quiet:ident $signalling:ident) => {
        /// Compares; only a signalling NaN is invalid (FCMP, UCOMISS, FEQ).
        pub fn $quiet(a: $bits, b: $bits, m: Mode) -> (Relation, Flags) {
            compare::<$format>(a as u64, b as u64, false, m)
        }

        /// Compares; any NaN is invalid (FCMPE, COMISS, FLT).
        pub fn $signalling(a: $bits, b: $bits, m: Mode) -> (Relation, Flags) {
            compare::<$format>(a as u64, b as u64, true, m)
        }
    };
}

/// Conversions of one format to and from one integer type.
macro_rules! integers {
    ($bits:ident $format:ident; $($to:ident $from:ident $int:ident $width:literal $signed:literal;)*) => {$(
        /// To an integer with `frac_bits` (at most the integer's width) bits after the point.
        pub fn $to(a: $bits, frac_bits: u32, m: Mode) -> ($int, Flags) {
            let (value, flags) = to_int::<$format>(a as u64, Int { width: $width, signed: $signed }, frac_bits, m);
            (value as $int, flags)
        }

        /// From an integer with `frac_bits` (at most the integer's width) bits after the point.
        pub fn $from(value: $int, frac_bits: u32, m: Mode) -> ($bits, Flags) {
            let (bits, flags) = from_int::<$format>(value as u64, $signed, frac_bits, m);
            (bits as $bits, flags)
        }
    )*};
}

macro_rules! conversions {
    ($($(#[$doc:meta])* $name:ident: $from:ident $source:ident => $to:ident $destination:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(a: $from, m: Mode) -> ($to, Flags) {
            let (bits, flags) = convert::<$source, $destination>(a as u64, m);
            (bits as $to, flags)
        }
    )*};
}

operations! { u16;
    f16_add(a, b) = add::<F16>;
    f16_sub(a, b) = sub::<F16>;
    f16_mul(a, b) = mul::<F16>;
    f16_div(a, b) = div::<F16>;
    f16_sqrt(a) = sqrt::<F16>;
    /// `a * b + c` with one rounding.
    f16_fma(a, b, c) = fma::<F16>;
    f16_min(a, b) = |a, b, m| extremum::<F16>(a, b, Extremum::Min, false, m);
    f16_max(a, b) = |a, b, m| extremum::<F16>(a, b, Extremum::Max, false, m);
    /// As `f16_min`, but a number wins over one quiet NaN.
    f16_minnum(a, b) = |a, b, m| extremum::<F16>(a, b, Extremum::Min, true, m);
    /// As `f16_max`, but a number wins over one quiet NaN.
    f16_maxnum(a, b) = |a, b, m| extremum::<F16>(a, b, Extremum::Max, true, m);
    /// To an integral value; `exact`: a changed value raises inexact.
    f16_round_to_int(a; exact) = round_to_int::<F16>;
    /// Arm FMULX: as `f16_mul`, but infinity times zero is 2.
    f16_mulx(a, b) = mulx::<F16>;
    /// Arm FRECPE, VRECPE: the reciprocal to 8 bits.
    f16_recip_estimate(a) = recip_estimate::<F16>;
    /// Arm FRSQRTE, VRSQRTE: the reciprocal square root to 8 bits.
    f16_rsqrt_estimate(a) = rsqrt_estimate::<F16>;
    /// A32 VRECPS: `2 - a * b`, the product rounded first.
    f16_recip_step(a, b) = |a, b, m| step::<F16>(a, b, Step::Recip, m);
    /// A32 VRSQRTS: `(3 - a * b) / 2`, the product rounded first.
    f16_rsqrt_step(a, b) = |a, b, m| step::<F16>(a, b, Step::Rsqrt, m);
    /// A64 FRECPS: `2 - a * b` with one rounding.
    f16_recip_step_fused(a, b) = |a, b, m| step_fused::<F16>(a, b, Step::Recip, m);
    /// A64 FRSQRTS: `(3 - a * b) / 2` with one rounding.
    f16_rsqrt_step_fused(a, b) = |a, b, m| step_fused::<F16>(a, b, Step::Rsqrt, m);
    /// Arm FRECPX.
    f16_recip_exponent(a) = recip_exponent::<F16>;
}
operations! { u32;
    f32_add(a, b) = add::<F32>;
    f32_sub(a, b) = sub::<F32>;
    f32_mul(a, b) = mul::<F32>;
    f32_div(a, b) = div::<F32>;
    f32_sqrt(a) = sqrt::<F32>;
    /// `a * b + c` with one rounding.
    f32_fma(a, b, c) = fma::<F32>;
    f32_min(a, b) = |a, b, m| extremum::<F32>(a, b, Extremum::Min, false, m);
    f32_max(a, b) = |a, b, m| extremum::<F32>(a, b, Extremum::Max, false, m);
    /// As `f32_min`, but a number wins over one quiet NaN.
    f32_minnum(a, b) = |a, b, m| extremum::<F32>(a, b, Extremum::Min, true, m);
    /// As `f32_max`, but a number wins over one quiet NaN.
    f32_maxnum(a, b) = |a, b, m| extremum::<F32>(a, b, Extremum::Max, true, m);
    /// To an integral value; `exact`: a changed value raises inexact.
    f32_round_to_int(a; exact) = round_to_int::<F32>;
    /// Arm FMULX: as `f32_mul`, but infinity times zero is 2.
    f32_mulx(a, b) = mulx::<F32>;
    /// Arm FRECPE, VRECPE: the reciprocal to 8 bits.
    f32_recip_estimate(a) = recip_estimate::<F32>;
    /// Arm FRSQRTE, VRSQRTE: the reciprocal square root to 8 bits.
    f32_rsqrt_estimate(a) = rsqrt_estimate::<F32>;
    /// A32 VRECPS: `2 - a * b`, the product rounded first.
    f32_recip_step(a, b) = |a, b, m| step::<F32>(a, b, Step::Recip, m);
    /// A32 VRSQRTS: `(3 - a * b) / 2`, the product rounded first.
    f32_rsqrt_step(a, b) = |a, b, m| step::<F32>(a, b, Step::Rsqrt, m);
    /// A64 FRECPS: `2 - a * b` with one rounding.
    f32_recip_step_fused(a, b) = |a, b, m| step_fused::<F32>(a, b, Step::Recip, m);
    /// A64 FRSQRTS: `(3 - a * b) / 2` with one rounding.
    f32_rsqrt_step_fused(a, b) = |a, b, m| step_fused::<F32>(a, b, Step::Rsqrt, m);
    /// Arm FRECPX.
    f32_recip_exponent(a) = recip_exponent::<F32>;
}
operations! { u64;
    f64_add(a, b) = add::<F64>;
    f64_sub(a, b) = sub::<F64>;
    f64_mul(a, b) = mul::<F64>;
    f64_div(a, b) = div::<F64>;
    f64_sqrt(a) = sqrt::<F64>;
    /// `a * b + c` with one rounding.
    f64_fma(a, b, c) = fma::<F64>;
    f64_min(a, b) = |a, b, m| extremum::<F64>(a, b, Extremum::Min, false, m);
    f64_max(a, b) = |a, b, m| extremum::<F64>(a, b, Extremum::Max, false, m);
    /// As `f64_min`, but a number wins over one quiet NaN.
    f64_minnum(a, b) = |a, b, m| extremum::<F64>(a, b, Extremum::Min, true, m);
    /// As `f64_max`, but a number wins over one quiet NaN.
    f64_maxnum(a, b) = |a, b, m| extremum::<F64>(a, b, Extremum::Max, true, m);
    /// To an integral value; `exact`: a changed value raises inexact.
    f64_round_to_int(a; exact) = round_to_int::<F64>;
    /// Arm FMULX: as `f64_mul`, but infinity times zero is 2.
    f64_mulx(a, b) = mulx::<F64>;
    /// Arm FRECPE, VRECPE: the reciprocal to 8 bits.
    f64_recip_estimate(a) = recip_estimate::<F64>;
    /// Arm FRSQRTE, VRSQRTE: the reciprocal square root to 8 bits.
    f64_rsqrt_estimate(a) = rsqrt_estimate::<F64>;
    /// A32 VRECPS: `2 - a * b`, the product rounded first.
    f64_recip_step(a, b) = |a, b, m| step::<F64>(a, b, Step::Recip, m);
    /// A32 VRSQRTS: `(3 - a * b) / 2`, the product rounded first.
    f64_rsqrt_step(a, b) = |a, b, m| step::<F64>(a, b, Step::Rsqrt, m);
    /// A64 FRECPS: `2 - a * b` with one rounding.
    f64_recip_step_fused(a, b) = |a, b, m| step_fused::<F64>(a, b, Step::Recip, m);
    /// A64 FRSQRTS: `(3 - a * b) / 2` with one rounding.
    f64_rsqrt_step_fused(a, b) = |a, b, m| step_fused::<F64>(a, b, Step::Rsqrt, m);
    /// Arm FRECPX.
    f64_recip_exponent(a) = recip_exponent::<F64>;
}

comparisons! { u16 F16; f16_compare f16_compare_signalling }
comparisons! { u32 F32; f32_compare f32_compare_signalling }
comparisons! { u64 F64; f64_compare f64_compare_signalling }

integers! { u16 F16;
    f16_to_i16 i16_to_f16 i16 16 true;
    f16_to_u16 u16_to_f16 u16 16 false;
    f16_to_i32 i32_to_f16 i32 32 true;
    f16_to_u32 u32_to_f16 u32 32 false;
    f16_to_i64 i64_to_f16 i64 64 true;
    f16_to_u64 u64_to_f16 u64 64 false;
}
integers! { u32 F32;
    f32_to_i16 i16_to_f32 i16 16 true;
    f32_to_u16 u16_to_f32 u16 16 false;
    f32_to_i32 i32_to_f32 i32 32 true;
    f32_to_u32 u32_to_f32 u32 32 false;
    f32_to_i64 i64_to_f32 i64 64 true;
    f32_to_u64 u64_to_f32 u64 64 false;
}
integers! { u64 F64;
    f64_to_i16 i16_to_f64 i16 16 true;
    f64_to_u16 u16_to_f64 u16 16 false;
    f64_to_i32 i32_to_f64 i32 32 true;
    f64_to_u32 u32_to_f64 u32 32 false;
    f64_to_i64 i64_to_f64 i64 64 true;
    f64_to_u64 u64_to_f64 u64 64 false;
}

conversions! {
    f32_to_f64: u32 F32 => u64 F64;
    f64_to_f32: u64 F64 => u32 F32;
    /// The bfloat16 in a `u16`.
    f32_to_bf16: u32 F32 => u16 Bf16;
    bf16_to_f32: u16 Bf16 => u32 F32;
}

/// Conversions of half precision, in the encoding that [`Mode::ahp`] selects.
macro_rules! half_conversions {
    ($($to_half:ident $from_half:ident $bits:ident $format:ident;)*) => {$(
        /// To half precision, in the encoding that [`Mode::ahp`] selects.
        pub fn $to_half(a: $bits, m: Mode) -> (u16, Flags) {
            let to = if m.ahp { convert::<$format, Ahp> } else { convert::<$format, F16> };
            let (bits, flags) = to(a as u64, m);
            (bits as u16, flags)
        }

        /// From half precision, in the encoding that [`Mode::ahp`] selects.
        pub fn $from_half(a: u16, m: Mode) -> ($bits, Flags) {
            let from = if m.ahp { convert::<Ahp, $format> } else { convert::<F16, $format> };
            let (bits, flags) = from(a as u64, m);
            (bits as $bits, flags)
        }
    )*};
}
half_conversions! {
    f32_to_f16 f16_to_f32 u32 F32;
    f64_to_f16 f16_to_f64 u64 F64;
}

/// Arm URECPE: the reciprocal of an unsigned fraction in [0.5, 1), to 8 bits, as a fraction of 2.
#[inline]
pub fn u32_recip_estimate(a: u32) -> u32 {
    unsigned_recip(a)
}

/// Arm URSQRTE: the reciprocal square root of an unsigned fraction in [0.25, 1), to 8 bits, as a fraction of 2.
#[inline]
pub fn u32_rsqrt_estimate(a: u32) -> u32 {
    unsigned_rsqrt(a)
}

/// Arm FJCVTZS: truncated and reduced modulo 2^32, as JavaScript converts; also whether the value is unchanged.
#[inline]
pub fn f64_to_i32_wrapping(a: u64, m: Mode) -> (i32, bool, Flags) {
    let (value, exact, flags) = to_int_wrapping::<F64>(a, m);
    (value as i32, exact, flags)
}

/// `MXCSR.DAZ`: a denormal single becomes the zero of its sign. To be applied to the operands of arithmetic under
/// [`crate::NanRule::X86`], whose [`Mode::flush_to_zero`] is about results only.
#[inline]
pub fn f32_denormal_as_zero(a: u32) -> u32 {
    if a & 0x7f80_0000 == 0 {
        a & 0x8000_0000
    } else {
        a
    }
}

/// `MXCSR.DAZ` for a double, as [`f32_denormal_as_zero`].
#[inline]
pub fn f64_denormal_as_zero(a: u64) -> u64 {
    if a & 0x7ff0_0000_0000_0000 == 0 {
        a & 1 << 63
    } else {
        a
    }
}
