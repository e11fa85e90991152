//! Vector operations.

use crate::alloc::{Lower, width};
use crate::asm::{VecOp, Width, XRm};
use ir::{Inst, Op, Ty, Val};

impl Lower<'_> {
    pub(crate) fn emit_vector(&mut self, i: &Inst) {
        match i.op {
            Op::VDup => self.emit_dup(i),
            Op::VInsert => self.emit_insert(i),
            Op::VExtract => self.emit_extract_lane(i),
            Op::Select | Op::SelectCc => self.emit_vec_select(i),
            _ if self.emit_float(i) || self.emit_simple(i) => {}
            _ => self.eval(i),
        }
    }

    /// Operations that are one instruction.
    fn emit_simple(&mut self, i: &Inst) -> bool {
        let Some(op) = simple(i.op, i.aux) else { return false };
        let needs = op.needs();
        let _ = needs;
        let a = self.vec(Val(i.a));
        let b = self.vec_src(Val(i.b));
        self.release();
        let d = self.vec_dst();
        self.vbin(op, d, a, b);
        true
    }

    fn emit_dup(&mut self, i: &Inst) {
        let a = self.gpr(Val(i.a));
        self.release();
        let x = self.vec_dst();
        self.movd_to_vec(x, a, width(i.ty));
        match i.aux {
            3 => self.vbin(VecOp::Punpcklqdq, x, x, XRm::Reg(x)),
            2 => self.shuffle(VecOp::Pshufd, x, x, 0),
            1 => {
                self.shuffle(VecOp::Pshuflw, x, x, 0);
                self.shuffle(VecOp::Pshufd, x, x, 0);
            }
            _ => {
                self.vbin(VecOp::Punpcklbw, x, x, XRm::Reg(x));
                self.shuffle(VecOp::Pshuflw, x, x, 0);
                self.shuffle(VecOp::Pshufd, x, x, 0);
            }
        }
    }

    pub(crate) fn shuffle(&mut self, op: VecOp, d: crate::asm::Xmm, a: crate::asm::Xmm, imm: u8) {
        if self.env.features.avx {
            self.asm.vex_op_i(op, d, crate::asm::Xmm(0), XRm::Reg(a), imm);
        } else {
            self.asm.sse_op_i(op, d, XRm::Reg(a), imm);
        }
    }

    fn lane_width(log2: u8) -> Width {
        Width::from_bytes(1 << log2.min(3))
    }

    fn emit_insert(&mut self, i: &Inst) {
        if !self.env.features.sse41 {
            return self.through_memory(i);
        }
        let a = self.vec(Val(i.a));
        let b = self.gpr(Val(i.b));
        self.release();
        let d = self.vec_dst();
        let w = Self::lane_width(i.aux);
        let lane = (i.c & ((16 >> i.aux) - 1)) as u8;
        if self.env.features.avx {
            self.asm.vex_insert(w, d, a, b, lane);
        } else {
            if d != a {
                self.asm.sse_op(VecOp::Movaps, d, XRm::Reg(a));
            }
            self.asm.sse_insert(w, d, b, lane);
        }
    }

    fn emit_extract_lane(&mut self, i: &Inst) {
        let lane = (i.b & ((16 >> i.aux) - 1)) as u8;
        let w = Self::lane_width(i.aux);
        if !self.env.features.sse41 && !(lane == 0 && i.aux >= 2) {
            return self.through_memory(i);
        }
        let a = self.vec(Val(i.a));
        self.release();
        let d = self.dst(None);
        if lane == 0 && i.aux >= 2 {
            self.movd_from_vec(d, a, w);
        } else if self.env.features.avx {
            self.asm.vex_extract(w, d, a, lane);
        } else {
            self.asm.sse_extract(w, d, a, lane);
        }
    }

    /// Lane access on processors without SSE4.1: by way of the call area.
    fn through_memory(&mut self, i: &Inst) {
        let a = self.vec(Val(i.a));
        let area = crate::env::call_area(0);
        self.vstore(VecOp::MovupsStore, area, a);
        let w = Self::lane_width(i.aux);
        let lanes = 16i32 >> i.aux;
        if i.op == Op::VExtract {
            let m = area.offset((i.b as i32 & (lanes - 1)) << i.aux);
            self.release();
            let d = self.dst(None);
            return self.asm.movzx(w, d, m);
        }
        let b = self.gpr(Val(i.b));
        self.asm.mov_rm_r(w, area.offset((i.c as i32 & (lanes - 1)) << i.aux), b);
        self.release();
        let d = self.vec_dst();
        self.vmove(VecOp::Movups, d, XRm::Mem(area));
    }

    pub(crate) fn emit_vec_select(&mut self, i: &Inst) {
        // Operands first: fetching them must not be jumped over.
        let b = self.vec(Val(i.b));
        let c = self.vec(Val(i.c));
        let d = self.vec_temp();
        let cc = self.select_condition(i);
        let done = self.asm.label();
        self.vmove(VecOp::Movaps, d, XRm::Reg(b));
        self.asm.jcc_short(cc, done);
        self.vmove(VecOp::Movaps, d, XRm::Reg(c));
        self.asm.bind(done);
        self.release();
        self.define_vec(d);
        const { assert!(Ty::V128 as u8 == 3) };
    }
}

/// The instruction that an operation is, with its operands in order.
fn simple(op: Op, lane: u8) -> Option<VecOp> {
    use VecOp::*;
    let by_lane = |b, w, d, q| Some([b, w, d, q][lane as usize & 3]);
    match op {
        Op::VAdd => by_lane(Paddb, Paddw, Paddd, Paddq),
        Op::VSub => by_lane(Psubb, Psubw, Psubd, Psubq),
        Op::VAnd => Some(Pand),
        Op::VOr => Some(Por),
        Op::VXor => Some(Pxor),
        Op::VCmpEq if lane < 3 => by_lane(Pcmpeqb, Pcmpeqw, Pcmpeqd, Pcmpeqd),
        Op::VCmpGtS if lane < 3 => by_lane(Pcmpgtb, Pcmpgtw, Pcmpgtd, Pcmpgtd),
        _ => None,
    }
}
