//! Advanced SIMD, two registers and a scalar. Arm ARM (DDI 0406C) A7.4.3.

use super::fp::{V, Vn};
use super::neon_three_different::Into as Acc;
use crate::{Features, Flow, Translator, helper};
use ir::{FpFmt, Val};
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vmla_scalar "1111 001q 1dss nnnn dddd 0000 n1m0 mmmm" (q, s, d, n, m);
    vmla_scalar_fp "1111 001q 1dss nnnn dddd 0001 n1m0 mmmm" (q, s, d, n, m);
    vmlal_scalar "1111 001u 1dss nnnn dddd 0010 n1m0 mmmm" (u, s, d, n, m);
    vqdmlal_scalar "1111 0010 1dss nnnn dddd 0011 n1m0 mmmm" (s, d, n, m);
    vmls_scalar "1111 001q 1dss nnnn dddd 0100 n1m0 mmmm" (q, s, d, n, m);
    vmls_scalar_fp "1111 001q 1dss nnnn dddd 0101 n1m0 mmmm" (q, s, d, n, m);
    vmlsl_scalar "1111 001u 1dss nnnn dddd 0110 n1m0 mmmm" (u, s, d, n, m);
    vqdmlsl_scalar "1111 0010 1dss nnnn dddd 0111 n1m0 mmmm" (s, d, n, m);
    vmul_scalar "1111 001q 1dss nnnn dddd 1000 n1m0 mmmm" (q, s, d, n, m);
    vmul_scalar_fp "1111 001q 1dss nnnn dddd 1001 n1m0 mmmm" (q, s, d, n, m);
    vmull_scalar "1111 001u 1dss nnnn dddd 1010 n1m0 mmmm" (u, s, d, n, m);
    vqdmull_scalar "1111 0010 1dss nnnn dddd 1011 n1m0 mmmm" (s, d, n, m);
    vqdmulh_scalar "1111 001q 1dss nnnn dddd 1100 n1m0 mmmm" (q, s, d, n, m);
    vqrdmulh_scalar "1111 001q 1dss nnnn dddd 1101 n1m0 mmmm" (q, s, d, n, m);
    vqrdmlah_scalar "1111 001q 1dss nnnn dddd 1110 n1m0 mmmm" (q, s, d, n, m);
    vqrdmlsh_scalar "1111 001q 1dss nnnn dddd 1111 n1m0 mmmm" (q, s, d, n, m);
}

/// The register and lane that M:Vm name: halves d0-d7, words d0-d15.
pub(super) fn scalar_of(s: u8, m: V) -> (V, u32) {
    if s == 1 { (V(m.0 & 7), m.0 >> 3) } else { (V(m.0 & 15), m.0 >> 4) }
}

impl Translator {
    /// All lanes of the scalar; `None` where the sizes or registers are UNDEFINED.
    fn scalar_operand(&mut self, q: bool, s: u8, regs: &[V], m: V) -> Option<Val> {
        if s == 0 || s == 3 || self.no_neon(q, regs) {
            return None;
        }
        let (r, index) = scalar_of(s, m);
        let v = self.vec(false, r);
        Some(self.b.vduplane(s, v, index))
    }

    /// An operation on vectors of one length.
    #[allow(clippy::too_many_arguments)]
    fn by_scalar(&mut self, q: bool, s: u8, d: V, n: V, m: V, op: impl FnOnce(&mut Self, Val, Val) -> Val) -> Flow {
        let Some(y) = self.scalar_operand(q, s, &[d, n], m) else { return self.undefined() };
        let y = if q { y } else { self.b.vlow(y) };
        let x = self.vec(q, n);
        let r = op(self, x, y);
        self.set_vec(q, d, r)
    }

    fn vmul_scalar(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.by_scalar(q, s, d, n.into(), m, |t, x, y| t.b.vmul(s, x, y))
    }

    fn vmla_scalar(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.by_scalar(q, s, d, n.into(), m, |t, x, y| {
            let (product, acc) = (t.b.vmul(s, x, y), t.vec(q, d));
            t.b.vadd(s, acc, product)
        })
    }

    fn vmls_scalar(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.by_scalar(q, s, d, n.into(), m, |t, x, y| {
            let (product, acc) = (t.b.vmul(s, x, y), t.vec(q, d));
            t.b.vsub(s, acc, product)
        })
    }

    /// The product in the standard mode, added to or taken from the destination.
    #[allow(clippy::too_many_arguments)]
    fn float_by_scalar(&mut self, q: bool, s: u8, d: V, n: V, m: V, into: Acc) -> Flow {
        let fmt = match s {
            1 if !self.lacks(Features::FP16) => FpFmt::V16,
            2 => FpFmt::V32,
            _ => return self.undefined(),
        };
        let mode = self.vector_mode(s);
        self.by_scalar(q, s, d, n, m, |t, x, y| {
            let product = t.b.fp_mul(fmt, mode, x, y);
            match into {
                Acc::Nothing => product,
                Acc::Add => {
                    let acc = t.vec(q, d);
                    t.b.fp_add(fmt, mode, acc, product)
                }
                Acc::Sub => {
                    let acc = t.vec(q, d);
                    t.b.fp_sub(fmt, mode, acc, product)
                }
            }
        })
    }

    fn vmul_scalar_fp(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.float_by_scalar(q, s, d, n.into(), m, Acc::Nothing)
    }

    fn vmla_scalar_fp(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.float_by_scalar(q, s, d, n.into(), m, Acc::Add)
    }

    fn vmls_scalar_fp(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.float_by_scalar(q, s, d, n.into(), m, Acc::Sub)
    }

    /// Double-width products of a doubleword and the scalar.
    #[allow(clippy::too_many_arguments)]
    fn long_by_scalar(&mut self, u: bool, s: u8, d: V, n: V, m: V, into: Acc) -> Flow {
        let Some(y) = self.scalar_operand(true, s, &[d], m) else { return self.undefined() };
        let x = self.vec(false, n);
        let r = self.product(u, s, x, y);
        self.accumulate(s + 1, d, r, into)
    }

    fn vmull_scalar(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_by_scalar(u, s, d, n.into(), m, Acc::Nothing)
    }

    fn vmlal_scalar(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_by_scalar(u, s, d, n.into(), m, Acc::Add)
    }

    fn vmlsl_scalar(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_by_scalar(u, s, d, n.into(), m, Acc::Sub)
    }

    fn doubling_by_scalar(&mut self, s: u8, d: V, n: V, m: V, into: Acc) -> Flow {
        let Some(y) = self.scalar_operand(true, s, &[d], m) else { return self.undefined() };
        let x = self.vec(false, n);
        self.doubling_long(s, d, x, y, into)
    }

    fn vqdmull_scalar(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.doubling_by_scalar(s, d, n.into(), m, Acc::Nothing)
    }

    fn vqdmlal_scalar(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.doubling_by_scalar(s, d, n.into(), m, Acc::Add)
    }

    fn vqdmlsl_scalar(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.doubling_by_scalar(s, d, n.into(), m, Acc::Sub)
    }

    fn vqdmulh_scalar(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.by_scalar(q, s, d, n.into(), m, |t, x, y| t.doubling_high(q, s, x, y, false))
    }

    fn vqrdmulh_scalar(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.by_scalar(q, s, d, n.into(), m, |t, x, y| t.doubling_high(q, s, x, y, true))
    }

    fn vqrdmlah_scalar(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.rounding_by_scalar(q, s, d, n.into(), m, [helper::QRDMLAH_16, helper::QRDMLAH_32])
    }

    fn vqrdmlsh_scalar(&mut self, q: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.rounding_by_scalar(q, s, d, n.into(), m, [helper::QRDMLSH_16, helper::QRDMLSH_32])
    }

    #[allow(clippy::too_many_arguments)]
    fn rounding_by_scalar(&mut self, q: bool, s: u8, d: V, n: V, m: V, helpers: [u16; 2]) -> Flow {
        if self.lacks(Features::RDM) {
            return self.undefined();
        }
        self.by_scalar(q, s, d, n, m, |t, x, y| {
            let acc = t.vec(q, d);
            t.vec_helper3(helpers[s as usize - 1], acc, x, y)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    #[test]
    fn scalars_are_in_the_low_registers() {
        assert_eq!(scalar_of(1, V(0b11_010)), (V(2), 3));
        assert_eq!(scalar_of(2, V(0b1_0101)), (V(5), 1));
        // vmul.i16 d0, d1, d2[3]
        let m = Machine::a32(&[0xf291_086a]).set_d(1, 0x0004_0003_0002_0001).set_d(2, 0x0007 << 48).run();
        assert_eq!(m.d(0), 0x001c_0015_000e_0007);
    }

    #[test]
    fn doubled_products_saturate() {
        // vqdmlal.s16 q0, d2, d3[1]
        let m = Machine::a32(&[0xf292_034b]).set_d(2, 0x8000).set_d(3, 0x8000_0000).run();
        assert_eq!((m.q(0), m.fpscr()), (0x7fff_ffff, 1 << 27));
    }
}
