//! Comparisons.

use super::{Format, Place};
use crate::alloc::Lower;
use crate::asm::{Alu, Cc, RAX, VecOp, Width, XRm};
use ir::{Inst, Val};
use VecOp::*;

impl Lower<'_> {
    /// A flags word. LAHF after the host's comparison puts "equal" where Z is and "less" where C is; N is C's copy.
    pub(super) fn emit_fp_compare(&mut self, i: &Inst, f: Format) -> bool {
        let a = self.vec(Val(i.a));
        let b = self.float_src(Val(i.b), f);
        self.temp_exactly(RAX);
        self.release();
        let d = self.dst(Some(RAX));
        // LAHF keeps the rest of rax: without this each comparison would wait for the one before.
        self.asm.alu_rr(Alu::Xor, Width::B4, RAX, RAX);
        let op = if i.c == 0 { [Ucomiss, Ucomisd, Ucomiss, Ucomisd] } else { [Comiss, Comisd, Comiss, Comisd] };
        self.vmove(f.pick(op), a, b);
        let cold = self.cold_if(i, Cc::P, &[XRm::Reg(a), b], Place::Word(d));
        self.asm.lahf();
        self.asm.alu_rm_imm(Alu::And, Width::B4, RAX, 0x4100);
        self.asm.imul_r_rm_imm(Width::B4, d, RAX, 0x81);
        self.asm.alu_rm_imm(Alu::And, Width::B4, d, 0xc100);
        self.cold_back(cold);
        true
    }

    /// Lane masks. Ordered comparisons signal quiet NaNs, equality does not, on Arm as with these predicates.
    pub(super) fn emit_compare_mask(&mut self, i: &Inst, f: Format, flush: bool) -> bool {
        const PREDICATES: [u8; 3] = [0x00, 0x0d, 0x0e];
        if flush && f.double {
            return false;
        }
        let (a, b) = (self.vec(Val(i.a)), self.vec(Val(i.b)));
        let d = self.vec_temp();
        let cold = flush.then(|| {
            let marks = self.denormal_marks(&[a, b]).0;
            self.with_constant(Ptest, marks, f.signs());
            self.cold_if(i, Cc::NE, &[XRm::Reg(a), XRm::Reg(b)], Place::Vec(d))
        });
        let op = f.pick([Cmpss, Cmpsd, Cmpps, Cmppd]);
        self.v3i(op, d, a, b, PREDICATES[i.c.min(2) as usize]);
        let clean = f.vector || self.rest_is_zero(Val(i.a), f.bytes());
        self.clean(d, f, clean);
        if let Some(cold) = cold {
            self.cold_back(cold);
        }
        self.done(d)
    }
}
