//! Floating-point data processing (VFP). Arm ARM (DDI 0406C) A7.5; A8.8 for each instruction; DDI 0487 F4.1 for half precision.
//!
//! The multiply-accumulate family VMLA rounds twice; VFMA rounds once. Only the negations follow the manual's pseudocode order,
//! because they decide the sign of a NaN.

use super::fp::{V, Vn};
use crate::{Features, Flow, Translator};
use ir::{Builder, FpFmt, FpMode, MemOp, Ty, Val};
use softfloat::Rounding;
use spec::decode::Bits;
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vmla "cccc 1110 0d00 nnnn dddd 10zz n0m0 mmmm" (z, d, n, m);
    vmls "cccc 1110 0d00 nnnn dddd 10zz n1m0 mmmm" (z, d, n, m);
    vnmls "cccc 1110 0d01 nnnn dddd 10zz n0m0 mmmm" (z, d, n, m);
    vnmla "cccc 1110 0d01 nnnn dddd 10zz n1m0 mmmm" (z, d, n, m);
    vmul "cccc 1110 0d10 nnnn dddd 10zz n0m0 mmmm" (z, d, n, m);
    vnmul "cccc 1110 0d10 nnnn dddd 10zz n1m0 mmmm" (z, d, n, m);
    vadd "cccc 1110 0d11 nnnn dddd 10zz n0m0 mmmm" (z, d, n, m);
    vsub "cccc 1110 0d11 nnnn dddd 10zz n1m0 mmmm" (z, d, n, m);
    vdiv "cccc 1110 1d00 nnnn dddd 10zz n0m0 mmmm" (z, d, n, m);
    vfnms "cccc 1110 1d01 nnnn dddd 10zz n0m0 mmmm" (z, d, n, m);
    vfnma "cccc 1110 1d01 nnnn dddd 10zz n1m0 mmmm" (z, d, n, m);
    vfma "cccc 1110 1d10 nnnn dddd 10zz n0m0 mmmm" (z, d, n, m);
    vfms "cccc 1110 1d10 nnnn dddd 10zz n1m0 mmmm" (z, d, n, m);
    vmov_imm "cccc 1110 1d11 iiii dddd 10zz 0000 iiii" (z, d, i);
    vmov_reg "cccc 1110 1d11 0000 dddd 101z 01m0 mmmm" (z, d, m);
    vabs "cccc 1110 1d11 0000 dddd 10zz 11m0 mmmm" (z, d, m);
    vneg "cccc 1110 1d11 0001 dddd 10zz 01m0 mmmm" (z, d, m);
    vsqrt "cccc 1110 1d11 0001 dddd 10zz 11m0 mmmm" (z, d, m);
    /// VCVTB, VCVTT from half precision
    vcvt_from_half "cccc 1110 1d11 0010 dddd 101z t1m0 mmmm" (z, d, t, m);
    /// VCVTB, VCVTT to half precision
    vcvt_to_half "cccc 1110 1d11 0011 dddd 101z t1m0 mmmm" (z, d, t, m);
    /// VCVTB, VCVTT to BFloat16
    vcvt_to_bf16 "cccc 1110 1d11 0011 dddd 1001 t1m0 mmmm" (d, t, m);
    /// VCMP, VCMPE
    vcmp "cccc 1110 1d11 0100 dddd 10zz e1m0 mmmm" (z, d, e, m);
    vcmp_zero "cccc 1110 1d11 0101 dddd 10zz e100 0000" (z, d, e);
    vrintr "cccc 1110 1d11 0110 dddd 10zz 01m0 mmmm" (z, d, m);
    vrintz "cccc 1110 1d11 0110 dddd 10zz 11m0 mmmm" (z, d, m);
    vrintx "cccc 1110 1d11 0111 dddd 10zz 01m0 mmmm" (z, d, m);
    /// VCVT between double and single; z is the source's size
    vcvt_size "cccc 1110 1d11 0111 dddd 101z 11m0 mmmm" (z, d, m);
    vcvt_from_int "cccc 1110 1d11 1000 dddd 10zz s1m0 mmmm" (z, d, s, m);
    vjcvt "cccc 1110 1d11 1001 dddd 1011 11m0 mmmm" (d, m);
    /// VCVT, VCVTR to integer
    vcvt_to_int "cccc 1110 1d11 110s dddd 10zz r1m0 mmmm" (z, d, s, r, m);
    vcvt_from_fixed "cccc 1110 1d11 101u dddd 10zz x1i0 jjjj" (z, d, u, x, i, j);
    vcvt_to_fixed "cccc 1110 1d11 111u dddd 10zz x1i0 jjjj" (z, d, u, x, i, j);
    /// Between a core register and a single
    vmov_core_s "cccc 1110 000o nnnn tttt 1010 n001 0000" (o, n, t);
    /// Between a core register and a half
    vmov_core_h "cccc 1110 000o nnnn tttt 1001 n001 0000" (o, n, t);
    /// Core register to a lane of a doubleword
    vmov_core_to_lane "cccc 1110 0aa0 dddd tttt 1011 dbb1 0000" (a, d, t, b);
    /// A lane of a doubleword to a core register
    vmov_lane_to_core "cccc 1110 uaa1 nnnn tttt 1011 nbb1 0000" (u, a, n, t, b);
    /// Between two core registers and a doubleword
    vmov_core_d "cccc 1100 010o uuuu tttt 1011 00m1 mmmm" (o, u, t, m);
    /// Between two core registers and two singles
    vmov_core_ss "cccc 1100 010o uuuu tttt 1010 00m1 mmmm" (o, u, t, m);
}

insns! { pub UNCONDITIONAL: Translator => Flow;
    vsel "1111 1110 0dcc nnnn dddd 101z n0m0 mmmm" (c, z, d, n, m);
    vsel_half "1111 1110 0dcc nnnn dddd 1001 n0m0 mmmm" (c, d, n, m);
    vmaxnm "1111 1110 1d00 nnnn dddd 101z n0m0 mmmm" (z, d, n, m);
    vmaxnm_half "1111 1110 1d00 nnnn dddd 1001 n0m0 mmmm" (d, n, m);
    vminnm "1111 1110 1d00 nnnn dddd 101z n1m0 mmmm" (z, d, n, m);
    vminnm_half "1111 1110 1d00 nnnn dddd 1001 n1m0 mmmm" (d, n, m);
    /// VMOVX: the top half
    vmovx "1111 1110 1d11 0000 dddd 1010 01m0 mmmm" (d, m);
    /// VINS: insert into the top half
    vins "1111 1110 1d11 0000 dddd 1010 11m0 mmmm" (d, m);
    /// VRINTA, VRINTN, VRINTP, VRINTM
    vrint_directed "1111 1110 1d11 10rr dddd 101z 01m0 mmmm" (r, z, d, m);
    vrint_directed_half "1111 1110 1d11 10rr dddd 1001 01m0 mmmm" (r, d, m);
    /// VCVTA, VCVTN, VCVTP, VCVTM
    vcvt_directed "1111 1110 1d11 11rr dddd 101z s1m0 mmmm" (r, z, d, s, m);
    vcvt_directed_half "1111 1110 1d11 11rr dddd 1001 s1m0 mmmm" (r, d, s, m);
}

/// The format of a one-bit size field: single or double.
#[derive(Clone, Copy)]
struct Size(FpFmt);

impl Bits for Size {
    fn from_bits(bits: u32) -> Size {
        Size(single_or_double(bits != 0))
    }
}

const HALF: Size = Size(FpFmt::F16);

/// Rounding of the `RM` field of the directed instructions: A, N, P, M.
pub(super) fn directed(rm: u32) -> Rounding {
    [Rounding::NearestAway, Rounding::NearestEven, Rounding::Up, Rounding::Down][rm as usize & 3]
}

/// `VFPExpandImm`: sign, three exponent bits, four fraction bits.
pub(super) fn expand_imm(fmt: FpFmt, imm8: u32) -> u64 {
    let imm = imm8 as u64;
    let exp_bits = [0, 5, 8, 11][fmt.log2() as usize];
    let frac_bits = (8u32 << fmt.log2()) - 1 - exp_bits;
    let (sign, top, low) = (imm >> 7 & 1, imm >> 6 & 1, imm >> 4 & 3);
    let repeated = if top != 0 { (1u64 << (exp_bits - 3)) - 1 } else { 0 };
    let exp = (top ^ 1) << (exp_bits - 1) | repeated << 2 | low;
    sign << (exp_bits + frac_bits) | exp << frac_bits | (imm & 15) << (frac_bits - 4)
}

/// Formats of the one-bit size field.
fn single_or_double(z: bool) -> FpFmt {
    if z { FpFmt::F64 } else { FpFmt::F32 }
}

type Binary = fn(&mut Builder, FpFmt, FpMode, Val, Val) -> Val;
type Unary = fn(&mut Builder, FpFmt, FpMode, Val) -> Val;
type Accumulate = fn(&mut Builder, FpFmt, FpMode, Val, Val, Val) -> Val;

macro_rules! binary {
    ($($name:ident $feature:ident $op:expr;)*) => {$(
        fn $name(&mut self, z: u8, d: V, n: Vn, m: V) -> Flow {
            self.vfp_binary(Features::$feature, FpFmt(z), d, n.into(), m, $op)
        }
    )*};
}

macro_rules! accumulate {
    ($($name:ident $op:expr;)*) => {$(
        fn $name(&mut self, z: u8, d: V, n: Vn, m: V) -> Flow {
            self.vfp_accumulate(Features::VFP2, FpFmt(z), d, n.into(), m, $op)
        }
    )*};
}

macro_rules! fused {
    ($($name:ident $op:expr;)*) => {$(
        fn $name(&mut self, z: u8, d: V, n: Vn, m: V) -> Flow {
            self.vfp_fused(FpFmt(z), d, n.into(), m, $op)
        }
    )*};
}

macro_rules! vector_unary {
    ($($name:ident $op:expr;)*) => {$(
        fn $name(&mut self, z: u8, d: V, m: V) -> Flow {
            let fmt = FpFmt(z);
            if self.no_scalar(fmt, &[d, m]) {
                return self.undefined();
            }
            let op: Unary = $op;
            self.vector_unary(fmt, d, m, |t, mode, x| op(&mut t.b, fmt, mode, x))
        }
    )*};
}

macro_rules! unary {
    ($($name:ident $feature:ident $op:expr;)*) => {$(
        fn $name(&mut self, z: u8, d: V, m: V) -> Flow {
            self.vfp_unary(Features::$feature, FpFmt(z), d, m, $op)
        }
    )*};
}

impl Translator {
    fn vfp_binary(&mut self, feature: Features, fmt: FpFmt, d: V, n: V, m: V, op: Binary) -> Flow {
        if self.lacks(feature) || self.no_scalar(fmt, &[d, n, m]) {
            return self.undefined();
        }
        self.vector_binary(fmt, d, n, m, |t, mode, _, x, y| op(&mut t.b, fmt, mode, x, y))
    }

    fn vfp_accumulate(&mut self, feature: Features, fmt: FpFmt, d: V, n: V, m: V, op: Accumulate) -> Flow {
        if self.lacks(feature) || self.no_scalar(fmt, &[d, n, m]) {
            return self.undefined();
        }
        self.vector_binary(fmt, d, n, m, |t, mode, d, x, y| {
            let acc = t.scalar(fmt, d);
            op(&mut t.b, fmt, mode, acc, x, y)
        })
    }

    /// Fused operations have no short vectors: asking for one is UNDEFINED.
    fn vfp_fused(&mut self, fmt: FpFmt, d: V, n: V, m: V, op: Accumulate) -> Flow {
        if self.short_vectors() {
            return self.undefined();
        }
        self.vfp_accumulate(Features::VFP4, fmt, d, n, m, op)
    }

    /// An operation that never is a short vector.
    fn vfp_unary(&mut self, feature: Features, fmt: FpFmt, d: V, m: V, op: Unary) -> Flow {
        if self.lacks(feature) || self.no_scalar(fmt, &[d, m]) {
            return self.undefined();
        }
        let x = self.scalar(fmt, m);
        let mode = self.scalar_mode(fmt);
        let r = op(&mut self.b, fmt, mode, x);
        self.set_scalar(fmt, d, r)
    }

    binary! {
        vmul VFP2 |b, f, m, x, y| b.fp_mul(f, m, x, y);
        vnmul VFP2 |b, f, m, x, y| { let p = b.fp_mul(f, m, x, y); b.fp_neg(f, p) };
        vadd VFP2 |b, f, m, x, y| b.fp_add(f, m, x, y);
        vsub VFP2 |b, f, m, x, y| b.fp_sub(f, m, x, y);
        vdiv VFP2 |b, f, m, x, y| b.fp_div(f, m, x, y);
    }

    accumulate! {
        vmla |b, f, m, a, x, y| { let p = b.fp_mul(f, m, x, y); b.fp_add(f, m, a, p) };
        vmls |b, f, m, a, x, y| { let p = b.fp_mul(f, m, x, y); let p = b.fp_neg(f, p); b.fp_add(f, m, a, p) };
        vnmls |b, f, m, a, x, y| { let p = b.fp_mul(f, m, x, y); let a = b.fp_neg(f, a); b.fp_add(f, m, a, p) };
        vnmla |b, f, m, a, x, y| {
            let p = b.fp_mul(f, m, x, y);
            let (a, p) = (b.fp_neg(f, a), b.fp_neg(f, p));
            b.fp_add(f, m, a, p)
        };
    }

    fused! {
        vfma |b, f, m, a, x, y| b.fp_fma(f, m, x, y, a);
        vfms |b, f, m, a, x, y| { let x = b.fp_neg(f, x); b.fp_fma(f, m, x, y, a) };
        vfnma |b, f, m, a, x, y| { let (a, x) = (b.fp_neg(f, a), b.fp_neg(f, x)); b.fp_fma(f, m, x, y, a) };
        vfnms |b, f, m, a, x, y| { let a = b.fp_neg(f, a); b.fp_fma(f, m, x, y, a) };
    }

    vector_unary! {
        vabs |b, f, _, x| b.fp_abs(f, x);
        vneg |b, f, _, x| b.fp_neg(f, x);
        vsqrt |b, f, m, x| b.fp_sqrt(f, m, x);
    }

    unary! {
        vrintr V8_FP |b, f, m, x| b.fp_rint(f, m, x, false);
        vrintz V8_FP |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::Zero), x, false);
        vrintx V8_FP |b, f, m, x| b.fp_rint(f, m, x, true);
    }

    fn vmaxnm(&mut self, z: Size, d: V, n: Vn, m: V) -> Flow {
        self.vfp_binary(Features::V8_FP, z.0, d, n.into(), m, |b, f, m, x, y| b.fp_maxnum(f, m, x, y))
    }

    fn vmaxnm_half(&mut self, d: V, n: Vn, m: V) -> Flow {
        self.vmaxnm(HALF, d, n, m)
    }

    fn vminnm(&mut self, z: Size, d: V, n: Vn, m: V) -> Flow {
        self.vfp_binary(Features::V8_FP, z.0, d, n.into(), m, |b, f, m, x, y| b.fp_minnum(f, m, x, y))
    }

    fn vminnm_half(&mut self, d: V, n: Vn, m: V) -> Flow {
        self.vminnm(HALF, d, n, m)
    }

    fn vrint_directed_half(&mut self, r: u32, d: V, m: V) -> Flow {
        self.vrint_directed(r, HALF, d, m)
    }

    fn vrint_directed(&mut self, r: u32, z: Size, d: V, m: V) -> Flow {
        let op: Unary = match r {
            0 => |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::NearestAway), x, false),
            1 => |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::NearestEven), x, false),
            2 => |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::Up), x, false),
            _ => |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::Down), x, false),
        };
        self.vfp_unary(Features::V8_FP, z.0, d, m, op)
    }

    fn vmov_imm(&mut self, z: u8, d: V, i: u32) -> Flow {
        let fmt = FpFmt(z);
        if self.lacks(Features::VFP3) || self.no_scalar(fmt, &[d]) {
            return self.undefined();
        }
        self.vector_fill(fmt, d, expand_imm(fmt, i))
    }

    fn vmov_reg(&mut self, z: bool, d: V, m: V) -> Flow {
        let fmt = single_or_double(z);
        if self.no_scalar(fmt, &[d, m]) {
            return self.undefined();
        }
        self.vector_unary(fmt, d, m, |_, _, x| x)
    }

    fn vcmp(&mut self, z: u8, d: V, e: bool, m: V) -> Flow {
        let fmt = FpFmt(z);
        if self.no_scalar(fmt, &[d, m]) {
            return self.undefined();
        }
        let (x, y) = (self.scalar(fmt, d), self.scalar(fmt, m));
        self.compare(fmt, x, y, e)
    }

    fn vcmp_zero(&mut self, z: u8, d: V, e: bool) -> Flow {
        let fmt = FpFmt(z);
        if self.no_scalar(fmt, &[d]) {
            return self.undefined();
        }
        let (x, y) = (self.scalar(fmt, d), self.b.vconst(0));
        self.compare(fmt, x, y, e)
    }

    fn compare(&mut self, fmt: FpFmt, x: Val, y: Val, signal: bool) -> Flow {
        let mode = self.scalar_mode(fmt);
        let word = self.b.fp_cmp(fmt, mode, x, y, signal);
        self.b.set32(crate::state::FPSCR_NZCV, word);
        Flow::Next
    }

    fn vsel_half(&mut self, c: u32, d: V, n: Vn, m: V) -> Flow {
        self.vsel(c, HALF, d, n, m)
    }

    fn vsel(&mut self, c: u32, z: Size, d: V, n: Vn, m: V) -> Flow {
        use ir::Cc;
        let (fmt, n) = (z.0, n.into());
        if self.lacks(Features::V8_FP) || self.no_scalar(fmt, &[d, n, m]) {
            return self.undefined();
        }
        let (x, y, f) = (self.scalar(fmt, n), self.scalar(fmt, m), self.b.get_flags());
        let v = self.b.select_cc([Cc::Z, Cc::V, Cc::Ge, Cc::Gt][c as usize & 3], f, x, y);
        self.set_scalar(fmt, d, v)
    }

    fn vmovx(&mut self, d: V, m: V) -> Flow {
        if self.lacks(Features::FP16) || self.short_vectors() {
            return self.undefined();
        }
        let x = self.scalar(FpFmt::F32, m);
        let v = self.b.vshri(2, x, 16);
        self.set_scalar(FpFmt::F32, d, v)
    }

    fn vins(&mut self, d: V, m: V) -> Flow {
        if self.lacks(Features::FP16) || self.short_vectors() {
            return self.undefined();
        }
        let (low, x) = (self.scalar(FpFmt::F16, d), self.scalar(FpFmt::F32, m));
        let high = self.b.vshli(2, x, 16);
        let v = self.b.vor(low, high);
        self.set_scalar(FpFmt::F32, d, v)
    }

    // ---- conversions -------------------------------------------------------------------------------------------------

    fn vcvt_size(&mut self, z: bool, d: V, m: V) -> Flow {
        let (from, to) = (single_or_double(z), single_or_double(!z));
        let double = if z { m } else { d };
        if self.no_scalar(FpFmt::F64, &[double]) {
            return self.undefined();
        }
        let x = self.scalar(from, m);
        let v = self.b.fp_cvt(from, to, self.mode, x);
        self.set_scalar(to, d, v)
    }

    fn half_feature(&self, z: bool) -> Features {
        if z { Features::V8_FP } else { Features::FP16_CONVERT }
    }

    fn vcvt_from_half(&mut self, z: bool, d: V, t: bool, m: V) -> Flow {
        let to = single_or_double(z);
        if self.lacks(self.half_feature(z)) || self.no_scalar(to, &[d]) {
            return self.undefined();
        }
        let word = self.scalar(FpFmt::F32, m);
        let half = if t { self.b.vshri(2, word, 16) } else { self.low_half(word) };
        let v = self.b.fp_cvt(FpFmt::F16, to, self.mode, half);
        self.set_scalar(to, d, v)
    }

    fn low_half(&mut self, v: Val) -> Val {
        let mask = self.b.vconst(0xffff);
        self.b.vand(v, mask)
    }

    /// Replaces one half of single register `d`; `half` has zeros above bit 15.
    fn set_half(&mut self, d: V, top: bool, half: Val) -> Flow {
        let old = self.scalar(FpFmt::F32, d);
        let keep = self.b.vconst(if top { 0xffff } else { 0xffff_0000 });
        let kept = self.b.vand(old, keep);
        let half = if top { self.b.vshli(2, half, 16) } else { half };
        let v = self.b.vor(kept, half);
        self.set_scalar(FpFmt::F32, d, v)
    }

    fn vcvt_to_half(&mut self, z: bool, d: V, t: bool, m: V) -> Flow {
        let from = single_or_double(z);
        if self.lacks(self.half_feature(z)) || self.no_scalar(from, &[m]) {
            return self.undefined();
        }
        let x = self.scalar(from, m);
        let half = self.b.fp_cvt(from, FpFmt::F16, self.mode, x);
        self.set_half(d, t, half)
    }

    fn vcvt_to_bf16(&mut self, d: V, t: bool, m: V) -> Flow {
        if self.lacks(Features::BF16) {
            return self.undefined();
        }
        let x = self.scalar(FpFmt::F32, m);
        let half = self.vec_helper(crate::helper::CVT_BF16, self.mode.0 as u128, x, None);
        let half = self.low_half(half);
        self.set_half(d, t, half)
    }

    fn vcvt_from_int(&mut self, z: u8, d: V, s: bool, m: V) -> Flow {
        let fmt = FpFmt(z);
        if self.no_scalar(fmt, &[d]) {
            return self.undefined();
        }
        let x = self.scalar(FpFmt::F32, m);
        let mode = self.scalar_mode(fmt);
        let v = self.b.fp_from_int(fmt, mode, x, s, 2, 0);
        self.set_scalar(fmt, d, v)
    }

    fn vcvt_to_int(&mut self, z: u8, d: V, s: bool, r: bool, m: V) -> Flow {
        let fmt = FpFmt(z);
        let mode = self.scalar_mode(fmt);
        let mode = if r { mode.with_rounding(Rounding::Zero) } else { mode };
        self.to_int(Features::VFP2, fmt, mode, d, s, m)
    }

    fn vcvt_directed_half(&mut self, r: u32, d: V, s: bool, m: V) -> Flow {
        self.vcvt_directed(r, HALF, d, s, m)
    }

    fn vcvt_directed(&mut self, r: u32, z: Size, d: V, s: bool, m: V) -> Flow {
        let fmt = z.0;
        let mode = self.scalar_mode(fmt).with_rounding(directed(r));
        self.to_int(Features::V8_FP, fmt, mode, d, s, m)
    }

    fn to_int(&mut self, feature: Features, fmt: FpFmt, mode: FpMode, d: V, signed: bool, m: V) -> Flow {
        if self.lacks(feature) || self.no_scalar(fmt, &[m]) {
            return self.undefined();
        }
        let x = self.scalar(fmt, m);
        let v = self.b.fp_to_int(fmt, mode, x, signed, 2, 0);
        self.set_scalar(FpFmt::F32, d, v)
    }

    fn vjcvt(&mut self, d: V, m: V) -> Flow {
        if self.lacks(Features::JSCVT) {
            return self.undefined();
        }
        let x = self.scalar(FpFmt::F64, m);
        let v = self.vec_helper(crate::helper::JCVT, self.mode.0 as u128, x, None);
        // The helper's second word: 0 if the conversion was exact; Z is then set, N, C and V are clear (C is kept inverted).
        let inexact = self.b.vextract(2, v, 1);
        let zero = self.b.i32(0);
        let exact = self.b.icmp(ir::Cmp::Eq, inexact, zero);
        let (z, none) = (self.b.i32(ir::flag::Z | ir::flag::C), self.b.i32(ir::flag::C));
        let word = self.b.select(exact, z, none);
        self.b.set32(crate::state::FPSCR_NZCV, word);
        self.set_scalar(FpFmt::F32, d, v)
    }

    /// Number of fraction bits and log2 of the integer's bytes; `None` where UNPREDICTABLE (we take it as UNDEFINED).
    fn fixed_point(x: bool, i: u32, j: u32) -> (u32, Option<u32>) {
        let bits = if x { 32 } else { 16 };
        (if x { 2 } else { 1 }, u32::checked_sub(bits, j << 1 | i))
    }

    #[allow(clippy::too_many_arguments)]
    fn vcvt_from_fixed(&mut self, z: u8, d: V, u: bool, x: bool, i: u32, j: u32) -> Flow {
        let fmt = FpFmt(z);
        let (log2, Some(frac)) = Self::fixed_point(x, i, j) else { return self.undefined() };
        if self.lacks(Features::VFP3) || self.no_scalar(fmt, &[d]) {
            return self.undefined();
        }
        let v = self.b.get(Ty::V128, d.scalar(fmt), if fmt.log2() == 3 { 8 } else { 4 });
        // Round to nearest, whatever FPSCR says (the manual's VCVT between floating-point and fixed-point).
        let mode = self.scalar_mode(fmt).with_rounding(Rounding::NearestEven);
        let v = self.b.fp_from_int(fmt, mode, v, !u, log2, frac);
        self.set_scalar(fmt, d, v)
    }

    #[allow(clippy::too_many_arguments)]
    fn vcvt_to_fixed(&mut self, z: u8, d: V, u: bool, x: bool, i: u32, j: u32) -> Flow {
        let fmt = FpFmt(z);
        let (log2, Some(frac)) = Self::fixed_point(x, i, j) else { return self.undefined() };
        if self.lacks(Features::VFP3) || self.no_scalar(fmt, &[d]) {
            return self.undefined();
        }
        let v = self.scalar(fmt, d);
        let mode = self.scalar_mode(fmt).with_rounding(Rounding::Zero);
        let v = self.b.fp_to_int(fmt, mode, v, !u, log2, frac);
        // The result is extended to the register's width.
        let wide = if fmt.log2() == 3 { 3 } else { 2 };
        let drop = (8 << wide) - (8 << log2);
        let v = if drop == 0 || u {
            v
        } else {
            let up = self.b.vshli(wide, v, drop);
            self.b.vsari(wide, up, drop)
        };
        self.set_scalar(fmt, d, v)
    }

    // ---- transfers ---------------------------------------------------------------------------------------------------

    fn vmov_core_s(&mut self, o: bool, n: Vn, t: u32) -> Flow {
        if self.lacks(Features::VFP2) || t == 15 {
            return self.undefined();
        }
        let place = crate::state::s(V::from(n).s());
        if o {
            let v = self.b.get32(place);
            self.set_reg(t, v);
            return Flow::Next;
        }
        let v = self.reg(t);
        self.b.set32(place, v);
        Flow::Next
    }

    fn vmov_core_h(&mut self, o: bool, n: Vn, t: u32) -> Flow {
        if self.lacks(Features::FP16) || t == 15 {
            return self.undefined();
        }
        let place = crate::state::s(V::from(n).s());
        let v = if o { self.b.get32(place) } else { self.reg(t) };
        let v = self.b.zext16(v);
        if o {
            self.set_reg(t, v);
        } else {
            self.b.set32(place, v);
        }
        Flow::Next
    }

    /// Size (log2 bytes) and index of the lane that opc1 and opc2 name.
    fn lane_of(a: u32, b: u32) -> Option<(MemOp, u32)> {
        match (a >> 1, b) {
            (1, _) => Some((MemOp::B1, (a & 1) << 2 | b)),
            (_, 1 | 3) => Some((MemOp::B2, (a & 1) << 1 | b >> 1)),
            (_, 0) => Some((MemOp::B4, a & 1)),
            _ => None,
        }
    }

    fn lane_feature(&self, size: MemOp) -> Features {
        if size == MemOp::B4 { Features::VFP2 } else { Features::NEON }
    }

    fn vmov_core_to_lane(&mut self, a: u32, d: Vn, t: u32, b: u32) -> Flow {
        let Some((size, index)) = Self::lane_of(a, b) else { return self.undefined() };
        if self.lacks(self.lane_feature(size)) || self.no_d(&[d.into()]) || t == 15 {
            return self.undefined();
        }
        let v = self.reg(t);
        let place = crate::state::d(V::from(d).d()) + index * size.bytes() as u32;
        self.b.set(place, size.bytes(), v);
        Flow::Next
    }

    fn vmov_lane_to_core(&mut self, u: bool, a: u32, n: Vn, t: u32, b: u32) -> Flow {
        let Some((size, index)) = Self::lane_of(a, b) else { return self.undefined() };
        if size == MemOp::B4 && u || self.lacks(self.lane_feature(size)) || self.no_d(&[n.into()]) || t == 15 {
            return self.undefined();
        }
        let place = crate::state::d(V::from(n).d()) + index * size.bytes() as u32;
        let v = self.b.get(Ty::I32, place, size.bytes());
        let v = match size {
            MemOp::B1 if !u => self.b.sext8(v),
            MemOp::B2 if !u => self.b.sext16(v),
            _ => v,
        };
        self.set_reg(t, v);
        Flow::Next
    }

    fn vmov_core_d(&mut self, o: bool, u: u32, t: u32, m: V) -> Flow {
        if self.lacks(Features::VFP2) || self.no_d(&[m]) || t == 15 || u == 15 {
            return self.undefined();
        }
        let place = crate::state::d(m.d());
        self.move_pair(o, t, u, place, place + 4)
    }

    fn vmov_core_ss(&mut self, o: bool, u: u32, t: u32, m: V) -> Flow {
        let s = m.s();
        if self.lacks(Features::VFP2) || s == 31 || t == 15 || u == 15 {
            return self.undefined();
        }
        self.move_pair(o, t, u, crate::state::s(s), crate::state::s(s + 1))
    }

    fn move_pair(&mut self, to_core: bool, t: u32, u: u32, low: u32, high: u32) -> Flow {
        if to_core {
            let (x, y) = (self.b.get32(low), self.b.get32(high));
            self.set_reg(t, x);
            self.set_reg(u, y);
            return Flow::Next;
        }
        let (x, y) = (self.reg(t), self.reg(u));
        self.b.set32(low, x);
        self.b.set32(high, y);
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    fn f64s(words: &[u32], d1: f64, d2: f64) -> Machine {
        Machine::a32(words).set_d(1, d1.to_bits()).set_d(2, d2.to_bits())
    }

    /// Singles s0, s1, s2.
    fn f32s(word: u32, s: [f32; 3]) -> Machine {
        let [a, b, c] = s.map(|x| x.to_bits() as u64);
        Machine::a32(&[word]).set_d(0, b << 32 | a).set_d(1, c)
    }

    #[test]
    fn additions_round_by_fpscr() {
        // vadd.f64 d0, d1, d2
        let sum = |fpscr| f64s(&[0xee31_0b02], 1.0, 2f64.powi(-60)).set_fpscr(fpscr).run();
        assert_eq!(f64::from_bits(sum(0).d(0)), 1.0);
        assert_eq!(sum(1 << 22).d(0), 1f64.to_bits() + 1);
        assert_eq!(sum(1 << 22).fpscr(), 1 << 22 | 16, "rounding up, inexact");
    }

    #[test]
    fn vmla_rounds_twice_and_vfma_once() {
        // vmla.f32 s0, s1, s2; vfma.f32 s0, s1, s2
        let x = 1.0 + f32::EPSILON;
        let operands = [-(x * x), x, x];
        assert_eq!(f32s(0xee00_0a81, operands).run().d(0) as u32, 0);
        let fused = f32s(0xeea0_0a81, operands).run();
        assert_eq!(f32::from_bits(fused.d(0) as u32), f32::EPSILON * f32::EPSILON);
    }

    #[test]
    fn comparisons_set_the_flags_of_fpscr_and_then_apsr() {
        // vcmpe.f64 d1, #0.0; vmrs apsr_nzcv, fpscr
        let flags = |x| f64s(&[0xeeb5_1bc0, 0xeef1_fa10], x, 0.0).run();
        for (x, expected) in [(-1.0, "Nzcv"), (0.0, "nZCv"), (1.0, "nzCv"), (f64::NAN, "nzCV")] {
            assert_eq!(flags(x).nzcv(), expected, "{x}");
        }
        assert_eq!(flags(f64::NAN).fpscr() & 1, 1, "VCMPE of a NaN is invalid");
    }

    #[test]
    fn immediates_and_halves() {
        // vmov.f32 s3, #1.0; the other half of d1 stays
        let m = Machine::a32(&[0xeef7_1a00]).set_d(1, 7).run();
        assert_eq!(m.d(1), 0x3f80_0000_0000_0007);
        assert_eq!(expand_imm(FpFmt::F64, 0x70), 1f64.to_bits());
        assert_eq!(expand_imm(FpFmt::F16, 0xf0), 0xbc00);
        // vcvtb.f32.f16 s0, s1
        let m = Machine::a32(&[0xeeb2_0a60]).set_d(0, 0xffff_c000_0000_0000).run();
        assert_eq!(m.d(0) as u32, (-2f32).to_bits());
    }

    #[test]
    fn conversions_to_integers_saturate() {
        // vcvt.s32.f64 s0, d1; vcvtr.s32.f64 s0, d1
        assert_eq!(f64s(&[0xeebd_0bc1], 1e10, 0.0).run().d(0) as u32, 0x7fff_ffff);
        assert_eq!(f64s(&[0xeebd_0bc1], -2.7, 0.0).run().d(0) as u32, -2i32 as u32);
        assert_eq!(f64s(&[0xeebd_0b41], -2.7, 0.0).run().d(0) as u32, -3i32 as u32);
        // vcvt.f64.s32 d0, d0, #16
        let m = Machine::a32(&[0xeeba_0bc8]).set_d(0, 0xffff_8000).run();
        assert_eq!(f64::from_bits(m.d(0)), -0.5);
        // vrinta.f64 d0, d1
        assert_eq!(f64::from_bits(f64s(&[0xfeb8_0b41], 2.5, 0.0).run().d(0)), 3.0);
    }

    #[test]
    fn selections() {
        // vselge.f64 d0, d1, d2; vmaxnm.f32 s0, s1, s2
        assert_eq!(f64s(&[0xfe21_0b02], 1.0, 2.0).set_nzcv("nzcv").run().d(0), 1f64.to_bits());
        assert_eq!(f64s(&[0xfe21_0b02], 1.0, 2.0).set_nzcv("Nzcv").run().d(0), 2f64.to_bits());
        assert_eq!(f32s(0xfe80_0a81, [0.0, f32::NAN, 3.0]).run().d(0) as u32, 3f32.to_bits());
    }

    #[test]
    fn transfers_of_lanes() {
        // vmov.16 d3[2], r1; vmov.s8 r0, d3[5]; vmov r0, r1, d3
        let m = Machine::a32(&[0xee23_1b30]).set_r(1, 0xabcd_8765).set_d(3, u64::MAX).run();
        assert_eq!(m.d(3), 0xffff_8765_ffff_ffff);
        assert_eq!(Machine::a32(&[0xee73_0b30]).set_d(3, 0x8000_0000_0000).run().r(0), 0xffff_ff80);
        let m = Machine::a32(&[0xec51_0b13]).set_d(3, 0x1_0000_0002).run();
        assert_eq!((m.r(0), m.r(1)), (2, 1));
    }

    #[test]
    fn what_a_model_lacks_is_undefined() {
        let trap = |model, word| {
            let mut m = Machine::new(model);
            m.memory.code[..4].copy_from_slice(&u32::to_le_bytes(word));
            m.step(1);
            m.trap()
        };
        // vfma.f32; vadd.f64 d16, d1, d2; vadd.f64 d0, d1, d2
        assert_eq!(trap("cortex-a9", 0xeea0_0a81), Some(ir::TrapKind::Undefined));
        assert_eq!(trap("arm1176", 0xee71_0b02), Some(ir::TrapKind::Undefined));
        assert_eq!(trap("arm1176", 0xee31_0b02), None);
        assert_eq!(trap("arm946", 0xee31_0b02), Some(ir::TrapKind::Undefined));
    }
}
