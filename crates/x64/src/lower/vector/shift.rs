//! Shifts by an immediate and by signed counts per lane.

use super::splat;
use crate::alloc::Lower;
use crate::asm::{VecOp, Xmm};
use ir::{Inst, Op, Val};

impl Lower<'_> {
    pub(super) fn emit_vec_shift(&mut self, i: &Inst) -> bool {
        match i.op {
            Op::VShlI | Op::VShrI | Op::VSarI => self.emit_shift_immediate(i),
            Op::VShlU | Op::VShlS if i.aux >= 2 => self.emit_shift_wide(i),
            Op::VShlU | Op::VShlS if i.aux == 1 => self.emit_shift_16(i),
            Op::VShlU | Op::VShlS => self.emit_shift_8(i),
            _ => false,
        }
    }

    fn emit_shift_immediate(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        let (lane, bits) = (i.aux as usize & 3, 8u32 << (i.aux & 3));
        let arithmetic = i.op == Op::VSarI;
        if arithmetic && lane == 3 && !self.have(&[Pblendw]) {
            return false;
        }
        let n = if arithmetic { i.b.min(bits - 1) } else { i.b.min(bits) } as u8;
        let a = self.vec(Val(i.a));
        let d = self.vec_temp();
        // Bytes are shifted in words; what came from the other byte is masked off.
        match (i.op, lane) {
            _ if n as u32 == bits => self.load_vec_constant(d, 0),
            (Op::VShlI, 0) => {
                self.vshift(PsllwI, d, a, n);
                self.vk(Pand, d, d, splat(0, 0xff << n));
            }
            (Op::VShrI, 0) => {
                self.vshift(PsrlwI, d, a, n);
                self.vk(Pand, d, d, splat(0, 0xff >> n));
            }
            (_, 0) => {
                self.vshift(PsrlwI, d, a, n);
                self.vk(Pand, d, d, splat(0, 0xff >> n));
                let sign = splat(0, 0x80 >> n);
                self.vk(Pxor, d, d, sign);
                self.vk(Psubb, d, d, sign);
            }
            (Op::VShlI, _) => self.vshift([PsllwI, PsllwI, PslldI, PsllqI][lane], d, a, n),
            (Op::VShrI, _) => self.vshift([PsrlwI, PsrlwI, PsrldI, PsrlqI][lane], d, a, n),
            (_, 3) => self.shift_right_64(d, a, n),
            _ => self.vshift([PsrawI, PsrawI, PsradI, PsradI][lane], d, a, n),
        }
        self.done(d)
    }

    /// Arithmetic shift of 64-bit lanes, put together from doublewords.
    fn shift_right_64(&mut self, d: Xmm, a: Xmm, n: u8) {
        let high = self.vec_temp();
        if n < 32 {
            self.vshift(VecOp::PsrlqI, d, a, n);
            self.vshift(VecOp::PsradI, high, a, n);
        } else {
            self.vshift(VecOp::PsradI, d, a, n - 32);
            self.shuffle(VecOp::Pshufd, d, d, 0xf5);
            self.vshift(VecOp::PsradI, high, a, 31);
        }
        self.v3i(VecOp::Pblendw, d, d, high, 0xcc);
    }

    /// Sign of each 64-bit lane as a mask.
    pub(super) fn sign_mask_64(&mut self, d: Xmm, a: Xmm) {
        self.vshift(VecOp::PsradI, d, a, 31);
        self.shuffle(VecOp::Pshufd, d, d, 0xf5);
    }

    /// Lanes of 32 and 64 bits. A count beyond the width gives 0 in the processor's shifts too, and so does a negative one,
    /// taken as unsigned: the sum of both directions is the result.
    fn emit_shift_wide(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        if !self.have(&[Vpsllvd]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let (left, right, back) = (self.vec_temp(), self.vec_temp(), self.vec_temp());
        self.vshift(PslldI, left, b, 24);
        self.vshift(PsradI, left, left, 24);
        self.load_vec_constant(right, 0);
        self.v3(Psubd, right, right, left);
        if i.aux == 2 {
            self.shift_both_ways(d, a, left, right, back, i.op == Op::VShlS);
            return self.done(d);
        }
        let low = splat(3, 0xffff_ffff);
        self.vk(Pand, left, left, low);
        self.vk(Pand, right, right, low);
        self.v3(Vpsllvq, left, a, left);
        if i.op == Op::VShlU {
            self.v3(Vpsrlvq, right, a, right);
            self.v3(Por, d, left, right);
            return self.done(d);
        }
        self.sign_mask_64(back, a);
        self.v3(Pxor, d, a, back);
        self.v3(Vpsrlvq, d, d, right);
        self.v3(Pxor, d, d, back);
        self.vshift(PsllqI, back, b, 56);
        self.asm.vex_blend(Vblendvpd, d, left, d, back);
        self.done(d)
    }

    /// 32-bit lanes: d = a << left, or a >> right where `left` is negative. Destroys `left`, `right` and `spare`.
    fn shift_both_ways(&mut self, d: Xmm, a: Xmm, left: Xmm, right: Xmm, spare: Xmm, arithmetic: bool) {
        use VecOp::*;
        if arithmetic {
            self.v3(Vpsllvd, spare, a, left);
            self.v3(Vpsravd, right, a, right);
            self.asm.vex_blend(Vblendvps, d, spare, right, left);
        } else {
            self.v3(Vpsllvd, spare, a, left);
            self.v3(Vpsrlvd, right, a, right);
            self.v3(Por, d, spare, right);
        }
    }

    /// 16-bit lanes: the even and the odd ones as 32-bit lanes.
    fn emit_shift_16(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        if !self.have(&[Vpsllvd]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let arithmetic = i.op == Op::VShlS;
        let (left, right, spare, lane) = (self.vec_temp(), self.vec_temp(), self.vec_temp(), self.vec_temp());
        // Even lanes.
        self.vshift(PslldI, left, b, 24);
        self.vshift(PsradI, left, left, 24);
        self.load_vec_constant(right, 0);
        self.v3(Psubd, right, right, left);
        self.vshift(PslldI, lane, a, 16);
        self.vshift(if arithmetic { PsradI } else { PsrldI }, lane, lane, 16);
        self.shift_both_ways(d, lane, left, right, spare, arithmetic);
        // Odd lanes: their count is the low byte of the high word.
        self.vshift(PslldI, left, b, 8);
        self.vshift(PsradI, left, left, 24);
        self.load_vec_constant(right, 0);
        self.v3(Psubd, right, right, left);
        self.vshift(if arithmetic { PsradI } else { PsrldI }, lane, a, 16);
        self.shift_both_ways(lane, lane, left, right, spare, arithmetic);
        self.vshift(PslldI, lane, lane, 16);
        self.v3i(Pblendw, d, d, lane, 0xaa);
        self.done(d)
    }

    /// 8-bit lanes, as products with powers of two that are looked up: the low byte of a * 2^n is the shift to the left, the
    /// high byte of a * 2^(8-n) the one to the right. A count that means the other direction, or too much, finds a zero.
    fn emit_shift_8(&mut self, i: &Inst) -> bool {
        use VecOp::*;
        if !self.have(&[Pshufb, Pmaxsb]) {
            return false;
        }
        let (a, b, d) = self.operands(i);
        let arithmetic = i.op == Op::VShlS;
        let left_powers = u128::from_le_bytes(std::array::from_fn(|n| if n < 8 { 1 << n } else { 0 }));
        let right_powers = u128::from_le_bytes(std::array::from_fn(|n| if (1..=8).contains(&n) { 0x100 >> n } else { 0 } as u8));
        let (left, right) = (self.vec_constant(left_powers), self.vec_constant(right_powers));
        let (t, lane) = (self.vec_temp(), self.vec_temp());
        // Indices of 16 and more get bit 7, for which PSHUFB gives 0.
        self.vk(Paddusb, t, b, splat(0, 0x70));
        self.v3(Pshufb, left, left, t);
        self.load_vec_constant(t, 0);
        if arithmetic {
            // Beyond the width only the sign is left, as with a shift by 8.
            self.vk(Pmaxsb, lane, b, splat(0, 0xf8));
            self.v3(Psubb, t, t, lane);
        } else {
            self.v3(Psubb, t, t, b);
        }
        self.vk(Paddusb, t, t, splat(0, 0x70));
        self.v3(Pshufb, right, right, t);
        let extend = if arithmetic { PsrawI } else { PsrlwI };
        // Even bytes.
        self.vk(Pand, t, left, splat(1, 0xff));
        self.v3(Pmullw, d, a, t);
        self.vk(Pand, d, d, splat(1, 0xff));
        self.vk(Pand, t, right, splat(1, 0xff));
        self.vshift(PsllwI, lane, a, 8);
        self.vshift(extend, lane, lane, 8);
        self.v3(Pmullw, t, t, lane);
        self.vshift(PsrlwI, t, t, 8);
        self.v3(Por, d, d, t);
        // Odd bytes.
        self.vshift(extend, lane, a, 8);
        self.vshift(PsrlwI, left, left, 8);
        self.v3(Pmullw, left, left, lane);
        self.vshift(PsllwI, left, left, 8);
        self.v3(Por, d, d, left);
        self.vshift(PsrlwI, right, right, 8);
        self.v3(Pmullw, right, right, lane);
        self.vk(Pand, right, right, splat(1, 0xff00));
        self.v3(Por, d, d, right);
        self.done(d)
    }
}
