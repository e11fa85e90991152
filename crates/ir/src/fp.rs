//! Floating-point operations of the IR, exactly, through `softfloat`: what the interpreter executes and what translated
//! code calls when its fast path does not apply.

use crate::ops::Op;
use crate::region::{FpFmt, FpMode, Inst, flag};
use softfloat::{Flags, Mode, NanRule, Relation, Rounding};

impl FpMode {
    pub const ARM: FpMode = FpMode(0);
    /// What A32 Advanced SIMD uses: flush to zero, default NaN, round to nearest.
    pub const ARM_STANDARD: FpMode = FpMode(1 << 3 | 1 << 4);

    pub const fn with_rounding(self, rounding: Rounding) -> FpMode {
        FpMode(self.0 & !7 | rounding as u8)
    }

    /// The full mode. Only Arm detects tininess before rounding.
    pub const fn unpack(self) -> Mode {
        let mut m = Mode::unpack(self.0 as u16);
        m.tininess_before = matches!(m.rule, NanRule::Arm);
        m
    }

    pub const fn rounding(self) -> u8 {
        self.0 & 7
    }

    pub const fn flush_to_zero(self) -> bool {
        self.0 & 8 != 0
    }

    pub const fn default_nan(self) -> bool {
        self.0 & 16 != 0
    }
}

type Result1 = (u64, Flags);

/// Dispatches one function name over the three formats.
macro_rules! by_format {
    ($log2:expr, $m:expr, $f16:ident $f32:ident $f64:ident ($($arg:expr),*)) => {
        match $log2 {
            1 => { let (r, f) = softfloat::$f16($($arg as u16,)* $m); (r as u64, f) }
            2 => { let (r, f) = softfloat::$f32($($arg as u32,)* $m); (r as u64, f) }
            _ => { let (r, f) = softfloat::$f64($($arg,)* $m); (r, f) }
        }
    };
}

/// Element-wise operations with element results.
fn element(i: &Inst, a: u64, b: u64, c: u64, m: Mode) -> Option<Result1> {
    let l = FpFmt(i.aux).log2();
    Some(match i.op {
        Op::FpAdd => by_format!(l, m, f16_add f32_add f64_add(a, b)),
        Op::FpSub => by_format!(l, m, f16_sub f32_sub f64_sub(a, b)),
        Op::FpMul => by_format!(l, m, f16_mul f32_mul f64_mul(a, b)),
        Op::FpDiv => by_format!(l, m, f16_div f32_div f64_div(a, b)),
        Op::FpSqrt => by_format!(l, m, f16_sqrt f32_sqrt f64_sqrt(a)),
        Op::FpFma => by_format!(l, m, f16_fma f32_fma f64_fma(a, b, c)),
        Op::FpMin => by_format!(l, m, f16_min f32_min f64_min(a, b)),
        Op::FpMax => by_format!(l, m, f16_max f32_max f64_max(a, b)),
        Op::FpMinNum => by_format!(l, m, f16_minnum f32_minnum f64_minnum(a, b)),
        Op::FpMaxNum => by_format!(l, m, f16_maxnum f32_maxnum f64_maxnum(a, b)),
        Op::FpNeg => (a ^ sign(l), Flags::NONE),
        Op::FpAbs => (a & !sign(l), Flags::NONE),
        Op::FpRint => round(l, a, i.b != 0, m),
        Op::FpToInt => to_int(l, a, i.b, m),
        Op::FpFromInt => from_int(l, a, i.b, m),
        Op::FpCmpMask => compare_mask(l, a, b, i.c, m),
        Op::FpRecipEst => by_format!(l, m, f16_recip_estimate f32_recip_estimate f64_recip_estimate(a)),
        Op::FpRsqrtEst => by_format!(l, m, f16_rsqrt_estimate f32_rsqrt_estimate f64_rsqrt_estimate(a)),
        Op::FpRecipStep => by_format!(l, m, f16_recip_step f32_recip_step f64_recip_step(a, b)),
        Op::FpRsqrtStep => by_format!(l, m, f16_rsqrt_step f32_rsqrt_step f64_rsqrt_step(a, b)),
        _ => return None,
    })
}

fn sign(log2: u8) -> u64 {
    1 << ((8u32 << log2) - 1)
}

fn round(l: u8, a: u64, exact: bool, m: Mode) -> Result1 {
    match l {
        1 => widen(softfloat::f16_round_to_int(a as u16, exact, m)),
        2 => widen(softfloat::f32_round_to_int(a as u32, exact, m)),
        _ => softfloat::f64_round_to_int(a, exact, m),
    }
}

fn widen<T: Into<u64>>((r, f): (T, Flags)) -> Result1 {
    (r.into(), f)
}

macro_rules! int_conversions {
    ($l:expr, $spec:expr, $a:expr, $frac:expr, $m:expr; $(($fmt:pat, $f:ident, $half:ident $uhalf:ident $word:ident $uword:ident $long:ident $ulong:ident))*) => {
        match $l { $($fmt => match $spec & 7 {
            2 => { let (r, f) = softfloat::$uhalf($a as $f, $frac, $m); (r as u64, f) }
            3 => { let (r, f) = softfloat::$half($a as $f, $frac, $m); (r as u16 as u64, f) }
            4 => { let (r, f) = softfloat::$uword($a as $f, $frac, $m); (r as u64, f) }
            5 => { let (r, f) = softfloat::$word($a as $f, $frac, $m); (r as u32 as u64, f) }
            6 => { let (r, f) = softfloat::$ulong($a as $f, $frac, $m); (r, f) }
            _ => { let (r, f) = softfloat::$long($a as $f, $frac, $m); (r as u64, f) }
        }),* }
    };
}

fn to_int(l: u8, a: u64, spec: u32, m: Mode) -> Result1 {
    let frac = spec >> 8;
    int_conversions!(l, spec, a, frac, m;
        (1, u16, f16_to_i16 f16_to_u16 f16_to_i32 f16_to_u32 f16_to_i64 f16_to_u64)
        (2, u32, f32_to_i16 f32_to_u16 f32_to_i32 f32_to_u32 f32_to_i64 f32_to_u64)
        (_, u64, f64_to_i16 f64_to_u16 f64_to_i32 f64_to_u32 f64_to_i64 f64_to_u64))
}

fn from_int(l: u8, a: u64, spec: u32, m: Mode) -> Result1 {
    let frac = spec >> 8;
    macro_rules! from {
        ($half:ident $uhalf:ident $word:ident $uword:ident $long:ident $ulong:ident) => {
            match spec & 7 {
                2 => widen(softfloat::$uhalf(a as u16, frac, m)),
                3 => widen(softfloat::$half(a as i16, frac, m)),
                4 => widen(softfloat::$uword(a as u32, frac, m)),
                5 => widen(softfloat::$word(a as i32, frac, m)),
                6 => widen(softfloat::$ulong(a, frac, m)),
                _ => widen(softfloat::$long(a as i64, frac, m)),
            }
        };
    }
    match l {
        1 => from!(i16_to_f16 u16_to_f16 i32_to_f16 u32_to_f16 i64_to_f16 u64_to_f16),
        2 => from!(i16_to_f32 u16_to_f32 i32_to_f32 u32_to_f32 i64_to_f32 u64_to_f32),
        _ => from!(i16_to_f64 u16_to_f64 i32_to_f64 u32_to_f64 i64_to_f64 u64_to_f64),
    }
}

fn compare(l: u8, a: u64, b: u64, signaling: bool, m: Mode) -> (Relation, Flags) {
    match (l, signaling) {
        (1, false) => softfloat::f16_compare(a as u16, b as u16, m),
        (1, true) => softfloat::f16_compare_signalling(a as u16, b as u16, m),
        (2, false) => softfloat::f32_compare(a as u32, b as u32, m),
        (2, true) => softfloat::f32_compare_signalling(a as u32, b as u32, m),
        (_, false) => softfloat::f64_compare(a, b, m),
        (_, true) => softfloat::f64_compare_signalling(a, b, m),
    }
}

fn compare_mask(l: u8, a: u64, b: u64, relation: u32, m: Mode) -> Result1 {
    // Arm: equality is quiet, the ordered relations signal.
    let (r, f) = compare(l, a, b, relation != 0, m);
    let holds = match relation {
        0 => r == Relation::Equal,
        1 => matches!(r, Relation::Equal | Relation::Greater),
        _ => r == Relation::Greater,
    };
    (if holds { u64::MAX } else { 0 }, f)
}

fn convert(from: u8, to: u8, a: u64, m: Mode) -> Result1 {
    match (from, to) {
        (1, 2) => widen(softfloat::f16_to_f32(a as u16, m)),
        (1, 3) => softfloat::f16_to_f64(a as u16, m),
        (2, 1) => widen(softfloat::f32_to_f16(a as u32, m)),
        (2, 3) => softfloat::f32_to_f64(a as u32, m),
        (3, 1) => widen(softfloat::f64_to_f16(a, m)),
        (3, 2) => widen(softfloat::f64_to_f32(a, m)),
        _ => (a, Flags::NONE),
    }
}

/// Executes a floating-point operation: the result (a flags word for `FpCmp`) and the exceptions it raised.
/// `None` if the operation is of another kind.
pub fn eval(i: &Inst, a: u128, b: u128, c: u128) -> Option<(u128, u8)> {
    let fmt = FpFmt(i.aux);
    let m = FpMode(i.fl).unpack();
    if i.op == Op::FpCmp {
        let (r, f) = compare(fmt.log2(), a as u64 & lane_mask(fmt), b as u64 & lane_mask(fmt), i.c != 0, m);
        let word = match r {
            Relation::Less => flag::N | flag::C,
            Relation::Equal => flag::Z,
            Relation::Greater => 0,
            Relation::Unordered => flag::V,
        };
        return Some((word as u128, f.0));
    }
    if i.op == Op::FpCvt {
        let (r, f) = convert(fmt.log2(), FpFmt(i.b as u8).log2(), a as u64 & lane_mask(fmt), m);
        return Some((r as u128, f.0));
    }
    // A scalar conversion may have an integer wider or narrower than the float.
    let (in_bits, out_bits) = match i.op {
        Op::FpToInt if !fmt.is_vector() => (8u32 << fmt.log2(), 8u32 << (i.b >> 1 & 3)),
        Op::FpFromInt if !fmt.is_vector() => (8u32 << (i.b >> 1 & 3), 8u32 << fmt.log2()),
        _ => (8u32 << fmt.log2(), 8u32 << fmt.log2()),
    };
    let (mut result, mut flags) = (0u128, 0u8);
    for lane in 0..fmt.lanes() as u32 {
        let pick = |v: u128| (v >> (in_bits * lane)) as u64 & crate::interp::pure::low_mask(in_bits);
        let (r, f) = element(i, pick(a), pick(b), pick(c), m)?;
        result |= ((r & crate::interp::pure::low_mask(out_bits)) as u128) << (out_bits * lane);
        flags |= f.0;
    }
    Some((result, flags))
}

fn lane_mask(fmt: FpFmt) -> u64 {
    crate::interp::pure::low_mask(8 << fmt.log2())
}
