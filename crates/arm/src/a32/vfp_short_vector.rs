//! Short vectors: data processing repeated over a bank of registers, by FPSCR.Len and Stride. Arm ARM (DDI 0406C) appendix K
//! (VFP vector operation support); deprecated, of real use on ARM11 and earlier.
//!
//! Bank 0 (s0-s7, d0-d3, d16-d19) is for scalars: a destination there makes the operation scalar, a second operand there is
//! used for every element. Stride 01 and 10 are UNPREDICTABLE; we take every stride but 00 as 2.

use super::fp::V;
use crate::state::key;
use crate::{Features, Flow, Translator};
use ir::{FpFmt, FpMode, Val};

/// How an operation steps through its registers.
#[derive(Clone, Copy)]
struct Steps {
    count: u32,
    step: u32,
    /// Of the second operand: 0 if it is a scalar.
    step_m: u32,
}

/// Registers of a bank.
fn bank(fmt: FpFmt) -> u32 {
    if fmt.log2() == 3 { 4 } else { 8 }
}

fn number(fmt: FpFmt, r: V) -> u32 {
    if fmt.log2() == 3 { r.d() } else { r.s() }
}

fn in_scalar_bank(fmt: FpFmt, r: V) -> bool {
    let n = number(fmt, r);
    if fmt.log2() == 3 { n & 12 == 0 } else { n & 24 == 0 }
}

/// The register `by` places on, around its bank.
fn advance(fmt: FpFmt, r: V, by: u32) -> V {
    let (n, inside) = (number(fmt, r), bank(fmt) - 1);
    let n = n & !inside | (n + by) & inside;
    if fmt.log2() == 3 { V(n) } else { V((n & 1) << 4 | n >> 1) }
}

impl Translator {
    fn vector_length(&self) -> (u32, u32) {
        let k = self.static_key();
        ((k >> key::LEN_SHIFT & 7) as u32, (k >> key::STRIDE_SHIFT & 3) as u32)
    }

    /// Whether FPSCR asks for short vectors at all.
    pub(super) fn short_vectors(&self) -> bool {
        self.vector_length() != (0, 0)
    }

    /// `None` where UNDEFINED: half precision has no vectors, nor have most later cores.
    fn steps(&self, fmt: FpFmt, d: V, m: V) -> Option<Steps> {
        let (len, stride) = self.vector_length();
        if self.short_vectors() && (fmt.log2() == 1 || self.lacks(Features::SHORT_VECTOR)) {
            return None;
        }
        if len == 0 || in_scalar_bank(fmt, d) {
            return Some(Steps { count: 1, step: 0, step_m: 0 });
        }
        let step = if stride == 0 { 1 } else { 2 };
        Some(Steps { count: len + 1, step, step_m: if in_scalar_bank(fmt, m) { 0 } else { step } })
    }

    /// An operation with two operands; `op` is told the destination, for accumulation.
    pub(super) fn vector_binary(
        &mut self,
        fmt: FpFmt,
        mut d: V,
        mut n: V,
        mut m: V,
        op: impl Fn(&mut Self, FpMode, V, Val, Val) -> Val,
    ) -> Flow {
        let Some(s) = self.steps(fmt, d, m) else { return self.undefined() };
        let mode = self.scalar_mode(fmt);
        let mut y = self.scalar(fmt, m);
        for i in 0..s.count {
            let x = self.scalar(fmt, n);
            // A scalar operand keeps the value that it had before the first element was written.
            if i > 0 && s.step_m > 0 {
                y = self.scalar(fmt, m);
            }
            let r = op(self, mode, d, x, y);
            self.set_scalar(fmt, d, r);
            (d, n, m) = (advance(fmt, d, s.step), advance(fmt, n, s.step), advance(fmt, m, s.step_m));
        }
        Flow::Next
    }

    /// An operation with one operand.
    pub(super) fn vector_unary(
        &mut self,
        fmt: FpFmt,
        mut d: V,
        mut m: V,
        op: impl Fn(&mut Self, FpMode, Val) -> Val,
    ) -> Flow {
        let Some(s) = self.steps(fmt, d, m) else { return self.undefined() };
        let mode = self.scalar_mode(fmt);
        let x = self.scalar(fmt, m);
        let mut r = op(self, mode, x);
        for i in 0..s.count {
            if i > 0 && s.step_m > 0 {
                let x = self.scalar(fmt, m);
                r = op(self, mode, x);
            }
            self.set_scalar(fmt, d, r);
            (d, m) = (advance(fmt, d, s.step), advance(fmt, m, s.step_m));
        }
        Flow::Next
    }

    /// A constant to every element.
    pub(super) fn vector_fill(&mut self, fmt: FpFmt, mut d: V, value: u64) -> Flow {
        let Some(s) = self.steps(fmt, d, V(0)) else { return self.undefined() };
        let v = self.b.vconst(value as u128);
        for _ in 0..s.count {
            self.set_scalar(fmt, d, v);
            d = advance(fmt, d, s.step);
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    #[test]
    fn registers_go_around_their_bank() {
        assert_eq!(advance(FpFmt::F64, V(7), 1), V(4));
        assert_eq!(advance(FpFmt::F64, V(0b10110), 2), V(0b10100));
        // s15 and two more are s9.
        assert_eq!(advance(FpFmt::F32, V(0b10111), 2).s(), 9);
    }

    #[test]
    fn vectors_with_a_scalar_operand() {
        // vadd.f64 d4, d6, d0, three elements: d4, d5, d6 of d6, d7, d4
        let n = |x: f64| x.to_bits();
        let m = Machine::a32(&[0xee36_4b00])
            .set_d(0, n(1.0))
            .set_d(6, n(10.0))
            .set_d(7, n(20.0))
            .set_fpscr(2 << 16)
            .run();
        assert_eq!([m.d(4), m.d(5), m.d(6)], [n(11.0), n(21.0), n(12.0)]);
        // vadd.f64 d0, d6, d0: scalar.
        let m = Machine::a32(&[0xee36_0b00]).set_d(6, n(10.0)).set_d(1, 7).set_fpscr(2 << 16).run();
        assert_eq!((m.d(0), m.d(1)), (n(10.0), 7));
    }
}
