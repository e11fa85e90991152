//! Vector operations: dispatch, the operations that are one instruction, and access to lanes. The others are in the
//! files below, by kind. What the processor lacks an instruction for is left to the runtime.

use crate::alloc::{Lower, width};
use crate::asm::{Needs, VecOp, Width, XRm, Xmm};
use ir::{Inst, Op, Val};

mod arith;
mod permute;
mod shift;

impl Lower<'_> {
    pub(crate) fn emit_vector(&mut self, i: &Inst) {
        match i.op {
            Op::VDup => self.emit_dup(i),
            Op::VInsert => self.emit_insert(i),
            Op::VExtract => self.emit_extract_lane(i),
            Op::Select | Op::SelectCc => self.emit_vec_select(i),
            _ if self.emit_float(i) || self.emit_simple(i) => {}
            _ if self.emit_vec_shift(i) || self.emit_arith(i) || self.emit_permute(i) => {}
            _ => self.eval(i),
        }
    }

    /// Operations that are one instruction.
    fn emit_simple(&mut self, i: &Inst) -> bool {
        let Some((op, order)) = simple(i.op, i.aux) else { return false };
        if !self.have(&[op]) {
            return false;
        }
        let (first, second) = match order {
            Order::Ab | Order::A => (i.a, i.b),
            Order::Ba => (i.b, i.a),
        };
        if order == Order::A {
            let a = self.vec_src(Val(first));
            self.release();
            let d = self.vec_dst();
            self.vmove(op, d, a);
            return true;
        }
        let a = self.vec(Val(first));
        let b = self.vec_src(Val(second));
        self.release();
        let d = self.vec_dst();
        self.vbin(op, d, a, b);
        true
    }

    // ---- building blocks of the longer sequences -----------------------------------------------------------------------

    /// Whether the processor has all these instructions in the form that is used here.
    pub(crate) fn have(&self, ops: &[VecOp]) -> bool {
        let f = &self.env.features;
        ops.iter().all(|op| match op.needs()[f.avx as usize] {
            Needs::Sse | Needs::Sse2 => true,
            Needs::Sse3 | Needs::Ssse3 | Needs::Sse41 => f.sse41,
            Needs::Avx => f.avx,
            Needs::Aes => f.aes,
            Needs::Avx2 => f.avx2,
            Needs::Fma => f.fma,
            Needs::F16c => f.f16c,
            Needs::No | Needs::Sse42 | Needs::Pclmul | Needs::Sha => false,
        })
    }

    /// d = op(a, b).
    pub(crate) fn v3(&mut self, op: VecOp, d: Xmm, a: Xmm, b: Xmm) {
        self.vbin(op, d, a, XRm::Reg(b));
    }

    /// d = op(a).
    pub(crate) fn v2(&mut self, op: VecOp, d: Xmm, a: Xmm) {
        self.vmove(op, d, XRm::Reg(a));
    }

    /// d = op(a, constant).
    pub(crate) fn vk(&mut self, op: VecOp, d: Xmm, a: Xmm, k: u128) {
        let label = self.out.constant(self.asm, k);
        self.vbin(op, d, a, XRm::Mem(crate::asm::Mem::rip(0)));
        self.asm.link_rel32(label);
    }

    /// d = a shifted by an immediate.
    pub(crate) fn vshift(&mut self, op: VecOp, d: Xmm, a: Xmm, count: u8) {
        if self.env.features.avx {
            return self.asm.vex_shift_i(op, d, a, count);
        }
        if d != a {
            self.asm.sse_op(VecOp::Movaps, d, XRm::Reg(a));
        }
        self.asm.sse_shift_i(op, d, count);
    }

    /// d = op(a, b, immediate); d is not b.
    pub(crate) fn v3i(&mut self, op: VecOp, d: Xmm, a: Xmm, b: Xmm, imm: u8) {
        if self.env.features.avx {
            return self.asm.vex_op_i(op, d, a, XRm::Reg(b), imm);
        }
        debug_assert!(d != b || d == a, "the destination would be overwritten too early");
        if d != a {
            self.asm.sse_op(VecOp::Movaps, d, XRm::Reg(a));
        }
        self.asm.sse_op_i(op, d, XRm::Reg(b), imm);
    }

    /// A register with this constant.
    pub(crate) fn vec_constant(&mut self, k: u128) -> Xmm {
        let x = self.vec_temp();
        self.load_vec_constant(x, k);
        x
    }

    /// The two operands and a destination apart from them.
    fn operands(&mut self, i: &Inst) -> (Xmm, Xmm, Xmm) {
        (self.vec(Val(i.a)), self.vec(Val(i.b)), self.vec_temp())
    }

    /// The current value is in `d`; says that it was emitted.
    pub(crate) fn done(&mut self, d: Xmm) -> bool {
        self.release();
        self.define_vec(d);
        true
    }

    // ---- lanes ---------------------------------------------------------------------------------------------------------

    fn emit_dup(&mut self, i: &Inst) {
        let a = self.gpr(Val(i.a));
        self.release();
        let x = self.vec_dst();
        self.movd_to_vec(x, a, width(i.ty));
        if self.env.features.avx2 {
            let op = [VecOp::Vpbroadcastb, VecOp::Vpbroadcastw, VecOp::Vpbroadcastd, VecOp::Vpbroadcastq];
            return self.v2(op[i.aux as usize & 3], x, x);
        }
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

    pub(crate) fn shuffle(&mut self, op: VecOp, d: Xmm, a: Xmm, imm: u8) {
        if self.env.features.avx {
            self.asm.vex_op_i(op, d, Xmm(0), XRm::Reg(a), imm);
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
    }
}

/// The same number in every lane.
pub(crate) fn splat(log2: u8, lane: u64) -> u128 {
    let bits = 8u32 << log2;
    let lane = lane & u64::MAX >> (64 - bits);
    (0..128 / bits).fold(0, |all, k| all | (lane as u128) << (bits * k))
}

/// Which operands an instruction takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    A,
    Ab,
    Ba,
}

/// The instruction that an operation is.
fn simple(op: Op, lane: u8) -> Option<(VecOp, Order)> {
    use VecOp::*;
    let l = lane as usize & 3;
    // One row per operation; `None` where the instruction set has a gap.
    let row = match op {
        Op::VAdd => [Some(Paddb), Some(Paddw), Some(Paddd), Some(Paddq)],
        Op::VSub => [Some(Psubb), Some(Psubw), Some(Psubd), Some(Psubq)],
        Op::VMul => [None, Some(Pmullw), Some(Pmulld), None],
        Op::VAnd => [Some(Pand); 4],
        Op::VOr => [Some(Por); 4],
        Op::VXor => [Some(Pxor); 4],
        Op::VAndNot => [Some(Pandn); 4],
        Op::VCmpEq => [Some(Pcmpeqb), Some(Pcmpeqw), Some(Pcmpeqd), Some(Pcmpeqq)],
        Op::VCmpGtS => [Some(Pcmpgtb), Some(Pcmpgtw), Some(Pcmpgtd), Some(Pcmpgtq)],
        Op::VMinS => [Some(Pminsb), Some(Pminsw), Some(Pminsd), None],
        Op::VMinU => [Some(Pminub), Some(Pminuw), Some(Pminud), None],
        Op::VMaxS => [Some(Pmaxsb), Some(Pmaxsw), Some(Pmaxsd), None],
        Op::VMaxU => [Some(Pmaxub), Some(Pmaxuw), Some(Pmaxud), None],
        Op::VAddSatS => [Some(Paddsb), Some(Paddsw), None, None],
        Op::VAddSatU => [Some(Paddusb), Some(Paddusw), None, None],
        Op::VSubSatS => [Some(Psubsb), Some(Psubsw), None, None],
        Op::VSubSatU => [Some(Psubusb), Some(Psubusw), None, None],
        Op::VAvgU => [Some(Pavgb), Some(Pavgw), None, None],
        Op::VAbs => [Some(Pabsb), Some(Pabsw), Some(Pabsd), None],
        Op::VZip1 => [Some(Punpcklbw), Some(Punpcklwd), Some(Punpckldq), Some(Punpcklqdq)],
        Op::VZip2 => [Some(Punpckhbw), Some(Punpckhwd), Some(Punpckhdq), Some(Punpckhqdq)],
        Op::VUzp1 | Op::VTrn1 => [None, None, None, Some(Punpcklqdq)],
        Op::VUzp2 | Op::VTrn2 => [None, None, None, Some(Punpckhqdq)],
        Op::VPairAdd => [None, Some(Phaddw), Some(Phaddd), None],
        Op::VWidenS => [Some(Pmovsxbw), Some(Pmovsxwd), Some(Pmovsxdq), None],
        Op::VWidenU => [Some(Pmovzxbw), Some(Pmovzxwd), Some(Pmovzxdq), None],
        Op::VLow => [Some(Movq); 4],
        Op::VConcat => [Some(Punpcklqdq); 4],
        _ => return None,
    };
    let order = match op {
        Op::VAbs | Op::VWidenS | Op::VWidenU | Op::VLow => Order::A,
        Op::VAndNot => Order::Ba,
        _ => Order::Ab,
    };
    Some((row[l]?, order))
}
