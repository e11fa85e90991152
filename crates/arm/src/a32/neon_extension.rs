//! Later additions to Advanced SIMD: complex arithmetic, dot products, matrix products, half-precision and BFloat16 multiplies
//! into single precision. Arm ARM (DDI 0487) F4.1, "Advanced SIMD … in the coprocessor space".

use super::fp::{V, Vn};
use crate::{Features, Flow, Translator, helper, state};
use ir::{FpFmt, Ty, Val};
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vcadd "1111 110r 1d0h nnnn dddd 1000 nqm0 mmmm" (r, h, d, n, q, m);
    vcmla "1111 110r rd1h nnnn dddd 1000 nqm0 mmmm" (r, h, d, n, q, m);
    vcmla_scalar "1111 1110 hdrr nnnn dddd 1000 nqm0 mmmm" (r, h, d, n, q, m);
    /// VFMAL, VFMSL
    vfmal "1111 1100 sd10 nnnn dddd 1000 nqm1 mmmm" (s, d, n, q, m);
    vfmal_scalar "1111 1110 0d0s nnnn dddd 1000 nqm1 mmmm" (s, d, n, q, m);
    vsdot "1111 1100 0d10 nnnn dddd 1101 nqm0 mmmm" (d, n, q, m);
    vudot "1111 1100 0d10 nnnn dddd 1101 nqm1 mmmm" (d, n, q, m);
    vusdot "1111 1100 1d10 nnnn dddd 1101 nqm0 mmmm" (d, n, q, m);
    vdot_bf16 "1111 1100 0d00 nnnn dddd 1101 nqm0 mmmm" (d, n, q, m);
    vsdot_scalar "1111 1110 0d10 nnnn dddd 1101 nqi0 mmmm" (d, n, q, i, m);
    vudot_scalar "1111 1110 0d10 nnnn dddd 1101 nqi1 mmmm" (d, n, q, i, m);
    vusdot_scalar "1111 1110 1d00 nnnn dddd 1101 nqi0 mmmm" (d, n, q, i, m);
    vsudot_scalar "1111 1110 1d00 nnnn dddd 1101 nqi1 mmmm" (d, n, q, i, m);
    vdot_bf16_scalar "1111 1110 0d00 nnnn dddd 1101 nqi0 mmmm" (d, n, q, i, m);
    vsmmla "1111 1100 0d10 nnnn dddd 1100 n1m0 mmmm" (d, n, m);
    vummla "1111 1100 0d10 nnnn dddd 1100 n1m1 mmmm" (d, n, m);
    vusmmla "1111 1100 1d10 nnnn dddd 1100 n1m0 mmmm" (d, n, m);
    vmmla_bf16 "1111 1100 0d00 nnnn dddd 1100 n1m0 mmmm" (d, n, m);
    /// VFMAB, VFMAT (BFloat16)
    vfma_bf16 "1111 1100 0d11 nnnn dddd 1000 ntm1 mmmm" (d, n, t, m);
    vfma_bf16_scalar "1111 1110 0d11 nnnn dddd 1000 nti1 jmmm" (d, n, t, i, j, m);
}

impl Translator {
    /// Format, element size and whether the model has it: `h` is 0 for half precision.
    fn complex_format(&self, single: bool) -> Option<(FpFmt, u8)> {
        if self.lacks(Features::FCMA) || !single && self.lacks(Features::FP16) {
            return None;
        }
        Some(if single { (FpFmt::V32, 2) } else { (FpFmt::V16, 1) })
    }

    /// Sign bits of the real (even) or the imaginary (odd) elements.
    fn signs(&mut self, s: u8, real: bool, imaginary: bool) -> Val {
        let bits = 8u32 << s;
        let pair = (real as u64) << (bits - 1) | (imaginary as u64) << (2 * bits - 1);
        self.splat(s + 1, pair)
    }

    #[allow(clippy::too_many_arguments)]
    fn vcadd(&mut self, r: bool, h: bool, d: V, n: Vn, q: bool, m: V) -> Flow {
        let n = n.into();
        let Some((fmt, s)) = self.complex_format(h).filter(|_| !self.no_neon(q, &[d, n, m])) else {
            return self.undefined();
        };
        // n + i * m, or n - i * m: real and imaginary parts change places, one of them its sign.
        let (x, y) = (self.vec(q, n), self.vec(q, m));
        let swapped = self.b.vrev(s, y, s as u32 + 1);
        let signs = self.signs(s, !r, r);
        let turned = self.b.vxor(swapped, signs);
        let turned = if q { turned } else { self.b.vlow(turned) };
        let mode = self.vector_mode(s);
        let v = self.b.fp_add(fmt, mode, x, turned);
        self.set_vec(q, d, v)
    }

    #[allow(clippy::too_many_arguments)]
    fn vcmla(&mut self, r: u32, h: bool, d: V, n: Vn, q: bool, m: V) -> Flow {
        let n = n.into();
        let Some(format) = self.complex_format(h).filter(|_| !self.no_neon(q, &[d, n, m])) else {
            return self.undefined();
        };
        let y = self.vec(q, m);
        self.complex_accumulate(r, format, d, n, q, y)
    }

    #[allow(clippy::too_many_arguments)]
    fn vcmla_scalar(&mut self, r: u32, h: bool, d: V, n: Vn, q: bool, m: V) -> Flow {
        let n = n.into();
        let Some(format) = self.complex_format(h).filter(|_| !self.no_neon(q, &[d, n])) else {
            return self.undefined();
        };
        // Half precision: M chooses one of two pairs of Vm; single: M:Vm is the register.
        let (reg, index) = if h { (m, 0) } else { (V(m.0 & 15), m.0 >> 4) };
        let y = self.vec(false, reg);
        let y = self.b.vduplane(format.1 + 1, y, index);
        self.complex_accumulate(r, format, d, n, q, y)
    }

    /// d + half of the complex product: the real (r even) or the imaginary (r odd) part of n, times m turned by r quarters.
    fn complex_accumulate(&mut self, r: u32, (fmt, s): (FpFmt, u8), d: V, n: V, q: bool, y: Val) -> Flow {
        let (acc, x) = (self.vec(q, d), self.vec(q, n));
        let x = if r & 1 == 0 { self.b.vtrn1(s, x, x) } else { self.b.vtrn2(s, x, x) };
        let y = if r & 1 == 0 { y } else { self.b.vrev(s, y, s as u32 + 1) };
        let signs = self.signs(s, r == 1 || r == 2, r == 2 || r == 3);
        let y = self.b.vxor(y, signs);
        let (x, y) = if q { (x, y) } else { (self.b.vlow(x), self.b.vlow(y)) };
        let mode = self.vector_mode(s);
        let v = self.b.fp_fma(fmt, mode, x, y, acc);
        self.set_vec(q, d, v)
    }

    // ---- half precision and BFloat16 into single ---------------------------------------------------------------------

    /// The halves of a source: a single register for doubleword results, a doubleword for quadwords.
    fn halves(&mut self, q: bool, r: V) -> Val {
        if q { self.vec(false, r) } else { self.b.get(Ty::V128, state::s(r.s()), 4) }
    }

    fn vfmal(&mut self, s: bool, d: V, n: Vn, q: bool, m: V) -> Flow {
        if self.lacks(Features::FHM) || self.no_neon(q, &[d]) {
            return self.undefined();
        }
        let y = self.halves(q, m);
        self.half_accumulate(s, d, n.into(), q, y)
    }

    fn vfmal_scalar(&mut self, s: bool, d: V, n: Vn, q: bool, m: V) -> Flow {
        if self.lacks(Features::FHM) || self.no_neon(q, &[d]) {
            return self.undefined();
        }
        let (top, low) = (m.0 >> 4, m.0 & 15);
        let (offset, index) =
            if q { (state::d(low & 7), top << 1 | low >> 3) } else { (state::s((low & 7) << 1 | top), low >> 3) };
        let y = self.b.get(Ty::V128, offset, if q { 8 } else { 4 });
        let y = self.b.vduplane(1, y, index);
        self.half_accumulate(s, d, n.into(), q, y)
    }

    fn half_accumulate(&mut self, subtract: bool, d: V, n: V, q: bool, y: Val) -> Flow {
        let mut x = self.halves(q, n);
        if subtract {
            x = self.b.fp_neg(FpFmt::V16, x);
        }
        let acc = self.vec(q, d);
        let y = if q {
            self.b.vlow(y)
        } else {
            // Two halves; the lanes beyond multiply zeros.
            let mask = self.b.vconst(0xffff_ffff);
            self.b.vand(y, mask)
        };
        let v = self.vec_helper3(helper::FMAL, acc, x, y);
        self.set_vec(q, d, v)
    }

    fn vfma_bf16(&mut self, d: V, n: Vn, t: bool, m: V) -> Flow {
        let n = n.into();
        if self.lacks(Features::BF16) || self.no_neon(true, &[d, n, m]) {
            return self.undefined();
        }
        let y = self.vec(true, m);
        let y = self.bf16_lanes(t, y);
        self.bf16_accumulate(d, n, t, y)
    }

    #[allow(clippy::too_many_arguments)]
    fn vfma_bf16_scalar(&mut self, d: V, n: Vn, t: bool, i: u32, j: u32, m: V) -> Flow {
        let n = n.into();
        if self.lacks(Features::BF16) || self.no_neon(true, &[d, n]) {
            return self.undefined();
        }
        let y = self.vec(false, m);
        let y = self.b.vduplane(1, y, i << 1 | j);
        let y = self.bf16_lanes(false, y);
        self.bf16_accumulate(d, n, t, y)
    }

    /// Even (bottom) or odd (top) BFloat16 lanes as singles.
    fn bf16_lanes(&mut self, top: bool, v: Val) -> Val {
        if top {
            let mask = self.splat(2, 0xffff_0000);
            return self.b.vand(v, mask);
        }
        self.b.vshli(2, v, 16)
    }

    fn bf16_accumulate(&mut self, d: V, n: V, top: bool, y: Val) -> Flow {
        let x = self.vec(true, n);
        let x = self.bf16_lanes(top, x);
        let acc = self.vec(true, d);
        let mode = self.vector_mode(2);
        let v = self.b.fp_fma(FpFmt::V32, mode, x, y, acc);
        self.set_vec(true, d, v)
    }

    // ---- dot and matrix products -------------------------------------------------------------------------------------

    fn dot(&mut self, feature: Features, step: u16, d: V, n: V, q: bool, m: V) -> Flow {
        if self.lacks(feature) || self.no_neon(q, &[d, n, m]) {
            return self.undefined();
        }
        let (acc, x, y) = (self.vec(q, d), self.vec(q, n), self.vec(q, m));
        let v = self.vec_helper3(step, acc, x, y);
        self.set_vec(q, d, v)
    }

    /// `swap`: the scalar is the unsigned operand.
    #[allow(clippy::too_many_arguments)]
    fn dot_scalar(&mut self, feature: Features, step: u16, d: V, n: V, q: bool, (m, i): (u32, u32), swap: bool) -> Flow {
        if self.lacks(feature) || self.no_neon(q, &[d, n]) {
            return self.undefined();
        }
        let scalar = self.get_d(m);
        let y = self.b.vduplane(2, scalar, i);
        let (acc, x) = (self.vec(q, d), self.vec(q, n));
        let (x, y) = if swap { (y, x) } else { (x, y) };
        let v = self.vec_helper3(step, acc, x, y);
        self.set_vec(q, d, v)
    }

    fn vsdot(&mut self, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.dot(Features::DOT_PRODUCT, helper::SDOT, d, n.into(), q, m)
    }

    fn vudot(&mut self, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.dot(Features::DOT_PRODUCT, helper::UDOT, d, n.into(), q, m)
    }

    fn vusdot(&mut self, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.dot(Features::I8MM, helper::USDOT, d, n.into(), q, m)
    }

    fn vdot_bf16(&mut self, d: V, n: Vn, q: bool, m: V) -> Flow {
        self.dot(Features::BF16, helper::BFDOT, d, n.into(), q, m)
    }

    fn vsdot_scalar(&mut self, d: V, n: Vn, q: bool, i: u32, m: u32) -> Flow {
        self.dot_scalar(Features::DOT_PRODUCT, helper::SDOT, d, n.into(), q, (m, i), false)
    }

    fn vudot_scalar(&mut self, d: V, n: Vn, q: bool, i: u32, m: u32) -> Flow {
        self.dot_scalar(Features::DOT_PRODUCT, helper::UDOT, d, n.into(), q, (m, i), false)
    }

    fn vusdot_scalar(&mut self, d: V, n: Vn, q: bool, i: u32, m: u32) -> Flow {
        self.dot_scalar(Features::I8MM, helper::USDOT, d, n.into(), q, (m, i), false)
    }

    fn vsudot_scalar(&mut self, d: V, n: Vn, q: bool, i: u32, m: u32) -> Flow {
        self.dot_scalar(Features::I8MM, helper::USDOT, d, n.into(), q, (m, i), true)
    }

    fn vdot_bf16_scalar(&mut self, d: V, n: Vn, q: bool, i: u32, m: u32) -> Flow {
        self.dot_scalar(Features::BF16, helper::BFDOT, d, n.into(), q, (m, i), false)
    }

    fn vsmmla(&mut self, d: V, n: Vn, m: V) -> Flow {
        self.dot(Features::I8MM, helper::SMMLA, d, n.into(), true, m)
    }

    fn vummla(&mut self, d: V, n: Vn, m: V) -> Flow {
        self.dot(Features::I8MM, helper::UMMLA, d, n.into(), true, m)
    }

    fn vusmmla(&mut self, d: V, n: Vn, m: V) -> Flow {
        self.dot(Features::I8MM, helper::USMMLA, d, n.into(), true, m)
    }

    fn vmmla_bf16(&mut self, d: V, n: Vn, m: V) -> Flow {
        self.dot(Features::BF16, helper::BFMMLA, d, n.into(), true, m)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Machine;

    fn singles(v: [f32; 4]) -> u128 {
        v.iter().rev().fold(0, |acc, x| acc << 32 | x.to_bits() as u128)
    }

    #[test]
    fn complex_sums_and_products() {
        let (n, m) = (singles([1.0, 2.0, 3.0, 4.0]), singles([10.0, 20.0, 30.0, 40.0]));
        // vcadd.f32 q0, q1, q2, #90: n + i * m
        let sum = Machine::a32(&[0xfc92_0844]).set_q(1, n).set_q(2, m).run();
        assert_eq!(sum.q(0), singles([-19.0, 12.0, -37.0, 34.0]));
        // vcmla.f32 q0, q1, q2, #270: + (n.im * m.im, -n.im * m.re)
        let product = Machine::a32(&[0xfdb2_0844]).set_q(1, n).set_q(2, m).run();
        assert_eq!(product.q(0), singles([40.0, -20.0, 160.0, -120.0]));
    }

    #[test]
    fn dot_products_by_a_scalar() {
        // vsdot.s8 q0, q1, d4[1]
        let m = Machine::a32(&[0xfe22_0d64]).set_q(0, 100).set_q(1, 0x0102_03ff).set_d(4, 0x0102_0304 << 32).run();
        assert_eq!(m.q(0), 100 + 1 + 4 + 9 - 4);
    }

    #[test]
    fn t32_has_the_same_words() {
        // vsdot.s8 q0, q1, d4[1]
        let m = Machine::thumb(&[0xfe22, 0x0d64]).set_q(1, 1).set_d(4, 7 << 32).run();
        assert_eq!(m.q(0), 7);
    }
}
