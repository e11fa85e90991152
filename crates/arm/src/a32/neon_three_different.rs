//! Advanced SIMD, three registers of different lengths. Arm ARM (DDI 0406C) A7.4.2.

use super::fp::{V, Vn};
use super::neon_three_same::absolute_difference;
use crate::{Features, Flow, Translator, helper};
use ir::Val;
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vaddl "1111 001u 1dss nnnn dddd 0000 n0m0 mmmm" (u, s, d, n, m);
    vaddw "1111 001u 1dss nnnn dddd 0001 n0m0 mmmm" (u, s, d, n, m);
    vsubl "1111 001u 1dss nnnn dddd 0010 n0m0 mmmm" (u, s, d, n, m);
    vsubw "1111 001u 1dss nnnn dddd 0011 n0m0 mmmm" (u, s, d, n, m);
    /// VADDHN, VRADDHN
    vaddhn "1111 001r 1dss nnnn dddd 0100 n0m0 mmmm" (r, s, d, n, m);
    vabal "1111 001u 1dss nnnn dddd 0101 n0m0 mmmm" (u, s, d, n, m);
    /// VSUBHN, VRSUBHN
    vsubhn "1111 001r 1dss nnnn dddd 0110 n0m0 mmmm" (r, s, d, n, m);
    vabdl "1111 001u 1dss nnnn dddd 0111 n0m0 mmmm" (u, s, d, n, m);
    vmlal "1111 001u 1dss nnnn dddd 1000 n0m0 mmmm" (u, s, d, n, m);
    vqdmlal "1111 0010 1dss nnnn dddd 1001 n0m0 mmmm" (s, d, n, m);
    vmlsl "1111 001u 1dss nnnn dddd 1010 n0m0 mmmm" (u, s, d, n, m);
    vqdmlsl "1111 0010 1dss nnnn dddd 1011 n0m0 mmmm" (s, d, n, m);
    vmull "1111 001u 1dss nnnn dddd 1100 n0m0 mmmm" (u, s, d, n, m);
    vqdmull "1111 0010 1dss nnnn dddd 1101 n0m0 mmmm" (s, d, n, m);
    vmull_poly "1111 0010 1dss nnnn dddd 1110 n0m0 mmmm" (s, d, n, m);
}

/// What is added to or taken from the accumulator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    Nothing,
    Add,
    Sub,
}

impl Translator {
    /// Reads two doublewords, widened.
    fn widened(&mut self, u: bool, s: u8, r: V) -> Val {
        let x = self.vec(false, r);
        if u { self.b.vwidenu(s, x) } else { self.b.vwidens(s, x) }
    }

    /// Long: `n` and `m` are doublewords. Wide: `n` is a quadword.
    #[allow(clippy::too_many_arguments)]
    fn vector_long(&mut self, u: bool, s: u8, d: V, n: V, m: V, wide: bool, subtract: bool) -> Flow {
        let quads: &[V] = if wide { &[d, n] } else { &[d] };
        if s == 3 || self.no_neon(true, quads) {
            return self.undefined();
        }
        let x = if wide { self.vec(true, n) } else { self.widened(u, s, n) };
        let y = self.widened(u, s, m);
        let r = if subtract { self.b.vsub(s + 1, x, y) } else { self.b.vadd(s + 1, x, y) };
        self.set_vec(true, d, r)
    }

    fn vaddl(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.vector_long(u, s, d, n.into(), m, false, false)
    }

    fn vaddw(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.vector_long(u, s, d, n.into(), m, true, false)
    }

    fn vsubl(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.vector_long(u, s, d, n.into(), m, false, true)
    }

    fn vsubw(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.vector_long(u, s, d, n.into(), m, true, true)
    }

    fn vaddhn(&mut self, r: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.high_narrow(r, s, d, n.into(), m, false)
    }

    fn vsubhn(&mut self, r: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.high_narrow(r, s, d, n.into(), m, true)
    }

    /// The high halves of sums or differences of quadwords.
    fn high_narrow(&mut self, round: bool, s: u8, d: V, n: V, m: V, subtract: bool) -> Flow {
        if s == 3 || self.no_neon(true, &[n, m]) {
            return self.undefined();
        }
        let (x, y) = (self.vec(true, n), self.vec(true, m));
        let mut r = if subtract { self.b.vsub(s + 1, x, y) } else { self.b.vadd(s + 1, x, y) };
        if round {
            let half = self.splat(s + 1, 1 << ((8 << s) - 1));
            r = self.b.vadd(s + 1, r, half);
        }
        let r = self.b.vshri(s + 1, r, 8 << s);
        let r = self.b.vnarrow(s + 1, r);
        self.set_vec(false, d, r)
    }

    /// A long operation on two doublewords, possibly accumulating.
    #[allow(clippy::too_many_arguments)]
    fn long_with(
        &mut self,
        s: u8,
        d: V,
        n: V,
        m: V,
        into: Into,
        op: impl FnOnce(&mut Self, Val, Val) -> Val,
    ) -> Flow {
        if s == 3 || self.no_neon(true, &[d]) {
            return self.undefined();
        }
        let (x, y) = (self.vec(false, n), self.vec(false, m));
        let r = op(self, x, y);
        self.accumulate(s + 1, d, r, into)
    }

    /// Writes a quadword of lanes `8 << log2` bits, or adds it to what is there.
    pub(super) fn accumulate(&mut self, log2: u8, d: V, r: Val, into: Into) -> Flow {
        if into == Into::Nothing {
            return self.set_vec(true, d, r);
        }
        let acc = self.vec(true, d);
        let r = if into == Into::Add { self.b.vadd(log2, acc, r) } else { self.b.vsub(log2, acc, r) };
        self.set_vec(true, d, r)
    }

    fn vabdl(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_difference(u, s, d, n.into(), m, Into::Nothing)
    }

    fn vabal(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_difference(u, s, d, n.into(), m, Into::Add)
    }

    fn long_difference(&mut self, u: bool, s: u8, d: V, n: V, m: V, into: Into) -> Flow {
        self.long_with(s, d, n, m, into, |t, x, y| {
            // The difference of lanes fits them as an unsigned number.
            let r = absolute_difference(&mut t.b, u, s, x, y);
            t.b.vwidenu(s, r)
        })
    }

    /// Double-width products of the low halves.
    pub(super) fn product(&mut self, u: bool, s: u8, x: Val, y: Val) -> Val {
        if u { self.b.vmulwu(s, x, y) } else { self.b.vmulws(s, x, y) }
    }

    fn vmull(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_with(s, d, n.into(), m, Into::Nothing, |t, x, y| t.product(u, s, x, y))
    }

    fn vmlal(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_with(s, d, n.into(), m, Into::Add, |t, x, y| t.product(u, s, x, y))
    }

    fn vmlsl(&mut self, u: bool, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.long_with(s, d, n.into(), m, Into::Sub, |t, x, y| t.product(u, s, x, y))
    }

    fn vqdmull(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.saturating_long(s, d, n.into(), m, Into::Nothing)
    }

    fn vqdmlal(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.saturating_long(s, d, n.into(), m, Into::Add)
    }

    fn vqdmlsl(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        self.saturating_long(s, d, n.into(), m, Into::Sub)
    }

    fn saturating_long(&mut self, s: u8, d: V, n: V, m: V, into: Into) -> Flow {
        if s == 0 || s == 3 || self.no_neon(true, &[d]) {
            return self.undefined();
        }
        let (x, y) = (self.vec(false, n), self.vec(false, m));
        self.doubling_long(s, d, x, y, into)
    }

    /// VQDMULL, VQDMLAL, VQDMLSL: the double saturates, then the sum.
    pub(super) fn doubling_long(&mut self, s: u8, d: V, x: Val, y: Val, into: Into) -> Flow {
        let product = self.doubled_product(s, x, y);
        if into == Into::Nothing {
            return self.set_vec(true, d, product);
        }
        let acc = self.vec(true, d);
        let l = s + 1;
        let (r, wrapped) = if into == Into::Add {
            (self.b.vaddss(l, acc, product), self.b.vadd(l, acc, product))
        } else {
            (self.b.vsubss(l, acc, product), self.b.vsub(l, acc, product))
        };
        self.qc_if_differs(r, wrapped);
        self.set_vec(true, d, r)
    }

    fn vmull_poly(&mut self, s: u8, d: V, n: Vn, m: V) -> Flow {
        let step = match s {
            0 => helper::PMULL_8,
            2 if !self.lacks(Features::PMULL) => helper::PMULL_64,
            _ => return self.undefined(),
        };
        self.long_with(s, d, n.into(), m, Into::Nothing, |t, x, y| t.vec_helper(step, 0, x, Some(y)))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Machine;

    #[test]
    fn products_are_twice_as_wide() {
        // vmull.u16 q0, d2, d3
        let m = Machine::a32(&[0xf392_0c03]).set_d(2, 0xffff_0002).set_d(3, 0xffff_0003).run();
        assert_eq!(m.q(0), 0xfffe_0001_0000_0006);
    }

    #[test]
    fn high_halves_of_sums() {
        // vaddhn.i32 d0, q1, q2
        let m = Machine::a32(&[0xf292_0404]).set_q(1, 0x1234_8000_0000_ffff).set_q(2, 0x0000_8000_0000_0001).run();
        assert_eq!(m.d(0), 0x1235_0001);
    }

    #[test]
    fn differences_accumulate() {
        // vabal.u8 q0, d2, d3
        let m = Machine::a32(&[0xf382_0503]).set_q(0, 0x0001_0001).set_d(2, 0x00ff).set_d(3, 0x0500).run();
        assert_eq!(m.q(0), 0x0006_0100);
    }
}
