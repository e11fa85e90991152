//! Operations that move lanes: permutations, table look-up, narrowing.

use super::splat;
use crate::alloc::Lower;
use crate::asm::VecOp;
use ir::{Inst, Op, Val};

impl Lower<'_> {
    pub(super) fn emit_permute(&mut self, i: &Inst) -> bool {
        match i.op {
            Op::VDupLane | Op::VRev | Op::VNarrow => self.emit_byte_shuffle(i),
            Op::VUzp1 | Op::VUzp2 => self.emit_unzip(i),
            Op::VTrn1 | Op::VTrn2 => self.emit_transpose(i),
            Op::VExt => self.emit_ext(i),
            Op::VTbl => self.emit_table(i),
            Op::VHigh => {
                let a = self.vec(Val(i.a));
                let d = self.vec_temp();
                self.vshift(VecOp::Psrldq, d, a, 8);
                self.done(d)
            }
            Op::VNarrowSS | Op::VNarrowSU | Op::VNarrowUU if i.aux == 3 => self.emit_narrow_64(i),
            Op::VNarrowSS | Op::VNarrowSU | Op::VNarrowUU if i.aux > 0 => self.emit_narrow(i),
            _ => false,
        }
    }

    /// Permutations of one vector's bytes that are known now.
    fn emit_byte_shuffle(&mut self, i: &Inst) -> bool {
        let lane = i.aux as u32 & 3;
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        if i.op == Op::VDupLane && lane >= 2 {
            let index = i.b as u8 & (15 >> lane);
            let imm = if lane == 2 { index * 0b0101_0101 } else { [0x44, 0xee][index as usize] };
            self.shuffle(VecOp::Pshufd, d, a, imm);
            return self.done(d);
        }
        if !self.have(&[VecOp::Pshufb]) {
            return false;
        }
        let from = |n: u32| match i.op {
            Op::VDupLane => ((i.b & (15 >> lane)) << lane) + (n & ((1 << lane) - 1)),
            // Lanes reversed within a group: their numbers there are complemented.
            Op::VRev => n ^ ((1 << i.b) - 1) & !((1 << lane) - 1),
            // Half lanes: 0x80 gives a zero byte.
            _ if n >= 8 => 0x80,
            _ => {
                let half = lane.max(1) - 1;
                (n >> half << lane) + (n & ((1 << half) - 1))
            }
        };
        let control = u128::from_le_bytes(std::array::from_fn(|n| from(n as u32) as u8));
        self.vk(VecOp::Pshufb, d, a, control);
        self.done(d)
    }

    fn emit_unzip(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let odd = i.op == Op::VUzp2;
        if i.aux == 1 && !self.have(&[Packusdw]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let t = self.vec_temp();
        match (i.aux, odd) {
            (0, false) => {
                self.vk(Pand, d, a, splat(1, 0xff));
                self.vk(Pand, t, b, splat(1, 0xff));
                self.v3(Packuswb, d, d, t);
            }
            (0, true) => {
                self.vshift(PsrlwI, d, a, 8);
                self.vshift(PsrlwI, t, b, 8);
                self.v3(Packuswb, d, d, t);
            }
            (1, false) => {
                self.vk(Pand, d, a, splat(2, 0xffff));
                self.vk(Pand, t, b, splat(2, 0xffff));
                self.v3(Packusdw, d, d, t);
            }
            (1, true) => {
                self.vshift(PsrldI, d, a, 16);
                self.vshift(PsrldI, t, b, 16);
                self.v3(Packusdw, d, d, t);
            }
            _ => self.v3i(Shufps, d, a, b, if odd { 0xdd } else { 0x88 }),
        }
        self.done(d)
    }

    fn emit_transpose(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let odd = i.op == Op::VTrn2;
        if i.aux != 0 && !self.have(&[Pblendw]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let t = self.vec_temp();
        match (i.aux, odd) {
            (0, false) => {
                self.vshift(PsllwI, t, b, 8);
                self.vk(Pand, d, a, splat(1, 0xff));
                self.v3(Por, d, d, t);
            }
            (0, true) => {
                self.vshift(PsrlwI, t, a, 8);
                self.vk(Pand, d, b, splat(1, 0xff00));
                self.v3(Por, d, d, t);
            }
            (l, false) => {
                self.vshift(if l == 1 { PslldI } else { PsllqI }, t, b, 8 << l);
                self.v3i(Pblendw, d, a, t, if l == 1 { 0xaa } else { 0xcc });
            }
            (l, true) => {
                self.vshift(if l == 1 { PsrldI } else { PsrlqI }, t, a, 8 << l);
                self.v3i(Pblendw, d, t, b, if l == 1 { 0xaa } else { 0xcc });
            }
        }
        self.done(d)
    }

    fn emit_ext(&mut self, i: &Inst) -> bool {
        if !self.have(&[VecOp::Palignr]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        self.v3i(VecOp::Palignr, d, b, a, i.c as u8 & 15);
        self.done(d)
    }

    /// PSHUFB gives 0 for an index with bit 7: adding 0x70 with saturation sets that bit for 16 and up.
    fn emit_table(&mut self, i: &Inst) -> bool {
        if !self.have(&[VecOp::Pshufb]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let t = self.vec_temp();
        self.vk(VecOp::Paddusb, t, b, splat(0, 0x70));
        self.v3(VecOp::Pshufb, d, a, t);
        self.done(d)
    }

    /// Saturating, from 16 and 32 bits.
    fn emit_narrow(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let wide = i.aux == 2;
        let pack = match (i.op, wide) {
            (Op::VNarrowSS, false) => Packsswb,
            (Op::VNarrowSS, true) => Packssdw,
            (_, false) => Packuswb,
            (_, true) => Packusdw,
        };
        if !self.have(&[pack, Pminuw]) {
            return false;
        }
        let a = self.vec(Val(i.a));
        let (d, zero) = (self.vec_temp(), self.vec_constant(0));
        if i.op == Op::VNarrowUU {
            // The pack instructions take their source as signed.
            let (min, limit) = if wide { (Pminud, splat(2, 0xffff)) } else { (Pminuw, splat(1, 0xff)) };
            self.vk(min, d, a, limit);
            self.v3(pack, d, d, zero);
        } else {
            self.v3(pack, d, a, zero);
        }
        self.done(d)
    }

    /// Saturating, from 64 to 32 bits.
    fn emit_narrow_64(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        if !self.have(&[Pcmpgtq, Vblendvpd]) {
            return false;
        }
        let a = self.vec(Val(i.a));
        let (d, t) = (self.vec_temp(), self.vec_temp());
        if i.op == Op::VNarrowUU {
            let zero = self.vec_constant(0);
            self.shuffle(Pshufd, t, a, 0x0d);
            self.v3(Pcmpeqd, t, t, zero);
            self.vk(Pxor, t, t, u128::MAX);
            self.shuffle(Pshufd, d, a, 0x08);
            self.v3(Por, d, d, t);
        } else {
            let (low, high) = match i.op {
                Op::VNarrowSS => (i32::MIN as i64, i32::MAX as i64),
                _ => (0, u32::MAX as i64),
            };
            let limit = self.vec_constant(splat(3, high as u64));
            self.v3(Pcmpgtq, t, a, limit);
            self.asm.vex_blend(Vblendvpd, d, a, limit, t);
            self.load_vec_constant(limit, splat(3, low as u64));
            self.v3(Pcmpgtq, t, limit, d);
            self.asm.vex_blend(Vblendvpd, d, d, limit, t);
            self.shuffle(Pshufd, d, d, 0x08);
        }
        self.v2(Movq, d, d);
        self.done(d)
    }
}
