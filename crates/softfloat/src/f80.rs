//! The x87 double extended-precision format: 64 bits of significand with an explicit leading one.
//!
//! Of the [`Mode`] only the rounding counts: the x87 has its own NaN rule (the larger significand wins), no flushing,
//! and detects tininess after rounding. [`Flags::INPUT_DENORMAL`] is DE and [`Flags::ROUNDED_UP`] is C1.
//!
//! **Reference.** Intel SDM volume 1, 4.2.2, 4.8.3 (NaNs, table 4-7), 8.1.5 (precision and rounding control), 8.2.2
//! (unsupported encodings), 8.5 (exceptions).
//!
//! **Not modelled.** Unmasked exceptions (which bias the exponent of an overflowed or tiny result); the instructions
//! FPREM, FSCALE, FXTRACT and the transcendental ones; BCD.

use crate::arith::product;
use crate::compare::{Relation, order};
use crate::convert::split;
use crate::format::{
    Class, Env, F32, F64, Format, Unpacked, decode, high_jam, rounds_up, shift_right_jam_wide,
};
use crate::integer::{Int, to_int_unpacked};
use crate::{Flags, Mode, Rounding};

const BIAS: i32 = 16383;
const EMIN: i32 = 1 - BIAS;
const EXP_MAX: u16 = 0x7fff;
const INTEGER_BIT: u64 = 1 << 63;
const QUIET: u64 = 1 << 62;
/// A discarded part worth half a unit.
const HALF: u64 = 1 << 63;

/// An x87 register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct F80 {
    /// The sign in bit 15, the biased exponent below.
    pub sign_exponent: u16,
    /// The significand, its integer bit in bit 63.
    pub significand: u64,
}

/// Precision control: to how many bits arithmetic rounds a significand. The exponent range is not affected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Precision {
    Single = 0,
    Double = 2,
    Extended = 3,
}

impl Precision {
    /// From the PC field of the control word; the reserved value 1 behaves as extended.
    pub const fn from_control(field: u8) -> Precision {
        match field & 3 {
            0 => Precision::Single,
            2 => Precision::Double,
            _ => Precision::Extended,
        }
    }

    const fn bits(self) -> u32 {
        match self {
            Precision::Single => 24,
            Precision::Double => 53,
            Precision::Extended => 64,
        }
    }
}

impl F80 {
    /// The default NaN, "real indefinite".
    pub const INDEFINITE: F80 = F80::new(true, EXP_MAX, INTEGER_BIT | QUIET);

    const fn new(sign: bool, exponent: u16, significand: u64) -> F80 {
        F80 {
            sign_exponent: (sign as u16) << 15 | exponent,
            significand,
        }
    }

    /// From the 80 bits of the memory format.
    pub const fn from_bits(bits: u128) -> F80 {
        F80 {
            sign_exponent: (bits >> 64) as u16,
            significand: bits as u64,
        }
    }

    /// The 80 bits of the memory format.
    pub const fn to_bits(self) -> u128 {
        (self.sign_exponent as u128) << 64 | self.significand as u128
    }

    const fn sign(self) -> bool {
        self.sign_exponent >> 15 != 0
    }

    const fn exponent(self) -> u16 {
        self.sign_exponent & EXP_MAX
    }

    const fn zero(sign: bool) -> F80 {
        F80::new(sign, 0, 0)
    }

    const fn infinity(sign: bool) -> F80 {
        F80::new(sign, EXP_MAX, INTEGER_BIT)
    }

    /// A non-zero exponent requires the integer bit; what lacks it (unnormals, pseudo-infinities, pseudo-NaNs) is an
    /// invalid operand everywhere.
    const fn is_unsupported(self) -> bool {
        self.exponent() != 0 && self.significand & INTEGER_BIT == 0
    }

    const fn is_denormal(self) -> bool {
        self.exponent() == 0 && self.significand != 0
    }

    const fn is_signalling(self) -> bool {
        self.is_nan() && self.significand & QUIET == 0
    }

    const fn is_nan(self) -> bool {
        self.exponent() == EXP_MAX && self.significand > INTEGER_BIT
    }

    /// A pseudo-denormal (integer bit with a zero exponent) has its natural value. An unsupported encoding reads as
    /// a signalling NaN, the nearest class: invalid everywhere.
    fn decode(self) -> Unpacked {
        let (sign, sig) = (self.sign(), self.significand);
        let class = match self.exponent() {
            _ if self.is_unsupported() => {
                return Unpacked {
                    sign,
                    class: Class::SignallingNan,
                    exp: 0,
                    sig,
                };
            }
            EXP_MAX if sig == INTEGER_BIT => Class::Infinite,
            EXP_MAX if sig & QUIET != 0 => Class::QuietNan,
            EXP_MAX => Class::SignallingNan,
            0 if sig == 0 => {
                return Unpacked {
                    sign,
                    class: Class::Zero,
                    exp: 0,
                    sig,
                };
            }
            _ => Class::Finite,
        };
        let shift = sig.leading_zeros();
        let exp = self.exponent().max(1) as i32 - BIAS - shift as i32;
        Unpacked {
            sign,
            class,
            exp,
            sig: sig << shift,
        }
    }
}

/// The surroundings of one operation.
struct X87 {
    rounding: Rounding,
    precision: Precision,
    flags: Flags,
}

impl X87 {
    fn new(precision: Precision, m: Mode) -> X87 {
        X87 {
            rounding: m.rounding,
            precision,
            flags: Flags::NONE,
        }
    }

    fn invalid(&mut self) -> F80 {
        self.flags |= Flags::INVALID;
        F80::INDEFINITE
    }

    /// Decodes the operands of an arithmetic operation, or returns its result if one is unsupported or a NaN.
    fn operands<const N: usize>(&mut self, operands: [F80; N]) -> Result<[Unpacked; N], F80> {
        if operands.iter().any(|x| x.is_unsupported()) {
            return Err(self.invalid());
        }
        if operands.iter().any(|x| x.is_nan()) {
            return Err(self.propagate_nan(&operands));
        }
        Ok(operands.map(F80::decode))
    }

    /// A quiet NaN wins over a signalling one; of two of a kind the larger significand wins, then the positive one.
    fn propagate_nan(&mut self, operands: &[F80]) -> F80 {
        if operands.iter().any(|x| x.is_signalling()) {
            self.flags |= Flags::INVALID;
        }
        let rank = |x: &&F80| (!x.is_signalling(), x.significand, !x.sign());
        let chosen = operands.iter().filter(|x| x.is_nan()).max_by_key(rank);
        chosen.map_or(F80::INDEFINITE, |x| F80 {
            significand: x.significand | QUIET,
            ..*x
        })
    }

    /// Reports a denormal operand that is going to be used.
    fn denormal_operands(&mut self, operands: &[F80]) {
        if operands.iter().any(|x| x.is_denormal()) {
            self.flags |= Flags::INPUT_DENORMAL;
        }
    }

    /// Packs the value `sig * 2^(exp - 127)`, bit 127 of `sig` set, bit 0 possibly jammed.
    fn round(&mut self, sign: bool, exp: i32, mut sig: u128) -> F80 {
        let bits = self.precision.bits();
        let mut field = exp + BIAS;
        let mut tiny = false;
        if exp < EMIN {
            tiny = exp < EMIN - 1 || !self.carries(sign, sig);
            sig = shift_right_jam_wide(sig, (EMIN - exp) as u32);
            field = 0;
        }
        let mut kept = (sig >> (128 - bits)) as u64;
        let rest = high_jam(sig << bits);
        let up = rounds_up(self.rounding, sign, kept & 1 != 0, rest);
        kept = kept.wrapping_add(up as u64);
        // The significand as it is stored; a carry out of it leaves the integer bit alone.
        let mut significand = kept << (64 - bits);
        if significand & INTEGER_BIT == 0 && field != 0 {
            significand = INTEGER_BIT;
            field += 1;
        } else if significand & INTEGER_BIT != 0 && field == 0 {
            field = 1;
        }
        if field >= EXP_MAX as i32 {
            return self.overflow(sign);
        }
        if rest != 0 {
            self.flags |= Flags::INEXACT;
            if tiny {
                self.flags |= Flags::UNDERFLOW;
            }
            if up {
                self.flags |= Flags::ROUNDED_UP;
            }
        }
        F80::new(sign, field as u16, significand)
    }

    /// Whether rounding with an unbounded exponent reaches the next power of two.
    fn carries(&self, sign: bool, sig: u128) -> bool {
        let bits = self.precision.bits();
        let all_ones = sig >> (128 - bits) == (1 << bits) - 1;
        all_ones && rounds_up(self.rounding, sign, true, high_jam(sig << bits))
    }

    fn overflow(&mut self, sign: bool) -> F80 {
        self.flags |= Flags::OVERFLOW | Flags::INEXACT;
        let to_infinity = match self.rounding {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::Up => !sign,
            Rounding::Down => sign,
            Rounding::Zero | Rounding::Odd => false,
        };
        if to_infinity {
            self.flags |= Flags::ROUNDED_UP;
            return F80::infinity(sign);
        }
        F80::new(sign, EXP_MAX - 1, u64::MAX << (64 - self.precision.bits()))
    }

    fn sum(&mut self, x: Unpacked, y: Unpacked) -> F80 {
        match (x.class, y.class) {
            (Class::Infinite, Class::Infinite) if x.sign != y.sign => return self.invalid(),
            (Class::Infinite, _) => return F80::infinity(x.sign),
            (_, Class::Infinite) => return F80::infinity(y.sign),
            (Class::Zero, Class::Zero) if x.sign == y.sign => return F80::zero(x.sign),
            (Class::Zero, Class::Zero) => return F80::zero(self.rounding == Rounding::Down),
            (Class::Zero, _) => return self.round(y.sign, y.exp, (y.sig as u128) << 64),
            (_, Class::Zero) => return self.round(x.sign, x.exp, (x.sig as u128) << 64),
            _ => {}
        }
        let (big, small) = if (x.exp, x.sig) >= (y.exp, y.sig) {
            (x, y)
        } else {
            (y, x)
        };
        let lower = shift_right_jam_wide((small.sig as u128) << 63, (big.exp - small.exp) as u32);
        let upper = (big.sig as u128) << 63;
        let total = if big.sign == small.sign {
            upper + lower
        } else {
            upper - lower
        };
        if total == 0 {
            return F80::zero(self.rounding == Rounding::Down);
        }
        let shift = total.leading_zeros();
        self.round(big.sign, big.exp + 1 - shift as i32, total << shift)
    }

    fn product(&mut self, x: Unpacked, y: Unpacked) -> F80 {
        let sign = x.sign != y.sign;
        match (x.class, y.class) {
            (Class::Infinite, Class::Zero) | (Class::Zero, Class::Infinite) => self.invalid(),
            (Class::Infinite, _) | (_, Class::Infinite) => F80::infinity(sign),
            (Class::Zero, _) | (_, Class::Zero) => F80::zero(sign),
            _ => {
                let (exp, sig) = product(x, y);
                self.round(sign, exp, sig)
            }
        }
    }

    fn quotient(&mut self, x: Unpacked, y: Unpacked) -> F80 {
        let sign = x.sign != y.sign;
        match (x.class, y.class) {
            (Class::Infinite, Class::Infinite) | (Class::Zero, Class::Zero) => self.invalid(),
            (Class::Finite, Class::Zero) => {
                self.flags = Flags::DIV_BY_ZERO;
                F80::infinity(sign)
            }
            (Class::Infinite, _) => F80::infinity(sign),
            (Class::Zero, _) | (_, Class::Infinite) => F80::zero(sign),
            _ => {
                let below_one = x.sig < y.sig;
                let (n, d) = ((x.sig as u128) << (63 + below_one as u32), y.sig as u128);
                let (q, twice) = (n / d, n % d * 2);
                // 64 bits of quotient, and how the rest compares with half a unit; a quotient never ends there.
                let rest = if twice >= d {
                    HALF | 1
                } else {
                    (twice != 0) as u64
                };
                self.round(
                    sign,
                    x.exp - y.exp - below_one as i32,
                    q << 64 | rest as u128,
                )
            }
        }
    }

    fn root(&mut self, x: Unpacked) -> F80 {
        match x.class {
            Class::Zero => F80::zero(x.sign),
            _ if x.sign => {
                self.flags = Flags::NONE;
                self.invalid()
            }
            Class::Infinite => F80::infinity(false),
            _ => {
                let n = (x.sig as u128) << if x.exp & 1 != 0 { 64 } else { 63 };
                let r = n.isqrt();
                // (r + 1/2)^2 = r^2 + r + 1/4
                let left = n - r * r;
                let rest = if left > r {
                    HALF | 1
                } else {
                    (left != 0) as u64
                };
                self.round(false, x.exp >> 1, r << 64 | rest as u128)
            }
        }
    }
}

fn binary(
    a: F80,
    b: F80,
    p: Precision,
    m: Mode,
    op: impl Fn(&mut X87, Unpacked, Unpacked) -> F80,
) -> (F80, Flags) {
    let mut x87 = X87::new(p, m);
    let result = match x87.operands([a, b]) {
        Ok([x, y]) => {
            x87.denormal_operands(&[a, b]);
            op(&mut x87, x, y)
        }
        Err(nan) => nan,
    };
    (result, x87.flags)
}

/// FADD
pub fn f80_add(a: F80, b: F80, p: Precision, m: Mode) -> (F80, Flags) {
    binary(a, b, p, m, X87::sum)
}

/// FSUB
pub fn f80_sub(a: F80, b: F80, p: Precision, m: Mode) -> (F80, Flags) {
    binary(a, b, p, m, |x87, x, y| {
        x87.sum(x, Unpacked { sign: !y.sign, ..y })
    })
}

/// FMUL
pub fn f80_mul(a: F80, b: F80, p: Precision, m: Mode) -> (F80, Flags) {
    binary(a, b, p, m, X87::product)
}

/// FDIV
pub fn f80_div(a: F80, b: F80, p: Precision, m: Mode) -> (F80, Flags) {
    binary(a, b, p, m, X87::quotient)
}

/// FSQRT
pub fn f80_sqrt(a: F80, p: Precision, m: Mode) -> (F80, Flags) {
    binary(a, F80::zero(false), p, m, |x87, x, _| x87.root(x))
}

/// FUCOM: only a signalling NaN (or an unsupported operand) is invalid.
pub fn f80_compare(a: F80, b: F80) -> (Relation, Flags) {
    compare(a, b, false)
}

/// FCOM: any NaN is invalid.
pub fn f80_compare_signalling(a: F80, b: F80) -> (Relation, Flags) {
    compare(a, b, true)
}

fn compare(a: F80, b: F80, signal_nans: bool) -> (Relation, Flags) {
    let any = |test: fn(F80) -> bool| test(a) || test(b);
    if any(F80::is_unsupported) || any(F80::is_signalling) || signal_nans && any(F80::is_nan) {
        return (Relation::Unordered, Flags::INVALID);
    }
    if any(F80::is_nan) {
        return (Relation::Unordered, Flags::NONE);
    }
    let flags = if any(F80::is_denormal) {
        Flags::INPUT_DENORMAL
    } else {
        Flags::NONE
    };
    (order(a.decode(), b.decode()).into(), flags)
}

/// FRNDINT
pub fn f80_round_to_int(a: F80, m: Mode) -> (F80, Flags) {
    let mut x87 = X87::new(Precision::Extended, m);
    let x = match x87.operands([a]) {
        Ok([x]) => x,
        Err(nan) => return (nan, x87.flags),
    };
    x87.denormal_operands(&[a]);
    if x.class != Class::Finite || x.exp >= 63 {
        return (a, x87.flags);
    }
    let (whole, rest) = split(x.sig, x.exp);
    let up = rounds_up(m.rounding, x.sign, whole & 1 != 0, rest);
    if rest != 0 {
        x87.flags |= Flags::INEXACT;
    }
    if up {
        x87.flags |= Flags::ROUNDED_UP;
    }
    (from_magnitude(x.sign, whole + up as u64), x87.flags)
}

fn from_magnitude(sign: bool, magnitude: u64) -> F80 {
    if magnitude == 0 {
        return F80::zero(sign);
    }
    let shift = magnitude.leading_zeros();
    F80::new(sign, (BIAS + 63 - shift as i32) as u16, magnitude << shift)
}

/// FILD; a narrower integer is to be sign-extended.
pub fn i64_to_f80(value: i64) -> F80 {
    from_magnitude(value < 0, value.unsigned_abs())
}

fn to_int(a: F80, width: u32, m: Mode) -> (u64, Flags) {
    let mode = Mode {
        rounding: m.rounding,
        ..Mode::X86
    };
    let x = a.decode();
    let (value, mut flags) = to_int_unpacked(
        Env::new(mode),
        x,
        Int {
            width,
            signed: true,
        },
        0,
    );
    if flags.contains(Flags::INEXACT) && x.exp < 63 {
        let (whole, _) = split(x.sig, x.exp);
        if (value as i64).unsigned_abs() > whole {
            flags |= Flags::ROUNDED_UP;
        }
    }
    (value, flags)
}

/// FIST to 16 bits.
pub fn f80_to_i16(a: F80, m: Mode) -> (i16, Flags) {
    let (value, flags) = to_int(a, 16, m);
    (value as i16, flags)
}

/// FIST to 32 bits.
pub fn f80_to_i32(a: F80, m: Mode) -> (i32, Flags) {
    let (value, flags) = to_int(a, 32, m);
    (value as i32, flags)
}

/// FIST to 64 bits.
pub fn f80_to_i64(a: F80, m: Mode) -> (i64, Flags) {
    let (value, flags) = to_int(a, 64, m);
    (value as i64, flags)
}

/// FLD of a narrower format: exact.
fn widen<F: Format>(bits: u64) -> (F80, Flags) {
    let x = decode::<F>(bits);
    match x.class {
        Class::Zero => (F80::zero(x.sign), Flags::NONE),
        Class::Infinite => (F80::infinity(x.sign), Flags::NONE),
        Class::Finite => {
            let flags = if x.exp < F::EMIN {
                Flags::INPUT_DENORMAL
            } else {
                Flags::NONE
            };
            (F80::new(x.sign, (x.exp + BIAS) as u16, x.sig), flags)
        }
        Class::QuietNan | Class::SignallingNan => {
            let flags = if x.class == Class::SignallingNan {
                Flags::INVALID
            } else {
                Flags::NONE
            };
            (
                F80::new(x.sign, EXP_MAX, INTEGER_BIT | QUIET | x.sig),
                flags,
            )
        }
    }
}

/// FLD m32
pub fn f32_to_f80(a: u32) -> (F80, Flags) {
    widen::<F32>(a as u64)
}

/// FLD m64
pub fn f64_to_f80(a: u64) -> (F80, Flags) {
    widen::<F64>(a)
}

/// FST to a narrower format.
fn narrow<F: Format>(a: F80, m: Mode) -> (u64, Flags) {
    let mut env = Env::new(Mode {
        rounding: m.rounding,
        ..Mode::X86
    });
    let x = a.decode();
    let sign = if x.sign { F::SIGN } else { 0 };
    if a.is_unsupported() {
        let bits = env.invalid::<F>();
        return env.finish(bits);
    }
    let bits = match x.class {
        Class::Zero => sign,
        Class::Infinite => sign | F::INF,
        Class::Finite => {
            let bits = env.round::<F>(x.sign, x.exp, x.sig);
            let result = decode::<F>(bits);
            if result.is_inf() || !result.is_zero() && (result.exp, result.sig) > (x.exp, x.sig) {
                env.raise(Flags::ROUNDED_UP);
            }
            bits
        }
        Class::QuietNan | Class::SignallingNan => {
            if x.class == Class::SignallingNan {
                env.raise(Flags::INVALID);
            }
            sign | F::INF | F::QUIET | x.sig << 1 >> (64 - F::FRAC)
        }
    };
    env.finish(bits)
}

/// FST m32
pub fn f80_to_f32(a: F80, m: Mode) -> (u32, Flags) {
    let (bits, flags) = narrow::<F32>(a, m);
    (bits as u32, flags)
}

/// FST m64
pub fn f80_to_f64(a: F80, m: Mode) -> (u64, Flags) {
    narrow::<F64>(a, m)
}
