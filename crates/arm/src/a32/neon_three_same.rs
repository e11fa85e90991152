//! Advanced SIMD, three registers of the same length. Arm ARM (DDI 0406C) A7.4.1; the SHA rows DDI 0487 F4.1.

use super::fp::{V, Vn};
use crate::{Features, Flow, Translator, helper};
use ir::{Builder, FpFmt, FpMode, Val};
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vhadd "1111 001u 0dss nnnn dddd 0000 nqm0 mmmm" (u, s, d, n, q, m);
    vqadd "1111 001u 0dss nnnn dddd 0000 nqm1 mmmm" (u, s, d, n, q, m);
    vrhadd "1111 001u 0dss nnnn dddd 0001 nqm0 mmmm" (u, s, d, n, q, m);
    vand "1111 0010 0d00 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    vbic "1111 0010 0d01 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    vorr "1111 0010 0d10 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    vorn "1111 0010 0d11 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    veor "1111 0011 0d00 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    vbsl "1111 0011 0d01 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    vbit "1111 0011 0d10 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    vbif "1111 0011 0d11 nnnn dddd 0001 nqm1 mmmm" (d, n, q, m);
    vhsub "1111 001u 0dss nnnn dddd 0010 nqm0 mmmm" (u, s, d, n, q, m);
    vqsub "1111 001u 0dss nnnn dddd 0010 nqm1 mmmm" (u, s, d, n, q, m);
    vcgt "1111 001u 0dss nnnn dddd 0011 nqm0 mmmm" (u, s, d, n, q, m);
    vcge "1111 001u 0dss nnnn dddd 0011 nqm1 mmmm" (u, s, d, n, q, m);
    vshl_reg "1111 001u 0dss nnnn dddd 0100 nqm0 mmmm" (u, s, d, n, q, m);
    vqshl_reg "1111 001u 0dss nnnn dddd 0100 nqm1 mmmm" (u, s, d, n, q, m);
    vrshl "1111 001u 0dss nnnn dddd 0101 nqm0 mmmm" (u, s, d, n, q, m);
    vqrshl "1111 001u 0dss nnnn dddd 0101 nqm1 mmmm" (u, s, d, n, q, m);
    vmax "1111 001u 0dss nnnn dddd 0110 nqm0 mmmm" (u, s, d, n, q, m);
    vmin "1111 001u 0dss nnnn dddd 0110 nqm1 mmmm" (u, s, d, n, q, m);
    vabd "1111 001u 0dss nnnn dddd 0111 nqm0 mmmm" (u, s, d, n, q, m);
    vaba "1111 001u 0dss nnnn dddd 0111 nqm1 mmmm" (u, s, d, n, q, m);
    vadd_int "1111 0010 0dss nnnn dddd 1000 nqm0 mmmm" (s, d, n, q, m);
    vsub_int "1111 0011 0dss nnnn dddd 1000 nqm0 mmmm" (s, d, n, q, m);
    vtst "1111 0010 0dss nnnn dddd 1000 nqm1 mmmm" (s, d, n, q, m);
    vceq "1111 0011 0dss nnnn dddd 1000 nqm1 mmmm" (s, d, n, q, m);
    vmla_int "1111 0010 0dss nnnn dddd 1001 nqm0 mmmm" (s, d, n, q, m);
    vmls_int "1111 0011 0dss nnnn dddd 1001 nqm0 mmmm" (s, d, n, q, m);
    vmul_int "1111 0010 0dss nnnn dddd 1001 nqm1 mmmm" (s, d, n, q, m);
    vmul_poly "1111 0011 0d00 nnnn dddd 1001 nqm1 mmmm" (d, n, q, m);
    vpmax "1111 001u 0dss nnnn dddd 1010 n0m0 mmmm" (u, s, d, n, m);
    vpmin "1111 001u 0dss nnnn dddd 1010 n0m1 mmmm" (u, s, d, n, m);
    vqdmulh "1111 0010 0dss nnnn dddd 1011 nqm0 mmmm" (s, d, n, q, m);
    vqrdmulh "1111 0011 0dss nnnn dddd 1011 nqm0 mmmm" (s, d, n, q, m);
    vpadd_int "1111 0010 0dss nnnn dddd 1011 n0m1 mmmm" (s, d, n, m);
    vqrdmlah "1111 0011 0dss nnnn dddd 1011 nqm1 mmmm" (s, d, n, q, m);
    vqrdmlsh "1111 0011 0dss nnnn dddd 1100 nqm1 mmmm" (s, d, n, q, m);
    /// SHA1C, SHA1P, SHA1M, SHA1SU0
    sha1_three "1111 0010 0dss nnnn dddd 1100 n1m0 mmmm" (s, d, n, m);
    /// SHA256H, SHA256H2, SHA256SU1
    sha256_three "1111 0011 0dss nnnn dddd 1100 n1m0 mmmm" (s, d, n, m);
    vfma_vec "1111 0010 0d0h nnnn dddd 1100 nqm1 mmmm" (h, d, n, q, m);
    vfms_vec "1111 0010 0d1h nnnn dddd 1100 nqm1 mmmm" (h, d, n, q, m);
    vadd_fp "1111 0010 0d0h nnnn dddd 1101 nqm0 mmmm" (h, d, n, q, m);
    vsub_fp "1111 0010 0d1h nnnn dddd 1101 nqm0 mmmm" (h, d, n, q, m);
    vpadd_fp "1111 0011 0d0h nnnn dddd 1101 n0m0 mmmm" (h, d, n, m);
    vabd_fp "1111 0011 0d1h nnnn dddd 1101 nqm0 mmmm" (h, d, n, q, m);
    vmla_fp "1111 0010 0d0h nnnn dddd 1101 nqm1 mmmm" (h, d, n, q, m);
    vmls_fp "1111 0010 0d1h nnnn dddd 1101 nqm1 mmmm" (h, d, n, q, m);
    vmul_fp "1111 0011 0d0h nnnn dddd 1101 nqm1 mmmm" (h, d, n, q, m);
    vceq_fp "1111 0010 0d0h nnnn dddd 1110 nqm0 mmmm" (h, d, n, q, m);
    vcge_fp "1111 0011 0d0h nnnn dddd 1110 nqm0 mmmm" (h, d, n, q, m);
    vcgt_fp "1111 0011 0d1h nnnn dddd 1110 nqm0 mmmm" (h, d, n, q, m);
    vacge "1111 0011 0d0h nnnn dddd 1110 nqm1 mmmm" (h, d, n, q, m);
    vacgt "1111 0011 0d1h nnnn dddd 1110 nqm1 mmmm" (h, d, n, q, m);
    vmax_fp "1111 0010 0d0h nnnn dddd 1111 nqm0 mmmm" (h, d, n, q, m);
    vmin_fp "1111 0010 0d1h nnnn dddd 1111 nqm0 mmmm" (h, d, n, q, m);
    vpmax_fp "1111 0011 0d0h nnnn dddd 1111 n0m0 mmmm" (h, d, n, m);
    vpmin_fp "1111 0011 0d1h nnnn dddd 1111 n0m0 mmmm" (h, d, n, m);
    vrecps "1111 0010 0d0h nnnn dddd 1111 nqm1 mmmm" (h, d, n, q, m);
    vrsqrts "1111 0010 0d1h nnnn dddd 1111 nqm1 mmmm" (h, d, n, q, m);
    vmaxnm_vec "1111 0011 0d0h nnnn dddd 1111 nqm1 mmmm" (h, d, n, q, m);
    vminnm_vec "1111 0011 0d1h nnnn dddd 1111 nqm1 mmmm" (h, d, n, q, m);
}

/// Sizes an instruction has, as a mask of log2 bytes.
const BHW: u8 = 0b0111;
const BHWD: u8 = 0b1111;
const HW: u8 = 0b0110;

/// The format of the float rows' size bit, and log2 of its bytes.
fn float_format(half: bool) -> (FpFmt, u8) {
    if half { (FpFmt::V16, 1) } else { (FpFmt::V32, 2) }
}

type Signed = fn(&mut Builder, bool, u8, Val, Val) -> Val;
type Sized = fn(&mut Builder, u8, Val, Val) -> Val;
type Logic = fn(&mut Builder, Val, Val) -> Val;
type Float = fn(&mut Builder, FpFmt, FpMode, Val, Val) -> Val;
type FloatAcc = fn(&mut Builder, FpFmt, FpMode, Val, Val, Val) -> Val;

macro_rules! signed {
    ($($name:ident $sizes:ident $op:expr;)*) => {$(
        #[allow(clippy::too_many_arguments)]
        fn $name(&mut self, u: bool, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
            let op: Signed = $op;
            self.three_same($sizes, s, d, n.into(), q, m, |t, x, y| op(&mut t.b, u, s, x, y))
        }
    )*};
}

macro_rules! sized {
    ($($name:ident $sizes:ident $op:expr;)*) => {$(
        fn $name(&mut self, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
            let op: Sized = $op;
            self.three_same($sizes, s, d, n.into(), q, m, |t, x, y| op(&mut t.b, s, x, y))
        }
    )*};
}

macro_rules! logic {
    ($($name:ident $op:expr;)*) => {$(
        fn $name(&mut self, d: V, n: Vn, q: bool, m: V) -> Flow {
            let op: Logic = $op;
            self.three_same(BHWD, 0, d, n.into(), q, m, |t, x, y| op(&mut t.b, x, y))
        }
    )*};
}

macro_rules! bitwise_select {
    ($($name:ident |$b:ident, $d:ident, $n:ident, $m:ident| $op:expr;)*) => {$(
        fn $name(&mut self, d: V, n: Vn, q: bool, m: V) -> Flow {
            self.three_same(BHWD, 0, d, n.into(), q, m, |t, $n, $m| {
                let $d = t.vec(q, d);
                let $b = &mut t.b;
                $op
            })
        }
    )*};
}

macro_rules! float {
    ($($name:ident $feature:ident $op:expr;)*) => {$(
        fn $name(&mut self, h: bool, d: V, n: Vn, q: bool, m: V) -> Flow {
            let op: Float = $op;
            if self.lacks(Features::$feature) {
                return self.undefined();
            }
            self.three_float(h, d, n.into(), q, m, |t, fmt, mode, x, y| op(&mut t.b, fmt, mode, x, y))
        }
    )*};
}

macro_rules! float_accumulate {
    ($($name:ident $feature:ident $op:expr;)*) => {$(
        fn $name(&mut self, h: bool, d: V, n: Vn, q: bool, m: V) -> Flow {
            let op: FloatAcc = $op;
            if self.lacks(Features::$feature) {
                return self.undefined();
            }
            self.three_float(h, d, n.into(), q, m, |t, fmt, mode, x, y| {
                let acc = t.vec(q, d);
                op(&mut t.b, fmt, mode, acc, x, y)
            })
        }
    )*};
}

macro_rules! float_pairs {
    ($($name:ident $op:expr;)*) => {$(
        fn $name(&mut self, h: bool, d: V, n: Vn, m: V) -> Flow {
            let op: Float = $op;
            self.three_float(h, d, n.into(), false, m, |t, fmt, mode, x, y| {
                let (even, odd) = t.pairs(fmt.log2(), x, y);
                op(&mut t.b, fmt, mode, even, odd)
            })
        }
    )*};
}

/// Lanes of all ones for true, as the comparison `a <= b` is the opposite of `a > b`.
fn not_greater(b: &mut Builder, u: bool, s: u8, x: Val, y: Val) -> Val {
    let greater = if u { b.vcmpgtu(s, x, y) } else { b.vcmpgts(s, x, y) };
    b.vnot(greater)
}

/// The greater less the smaller, modulo the lane.
pub(super) fn absolute_difference(b: &mut Builder, u: bool, s: u8, x: Val, y: Val) -> Val {
    let (high, low) = if u { (b.vmaxu(s, x, y), b.vminu(s, x, y)) } else { (b.vmaxs(s, x, y), b.vmins(s, x, y)) };
    b.vsub(s, high, low)
}

fn shift_right(b: &mut Builder, u: bool, s: u8, x: Val, n: u32) -> Val {
    if u { b.vshri(s, x, n) } else { b.vsari(s, x, n) }
}

impl Translator {
    /// Whether Advanced SIMD operands cannot be: no Advanced SIMD, or odd register numbers for quadwords.
    pub(super) fn no_neon(&self, q: bool, regs: &[V]) -> bool {
        self.lacks(Features::NEON) || q && regs.iter().any(|r| r.0 & 1 != 0)
    }

    #[allow(clippy::too_many_arguments)]
    fn three_same(
        &mut self,
        sizes: u8,
        s: u8,
        d: V,
        n: V,
        q: bool,
        m: V,
        op: impl FnOnce(&mut Self, Val, Val) -> Val,
    ) -> Flow {
        if sizes >> s & 1 == 0 || self.no_neon(q, &[d, n, m]) {
            return self.undefined();
        }
        let (x, y) = (self.vec(q, n), self.vec(q, m));
        let r = op(self, x, y);
        self.set_vec(q, d, r)
    }

    #[allow(clippy::too_many_arguments)]
    fn three_float(
        &mut self,
        half: bool,
        d: V,
        n: V,
        q: bool,
        m: V,
        op: impl FnOnce(&mut Self, FpFmt, FpMode, Val, Val) -> Val,
    ) -> Flow {
        if half && self.lacks(Features::FP16) {
            return self.undefined();
        }
        let (fmt, log2) = float_format(half);
        let mode = self.vector_mode(log2);
        self.three_same(BHWD, 0, d, n, q, m, |t, x, y| op(t, fmt, mode, x, y))
    }

    /// The first and the second lanes of the pairs of two doublewords, in the low halves.
    fn pairs(&mut self, log2: u8, x: Val, y: Val) -> (Val, Val) {
        let both = self.b.vconcat(x, y);
        let even = self.b.vuzp1(log2, both, both);
        let odd = self.b.vuzp2(log2, both, both);
        (self.b.vlow(even), self.b.vlow(odd))
    }

    signed! {
        // (x & y) + half of what differs.
        vhadd BHW |b, u, s, x, y| {
            let (common, differ) = (b.vand(x, y), b.vxor(x, y));
            let half = shift_right(b, u, s, differ, 1);
            b.vadd(s, common, half)
        };
        vrhadd BHW |b, u, s, x, y| {
            if u {
                return b.vavgu(s, x, y);
            }
            let (either, differ) = (b.vor(x, y), b.vxor(x, y));
            let half = b.vsari(s, differ, 1);
            b.vsub(s, either, half)
        };
        vhsub BHW |b, u, s, x, y| {
            let (borrow, differ) = (b.vandn(y, x), b.vxor(x, y));
            let half = shift_right(b, u, s, differ, 1);
            b.vsub(s, half, borrow)
        };
        vcgt BHW |b, u, s, x, y| if u { b.vcmpgtu(s, x, y) } else { b.vcmpgts(s, x, y) };
        vcge BHW |b, u, s, x, y| not_greater(b, u, s, y, x);
        // The value is in m, the shift in n.
        vshl_reg BHWD |b, u, s, x, y| if u { b.vshlu(s, y, x) } else { b.vshls(s, y, x) };
        vmax BHW |b, u, s, x, y| if u { b.vmaxu(s, x, y) } else { b.vmaxs(s, x, y) };
        vmin BHW |b, u, s, x, y| if u { b.vminu(s, x, y) } else { b.vmins(s, x, y) };
        vabd BHW absolute_difference;
    }

    sized! {
        vadd_int BHWD |b, s, x, y| b.vadd(s, x, y);
        vsub_int BHWD |b, s, x, y| b.vsub(s, x, y);
        vtst BHW |b, s, x, y| {
            let (common, zero) = (b.vand(x, y), b.vconst(0));
            let none = b.vcmpeq(s, common, zero);
            b.vnot(none)
        };
        vceq BHW |b, s, x, y| b.vcmpeq(s, x, y);
        vmul_int BHW |b, s, x, y| b.vmul(s, x, y);
    }

    logic! {
        vand |b, x, y| b.vand(x, y);
        vbic |b, x, y| b.vandn(x, y);
        vorr |b, x, y| b.vor(x, y);
        vorn |b, x, y| { let y = b.vnot(y); b.vor(x, y) };
        veor |b, x, y| b.vxor(x, y);
    }

    bitwise_select! {
        vbsl |b, d, n, m| b.vsel(d, n, m);
        vbit |b, d, n, m| b.vsel(m, n, d);
        vbif |b, d, n, m| b.vsel(m, d, n);
    }

    float! {
        vadd_fp NEON |b, f, m, x, y| b.fp_add(f, m, x, y);
        vsub_fp NEON |b, f, m, x, y| b.fp_sub(f, m, x, y);
        vabd_fp NEON |b, f, m, x, y| { let r = b.fp_sub(f, m, x, y); b.fp_abs(f, r) };
        vmul_fp NEON |b, f, m, x, y| b.fp_mul(f, m, x, y);
        vceq_fp NEON |b, f, m, x, y| b.fp_cmp_mask(f, m, x, y, 0);
        vcge_fp NEON |b, f, m, x, y| b.fp_cmp_mask(f, m, x, y, 1);
        vcgt_fp NEON |b, f, m, x, y| b.fp_cmp_mask(f, m, x, y, 2);
        vacge NEON |b, f, m, x, y| { let (x, y) = (b.fp_abs(f, x), b.fp_abs(f, y)); b.fp_cmp_mask(f, m, x, y, 1) };
        vacgt NEON |b, f, m, x, y| { let (x, y) = (b.fp_abs(f, x), b.fp_abs(f, y)); b.fp_cmp_mask(f, m, x, y, 2) };
        vmax_fp NEON |b, f, m, x, y| b.fp_max(f, m, x, y);
        vmin_fp NEON |b, f, m, x, y| b.fp_min(f, m, x, y);
        vrecps NEON |b, f, m, x, y| b.fp_recip_step(f, m, x, y);
        vrsqrts NEON |b, f, m, x, y| b.fp_rsqrt_step(f, m, x, y);
        vmaxnm_vec V8_FP |b, f, m, x, y| b.fp_maxnum(f, m, x, y);
        vminnm_vec V8_FP |b, f, m, x, y| b.fp_minnum(f, m, x, y);
    }

    float_accumulate! {
        vmla_fp NEON |b, f, m, a, x, y| { let p = b.fp_mul(f, m, x, y); b.fp_add(f, m, a, p) };
        vmls_fp NEON |b, f, m, a, x, y| { let p = b.fp_mul(f, m, x, y); b.fp_sub(f, m, a, p) };
        vfma_vec VFP4 |b, f, m, a, x, y| b.fp_fma(f, m, x, y, a);
        vfms_vec VFP4 |b, f, m, a, x, y| { let x = b.fp_neg(f, x); b.fp_fma(f, m, x, y, a) };
    }

    float_pairs! {
        vpadd_fp |b, f, m, x, y| b.fp_add(f, m, x, y);
        vpmax_fp |b, f, m, x, y| b.fp_max(f, m, x, y);
        vpmin_fp |b, f, m, x, y| b.fp_min(f, m, x, y);
    }

    #[allow(clippy::too_many_arguments)]
    fn vaba(&mut self, u: bool, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHW, s, d, n.into(), q, m, |t, x, y| {
            let difference = absolute_difference(&mut t.b, u, s, x, y);
            let acc = t.vec(q, d);
            t.b.vadd(s, acc, difference)
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn vqadd(&mut self, u: bool, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHWD, s, d, n.into(), q, m, |t, x, y| {
            let wrapped = t.b.vadd(s, x, y);
            let r = if u { t.b.vaddsu(s, x, y) } else { t.b.vaddss(s, x, y) };
            t.qc_if_differs(r, wrapped);
            r
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn vqsub(&mut self, u: bool, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHWD, s, d, n.into(), q, m, |t, x, y| {
            let wrapped = t.b.vsub(s, x, y);
            let r = if u { t.b.vsubsu(s, x, y) } else { t.b.vsubss(s, x, y) };
            t.qc_if_differs(r, wrapped);
            r
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn vqshl_reg(&mut self, u: bool, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHWD, s, d, n.into(), q, m, |t, x, y| {
            t.vec_helper(helper::QSHL, s as u128 | (u as u128) << 8, y, Some(x))
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn vqrshl(&mut self, u: bool, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHWD, s, d, n.into(), q, m, |t, x, y| {
            t.vec_helper(helper::QSHL, s as u128 | (u as u128) << 8 | 1 << 16, y, Some(x))
        })
    }

    /// The shifted value, plus the last bit shifted out where the shift goes right.
    #[allow(clippy::too_many_arguments)]
    fn vrshl(&mut self, u: bool, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHWD, s, d, n.into(), q, m, |t, by, x| {
            let one = t.splat(s, 1);
            let less = t.b.vadd(s, by, one);
            let b = &mut t.b;
            let (r, before) = if u {
                (b.vshlu(s, x, by), b.vshlu(s, x, less))
            } else {
                (b.vshls(s, x, by), b.vshls(s, x, less))
            };
            // Only the low byte of a lane counts.
            let sign = b.vshli(s, by, (8 << s) - 8);
            let right = b.vsari(s, sign, (8 << s) - 1);
            let last = b.vand(before, one);
            let last = b.vand(last, right);
            b.vadd(s, r, last)
        })
    }

    fn vmla_int(&mut self, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHW, s, d, n.into(), q, m, |t, x, y| {
            let (product, acc) = (t.b.vmul(s, x, y), t.vec(q, d));
            t.b.vadd(s, acc, product)
        })
    }

    fn vmls_int(&mut self, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHW, s, d, n.into(), q, m, |t, x, y| {
            let (product, acc) = (t.b.vmul(s, x, y), t.vec(q, d));
            t.b.vsub(s, acc, product)
        })
    }

    fn vmul_poly(&mut self, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(BHWD, 0, d, n.into(), q, m, |t, x, y| t.vec_helper(helper::PMUL_8, 0, x, Some(y)))
    }

    fn vpmax(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.three_same(BHW, s, d, n.into(), false, m, |t, x, y| {
            let (even, odd) = t.pairs(s, x, y);
            if u { t.b.vmaxu(s, even, odd) } else { t.b.vmaxs(s, even, odd) }
        })
    }

    fn vpmin(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.three_same(BHW, s, d, n.into(), false, m, |t, x, y| {
            let (even, odd) = t.pairs(s, x, y);
            if u { t.b.vminu(s, even, odd) } else { t.b.vmins(s, even, odd) }
        })
    }

    fn vpadd_int(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.three_same(BHW, s, d, n.into(), false, m, |t, x, y| {
            let both = t.b.vconcat(x, y);
            t.b.vpadd(s, both, both)
        })
    }

    fn vqdmulh(&mut self, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(HW, s, d, n.into(), q, m, |t, x, y| t.doubling_high(q, s, x, y, false))
    }

    fn vqrdmulh(&mut self, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.three_same(HW, s, d, n.into(), q, m, |t, x, y| t.doubling_high(q, s, x, y, true))
    }

    /// The high half of twice the product, saturated (and rounded).
    pub(super) fn doubling_high(&mut self, q: bool, s: u8, x: Val, y: Val, round: bool) -> Val {
        let low = self.doubling_high_half(s, x, y, round);
        if !q {
            return low;
        }
        let (x, y) = (self.b.vhigh(x), self.b.vhigh(y));
        let high = self.doubling_high_half(s, x, y, round);
        self.b.vconcat(low, high)
    }

    /// Of the low halves. Only MIN times MIN saturates; adding the rounding constant to its saturated double stays there.
    fn doubling_high_half(&mut self, s: u8, x: Val, y: Val, round: bool) -> Val {
        let mut r = self.doubled_product(s, x, y);
        if round {
            let half = self.splat(s + 1, 1 << ((8 << s) - 1));
            r = self.b.vaddss(s + 1, r, half);
        }
        let r = self.b.vshri(s + 1, r, 8 << s);
        self.b.vnarrow(s + 1, r)
    }

    /// Twice the double-width product of the low halves, saturated.
    pub(super) fn doubled_product(&mut self, s: u8, x: Val, y: Val) -> Val {
        let product = self.b.vmulws(s, x, y);
        let wrapped = self.b.vadd(s + 1, product, product);
        let r = self.b.vaddss(s + 1, product, product);
        self.qc_if_differs(r, wrapped);
        r
    }

    fn vqrdmlah(&mut self, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.rounding_accumulate(s, d, n, q, m, [helper::QRDMLAH_16, helper::QRDMLAH_32])
    }

    fn vqrdmlsh(&mut self, s: u8, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.rounding_accumulate(s, d, n, q, m, [helper::QRDMLSH_16, helper::QRDMLSH_32])
    }

    #[allow(clippy::too_many_arguments)]
    fn rounding_accumulate(&mut self, s: u8, d: V, n: Vn, q: bool, m: V, helpers: [u16; 2]) -> Flow {
        if self.lacks(Features::RDM) {
            return self.undefined();
        }
        self.three_same(HW, s, d, n.into(), q, m, |t, x, y| {
            let acc = t.vec(q, d);
            t.vec_helper3(helpers[s as usize - 1], acc, x, y)
        })
    }

    fn sha1_three(&mut self, s: usize, d: V, n: Vn, m: V) -> Flow {
        let step = [helper::SHA1C, helper::SHA1P, helper::SHA1M, helper::SHA1SU0][s];
        self.crypto_three(Features::SHA1, step, d, n, m)
    }

    fn sha256_three(&mut self, s: usize, d: V, n: Vn, m: V) -> Flow {
        match [helper::SHA256H, helper::SHA256H2, helper::SHA256SU1].get(s) {
            Some(step) => self.crypto_three(Features::SHA2, *step, d, n, m),
            None => self.undefined(),
        }
    }

    fn crypto_three(&mut self, feature: Features, step: u16, d: V, n: Vn, m: V) -> Flow {
        if self.lacks(feature) {
            return self.undefined();
        }
        self.three_same(BHWD, 0, d, n.into(), true, m, |t, x, y| {
            let acc = t.vec(true, d);
            t.vec_helper3(step, acc, x, y)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Machine;

    fn check(word: u32, d1: u64, d2: u64, expected: u64, qc: bool) {
        let m = Machine::a32(&[word]).set_d(1, d1).set_d(2, d2).run();
        assert_eq!(m.d(0), expected, "{word:#x}: {:#x}", m.d(0));
        assert_eq!(m.fpscr() >> 27 & 1 != 0, qc, "{word:#x}: QC");
    }

    #[test]
    fn saturation_is_cumulative() {
        // vqadd.s8 d0, d1, d2
        check(0xf201_0012, 0x7f_80_01, 0x01_ff_01, 0x7f_80_02, true);
        check(0xf201_0012, 0x10_20_01, 0x01_ff_01, 0x11_1f_02, false);
        // vqdmulh.s16 d0, d1, d2
        check(0xf211_0b02, 0x4000_8000, 0x4000_8000, 0x2000_7fff, true);
        // vqshl.s8 d0, d1, d2: the value is d1, the shift d2
        check(0xf202_0411, 0x40_ff_03, 0x01_f8_02, 0x7f_ff_0c, true);
    }

    #[test]
    fn pairs_come_from_both_operands() {
        // vpadd.i16 d0, d1, d2
        check(0xf211_0b12, 0x0004_0003_0002_0001, 0x0040_0030_0020_0010, 0x0070_0030_0007_0003, false);
    }

    #[test]
    fn reciprocal_steps_know_infinity_times_zero() {
        // vrecps.f32 d0, d1, d2
        check(0xf201_0f12, 0x7f80_0000_3f80_0000, 0x0000_0000_3f80_0000, 0x4000_0000_3f80_0000, false);
    }

    #[test]
    fn arithmetic_ignores_fpscr() {
        // vadd.f32 d0, d1, d2: denormals are flushed and NaNs are the default one
        let m = Machine::a32(&[0xf201_0d02]).set_d(1, 0x7f80_0001_0000_0001).set_d(2, 0).run();
        assert_eq!((m.d(0), m.fpscr()), (0x7fc0_0000_0000_0000, 0x81));
    }

    #[test]
    fn quadwords_have_even_numbers() {
        // vadd.i8 q0, q0, with an odd register
        let m = Machine::a32(&[0xf200_0841]).run();
        assert_eq!(m.trap(), Some(ir::TrapKind::Undefined));
    }
}
