//! Lane arithmetic that takes more than one instruction.

use super::splat;
use crate::alloc::Lower;
use crate::asm::{VecOp, Xmm};
use ir::{Inst, Op, Val};

const SIGNS_64: u64 = 1 << 63;

impl Lower<'_> {
    pub(super) fn emit_arith(&mut self, i: &Inst) -> bool {
        match i.op {
            Op::VMul => self.emit_vec_mul(i),
            Op::VSel => self.emit_sel(i),
            Op::VNeg | Op::VAbs => self.emit_negate(i),
            Op::VCmpGtU => self.emit_greater_unsigned(i),
            Op::VMinS | Op::VMinU | Op::VMaxS | Op::VMaxU => self.emit_extremum_64(i),
            Op::VAddSatU | Op::VSubSatU => self.emit_saturate_unsigned(i),
            Op::VAddSatS | Op::VSubSatS => self.emit_saturate_signed(i),
            Op::VAvgU => self.emit_average(i),
            Op::VPopcnt => self.emit_popcnt(i),
            Op::VMulWideS | Op::VMulWideU => self.emit_mul_wide(i),
            Op::VPairAdd => self.emit_pair_add(i),
            _ => false,
        }
    }

    fn emit_vec_mul(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let lane = i.aux;
        if lane == 1 || lane == 2 {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let (t, u) = (self.vec_temp(), self.vec_temp());
        if lane == 0 {
            self.vshift(PsrlwI, t, a, 8);
            self.vshift(PsrlwI, u, b, 8);
            self.v3(Pmullw, t, t, u);
            self.vshift(PsllwI, t, t, 8);
            self.v3(Pmullw, d, a, b);
            self.vk(Pand, d, d, splat(1, 0xff));
            self.v3(Por, d, d, t);
        } else {
            self.vshift(PsrlqI, t, a, 32);
            self.v3(Pmuludq, t, t, b);
            self.vshift(PsrlqI, u, b, 32);
            self.v3(Pmuludq, u, u, a);
            self.v3(Paddq, t, t, u);
            self.vshift(PsllqI, t, t, 32);
            self.v3(Pmuludq, d, a, b);
            self.v3(Paddq, d, d, t);
        }
        self.done(d)
    }

    fn emit_sel(&mut self, i: &Inst) -> bool {
        let (a, b, d) = self.operands(i);
        let c = self.vec(Val(i.c));
        let t = self.vec_temp();
        self.v3(VecOp::Pand, t, a, b);
        self.v3(VecOp::Pandn, d, a, c);
        self.v3(VecOp::Por, d, d, t);
        self.done(d)
    }

    /// Negation, and the absolute value of 64-bit lanes.
    fn emit_negate(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        if i.op == Op::VAbs && i.aux != 3 {
            return false;
        }
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        if i.op == Op::VNeg {
            self.load_vec_constant(d, 0);
            self.v3([Psubb, Psubw, Psubd, Psubq][i.aux as usize & 3], d, d, a);
        } else {
            let t = self.vec_temp();
            self.sign_mask_64(t, a);
            self.v3(Pxor, d, a, t);
            self.v3(Psubq, d, d, t);
        }
        self.done(d)
    }

    /// d = all ones where a > b as unsigned lanes: as signed ones with the sign inverted.
    fn greater_unsigned(&mut self, lane: u8, d: Xmm, a: Xmm, b: Xmm) {
        use VecOp::*;
        let signs = splat(lane, 0x80 << ((8 << lane) - 8));
        let t = self.vec_temp();
        self.vk(Pxor, t, b, signs);
        self.vk(Pxor, d, a, signs);
        self.v3([Pcmpgtb, Pcmpgtw, Pcmpgtd, Pcmpgtq][lane as usize & 3], d, d, t);
        self.vec_unlock(t);
    }

    fn emit_greater_unsigned(&mut self, i: &Inst) -> bool {
        if i.aux == 3 && !self.have(&[VecOp::Pcmpgtq]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        self.greater_unsigned(i.aux, d, a, b);
        self.done(d)
    }

    fn emit_extremum_64(&mut self, i: &Inst) -> bool {
        if i.aux != 3 || !self.have(&[VecOp::Pcmpgtq, VecOp::Vblendvpd]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        if matches!(i.op, Op::VMinS | Op::VMaxS) {
            self.v3(VecOp::Pcmpgtq, d, a, b);
        } else {
            self.greater_unsigned(3, d, a, b);
        }
        let (if_greater, else_) = if matches!(i.op, Op::VMaxS | Op::VMaxU) { (a, b) } else { (b, a) };
        self.asm.vex_blend(VecOp::Vblendvpd, d, else_, if_greater, d);
        self.done(d)
    }

    /// 32 and 64 bits.
    fn emit_saturate_unsigned(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let add = i.op == Op::VAddSatU;
        if i.aux < 2 || !self.have(if i.aux == 2 { &[Pminud] } else { &[Pcmpgtq] }) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        match (i.aux, add) {
            (2, true) => {
                // b added to at most MAX - b.
                self.load_vec_constant(d, u128::MAX);
                self.v3(Pxor, d, d, b);
                self.v3(Pminud, d, d, a);
                self.v3(Paddd, d, d, b);
            }
            (2, false) => {
                self.v3(Pmaxud, d, a, b);
                self.v3(Psubd, d, d, b);
            }
            (_, true) => {
                let (sum, over) = (self.vec_temp(), self.vec_temp());
                self.v3(Paddq, sum, a, b);
                self.greater_unsigned(3, over, a, sum);
                self.v3(Por, d, sum, over);
            }
            (_, false) => {
                let (difference, under) = (self.vec_temp(), self.vec_temp());
                self.v3(Psubq, difference, a, b);
                self.greater_unsigned(3, under, b, a);
                self.v3(Pandn, d, under, difference);
            }
        }
        self.done(d)
    }

    /// 32 and 64 bits: overflow is in the sign of (a ^ r) & (b ^ r), for a difference of (a ^ r) & (a ^ b).
    fn emit_saturate_signed(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        if i.aux < 2 || !self.have(&[Vblendvps]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let (r, limit) = (self.vec_temp(), self.vec_temp());
        let wide = i.aux == 3;
        if i.op == Op::VAddSatS {
            self.v3(if wide { Paddq } else { Paddd }, r, a, b);
            self.v3(Pxor, d, b, r);
        } else {
            self.v3(if wide { Psubq } else { Psubd }, r, a, b);
            self.v3(Pxor, d, a, b);
        }
        self.v3(Pxor, limit, a, r);
        self.v3(Pand, d, d, limit);
        if wide {
            self.sign_mask_64(limit, a);
            self.vk(Pxor, limit, limit, splat(3, !SIGNS_64));
        } else {
            self.vshift(PsradI, limit, a, 31);
            self.vk(Pxor, limit, limit, splat(2, 0x7fff_ffff));
        }
        self.asm.vex_blend(if wide { Vblendvpd } else { Vblendvps }, d, r, limit, d);
        self.done(d)
    }

    /// 32 and 64 bits: (a | b) - ((a ^ b) >> 1).
    fn emit_average(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let (a, b, d) = self.operands(i);
        let t = self.vec_temp();
        let wide = i.aux == 3;
        self.v3(Pxor, t, a, b);
        self.vshift(if wide { PsrlqI } else { PsrldI }, t, t, 1);
        self.v3(Por, d, a, b);
        self.v3(if wide { Psubq } else { Psubd }, d, d, t);
        self.done(d)
    }

    /// Two look-ups of four bits.
    fn emit_popcnt(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        if !self.have(&[Pshufb]) {
            return false;
        }
        let a = self.vec(Val(i.a));
        let (d, t, u) = (self.vec_temp(), self.vec_temp(), self.vec_temp());
        let counts = u128::from_le_bytes(std::array::from_fn(|n| n.count_ones() as u8));
        let nibbles = splat(0, 15);
        self.load_vec_constant(d, counts);
        self.v2(Movaps, t, d);
        self.vk(Pand, u, a, nibbles);
        self.v3(Pshufb, d, d, u);
        self.vshift(PsrlwI, u, a, 4);
        self.vk(Pand, u, u, nibbles);
        self.v3(Pshufb, t, t, u);
        self.v3(Paddb, d, d, t);
        self.done(d)
    }

    fn emit_mul_wide(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let signed = i.op == Op::VMulWideS;
        if i.aux > 2 || !self.have(&[Pmovsxbw, Pmuldq]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let t = self.vec_temp();
        match i.aux {
            0 => {
                let widen = if signed { Pmovsxbw } else { Pmovzxbw };
                self.v2(widen, d, a);
                self.v2(widen, t, b);
                self.v3(Pmullw, d, d, t);
            }
            1 => {
                self.v3(if signed { Pmulhw } else { Pmulhuw }, t, a, b);
                self.v3(Pmullw, d, a, b);
                self.v3(Punpcklwd, d, d, t);
            }
            _ => {
                self.shuffle(Pshufd, d, a, 0x10);
                self.shuffle(Pshufd, t, b, 0x10);
                self.v3(if signed { Pmuldq } else { Pmuludq }, d, d, t);
            }
        }
        self.done(d)
    }

    /// 8 and 64 bits.
    fn emit_pair_add(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let (a, b, d) = self.operands(i);
        let t = self.vec_temp();
        if i.aux == 3 {
            self.v3(Punpcklqdq, d, a, b);
            self.v3(Punpckhqdq, t, a, b);
            self.v3(Paddq, d, d, t);
            return self.done(d);
        }
        if i.aux != 0 {
            return false;
        }
        let low = splat(1, 0xff);
        self.vshift(PsrlwI, d, a, 8);
        self.v3(Paddw, d, d, a);
        self.vk(Pand, d, d, low);
        self.vshift(PsrlwI, t, b, 8);
        self.v3(Paddw, t, t, b);
        self.vk(Pand, t, t, low);
        self.v3(Packuswb, d, d, t);
        self.done(d)
    }
}
