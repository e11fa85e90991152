//! Conversions between formats, and to and from integers.

use super::{Format, NEAREST, Place, TOWARDS_ZERO};
use crate::alloc::Lower;
use crate::asm::{Alu, Cc, VecOp, Width, XRm, Xmm};
use ir::{FpFmt, FpMode, Inst, Val};
use VecOp::*;

/// The integer side of a conversion.
struct Integer {
    signed: bool,
    log2: u8,
    frac: i32,
}

impl Integer {
    fn of(i: &Inst) -> Integer {
        Integer { signed: i.b & 1 != 0, log2: (i.b >> 1 & 3) as u8, frac: (i.b >> 8) as i32 }
    }

    fn width(&self) -> Width {
        Width::from_bytes(1 << self.log2)
    }
}

const DOUBLE: Format = Format { double: true, vector: false };
const SINGLE: Format = Format { double: false, vector: false };

impl Lower<'_> {
    /// Between f32 and f64.
    pub(super) fn emit_convert(&mut self, i: &Inst, f: Format) -> bool {
        let to = match FpFmt(i.b as u8).log2() {
            2 if f.double => SINGLE,
            3 if !f.double => DOUBLE,
            _ => return false,
        };
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        // The upper part of the result is that of a zero.
        self.load_vec_constant(d, 0);
        self.v3(if f.double { Cvtsd2ss } else { Cvtss2sd }, d, d, a);
        let cc = self.odd_scalar(to, d, f.double);
        let cold = self.cold_if(i, cc, &[XRm::Reg(a)], Place::Vec(d));
        self.cold_back(cold);
        self.done(d)
    }

    /// Scalars. The host gives the smallest integer, and IE but not PE, for what is out of range.
    pub(super) fn emit_to_int(&mut self, i: &Inst, f: Format) -> bool {
        let int = Integer::of(i);
        let truncate = match FpMode(i.fl).rounding() {
            TOWARDS_ZERO => true,
            NEAREST => false,
            _ => return false,
        };
        if int.log2 < 2 || int.frac != 0 && (f.double || int.log2 != 2 || !int.signed) || int.frac > 32 {
            return false;
        }
        if !int.signed {
            return int.log2 == 2 && truncate && self.emit_to_unsigned(i, f);
        }
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        let mut from = a;
        let mut f = f;
        if int.frac != 0 {
            // Scaled as a double, which is exact.
            self.v3(Cvtss2sd, d, a, a);
            self.vk(Mulsd, d, d, DOUBLE.power(int.frac));
            (from, f) = (d, DOUBLE);
        }
        let op = match truncate {
            true => f.pick([Cvttss2si, Cvttsd2si, Cvttss2si, Cvttsd2si]),
            false => f.pick([Cvtss2si, Cvtsd2si, Cvtss2si, Cvtsd2si]),
        };
        let t = self.temp();
        self.asm.vex_to_gpr(op, int.width(), t, XRm::Reg(from));
        // Overflows for the smallest integer only.
        self.asm.alu_rm_imm(Alu::Cmp, int.width(), t, 1);
        let cold = self.cold_if(i, Cc::O, &[XRm::Reg(a)], Place::Vec(d));
        self.movd_to_vec(d, t, int.width());
        self.cold_back(cold);
        self.done(d)
    }

    /// To 32 bits, truncated, by way of a signed 64-bit integer. Out of range must be found first: the host would report
    /// numbers like -1.5 as inexact.
    fn emit_to_unsigned(&mut self, i: &Inst, f: Format) -> bool {
        let ucomis = f.pick([Ucomiss, Ucomisd, Ucomiss, Ucomisd]);
        let sign = f.splat(if f.double { 1 << 63 } else { 1 << 31 });
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        let t = self.temp();
        self.with_constant(ucomis, a, f.power(0) | sign);
        let cold = self.cold_if(i, Cc::BE, &[XRm::Reg(a)], Place::Vec(d));
        self.with_constant(ucomis, a, f.power(32));
        self.cold_also_if(Cc::AE, &cold);
        let op = f.pick([Cvttss2si, Cvttsd2si, Cvttss2si, Cvttsd2si]);
        self.asm.vex_to_gpr(op, Width::B8, t, XRm::Reg(a));
        self.movd_to_vec(d, t, Width::B4);
        self.cold_back(cold);
        self.done(d)
    }

    /// Lanes of f32: those below 2^31 (after scaling) and, for unsigned integers, above -1 are the host's. Everything else
    /// is found before the host can report it as inexact or overflowing.
    pub(super) fn emit_to_int_lanes(&mut self, i: &Inst, f: Format) -> bool {
        const NOT_LESS: u8 = 0x15;
        const LESS_OR_EQUAL: u8 = 0x12;
        let int = Integer::of(i);
        let m = FpMode(i.fl);
        let truncate = m.rounding() == TOWARDS_ZERO;
        if f.double || int.frac > 32 || !truncate && (m.rounding() != NEAREST || !int.signed) {
            return false;
        }
        let a = self.vec(Val(i.a));
        let (d, t) = (self.vec_temp(), self.vec_constant(f.power(31 - int.frac)));
        if int.signed {
            self.vk(Andps, d, a, f.magnitude());
            self.v3i(Cmpps, d, d, t, NOT_LESS);
        } else {
            self.v3i(Cmpps, d, a, t, NOT_LESS);
            self.load_vec_constant(t, f.power(-int.frac) | f.splat(1 << 31));
            self.v3i(Cmpps, t, a, t, LESS_OR_EQUAL);
            self.v3(Por, d, d, t);
        }
        if m.flush_to_zero() {
            let marks = self.denormal_marks(&[a]).0;
            self.v3(Por, d, d, marks);
        }
        self.with_constant(Ptest, d, f.signs());
        let cold = self.cold_if(i, Cc::NE, &[XRm::Reg(a)], Place::Vec(d));
        let mut from = a;
        if int.frac != 0 {
            self.vk(Mulps, d, a, f.power(int.frac));
            from = d;
        }
        self.v2(if truncate { Cvttps2dq } else { Cvtps2dq }, d, from);
        self.cold_back(cold);
        self.done(d)
    }

    /// Always exact or rounded once, never NaN or tiny: there is no cold path.
    pub(super) fn emit_from_int(&mut self, i: &Inst, f: Format) -> bool {
        let int = Integer::of(i);
        if int.log2 < 2 || int.frac > 64 || f.vector && f.double || int.log2 == 3 && !int.signed {
            return false;
        }
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        if f.vector {
            self.from_int_lanes(d, a, int.signed);
        } else {
            let t = self.temp();
            self.movd_from_vec(t, a, int.width());
            // An unsigned word is a signed doubleword.
            let w = if int.signed { int.width() } else { Width::B8 };
            self.load_vec_constant(d, 0);
            self.asm.vex_from_gpr(if f.double { Cvtsi2sd } else { Cvtsi2ss }, w, d, d, t);
        }
        if int.frac != 0 {
            let scale = f.power(-int.frac);
            self.vk(f.pick([Mulss, Mulsd, Mulps, Mulpd]), d, d, scale);
        }
        self.done(d)
    }

    /// Unsigned words are the sum of two exact halves, rounded once.
    fn from_int_lanes(&mut self, d: Xmm, a: Xmm, signed: bool) {
        if signed {
            return self.v2(Cvtdq2ps, d, a);
        }
        let t = self.vec_temp();
        let f = Format { double: false, vector: true };
        self.vshift(PsrldI, t, a, 16);
        self.v2(Cvtdq2ps, t, t);
        self.vk(Mulps, t, t, f.power(16));
        self.vk(Pand, d, a, f.splat(0xffff));
        self.v2(Cvtdq2ps, d, d);
        self.v3(Addps, d, d, t);
    }
}
