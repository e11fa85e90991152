//! Single precision under flush to zero, round to nearest: what A32 Advanced SIMD computes in.
//!
//! Marks are lanes whose sign bit says "not for the host". They are found by integer instructions before the operation, for
//! the host raises PE where flushing does not.

use super::{Format, Place};
use crate::alloc::Lower;
use crate::asm::{Cc, VecOp, XRm, Xmm};
use ir::{Inst, Op, Val};
use VecOp::*;

const LANES: Format = Format { double: false, vector: true };
/// Two magnitudes with at least this sum have a product in the normal range.
const NORMAL_PRODUCT: u64 = 0x4000_0000;
/// And with this sum, the product is a multiple of the smallest denormal: adding to it is exact where it is tiny.
const EXACT_PRODUCT: u64 = 0x4c00_0000;

impl Lower<'_> {
    /// Marks denormal lanes; also gives each operand's magnitude less 1 (of zero: the largest integer).
    pub(super) fn denormal_marks(&mut self, operands: &[Xmm]) -> (Xmm, Vec<Xmm>) {
        let marks = self.vec_temp();
        let mut magnitudes = Vec::with_capacity(operands.len());
        let ones = self.vec_constant(u128::MAX);
        for &x in operands {
            let t = self.vec_temp();
            self.v3(Paddd, t, x, ones);
            self.vk(Pand, t, t, LANES.magnitude());
            magnitudes.push(t);
        }
        self.vec_unlock(ones);
        let mut least = magnitudes[0];
        for &t in &magnitudes[1..] {
            self.v3(Pminsd, marks, least, t);
            least = marks;
        }
        self.vk(Psubd, marks, least, LANES.splat(0x7f_ffff));
        (marks, magnitudes)
    }

    /// Looks at operands: `odd` is set in the sign bits of lanes for the cold path.
    fn operand_marks(&mut self, i: &Inst, operands: &[Xmm]) -> Xmm {
        let (marks, t) = self.denormal_marks(operands);
        let least = match i.op {
            Op::FpMul | Op::FpRecipStep | Op::FpRsqrtStep => NORMAL_PRODUCT,
            Op::FpFma => EXACT_PRODUCT,
            _ => return marks,
        };
        // All ones where the sum is large enough, as unsigned numbers.
        self.v3(Paddd, t[0], t[0], t[1]);
        self.vk(Pmaxud, t[1], t[0], LANES.splat(least));
        self.v3(Pcmpeqd, t[0], t[0], t[1]);
        self.vk(Pxor, t[0], t[0], u128::MAX);
        self.v3(Por, marks, marks, t[0]);
        for x in t {
            self.vec_unlock(x);
        }
        marks
    }

    pub(super) fn emit_flushed(&mut self, i: &Inst, f: Format) -> bool {
        if f.double || i.op == Op::FpFma && !self.have(&[Vfmadd213ps]) {
            return false;
        }
        let mut x = vec![self.vec(Val(i.a)), self.vec(Val(i.b))];
        if i.op == Op::FpFma {
            x.push(self.vec(Val(i.c)));
        }
        let operands: Vec<XRm> = x.iter().map(|&x| XRm::Reg(x)).collect();
        let d = self.vec_temp();
        let marks = self.operand_marks(i, &x);
        // For the look at the result.
        self.reserve(4);
        self.with_constant(Ptest, marks, f.signs());
        let cold = self.cold_if(i, Cc::NE, &operands, Place::Vec(d));
        match i.op {
            Op::FpAdd => self.v3(f.pick([Addss, Addss, Addps, Addps]), d, x[0], x[1]),
            Op::FpSub => self.v3(f.pick([Subss, Subss, Subps, Subps]), d, x[0], x[1]),
            Op::FpMul => self.v3(f.pick([Mulss, Mulss, Mulps, Mulps]), d, x[0], x[1]),
            _ => {
                self.v2(Movaps, d, x[0]);
                self.v3(f.pick([Vfmadd213ss, Vfmadd213ss, Vfmadd213ps, Vfmadd213ps]), d, x[1], x[2]);
            }
        }
        let cc = self.flushed_result(f, d, i.op != Op::FpMul);
        self.cold_also_if(cc, &cold);
        let clean = f.vector || self.rest_is_zero(Val(i.a), f.bytes());
        self.clean(d, f, clean);
        self.cold_back(cold);
        self.done(d)
    }

    /// NaN results, and denormal ones, which are exact here: nothing has been reported for them yet.
    fn flushed_result(&mut self, f: Format, d: Xmm, may_be_denormal: bool) -> Cc {
        let t = self.vec_temp();
        self.v3i(f.pick([Cmpss, Cmpss, Cmpps, Cmpps]), t, d, d, 3);
        if may_be_denormal {
            let (marks, _) = self.denormal_marks(&[d]);
            self.v3(Por, t, t, marks);
        }
        self.with_constant(Ptest, t, f.signs());
        Cc::NE
    }

    /// 2 - a * b and (3 - a * b) / 2. The difference is far from tiny, and halving it is exact.
    pub(super) fn emit_step(&mut self, i: &Inst, f: Format) -> bool {
        const NOT_LESS: u8 = 0x15;
        if f != LANES {
            return false;
        }
        let (a, b) = (self.vec(Val(i.a)), self.vec(Val(i.b)));
        let d = self.vec_temp();
        let marks = self.operand_marks(i, &[a, b]);
        // Infinities and NaNs: infinity times zero is no invalid operation here.
        let infinity = self.vec_constant(f.splat(0x7f80_0000));
        let t = self.vec_temp();
        for x in [a, b] {
            self.vk(Andps, t, x, f.magnitude());
            self.v3i(Cmpps, t, t, infinity, NOT_LESS);
            self.v3(Por, marks, marks, t);
        }
        self.with_constant(Ptest, marks, f.signs());
        let cold = self.cold_if(i, Cc::NE, &[XRm::Reg(a), XRm::Reg(b)], Place::Vec(d));
        let half_step = i.op == Op::FpRsqrtStep;
        self.v3(Mulps, t, a, b);
        self.load_vec_constant(d, f.splat(if half_step { 0x4040_0000 } else { 0x4000_0000 }));
        self.v3(Subps, d, d, t);
        if half_step {
            self.vk(Mulps, d, d, f.power(-1));
        }
        self.cold_back(cold);
        self.done(d)
    }
}
