//! Advanced SIMD, two registers, miscellaneous; VEXT, VTBL, VTBX and VDUP. Arm ARM (DDI 0406C) A7.4.5 and A7.4; the AES, SHA,
//! VRINT and VCVTA rows DDI 0487 F4.1.

use super::fp::{V, Vn};
use super::neon_shift::Narrow;
use super::vfp::directed;
use crate::{Features, Flow, Translator, helper};
use ir::{Builder, FpFmt, FpMode, Val};
use softfloat::Rounding;
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vext "1111 0010 1d11 nnnn dddd iiii nqm0 mmmm" (d, n, i, q, m);
    /// VTBL, VTBX
    vtbl "1111 0011 1d11 nnnn dddd 10ll nxm0 mmmm" (d, n, l, x, m);
    vdup_scalar "1111 0011 1d11 iiii dddd 1100 0qm0 mmmm" (d, i, q, m);

    vrev64 "1111 0011 1d11 ss00 dddd 0000 0qm0 mmmm" (s, d, q, m);
    vrev32 "1111 0011 1d11 ss00 dddd 0000 1qm0 mmmm" (s, d, q, m);
    vrev16 "1111 0011 1d11 ss00 dddd 0001 0qm0 mmmm" (s, d, q, m);
    vpaddl "1111 0011 1d11 ss00 dddd 0010 uqm0 mmmm" (s, d, u, q, m);
    /// AESE, AESD
    aes_round "1111 0011 1d11 0000 dddd 0011 0om0 mmmm" (d, o, m);
    /// AESMC, AESIMC
    aes_mix "1111 0011 1d11 0000 dddd 0011 1om0 mmmm" (d, o, m);
    vcls "1111 0011 1d11 ss00 dddd 0100 0qm0 mmmm" (s, d, q, m);
    vclz "1111 0011 1d11 ss00 dddd 0100 1qm0 mmmm" (s, d, q, m);
    vcnt "1111 0011 1d11 0000 dddd 0101 0qm0 mmmm" (d, q, m);
    vmvn "1111 0011 1d11 0000 dddd 0101 1qm0 mmmm" (d, q, m);
    vpadal "1111 0011 1d11 ss00 dddd 0110 uqm0 mmmm" (s, d, u, q, m);
    vqabs "1111 0011 1d11 ss00 dddd 0111 0qm0 mmmm" (s, d, q, m);
    vqneg "1111 0011 1d11 ss00 dddd 0111 1qm0 mmmm" (s, d, q, m);

    vcgt_zero "1111 0011 1d11 ss01 dddd 0000 0qm0 mmmm" (s, d, q, m);
    vcge_zero "1111 0011 1d11 ss01 dddd 0000 1qm0 mmmm" (s, d, q, m);
    vceq_zero "1111 0011 1d11 ss01 dddd 0001 0qm0 mmmm" (s, d, q, m);
    vcle_zero "1111 0011 1d11 ss01 dddd 0001 1qm0 mmmm" (s, d, q, m);
    vclt_zero "1111 0011 1d11 ss01 dddd 0010 0qm0 mmmm" (s, d, q, m);
    sha1h "1111 0011 1d11 1001 dddd 0010 11m0 mmmm" (d, m);
    vabs_int "1111 0011 1d11 ss01 dddd 0011 0qm0 mmmm" (s, d, q, m);
    vneg_int "1111 0011 1d11 ss01 dddd 0011 1qm0 mmmm" (s, d, q, m);
    vcgt_zero_fp "1111 0011 1d11 ss01 dddd 0100 0qm0 mmmm" (s, d, q, m);
    vcge_zero_fp "1111 0011 1d11 ss01 dddd 0100 1qm0 mmmm" (s, d, q, m);
    vceq_zero_fp "1111 0011 1d11 ss01 dddd 0101 0qm0 mmmm" (s, d, q, m);
    vcle_zero_fp "1111 0011 1d11 ss01 dddd 0101 1qm0 mmmm" (s, d, q, m);
    vclt_zero_fp "1111 0011 1d11 ss01 dddd 0110 0qm0 mmmm" (s, d, q, m);
    vabs_fp "1111 0011 1d11 ss01 dddd 0111 0qm0 mmmm" (s, d, q, m);
    vneg_fp "1111 0011 1d11 ss01 dddd 0111 1qm0 mmmm" (s, d, q, m);

    vswp "1111 0011 1d11 0010 dddd 0000 0qm0 mmmm" (d, q, m);
    vtrn "1111 0011 1d11 ss10 dddd 0000 1qm0 mmmm" (s, d, q, m);
    vuzp "1111 0011 1d11 ss10 dddd 0001 0qm0 mmmm" (s, d, q, m);
    vzip "1111 0011 1d11 ss10 dddd 0001 1qm0 mmmm" (s, d, q, m);
    vmovn "1111 0011 1d11 ss10 dddd 0010 00m0 mmmm" (s, d, m);
    vqmovun "1111 0011 1d11 ss10 dddd 0010 01m0 mmmm" (s, d, m);
    vqmovn "1111 0011 1d11 ss10 dddd 0010 1um0 mmmm" (s, d, u, m);
    /// VSHLL by the lane's width
    vshll_max "1111 0011 1d11 ss10 dddd 0011 00m0 mmmm" (s, d, m);
    sha1su1 "1111 0011 1d11 1010 dddd 0011 10m0 mmmm" (d, m);
    sha256su0 "1111 0011 1d11 1010 dddd 0011 11m0 mmmm" (d, m);
    vrintn_vec "1111 0011 1d11 ss10 dddd 0100 0qm0 mmmm" (s, d, q, m);
    vrintx_vec "1111 0011 1d11 ss10 dddd 0100 1qm0 mmmm" (s, d, q, m);
    vrinta_vec "1111 0011 1d11 ss10 dddd 0101 0qm0 mmmm" (s, d, q, m);
    vrintz_vec "1111 0011 1d11 ss10 dddd 0101 1qm0 mmmm" (s, d, q, m);
    vcvt_half_single "1111 0011 1d11 0110 dddd 0110 00m0 mmmm" (d, m);
    vcvt_bf16_single "1111 0011 1d11 0110 dddd 0110 01m0 mmmm" (d, m);
    vrintm_vec "1111 0011 1d11 ss10 dddd 0110 1qm0 mmmm" (s, d, q, m);
    vcvt_single_half "1111 0011 1d11 0110 dddd 0111 00m0 mmmm" (d, m);
    vrintp_vec "1111 0011 1d11 ss10 dddd 0111 1qm0 mmmm" (s, d, q, m);

    /// VCVTA, VCVTN, VCVTP, VCVTM
    vcvt_directed_vec "1111 0011 1d11 ss11 dddd 00rr uqm0 mmmm" (s, d, r, u, q, m);
    vrecpe_int "1111 0011 1d11 1011 dddd 0100 0qm0 mmmm" (d, q, m);
    vrsqrte_int "1111 0011 1d11 1011 dddd 0100 1qm0 mmmm" (d, q, m);
    vrecpe_fp "1111 0011 1d11 ss11 dddd 0101 0qm0 mmmm" (s, d, q, m);
    vrsqrte_fp "1111 0011 1d11 ss11 dddd 0101 1qm0 mmmm" (s, d, q, m);
    vcvt_from_int_vec "1111 0011 1d11 ss11 dddd 0110 uqm0 mmmm" (s, d, u, q, m);
    vcvt_to_int_vec "1111 0011 1d11 ss11 dddd 0111 uqm0 mmmm" (s, d, u, q, m);
}

type Sized = fn(&mut Builder, u8, Val) -> Val;
type Float = fn(&mut Builder, FpFmt, FpMode, Val) -> Val;

macro_rules! sized {
    ($($name:ident $op:expr;)*) => {$(
        fn $name(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
            let op: Sized = $op;
            self.two_misc(s < 3, d, q, m, |t, x| op(&mut t.b, s, x))
        }
    )*};
}

macro_rules! float {
    ($($name:ident $feature:ident $op:expr;)*) => {$(
        fn $name(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
            let op: Float = $op;
            self.two_float(Features::$feature, s, d, q, m, |t, fmt, mode, x| op(&mut t.b, fmt, mode, x))
        }
    )*};
}

impl Translator {
    fn two_misc(&mut self, possible: bool, d: V, q: bool, m: V, op: impl FnOnce(&mut Self, Val) -> Val) -> Flow {
        if !possible || self.no_neon(q, &[d, m]) {
            return self.undefined();
        }
        let x = self.vec(q, m);
        let r = op(self, x);
        self.set_vec(q, d, r)
    }

    /// Sizes 1 (half precision) and 2 (single).
    #[allow(clippy::too_many_arguments)]
    fn two_float(
        &mut self,
        feature: Features,
        s: u8,
        d: V,
        q: bool,
        m: V,
        op: impl FnOnce(&mut Self, FpFmt, FpMode, Val) -> Val,
    ) -> Flow {
        let possible = !self.lacks(feature) && (s == 2 || s == 1 && !self.lacks(Features::FP16));
        let mode = self.vector_mode(s);
        self.two_misc(possible, d, q, m, |t, x| op(t, FpFmt(s | 0x80), mode, x))
    }

    sized! {
        vrev64 |b, s, x| b.vrev(s, x, 3);
        vabs_int |b, s, x| b.vabs(s, x);
        vneg_int |b, s, x| b.vneg(s, x);
        vcgt_zero |b, s, x| { let zero = b.vconst(0); b.vcmpgts(s, x, zero) };
        vceq_zero |b, s, x| { let zero = b.vconst(0); b.vcmpeq(s, x, zero) };
        vclt_zero |b, s, x| { let zero = b.vconst(0); b.vcmpgts(s, zero, x) };
        vcge_zero |b, s, x| { let zero = b.vconst(0); let less = b.vcmpgts(s, zero, x); b.vnot(less) };
        vcle_zero |b, s, x| { let zero = b.vconst(0); let greater = b.vcmpgts(s, x, zero); b.vnot(greater) };
    }

    float! {
        vcgt_zero_fp NEON |b, f, m, x| { let zero = b.vconst(0); b.fp_cmp_mask(f, m, x, zero, 2) };
        vcge_zero_fp NEON |b, f, m, x| { let zero = b.vconst(0); b.fp_cmp_mask(f, m, x, zero, 1) };
        vceq_zero_fp NEON |b, f, m, x| { let zero = b.vconst(0); b.fp_cmp_mask(f, m, x, zero, 0) };
        vcle_zero_fp NEON |b, f, m, x| { let zero = b.vconst(0); b.fp_cmp_mask(f, m, zero, x, 1) };
        vclt_zero_fp NEON |b, f, m, x| { let zero = b.vconst(0); b.fp_cmp_mask(f, m, zero, x, 2) };
        vabs_fp NEON |b, f, _, x| b.fp_abs(f, x);
        vneg_fp NEON |b, f, _, x| b.fp_neg(f, x);
        vrintn_vec V8_FP |b, f, m, x| b.fp_rint(f, m, x, false);
        vrintx_vec V8_FP |b, f, m, x| b.fp_rint(f, m, x, true);
        vrinta_vec V8_FP |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::NearestAway), x, false);
        vrintz_vec V8_FP |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::Zero), x, false);
        vrintm_vec V8_FP |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::Down), x, false);
        vrintp_vec V8_FP |b, f, m, x| b.fp_rint(f, m.with_rounding(Rounding::Up), x, false);
    }

    fn vrev32(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_misc(s < 2, d, q, m, |t, x| t.b.vrev(s, x, 2))
    }

    fn vrev16(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_misc(s < 1, d, q, m, |t, x| t.b.vrev(s, x, 1))
    }

    fn vcls(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_misc(s < 3, d, q, m, |t, x| t.vec_helper(helper::CLS, s as u128, x, None))
    }

    fn vclz(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_misc(s < 3, d, q, m, |t, x| t.vec_helper(helper::CLZ, s as u128, x, None))
    }

    fn vcnt(&mut self, d: V, q: bool, m: V) -> Flow {
        self.two_misc(true, d, q, m, |t, x| t.b.vpopcnt(x))
    }

    fn vmvn(&mut self, d: V, q: bool, m: V) -> Flow {
        self.two_misc(true, d, q, m, |t, x| t.b.vnot(x))
    }

    /// Sums of neighbours in lanes twice as wide.
    fn pairwise_long(&mut self, u: bool, s: u8, x: Val) -> Val {
        let (w, bits) = (s + 1, 8 << s);
        let up = self.b.vshli(w, x, bits);
        let b = &mut self.b;
        let (even, odd) =
            if u { (b.vshri(w, up, bits), b.vshri(w, x, bits)) } else { (b.vsari(w, up, bits), b.vsari(w, x, bits)) };
        b.vadd(w, even, odd)
    }

    fn vpaddl(&mut self, s: u8, d: V, u: bool, q: bool, m: V) -> Flow {
        self.two_misc(s < 3, d, q, m, |t, x| t.pairwise_long(u, s, x))
    }

    fn vpadal(&mut self, s: u8, d: V, u: bool, q: bool, m: V) -> Flow {
        self.two_misc(s < 3, d, q, m, |t, x| {
            let (sums, acc) = (t.pairwise_long(u, s, x), t.vec(q, d));
            t.b.vadd(s + 1, acc, sums)
        })
    }

    fn vqabs(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_misc(s < 3, d, q, m, |t, x| {
            let wrapped = t.b.vabs(s, x);
            let max = t.splat(s, (1 << ((8u32 << s) - 1)) - 1);
            let r = t.b.vminu(s, wrapped, max);
            t.qc_if_differs(r, wrapped);
            r
        })
    }

    fn vqneg(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_misc(s < 3, d, q, m, |t, x| {
            let (wrapped, zero) = (t.b.vneg(s, x), t.b.vconst(0));
            let r = t.b.vsubss(s, zero, x);
            t.qc_if_differs(r, wrapped);
            r
        })
    }

    // ---- permutations ------------------------------------------------------------------------------------------------

    fn vext(&mut self, d: V, n: Vn, i: u32, q: bool, m: V) -> Flow {
        let n = n.into();
        if self.no_neon(q, &[d, n, m]) || !q && i >= 8 {
            return self.undefined();
        }
        let (x, y) = (self.vec(q, n), self.vec(q, m));
        let r = if q {
            self.b.vext(x, y, i)
        } else {
            let (both, zero) = (self.b.vconcat(x, y), self.b.vconst(0));
            self.b.vext(both, zero, i)
        };
        self.set_vec(q, d, r)
    }

    /// The table is `l + 1` doublewords; past its end VTBL gives 0 and VTBX keeps the destination's byte.
    fn vtbl(&mut self, d: V, n: Vn, l: u32, x: bool, m: V) -> Flow {
        let first = V::from(n).d();
        if self.no_neon(false, &[]) || first + l >= 32 {
            return self.undefined();
        }
        let index = self.vec(false, m);
        let low = self.table(first, l > 0);
        let mut r = self.b.vtbl(low, index);
        if l >= 2 {
            let (high, sixteen) = (self.table(first + 2, l > 2), self.splat(0, 16));
            let index = self.b.vsub(0, index, sixteen);
            let more = self.b.vtbl(high, index);
            r = self.b.vor(r, more);
        }
        if x {
            let (size, old) = (self.splat(0, 8 * (l as u64 + 1)), self.vec(false, d));
            let inside = self.b.vcmpgtu(0, size, index);
            r = self.b.vsel(inside, r, old);
        }
        self.set_vec(false, d, r)
    }

    /// One or two doublewords.
    fn table(&mut self, first: u32, two: bool) -> Val {
        let low = self.get_d(first);
        if !two {
            return low;
        }
        let high = self.get_d(first + 1);
        self.b.vconcat(low, high)
    }

    fn vdup_scalar(&mut self, d: V, i: u32, q: bool, m: V) -> Flow {
        let s = i.trailing_zeros() as u8;
        if s > 2 || self.no_neon(q, &[d]) {
            return self.undefined();
        }
        let x = self.vec(false, m);
        let r = self.b.vduplane(s, x, i >> (s + 1));
        self.set_vec(q, d, r)
    }

    /// Operations that write both registers.
    fn two_results(&mut self, possible: bool, d: V, q: bool, m: V, op: impl FnOnce(&mut Self, Val, Val) -> (Val, Val)) -> Flow {
        if !possible || self.no_neon(q, &[d, m]) {
            return self.undefined();
        }
        let (x, y) = (self.vec(q, d), self.vec(q, m));
        let (first, second) = op(self, x, y);
        self.set_vec(q, d, first);
        self.set_vec(q, m, second)
    }

    fn vswp(&mut self, d: V, q: bool, m: V) -> Flow {
        self.two_results(true, d, q, m, |_, x, y| (y, x))
    }

    fn vtrn(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_results(s < 3, d, q, m, |t, x, y| (t.b.vtrn1(s, x, y), t.b.vtrn2(s, x, y)))
    }

    fn vuzp(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_results(s < 2 || s == 2 && q, d, q, m, |t, x, y| {
            if q {
                return (t.b.vuzp1(s, x, y), t.b.vuzp2(s, x, y));
            }
            let both = t.b.vconcat(x, y);
            (t.b.vuzp1(s, both, both), t.b.vuzp2(s, both, both))
        })
    }

    fn vzip(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_results(s < 2 || s == 2 && q, d, q, m, |t, x, y| {
            let first = t.b.vzip1(s, x, y);
            (first, if q { t.b.vzip2(s, x, y) } else { t.b.vhigh(first) })
        })
    }

    // ---- narrowing and widening --------------------------------------------------------------------------------------

    fn vmovn(&mut self, s: u8, d: V, m: V) -> Flow {
        if s == 3 || self.no_neon(true, &[m]) {
            return self.undefined();
        }
        let x = self.vec(true, m);
        let r = self.b.vnarrow(s + 1, x);
        self.set_vec(false, d, r)
    }

    fn vqmovun(&mut self, s: u8, d: V, m: V) -> Flow {
        self.narrow_move(s, d, m, Narrow::SignedToUnsigned)
    }

    fn vqmovn(&mut self, s: u8, d: V, u: bool, m: V) -> Flow {
        self.narrow_move(s, d, m, if u { Narrow::Unsigned } else { Narrow::Signed })
    }

    fn narrow_move(&mut self, s: u8, d: V, m: V, kind: Narrow) -> Flow {
        if s == 3 || self.no_neon(true, &[m]) {
            return self.undefined();
        }
        let x = self.vec(true, m);
        self.saturating_narrow(s + 1, d, x, kind)
    }

    fn vshll_max(&mut self, s: u8, d: V, m: V) -> Flow {
        if s == 3 || self.no_neon(true, &[d]) {
            return self.undefined();
        }
        let x = self.vec(false, m);
        let r = self.b.vwidenu(s, x);
        let r = self.b.vshli(s + 1, r, 8 << s);
        self.set_vec(true, d, r)
    }

    // ---- floating point ----------------------------------------------------------------------------------------------

    fn vcvt_half_single(&mut self, d: V, m: V) -> Flow {
        self.narrow_float(Features::FP16_CONVERT, 0, d, m)
    }

    fn vcvt_bf16_single(&mut self, d: V, m: V) -> Flow {
        self.narrow_float(Features::BF16, 1 << 8, d, m)
    }

    fn narrow_float(&mut self, feature: Features, kind: u128, d: V, m: V) -> Flow {
        if self.lacks(feature) || self.no_neon(true, &[m]) {
            return self.undefined();
        }
        let x = self.vec(true, m);
        let r = self.vec_helper(helper::CVT_F32_F16, self.vector_mode(2).0 as u128 | kind, x, None);
        self.set_vec(false, d, r)
    }

    fn vcvt_single_half(&mut self, d: V, m: V) -> Flow {
        if self.lacks(Features::FP16_CONVERT) || self.no_neon(true, &[d]) {
            return self.undefined();
        }
        let x = self.vec(false, m);
        let r = self.vec_helper(helper::CVT_F16_F32, self.vector_mode(2).0 as u128, x, None);
        self.set_vec(true, d, r)
    }

    #[allow(clippy::too_many_arguments)]
    fn vcvt_directed_vec(&mut self, s: u8, d: V, r: u32, u: bool, q: bool, m: V) -> Flow {
        self.two_float(Features::V8_FP, s, d, q, m, |t, fmt, mode, x| {
            t.b.fp_to_int(fmt, mode.with_rounding(directed(r)), x, !u, s as u32, 0)
        })
    }

    fn vcvt_from_int_vec(&mut self, s: u8, d: V, u: bool, q: bool, m: V) -> Flow {
        self.two_float(Features::NEON, s, d, q, m, |t, fmt, mode, x| t.b.fp_from_int(fmt, mode, x, !u, s as u32, 0))
    }

    fn vcvt_to_int_vec(&mut self, s: u8, d: V, u: bool, q: bool, m: V) -> Flow {
        self.two_float(Features::NEON, s, d, q, m, |t, fmt, mode, x| {
            t.b.fp_to_int(fmt, mode.with_rounding(Rounding::Zero), x, !u, s as u32, 0)
        })
    }

    fn vrecpe_int(&mut self, d: V, q: bool, m: V) -> Flow {
        self.two_misc(true, d, q, m, |t, x| t.vec_helper(helper::RECPE_U32, 0, x, None))
    }

    fn vrsqrte_int(&mut self, d: V, q: bool, m: V) -> Flow {
        self.two_misc(true, d, q, m, |t, x| t.vec_helper(helper::RSQRTE_U32, 0, x, None))
    }

    fn vrecpe_fp(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_float(Features::NEON, s, d, q, m, |t, fmt, mode, x| {
            let x = t.with_ones_above(q, s, x);
            t.b.fp_recip_est(fmt, mode, x)
        })
    }

    fn vrsqrte_fp(&mut self, s: u8, d: V, q: bool, m: V) -> Flow {
        self.two_float(Features::NEON, s, d, q, m, |t, fmt, mode, x| {
            let x = t.with_ones_above(q, s, x);
            t.b.fp_rsqrt_est(fmt, mode, x)
        })
    }

    /// A doubleword operand with 1.0 in the lanes that do not count: estimates of zero raise DZC.
    fn with_ones_above(&mut self, q: bool, s: u8, x: Val) -> Val {
        if q {
            return x;
        }
        let ones = self.splat(s, if s == 1 { 0x3c00 } else { 0x3f80_0000 });
        self.b.vconcat(x, ones)
    }

    // ---- cryptography ------------------------------------------------------------------------------------------------

    fn aes_round(&mut self, d: V, o: bool, m: V) -> Flow {
        let possible = !self.lacks(Features::AES);
        self.two_misc(possible, d, true, m, |t, key| {
            let state = t.vec(true, d);
            t.vec_helper(if o { helper::AESD } else { helper::AESE }, 0, state, Some(key))
        })
    }

    fn aes_mix(&mut self, d: V, o: bool, m: V) -> Flow {
        let possible = !self.lacks(Features::AES);
        let step = if o { helper::AESIMC } else { helper::AESMC };
        self.two_misc(possible, d, true, m, |t, x| t.vec_helper(step, 0, x, None))
    }

    fn sha1h(&mut self, d: V, m: V) -> Flow {
        let possible = !self.lacks(Features::SHA1);
        self.two_misc(possible, d, true, m, |t, x| t.vec_helper(helper::SHA1H, 0, x, None))
    }

    fn sha1su1(&mut self, d: V, m: V) -> Flow {
        self.schedule(Features::SHA1, helper::SHA1SU1, d, m)
    }

    fn sha256su0(&mut self, d: V, m: V) -> Flow {
        self.schedule(Features::SHA2, helper::SHA256SU0, d, m)
    }

    fn schedule(&mut self, feature: Features, step: u16, d: V, m: V) -> Flow {
        let possible = !self.lacks(feature);
        self.two_misc(possible, d, true, m, |t, x| {
            let old = t.vec(true, d);
            t.vec_helper(step, 0, old, Some(x))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Machine;

    #[test]
    fn tables_of_three_doublewords() {
        // vtbx.8 d0, {d1,d2,d3}, d4
        let m = Machine::a32(&[0xf3b1_0a44])
            .set_d(0, 0xaaaa_aaaa_aaaa_aaaa)
            .set_d(1, 0x0706_0504_0302_0100)
            .set_d(2, 0x0f0e_0d0c_0b0a_0908)
            .set_d(3, 0x1716_1514_1312_1110)
            .set_d(4, 0xff_18_17_10_0f_08_07_00)
            .run();
        assert_eq!(m.d(0), 0xaa_aa_17_10_0f_08_07_00);
    }

    #[test]
    fn permutations_of_doublewords() {
        let m = |word| Machine::a32(&[word]).set_d(0, 0x0706_0504_0302_0100).set_d(1, 0x1716_1514_1312_1110);
        // vzip.8 d0, d1
        let zipped = m(0xf3b2_0181).run();
        assert_eq!((zipped.d(0), zipped.d(1)), (0x1303_1202_1101_1000, 0x1707_1606_1505_1404));
        // vrev32.8 d0, d1
        assert_eq!(m(0xf3b0_0081).run().d(0), 0x1415_1617_1011_1213);
        // vext.8 d0, d1, d2, #3
        assert_eq!(m(0xf2b1_0302).set_d(2, 0xff_ee_dd).run().d(0), 0xffee_dd17_1615_1413);
        // vdup.16 q0, d2[1]
        let m = m(0xf3b6_0c42).set_d(2, 0x1234_0000).run();
        assert_eq!(m.q(0), 0x1234_1234_1234_1234_1234_1234_1234_1234);
    }

    #[test]
    fn estimates_of_zero_divide_by_zero_once_asked() {
        // vrecpe.f32 d0, d1: the unused upper half of a doubleword must not raise DZC
        let m = |d1| Machine::a32(&[0xf3bb_0501]).set_d(1, d1).run();
        assert_eq!(m(0x3f80_0000_4000_0000).fpscr(), 0);
        assert_eq!(m(0x3f80_0000_0000_0000).fpscr(), 2);
    }

    #[test]
    fn aes_rounds() {
        // aese.8 q0, q1: equal state and key leave the S-box of 0
        let m = Machine::a32(&[0xf3b0_0302]).set_q(0, 0x55).set_q(1, 0x55).run();
        assert_eq!(m.q(0), 0x6363_6363_6363_6363_6363_6363_6363_6363);
    }
}
