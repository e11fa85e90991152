//! Arithmetic rounded to nearest, without flushing; minimum and maximum; rounding to an integral value.

use super::{Format, NEAREST, Place};
use crate::alloc::Lower;
use crate::asm::{Cc, VecOp, XRm, Xmm};
use ir::{FpMode, Inst, Op, Val};
use VecOp::*;

impl Lower<'_> {
    pub(super) fn emit_fp_binary(&mut self, i: &Inst, f: Format) -> bool {
        let (op, may_be_tiny) = match i.op {
            Op::FpAdd => (f.pick([Addss, Addsd, Addps, Addpd]), false),
            Op::FpSub => (f.pick([Subss, Subsd, Subps, Subpd]), false),
            Op::FpMul => (f.pick([Mulss, Mulsd, Mulps, Mulpd]), true),
            _ => (f.pick([Divss, Divsd, Divps, Divpd]), true),
        };
        let a = self.vec(Val(i.a));
        let b = self.float_src(Val(i.b), f);
        let d = self.vec_temp();
        self.vbin(op, d, a, b);
        let clean = self.rest_is_zero(Val(i.a), f.bytes());
        self.checked(i, f, d, &[XRm::Reg(a), b], may_be_tiny, clean)
    }

    pub(super) fn emit_sqrt(&mut self, i: &Inst, f: Format) -> bool {
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        if f.vector {
            self.v2(f.pick([Sqrtps, Sqrtpd, Sqrtps, Sqrtpd]), d, a);
        } else {
            self.v3(f.pick([Sqrtss, Sqrtsd, Sqrtss, Sqrtsd]), d, a, a);
        }
        let clean = self.rest_is_zero(Val(i.a), f.bytes());
        self.checked(i, f, d, &[XRm::Reg(a)], false, clean)
    }

    pub(super) fn emit_fma(&mut self, i: &Inst, f: Format) -> bool {
        let op = f.pick([Vfmadd213ss, Vfmadd213sd, Vfmadd213ps, Vfmadd213pd]);
        if !self.have(&[op]) {
            return false;
        }
        let (a, b) = (self.vec(Val(i.a)), self.vec(Val(i.b)));
        let c = self.float_src(Val(i.c), f);
        let d = self.vec_temp();
        self.v2(Movaps, d, a);
        self.vbin(op, d, b, c);
        let clean = self.rest_is_zero(Val(i.a), f.bytes());
        self.checked(i, f, d, &[XRm::Reg(a), XRm::Reg(b), c], true, clean)
    }

    /// Checks a result for NaN and, if the operation can be inexact there, for the smallest normal number.
    fn checked(&mut self, i: &Inst, f: Format, d: Xmm, operands: &[XRm], may_be_tiny: bool, clean: bool) -> bool {
        let cc = if f.vector { self.odd_lanes(f, d, may_be_tiny) } else { self.odd_scalar(f, d, may_be_tiny) };
        let cold = self.cold_if(i, cc, operands, Place::Vec(d));
        self.clean(d, f, clean || f.vector);
        self.cold_back(cold);
        self.done(d)
    }

    /// The host condition under which a scalar is NaN or, if asked, has the magnitude of the smallest normal number.
    pub(super) fn odd_scalar(&mut self, f: Format, d: Xmm, smallest: bool) -> Cc {
        let ucomis = f.pick([Ucomiss, Ucomisd, Ucomiss, Ucomisd]);
        if !smallest {
            self.v2(ucomis, d, d);
            return Cc::P;
        }
        // "Equal" is also what a comparison with NaN says.
        let t = self.vec_temp();
        self.vk(Andps, t, d, f.magnitude());
        self.with_constant(ucomis, t, f.min_normal());
        self.vec_unlock(t);
        Cc::E
    }

    fn odd_lanes(&mut self, f: Format, d: Xmm, smallest: bool) -> Cc {
        const UNORDERED: u8 = 3;
        const EQUAL_OR_UNORDERED: u8 = 8;
        let cmp = f.pick([Cmpps, Cmppd, Cmpps, Cmppd]);
        let t = self.vec_temp();
        if smallest {
            let u = self.vec_constant(f.min_normal());
            self.vk(Andps, t, d, f.magnitude());
            self.v3i(cmp, t, t, u, EQUAL_OR_UNORDERED);
            self.vec_unlock(u);
        } else {
            self.v3i(cmp, t, d, d, UNORDERED);
        }
        self.v2(Ptest, t, t);
        self.vec_unlock(t);
        Cc::NE
    }

    /// The host's minimum of equal numbers is the second one, so both orders are combined to get the sign of zero right.
    /// It signals quiet NaNs, which Arm does not: NaNs are looked for first.
    pub(super) fn emit_extremum(&mut self, i: &Inst, f: Format, flush: bool) -> bool {
        if flush && f.double {
            return false;
        }
        let (a, b) = (self.vec(Val(i.a)), self.vec(Val(i.b)));
        let (d, t) = (self.vec_temp(), self.vec_temp());
        let operands = [XRm::Reg(a), XRm::Reg(b)];
        let cold = if flush {
            let marks = self.denormal_marks(&[a, b]).0;
            self.v3i(f.pick([Cmpss, Cmpss, Cmpps, Cmpps]), d, a, b, 3);
            self.v3(Por, d, d, marks);
            self.with_constant(Ptest, d, f.signs());
            self.cold_if(i, Cc::NE, &operands, Place::Vec(d))
        } else if f.vector {
            self.v3i(f.pick([Cmpps, Cmppd, Cmpps, Cmppd]), d, a, b, 3);
            self.v2(Ptest, d, d);
            self.cold_if(i, Cc::NE, &operands, Place::Vec(d))
        } else {
            self.v2(f.pick([Ucomiss, Ucomisd, Ucomiss, Ucomisd]), a, b);
            self.cold_if(i, Cc::P, &operands, Place::Vec(d))
        };
        let min = matches!(i.op, Op::FpMin | Op::FpMinNum);
        let op = if min { f.pick([Minss, Minsd, Minps, Minpd]) } else { f.pick([Maxss, Maxsd, Maxps, Maxpd]) };
        self.v3(op, t, b, a);
        self.v3(op, d, a, b);
        self.v3(if min { Orps } else { Andps }, d, d, t);
        let clean = |v| self.rest_is_zero(Val(v), f.bytes());
        let clean = f.vector || clean(i.a) && clean(i.b);
        self.clean(d, f, clean);
        self.cold_back(cold);
        self.done(d)
    }

    pub(super) fn emit_rint(&mut self, i: &Inst, f: Format) -> bool {
        // Bit 3: inexact is not reported.
        let Some(direction) = round_immediate(FpMode(i.fl).rounding()) else { return false };
        let imm = direction | if i.b == 0 { 8 } else { 0 };
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        if f.vector {
            self.shuffle(f.pick([Roundps, Roundpd, Roundps, Roundpd]), d, a, imm);
        } else {
            self.v3i(f.pick([Roundss, Roundsd, Roundss, Roundsd]), d, a, a, imm);
        }
        let clean = self.rest_is_zero(Val(i.a), f.bytes());
        self.checked(i, f, d, &[XRm::Reg(a)], false, clean)
    }
}

/// ROUNDSS has Arm's directions in another order.
fn round_immediate(rounding: u8) -> Option<u8> {
    match rounding {
        NEAREST => Some(0),
        1 => Some(2),
        2 => Some(1),
        3 => Some(3),
        _ => None,
    }
}
