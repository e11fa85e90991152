//! The formats under test: our functions next to the oracle's type.

use rustc_apfloat::ieee::{BFloat, Double, Half, Quad, Single};
use rustc_apfloat::{Float, FloatConvert, Round};
use softfloat::*;

/// A format.
pub trait Encoding {
    type Oracle: Float + FloatConvert<Quad>;
    const NAME: &'static str;
    const EXP: u32;
    const FRAC: u32;
    /// `FloatConvert<Self::Oracle>` for `Quad`, which a bound on an associated type cannot say.
    fn narrow(value: Quad, round: Round) -> Self::Oracle;
}

macro_rules! encodings {
    ($($name:ident $oracle:ident $exp:literal $frac:literal;)*) => {$(
        pub struct $name;
        impl Encoding for $name {
            type Oracle = $oracle;
            const NAME: &'static str = stringify!($name);
            const EXP: u32 = $exp;
            const FRAC: u32 = $frac;
            fn narrow(value: Quad, round: Round) -> $oracle {
                value.convert_r(round, &mut false).value
            }
        }
    )*};
}
encodings! {
    H Half 5 10;
    B BFloat 8 7;
    S Single 8 23;
    D Double 11 52;
}

/// A format with arithmetic.
pub trait Kind: Encoding {
    fn apply(op: Op, x: [u64; 3], m: Mode) -> (u64, Flags);
    fn compare(a: u64, b: u64, signalling: bool, m: Mode) -> (Relation, Flags);
    fn round_to_int(a: u64, exact: bool, m: Mode) -> (u64, Flags);
    /// Width 16, 32 or 64; the result is extended to 64 bits.
    fn to_int(a: u64, width: u32, signed: bool, frac_bits: u32, m: Mode) -> (u64, Flags);
    fn from_int(value: u64, width: u32, signed: bool, frac_bits: u32, m: Mode) -> (u64, Flags);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Fma,
    Sqrt,
    Min,
    Max,
    MinNum,
    MaxNum,
}

/// Extends an integer to 64 bits, by its own sign.
fn widen<T: Into<i64>>((value, flags): (T, Flags)) -> (u64, Flags) {
    (value.into() as u64, flags)
}

macro_rules! kinds {
    ($($name:ident $bits:ident {
        $add:ident $sub:ident $mul:ident $div:ident $fma:ident $sqrt:ident $min:ident $max:ident $minnum:ident $maxnum:ident
        $compare:ident $signalling:ident $round:ident
        $to_i16:ident $to_u16:ident $to_i32:ident $to_u32:ident $to_i64:ident $to_u64:ident
        $i16_to:ident $u16_to:ident $i32_to:ident $u32_to:ident $i64_to:ident $u64_to:ident
    })*) => {$(
        impl Kind for $name {
            fn apply(op: Op, x: [u64; 3], m: Mode) -> (u64, Flags) {
                let [a, b, c] = x.map(|bits| bits as $bits);
                let (bits, flags) = match op {
                    Op::Add => $add(a, b, m),
                    Op::Sub => $sub(a, b, m),
                    Op::Mul => $mul(a, b, m),
                    Op::Div => $div(a, b, m),
                    Op::Fma => $fma(a, b, c, m),
                    Op::Sqrt => $sqrt(a, m),
                    Op::Min => $min(a, b, m),
                    Op::Max => $max(a, b, m),
                    Op::MinNum => $minnum(a, b, m),
                    Op::MaxNum => $maxnum(a, b, m),
                };
                (bits as u64, flags)
            }

            fn compare(a: u64, b: u64, signalling: bool, m: Mode) -> (Relation, Flags) {
                let compare = if signalling { $signalling } else { $compare };
                compare(a as $bits, b as $bits, m)
            }

            fn round_to_int(a: u64, exact: bool, m: Mode) -> (u64, Flags) {
                let (bits, flags) = $round(a as $bits, exact, m);
                (bits as u64, flags)
            }

            fn to_int(a: u64, width: u32, signed: bool, frac_bits: u32, m: Mode) -> (u64, Flags) {
                let a = a as $bits;
                match (width, signed) {
                    (16, true) => widen($to_i16(a, frac_bits, m)),
                    (16, _) => widen($to_u16(a, frac_bits, m)),
                    (32, true) => widen($to_i32(a, frac_bits, m)),
                    (32, _) => widen($to_u32(a, frac_bits, m)),
                    (_, true) => widen($to_i64(a, frac_bits, m)),
                    (_, _) => $to_u64(a, frac_bits, m),
                }
            }

            fn from_int(value: u64, width: u32, signed: bool, frac_bits: u32, m: Mode) -> (u64, Flags) {
                let (bits, flags) = match (width, signed) {
                    (16, true) => $i16_to(value as i16, frac_bits, m),
                    (16, _) => $u16_to(value as u16, frac_bits, m),
                    (32, true) => $i32_to(value as i32, frac_bits, m),
                    (32, _) => $u32_to(value as u32, frac_bits, m),
                    (_, true) => $i64_to(value as i64, frac_bits, m),
                    (_, _) => $u64_to(value, frac_bits, m),
                };
                (bits as u64, flags)
            }
        }
    )*};
}
kinds! {
    H u16 {
        f16_add f16_sub f16_mul f16_div f16_fma f16_sqrt f16_min f16_max f16_minnum f16_maxnum
        f16_compare f16_compare_signalling f16_round_to_int
        f16_to_i16 f16_to_u16 f16_to_i32 f16_to_u32 f16_to_i64 f16_to_u64
        i16_to_f16 u16_to_f16 i32_to_f16 u32_to_f16 i64_to_f16 u64_to_f16
    }
    S u32 {
        f32_add f32_sub f32_mul f32_div f32_fma f32_sqrt f32_min f32_max f32_minnum f32_maxnum
        f32_compare f32_compare_signalling f32_round_to_int
        f32_to_i16 f32_to_u16 f32_to_i32 f32_to_u32 f32_to_i64 f32_to_u64
        i16_to_f32 u16_to_f32 i32_to_f32 u32_to_f32 i64_to_f32 u64_to_f32
    }
    D u64 {
        f64_add f64_sub f64_mul f64_div f64_fma f64_sqrt f64_min f64_max f64_minnum f64_maxnum
        f64_compare f64_compare_signalling f64_round_to_int
        f64_to_i16 f64_to_u16 f64_to_i32 f64_to_u32 f64_to_i64 f64_to_u64
        i16_to_f64 u16_to_f64 i32_to_f64 u32_to_f64 i64_to_f64 u64_to_f64
    }
}
